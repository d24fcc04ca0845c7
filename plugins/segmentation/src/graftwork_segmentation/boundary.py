"""How well predicted outlines follow actual ones: F1 of their pixels within a tolerance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from graftwork.api import DataError, Metric, OptionError, metric_factory

__all__ = ["BoundaryMetric", "boundary_f"]


class BoundaryMetric(Metric):
    """Count, for each class, the outline pixels that have one of the other outline near (Csurka et al., 2013).

    Near is at most `tolerance` pixels in rows and in columns; None is 0.75 % of a picture's diagonal, at least 1.
    """

    name = "boundary_f"
    higher_is_better = True

    def __init__(self, tolerance: int | None = None) -> None:
        """Refuse a negative tolerance."""
        if tolerance is not None and tolerance < 0:
            raise OptionError(f"tolerance={tolerance} pixels must not be negative")
        self.tolerance = tolerance
        self._counts: Tensor | None = None

    def update(self, predicted: Tensor, target: Tensor) -> None:
        """Add up a batch, class by class to save memory."""
        known = target >= 0
        codes = torch.where(known, predicted.argmax(1), -1)
        near = _tolerance(target.shape[-2:]) if self.tolerance is None else self.tolerance
        counts = torch.stack([_matches(codes == c, target == c, known, near) for c in range(predicted.shape[1])])
        self._add(counts)

    def _add(self, counts: Tensor) -> None:
        self._counts = counts if self._counts is None else self._counts + counts.to(self._counts.device)

    def merge(self, other: Self) -> None:
        """Add the other's counts."""
        if other._counts is not None:
            self._add(other._counts)

    def compute(self) -> float:
        """Return the mean of F1 over the classes that have an outline, NaN if none has."""
        if self._counts is None:
            raise DataError(f"metric {self.name!r} has seen no batch; call update(predicted, target) before compute()")
        claimed_near, claimed, actual_near, actual = self._counts.double().cpu().unbind(1)
        precision, recall = claimed_near / claimed.clamp(min=1), actual_near / actual.clamp(min=1)
        scores = (2 * precision * recall / (precision + recall).clamp(min=1e-12))[claimed + actual > 0]
        return float(scores.mean()) if len(scores) else math.nan

    def reset(self) -> None:
        """Forget the counts."""
        self._counts = None

    def to(self, device: torch.device | str) -> None:
        """Move the counts."""
        self._counts = None if self._counts is None else self._counts.to(device)

    def state_dict(self) -> dict[str, Any]:
        """Return the counts."""
        return {} if self._counts is None else {"counts": self._counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take counts."""
        self._counts = state.get("counts")


def _tolerance(size: torch.Size) -> int:
    return max(1, math.ceil(0.0075 * math.hypot(*size)))


def _matches(predicted: Tensor, actual: Tensor, known: Tensor, near: int) -> Tensor:
    """Count predicted outline pixels that are near the actual outline, all of them, and the other way round, (4,)."""
    ours, theirs = _outline(predicted, known), _outline(actual, known)
    counts = [ours & _grown(theirs, near), ours, theirs & _grown(ours, near), theirs]
    return torch.stack([count.sum() for count in counts])


def _outline(region: Tensor, known: Tensor) -> Tensor:
    """Return the pixels of a region with a pixel beside them that is known to be of another."""
    others = (known & ~region).float()[:, None]
    return region & (F.max_pool2d(others, 3, 1, 1)[:, 0] > 0)


def _grown(region: Tensor, by: int) -> Tensor:
    return F.max_pool2d(region.float()[:, None], 2 * by + 1, 1, by)[:, 0] > 0


@metric_factory
def boundary_f(tolerance: int | None = None) -> Metric:
    """Measure F1 of outline pixels within a tolerance, over all pictures seen, as a mean over classes."""
    return BoundaryMetric(tolerance)
