"""Baselines: what can be predicted without learning, so that every model is reported beside it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor

from graftwork.block import ClassIndexBlock, MultiHotBlock
from graftwork.datablock import DataLoaders
from graftwork.dataloader import Loader
from graftwork.errors import DataError, OptionError, PlanError
from graftwork.objective import Objective
from graftwork.rows import targets_of

__all__ = ["Baseline", "Majority", "Mean", "default_baselines", "evaluate_baseline"]


class Baseline(ABC):
    """Predict from what training shows at a glance. `name` is what a report calls it."""

    name: str

    @abstractmethod
    def fit(self, data: DataLoaders) -> Self:
        """Learn from the training split alone."""

    @abstractmethod
    def predict(self, loader: Loader) -> Tensor:
        """Return probabilities or values as the target's `activate` gives them, in the order of the loader's items.

        Items that cannot be read are left out, as the loader leaves them out.
        """

    def measure(self, loader: Loader, objective: Objective) -> dict[str, float] | None:
        """Return the objective's metrics where predictions for all items would not fit into memory, else None."""
        return None


class _Constant(Baseline):
    """Predict one row for everything."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self.row: Tensor | None = None

    def predict(self, loader: Loader) -> Tensor:
        """Return the row once for every item; the inputs are not read."""
        if self.row is None:
            raise OptionError(f"the baseline {self.name!r} has not been fitted; call fit(data) first")
        count = len(targets_of(loader)[loader.plan.targets[0]])
        return self.row.expand(count, *self.row.shape)


class Majority(_Constant):
    """Predict how often each class occurs in training; the most probable class is then the most frequent one."""

    name = "majority"

    def fit(self, data: DataLoaders) -> Self:
        """Count the classes of the training split; raise PlanError for a target without classes."""
        block, targets = data.plan.target, _only_target(data.train)
        if isinstance(block, ClassIndexBlock):
            self.row = torch.bincount(targets.flatten(), minlength=block.num_outputs) / targets.numel()
        elif isinstance(block, MultiHotBlock):
            self.row = targets.float().mean(0)
        else:
            raise PlanError(f"the majority baseline needs classes, and the target is {block!r}; use core/mean")
        return self


class Mean(_Constant):
    """Predict the mean of training."""

    name = "mean"

    def fit(self, data: DataLoaders) -> Self:
        """Average the targets of the training split, in float64; raise PlanError for a target of classes."""
        block = data.plan.target
        if isinstance(block, ClassIndexBlock | MultiHotBlock):
            raise PlanError(f"the mean baseline needs numbers, and the target is {block!r}; use core/majority")
        self.row = _only_target(data.train).double().mean(0).float()
        return self


def _only_target(loader: Loader) -> Tensor:
    targets = targets_of(loader)
    return targets[loader.plan.targets[0]]


def evaluate_baseline(baseline: Baseline, data: DataLoaders, objective: Objective) -> dict[str, float]:
    """Fit a baseline on the training split and return the objective's metrics on the validation split."""
    if data.valid is None:
        raise DataError("nothing was held out for validation, so there is nothing to compare a baseline on")
    block, rows = data.plan.target, data.valid.in_order()
    rows.bad_items.update(data.valid.bad_items)
    measured = baseline.fit(data).measure(rows, objective)
    if measured is not None:
        return measured
    predicted = baseline.predict(rows)
    targets = _only_target(rows)
    if len(predicted) != len(targets):
        raise DataError(f"baseline {baseline.name!r} gave {len(predicted)} rows for {len(targets)} items; {block!r}")
    objective.reset(predicted.device)
    objective.measure(data.plan.targets[0], predicted, targets.to(predicted.device))
    return objective.compute()


def default_baselines(data: DataLoaders) -> list[Baseline]:
    """Return the baselines that the target's block names."""
    from graftwork.plugins import get_host

    return [get_host().baselines.get(name)() for name in data.plan.target.baseline_ids]
