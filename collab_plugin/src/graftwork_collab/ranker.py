"""What every ranker is: a module that scores the catalogue for users it knows, and for histories it does not."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graftwork.api import ModelContext, PlanError
from graftwork_collab.blocks import UNKNOWN, IdCodeBlock
from graftwork_collab.ranking_blocks import ItemCodesBlock
from graftwork_collab.topk import Seen, TopK, top_k, top_k_products

if TYPE_CHECKING:
    from graftwork_collab.interactions import Interactions

LOG = logging.getLogger("graftwork")

__all__ = ["DotRanker", "Ranker", "embedding", "ranking_blocks", "shared_scores", "summed", "with_bias"]


def ranking_blocks(ctx: ModelContext) -> tuple[IdCodeBlock, ItemCodesBlock]:
    """Return the blocks of users and items; raise PlanError for data that is no ranking."""
    user, item = ctx.inputs.get("user"), ctx.inputs.get("item")
    if not isinstance(user, IdCodeBlock) or not isinstance(item, ItemCodesBlock):
        raise PlanError(
            f"a ranker needs the inputs 'user' and 'item' of RankingDataLoaders, and found {dict(ctx.inputs)}"
        )
    return user, item


def embedding(rows: int, width: int, std: float) -> nn.Parameter:
    """Return a table of vectors (rows, width), normal around 0; that of the unknown is 0."""
    table = nn.Parameter(torch.empty(rows, width))
    nn.init.normal_(table, std=std)
    with torch.no_grad():
        nn.init.zeros_(table[0])
    return table


def with_bias(table: nn.Parameter) -> nn.Parameter:
    """Return a table with one more number in each row, 0: what every user adds to an item's score alike."""
    return nn.Parameter(F.pad(table.detach(), (0, 1)))


def summed(table: Tensor, codes: Tensor, start: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sum rows of a table: row r of the result over `codes[start[r]:start[r + 1]]`, times weights if given."""
    if len(codes) == 0:
        return table.new_zeros(len(start) - 1, table.shape[1])
    return F.embedding_bag(
        codes, table, start.to(codes.dtype), mode="sum", include_last_offset=True, per_sample_weights=weights
    )


class Ranker(nn.Module, ABC):
    """Score items for users; remember what each user has seen, so that it is not recommended again.

    What was seen, and how popular each item is, are buffers, which travel with an exported model. In training,
    `forward` gives the scores of candidates; in evaluation those of all item codes, (B, codes), with -inf for the
    unknown item, for what the user has seen and for what is not among the candidates. An unknown user gets the most
    popular items.
    """

    rows_at_once: ClassVar[int] = 4096
    seen_start: Tensor
    seen_items: Tensor
    seen_weights: Tensor
    popularity: Tensor

    def __init__(self, ctx: ModelContext, *, num_seen: int, weighted: bool = False) -> None:
        """Make room for `num_seen` interactions, with `weighted` for their weights as well."""
        super().__init__()
        users, items = ranking_blocks(ctx)
        self.num_users, self.num_items = users.num_codes, items.num_codes
        self._told = False
        self.register_buffer("seen_start", torch.zeros(self.num_users + 1, dtype=torch.int64))
        self.register_buffer("seen_items", torch.zeros(num_seen, dtype=torch.int32))
        self.register_buffer("seen_weights", torch.zeros(num_seen if weighted else 0))
        self.register_buffer("popularity", torch.zeros(self.num_items))

    @torch.no_grad()
    def remember(self, seen: Interactions) -> None:
        """Take in the training interactions."""
        self.seen_start.copy_(torch.from_numpy(seen.start))
        self.seen_items.copy_(torch.from_numpy(seen.items))
        if len(self.seen_weights) and seen.weights is not None:
            self.seen_weights.copy_(torch.from_numpy(seen.weights))
        self.popularity.copy_(torch.from_numpy(seen.popularity))

    # -- what a model must say -----------------------------------------------------------------------------------------

    @abstractmethod
    def represent(self, users: Tensor) -> Tensor:
        """Return what is known of users (B,), one row each, of any width."""

    @abstractmethod
    def represent_new(self, seen: Seen, weights: Tensor | None = None) -> Tensor:
        """Return the same for people of whom only what they have seen is known (fold-in)."""

    @abstractmethod
    def score(self, known: Tensor) -> Tensor:
        """Return scores of all item codes, (B, codes), for what `represent` gives."""

    @abstractmethod
    def candidates(self, user: Tensor, item: Tensor, history: Tensor | None) -> Tensor:
        """Return training scores of candidates in the shape of `item`, the chosen ones first."""

    @abstractmethod
    def similar(self, items: Tensor, k: int) -> TopK:
        """Return the k items most like each of `items` (n,), themselves left out."""

    # -- what follows --------------------------------------------------------------------------------------------------

    def forward(self, user: Tensor, item: Tensor, history: Tensor | None = None) -> Tensor:
        """Return scores of candidates (training) or of all items (evaluation)."""
        return self.candidates(user, item, history) if self.training else self.ranking(user, item, history)

    def ranking(self, user: Tensor, item: Tensor, history: Tensor | None) -> Tensor:
        """Return scores of all item codes, with -inf for what cannot be recommended."""
        scores = self.score(self.represent(user)).float()
        unknown = user == UNKNOWN
        if history is not None:
            told = history[:, -1] > UNKNOWN
            scores = torch.where(told[:, None], self.score(self._from_history(history)).float(), scores)
            unknown = unknown & ~told
        self._tell(unknown)
        scores = torch.where(unknown[:, None], self.popularity.log1p(), scores)
        rows, codes = self._seen_places(user)
        scores = scores.index_put((rows, codes), scores.new_tensor(-torch.inf))
        scores[:, UNKNOWN] = -torch.inf
        if item.ndim == 2 and item.shape[1]:
            scores = scores.masked_fill(~_chosen(item, scores), -torch.inf)
        return scores

    def _tell(self, unknown: Tensor) -> None:
        """Say once that there are people of whom nothing is known."""
        if not self._told and bool(unknown.any()):
            self._told = True
            LOG.warning("users who do not occur in training get the most popular items (%s)", int(unknown.sum()))

    def _from_history(self, history: Tensor) -> Tensor:
        """Represent rows of codes padded with 0 or -1."""
        there = history > UNKNOWN
        start = F.pad(there.sum(1).cumsum(0), (1, 0)).cpu().numpy()
        return self.represent_new(Seen(start=start, codes=history[there].int().cpu().numpy()))

    def _seen_places(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows of the batch and the item codes of everything these users have seen."""
        places, rows = self.places_of(users)
        return rows, self.seen_items[places].long()

    def places_of(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """Return where in `seen_items` these users' items are, and which row of `users` each belongs to."""
        begin, sizes = self.seen_start[users], self.seen_start[users + 1] - self.seen_start[users]
        rows = torch.arange(len(users), device=users.device).repeat_interleave(sizes)
        ahead = sizes.cumsum(0) - sizes
        return (begin - ahead)[rows] + torch.arange(len(rows), device=users.device), rows

    def seen_by(self, users: Tensor) -> Seen:
        """Return what users (B,) have seen, on the CPU."""
        whole = Seen(start=self.seen_start.cpu().numpy(), codes=self.seen_items.cpu().numpy())
        return whole.take(users.cpu().numpy())

    def rank(self, known: Tensor, k: int, seen: Seen | None = None) -> TopK:
        """Return the k best items for what `represent` gives, but for what was seen."""
        scores = self.score(known).float()
        scores[:, UNKNOWN] = -torch.inf
        if seen is not None:
            rows, codes = (torch.from_numpy(part).to(scores.device) for part in seen.places())
            scores[rows, codes] = -torch.inf
        return top_k(scores, k)


def _chosen(item: Tensor, scores: Tensor) -> Tensor:
    """Mark the candidates of each row, (B, codes); a row without any may choose from all."""
    marked = torch.zeros_like(scores, dtype=torch.bool).scatter(1, item.clamp(min=0), value=True)
    return marked | (item <= 0).all(1, keepdim=True)


class DotRanker(Ranker):
    """Score by the product of a user's and an item's vector; a bias is one more number in both."""

    @abstractmethod
    def item_vectors(self) -> Tensor:
        """Return one vector for each item code, (codes, f)."""

    def score(self, known: Tensor) -> Tensor:
        """Return all products."""
        return known @ self.item_vectors().T

    def rank(self, known: Tensor, k: int, seen: Seen | None = None) -> TopK:
        """Return the k best products, without keeping all scores."""
        return top_k_products(known, self.item_vectors(), k, seen=seen, first=1)

    @torch.no_grad()
    def similar(self, items: Tensor, k: int) -> TopK:
        """Return the items whose vectors have the nearest directions; scores are cosines."""
        directions = F.normalize(self.directions(), dim=1)
        own = Seen(start=np.arange(len(items) + 1), codes=items.cpu().numpy().astype(np.int32))
        return top_k_products(directions[items], directions, k, seen=own, first=1)

    def directions(self) -> Tensor:
        """Return the vectors whose directions are compared, (codes, f)."""
        return self.item_vectors()


def shared_scores(vectors: Tensor, table: Tensor, item: Tensor, correction: Tensor | None = None) -> Tensor:
    """Score candidates (…, 1 + K) whose last K are the same in every row, for vectors (…, f); see ItemCodesBlock.

    A candidate that is the chosen item itself gets -inf, and so does code 0. `correction` (codes,) is subtracted.
    """
    chosen, others = item[..., 0], item.reshape(-1, item.shape[-1])[0, 1:]
    first = (vectors * table[chosen]).sum(-1)
    rest = vectors @ table[others].T
    if correction is not None:
        first, rest = first - correction[chosen], rest - correction[others]
    same = (others == chosen.unsqueeze(-1)) | (others <= UNKNOWN)
    return torch.cat([first.unsqueeze(-1), rest.masked_fill(same, -torch.inf)], -1)
