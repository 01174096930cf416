# SPDX-License-Identifier: Apache-2.0
"""Assembly: the one room that knows all others, and puts them together to experiments.

One file for each: `quickstart`, `pretraining`, `finetuning`, `evaluating`, `sweep`. Each takes the
dataclasses of `arguments`, runs, and leaves a folder with a checkpoint, its card and its results.
"""
