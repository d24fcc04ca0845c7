"""SASRec: a causal Transformer that reads a user's items in their order and says what comes next."""

from __future__ import annotations

from typing import ClassVar, Final, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graftwork.api import ModelContext, ModelParts, OptionError, PlanError
from graftwork_collab.blocks import UNKNOWN
from graftwork_collab.factors_bpr import Proposal
from graftwork_collab.ranker import DotRanker, embedding, shared_scores, with_bias
from graftwork_collab.ranking_blocks import ItemCodesBlock
from graftwork_collab.topk import Seen

__all__ = ["SASRec", "sasrec"]

STD: Final = 0.02


def sasrec(
    ctx: ModelContext,
    *,
    width: int = 64,
    layers: int = 2,
    heads: int = 2,
    dropout: float = 0.2,
    correct: bool = True,
    num_seen: int = 0,
) -> ModelParts:
    """Build SASRec (Kang and McAuley, arXiv 1808.09781), with the norm in front of each part and a softmax as its loss.

    It learns from every place of a sequence at once. A user is what they have seen, so new users need no fold-in.
    """
    history = ctx.inputs.get("history")
    if not isinstance(history, ItemCodesBlock) or history.length is None:
        raise PlanError("collab/sasrec reads histories; make the data with history=50: RankingDataLoaders.from_df(…)")
    if width < 1 or layers < 1 or heads < 1 or width % heads:
        raise OptionError(f"width={width} must be a multiple of heads={heads}, and layers={layers} at least 1")
    if not 0 <= dropout < 1:
        raise OptionError(f"dropout={dropout} is no share from 0 up to 1")
    module = SASRec(
        ctx, length=history.length, width=width, layers=layers, heads=heads, dropout=dropout, correct=correct,
        num_seen=num_seen,
    )  # fmt: skip
    return ModelParts(module=module)


class Layer(nn.Module):
    """Attend to what came before, then transform each place."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        """Make the parts."""
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.inner, self.outer = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x_BLD: Tensor, mask_B1LL: Tensor) -> Tensor:
        """Return the places after this layer."""
        x_BLD = x_BLD + self.drop(self.out(self._attend(self.norm1(x_BLD), mask_B1LL)))
        inner = self.drop(F.gelu(self.inner(self.norm2(x_BLD))))
        change: Tensor = self.drop(self.outer(inner))
        return x_BLD + change

    def _attend(self, x_BLD: Tensor, mask_B1LL: Tensor) -> Tensor:
        batch, length, width = x_BLD.shape
        split = self.qkv(x_BLD).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4).unbind(0)
        share = self.dropout if self.training else 0.0
        found: Tensor = F.scaled_dot_product_attention(q, k, v, attn_mask=mask_B1LL, dropout_p=share)
        return found.transpose(1, 2).reshape(batch, length, width)


@final
class SASRec(DotRanker):
    """Hold the items' vectors, which are read and predicted alike, those of places, and the layers."""

    rows_at_once: ClassVar[int] = 512

    def __init__(
        self,
        ctx: ModelContext,
        *,
        length: int,
        width: int,
        layers: int,
        heads: int,
        dropout: float,
        correct: bool,
        num_seen: int,
    ) -> None:
        """Start with small random vectors."""
        super().__init__(ctx, num_seen=num_seen)
        self.length = length
        self.items = with_bias(embedding(self.num_items, width, STD))
        self.places = nn.Parameter(torch.empty(length, width))
        nn.init.normal_(self.places, std=STD)
        self.layers = nn.ModuleList(Layer(width, heads, dropout) for _ in range(layers))
        self.norm, self.drop = nn.LayerNorm(width), nn.Dropout(dropout)
        self.proposal = Proposal(ctx, correct=correct)

    def read(self, history: Tensor) -> Tensor:
        """Return what each place of histories (B, L), padded with 0 in front, says about the next, (B, L, width)."""
        there = history > UNKNOWN
        causal = torch.ones(self.length, self.length, dtype=torch.bool, device=history.device).tril()
        # A place of padding looks at itself, or its softmax would be over nothing.
        itself = torch.eye(self.length, dtype=torch.bool, device=history.device)
        mask_B1LL = ((causal & there[:, None, :]) | itself)[:, None]
        x_BLD: Tensor = self.drop(self.items[history.clamp(min=0)][..., :-1] + self.places)
        for layer in self.layers:
            x_BLD = layer(x_BLD, mask_B1LL)
        found: Tensor = self.norm(x_BLD)
        return found

    def item_vectors(self) -> Tensor:
        """Return the items' vectors, with their bias behind."""
        return self.items

    def directions(self) -> Tensor:
        """Return the vectors without bias."""
        return self.items[:, :-1]

    def represent(self, users: Tensor) -> Tensor:
        """Read the last items of each user."""
        back = torch.arange(self.length, 0, -1, device=users.device)
        places = self.seen_start[users + 1][:, None] - back
        there = places >= self.seen_start[users][:, None]
        if len(self.seen_items) == 0:
            return self._last(torch.zeros_like(places))
        return self._last(torch.where(there, self.seen_items[places.clamp(min=0)].long(), UNKNOWN))

    def represent_new(self, seen: Seen, weights: Tensor | None = None) -> Tensor:
        """Read histories of anybody, the oldest item first."""
        ends, begins = seen.start[1:, None], seen.start[:-1, None]
        places = ends - np.arange(self.length, 0, -1)
        codes = (
            seen.codes[np.clip(places, 0, max(len(seen.codes) - 1, 0))] if len(seen.codes) else np.zeros_like(places)
        )
        history = np.where(places >= begins, codes, UNKNOWN).astype(np.int64)
        return self._last(torch.from_numpy(history).to(self.items.device))

    def _last(self, history: Tensor) -> Tensor:
        return F.pad(self.read(history)[:, -1], (0, 1), value=1.0)

    def candidates(self, user: Tensor, item: Tensor, history: Tensor | None) -> Tensor:
        """Return scores of the next item and of the shared others at every place."""
        if history is None:
            raise PlanError("collab/sasrec is trained on histories; make the data with history=50")
        vectors = F.pad(self.read(history), (0, 1), value=1.0)
        return shared_scores(vectors, self.item_vectors(), item, self.proposal(self.popularity))
