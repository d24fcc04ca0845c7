"""What a detector must beat: the boxes that are right most often, whatever the picture shows."""

from __future__ import annotations

from typing import Final, Self

import torch
from torch import Tensor

from graftwork.api import Baseline, DataLoaders, Loader, OptionError
from graftwork_vision.box_scores import overlaps
from graftwork_vision.boxes import EMPTY, BoxTensorBlock
from graftwork_vision.point_scores import targets_in_order

__all__ = ["FrequentBoxes"]

MAX_CANDIDATES: Final = 500
HALF: Final = 0.5


class FrequentBoxes(Baseline):
    """Predict the same boxes for every picture, each with the share of training pictures in which it is right.

    Candidates are training boxes, up to 500 evenly taken; right is one that overlaps a box of its class by a half.
    """

    name = "frequent-boxes"

    def __init__(self) -> None:
        """Know nothing yet."""
        self.rows: Tensor | None = None

    def fit(self, data: DataLoaders) -> Self:
        """Count in how many training pictures each candidate is right, and keep the best that differ."""
        block = data.plan.target
        if not isinstance(block, BoxTensorBlock):
            raise OptionError(f"the baseline {self.name!r} predicts boxes, and the target is {block!r}")
        targets = torch.cat(targets_in_order(data.train))
        self.rows = _most_frequent(targets, block.max_boxes)
        return self

    def predict(self, loader: Loader) -> Tensor:
        """Return the boxes once for every item, (N, max_boxes, 6)."""
        if self.rows is None:
            raise OptionError(f"the baseline {self.name!r} has not been fitted; call fit(data) first")
        return self.rows.expand(sum(map(len, targets_in_order(loader))), *self.rows.shape)


def _most_frequent(targets: Tensor, most: int) -> Tensor:
    there = targets[targets[..., 4] != EMPTY]
    candidates = there[torch.linspace(0, max(len(there) - 1, 0), min(len(there), MAX_CANDIDATES)).long()]
    hits = torch.zeros(len(candidates))
    for picture in targets:
        rows = picture[picture[:, 4] != EMPTY]
        right = (overlaps(candidates[:, :4], rows[:, :4]) >= HALF) & (candidates[:, None, 4] == rows[:, 4])
        hits += right.any(1)
    shares = hits / max(len(targets), 1)
    kept = _apart(candidates, shares, most)
    found = torch.tensor([0.0, 0, 0, 0, EMPTY, 0]).repeat(most, 1)
    found[: len(kept)] = torch.cat([candidates[kept, :5], shares[kept, None]], 1)
    return found


def _apart(candidates: Tensor, shares: Tensor, most: int) -> list[int]:
    """Return positions, the most frequent first, leaving out what overlaps a better one of its class by a half."""
    same = (overlaps(candidates[:, :4], candidates[:, :4]) >= HALF) & (candidates[:, None, 4] == candidates[:, 4])
    kept: list[int] = []
    for position in shares.argsort(descending=True, stable=True).tolist():
        if len(kept) < most and not bool(same[position, kept].any()):
            kept.append(position)
    return kept
