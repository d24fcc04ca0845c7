"""A residual network for tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from graftwork.api import ModelContext, ModelParts, OptionError
from graftwork_tabular.blocks import PackedRowBlock
from graftwork_tabular.nets import (
    Embeddings,
    Outputs,
    TableNet,
    check_share,
    embedding_widths,
    output_sizes,
    row_block,
    value_range,
)

__all__ = ["TabularResNet", "resnet"]


def resnet(
    ctx: ModelContext,
    *,
    width: int = 192,
    blocks: int = 3,
    factor: float = 2.0,
    ps: float = 0.15,
    residual_p: float = 0.0,
    emb_szs: Mapping[str, int] | None = None,
    y_range: Sequence[Any] | None = None,
) -> ModelParts:
    """Build the ResNet of Gorishniy et al. (arXiv 2106.11959).

    `blocks` residual blocks of `width`, whose inner layer is `factor` times as wide. `ps` drops activations of the
    inner layer, `residual_p` what a block adds.
    """
    block, sizes = row_block(ctx, "tabular/resnet"), output_sizes(ctx)
    hidden = int(width * factor)
    if min(width, hidden, blocks) < 1:
        raise OptionError(f"tabular/resnet needs a block of a unit at least: {width=}, {blocks=}, {factor=}")
    embeddings = Embeddings(block.sizes, embedding_widths(block, emb_szs), std=0.3)
    shares = check_share("ps", ps), check_share("residual_p", residual_p)
    body = nn.Sequential(
        nn.Linear(embeddings.width + block.n_cont, width),
        *(ResidualBlock(width, hidden, *shares) for _ in range(blocks)),
    )
    head = nn.Sequential(nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, sum(sizes)))
    bounded = value_range(y_range, sum(sizes))
    if bounded is not None:
        head.append(bounded)
    return ModelParts(module=TabularResNet(block, embeddings, body, head, Outputs(sizes)))


@final
class ResidualBlock(nn.Module):
    """Add to the input what batch norm, linear, rectifier, dropout, linear and dropout make of it."""

    def __init__(self, width: int, hidden: int, ps: float, residual_p: float) -> None:
        """Make the layers."""
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.BatchNorm1d(width), nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(ps)),
            *(nn.Linear(hidden, width), nn.Dropout(residual_p)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Add."""
        added: Tensor = self.layers(x)
        return x + added


@final
class TabularResNet(TableNet):
    """Embed the categories, put the numbers beside them, and pass both through `body` and `head`."""

    def __init__(
        self, block: PackedRowBlock, embeddings: Embeddings, body: nn.Module, head: nn.Module, outputs: Outputs
    ) -> None:
        """Hold the parts."""
        super().__init__()
        self.block, self.embeddings = block, embeddings
        self.body, self.head, self.outputs = body, head, outputs

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return raw outputs of packed rows (B, n_cat + n_cont)."""
        codes, out = self.block.split(x)
        if self.block.cat:
            out = torch.cat([self.embeddings(codes), out], 1)
        found: Tensor | tuple[Tensor, ...] = self.outputs(self.head(self.body(out)))
        return found

    def embedding(self, column: str) -> Tensor | None:
        """Return a category column's embeddings."""
        return self.embeddings.matrix(self.block.cat.index(column))
