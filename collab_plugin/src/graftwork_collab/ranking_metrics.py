"""Metrics of rankings of the whole catalogue. All states lie on the device; only `compute` waits for it.

`predicted` holds each user's best item codes, best first, (U, depth), and -1 where there are no more; `target` the
codes of the held-out items, (U, M), padded with -1. A held-out item that training does not know has code 0: it counts
as one to be found, and nobody can. Users with nothing held out do not count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Self, final

import torch
from torch import Tensor

from graftwork.api import DataError, Metric, OptionError, metric_factory

__all__ = ["coverage", "hit_rate", "mean_ap", "mean_popularity", "mrr", "ndcg", "precision_at", "recall_at"]

K: Final = 10

# From hits (U, k), 0 or 1, and the number of held-out items (U,), at least 1, to one value a user.
PerUser = Callable[[Tensor, Tensor], Tensor]


def _first(k: int, name: str, predicted: Tensor) -> Tensor:
    """Return the first k codes of each user; raise DataError if there are fewer."""
    if predicted.ndim != 2 or predicted.is_floating_point() or predicted.shape[1] < k:
        raise DataError(
            f"{name} needs the {k} best item codes of each user, (users, {k} or more) integers; found "
            f"{tuple(predicted.shape)} of {str(predicted.dtype).removeprefix('torch.')}; "
            f"give the data k={k}: RankingDataLoaders.from_df(…, k={k})"
        )
    return predicted[:, :k]


def _checked(k: int, name: str) -> int:
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise OptionError(f"{name}(k={k!r}): k counts the places looked at; give a whole number of at least 1")
    return k


class _DeviceMean(Metric):
    """Average values; sum and count lie on the device."""

    def __init__(self, *, k: int, name: str) -> None:
        self.k, self.name = _checked(k, name), f"{name}@{k}"
        self._total: Tensor | None = None
        self._count: Tensor | None = None

    def add(self, values: Tensor, counted: Tensor) -> None:
        """Add the values that count."""
        self._add(_wide(torch.where(counted, values, 0)).sum(), counted.sum())

    def _add(self, total: Tensor, count: Tensor) -> None:
        # Not in place: the state may have been made in inference mode and be added to outside of it.
        self._total = total if self._total is None else self._total + total.to(self._total.device)
        self._count = count if self._count is None else self._count + count.to(self._count.device)

    def merge(self, other: Self) -> None:
        """Add what another one has seen."""
        if other._total is not None and other._count is not None:
            self._add(other._total, other._count)

    def compute(self) -> float:
        """Return the mean; NaN if nothing counts."""
        if self._total is None or self._count is None:
            raise _nothing_seen(self.name)
        count = int(self._count)
        return float(self._total) / count if count else float("nan")

    def reset(self) -> None:
        """Forget what was added."""
        self._total = self._count = None

    def to(self, device: torch.device | str) -> None:
        """Move the sums."""
        if self._total is not None and self._count is not None:
            self._total, self._count = self._total.to(device), self._count.to(device)

    def state_dict(self) -> dict[str, Any]:
        """Return the sums."""
        return {} if self._total is None else {"total": self._total, "count": self._count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the sums."""
        self._total, self._count = state.get("total"), state.get("count")


@final
class _UserMean(_DeviceMean):
    """Average a value over users with something held out."""

    higher_is_better = True

    def __init__(self, per_user: PerUser, *, k: int, name: str) -> None:
        super().__init__(k=k, name=name)
        self._per_user = per_user

    def update(self, predicted: Tensor, target: Tensor) -> None:
        """Add the users of a batch."""
        top = _first(self.k, self.name, predicted)
        hits = ((top[:, :, None] == target[:, None, :]) & (top > 0)[:, :, None]).any(2).float()
        held_out = (target >= 0).sum(1)
        self.add(self._per_user(hits, held_out.clamp(min=1)), held_out > 0)


def _wide(values: Tensor) -> Tensor:
    return values if values.device.type == "mps" else values.double()


def _nothing_seen(name: str) -> DataError:
    return DataError(f"metric {name!r} has seen no batch; call update(predicted, target) before compute()")


def _discounts(hits: Tensor) -> Tensor:
    """Return 1 / log2(place + 1) of the places 1, 2, …."""
    return 1 / torch.arange(2, hits.shape[1] + 2, device=hits.device, dtype=torch.float32).log2()


def _ndcg(hits: Tensor, held_out: Tensor) -> Tensor:
    discounts = _discounts(hits)
    best = discounts.cumsum(0)[held_out.clamp(max=hits.shape[1]) - 1]
    return (hits * discounts).sum(1) / best


def _recall(hits: Tensor, held_out: Tensor) -> Tensor:
    return hits.sum(1) / held_out


def _precision(hits: Tensor, held_out: Tensor) -> Tensor:
    return hits.mean(1)


def _places(hits: Tensor) -> Tensor:
    return torch.arange(1, hits.shape[1] + 1, device=hits.device, dtype=torch.float32)


def _reciprocal(hits: Tensor, held_out: Tensor) -> Tensor:
    return (hits / _places(hits)).amax(1)


def _average_precision(hits: Tensor, held_out: Tensor) -> Tensor:
    return (hits * hits.cumsum(1) / _places(hits)).sum(1) / held_out.clamp(max=hits.shape[1])


def _any_hit(hits: Tensor, held_out: Tensor) -> Tensor:
    return hits.amax(1)


@metric_factory
def ndcg(k: int = K) -> Metric:
    """Measure the discounted gain of the first k places over the best one could have (Järvelin, Kekäläinen 2002).

    An item held out is a gain of 1, divided by log2(place + 1); the best is min(k, number held out) items in front.
    """
    return _UserMean(_ndcg, k=k, name="ndcg")


@metric_factory
def recall_at(k: int = K) -> Metric:
    """Measure which share of a user's held-out items is among the first k."""
    return _UserMean(_recall, k=k, name="recall")


@metric_factory
def precision_at(k: int = K) -> Metric:
    """Measure which share of the first k places holds a held-out item."""
    return _UserMean(_precision, k=k, name="precision")


@metric_factory
def mrr(k: int = K) -> Metric:
    """Measure 1 / place of the first held-out item; 0 where it is not among the first k."""
    return _UserMean(_reciprocal, k=k, name="mrr")


@metric_factory
def mean_ap(k: int = K) -> Metric:
    """Measure the precision at each hit's place, summed and divided by min(k, number held out)."""
    return _UserMean(_average_precision, k=k, name="map")


@metric_factory
def hit_rate(k: int = K) -> Metric:
    """Measure the share of users with at least one held-out item among the first k."""
    return _UserMean(_any_hit, k=k, name="hit_rate")


# -- what is recommended, whether right or not -------------------------------------------------------------------------


@final
class _Coverage(Metric):
    """Mark the items that were recommended to anybody."""

    higher_is_better = True

    def __init__(self, num_items: int, k: int) -> None:
        self.k, self.name, self.num_items = _checked(k, "coverage"), f"coverage@{k}", num_items
        self._shown: Tensor | None = None

    def update(self, predicted: Tensor, target: Tensor) -> None:
        """Mark the items of a batch."""
        top = _first(self.k, self.name, predicted).clamp(min=0).flatten()
        shown = torch.zeros(self.num_items + 1, dtype=torch.bool, device=top.device)
        self._mark(shown.index_fill(0, top.long(), value=True))

    def _mark(self, shown: Tensor) -> None:
        self._shown = shown if self._shown is None else self._shown | shown.to(self._shown.device)

    def merge(self, other: Self) -> None:
        """Mark what the other has marked; raise DataError for another catalogue."""
        if other.num_items != self.num_items:
            raise DataError(f"coverage of {self.num_items} items cannot be merged with that of {other.num_items}")
        if other._shown is not None:
            self._mark(other._shown)

    def compute(self) -> float:
        """Return the share of the catalogue that is marked."""
        if self._shown is None:
            raise _nothing_seen(self.name)
        return float(self._shown[1:].sum()) / self.num_items

    def reset(self) -> None:
        """Forget all marks."""
        self._shown = None

    def to(self, device: torch.device | str) -> None:
        """Move the marks."""
        if self._shown is not None:
            self._shown = self._shown.to(device)

    def state_dict(self) -> dict[str, Any]:
        """Return the marks."""
        return {} if self._shown is None else {"shown": self._shown}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the marks."""
        self._shown = state.get("shown")


@final
class _Popularity(_DeviceMean):
    """Average the popularity of what was recommended, over all places."""

    higher_is_better = False

    def __init__(self, popularity: Tensor, k: int) -> None:
        super().__init__(k=k, name="popularity")
        self._popularity = popularity.detach().float()

    def update(self, predicted: Tensor, target: Tensor) -> None:
        """Add the places of a batch."""
        top = _first(self.k, self.name, predicted)
        if self._popularity.device != top.device:
            self._popularity = self._popularity.to(top.device)
        self.add(self._popularity[top.clamp(min=0)], top > 0)


@metric_factory
def coverage(k: int = K, *, num_items: int | None = None) -> Metric:
    """Measure the share of the catalogue that is among the first k of at least one user."""
    if num_items is None or num_items < 1:
        raise OptionError(
            f"coverage(num_items={num_items}): it is a share of the catalogue, so say how many items there are: "
            "coverage(num_items=data.num_items)"
        )
    return _Coverage(num_items, k)


@metric_factory
def mean_popularity(k: int = K, *, popularity: Tensor | None = None) -> Metric:
    """Measure how many users had the recommended items in training, a mean over the first k places of all users.

    `popularity` (item codes,) counts them. Lower is fresher, and not better in itself.
    """
    if popularity is None or popularity.ndim != 1:
        raise OptionError(
            "mean_popularity needs to know how popular each item is, one number a code: "
            "mean_popularity(popularity=data.popularity)"
        )
    return _Popularity(popularity, k)
