"""The nearest neighbour under dynamic time warping: the old standard for series, and still hard to beat."""

from __future__ import annotations

from typing import Any, Final, Self

import numba
import numpy as np
import torch
from torch import Tensor

from graftwork.api import Baseline, DataLoaders, Loader
from graftwork_signals.baselines import fitted, num_classes, read_all

__all__ = ["NearestDTW", "dtw"]

MAX_ROWS: Final = 500
Floats = np.ndarray[Any, np.dtype[np.float32]]


@numba.njit(cache=True, nogil=True)
def dtw(a: Floats, b: Floats, band: int, bound: float) -> float:
    """Return the squared distance of a and b (channels, length) along the best warping path.

    The path stays within `band` steps of the diagonal. Above `bound` the search ends, and infinity is returned.
    """
    n, m = a.shape[1], b.shape[1]
    before, row = np.full(m + 1, np.inf), np.full(m + 1, np.inf)
    before[0] = 0.0
    for i in range(1, n + 1):
        row[:] = np.inf
        least = np.inf
        middle = i * m // n
        for j in range(max(1, middle - band), min(m, middle + band) + 1):
            cost = 0.0
            for c in range(a.shape[0]):
                step = a[c, i - 1] - b[c, j - 1]
                cost += step * step
            row[j] = cost + min(before[j], row[j - 1], before[j - 1])
            least = min(least, row[j])
        if least > bound:
            return np.inf
        before, row = row, before
    return float(before[m])


@numba.njit(cache=True, nogil=True)
def _nearest(x: Floats, known: Floats, band: int) -> Any:
    """Return, for each row of x, the row of `known` nearest to it; the first of equals."""
    found = np.zeros(len(x), dtype=np.int64)
    for i in range(len(x)):
        best = np.inf
        for j in range(len(known)):
            distance = dtw(x[i], known[j], band, best)
            if distance < best:
                best, found[i] = distance, j
    return found


class NearestDTW(Baseline):
    """Predict the class of the nearest training series; of more than 500, the nearest of 500 drawn from seed 0.

    The path strays from the diagonal by at most a tenth of the length.
    """

    name = "nearest-dtw"

    def __init__(self) -> None:
        """Know nothing yet."""
        self.known: tuple[Floats, Tensor] | None = None
        self.classes = 0

    def fit(self, data: DataLoaders) -> Self:
        """Keep the training series."""
        self.classes = num_classes(data.train)
        x, y = read_all(data.train)
        kept = torch.from_numpy(np.sort(np.random.default_rng(0).permutation(len(y))[:MAX_ROWS]))
        self.known = np.ascontiguousarray(x[kept].numpy()), y[kept]
        return self

    def predict(self, loader: Loader) -> Tensor:
        """Return 1 for the neighbour's class and 0 for the others, (N, classes)."""
        known, codes = fitted(self.known, self.name)
        x, _ = read_all(loader)
        nearest = _nearest(np.ascontiguousarray(x.numpy()), known, max(1, x.shape[2] // 10))
        return torch.nn.functional.one_hot(codes[torch.from_numpy(nearest)], self.classes).float()
