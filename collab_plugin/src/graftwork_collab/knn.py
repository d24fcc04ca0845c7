"""Item-item nearest neighbours: who liked this also liked those."""

from __future__ import annotations

from typing import Any, ClassVar, Final, Literal, final

import numpy as np
import torch
from torch import Tensor, nn

from graftwork.api import ColumnLoader, Engine, EngineRun, ModelContext, ModelParts, OptionError, unknown
from graftwork_collab.als import no_interactions
from graftwork_collab.ranker import Ranker
from graftwork_collab.topk import Seen, TopK, top_k

__all__ = ["ItemKNN", "ItemKNNEngine", "Weighting", "item_knn", "weighed"]

Weighting = Literal["cosine", "tfidf", "bm25"]
_WEIGHTINGS: Final = ("cosine", "tfidf", "bm25")
ITEMS_AT_ONCE: Final = 2**25
BM25_K: Final = 1.2
BM25_B: Final = 0.75


def item_knn(
    ctx: ModelContext, *, neighbours: int = 50, weighting: Weighting = "tfidf", damping: float = 0.5, num_seen: int = 0
) -> ModelParts:
    """Build a model that adds up, over what a user has seen, the similarity of each item's `neighbours` nearest ones.

    The similarity is the product of two items' columns of users, in which an active user counts less ("tfidf", "bm25")
    or as much as anybody ("cosine"), divided by their lengths: that of the item seen to the power 2 - 2 damping, that
    of the item recommended to the power 2 damping; 0.5 is the cosine, and less prefers popular items (Sarwar et al.
    2001; Aiolli, "Efficient top-N recommendation for very large scale binary rated datasets", 2013).
    """
    if weighting not in _WEIGHTINGS:
        raise unknown("weighting", weighting, _WEIGHTINGS)
    if neighbours < 1 or not 0 <= damping <= 1:
        raise OptionError(f"neighbours={neighbours} must be at least 1 and damping={damping} between 0 and 1")
    module = ItemKNN(ctx, neighbours=neighbours, num_seen=num_seen)
    return ModelParts(module=module, engine=ItemKNNEngine(weighting, damping))


@final
class ItemKNN(Ranker):
    """Hold each item's neighbours and their similarities, (codes, neighbours); code 0 with 0 fills up."""

    rows_at_once: ClassVar[int] = 256
    neighbours: Tensor

    def __init__(self, ctx: ModelContext, *, neighbours: int, num_seen: int) -> None:
        """Know nothing yet."""
        super().__init__(ctx, num_seen=num_seen)
        width = min(neighbours, max(1, self.num_items - 2))
        self.register_buffer("neighbours", torch.zeros(self.num_items, width, dtype=torch.int32))
        self.similarities = nn.Parameter(torch.zeros(self.num_items, width))

    def represent(self, users: Tensor) -> Tensor:
        """Return what users have seen, (B, most), filled up with 0."""
        places, rows = self.places_of(users)
        return _filled(self.seen_items[places], rows, self.seen_start[users + 1] - self.seen_start[users])

    def represent_new(self, seen: Seen, weights: Tensor | None = None) -> Tensor:
        """Return the same for anybody; weights are not used."""
        device = self.similarities.device
        sizes = torch.from_numpy(np.diff(seen.start)).to(device)
        rows = torch.arange(len(sizes), device=device).repeat_interleave(sizes)
        return _filled(torch.from_numpy(seen.codes).to(device), rows, sizes)

    def score(self, known: Tensor) -> Tensor:
        """Add up the similarities to everything seen."""
        scores = torch.zeros(len(known), self.num_items, device=known.device)
        near, similar = self.neighbours[known].long().flatten(1), self.similarities[known].flatten(1)
        return scores.scatter_add_(1, near, similar)

    def similar(self, items: Tensor, k: int) -> TopK:
        """Return the nearest neighbours; there may be fewer than k."""
        found = top_k(self.similarities[items].masked_fill(self.neighbours[items] == 0, -torch.inf), k)
        near = self.neighbours[items].long().cpu()
        codes = near.gather(1, found.codes.clamp(min=0).cpu()).masked_fill(found.codes.cpu() < 0, -1)
        return TopK(scores=found.scores, codes=codes)

    def candidates(self, user: Tensor, item: Tensor, history: Tensor | None) -> Tensor:
        """Refuse: there is no gradient to follow."""
        raise OptionError("collab/item-knn is counted, not trained by batches; use fit(1) of its learner")


def _filled(codes: Tensor, rows: Tensor, sizes: Tensor) -> Tensor:
    width = int(sizes.max()) if len(sizes) else 0
    filled = torch.zeros(len(sizes), width, dtype=torch.int64, device=codes.device)
    ahead = sizes.cumsum(0) - sizes
    filled[rows, torch.arange(len(rows), device=codes.device) - ahead[rows]] = codes.long()
    return filled


def weighed(matrix: Any, weighting: Weighting) -> Any:
    """Return a sparse matrix (users, items) in which active users count less; see `item_knn`.

    As for texts, in which a user is a word and an item a text: log inverse frequency, and with "bm25" the number of an
    item's users as its length (k 1.2, b 0.75).
    """
    from scipy.sparse import diags_array

    if weighting == "cosine":
        return matrix
    users_of = np.asarray((matrix != 0).sum(0)).ravel()
    items_of = np.asarray((matrix != 0).sum(1)).ravel()
    rarity = np.log1p(matrix.shape[1] / np.maximum(items_of, 1)).astype(np.float32)
    rare = (diags_array(rarity) @ matrix).tocsr()
    if weighting == "tfidf":
        return rare
    length = (1 - BM25_B + BM25_B * users_of / max(users_of.mean(), 1e-9))[rare.indices]
    values = matrix.tocsr().data
    rare.data = (rare.data * (BM25_K + 1) / (values + BM25_K * length)).astype(np.float32)
    return rare


@final
class ItemKNNEngine(Engine):
    """Count in one epoch; the loss is the share of pairs of items that nobody has both of, which are not similar."""

    required: ClassVar[bool] = True

    def __init__(self, weighting: Weighting, damping: float) -> None:
        """Hold the options."""
        self.weighting, self.damping = weighting, damping

    def refuses(self, run: EngineRun) -> str | None:
        """Refuse data that is not the interactions of RankingDataLoaders."""
        return no_interactions(run)

    @torch.no_grad()
    def train_epoch(self, run: EngineRun) -> Tensor:
        """Compare all items with all others, some at a time, and keep the nearest."""
        from scipy.sparse import csr_matrix

        module, loader = run.module, run.loader
        assert isinstance(module, ItemKNN)
        assert isinstance(loader, ColumnLoader)
        users, items = (loader.columns[name].cpu().numpy().reshape(-1) for name in ("user", "item"))
        weights = np.ones(len(users), np.float32) if loader.weights is None else loader.weights.cpu().numpy()
        matrix = csr_matrix((weights, (users, items)), shape=(module.num_users, module.num_items))
        return torch.tensor([_fill(module, weighed(matrix, self.weighting), self.damping)])


def _fill(module: ItemKNN, matrix: Any, damping: float) -> float:
    """Write the nearest neighbours into the module; return the share of pairs that have nothing in common."""
    by_item = matrix.T.tocsr()
    lengths = np.sqrt(np.asarray(by_item.multiply(by_item).sum(1)).ravel())
    lengths[lengths == 0] = 1
    seen_scale = (lengths ** (2 * damping - 2)).astype(np.float32)
    shown_scale = (lengths ** (-2 * damping)).astype(np.float32)
    width, common = module.neighbours.shape[1], 0
    rows = max(1, ITEMS_AT_ONCE // module.num_items)
    for low in range(0, module.num_items, rows):
        high = min(low + rows, module.num_items)
        block = (by_item[low:high] @ matrix).toarray()
        common += int(np.count_nonzero(block))
        block *= seen_scale[low:high, None] * shown_scale
        block[np.arange(high - low), np.arange(low, high)] = 0
        # Nothing in common is no neighbour.
        block[block <= 0] = -np.inf
        found = top_k(torch.from_numpy(block), width)
        module.neighbours[low:high] = found.codes.clamp(min=0).int().to(module.neighbours.device)
        module.similarities[low:high] = found.scores.clamp(min=0).to(module.similarities.device)
    return 1 - common / module.num_items**2
