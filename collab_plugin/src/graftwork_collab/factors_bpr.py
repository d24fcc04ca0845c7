"""A factor model trained by gradients: chosen items against items drawn at random."""

from __future__ import annotations

from typing import Final, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graftwork.api import ModelContext, ModelParts, OptionError
from graftwork_collab.ranker import DotRanker, embedding, ranking_blocks, shared_scores, with_bias
from graftwork_collab.topk import Seen

__all__ = ["FactorRanker", "Proposal", "factors", "fold_in"]

STD: Final = 0.1
FOLD_IN_STEPS: Final = 40
FOLD_IN_LR: Final = 0.1
FOLD_IN_WD: Final = 1e-3
ROWS_AT_ONCE: Final = 2**23


def factors(
    ctx: ModelContext, *, factors: int = 64, bias: bool = True, correct: bool = True, num_seen: int = 0
) -> ModelParts:
    """Build a model that scores by the product of two vectors, plus the item's bias.

    With `correct` the logarithm of how often an item is drawn as a candidate is taken from its training score, so that
    a softmax over samples estimates the one over all items; losses that compare pairs do without.
    """
    if factors < 1:
        raise OptionError(f"factors={factors}: vectors need at least one number")
    module = FactorRanker(ctx, factors=factors, bias=bias, correct=correct, num_seen=num_seen)
    return ModelParts(module=module)


class Proposal(nn.Module):
    """Know how often each item is drawn as a candidate: evenly, or as often as it is popular."""

    def __init__(self, ctx: ModelContext, *, correct: bool) -> None:
        """Take the shares from the data's block."""
        super().__init__()
        _, items = ranking_blocks(ctx)
        self.in_batch, self.num_items, self.correct = items.in_batch, items.num_items, correct

    def forward(self, popularity: Tensor) -> Tensor | None:
        """Return the logarithm of each item code's chance, (codes,), or None where nothing is corrected."""
        if not self.correct:
            return None
        share = popularity / popularity.sum().clamp(min=1)
        return (self.in_batch * share + (1 - self.in_batch) / self.num_items).clamp(min=1e-12).log()


@final
class FactorRanker(DotRanker):
    """Hold one vector for each user and each item, and each item's bias."""

    def __init__(self, ctx: ModelContext, *, factors: int, bias: bool, correct: bool, num_seen: int) -> None:
        """Start with random vectors and no bias."""
        super().__init__(ctx, num_seen=num_seen)
        self.user_factors = embedding(self.num_users, factors, STD)
        self.item_factors = (
            with_bias(embedding(self.num_items, factors, STD)) if bias else (embedding(self.num_items, factors, STD))
        )
        self.bias = bias
        self.proposal = Proposal(ctx, correct=correct)

    def item_vectors(self) -> Tensor:
        """Return the items' factors, with their bias behind."""
        return self.item_factors

    def represent(self, users: Tensor) -> Tensor:
        """Return the users' factors, with a 1 behind for the bias."""
        return self._with_one(self.user_factors[users])

    def _with_one(self, vectors: Tensor) -> Tensor:
        return F.pad(vectors, (0, 1), value=1.0) if self.bias else vectors

    def directions(self) -> Tensor:
        """Return the factors without bias."""
        return self.item_factors[:, : self.user_factors.shape[1]]

    def represent_new(self, seen: Seen, weights: Tensor | None = None) -> Tensor:
        """Fit vectors to new users' items, the items staying as they are."""
        bias = self.item_factors[:, -1].detach() if self.bias else None
        return self._with_one(fold_in(self.directions().detach(), bias, seen))

    def candidates(self, user: Tensor, item: Tensor, history: Tensor | None) -> Tensor:
        """Return products with the chosen item and with the shared others."""
        table = self.item_vectors()
        return shared_scores(self.represent(user), table, item, self.proposal(self.popularity))


def fold_in(items: Tensor, bias: Tensor | None, seen: Seen) -> Tensor:
    """Return vectors (B, f) under which a softmax over all items is likeliest to choose what each row has seen.

    By Adam's steps from 0, a few rows at a time; `items` (codes, f) stay as they are.
    """
    rows, found = len(seen.start) - 1, []
    size = max(1, ROWS_AT_ONCE // len(items))
    for low in range(0, rows, size):
        part = seen.rows(low, min(low + size, rows))
        found.append(_fold_in_some(items, bias, part))
    return torch.cat(found) if found else items.new_zeros(0, items.shape[1])


def _fold_in_some(items: Tensor, bias: Tensor | None, seen: Seen) -> Tensor:
    with torch.inference_mode(mode=False), torch.enable_grad():
        # Copies, since what was made in inference mode has no gradient.
        items, bias = items.clone(), None if bias is None else bias.clone()
        rows, codes = (torch.from_numpy(part).to(items.device) for part in seen.places())
        count = torch.bincount(rows, minlength=len(seen.start) - 1).clamp(min=1)
        vectors = torch.zeros(len(count), items.shape[1], device=items.device, requires_grad=True)
        optimizer = torch.optim.Adam([vectors], lr=FOLD_IN_LR)
        for _ in range(FOLD_IN_STEPS):
            scores = vectors @ items.T
            likely = (scores if bias is None else scores + bias).log_softmax(1)[rows, codes] / count[rows]
            loss = -likely.sum() + FOLD_IN_WD * vectors.square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return vectors.detach()
