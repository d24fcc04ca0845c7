"""The k best of many scores, for all rows at once: blocked products, then a selection that beats a sort.

On a CPU that multiplies bfloat16 natively, products are computed so, four times as fast; the candidates that are left
are scored exactly, and a bound on the rounding proves that nobody else belongs among them. Rows where it does not are
computed again in float32, so that the answer is that of float32 in any case.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, TypeAlias, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graftwork.api import OptionError

__all__ = ["Seen", "TopK", "check_k", "in_threads", "top_k", "top_k_products"]

Floats: TypeAlias = NDArray[np.float32]
Codes: TypeAlias = NDArray[np.int64]

BLOCK_SCORES: Final = 2**25
"""Scores held at once: 64 MB of bfloat16. Threads hand over from products to selection, so their blocks are large."""
ALONE: Final = 4
"""By how much blocks are smaller in one thread, for which a cache is worth more."""
WORTH_THREADS: Final = 2**20
WIDTH: Final = 16
"""Vectors are padded to a multiple of this many numbers for bfloat16."""
NOTHING: Final = -32641
"""The order-preserving key of minus infinity in bfloat16: what a heap holds before it holds candidates."""
FEW: Final = 64
"""Rows below which float32 is as fast: items have to be read once in any case."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Hold, row by row, the columns that do not count: those of row r are `codes[start[r]:start[r + 1]]`."""

    start: Codes
    codes: NDArray[np.int32]

    @classmethod
    def nothing(cls, rows: int) -> Seen:
        """Return one that leaves nothing out."""
        return cls(start=np.zeros(rows + 1, dtype=np.int64), codes=np.zeros(0, dtype=np.int32))

    def rows(self, low: int, high: int) -> Seen:
        """Return some rows, as views."""
        return Seen(start=self.start[low : high + 1], codes=self.codes)

    def take(self, rows: Codes) -> Seen:
        """Return chosen rows, copied."""
        sizes = self.start[rows + 1] - self.start[rows]
        start = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])
        places = np.repeat(self.start[rows] - start[:-1], sizes) + np.arange(start[-1])
        return Seen(start=start, codes=self.codes[places])

    def places(self) -> tuple[Codes, Codes]:
        """Return rows and columns of everything left out."""
        rows = np.repeat(np.arange(len(self.start) - 1), np.diff(self.start))
        return rows, self.codes[self.start[0] : self.start[-1]].astype(np.int64)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TopK:
    """Hold the best columns of each row, best first: scores float32 and codes int64, (R, k).

    Where a row has fewer, the code is -1 and the score -inf. Of equal scores the smaller code comes first.
    """

    scores: Tensor
    codes: Tensor


def check_k(k: int, num_items: int) -> int:
    """Return k; raise OptionError unless it is between 1 and the number of items."""
    if not 1 <= k <= num_items:
        raise OptionError(f"k={k}: there are {num_items} items to rank; give a number from 1 to {num_items}")
    return k


def in_threads(work: Callable[[int, int], None], rows: int, cost: int) -> None:
    """Call `work(low, high)` on parts of the rows, in as many threads as torch uses if `cost` steps are worth it."""
    threads = torch.get_num_threads() if cost >= WORTH_THREADS else 1
    if threads == 1 or rows < 2:
        work(0, rows)
        return
    cuts = np.linspace(0, rows, 2 * threads + 1).astype(int)
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, int(low), int(high)) for low, high in pairwise(cuts)]:
            done.result()


# -- given scores ------------------------------------------------------------------------------------------------------


def top_k(scores: Tensor, k: int) -> TopK:
    """Return the k best columns of each row of scores (R, C); scores of -inf, and NaN, are never among them."""
    if scores.device.type != "cpu":
        return _by_torch(scores, k)
    rows = scores.detach().float().contiguous()
    return _scan(rows.numpy(), k, Seen.nothing(len(rows)), first=0)


def _by_torch(scores: Tensor, k: int) -> TopK:
    """Select with torch; columns that are too few are filled up with nothing."""
    width = min(k, scores.shape[1])
    found, codes = (
        scores.detach().float().nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf).topk(width, 1)
    )
    codes = codes.masked_fill(found == -torch.inf, -1)
    short = k - width
    return TopK(
        scores=torch.nn.functional.pad(found, (0, short), value=-torch.inf),
        codes=torch.nn.functional.pad(codes, (0, short), value=-1),
    )


def _scan(scores: Floats, k: int, seen: Seen, *, first: int) -> TopK:
    """Select by heaps; scores of what was seen are overwritten."""
    from graftwork_collab.ranking_kernels import scan_float

    rows = len(scores)
    values, codes = np.full((rows, k), -np.inf, dtype=np.float32), np.full((rows, k), -1, dtype=np.int64)

    def work(low: int, high: int) -> None:
        scan_float(scores, first, seen.start, seen.codes, values, codes, low, high)

    in_threads(work, rows, scores.size)
    return _best_first(values, codes, k)


def _best_first(values: Floats, codes: Codes, k: int) -> TopK:
    """Sort each row's entries and keep k."""
    order = np.lexsort((codes, -values), axis=1)[:, :k]
    return TopK(
        scores=torch.from_numpy(np.take_along_axis(values, order, 1)),
        codes=torch.from_numpy(np.take_along_axis(codes, order, 1)),
    )


# -- products ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def top_k_products(
    users: Tensor, items: Tensor, k: int, *, seen: Seen | None = None, first: int = 0, bf16: bool | None = None
) -> TopK:
    """Return the k best products of each row of `users` (R, f) with the rows of `items` (C, f), float32.

    `seen` says which do not count; nor do the items before `first`. `bf16` says whether to compute in bfloat16 first;
    None means where that is faster and `k` is small. The answer is the same.
    """
    seen = Seen.nothing(len(users)) if seen is None else seen
    if users.device.type != "cpu":
        return _on_device(users, items, k, seen, first)
    users, items = users.detach().float().contiguous(), items.detach().float().contiguous()
    if bf16 is None:
        bf16 = len(users) >= FEW and 8 * k < len(items) and _native_bf16()
    if not bf16:
        return _joined(_blocks(users, items, k, seen, first))
    found, proven = _by_bf16(users, items, k, seen, first)
    again = np.flatnonzero(~proven)
    if len(again):
        exact = _joined(_blocks(users[again], items, k, seen.take(again), first))
        found.scores[again], found.codes[again] = exact.scores, exact.codes
    return found


def _native_bf16() -> bool:
    """Say whether the processor multiplies bfloat16; False where Linux does not tell. torch does not say either."""
    info = Path("/proc/cpuinfo")
    flags = info.read_text(encoding="utf-8").partition("flags")[2].partition("\n")[0] if info.exists() else ""
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags.split())


def _joined(parts: list[TopK]) -> TopK:
    return TopK(scores=torch.cat([p.scores for p in parts]), codes=torch.cat([p.codes for p in parts]))


def _cuts(rows: int, columns: int) -> list[tuple[int, int]]:
    size = max(1, BLOCK_SCORES // (columns if torch.get_num_threads() > 1 else ALONE * columns))
    return [(low, min(low + size, rows)) for low in range(0, rows, size)] or [(0, 0)]


def _on_device(users: Tensor, items: Tensor, k: int, seen: Seen, first: int) -> TopK:
    parts = []
    for low, high in _cuts(len(users), len(items)):
        scores = (users[low:high] @ items.T).float()
        rows, columns = (torch.from_numpy(part).to(scores.device) for part in seen.rows(low, high).places())
        scores[rows, columns] = -torch.inf
        scores[:, :first] = -torch.inf
        parts.append(_by_torch(scores, k))
    return _joined(parts)


def _blocks(users: Tensor, items: Tensor, k: int, seen: Seen, first: int) -> list[TopK]:
    return [
        _scan((users[low:high] @ items.T).numpy(), k, seen.rows(low, high), first=first)
        for low, high in _cuts(len(users), len(items))
    ]


def _by_bf16(users: Tensor, items: Tensor, k: int, seen: Seen, first: int) -> tuple[TopK, NDArray[np.bool_]]:
    """Return the best by candidates found in bfloat16, and of which rows that is proven."""
    from graftwork_collab.ranking_kernels import dot_candidates, scan_bf16

    rows, width = len(users), 2 * k + 12
    keys, codes = np.full((rows, width), NOTHING, dtype=np.int16), np.full((rows, width), -1, dtype=np.int64)
    rounded_users, rounded_items = _rounded(users), _rounded(items).T
    cuts = _cuts(rows, len(items))
    buffer = torch.empty((cuts[0][1], len(items)), dtype=torch.bfloat16)
    for low, high in cuts:
        block = buffer[: high - low]
        torch.mm(rounded_users[low:high], rounded_items, out=block)
        bits, part = block.view(torch.int16).numpy(), seen.rows(low, high)
        own_keys, own_codes = keys[low:high], codes[low:high]

        def scan(
            a: int, b: int, bits: Any = bits, part: Seen = part, keys: Any = own_keys, codes: Any = own_codes
        ) -> None:
            scan_bf16(bits, first, part.start, part.codes, keys, codes, a, b)

        in_threads(scan, high - low, bits.size)
    scores = np.empty(codes.shape, dtype=np.float32)

    def score(low: int, high: int) -> None:
        dot_candidates(users.numpy(), items.numpy(), codes, scores, low, high)

    in_threads(score, rows, scores.size * users.shape[1])
    found = _best_first(scores, codes, k)
    return found, _proven(found, keys[:, 0], users, items)


def _rounded(vectors: Tensor) -> Tensor:
    padding = -vectors.shape[1] % WIDTH
    return torch.nn.functional.pad(vectors, (0, padding)).bfloat16()


def _proven(found: TopK, worst: NDArray[np.int16], users: Tensor, items: Tensor) -> NDArray[np.bool_]:
    """Say in which rows the k-th score is above all that a product left out can be.

    Both factors are rounded to 8 bits, so that a product is off by at most 2**-8 times the vectors' lengths, and so is
    the result, which is rounded once more; a little is added for float32.
    """
    bits = np.where(worst < 0, worst ^ 0x7FFF, worst).astype(np.int16)
    left_out = torch.from_numpy(bits).view(torch.bfloat16).float()
    longest = items.norm(dim=1).max()
    bound = left_out + (left_out.abs() + users.norm(dim=1) * longest * 1.02) * 2.0**-8
    everybody = torch.from_numpy(worst == NOTHING)
    proven: NDArray[np.bool_] = (everybody | (found.scores[:, -1] > bound)).numpy()
    return proven
