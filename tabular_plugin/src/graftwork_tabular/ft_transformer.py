"""The FT-Transformer: a token for every column, and attention between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graftwork.api import ModelContext, ModelParts, OptionError
from graftwork_tabular.blocks import PackedRowBlock
from graftwork_tabular.nets import Outputs, TableNet, TokenEmbeddings, check_share, output_sizes, row_block, value_range

__all__ = ["FTTransformer", "ft_transformer"]


def ft_transformer(
    ctx: ModelContext,
    *,
    width: int = 192,
    blocks: int = 3,
    heads: int = 8,
    factor: float = 4 / 3,
    attention_p: float = 0.2,
    ps: float = 0.1,
    residual_p: float = 0.0,
    y_range: Sequence[Any] | None = None,
) -> ModelParts:
    """Build the FT-Transformer of Gorishniy et al. (arXiv 2106.11959), with their default sizes.

    Every column becomes a token of `width`; `blocks` of attention with `heads` and of a gated layer `factor` times as
    wide let them see each other, and a token of its own, [CLS], is what the outputs are read from. The shares drop
    attention, activations of the gated layer, and what a block adds.
    """
    block, sizes = row_block(ctx, "tabular/ft-transformer"), output_sizes(ctx)
    hidden = int(width * factor)
    if min(width, hidden, blocks, heads) < 1 or width % heads:
        raise OptionError(f"tabular/ft-transformer: {width=} must be a multiple of {heads=}, and {blocks=} at least 1")
    shares = {"attention_p": attention_p, "ps": ps, "residual_p": residual_p}
    for name, share in shares.items():
        check_share(name, share)
    layers = [
        TransformerBlock(width, hidden, heads, norm_first=i > 0, last=i == blocks - 1, **shares) for i in range(blocks)
    ]
    head = nn.Sequential(nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, sum(sizes)))
    bounded = value_range(y_range, sum(sizes))
    if bounded is not None:
        head.append(bounded)
    return ModelParts(module=FTTransformer(Tokens(block, width), nn.Sequential(*layers), head, Outputs(sizes)))


@final
class Tokens(nn.Module):
    """Make packed rows (B, n_cat + n_cont) tokens (B, 1 + n_cat + n_cont, width), [CLS] first."""

    def __init__(self, block: PackedRowBlock, width: int) -> None:
        """Make the weights, uniform within 1 / sqrt(width) as in the paper."""
        super().__init__()
        self.block = block
        bound = 1 / math.sqrt(width)
        self.first = nn.Parameter(torch.empty(1, 1, width).uniform_(-bound, bound))
        self.table = TokenEmbeddings(block.sizes, width, bound=bound) if block.cat else None
        self.scale = nn.Parameter(torch.empty(block.n_cont, width).uniform_(-bound, bound)) if block.cont else None
        self.bias = nn.Parameter(torch.empty(len(block.names), width).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """Look categories up, multiply numbers with a direction of their own, and add each column's bias."""
        codes, numbers = self.block.split(x)
        parts = [] if self.table is None else [self.table(codes)]
        if self.scale is not None:
            parts.append(numbers.unsqueeze(2) * self.scale)
        tokens = torch.cat(parts, 1) + self.bias
        return torch.cat([self.first.expand(len(x), 1, -1).to(tokens.dtype), tokens], 1)


@final
class TransformerBlock(nn.Module):
    """Let tokens (B, T, D) attend to each other, then pass each through a gated layer; norms come first.

    In the first block there is no norm before the attention, as in the paper. The `last` block keeps [CLS] alone.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        heads: int,
        *,
        norm_first: bool,
        last: bool,
        attention_p: float,
        ps: float,
        residual_p: float,
    ) -> None:
        """Make the layers."""
        super().__init__()
        self.heads, self.last = heads, last
        self.attention_p, self.ps, self.residual_p = attention_p, ps, residual_p
        self.attention_norm = nn.LayerNorm(width) if norm_first else nn.Identity()
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.join = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.gate, self.out = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, T, D), or (B, 1, D) from the last block."""
        normed = self.attention_norm(x)
        if self.last:
            x = x[:, :1]
        x = x + self._drop(self._attend(normed))
        value, gate = self.gate(self.norm(x)).chunk(2, 2)
        added: Tensor = self._drop(self.out(F.dropout(value * F.relu(gate), self.ps, self.training)))
        return x + added

    def _attend(self, x: Tensor) -> Tensor:
        key, value = (self._split(part) for part in self.key_value(x).chunk(2, 2))
        query = self._split(self.query(x[:, :1] if self.last else x))
        share = self.attention_p if self.training else 0.0
        found = F.scaled_dot_product_attention(query, key, value, dropout_p=share)
        joined: Tensor = self.join(found.transpose(1, 2).flatten(2))
        return joined

    def _split(self, x: Tensor) -> Tensor:
        """Return (B, heads, T, D / heads)."""
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.residual_p, self.training)


@final
class FTTransformer(TableNet):
    """Make tokens of rows, let them attend to each other, and read the outputs from [CLS]."""

    def __init__(self, tokens: Tokens, blocks: nn.Module, head: nn.Module, outputs: Outputs) -> None:
        """Hold the parts."""
        super().__init__()
        self.tokens, self.blocks, self.head, self.outputs = tokens, blocks, head, outputs

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return raw outputs of packed rows (B, n_cat + n_cont)."""
        found: Tensor | tuple[Tensor, ...] = self.outputs(self.head(self.blocks(self.tokens(x))[:, 0]))
        return found

    def embedding(self, column: str) -> Tensor | None:
        """Return a category column's embeddings."""
        table = self.tokens.table
        return None if table is None else table.matrix(self.tokens.block.cat.index(column))
