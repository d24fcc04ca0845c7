"""Fixtures: one thread, and packed rows invented here, whose targets can be learned from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from graftwork.api import ClassIndexBlock, ColumnLoader, DataLoaders, MultiHotBlock, Plan, RegressionBlock, TargetBlock
from graftwork_tabular.blocks import PackedRowBlock

Packed = Callable[..., DataLoaders]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Let tests share a machine: two teams of threads on the same cores wait for each other."""
    torch.set_num_threads(1)


def packed_block(cat: int = 3, cont: int = 2) -> PackedRowBlock:
    names = ("colour", "shape", "place", "kind")[:cat]
    return PackedRowBlock(cat=names, sizes=(5, 4, 7, 12)[:cat], cont=tuple(f"n{i}" for i in range(cont)))


def rows_of(block: PackedRowBlock, count: int, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    return block.collate([block.mock(rng) for _ in range(count)])


def target_of(block: PackedRowBlock, x: Tensor, kind: str) -> tuple[TargetBlock, Tensor]:
    """Return what the first columns decide."""
    score = torch.zeros(len(x))
    if block.cat:
        score = score + (x[:, 0] % 2) * 2 - 1
    if block.cont:
        score = score + x[:, block.n_cat]
    match kind:
        case "classes":
            return ClassIndexBlock(("low", "middle", "high")), (score > -0.5).long() + (score > 0.5).long()
        case "number":
            return RegressionBlock(1), score
        case "numbers":
            return RegressionBlock(3), torch.stack([score, -score, score.abs()], 1)
        case _:
            return MultiHotBlock(("positive", "large")), torch.stack([score > 0, score.abs() > 1], 1).float()


@pytest.fixture
def packed() -> Packed:
    """Make loaders of packed rows: `packed(kind, cat=3, cont=2, rows=512, bs=64)`."""

    def make(kind: str = "classes", *, cat: int = 3, cont: int = 2, rows: int = 512, bs: int = 64) -> DataLoaders:
        block = packed_block(cat, cont)
        x = rows_of(block, rows)
        target, y = target_of(block, x, kind)
        plan = Plan({"x": block, "y": target}, inputs=("x",), targets=("y",), item_steps=(), batch_steps=())
        cut = rows * 3 // 4

        def loader(part: slice, *, training: bool) -> ColumnLoader:
            columns: dict[str, Any] = {"x": x[part], "y": y[part]}
            return ColumnLoader(columns, plan, bs=bs, shuffle=training, training=training)

        return DataLoaders(train=loader(slice(cut), training=True), valid=loader(slice(cut, None), training=False))

    return make
