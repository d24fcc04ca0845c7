"""Callbacks that come with the core."""

from __future__ import annotations

from graftwork.callbacks.progress import ProgressDisplay
from graftwork.callbacks.recorder import Recorder

__all__ = ["ProgressDisplay", "Recorder"]
