"""Procs that bring numbers to one scale."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np

from graftwork.api import Block, Bound, OptionError
from graftwork_tabular.blocks import RowBlock
from graftwork_tabular.columns import Columns
from graftwork_tabular.procs import Fitting, TableTransform
from graftwork_tabular.statistics import Moments, ValueCounts

__all__ = ["Normalize", "QuantileScale", "RobustScale"]

Scale = tuple[str, float, float]
CLIP = 3.0


def _scale_row(row: dict[str, Any], scales: Sequence[Scale]) -> dict[str, Any]:
    scaled = dict(row)
    for name, centre, width in scales:
        scaled[name] = (row[name] - centre) / width
    return scaled


@dataclass(frozen=True)
class Normalize(TableTransform):
    """Bring numbers to mean 0 and standard deviation 1 (ddof 0) of the training split.

    `scales` is what was learned: (column, mean, deviation); a constant column keeps deviation 1.
    """

    id: ClassVar[str] = "tabular/normalize"
    scales: tuple[Scale, ...] | None = None

    @property
    def needs_fit(self) -> bool:
        """Fit where nothing has been learned."""
        return self.scales is None

    def fitting(self, block: RowBlock) -> Fitting:
        """Sum exactly."""
        return _Normalizing(self, block.names("number"))

    def bind(self, block: Block) -> Bound:
        """Scale one row."""
        scales = self.scales or ()

        def decode(row: dict[str, Any]) -> dict[str, Any]:
            return {**row, **{name: row[name] * width + centre for name, centre, width in scales}}

        return Bound(lambda row, _: _scale_row(row, scales), decode)

    def encode_columns(self, columns: Columns, block: RowBlock, notes: list[str]) -> Columns:
        """Scale columns."""
        return {**columns, **{name: (columns[name] - centre) / width for name, centre, width in self.scales or ()}}


class _Normalizing(Fitting):
    def __init__(self, proc: Normalize, names: Sequence[str]) -> None:
        self.proc, self.moments = proc, {name: Moments() for name in names}

    def update(self, columns: Columns) -> None:
        for name, moments in self.moments.items():
            moments.update(columns[name])

    def merge(self, other: Self) -> None:
        for name, moments in self.moments.items():
            moments.merge(other.moments[name])

    def finish(self) -> Normalize:
        scales = tuple(
            (n, float(m.mean), float(m.std) or 1.0) if m.n else (n, 0.0, 1.0) for n, m in self.moments.items()
        )
        return replace(self.proc, scales=scales)


class _Counting(Fitting):
    """Count the values of the number columns."""

    def __init__(self, names: Sequence[str]) -> None:
        self.counts = {name: ValueCounts() for name in names}

    def update(self, columns: Columns) -> None:
        for name, counts in self.counts.items():
            counts.update(columns[name])

    def merge(self, other: Self) -> None:
        for name, counts in self.counts.items():
            counts.merge(other.counts[name])


@dataclass(frozen=True)
class RobustScale(TableTransform):
    """Bring numbers to median 0 and interquartile range 1, then squeeze what lies far out: x / sqrt(1 + (x / 3)^2).

    The squeezing is RealMLP's (Holzmüller et al., arXiv 2407.04491). Where half of the values are one, their range
    counts. `scales` is what was learned: (column, median, width).
    """

    id: ClassVar[str] = "tabular/robust-scale"
    squeeze: bool = True
    scales: tuple[Scale, ...] | None = None

    @property
    def needs_fit(self) -> bool:
        """Fit where nothing has been learned."""
        return self.scales is None

    def fitting(self, block: RowBlock) -> Fitting:
        """Count values."""
        return _Robust(self, block.names("number"))

    def bind(self, block: Block) -> Bound:
        """Scale one row."""
        scales = self.scales or ()

        def encode(row: dict[str, Any], _: Any) -> dict[str, Any]:
            scaled = _scale_row(row, scales)
            if self.squeeze:
                scaled |= {name: _squeezed(scaled[name]) for name, *_ in scales}
            return scaled

        def decode(row: dict[str, Any]) -> dict[str, Any]:
            return {**row, **{name: row[name] * width + centre for name, centre, width in scales}}

        return Bound(encode, None if self.squeeze else decode)

    def encode_columns(self, columns: Columns, block: RowBlock, notes: list[str]) -> Columns:
        """Scale columns."""
        scaled = {name: (columns[name] - centre) / width for name, centre, width in self.scales or ()}
        if self.squeeze:
            scaled = {name: _squeezed(values) for name, values in scaled.items()}
        return {**columns, **scaled}


def _squeezed(x: Any) -> Any:
    return x / np.sqrt(1 + (x / CLIP) ** 2)


class _Robust(_Counting):
    def __init__(self, proc: RobustScale, names: Sequence[str]) -> None:
        super().__init__(names)
        self.proc = proc

    def finish(self) -> RobustScale:
        return replace(self.proc, scales=tuple((name, *_robust(counts)) for name, counts in self.counts.items()))


def _robust(counts: ValueCounts) -> tuple[float, float]:
    """Return median and width: the interquartile range, or half the range, or 1."""
    if counts.n == 0:
        return 0.0, 1.0
    width = counts.quantile(0.75) - counts.quantile(0.25) or (counts.quantile(1.0) - counts.quantile(0.0)) / 2
    return float(counts.median), float(width) or 1.0


@dataclass(frozen=True)
class QuantileScale(TableTransform):
    """Bring numbers to the normal distribution by their rank in the training split, between knots at `num` quantiles.

    A value that many rows share gets the middle of their ranks, as in scikit-learn. `knots` is what was learned:
    (column, quantiles).
    """

    id: ClassVar[str] = "tabular/quantile-scale"
    num: int = 255
    knots: tuple[tuple[str, tuple[float, ...]], ...] | None = None

    def __post_init__(self) -> None:
        """Refuse fewer than two knots."""
        if self.num < 2:
            raise OptionError(f"{self.id}: num={self.num} must be at least 2")

    @property
    def needs_fit(self) -> bool:
        """Fit where nothing has been learned."""
        return self.knots is None

    def fitting(self, block: RowBlock) -> Fitting:
        """Count values."""
        return _Ranking(self, block.names("number"))

    def bind(self, block: Block) -> Bound:
        """Rank one row."""
        from statistics import NormalDist

        normal, knots = NormalDist(), self.knots or ()

        def encode(row: dict[str, Any], _: Any) -> dict[str, Any]:
            return {**row, **{name: normal.inv_cdf(_rank(row[name], points)) for name, points in knots}}

        return Bound(encode)

    def encode_columns(self, columns: Columns, block: RowBlock, notes: list[str]) -> Columns:
        """Rank columns."""
        return {**columns, **{name: _normal_scores(columns[name], points) for name, points in self.knots or ()}}


EDGE = 1e-4
"""Ranks stay this far from 0 and 1, so that scores stay within 3.72 deviations."""


def _rank(value: float, points: Sequence[float]) -> float:
    """Return the rank of a value between 0 and 1, linear between the points; the middle of equal points."""
    low, high = bisect_left(points, value), bisect_right(points, value)
    last = len(points) - 1
    if low != high:
        rank = (low + high - 1) / 2
    elif low == 0 or low > last:
        rank = float(min(low, last))
    else:
        rank = low - 1 + (value - points[low - 1]) / (points[low] - points[low - 1])
    return min(max(rank / last, EDGE), 1 - EDGE)


def _normal_scores(values: Any, points: Sequence[float]) -> Any:
    import torch

    knots = np.asarray(points)
    ranks = np.linspace(0, 1, len(knots))
    # Up and down differ where points are equal; their mean is the middle of the ranks.
    up = np.interp(values, knots, ranks)
    down = 1 - np.interp(-values, -knots[::-1], ranks)
    middle = np.clip((up + down) / 2, EDGE, 1 - EDGE)
    return torch.special.ndtri(torch.from_numpy(middle)).numpy()


class _Ranking(_Counting):
    def __init__(self, proc: QuantileScale, names: Sequence[str]) -> None:
        super().__init__(names)
        self.proc = proc

    def finish(self) -> QuantileScale:
        shares = np.linspace(0, 1, self.proc.num)
        knots = tuple(
            (name, tuple(float(counts.quantile(q)) for q in shares) if counts.n else (0.0, 1.0))
            for name, counts in self.counts.items()
        )
        return replace(self.proc, knots=knots)
