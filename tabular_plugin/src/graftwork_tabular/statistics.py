"""Statistics of a column that add up: parts merged in any order equal one pass over the whole, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self, final

import numpy as np

from graftwork.api import DataError, OptionError

__all__ = ["Moments", "ValueCounts"]

Values = np.ndarray[tuple[int], np.dtype[np.float64]]
Counts = np.ndarray[tuple[int], np.dtype[np.int64]]
UNIT: Final = 1074
"""The smallest double is 2**-1074; every double is a whole number of them."""
BUCKET_BITS: Final = 15
_SLICE: Final = 1 << 22


@final
class Moments:
    """Count, bounds, mean and standard deviation of the finite values of a column.

    Sums of x and x*x are kept exactly, as whole numbers of 2**-1074 and of its square, so the order of values does not
    matter. `n` finite values, `missing` NaNs and `infinite` values were seen; `min` and `max` are NaN while n is 0.
    """

    __slots__ = ("_squares", "_sum", "infinite", "max", "min", "missing", "n")

    def __init__(self) -> None:
        """Start with nothing."""
        self.n = self.missing = self.infinite = 0
        self.min = self.max = math.nan
        self._sum = self._squares = 0

    def update(self, values: np.ndarray) -> None:
        """Add values, NaN for missing; other types of numbers become float64 first."""
        doubles = _doubles(values)
        for begin in range(0, len(doubles), _SLICE):
            self._add(doubles[begin : begin + _SLICE])

    def merge(self, other: Moments) -> None:
        """Add what another has seen."""
        self._bounds(other.min, other.max)
        self.n, self.missing, self.infinite = (
            self.n + other.n,
            self.missing + other.missing,
            self.infinite + other.infinite,
        )
        self._sum, self._squares = self._sum + other._sum, self._squares + other._squares

    @property
    def mean(self) -> float:
        """The mean, correctly rounded; NaN without values."""
        return self._sum / (self.n << UNIT) if self.n else math.nan

    @property
    def std(self) -> float:
        """The standard deviation of the values seen (ddof 0), within one unit in the last place; NaN without values."""
        if not self.n:
            return math.nan
        spread = self.n * self._squares - self._sum**2
        shift = max(0, 130 - spread.bit_length()) & ~1
        return math.isqrt(spread << shift) / (self.n << (UNIT + shift // 2))

    def to_config(self) -> dict[str, Any]:
        """Return JSON; the exact sums are hexadecimal text."""
        bounds = [None, None] if not self.n else [self.min, self.max]
        counts = {"n": self.n, "missing": self.missing, "infinite": self.infinite}
        return {**counts, "bounds": bounds, "sum": hex(self._sum), "squares": hex(self._squares)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Rebuild moments; what are none is a DataError."""
        found = cls()
        try:
            found.n, found.missing, found.infinite = (int(config[name]) for name in ("n", "missing", "infinite"))
            found.min, found.max = (math.nan if bound is None else float(bound) for bound in config["bounds"])
            found._sum, found._squares = int(config["sum"], 16), int(config["squares"], 16)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"these are no moments: {error!r}; save them with to_config") from error
        return found

    def __eq__(self, other: object) -> bool:
        """Compare all that was seen, exactly."""
        return isinstance(other, Moments) and self.to_config() == other.to_config()

    def __hash__(self) -> int:
        """Hash the exact sum and the count."""
        return hash((self.n, self._sum))

    def _add(self, values: Values) -> None:
        from graftwork_tabular.kernels import add_powers

        sums, seen = np.zeros(2048 * 8, np.int64), np.zeros(2, np.int64)
        add_powers(values.view(np.uint64), sums, seen)
        missing, infinite = seen.tolist()
        self.n += len(values) - missing - infinite
        self.missing, self.infinite = self.missing + missing, self.infinite + infinite
        rows = sums.reshape(2048, 8)
        for exponent in np.flatnonzero(rows.any(1)).tolist():
            self._add_row(exponent - 1, rows[exponent].tolist())
        finite = values[np.isfinite(values)] if missing or infinite else values
        if len(finite):
            self._bounds(float(finite.min()), float(finite.max()))

    def _add_row(self, shift: int, row: list[int]) -> None:
        """Add what the kernel summed for one exponent."""
        high, low, *words = row
        outer, cross, inner = ((words[i] << 32) + words[i + 1] for i in (0, 2, 4))
        self._sum += ((high << 27) + low) << shift
        self._squares += ((outer << 54) + (cross << 28) + inner) << 2 * shift

    def _bounds(self, least: float, largest: float) -> None:
        """Widen the bounds; zero has no sign here, or the order of values would show."""
        self.min = least + 0.0 if math.isnan(self.min) or least < self.min else self.min
        self.max = largest + 0.0 if math.isnan(self.max) or largest > self.max else self.max


@final
class ValueCounts:
    """Count values exactly up to `limit` distinct ones; beyond it, values that agree in 15 binary places are one.

    Which of the two holds, and every figure, depends on the multiset of values alone. NaNs are `missing`; infinite
    values are counted in `infinite` and take no part in quantiles.
    """

    __slots__ = ("_counts", "_values", "exact", "infinite", "limit", "max", "min", "missing")

    def __init__(self, *, limit: int = 65_536) -> None:
        """Start with nothing."""
        if limit < 1:
            raise OptionError(f"limit={limit} must be 1 or more")
        self.limit, self.exact = limit, True
        self.missing = self.infinite = 0
        self.min = self.max = math.nan
        self._values: Values = np.zeros(0)
        self._counts: Counts = np.zeros(0, np.int64)

    @property
    def n(self) -> int:
        """The number of finite values."""
        return int(self._counts.sum())

    def update(self, values: np.ndarray) -> None:
        """Count values, NaN for missing; other types of numbers become float64 first."""
        doubles = _doubles(values)
        for begin in range(0, len(doubles), _SLICE):
            self._add(doubles[begin : begin + _SLICE])

    def merge(self, other: ValueCounts) -> None:
        """Count what another has counted; both need the same limit."""
        if other.limit != self.limit:
            raise OptionError(f"counts with limits {self.limit} and {other.limit} cannot be merged; use one limit")
        self.missing, self.infinite = self.missing + other.missing, self.infinite + other.infinite
        self.exact = self.exact and other.exact
        self._join(other._values, other._counts, other.min, other.max)

    def quantile(self, q: float) -> float:
        """Return a quantile, between values as numpy's linear method; NaN without values."""
        if not 0 <= q <= 1:
            raise OptionError(f"q={q} must be from 0 to 1")
        if not self.n:
            return math.nan
        place = q * (self.n - 1)
        below = math.floor(place)
        return _between(self._ranked(below), self._ranked(min(below + 1, self.n - 1)), place - below)

    @property
    def median(self) -> float:
        """The value in the middle."""
        return self.quantile(0.5)

    @property
    def mode(self) -> float:
        """The most frequent value, the least of several; NaN without values."""
        if not self.n:
            return math.nan
        most = int(self._counts.argmax())
        rank = int(self._counts[:most].sum()) + (int(self._counts[most]) - 1) // 2
        return self._ranked(rank)

    def to_config(self) -> dict[str, Any]:
        """Return JSON."""
        bounds = [None, None] if not self.n else [self.min, self.max]
        counted = {"values": self._values.tolist(), "counts": self._counts.tolist(), "bounds": bounds}
        return {"limit": self.limit, "exact": self.exact, "missing": self.missing, "infinite": self.infinite, **counted}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Rebuild counts; what are none is a DataError."""
        try:
            found = cls(limit=int(config["limit"]))
            found.exact, found.missing = bool(config["exact"]), int(config["missing"])
            found.infinite = int(config["infinite"])
            found._values = np.array(config["values"], np.float64)
            found._counts = np.array(config["counts"], np.int64)
            found.min, found.max = (math.nan if bound is None else float(bound) for bound in config["bounds"])
        except (KeyError, TypeError, ValueError, OptionError) as error:
            raise DataError(f"these are no counts of values: {error!r}; save them with to_config") from error
        if found._values.shape != found._counts.shape or not (found._values[1:] > found._values[:-1]).all():
            raise DataError("these are no counts of values: values must rise, with one count each")
        return found

    def __eq__(self, other: object) -> bool:
        """Compare all that was counted."""
        return isinstance(other, ValueCounts) and self.to_config() == other.to_config()

    def __hash__(self) -> int:
        """Hash what is quick to hash."""
        return hash((self.limit, self.missing, self.n))

    def _add(self, values: Values) -> None:
        finite = values[np.isfinite(values)] + 0.0
        missing = int(np.isnan(values).sum())
        self.missing, self.infinite = self.missing + missing, self.infinite + len(values) - len(finite) - missing
        if len(finite):
            least, largest = float(finite.min()), float(finite.max())
            kept = finite if self.exact else _truncated(finite)
            self._join(*np.unique(kept, return_counts=True), least, largest)

    def _join(self, values: Values, counts: Counts, least: float, largest: float) -> None:
        """Add rising values; too many distinct ones, or a part that has only buckets, make all of it buckets."""
        self.min, self.max = float(np.fmin(self.min, least)), float(np.fmax(self.max, largest))
        if len(values) > self.limit:
            self.exact = False
        self._sum_up([(self._values, self._counts), (values, counts)])
        if self.exact and len(self._values) > self.limit:
            self.exact = False
            self._sum_up([(self._values, self._counts)])

    def _sum_up(self, parts: Sequence[tuple[Values, Counts]]) -> None:
        if not self.exact:
            parts = [_runs(_truncated(values), counts) for values, counts in parts if len(values)]
        values, counts = (np.concatenate(several) for several in zip(*parts, strict=True))
        self._values, self._counts = _summed(values, counts)

    def _ranked(self, rank: int) -> float:
        """Return the value of that rank, from 0; in a bucket values are taken to lie evenly."""
        if rank in (0, self.n - 1):
            return self.min if rank == 0 else self.max
        ends = np.cumsum(self._counts)
        place = int(np.searchsorted(ends, rank, side="right"))
        value, count = float(self._values[place]), int(self._counts[place])
        if self.exact:
            return value
        share = (rank - int(ends[place]) + count + 0.5) / count
        return min(max(_inside(value, share), self.min), self.max)


def _doubles(values: np.ndarray) -> Values:
    found: Values = np.ascontiguousarray(values, np.float64).reshape(-1)
    return found


def _truncated(values: Values) -> Values:
    """Return values cut to 15 binary places; zero keeps no sign."""
    found: Values = (values.view(np.uint64) & np.uint64(~((1 << (52 - BUCKET_BITS)) - 1) & (2**64 - 1))).view(
        np.float64
    )
    return found + 0.0


def _summed(values: Values, counts: Counts) -> tuple[Values, Counts]:
    """Return values in order, each once, with the sum of its counts; quick for parts that are in order already."""
    order = np.argsort(values, kind="stable")
    return _runs(values[order], counts[order]) if len(values) else (values, counts)


def _runs(values: Values, counts: Counts) -> tuple[Values, Counts]:
    """Return each of the rising values once, with the sum of its counts."""
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    return values[starts], np.add.reduceat(counts, starts)


def _inside(edge: float, share: float) -> float:
    """Return a place between a bucket's edge and the next one away from zero; `share` counts from the smaller end."""
    if edge == 0.0:
        return edge
    width = math.ldexp(1.0, max(math.frexp(edge)[1] - 1, -1022) - BUCKET_BITS)
    return edge + width * share if edge > 0 else edge - width * (1 - share)


def _between(low: float, high: float, share: float) -> float:
    """Interpolate as numpy does, from the nearer end."""
    gap = high - low
    if math.isinf(gap):
        return low * (1 - share) + high * share
    return low + gap * share if share < 0.5 else high - gap * (1 - share)
