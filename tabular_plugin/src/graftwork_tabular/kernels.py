"""The inner loops, compiled by numba on first use and kept in its cache; all release the interpreter's lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import numba
import numpy as np

__all__ = ["add_powers", "kernel"]

P = ParamSpec("P")
R = TypeVar("R")
U64 = np.uint64


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function, keep it on disk, and let other threads run meanwhile."""
    return cast("Callable[P, R]", numba.njit(cache=True, nogil=True)(function))


@kernel
def add_powers(bits: Any, sums: Any, seen: Any) -> None:
    """Add finite doubles (as bits) and their squares to whole-number sums, eight in a row for each exponent.

    A double is m * 2**k with a whole m below 2**53. `sums` (2048 * 8,) int64: high part h and low part l (27 bits) of m
    with its sign, then words of 32 bits, upper and lower, of h * h, h * l, l * l. `seen` int64: NaNs, infinities.
    """
    half, word = U64(27), U64(32)
    low_half, low_word = U64((1 << 27) - 1), U64((1 << 32) - 1)
    for i in range(len(bits)):
        exponent = (bits[i] >> U64(52)) & U64(0x7FF)
        mantissa = bits[i] & U64((1 << 52) - 1)
        if exponent == U64(0x7FF):
            seen[0 if mantissa else 1] += 1
            continue
        if exponent == U64(0):
            exponent = U64(1)  # subnormal: no hidden bit, and the exponent of the smallest normal
        else:
            mantissa |= U64(1 << 52)
        high, low = mantissa >> half, mantissa & low_half
        row = exponent * U64(8)
        sign = np.int64(1) - np.int64(bits[i] >> U64(63)) * np.int64(2)
        sums[row] += np.int64(high) * sign
        sums[row + U64(1)] += np.int64(low) * sign
        outer, cross, inner = high * high, high * low, low * low
        sums[row + U64(2)] += np.int64(outer >> word)
        sums[row + U64(3)] += np.int64(outer & low_word)
        sums[row + U64(4)] += np.int64(cross >> word)
        sums[row + U64(5)] += np.int64(cross & low_word)
        sums[row + U64(6)] += np.int64(inner >> word)
        sums[row + U64(7)] += np.int64(inner & low_word)
