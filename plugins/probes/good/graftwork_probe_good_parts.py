"""What the good probe's records point to; imported when one of them is asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from graftwork.api import Block, Bound, RegressionBlock, Transform


@dataclass(frozen=True, slots=True, kw_only=True)
class PositiveBlock(Block):
    """A number above zero."""

    id = "probe-good/positive"

    def check(self, value):
        return None if isinstance(value, float) and value > 0 else f"{value!r} is no number above zero"

    def mock(self, rng):
        return float(rng.uniform(0.1, 10.0))

    def collate(self, values):
        return torch.tensor(values)

    def uncollate(self, column):
        return column.tolist()

    def show(self, value, ax):
        ax.set_title(f"{value:.3g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Log(Transform):
    """Take the logarithm."""

    id = "probe-good/log"
    stage = "item"

    def accepts(self, block):
        return isinstance(block, PositiveBlock)

    def out_block(self, block):
        return RegressionBlock()

    def bind(self, block):
        return Bound(encode=lambda value, params: math.log(value), decode=math.exp)
