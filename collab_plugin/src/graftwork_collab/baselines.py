"""What a model of ratings must beat: the mean, moved by how the user rates and how the item is rated."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from graftwork.api import Baseline, ColumnLoader, DataLoaders, Loader, OptionError, PlanError
from graftwork_collab.blocks import IdCodeBlock

__all__ = ["Biases"]


class Biases(Baseline):
    """Predict the mean, plus the item's and the user's mean deviation from it, shrunk where there are few ratings.

    Y. Koren, "Factor in the Neighbors" (2010), section 2.1: items first, users on what is left.
    """

    name = "biases"

    def __init__(self, *, item_shrink: float = 10.0, user_shrink: float = 5.0) -> None:
        """Set how many ratings of the mean each item and each user is given."""
        self.item_shrink, self.user_shrink = item_shrink, user_shrink
        self.mean = 0.0
        self.users: Tensor | None = None
        self.items: Tensor | None = None

    def fit(self, data: DataLoaders) -> Self:
        """Average over the training split; raise PlanError for data that is not users, items and ratings."""
        user, item = _codes(data.train)
        blocks = [data.plan.fields[name].final for name in data.plan.inputs[:2]]
        if not all(isinstance(block, IdCodeBlock) for block in blocks):
            raise PlanError(f"this baseline needs a user and an item, not {blocks}")
        sizes = [block.num_codes for block in blocks if isinstance(block, IdCodeBlock)]
        assert isinstance(data.train, ColumnLoader)
        rating = data.train.columns[data.plan.targets[0]].cpu().double()
        self.mean = float(rating.mean())
        self.items = _deviations(item, rating - self.mean, sizes[1], self.item_shrink)
        self.users = _deviations(user, rating - self.mean - self.items[item], sizes[0], self.user_shrink)
        return self

    def predict(self, loader: Loader) -> Tensor:
        """Return ratings (N,)."""
        if self.users is None or self.items is None:
            raise OptionError(f"the baseline {self.name!r} has not been fitted; call fit(data) first")
        user, item = _codes(loader)
        return (self.mean + self.users[user] + self.items[item]).float()


def _codes(loader: Loader) -> tuple[Tensor, Tensor]:
    if not isinstance(loader, ColumnLoader) or len(loader.plan.inputs) < 2:
        raise PlanError("this baseline needs ratings that lie in memory: CollabDataLoaders")
    user, item = (loader.columns[name].cpu() for name in loader.plan.inputs[:2])
    return user, item


def _deviations(codes: Tensor, left: Tensor, size: int, shrink: float) -> Tensor:
    """Return the shrunk mean of `left` by code; 0 where there is nothing, as for the unknown."""
    sums = torch.zeros(size, dtype=torch.float64).index_add_(0, codes, left)
    return sums / (torch.bincount(codes, minlength=size) + shrink).clamp(min=1e-9)
