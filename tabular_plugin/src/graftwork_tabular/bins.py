"""Bins of numbers: where a column is cut, learned from training, and the piecewise-linear encoding between the cuts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final, final

import numpy as np
import torch
from torch import Tensor, nn

from graftwork.api import OptionError, unknown

__all__ = ["Bins", "NumberBins", "bins_of", "fit_bins", "standard_bins"]

Numbers = np.ndarray[Any, np.dtype[np.float32]]

MAX_ROWS: Final = 50_000
MAX_READ: Final = 10_000_000
WIDTH: Final = 2048
MAX_VALUES: Final = 128
MAX_BINS: Final = 32
BEYOND: Final = 1.0
"""How far, in widths of the outermost bin, the encoding goes on as a straight line."""
NARROWEST: Final = 1e-5
"""The least width of a bin, as a share of its edges' size: below it float32 has no digits left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bins:
    """Hold one column's n + 1 edges in rising order, and mean and deviation of each of the n encoded numbers."""

    edges: tuple[float, ...]
    means: tuple[float, ...]
    stds: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse edges that do not rise, and statistics of another number of bins."""
        if len(self.edges) < 2 or any(not a < b for a, b in zip(self.edges, self.edges[1:], strict=False)):
            raise OptionError(f"bins need two edges or more, each above the one before: {self.edges}")
        if not len(self.means) == len(self.stds) == len(self.edges) - 1 or min(self.stds) < 0:
            raise OptionError(f"{len(self.edges) - 1} bins need as many means and deviations of at least 0")

    def to_config(self) -> dict[str, list[float]]:
        """Return JSON values."""
        return {"edges": list(self.edges), "means": list(self.means), "stds": list(self.stds)}


def fit_bins(column: Numbers, *, max_values: int = MAX_VALUES, max_bins: int = MAX_BINS) -> Bins:
    """Learn a column's bins from its finite values in training.

    Up to `max_values` distinct values are all edges, so that the encoding can tell them apart; more are cut at
    quantiles into at most `max_bins` bins (Gorishniy et al., arXiv 2203.05556). There a value counts by the root of how
    often it occurs, so that a column of zeros, mostly, has its bins where it is not zero.
    """
    values, counts = np.unique(column, return_counts=True)
    if len(values) > max_values:
        values = values[_steps(np.sqrt(counts), max_bins)]
    edges = _apart(values.astype(np.float64))
    encoded = np.clip((column[:, None] - edges[:-1]) / np.diff(edges), *_bounds(len(edges) - 1))
    means, stds = encoded.mean(0), encoded.std(0)
    return Bins(edges=_short(edges), means=_short(means), stds=_short(stds))


def _steps(weights: np.ndarray[Any, Any], count: int) -> np.ndarray[Any, Any]:
    """Return the positions that cut weights into at most `count` parts of equal sum, both ends with them."""
    total = np.cumsum(weights)
    inner = np.searchsorted(total, total[-1] * np.arange(1, count) / count)
    return np.unique(np.concatenate([[0], inner, [len(weights) - 1]]))


def _apart(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Drop edges too near to the one before; a column of one value gets a bin around it."""
    least = max(1e-30, 1e-12 * (values[-1] - values[0]))
    kept = [values[0]]
    for value in values[1:]:
        if value - kept[-1] >= max(least, NARROWEST * max(abs(value), abs(kept[-1]))):
            kept.append(value)
    half = max(0.5, NARROWEST * abs(values[0]))
    return np.array(kept) if len(kept) > 1 else np.array([values[0] - half, values[0] + half])


def _bounds(count: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    low, high = np.zeros(count), np.ones(count)
    low[0], high[-1] = -BEYOND, 1 + BEYOND
    return low, high


def _short(values: np.ndarray[Any, Any]) -> tuple[float, ...]:
    """Round to what float32 tells apart, so that an artifact's JSON stays small."""
    return tuple(float(f"{value:.8g}") for value in values.tolist())


def bins_of(names: Sequence[str], numbers: Tensor) -> dict[str, dict[str, list[float]]]:
    """Learn the bins of all columns of (N, columns) numbers; the more columns, the fewer bins each.

    Of more than 50,000 rows, fewer if there are hundreds of columns, as many are used, evenly spread.
    """
    if not names:
        return {}
    step = -(-len(numbers) // min(MAX_ROWS, MAX_READ // len(names)))
    rows = numbers[::step].cpu().float().numpy()
    share = max(4, WIDTH // len(names))
    limits = {"max_values": min(MAX_VALUES, share), "max_bins": min(MAX_BINS, share)}
    return {n: fit_bins(np.ascontiguousarray(rows[:, j]), **limits).to_config() for j, n in enumerate(names)}


def standard_bins(count: int = MAX_BINS) -> Bins:
    """Return bins that hold equal shares of the normal distribution, for numbers of mean 0 and deviation 1."""
    normal, shares = NormalDist(), np.arange(1, count) / count
    edges = (-3.0, *(normal.inv_cdf(float(share)) for share in shares), 3.0)
    means = 1 - (np.arange(count) + 0.5) / count
    return Bins(edges=edges, means=_short(means), stds=_short(np.sqrt(means * (1 - means))))


def read_bins(names: Sequence[str], given: Mapping[str, Any] | None) -> list[Bins]:
    """Return each column's bins from a model's options; those not given are the normal distribution's.

    Raises:
        UnknownName: bins of a column that is no number.
    """
    given = {} if given is None else given
    for name in given:
        if name not in names:
            raise unknown("number column", name, names)
    return [Bins(**{k: tuple(v) for k, v in given[n].items()}) if n in given else standard_bins() for n in names]


@final
class NumberBins(nn.Module):
    """Encode numbers (B, columns) piecewise linearly, (B, width): one number per bin.

    It is 0 below its bin, 1 above and the share of the way within (Gorishniy et al., arXiv 2203.05556), moved to mean 0
    and divided by its deviation to the power `power`: bins that few rows reach speak louder, or a net would learn them
    last.
    """

    column: Tensor
    edge: Tensor
    slope: Tensor
    low: Tensor
    high: Tensor
    shift: Tensor

    def __init__(self, bins: Sequence[Bins], *, power: float = 0.4) -> None:
        """Lay all columns' bins side by side; the buffers are not saved, since the options hold them."""
        super().__init__()
        places = [_places(b, power) for b in bins]
        joined = np.concatenate(places, 1) if places else np.empty((len(_BUFFERS), 0))
        for name, values in zip(_BUFFERS, joined, strict=True):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32), persistent=False)
        columns = [j for j, b in enumerate(bins) for _ in b.means]
        self.register_buffer("column", torch.tensor(columns, dtype=torch.int64), persistent=False)

    @property
    def width(self) -> int:
        """Number of all columns' bins together."""
        return len(self.edge)

    def forward(self, x: Tensor) -> Tensor:
        """Encode."""
        # The difference first: next to an edge it is exact, which x * slope would not be.
        part = torch.addcmul(self.shift, x.index_select(1, self.column) - self.edge, self.slope)
        return torch.clamp(part, self.low, self.high)


_BUFFERS: Final = ("edge", "slope", "low", "high", "shift")


def _places(bins: Bins, power: float) -> np.ndarray[Any, Any]:
    """Return one row for each of the buffers, float64."""
    edges, means, stds = (np.asarray(values) for values in (bins.edges, bins.means, bins.stds))
    low, high = _bounds(len(means))
    scale = (stds**2 + 1e-4) ** (-power / 2)
    return np.stack([edges[:-1], scale / np.diff(edges), (low - means) * scale, (high - means) * scale, -means * scale])
