"""The embedding MLP that fastai trains on tables."""

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

__all__ = ["EmbeddingMLP", "mlp"]


def mlp(
    ctx: ModelContext,
    *,
    layers: Sequence[int] = (200, 100),
    ps: float | Sequence[float] = 0.0,
    embed_p: float = 0.0,
    emb_szs: Mapping[str, int] | None = None,
    use_bn: bool = True,
    bn_cont: bool = True,
    bn_final: bool = False,
    y_range: Sequence[Any] | None = None,
) -> ModelParts:
    """Build fastai's TabularModel: embeddings and batch-normalised numbers, then linear layers of widths `layers`.

    `ps` drops activations behind each hidden layer (one share for all, or one for each), `embed_p` those of the
    embeddings, whose widths `emb_szs` may set by column. `y_range` is in the units of the encoded target.
    """
    block, sizes = row_block(ctx, "tabular/mlp"), output_sizes(ctx)
    shares = _shares(ps, len(layers))
    if any(width < 1 for width in layers):
        raise OptionError(f"layers={tuple(layers)!r}: a layer has at least one unit")
    embeddings = Embeddings(block.sizes, embedding_widths(block, emb_szs))
    body = nn.Sequential()
    n_in = embeddings.width + block.n_cont
    for i, (width, share) in enumerate(zip(layers, shares, strict=True)):
        body.add_module(f"layer{i + 1}", _stage(n_in, width, share, act=True, norm=use_bn))
        n_in = width
    body.add_module("output", _stage(n_in, sum(sizes), 0.0, act=False, norm=bn_final))
    bounded = value_range(y_range, sum(sizes))
    if bounded is not None:
        body.add_module("range", bounded)
    numbers = _norm(block.n_cont) if bn_cont and block.n_cont else nn.Identity()
    module = EmbeddingMLP(block, embeddings, numbers, body, Outputs(sizes), embed_p=check_share("embed_p", embed_p))
    return ModelParts(module=module)


@final
class EmbeddingMLP(TableNet):
    """Embed the categories, normalise the numbers, and pass both side by side through `body`."""

    def __init__(
        self,
        block: PackedRowBlock,
        embeddings: Embeddings,
        numbers: nn.Module,
        body: nn.Module,
        outputs: Outputs,
        *,
        embed_p: float,
    ) -> None:
        """Hold the parts."""
        super().__init__()
        self.block = block
        self.embeddings, self.numbers, self.body, self.outputs = embeddings, numbers, body, outputs
        self.embed_drop = nn.Dropout(embed_p) if embed_p else None

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return raw outputs of packed rows (B, n_cat + n_cont)."""
        codes, numbers = self.block.split(x)
        out = self.numbers(numbers)
        if self.block.cat:
            embedded = self.embeddings(codes)
            embedded = embedded if self.embed_drop is None else self.embed_drop(embedded)
            out = torch.cat([embedded, out], 1)
        found: Tensor | tuple[Tensor, ...] = self.outputs(self.body(out))
        return found

    def embedding(self, column: str) -> Tensor | None:
        """Return a category column's embeddings."""
        return self.embeddings.matrix(self.block.cat.index(column))


def _shares(ps: float | Sequence[float], count: int) -> list[float]:
    shares = [ps] * count if isinstance(ps, int | float) else list(ps)
    if len(shares) != count:
        raise OptionError(f"ps gives {len(shares)} shares to drop for {count} layers; give one for each, or a number")
    return [check_share("ps", share) for share in shares]


def _stage(n_in: int, n_out: int, share: float, *, act: bool, norm: bool) -> nn.Sequential:
    """Build linear, rectifier, batch norm, dropout, in fastai's order for tables; no bias before a batch norm."""
    layers: list[nn.Module] = [nn.Linear(n_in, n_out, bias=not norm)]
    if act:
        layers.append(nn.ReLU(inplace=True))
    if norm:
        layers.append(_norm(n_out))
    if share:
        layers.append(nn.Dropout(share))
    return nn.Sequential(*layers)


def _norm(width: int) -> nn.BatchNorm1d:
    norm = nn.BatchNorm1d(width)
    nn.init.constant_(norm.bias, 1e-3)
    return norm
