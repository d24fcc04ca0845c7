"""Small data for tests: four numbers decide between three classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from graftwork.block import CategoryBlock, RegressionBlock
from graftwork.datablock import DataBlock
from graftwork.split import RandomSplitter

__all__ = ["Item", "make_items", "mlp", "recipe"]

Item = tuple[list[float], str]


def make_items(count: int = 200, seed: int = 0) -> list[Item]:
    """Return (four numbers, class), where the class is the largest of the first three, so that it can be learned."""
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(count, 4))
    names = ("ant", "bee", "cow")
    return [(row.tolist(), names[int(row[:3].argmax())]) for row in numbers]


def recipe(**changes: Any) -> DataBlock:
    """Return the recipe for `make_items`."""
    options = {"blocks": (RegressionBlock(4), CategoryBlock), "splitter": RandomSplitter(0.25, seed=1), **changes}
    return DataBlock(**options)


def mlp(hidden: int = 16) -> nn.Module:
    """Return a small network for four numbers and three classes."""
    return nn.Sequential(nn.Linear(4, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, 3))
