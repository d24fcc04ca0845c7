"""Resize bytes with Pillow's bilinear filter, to its levels or the next ones, without its 32 bits for each pixel.

Weights are triangles, as wide as the pixels that fall together when the picture shrinks, in fixed point. What lies
between the passes keeps six bits more than a byte (Pillow rounds there, and takes columns or rows first as it likes).
Compiled by numba on first use and kept in its cache: what is compiled calls what is in this file alone, as numba sees
only when this one changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.extending import intrinsic

__all__ = ["resize"]

P = ParamSpec("P")
R = TypeVar("R")

FINER = 6
ACROSS, DOWN = 22, 16
"""Bits of weights: with a byte, or one and six bits more, 30 in all."""
F32, I32, U64 = np.float32, np.int32, np.uint64
HALF_ACROSS, HALF_DOWN = I32(1 << (ACROSS - FINER - 1)), I32(1 << (FINER + DOWN - 1))


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function as it stands (no fast mathematics: bytes must be Pillow's), and let other threads run."""
    return cast("Callable[P, R]", numba.njit(cache=True, nogil=True, error_model="numpy")(function))


def leaf(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function that makes no array, without counting references to those it is given, as in `kernels`."""
    options: Any = {"cache": True, "nogil": True, "error_model": "numpy", "_nrt": False}
    return cast("Callable[P, R]", numba.njit(**options)(function))


def _mix(context: Any, upper: Any, lower: Any, weights: Any, count: Any, above: Any, below: Any) -> Any:
    """Mix pixels of three bytes that lie side by side, in two rows at once.

    The byte behind the pixels is read, and the number of 16 bits behind the result written.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        upper, lower, weights, count, above, below = arguments
        byte, i32, i64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
        pixel, lanes = ir.VectorType(byte, 4), ir.VectorType(i32, 8)

        def order(*places: int) -> Any:
            return ir.Constant(ir.VectorType(i32, len(places)), list(places))

        def load(address: Any, index: Any, step: int, kind: Any) -> Any:
            place = builder.add(address, builder.mul(index, ir.Constant(i64, step)))
            return builder.load(builder.inttoptr(place, kind.as_pointer()), align=1 if kind is pixel else 4)

        total: Any = cgutils.alloca_once_value(builder, ir.Constant(lanes, [int(HALF_ACROSS)] * 8))  # type: ignore[no-untyped-call]
        with cgutils.for_range(builder, count) as loop:
            both = [load(row, loop.index, 3, pixel) for row in (upper, lower)]
            levels = builder.zext(builder.shuffle_vector(*both, order(*range(8))), lanes)
            weight = load(weights, loop.index, 4, i32)
            weight = builder.insert_element(ir.Constant(lanes, ir.Undefined), weight, ir.Constant(i32, 0))
            weight = builder.shuffle_vector(weight, weight, order(*[0] * 8))
            builder.store(builder.add(builder.load(total), builder.mul(levels, weight)), total)
        mixed = builder.lshr(builder.load(total), ir.Constant(lanes, [ACROSS - FINER] * 8))
        mixed = builder.trunc(mixed, ir.VectorType(ir.IntType(16), 8))
        for place, half in ((above, order(0, 1, 2, 3)), (below, order(4, 5, 6, 7))):
            part = builder.shuffle_vector(mixed, mixed, half)
            builder.store(part, builder.inttoptr(place, ir.VectorType(ir.IntType(16), 4).as_pointer()), align=2)
        return context.get_dummy_value()

    address = types.uint64
    return types.void(address, address, address, types.int64, address, address), generate


mix: Any = intrinsic(_mix)


@kernel
def _weights(length: Any, start: Any, end: Any, count: Any, bits: Any) -> Any:
    """Say for each of `count` pixels between `start` and `end` which come first of those it is mixed of, and weights.

    All get as many weights, (count, most), some of which may be 0.
    """
    # Pillow keeps the ends, and how far apart they are, in 32 bits.
    start, scale = F32(start), F32(F32(end) - F32(start)) / np.float64(count)
    wide = max(scale, 1.0)
    first, last = np.empty(count, np.int64), np.empty(count, np.int64)
    for k in range(count):
        centre = np.float64(start) + (k + 0.5) * scale
        first[k], last[k] = max(int(centre - wide + 0.5), 0), min(int(centre + wide + 0.5), length)
    most = (last - first).max()
    weights, shares = np.zeros((count, most), np.int32), np.empty(most)
    for k in range(count):
        centre, total, many = start + (k + 0.5) * scale, 0.0, last[k] - first[k]
        for t in range(many):
            shares[t] = max(1.0 - abs((t + first[k] - centre + 0.5) * (1.0 / wide)), 0.0)
            total += shares[t]
        moved = max(first[k] + most - length, 0)
        first[k] -= moved
        for t in range(many):
            weights[k, moved + t] = I32(0.5 + shares[t] / total * (1 << bits))
    return first, weights


@leaf
def _colours(upper: Any, lower: Any, first: Any, weights: Any, above: Any, below: Any) -> None:
    """Mix two rows of colour pixels (W, 3) into two of another length, each with room for a number more."""
    count, most = weights.shape
    one, two, table = U64(upper.ctypes.data), U64(lower.ctypes.data), U64(weights.ctypes.data)
    to, other = U64(above.ctypes.data), U64(below.ctypes.data)
    for k in range(count):
        start, place = U64(3 * first[k]), U64(6 * k)
        mix(one + start, two + start, table + U64(4 * most * k), most, to + place, other + place)


@leaf
def _channels(row: Any, first: Any, weights: Any, result: Any) -> None:
    """Mix a row of pixels (W, C) of any number of channels."""
    count, most = weights.shape
    channels = row.shape[1]
    for k in range(count):
        for c in range(channels):
            total = HALF_ACROSS
            for t in range(most):
                total += I32(row[first[k] + t, c]) * weights[k, t]
            result[channels * k + c] = total >> (ACROSS - FINER)


@leaf
def _column(rows: Any, weights: Any, total: Any, result: Any) -> None:
    """Mix rows into one."""
    count = len(result)
    for j in range(count):
        total[j] = HALF_DOWN
    for t in range(len(weights)):
        weight, row = weights[t], rows[t]
        for j in range(count):
            total[j] += row[j] * weight
    for j in range(count):
        result[j] = total[j] >> (FINER + DOWN)


@kernel
def resize(pixels: Any, left: Any, top: Any, right: Any, bottom: Any, result: Any) -> None:
    """Fill `result` (h, w, C) with a part of `pixels` (H, W, C), both of bytes and contiguous."""
    height, width, channels = result.shape
    line = width * channels
    across, row_weights = _weights(pixels.shape[1], left, right, width, ACROSS)
    down, weights = _weights(pixels.shape[0], top, bottom, height, DOWN)
    most = weights.shape[1]
    begin, end = down[0], down[height - 1] + most
    middle = np.empty((end - begin, line + 1), np.uint16)
    padded = np.zeros((pixels.shape[1] + 1, channels), np.uint8)
    padded[:-1] = pixels[pixels.shape[0] - 1]  # behind the last row is nothing that may be read
    for y in range(begin, end, 2):
        below = min(y + 1, end - 1)
        upper = pixels[y] if y < pixels.shape[0] - 1 else padded
        lower = pixels[below] if below < pixels.shape[0] - 1 else padded
        if channels == 3:
            _colours(upper, lower, across, row_weights, middle[y - begin], middle[below - begin])
        else:
            _channels(upper, across, row_weights, middle[y - begin])
            _channels(lower, across, row_weights, middle[below - begin])
    total = np.empty(line, np.int32)
    for i in range(height):
        _column(middle[down[i] - begin : down[i] - begin + most], weights[i], total, result[i].reshape(-1))
