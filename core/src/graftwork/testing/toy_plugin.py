"""A plugin for tests: models and a transform for the data of `graftwork.testing.toy`. Nothing installs it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from graftwork.api import (
    Block,
    Bound,
    ModelContext,
    ModelParts,
    ModelSpec,
    Plugin,
    RegressionBlock,
    Transform,
    TransformSpec,
    hookimpl,
)

__all__ = ["PLUGIN", "Scale", "Two", "mlp", "two"]

PLUGIN = Plugin(namespace="toy", summary="Small models for tests")


def mlp(ctx: ModelContext, *, hidden: int = 16, conv: bool = False) -> ModelParts:
    """Build a network for four numbers, dense or convolutional, in two groups."""
    dense = (nn.Linear(4, hidden), nn.BatchNorm1d(hidden), nn.ReLU())
    convolved = (nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, hidden, 2), nn.Flatten(), nn.ReLU())
    body, head = nn.Sequential(*(convolved if conv else dense)), nn.Linear(hidden, ctx.num_outputs)
    return ModelParts(module=nn.Sequential(body, head), groups={"body": (body,), "head": (head,)})


class Two(nn.Module):
    """Take two inputs, (B, 2) and (B,), and give one output per target."""

    def __init__(self, outputs: list[int]) -> None:
        """Make a head for each number of outputs."""
        super().__init__()
        self.body = nn.Linear(3, 8)
        self.heads = nn.ModuleList(nn.Linear(8, n) for n in outputs)

    def forward(self, left: Tensor, right: Tensor) -> list[Tensor]:
        """Return one output per head."""
        x = self.body(torch.cat([left, right[:, None]], 1)).relu()
        return [head(x) for head in self.heads]


def two(ctx: ModelContext) -> nn.Module:
    """Build a network of two inputs and any number of targets."""
    return Two([target.num_outputs for target in ctx.targets.values()])


@dataclass(frozen=True)
class Scale(Transform):
    """Multiply lists of numbers."""

    id: ClassVar[str] = "toy/scale"
    factor: float = 2.0

    def accepts(self, block: Block) -> bool:
        """Work on several numbers."""
        return isinstance(block, RegressionBlock) and block.n_out > 1

    def out_block(self, block: Block) -> Block:
        """Change nothing of the block."""
        return block

    def bind(self, block: Block) -> Bound:
        """Multiply, and divide on the way back; refuse what is not of the block."""

        def encode(value: list[float], _: object) -> list[float]:
            reason = block.check(value)
            if reason:
                raise ValueError(reason)
            return [v * self.factor for v in value]

        return Bound(encode, lambda value: [v / self.factor for v in value])


@hookimpl
def graftwork_register_models() -> Iterator[ModelSpec]:
    """Return the models."""
    for name in ("mlp", "two"):
        yield ModelSpec(
            id=f"toy/{name}",
            target=f"graftwork.testing.toy_plugin:{name}",
            summary="A small network",
            inputs=("core/regression",),
            output="core/class-index",
        )


@hookimpl
def graftwork_register_transforms() -> Iterator[TransformSpec]:
    """Return the transform."""
    yield TransformSpec(
        id=Scale.id,
        target="graftwork.testing.toy_plugin:Scale",
        summary="Multiply numbers",
        accepts=("core/regression",),
        gives="core/regression",
        invertible=True,
    )
