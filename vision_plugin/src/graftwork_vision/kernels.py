"""Bytes to augmented, normalised floats in one pass, compiled by numba on first use and kept in its cache.

Per row of the result: where its pixels come from, sampling them, lighting, normalising. Each is a loop of its own over
that row, so that compilers turn all but the sampling into vector code, and what lies between stays in the first cache.
numba sees when this file changes, not when another does: kernels call what is in here alone.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, ParamSpec, TypeVar, cast

import numba
import numpy as np
import torch
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types
from numba.extending import intrinsic
from torch import Tensor

from graftwork_vision.geometry import PAD_MODES, Warp

__all__ = ["Augmenter"]

P = ParamSpec("P")
R = TypeVar("R")
Array = np.ndarray[Any, Any]

F32, I32, U64 = np.float32, np.int32, np.uint64
REFLECTION, ZEROS = 0, 2  # as in PAD_MODES
FAR, HORIZON = F32(1000), F32(1e-4)
ZERO, QUARTER, HALF, ONE, TWO = F32(0), F32(0.25), F32(0.5), F32(1), F32(2)
# A table of what lighting makes of levels, sixteen to each of a byte's.
FINE = F32(16)
LEVELS, STEP = 255 * 16, 4
EPS = F32(1e-7)
PIECES: Final = 4
"""What a batch is cut into for each thread: one that starts late, or shares its core, takes fewer."""


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function, keep it on disk, and let other threads run meanwhile."""
    return cast("Callable[P, R]", numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")(function))


def leaf(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function that makes no array, without counting references to those it is given.

    Threads that count references to the same array wait for one another, at every call of a small function.
    """
    options: Any = {"cache": True, "nogil": True, "fastmath": True, "error_model": "numpy", "_nrt": False}
    return cast("Callable[P, R]", numba.njit(**options)(function))


def _blend(context: Any, above: Any, below: Any, right: Any, down: Any, place: Any) -> Any:
    """Mix 2x2 pixels of three bytes, two side by side at each address; write three floats and one of no use."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        above, below, right, down, place = arguments
        i32, i64, f32 = ir.IntType(32), ir.IntType(64), ir.FloatType()

        def lanes(*numbers: int) -> Any:
            return ir.Constant(ir.VectorType(i32, len(numbers)), list(numbers))

        def floats(eight: Any) -> Any:
            wide = builder.zext(builder.bitcast(eight, ir.VectorType(ir.IntType(8), 8)), ir.VectorType(i32, 8))
            return builder.sitofp(wide, ir.VectorType(f32, 8))

        def all_of(value: Any, count: int) -> Any:
            one = ir.Constant(ir.VectorType(f32, count), ir.Undefined)
            one = builder.insert_element(one, value, ir.Constant(i32, 0))
            return builder.shuffle_vector(one, one, lanes(*[0] * count))

        def between(first: Any, second: Any, share: Any) -> Any:
            return builder.fadd(first, builder.fmul(share, builder.fsub(second, first)))

        # Eight bytes are one load where six are two. Two of them are of no use: those after the upper pair, and those
        # before the lower one, so that nothing outside the picture is read.
        pointer = i64.as_pointer()
        upper = builder.load(builder.inttoptr(above, pointer), align=1)
        lower = builder.load(builder.inttoptr(builder.sub(below, ir.Constant(i64, 2)), pointer), align=1)
        lower = builder.lshr(lower, ir.Constant(i64, 16))
        pair = between(floats(upper), floats(lower), all_of(down, 8))
        left, rest = (builder.shuffle_vector(pair, pair, lanes(*at)) for at in ((0, 1, 2, 2), (3, 4, 5, 5)))
        mixed = between(left, rest, all_of(right, 4))
        builder.store(mixed, builder.inttoptr(place, ir.VectorType(f32, 4).as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64, types.float32, types.float32, types.uint64), generate


blend: Any = intrinsic(_blend)


@leaf
def _positions(matrix: Any, y: Any, xs: Any, right: Any, down: Any) -> None:
    """Say for a row of the result where its pixels come from, in [-1, 1]; nothing is further than 1,000 away."""
    m00, m10, m20 = matrix[0, 0], matrix[1, 0], matrix[2, 0]
    u, v, w = matrix[0, 1] * y + matrix[0, 2], matrix[1, 1] * y + matrix[1, 2], matrix[2, 1] * y + matrix[2, 2]
    for j in range(len(xs)):
        scale = m20 * xs[j] + w
        scale = ONE / (scale if scale > HORIZON else HORIZON)
        x, y1 = (m00 * xs[j] + u) * scale, (m10 * xs[j] + v) * scale
        x, y1 = x if x < FAR else FAR, y1 if y1 < FAR else FAR
        right[j], down[j] = x if x > -FAR else -FAR, y1 if y1 > -FAR else -FAR


@leaf
def _fold(places: Any) -> None:
    """Bring positions into the picture that mirrors at its edges; in place."""
    for j in range(len(places)):
        turn = places[j] * QUARTER + F32(0.75)
        # The cast rounds towards zero, so down where nothing is negative.
        turn -= F32(I32(I32(turn + F32(1024)) - I32(1024)))
        places[j] = abs(turn - HALF) * F32(4) - ONE


@leaf
def _pixels(size: Any, at: Any, right: Any, down: Any) -> None:
    """Turn positions into numbers of the pixels left above, and how far right and down of these they are."""
    high, wide = F32(size[0]), F32(size[1])
    last_x, last_y, left_of, above = wide - ONE, high - ONE, wide - F32(1.5), high - F32(1.5)
    for j in range(len(at)):
        x, y = (right[j] + ONE) * HALF * wide - HALF, (down[j] + ONE) * HALF * high - HALF
        x, y = x if x > ZERO else ZERO, y if y > ZERO else ZERO
        x, y = x if x < last_x else last_x, y if y < last_y else last_y
        column, row = F32(I32(x if x < left_of else left_of)), F32(I32(y if y < above else above))
        at[j] = I32(row) * I32(wide) + I32(column)
        right[j], down[j] = x - column, y - row


@leaf
def _to_nearest(right: Any, down: Any) -> None:
    """Make shares of the pixels right and below none or all; halfway is all."""
    for j in range(len(right)):
        right[j], down[j] = ONE if right[j] >= HALF else ZERO, ONE if down[j] >= HALF else ZERO


@leaf
def _mark_outside(at: Any, right: Any, down: Any, xs: Any, ys: Any) -> None:
    """Replace by -1 the pixels of positions (xs, ys) outside the picture, and have nothing mixed there."""
    for j in range(len(at)):
        if not (xs[j] >= -ONE and ys[j] >= -ONE and xs[j] < ONE and ys[j] < ONE):
            at[j], right[j], down[j] = I32(-1), -TWO, -TWO


@leaf
def _mark_faded(size: Any, at: Any, right: Any, down: Any, xs: Any, ys: Any) -> None:
    """Replace by -1 the pixels of positions (xs, ys) that nothing surrounds on some side, and leave these there."""
    high, wide = F32(size[0]), F32(size[1])
    for j in range(len(at)):
        x, y = (xs[j] + ONE) * HALF * wide - HALF, (ys[j] + ONE) * HALF * high - HALF
        if x < ZERO or y < ZERO or x > wide - ONE or y > high - ONE:
            at[j], right[j], down[j] = I32(-1), x, y


@leaf
def _faded(pixels: Any, x: Any, y: Any, channel: Any) -> Any:
    """Mix the pixels around a place that nothing surrounds on some side."""
    height, width = pixels.shape[0], pixels.shape[1]
    if x <= -ONE or y <= -ONE or x >= F32(width) or y >= F32(height):
        return ZERO
    column, row = I32(np.floor(x)), I32(np.floor(y))
    total = ZERO
    for i in range(2):
        for j in range(2):
            if 0 <= row + i < height and 0 <= column + j < width:
                share = (y - F32(row) if i else ONE - y + F32(row)) * (x - F32(column) if j else ONE - x + F32(column))
                total += share * F32(pixels[row + i, column + j, channel])
    return total


@leaf
def _colours(pixels: Any, at: Any, right: Any, down: Any, levels: Any) -> None:
    """Sample a row of colour pixels; `levels` has room for one float more."""
    start, line = U64(pixels.ctypes.data), U64(pixels.shape[1] * 3)
    result = U64(levels.ctypes.data)
    for j in range(len(at)):
        if at[j] >= 0:
            place = start + U64(at[j]) * U64(3)
            blend(place, place + line, right[j], down[j], result + U64(12 * j))
        else:
            for c in range(3):
                levels[3 * j + c] = _faded(pixels, right[j], down[j], c)


@leaf
def _channels(pixels: Any, at: Any, right: Any, down: Any, levels: Any) -> None:
    """Sample a row of pixels of any number of channels."""
    channels = pixels.shape[2]
    flat, line = pixels.reshape(-1), pixels.shape[1] * channels
    for j in range(len(at)):
        for c in range(channels):
            if at[j] < 0:
                levels[channels * j + c] = _faded(pixels, right[j], down[j], c)
                continue
            place = I32(at[j]) * channels + c
            upper = F32(flat[place]) + right[j] * (F32(flat[place + channels]) - F32(flat[place]))
            lower = F32(flat[place + line])
            lower += right[j] * (F32(flat[place + line + channels]) - lower)
            levels[channels * j + c] = upper + down[j] * (lower - upper)


@leaf
def _table(gain: Any, shift: Any, table: Any) -> None:
    """Write down what lighting makes of levels, in levels: exactly four to each, straight lines between those."""
    before = ZERO
    for k in range(0, LEVELS + 1, STEP):
        share = F32(k) / F32(LEVELS)
        share = min(max(share, EPS), ONE - EPS)
        after = F32(255) / (ONE + np.exp(-(gain * np.log(share / (ONE - share)) + shift)))
        for j in range(STEP if k else 0):
            table[k - j] = after + (before - after) * F32(j) / F32(STEP)
        before = after
    table[0] = ZERO


@leaf
def _lit(levels: Any, count: Any, table: Any, index: Any, scale: Any, offset: Any, result: Any) -> None:
    """Look levels up in the table, and normalise what is there."""
    for k in range(count):
        index[k] = I32(levels[k] * FINE + HALF)
    for k in range(count):
        result[k] = table[index[k]] * scale[k] + offset[k]


@leaf
def _unlit(levels: Any, count: Any, scale: Any, offset: Any, result: Any) -> None:
    for k in range(count):
        result[k] = levels[k] * scale[k] + offset[k]


@kernel
def _centres(count: Any) -> Any:
    found = np.empty(count, np.float32)
    for j in range(count):
        found[j] = (F32(j) + HALF) * TWO / F32(count) - ONE
    return found


@kernel
def _tiled(numbers: Any, count: Any) -> Any:
    found = np.empty(count, np.float32)
    for k in range(count):
        found[k] = numbers[k % len(numbers)]
    return found


@leaf
def _fetched(pixels: Any) -> Any:
    """Read a picture in order, once for every line of cache: what is sampled along slanted lines comes too late."""
    flat, total = pixels.reshape(-1), 0
    for k in range(0, len(flat), 64):
        total += flat[k]
    return total


@leaf
def _placed(
    matrix: Any, y: Any, xs: Any, size: Any, pad: Any, nearest: Any, at: Any, right: Any, down: Any, beyond: Any
) -> None:
    """Find for a row of the result what it is mixed of; `beyond` (2, width) is for places that nothing surrounds."""
    _positions(matrix, y, xs, right, down)
    if pad == REFLECTION:
        _fold(right)
        _fold(down)
    if pad == ZEROS:
        for j in range(len(xs)):
            beyond[0, j], beyond[1, j] = right[j], down[j]
    _pixels(size, at, right, down)
    if nearest:
        _to_nearest(right, down)
        if pad == ZEROS:
            _mark_outside(at, right, down, beyond[0], beyond[1])
    elif pad == ZEROS:
        _mark_faded(size, at, right, down, beyond[0], beyond[1])


@kernel
def augment(
    pixels: Any, matrices: Any, pad: Any, nearest: Any, gains: Any, shifts: Any, scale: Any, offset: Any, result: Any,
    first: Any, last: Any,
) -> None:  # fmt: skip
    """Make pictures `first` to `last` of `result` (B, h, w, C) float32 of `pixels` (B, H, W, C) bytes."""
    size, channels = pixels.shape[1:3], pixels.shape[3]
    height, width = result.shape[1], result.shape[2]
    xs, ys, count = _centres(width), _centres(height), width * channels
    at, right, down = np.empty(width, np.int32), np.empty(width, np.float32), np.empty(width, np.float32)
    beyond = np.empty((2, width), np.float32)
    levels, index = np.zeros(count + 16, np.float32), np.zeros(count, np.uint32)
    table, scales, offsets = np.empty(LEVELS + 1, np.float32), _tiled(scale, count), _tiled(offset, count)
    for b in range(first, last):
        lit = gains[b] != ONE or shifts[b] != ZERO
        if lit:
            _table(gains[b], shifts[b], table)
        index[0] = _fetched(pixels[b])
        for i in range(height):
            _placed(matrices[b], ys[i], xs, size, pad, nearest, at, right, down, beyond)
            if channels == 3:
                _colours(pixels[b], at, right, down, levels)
            else:
                _channels(pixels[b], at, right, down, levels)
            row = result[b, i].reshape(-1)
            if lit:
                _lit(levels, count, table, index, scales, offsets, row)
            else:
                _unlit(levels, count, scales, offsets, row)


class Augmenter:
    """Run the kernel over batches, a share of the pictures in each of torch's number of threads."""

    def __init__(self) -> None:
        """Start with no threads and no memory."""
        self._pool: ThreadPoolExecutor | None = None
        self._memory = _Memory()

    def __call__(
        self, pixels: Tensor, warp: Warp, gains: Tensor, shifts: Tensor, scale: Array, offset: Array
    ) -> Tensor:
        """Return float32 pictures (B, C, h, w), channels last, of bytes (B, C, H, W) of at least 2x2.

        They are sampled by the warp, bilinearly or at the nearest pixels; levels v from 0 to 1 become
        sigmoid(gain * logit(v) + shift), then v * scale + offset by channel. Gains and shifts are (B,), scale and
        offset (C,).
        """
        count, channels = pixels.shape[:2]
        result = self._memory.take((count, *warp.after, channels))
        make: Any = partial(
            augment,
            np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy()),
            warp.matrices.contiguous().numpy(),
            PAD_MODES.index(warp.pad_mode),
            warp.mode == "nearest",
            gains.contiguous().numpy(),
            shifts.contiguous().numpy(),
            scale,
            offset,
            result,
        )
        workers = min(torch.get_num_threads(), count)
        pieces = PIECES * workers if workers > 1 else 1
        edges = [count * k // pieces for k in range(pieces + 1)]
        todo = iter(list(itertools.pairwise(edges)))

        def work() -> None:
            for first, last in todo:
                make(first, last)

        if self._pool is None and workers > 1:
            self._pool = ThreadPoolExecutor(workers - 1, "graftwork-augment")
        others = [self._pool.submit(work) for _ in range(workers - 1)] if self._pool else []
        work()
        for other in others:
            other.result()
        return torch.from_numpy(result).permute(0, 3, 1, 2)


class _Memory:
    """Lend two arrays in turn, each again when no tensor made of it is left: fresh memory costs as much as the rest."""

    KEPT: Final = 2

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lent: list[tuple[Array, weakref.ref[Array]]] = []

    def take(self, shape: tuple[int, ...]) -> Array:
        with self._lock:
            free = [array for array, lent in self._lent if array.shape == shape and lent() is None]
            array = free[0] if free else np.empty(shape, np.float32)
            lent = array[:]  # a tensor keeps this view alive, and its end is seen
            rest = [pair for pair in self._lent if pair[0] is not array]
            self._lent = [*rest[-(self.KEPT - 1) :], (array, weakref.ref(lent))]
        return lent
