"""Alternating least squares for implicit feedback: the users' vectors in closed form, then the items', in turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self, TypeAlias, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graftwork.api import ColumnLoader, Engine, EngineRun, ModelContext, ModelParts, OptionError
from graftwork_collab.ranker import DotRanker, embedding
from graftwork_collab.topk import Seen, in_threads

__all__ = ["ALS", "ALSEngine", "Rule", "Side", "als", "both_sides", "no_interactions", "solve"]

Codes: TypeAlias = NDArray[np.int64]

GATHERED: Final = 2**25
"""Numbers gathered at once on a device for which there is no compiled sweep."""
FOLD_IN_STEPS: Final = 12


def als(
    ctx: ModelContext,
    *,
    factors: int = 64,
    alpha: float = 3.0,
    reg: float = 0.01,
    reg_exponent: float = 1.0,
    steps: int = 3,
    num_seen: int = 0,
) -> ModelParts:
    """Build a factor model that alternating least squares trains; an epoch is one sweep over users and items.

    An interaction of weight w has confidence 1 + alpha w in a score of 1, all other pairs confidence 1 in a score of 0
    (Hu, Koren and Volinsky, "Collaborative filtering for implicit feedback datasets", 2008). A row with n interactions
    and N possible ones is held back by reg · alpha · (n + N / alpha) ** reg_exponent, as in Rendle et al. (arXiv
    2110.14037); with an exponent of 0 all rows alike. `steps` of conjugate gradients are taken for each row.
    """
    if factors < 1 or steps < 1:
        raise OptionError(f"factors={factors}, steps={steps}: both must be at least 1")
    if alpha <= 0 or reg < 0:
        raise OptionError(f"alpha={alpha} must be above 0 and reg={reg} not below")
    module = ALS(ctx, factors=factors, rule=Rule(alpha=alpha, reg=reg, exponent=reg_exponent), num_seen=num_seen)
    return ModelParts(module=module, engine=ALSEngine(module.rule, steps=steps))


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Say how much an interaction counts and how much rows are held back."""

    alpha: float
    reg: float
    exponent: float

    def ridge(self, counts: Tensor, possible: int) -> Tensor:
        """Return the ridge of rows with `counts` interactions out of `possible` ones, float32."""
        scale = self.reg * self.alpha
        return (scale * (counts.double() + possible / self.alpha) ** self.exponent).float()


@final
class ALS(DotRanker):
    """Hold one vector for each user and each item."""

    def __init__(self, ctx: ModelContext, *, factors: int, rule: Rule, num_seen: int) -> None:
        """Start with small random vectors."""
        super().__init__(ctx, num_seen=num_seen)
        self.rule = rule
        self.user_factors = embedding(self.num_users, factors, 0.01)
        self.item_factors = embedding(self.num_items, factors, 0.01)

    def item_vectors(self) -> Tensor:
        """Return the items' factors."""
        return self.item_factors

    def represent(self, users: Tensor) -> Tensor:
        """Return the users' factors."""
        return self.user_factors[users]

    @torch.no_grad()
    def represent_new(self, seen: Seen, weights: Tensor | None = None) -> Tensor:
        """Solve for new users as a sweep does, the items staying as they are."""
        items = self.item_factors.detach()
        extra = torch.ones(len(seen.codes)) if weights is None else weights.float().cpu()
        side = Side.of(seen.start, seen.codes, self.rule.alpha * extra, items.device)
        ridge = self.rule.ridge(side.counts, self.num_items - 1)
        solved = torch.zeros(len(seen.start) - 1, items.shape[1], device=items.device)
        return solve(side, items, ridge, solved, steps=FOLD_IN_STEPS)

    def candidates(self, user: Tensor, item: Tensor, history: Tensor | None) -> Tensor:
        """Refuse: there is no gradient to follow."""
        raise OptionError("collab/als is trained by sweeps, not by batches; use fit() of its learner")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """Hold a sparse matrix by rows: `others[start[r]:start[r + 1]]` with their `extra` confidence, on one device."""

    start: Tensor
    others: Tensor
    extra: Tensor

    @classmethod
    def of(cls, start: Codes, others: Any, extra: Tensor, device: torch.device) -> Self:
        """Put the parts onto a device."""
        return cls(
            start=torch.from_numpy(np.ascontiguousarray(start, dtype=np.int64)).to(device),
            others=torch.from_numpy(np.ascontiguousarray(others, dtype=np.int32)).to(device),
            extra=extra.float().contiguous().to(device),
        )

    @property
    def counts(self) -> Tensor:
        """Number of others of each row."""
        return self.start.diff()

    def arrays(self) -> tuple[Any, Any, Any]:
        """Return numpy views."""
        return self.start.numpy(), self.others.numpy(), self.extra.numpy()


def both_sides(
    loader: ColumnLoader, alpha: float, shape: tuple[int, int], device: torch.device, *, weighted: bool = True
) -> tuple[Side, Side]:
    """Return a loader's interactions by user and by item, with alpha times their weights."""
    from scipy.sparse import csr_matrix

    users, items = (loader.columns[name].cpu().numpy().reshape(-1) for name in ("user", "item"))
    given = loader.weights if weighted else None
    weights = np.ones(len(users), np.float32) if given is None else given.cpu().numpy()
    by_user = csr_matrix((weights * np.float32(alpha), (users, items)), shape=shape)
    by_item = by_user.tocsc()
    first, second = (Side.of(m.indptr, m.indices, torch.from_numpy(m.data), device) for m in (by_user, by_item))
    return first, second


def no_interactions(run: EngineRun) -> str | None:
    """Say why an engine cannot find the interactions it needs, or not compute with them; None if it can."""
    if not isinstance(run.loader, ColumnLoader) or not {"user", "item"} <= set(run.loader.columns):
        return "it needs the interactions of RankingDataLoaders"
    if "history" in run.loader.columns:
        return "the data is cut into histories, for sequential models; make it without history="
    if run.device.type == "mps":
        return "it needs float64, which MPS does not have; use Runtime(device='cpu')"
    return None


@final
class ALSEngine(Engine):
    """Sweep over users and items; the loss is the mean of all confidences times squared errors."""

    required: ClassVar[bool] = True

    def __init__(self, rule: Rule, *, steps: int) -> None:
        """Hold the options; the interactions are sorted when training begins."""
        self.rule, self.steps = rule, steps
        self._loader: ColumnLoader | None = None
        self._sides: tuple[Side, Side] | None = None

    def refuses(self, run: EngineRun) -> str | None:
        """Refuse data that is not the interactions of RankingDataLoaders."""
        return no_interactions(run)

    def sides(self, run: EngineRun) -> tuple[Side, Side]:
        """Return the interactions by user and by item, sorted once for a loader."""
        loader, module = run.loader, run.module
        assert isinstance(loader, ColumnLoader)
        assert isinstance(module, ALS)
        if self._sides is None or self._loader is not loader:
            shape = (module.num_users, module.num_items)
            self._sides, self._loader = both_sides(loader, self.rule.alpha, shape, run.device), loader
        return self._sides

    @torch.no_grad()
    def train_epoch(self, run: EngineRun) -> Tensor:
        """Solve for the users, then for the items; factors that are frozen stay."""
        (by_user, by_item), module = self.sides(run), run.module
        assert isinstance(module, ALS)
        users, items = module.user_factors, module.item_factors
        for side, solved, others in ((by_user, users, items), (by_item, items, users)):
            if solved.requires_grad:
                ridge = self.rule.ridge(side.counts, len(others) - 1)
                solve(side, others.detach(), ridge, solved.detach(), steps=self.steps)
        return _loss(by_item, users.detach(), items.detach())


def _gram(vectors: Tensor) -> Tensor:
    """Return the sum of outer products, in parts whose sums do not depend on the number of threads."""
    from graftwork_collab.ranking_kernels import add_gram

    if vectors.device.type != "cpu":
        return vectors.T @ vectors
    cuts = np.linspace(0, len(vectors), 9).astype(int)
    parts = np.zeros((8, vectors.shape[1], vectors.shape[1]), dtype=np.float32)
    rows = vectors.numpy()

    def work(low: int, high: int) -> None:
        for part in range(low, high):
            add_gram(rows, cuts[part], cuts[part + 1], parts[part])

    in_threads(work, 8, vectors.numel() * vectors.shape[1])
    return torch.from_numpy(parts.sum(0))


def solve(side: Side, vectors: Tensor, ridge: Tensor, solved: Tensor, *, steps: int) -> Tensor:
    """Improve `solved` (N, f) in place by `steps` of conjugate gradients and return it; see `solve_rows`."""
    gram = _gram(vectors)
    if solved.device.type != "cpu":
        return _solve_on_device(side, vectors, gram, ridge, solved, steps)
    from graftwork_collab.ranking_kernels import solve_rows

    width = vectors.shape[1]
    start, others, extra = side.arrays()
    # Threads share the work evenly: a row costs about its others and the matrix.
    work_done = np.append(0, np.cumsum(np.diff(start) + width // 2))
    parts = 64
    cuts = [*np.searchsorted(work_done, np.linspace(0, work_done[-1], parts + 1)[:-1]).tolist(), len(solved)]

    def work(low: int, high: int) -> None:
        solve_rows(
            start, others, extra, vectors.numpy(), gram.numpy(), ridge.numpy(), solved.numpy(), steps,
            cuts[low], cuts[high],
        )  # fmt: skip

    in_threads(work, parts, int(work_done[-1]) * width)
    return solved


def _solve_on_device(side: Side, vectors: Tensor, gram: Tensor, ridge: Tensor, solved: Tensor, steps: int) -> Tensor:
    """Do what `solve_rows` does for all rows at once."""
    rows = torch.arange(len(solved), device=solved.device).repeat_interleave(side.counts)
    others, extra = side.others.long(), side.extra
    chunk = max(1, GATHERED // vectors.shape[1])

    def apply(x: Tensor) -> Tensor:
        out = x @ gram + ridge[:, None] * x
        for r, o, e in zip(rows.split(chunk), others.split(chunk), extra.split(chunk), strict=True):
            near = vectors[o]
            out.index_add_(0, r, near * ((near * x[r]).sum(1) * e)[:, None])
        return out

    wanted = torch.zeros_like(solved)
    for r, o, e in zip(rows.split(chunk), others.split(chunk), extra.split(chunk), strict=True):
        wanted.index_add_(0, r, vectors[o] * (1 + e)[:, None])
    solved[side.counts == 0] = 0
    rest = wanted - apply(solved)
    step, size = rest.clone(), rest.square().sum(1)
    for _ in range(steps):
        product = apply(step)
        length = torch.where(size > 1e-12, size / (step * product).sum(1), 0)[:, None]
        solved += length * step
        rest = rest - length * product
        before, size = size, rest.square().sum(1)
        step = rest + torch.where(before > 1e-12, size / before, 0)[:, None] * step
    return solved


def _loss(side: Side, users: Tensor, items: Tensor) -> Tensor:
    """Return the mean over all pairs of confidence times squared error, weighted by confidence, (1,)."""
    pairs = (len(users) - 1) * (len(items) - 1)
    everywhere = (_gram(users).double() * _gram(items).double()).sum()
    observed = _observed(side, users, items)
    return ((everywhere + observed) / (pairs + side.extra.double().sum())).float().reshape(1)


def _observed(side: Side, users: Tensor, items: Tensor) -> Tensor:
    from graftwork_collab.ranking_kernels import observed_errors

    if items.device.type == "cpu":
        errors = np.zeros(len(items))
        start, others, extra = side.arrays()

        def work(low: int, high: int) -> None:
            observed_errors(start, others, extra, users.numpy(), items.numpy(), errors, low, high)

        in_threads(work, len(items), len(others) * users.shape[1])
        return torch.tensor(errors.sum())
    rows = torch.arange(len(items), device=items.device).repeat_interleave(side.counts)
    total = torch.zeros((), dtype=torch.float64, device=items.device)
    chunk = max(1, GATHERED // items.shape[1])
    for r, o, e in zip(rows.split(chunk), side.others.long().split(chunk), side.extra.split(chunk), strict=True):
        score = (users[o] * items[r]).sum(1)
        total += ((1 + e) * (1 - score).square() - score.square()).double().sum()
    return total
