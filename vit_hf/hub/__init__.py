# SPDX-License-Identifier: Apache-2.0
"""Leaving the house: folders that anyone opens, their model cards, and the way to the Hub."""

from .card import render_card
from .export import export_checkpoint
from .push import PushAccount, PushError, push, push_or_keep

__all__ = [
    "PushAccount",
    "PushError",
    "export_checkpoint",
    "push",
    "push_or_keep",
    "render_card",
]
