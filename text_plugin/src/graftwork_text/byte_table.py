"""Number byte strings, in numba: a hash table whose keys lie one after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["Array", "Table", "find_key", "hashed", "intern", "intern_keys", "leaf", "new_table", "reserve"]

Array = NDArray[Any]
Kernel = TypeVar("Kernel", bound=Callable[..., Any])
LOW: Final = np.uint64(0xFFFFFFFF)
LEAF: Final[dict[str, Any]] = {"cache": True, "nogil": True, "_nrt": False}
leaf: Callable[[Kernel], Kernel] = njit(**LEAF)
"""For kernels that make no array, which numba checks: without its counting of references, an atomic addition for every
array of every call, on which threads wait for one another. The option is numba's own, not documented. Its files on disk
do not notice a change of this line: touch the files of the kernels.
"""


class Table(NamedTuple):
    """Hold keys, byte strings, each with a number: open addressing, and the keys one after another.

    A slot holds the upper half of a key's hash and its number plus 1; 0 is an empty one.
    """

    slots: Array
    hashes: Array
    ends: Array
    keys: Array
    size: int


def new_table() -> Table:
    """Return an empty table."""
    return Table(
        np.zeros(1 << 12, np.uint64), np.zeros(1 << 11, np.uint64), np.zeros(1 << 11, np.int64),
        np.zeros(1 << 14, np.uint8), 0,
    )  # fmt: skip


@njit(cache=True, nogil=True)
def reserve(slots: Array, hashes: Array, ends: Array, keys: Array, n: int, more: int, more_bytes: int) -> Any:
    """Make room for more keys, doubling."""
    need = n + more + 2
    if need > len(hashes):
        size = max(2 * len(hashes), need)
        wider, later = np.zeros(size, np.uint64), np.zeros(size, np.int64)
        wider[:n] = hashes[:n]
        later[: n + 1] = ends[: n + 1]
        hashes, ends = wider, later
    if ends[n] + more_bytes > len(keys):
        longer = np.zeros(max(2 * len(keys), ends[n] + more_bytes), np.uint8)
        longer[: ends[n]] = keys[: ends[n]]
        keys = longer
    if 2 * need > len(slots):
        size = len(slots)
        while 2 * need > size:
            size *= 2
        slots = np.zeros(size, np.uint64)
        mask = np.uint64(size - 1)
        for i in range(n):
            at = hashes[i] & mask
            while slots[at]:
                at = (at + np.uint64(1)) & mask
            slots[at] = (hashes[i] & ~LOW) | np.uint64(i + 1)
    return slots, hashes, ends, keys


@njit(cache=True, nogil=True, inline="always")
def hashed(buf: Array, a: int, b: int) -> np.uint64:
    """Return the hash of a key."""
    h = np.uint64(14695981039346656037)
    for i in range(a, b):
        h = (h ^ np.uint64(buf[i])) * np.uint64(1099511628211)
    return h ^ (h >> np.uint64(29))


@leaf
def _find(slots: Array, ends: Array, keys: Array, buf: Array, a: int, b: int, h: np.uint64) -> int:
    """Return a key's number, or -1 - the slot where it would go."""
    mask, high = np.uint64(len(slots) - 1), h & ~LOW
    at = h & mask
    while slots[at]:
        if slots[at] & ~LOW == high:
            i = np.int64(slots[at] & LOW) - 1
            first = ends[i]
            if ends[i + 1] - first == b - a:
                j = 0
                while j < b - a and keys[first + j] == buf[a + j]:
                    j += 1
                if j == b - a:
                    return int(i)
        at = (at + np.uint64(1)) & mask
    return -1 - int(at)


@leaf
def intern(
    slots: Array, hashes: Array, ends: Array, keys: Array, n: int, buf: Array, a: int, b: int, h: np.uint64
) -> int:
    """Return a key's number; a new key, for which there must be room, gets the next one."""
    found = _find(slots, ends, keys, buf, a, b, h)
    if found >= 0:
        return int(found)
    slots[-1 - found] = (h & ~LOW) | np.uint64(n + 1)
    hashes[n] = h
    end = ends[n]
    for j in range(b - a):
        keys[end + j] = buf[a + j]
    ends[n + 1] = end + b - a
    return n


@njit(cache=True, nogil=True)
def intern_keys(slots: Array, hashes: Array, ends: Array, keys: Array, n: int, buf: Array, key_ends: Array) -> Any:
    """Return a table's arrays with keys that lie one after another, its size, and the keys' numbers."""
    slots, hashes, ends, keys = reserve(slots, hashes, ends, keys, n, len(key_ends), len(buf))
    numbers, a = np.empty(len(key_ends), np.int32), 0
    for i in range(len(key_ends)):
        b = key_ends[i]
        numbers[i] = intern(slots, hashes, ends, keys, n, buf, a, b, hashed(buf, a, b))
        n, a = max(n, numbers[i] + 1), b
    return slots, hashes, ends, keys, n, numbers


@leaf
def find_key(slots: Array, ends: Array, keys: Array, buf: Array, a: int, b: int) -> int:
    """Return a key's number, or a number below 0."""
    return int(_find(slots, ends, keys, buf, a, b, hashed(buf, a, b)))
