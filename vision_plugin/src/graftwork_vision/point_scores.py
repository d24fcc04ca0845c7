"""How good predicted points are, and what a model of points must beat."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from graftwork.api import (
    Baseline,
    DataError,
    DataLoaders,
    Loader,
    Loss,
    MeanMetric,
    Metric,
    OptionError,
    metric_factory,
)

__all__ = ["MeanPoints", "PointLoss", "point_distance", "targets_in_order"]


class PointLoss(Loss):
    """Mean squared error of the coordinates (B, N, 2) of points that are there; the others are NaN in the target."""

    def forward(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return the mean over pictures."""
        return self.per_item(raw, target).mean()

    def per_item(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return the mean over each picture's coordinates, 0 where it has none, (B,)."""
        squared, there = _squared(raw, target)
        return squared.flatten(1).sum(1) / there.flatten(1).sum(1).clamp(min=1)


def _squared(raw: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    if raw.numel() != target.numel():
        raise DataError(f"outputs {tuple(raw.shape)} are not two numbers for each point of {tuple(target.shape)}")
    there = target.isfinite()
    wanted = torch.where(there, target, 0.0).float()
    return torch.where(there, (raw.float().reshape(target.shape) - wanted).square(), 0.0), there


def _distances(predicted: Tensor, target: Tensor) -> Tensor:
    """Return the distance of every point that is there, the picture's sides being 1, as a row without the others."""
    squared, there = _squared(predicted, target)
    # A mean of values must not count points that are not there; to leave them out the device has to say which.
    return squared.sum(-1).sqrt()[there.all(-1)] / 2


@metric_factory
def point_distance() -> Metric:
    """Measure the mean distance of points from where they are, as a share of the picture's side."""
    return MeanMetric(_distances, name="point_distance", higher_is_better=False)


class MeanPoints(Baseline):
    """Predict the mean place of every point, of those that are there."""

    name = "mean-points"

    def __init__(self) -> None:
        """Know nothing yet."""
        self.points: Tensor | None = None

    def fit(self, data: DataLoaders) -> Self:
        """Average the training points; one that is never there is taken to be in the middle."""
        points = torch.cat(targets_in_order(data.train)).double()
        self.points = points.nanmean(0).nan_to_num().float()
        return self

    def predict(self, loader: Loader) -> Tensor:
        """Return the points once for every item."""
        if self.points is None:
            raise OptionError(f"the baseline {self.name!r} has not been fitted; call fit(data) first")
        return self.points.expand(sum(map(len, targets_in_order(loader))), *self.points.shape)


def targets_in_order(loader: Loader) -> list[Tensor]:
    """Return the targets of a loader's batches in order."""
    ordered = loader.in_order()
    found = [batch.fields[loader.plan.targets[0]].cpu() for batch in ordered]
    loader.bad_items.update(ordered.bad_items)
    return found
