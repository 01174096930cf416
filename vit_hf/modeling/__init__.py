# SPDX-License-Identifier: Apache-2.0
"""The suitcase: files that travel with every exported checkpoint and run without this package."""
