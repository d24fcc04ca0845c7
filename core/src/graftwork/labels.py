"""Labels: single strings and numbers that name a class."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from graftwork.errors import OptionError

__all__ = ["Label", "check_label", "check_vocab", "plain"]

Label: TypeAlias = str | int | float | bool


def plain(value: Any) -> Any:
    """Return a numpy scalar as the Python value it stands for."""
    return value.item() if isinstance(value, np.generic) else value


def check_label(value: Any) -> str | None:
    """Return why `value` is no label, or None."""
    value = plain(value)
    if value is None or (isinstance(value, float) and value != value):
        return "the label is missing"
    if not isinstance(value, str | int | float | bool):
        return f"a label is a string or a number, not {type(value).__name__}"
    return None


def check_vocab(vocab: tuple[Label, ...] | None, owner: str) -> None:
    """Refuse a vocabulary that names a class twice; raise OptionError."""
    if vocab is not None and len(set(vocab)) != len(vocab):
        raise OptionError(f"{owner}: the vocabulary names a class twice: {vocab}")
