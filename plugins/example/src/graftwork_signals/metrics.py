"""The metric: agreement beyond chance."""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor

from graftwork.api import DataError, Metric, metric_factory

__all__ = ["kappa"]


class _Kappa(Metric):
    """Count what was said and what is so in a matrix; it merges by adding, and waits for nothing until `compute`."""

    name = "kappa"
    higher_is_better = True

    def __init__(self) -> None:
        self._counts: Tensor | None = None

    def update(self, predicted: Tensor, target: Tensor) -> None:
        """Count a batch: probabilities (B, C) against codes (B,)."""
        classes = predicted.shape[1]
        pairs = target * classes + predicted.argmax(1)
        counts = torch.bincount(pairs, minlength=classes * classes).reshape(classes, classes)
        self._counts = counts if self._counts is None else self._counts + counts

    def merge(self, other: Self) -> None:
        """Add the other's counts."""
        if other._counts is not None:
            counts = other._counts
            self._counts = counts if self._counts is None else self._counts + counts.to(self._counts.device)

    def compute(self) -> float:
        """Return kappa: 1 for complete agreement, 0 for chance, NaN where there is only one class."""
        if self._counts is None:
            raise DataError("kappa has seen no predictions; call update first")
        shares = self._counts.double() / self._counts.sum()
        agreed, chance = float(shares.trace()), float((shares.sum(0) * shares.sum(1)).sum())
        return math.nan if chance == 1 else (agreed - chance) / (1 - chance)

    def reset(self) -> None:
        """Forget the counts."""
        self._counts = None

    def to(self, device: torch.device | str) -> None:
        """Move the counts."""
        self._counts = None if self._counts is None else self._counts.to(device)


@metric_factory
def kappa() -> Metric:
    """Measure Cohen's kappa: the share of right classes, less what the two distributions agree on by chance."""
    return _Kappa()
