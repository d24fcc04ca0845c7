"""LightGCN: factors that are averaged over the neighbourhoods of users and items."""

from __future__ import annotations

from typing import Any, Self, final

import numpy as np
import torch
from torch import Tensor, nn

from graftwork.api import ModelContext, ModelParts, OptionError
from graftwork_collab.factors_bpr import STD, Proposal
from graftwork_collab.ranker import DotRanker, embedding, shared_scores, summed
from graftwork_collab.topk import Seen

__all__ = ["LightGCN", "lightgcn"]


def lightgcn(
    ctx: ModelContext, *, factors: int = 64, layers: int = 2, correct: bool = True, num_seen: int = 0
) -> ModelParts:
    """Build LightGCN (He et al., arXiv 2002.02126): factors, averaged with `layers` rounds of neighbours' factors.

    Every training batch spreads all factors over the whole graph, so batches should be large: some thousands.
    """
    if factors < 1 or layers < 0:
        raise OptionError(f"factors={factors} must be at least 1 and layers={layers} at least 0")
    return ModelParts(module=LightGCN(ctx, factors=factors, layers=layers, correct=correct, num_seen=num_seen))


@final
class Graph:
    """Hold the edges between users and items both ways; each weighs 1 / sqrt(edges of its user · of its item)."""

    def __init__(self, start: Tensor, items: Tensor, num_items: int) -> None:
        """Sort the edges by item as well."""
        users = torch.arange(len(start) - 1, device=start.device).repeat_interleave(start.diff())
        popularity = torch.bincount(items, minlength=num_items).clamp(min=1)
        weights = (start.diff().clamp(min=1)[users] * popularity[items]).float().rsqrt()
        order = items.argsort(stable=True)
        ends = torch.bincount(items, minlength=num_items).cumsum(0)
        self.to_users = (items, start, weights)
        self.to_items = (users[order], nn.functional.pad(ends, (1, 0)), weights[order])


class _Spread(torch.autograd.Function):
    """Sum over neighbours; the gradient is the same sum the other way, without a scatter."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, there: Any, back: Any) -> Tensor:
        ctx.back = back
        codes, start, weights = there
        return summed(table, codes, start, weights)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        codes, start, weights = ctx.back
        return summed(grads[0].contiguous(), codes, start, weights), None, None


@final
class LightGCN(DotRanker):
    """Hold the factors; the graph is what users have seen."""

    def __init__(self, ctx: ModelContext, *, factors: int, layers: int, correct: bool, num_seen: int) -> None:
        """Start with random factors."""
        super().__init__(ctx, num_seen=num_seen)
        self.layers = layers
        self.user_factors = embedding(self.num_users, factors, STD)
        self.item_factors = embedding(self.num_items, factors, STD)
        self.proposal = Proposal(ctx, correct=correct)
        self._graph: Graph | None = None
        self._spread: tuple[Tensor, Tensor] | None = None

    def train(self, mode: bool = True) -> Self:
        """Forget what was computed from factors that may change."""
        self._spread = None
        return super().train(mode)

    def graph(self) -> Graph:
        """Return the graph, sorted once for each device."""
        if self._graph is None or self._graph.to_users[1].device != self.seen_start.device:
            self._graph = Graph(self.seen_start, self.seen_items.long(), self.num_items)
        return self._graph

    def remember(self, seen: Any) -> None:
        """Take in the training interactions."""
        super().remember(seen)
        self._graph = self._spread = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Copy without the graph, which the copy makes anew."""
        kept, self._graph, self._spread = (self._graph, self._spread), None, None
        try:
            copied = type(self).__new__(type(self))
            memo[id(self)] = copied
            from copy import deepcopy

            vars(copied).update({name: deepcopy(value, memo) for name, value in vars(self).items()})
        finally:
            self._graph, self._spread = kept
        return copied

    def spread(self) -> tuple[Tensor, Tensor]:
        """Return the users' and the items' vectors; in evaluation they are computed once."""
        if self.training:
            return self._layers()[0]
        if self._spread is None:
            with torch.no_grad():
                self._spread = self._layers()[0]
        return self._spread

    def _layers(self) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Return the mean of all layers, and the sum of the items' layers but the last."""
        graph = self.graph()
        users, items = self.user_factors, self.item_factors
        all_users, all_items = users, items
        inner = torch.zeros_like(items)
        for _ in range(self.layers):
            inner = inner + items
            users, items = (
                _Spread.apply(items, graph.to_users, graph.to_items),
                _Spread.apply(users, graph.to_items, graph.to_users),
            )
            all_users, all_items = all_users + users, all_items + items
        count = self.layers + 1
        return (all_users / count, all_items / count), inner

    def item_vectors(self) -> Tensor:
        """Return the items' vectors."""
        return self.spread()[1]

    def represent(self, users: Tensor) -> Tensor:
        """Return the users' vectors."""
        return self.spread()[0][users]

    @torch.no_grad()
    def represent_new(self, seen: Seen, weights: Tensor | None = None) -> Tensor:
        """Spread the items' layers to new users, who have no factors of their own."""
        _, inner = self._layers()
        device = inner.device
        inner = inner * self.popularity.clamp(min=1).rsqrt()[:, None]
        codes, start = torch.from_numpy(seen.codes).to(device), torch.from_numpy(seen.start).to(device)
        sizes = torch.from_numpy(np.diff(seen.start)).to(device).clamp(min=1)
        return summed(inner, codes, start) * sizes.rsqrt()[:, None] / (self.layers + 1)

    def candidates(self, user: Tensor, item: Tensor, history: Tensor | None) -> Tensor:
        """Return products with the chosen item and with the shared others."""
        users, items = self.spread()
        return shared_scores(users[user], items, item, self.proposal(self.popularity))
