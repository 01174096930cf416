# SPDX-License-Identifier: Apache-2.0
"""How fast: measured against every peer in turns, and against the machine's own limit.

`running.run_benchmark` takes an object of `options`; `report.lines_of` tells what was found.
Nothing is imported here: a contender's process has in its memory what it needs and no more.
"""
