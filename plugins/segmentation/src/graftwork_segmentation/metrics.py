"""Metrics of pixels, from one table of counts on the device; pixels whose class is below 0 count for nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor

from graftwork.api import DataError, Metric, OptionError, metric_factory

__all__ = [
    "ConfusionMetric",
    "Counts",
    "class_dice",
    "class_iou",
    "confusion",
    "foreground_accuracy",
    "mean_dice",
    "mean_iou",
    "pixel_accuracy",
]


def confusion(predicted: Tensor, target: Tensor) -> Tensor:
    """Count pixels, int64 (C, C): rows are actual classes, columns predicted ones; nothing waits for the device."""
    size = predicted.shape[1]
    if predicted.ndim != target.ndim + 1 or predicted.shape[:1] + predicted.shape[2:] != target.shape:
        raise DataError(
            f"metrics of pixels compare probabilities (B, classes, H, W) with classes (B, H, W); found "
            f"{tuple(predicted.shape)} and {tuple(target.shape)}"
        )
    cells = torch.where(target >= 0, target * size + predicted.argmax(1), size * size).flatten()
    # torch.bincount would ask a GPU for the largest cell.
    counts = torch.zeros(size * size + 1, dtype=torch.int64, device=cells.device)
    return counts.scatter_add_(0, cells, torch.ones_like(cells))[: size * size].view(size, size)


class Counts:
    """Read figures off a table of counts, (C, C): rows are actual, columns predicted. A class nobody has is NaN."""

    def __init__(self, table: Tensor) -> None:
        """Sum up; everything is float64, on the CPU."""
        table = table.double().cpu()
        self.right, self.actual, self.claimed = table.diagonal(), table.sum(1), table.sum(0)

    @property
    def iou(self) -> Tensor:
        """Intersection over union of every class."""
        return self.right / (self.actual + self.claimed - self.right)

    @property
    def dice(self) -> Tensor:
        """Twice the intersection over the sum, of every class."""
        return 2 * self.right / (self.actual + self.claimed)

    @property
    def accuracy(self) -> float:
        """The share of the pixels that are right."""
        return float(self.right.sum() / self.actual.sum())

    @property
    def foreground(self) -> float:
        """The share that is right of the pixels that are not of class 0."""
        return float(self.right[1:].sum() / self.actual[1:].sum())


class ConfusionMetric(Metric):
    """Count predicted against actual classes, and read one figure off the table."""

    higher_is_better = True

    def __init__(self, read: Callable[[Counts], float], *, name: str) -> None:
        """Say what to read."""
        self.name, self._read = name, read
        self._table: Tensor | None = None

    def update(self, predicted: Tensor, target: Tensor) -> None:
        """Count a batch."""
        self._add(confusion(predicted.detach(), target))

    def _add(self, table: Tensor) -> None:
        if self._table is not None and self._table.shape != table.shape:
            raise DataError(
                f"metric {self.name!r} has seen predictions of {len(self._table)} classes and now of {len(table)}; "
                "call reset() between two models"
            )
        # Not in place: the table may have been made in inference mode.
        self._table = table if self._table is None else self._table + table.to(self._table.device)

    def merge(self, other: Self) -> None:
        """Add the other's counts."""
        if other._table is not None:
            self._add(other._table)

    def compute(self) -> float:
        """Read the figure; NaN where no pixel has it."""
        if self._table is None:
            raise DataError(f"metric {self.name!r} has seen no batch; call update(predicted, target) before compute()")
        return self._read(Counts(self._table))

    def reset(self) -> None:
        """Forget the counts."""
        self._table = None

    def to(self, device: torch.device | str) -> None:
        """Move the counts."""
        self._table = None if self._table is None else self._table.to(device)

    def state_dict(self) -> dict[str, Any]:
        """Return the table."""
        return {} if self._table is None else {"table": self._table}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take a table."""
        self._table = state.get("table")


def _one(values: Callable[[Counts], Tensor], code: int) -> Callable[[Counts], float]:
    def read(counts: Counts) -> float:
        if code >= len(counts.right):
            raise OptionError(f"there is no class {code}; the model has {len(counts.right)}, from 0 on")
        return float(values(counts)[code])

    return read


def _mean(values: Tensor) -> float:
    return float(values.nanmean()) if bool(values.isfinite().any()) else math.nan


@metric_factory
def pixel_accuracy() -> Metric:
    """Measure the share of pixels that are right."""
    return ConfusionMetric(lambda counts: counts.accuracy, name="pixel_accuracy")


@metric_factory
def foreground_accuracy() -> Metric:
    """Measure the share that is right of the pixels that are not of class 0, the background."""
    return ConfusionMetric(lambda counts: counts.foreground, name="foreground_accuracy")


@metric_factory
def mean_iou() -> Metric:
    """Measure intersection over union, over all pixels seen, as a mean over the classes that anybody has."""
    return ConfusionMetric(lambda counts: _mean(counts.iou), name="mean_iou")


@metric_factory
def mean_dice() -> Metric:
    """Measure the Dice coefficient, over all pixels seen, as a mean over the classes that anybody has."""
    return ConfusionMetric(lambda counts: _mean(counts.dice), name="mean_dice")


@metric_factory
def class_iou(code: int = 1) -> Metric:
    """Measure intersection over union of one class."""
    return ConfusionMetric(_one(lambda counts: counts.iou, code), name=f"iou_{code}")


@metric_factory
def class_dice(code: int = 1) -> Metric:
    """Measure the Dice coefficient of one class."""
    return ConfusionMetric(_one(lambda counts: counts.dice, code), name=f"dice_{code}")
