"""TabM: many small networks in one, which share most of their weights and give their mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graftwork.api import ClassIndexBlock, ModelContext, ModelParts, MultiHotBlock, OptionError, TargetBlock
from graftwork_tabular.nets import Outputs, RowEncoder, TableNet, check_share, output_sizes, row_block, value_range

__all__ = ["TabM", "members_loss", "members_mean", "tabm"]

FEW_ROWS: Final = 64


def tabm(
    ctx: ModelContext,
    *,
    k: int = 16,
    layers: Sequence[int] = (128, 128),
    ps: float = 0.1,
    bins: Mapping[str, Any] | None = None,
    max_one_hot: int = 64,
    y_range: Sequence[Any] | None = None,
) -> ModelParts:
    """Build TabM-mini with piecewise-linear numbers (Gorishniy et al., arXiv 2410.24210 and 2203.05556).

    `k` networks see each row through weights of their own, one per input, share the linear layers of widths `layers`,
    and end in a linear layer of their own. In training each has its own loss; otherwise what they say is averaged:
    probabilities of classes, values of numbers. `bins` by number column are learned from training (`bins_of`); left
    out, they are those of normally distributed numbers. `ps` drops activations behind each layer.
    """
    block, sizes = row_block(ctx, "tabular/tabm"), output_sizes(ctx)
    if k < 1 or not layers or min(layers) < 1:
        raise OptionError(f"tabular/tabm needs a network and a layer at least: k={k}, layers={tuple(layers)!r}")
    module = TabM(
        RowEncoder(block, bins=bins, max_one_hot=max_one_hot),
        list(ctx.targets.values()),
        k=k,
        layers=layers,
        ps=check_share("ps", ps),
        bounded=value_range(y_range, sum(sizes)),
    )
    return ModelParts(module=module, train_loss=members_loss)


@final
class TabM(TableNet):
    """Give (B, k, outputs) in training, one row per network, and their mean (B, outputs) otherwise."""

    def __init__(
        self,
        encoder: RowEncoder,
        targets: Sequence[TargetBlock],
        *,
        k: int,
        layers: Sequence[int],
        ps: float,
        bounded: nn.Module | None,
    ) -> None:
        """Make the weights. A network's own weights of the inputs are signs at first, as in the paper."""
        super().__init__()
        self.encoder, self.targets, self.ps = encoder, list(targets), ps
        self.adapter = nn.Parameter(torch.empty(k, encoder.width).bernoulli_().mul_(2).sub_(1))
        self.first = nn.Linear(encoder.width, layers[0])
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(layers))
        sizes = [block.num_outputs for block in targets]
        bound = 1 / math.sqrt(layers[-1])
        self.heads = nn.Parameter(torch.empty(k, layers[-1], sum(sizes)).uniform_(-bound, bound))
        self.biases = nn.Parameter(torch.empty(k, 1, sum(sizes)).uniform_(-bound, bound))
        self.bounded, self.outputs = bounded, Outputs(sizes)

    def members(self, x: Tensor) -> Tensor:
        """Return what each network says of packed rows, (B, k, outputs)."""
        h_BKD = self._first(self.encoder(x))
        for layer in self.layers:
            h_BKD = layer(self._drop(F.relu(h_BKD)))
        out_KBC = torch.baddbmm(self.biases, self._drop(F.relu(h_BKD)).transpose(0, 1), self.heads)
        out_BKC = out_KBC.transpose(0, 1)
        found: Tensor = out_BKC if self.bounded is None else self.bounded(out_BKC)
        return found

    def _first(self, h_BD: Tensor) -> Tensor:
        """Return the first layer of each network, (B, k, width).

        Weights of the inputs may be put into the layer's weights instead: one product for all networks, and no gradient
        of the inputs to compute. For a few rows the copies of the weights would cost more than the rows do.
        """
        if len(h_BD) < FEW_ROWS:
            return F.linear(h_BD.unsqueeze(1) * self.adapter, self.first.weight, self.first.bias)
        weight = (self.first.weight * self.adapter.unsqueeze(1)).flatten(0, 1)
        return F.linear(h_BD, weight).view(len(h_BD), len(self.adapter), -1) + self.first.bias

    def _drop(self, h_BKD: Tensor) -> Tensor:
        """Drop the same units in all networks: random numbers for each would take a fifth of the time on a CPU."""
        if not (self.training and self.ps):
            return h_BKD
        return h_BKD * F.dropout(h_BKD.new_ones(len(h_BKD), 1, h_BKD.shape[2]), self.ps)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return raw outputs."""
        raw: Tensor | tuple[Tensor, ...] = self.outputs(self.members(x))
        if self.training:
            return raw
        if isinstance(raw, Tensor):
            return members_mean(self.targets[0], raw)
        return tuple(members_mean(block, part) for block, part in zip(self.targets, raw, strict=True))

    def embedding(self, column: str) -> Tensor | None:
        """Return a category column's embeddings, if it has more codes than get a column each."""
        place = self.encoder.block.cat.index(column)
        if self.encoder.embeddings is None or place not in self.encoder.many:
            return None
        return self.encoder.embeddings.matrix(self.encoder.many.index(place))


def members_loss(loss: Callable[[Tensor, Tensor], Tensor], raw: Tensor, target: Tensor) -> Tensor:
    """Return the mean of the losses of all networks, (B, k, outputs) against the target they share."""
    return loss(raw.flatten(0, 1), target.repeat_interleave(raw.shape[1], 0))


def members_mean(block: TargetBlock, raw: Tensor) -> Tensor:
    """Average (B, k, outputs) over the networks, as raw outputs: probabilities of classes or labels, else values."""
    if isinstance(block, ClassIndexBlock):
        return raw.float().log_softmax(2).logsumexp(1) - math.log(raw.shape[1])
    if isinstance(block, MultiHotBlock):
        yes, no = F.logsigmoid(raw.float()), F.logsigmoid(-raw.float())
        return yes.logsumexp(1) - no.logsumexp(1)
    return raw.mean(1)
