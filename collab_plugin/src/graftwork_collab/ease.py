"""EASE: each item predicted from all others by one ridge regression, in closed form, kept as vectors of items."""

from __future__ import annotations

from typing import ClassVar, Final, final

import numpy as np
import torch
from torch import Tensor, nn

from graftwork.api import ColumnLoader, Engine, EngineRun, ModelContext, ModelParts, OptionError
from graftwork_collab.als import Side, both_sides, no_interactions
from graftwork_collab.ranker import DotRanker, summed
from graftwork_collab.topk import Seen

__all__ = ["EASE", "EASEEngine", "ease"]

EXACT: Final = 2048
"""Users or items, whichever are fewer, up to which all singular vectors are computed."""
SPARE: Final = 16
ROUNDS: Final = 4


def ease(
    ctx: ModelContext, *, reg: float = 300.0, rank: int = 1024, num_seen: int = 0, weighted: bool = False
) -> ModelParts:
    """Build a linear item-item model (Steck, "Embarrassingly shallow autoencoders", arXiv 1905.03375).

    Its weights are B = I - P / diag(P), where P is the inverse of X'X + reg I and X (users, items) the interactions. P
    comes from the singular vectors of X, of which the first `rank` are kept: all of them where users or items are no
    more than that, and then the model is exactly that of the paper. With `weighted` X holds the interactions' weights.
    One epoch is all there is to train.
    """
    if reg <= 0 or rank < 1:
        raise OptionError(f"reg={reg} must be above 0 and rank={rank} at least 1")
    module = EASE(ctx, rank=rank, num_seen=num_seen, weighted=weighted)
    return ModelParts(module=module, engine=EASEEngine(reg))


@final
class EASE(DotRanker):
    """Hold the items' parts of the right singular vectors, how strong each one acts, and each item's scale.

    The score of an item a user has not seen is exactly that of the paper; that of an item they have seen also holds the
    item's own part.
    """

    def __init__(self, ctx: ModelContext, *, rank: int, num_seen: int, weighted: bool) -> None:
        """Know nothing yet."""
        super().__init__(ctx, num_seen=num_seen, weighted=weighted)
        width = min(rank, self.num_users - 1, self.num_items - 1)
        self.vectors = nn.Parameter(torch.zeros(self.num_items, width))
        self.gains = nn.Parameter(torch.zeros(width))
        self.scales = nn.Parameter(torch.ones(self.num_items))

    def item_vectors(self) -> Tensor:
        """Return the items' parts of the singular vectors, at the items' scales."""
        return self.vectors

    def represent(self, users: Tensor) -> Tensor:
        """Sum over what users have seen."""
        places, rows = self.places_of(users)
        start = nn.functional.pad(torch.bincount(rows, minlength=len(users)).cumsum(0), (1, 0))
        return self._sum(self.seen_items[places], start, self.seen_weights[places] if len(self.seen_weights) else None)

    def represent_new(self, seen: Seen, weights: Tensor | None = None) -> Tensor:
        """Do the same for anybody."""
        device = self.vectors.device
        codes, start = torch.from_numpy(seen.codes).to(device), torch.from_numpy(seen.start).to(device)
        return self._sum(codes, start, None if weights is None else weights.to(device))

    def _sum(self, codes: Tensor, start: Tensor, weights: Tensor | None) -> Tensor:
        unscaled = 1 / self.scales[codes]
        return summed(self.vectors, codes, start, unscaled if weights is None else unscaled * weights) * self.gains

    def directions(self) -> Tensor:
        """Return the vectors without scales, as strongly as they act."""
        return self.vectors / self.scales[:, None] * self.gains.clamp(min=0).sqrt()

    def candidates(self, user: Tensor, item: Tensor, history: Tensor | None) -> Tensor:
        """Refuse: there is no gradient to follow."""
        raise OptionError("collab/ease is solved in closed form, not trained by batches; use fit(1) of its learner")


@final
class EASEEngine(Engine):
    """Solve in one epoch; another one solves the same again. The loss is what is minimised, per user and item."""

    required: ClassVar[bool] = True

    def __init__(self, reg: float) -> None:
        """Hold the ridge."""
        self.reg = reg

    def refuses(self, run: EngineRun) -> str | None:
        """Refuse data that is not the interactions of RankingDataLoaders."""
        return no_interactions(run)

    @torch.no_grad()
    def train_epoch(self, run: EngineRun) -> Tensor:
        """Put the solution into the module."""
        module, loader = run.module, run.loader
        assert isinstance(module, EASE)
        assert isinstance(loader, ColumnLoader)
        by_user, by_item = both_sides(
            loader, 1.0, (module.num_users, module.num_items), run.device, weighted=len(module.seen_weights) > 0
        )
        squares, vectors = singular(by_user, by_item, module.vectors.shape[1], run.seed)
        gains = squares / (self.reg * (squares + self.reg))
        inverse = 1 / self.reg - vectors.double().square() @ gains.double()
        module.scales.copy_(1 / inverse)
        module.vectors.copy_(vectors * module.scales[:, None])
        module.gains.copy_(gains)
        # At the solution item j's squared error and ridge add up to 1 / P[j, j] - reg.
        least = (1 / inverse[1:] - self.reg).mean() / (module.num_users - 1)
        return least.float().reshape(1)


def singular(by_user: Side, by_item: Side, rank: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return the largest squared singular values (rank,) of a sparse matrix, and right singular vectors (C, rank)."""
    users, items = len(by_user.counts), len(by_item.counts)
    if min(users, items) - 1 <= EXACT:
        return _exact(by_user, by_item, rank)
    return _randomized(by_user, by_item, rank, seed)


def _exact(by_user: Side, by_item: Side, rank: int) -> tuple[Tensor, Tensor]:
    """Take the eigenvectors of X X' or X'X, whichever is smaller, in float64."""
    users, items = len(by_user.counts), len(by_item.counts)
    dense = torch.zeros((users, items), device=by_user.extra.device)
    rows = torch.arange(users, device=dense.device).repeat_interleave(by_user.counts)
    dense[rows, by_user.others.long()] = by_user.extra
    small = (dense @ dense.T if users < items else dense.T @ dense).double()
    values, vectors = torch.linalg.eigh(small)
    squares, vectors = values.flip(0)[:rank].clamp(min=0), vectors.flip(1)[:, :rank]
    if users < items:
        # Directions without any strength have no right vector; they count for nothing.
        strength = squares.sqrt()
        there = strength > 1e-6 * strength[0]
        vectors = dense.T.double() @ torch.where(there, vectors / strength.clamp(min=1e-30), 0)
    return squares.float(), vectors.float()


def _randomized(by_user: Side, by_item: Side, rank: int, seed: int) -> tuple[Tensor, Tensor]:
    """Iterate a random subspace (Halko, Martinsson and Tropp, arXiv 0909.4061); X itself is never made dense."""
    items, device = len(by_item.counts), by_user.extra.device
    width = min(rank + SPARE, len(by_user.counts) - 1, items - 1)
    start = np.random.default_rng(seed).standard_normal((items, width), dtype=np.float32)
    basis = torch.linalg.qr(torch.from_numpy(start).to(device)).Q
    for _ in range(ROUNDS):
        seen = summed(basis, by_user.others, by_user.start, by_user.extra)
        basis = torch.linalg.qr(summed(seen, by_item.others, by_item.start, by_item.extra)).Q
    seen = summed(basis, by_user.others, by_user.start, by_user.extra)
    values, turned = torch.linalg.eigh((seen.T @ seen).double())
    chosen = turned.flip(1)[:, :rank].float()
    return values.flip(0)[:rank].clamp(min=0).float(), basis @ chosen
