# SPDX-License-Identifier: Apache-2.0
"""Leaving the house: folders that anyone opens, and their model cards."""

from .card import render_card
from .export import export_checkpoint

__all__ = ["export_checkpoint", "render_card"]
