"""Labels: single strings and numbers that name a class, and the thresholds from which a class counts as predicted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias, cast

import numpy as np

from graftwork.errors import OptionError

__all__ = [
    "Label",
    "NamedThresholds",
    "check_label",
    "check_thresholds",
    "check_vocab",
    "named_thresholds",
    "placed_thresholds",
    "plain",
]

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


NamedThresholds: TypeAlias = tuple[tuple[Label, float], ...]
"""Thresholds of some classes by their labels, before their places in the vocabulary are known."""


def placed_thresholds(
    threshold: float | tuple[float, ...] | NamedThresholds, vocab: Sequence[Label], owner: str
) -> float | tuple[float, ...]:
    """Return one threshold for all, or one for each class; of those that name some, the others get 0.5.

    Raises:
        OptionError: naming a label that is no class.
    """
    given = dict(named_thresholds(threshold))
    if not given:
        return cast("float | tuple[float, ...]", threshold)
    for label in given:
        if label not in vocab:
            classes = ", ".join(map(repr, vocab[:12])) + (", …" if len(vocab) > 12 else "")
            raise OptionError(
                f"{owner}: threshold names {label!r}, which is none of the {len(vocab)} classes: {classes}"
            )
    return tuple(given.get(label, 0.5) for label in vocab)


def named_thresholds(threshold: float | tuple[float, ...] | NamedThresholds) -> NamedThresholds:
    """Return the pairs of a label and a number that a threshold consists of; none if it is numbers."""
    if not isinstance(threshold, tuple):
        return ()
    return tuple(pair for pair in threshold if isinstance(pair, tuple))


def check_thresholds(threshold: float | tuple[float, ...], vocab: tuple[Label, ...] | None, owner: str) -> None:
    """Refuse thresholds not between 0 and 1, and as many as there are no classes; raise OptionError."""
    each = threshold if isinstance(threshold, tuple) else (threshold,)
    if not all(0 < number < 1 for number in each):
        raise OptionError(f"{owner}: threshold={threshold} is not between 0 and 1")
    if isinstance(threshold, tuple) and len(threshold) != len(vocab or ()):
        raise OptionError(f"{owner}: {len(threshold)} thresholds for a vocabulary of {len(vocab or ())}; give it too")
