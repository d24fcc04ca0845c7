"""Compiled loops of the rankers: selecting the best scores, and the sweeps of alternating least squares.

All of them release the GIL and work on a range of rows, so that threads share a job; each row's result is the same
however rows are dealt out. They are compiled on first use and cached beside this file.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np

__all__ = ["add_gram", "dot_candidates", "observed_errors", "scan_bf16", "scan_float", "solve_rows"]

CHUNK = 64
APART = 256


@nb.njit(nogil=True, cache=True)
def _replace_root(values: Any, codes: Any, value: Any, code: Any) -> None:
    """Put an entry in the place of a heap's worst one; of equal values the larger code is the worse."""
    size, place = values.shape[0], 0
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and (
            values[child + 1] < values[child]
            or (values[child + 1] == values[child] and codes[child + 1] > codes[child])
        ):
            child += 1
        if values[child] > value or (values[child] == value and codes[child] < code):
            break
        values[place], codes[place] = values[child], codes[child]
        place = child
    values[place], codes[place] = value, code


@nb.njit(nogil=True, cache=True)
def _border(maxima: Any, values: Any, codes: Any, nothing: Any) -> Any:
    """Return the k-th largest of the chunks' maxima: at least k scores reach it. The heap is empty before and after."""
    for chunk in range(maxima.shape[0]):
        if maxima[chunk] > values[0]:
            _replace_root(values, codes, maxima[chunk], chunk)
    border = values[0]
    values[:] = nothing
    codes[:] = -1
    return border


@nb.njit(nogil=True, cache=True, fastmath={"nnan", "nsz"})
def scan_float(scores: Any, first: int, start: Any, seen: Any, values: Any, codes: Any, low: int, high: int) -> None:
    """Keep each row's largest scores (R, C) from column `first` on, but for the seen columns, in empty heaps (R, k).

    `seen[start[r]:start[r + 1]]` are the columns that do not count in row r; their scores are overwritten. Only chunks
    whose maximum is among the k largest ones are looked at a second time.
    """
    columns, nothing = scores.shape[1], np.float32(-np.inf)
    maxima = np.empty((columns - first + CHUNK - 1) // CHUNK, np.float32)
    for row in range(low, high):
        for place in range(start[row], start[row + 1]):
            scores[row, seen[place]] = nothing
        for chunk in range(maxima.shape[0]):
            begin = first + chunk * CHUNK
            best = nothing
            for column in range(begin, min(begin + CHUNK, columns)):
                if scores[row, column] > best:
                    best = scores[row, column]
            maxima[chunk] = best
        border = _border(maxima, values[row], codes[row], nothing)
        for chunk in range(maxima.shape[0]):
            if maxima[chunk] >= border:
                begin = first + chunk * CHUNK
                for column in range(begin, min(begin + CHUNK, columns)):
                    if scores[row, column] > values[row, 0]:
                        _replace_root(values[row], codes[row], scores[row, column], column)


@nb.njit(nogil=True, cache=True)
def _key(bits: Any) -> Any:
    """Return the bits of a bfloat16, int16, so that they compare as the numbers do."""
    return np.int16(bits ^ ((bits >> np.int16(15)) & np.int16(0x7FFF)))


@nb.njit(nogil=True, cache=True)
def _largest_key(scores: Any, row: int, begin: int, end: int) -> Any:
    """Return the largest key of some columns. The bits of positive numbers are their keys already."""
    best = np.int16(-32768)
    for column in range(begin, end):
        if scores[row, column] > best:
            best = scores[row, column]
    if best < 0:
        best = np.int16(-32768)
        for column in range(begin, end):
            best = max(best, _key(scores[row, column]))
    return best


@nb.njit(nogil=True, cache=True)
def scan_bf16(scores: Any, first: int, start: Any, seen: Any, values: Any, codes: Any, low: int, high: int) -> None:
    """Do what `scan_float` does for the bits of bfloat16 scores, int16; the values kept are order-preserving keys."""
    columns, infinite, nothing = scores.shape[1], np.int16(-128), np.int16(-32641)
    maxima = np.empty((columns - first + CHUNK - 1) // CHUNK, np.int16)
    for row in range(low, high):
        for place in range(start[row], start[row + 1]):
            scores[row, seen[place]] = infinite
        for chunk in range(maxima.shape[0]):
            begin = first + chunk * CHUNK
            maxima[chunk] = _largest_key(scores, row, begin, min(begin + CHUNK, columns))
        border = _border(maxima, values[row], codes[row], nothing)
        for chunk in range(maxima.shape[0]):
            if maxima[chunk] >= border:
                begin = first + chunk * CHUNK
                for column in range(begin, min(begin + CHUNK, columns)):
                    key = _key(scores[row, column])
                    if key > values[row, 0]:
                        _replace_root(values[row], codes[row], key, column)


@nb.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def dot_candidates(users: Any, items: Any, codes: Any, scores: Any, low: int, high: int) -> None:
    """Compute the products of each row's vector with those of its candidates; -inf for the code -1."""
    for row in range(low, high):
        for place in range(codes.shape[1]):
            code = codes[row, place]
            total = np.float32(0)
            if code < 0:
                total = np.float32(-np.inf)
            else:
                for k in range(users.shape[1]):
                    total += users[row, k] * items[code, k]
            scores[row, place] = total


# -- alternating least squares -----------------------------------------------------------------------------------------


@nb.njit(nogil=True, cache=True, fastmath=True)
def add_gram(vectors: Any, low: int, high: int, gram: Any) -> None:
    """Add the sum of outer products of rows (N, f) to `gram` (f, f)."""
    width = vectors.shape[1]
    row = low
    while row + 4 <= high:
        for j in range(width):
            a, b, c, d = vectors[row, j], vectors[row + 1, j], vectors[row + 2, j], vectors[row + 3, j]
            for k in range(width):
                gram[j, k] += (
                    a * vectors[row, k] + b * vectors[row + 1, k] + c * vectors[row + 2, k] + d * vectors[row + 3, k]
                )
        row += 4
    while row < high:
        for j in range(width):
            a = vectors[row, j]
            for k in range(width):
                gram[j, k] += a * vectors[row, k]
        row += 1


@nb.njit(nogil=True, cache=True, fastmath=True)
def _apply(gram: Any, others: Any, extra: Any, vectors: Any, ridge: Any, v: Any, out: Any) -> None:
    """Compute (gram + ridge I + sum of extra · y yᵀ over the row's others) v."""
    width = v.shape[0]
    for k in range(width):
        out[k] = ridge * v[k]
    j = 0
    # Eight rows of the matrix at a time: `out` is read and written once for all of them.
    while j + 8 <= width:
        a, b, c, d = v[j], v[j + 1], v[j + 2], v[j + 3]
        e, f, g, h = v[j + 4], v[j + 5], v[j + 6], v[j + 7]
        for k in range(width):
            out[k] += (a * gram[j, k] + b * gram[j + 1, k] + c * gram[j + 2, k] + d * gram[j + 3, k]) + (
                e * gram[j + 4, k] + f * gram[j + 5, k] + g * gram[j + 6, k] + h * gram[j + 7, k]
            )
        j += 8
    while j < width:
        a = v[j]
        for k in range(width):
            out[k] += a * gram[j, k]
        j += 1
    for place in range(others.shape[0]):
        other = others[place]
        dot = np.float32(0)
        for k in range(width):
            dot += vectors[other, k] * v[k]
        dot *= extra[place]
        for k in range(width):
            out[k] += dot * vectors[other, k]


@nb.njit(nogil=True, cache=True, fastmath=True)
def _descend(
    gram: Any, others: Any, extra: Any, vectors: Any, ridge: Any, x: Any, rest: Any, step: Any, product: Any, steps: int
) -> None:
    """Take steps of conjugate gradients; `rest` is what is missing at x, `step` and `product` are working memory."""
    width = x.shape[0]
    size = np.float32(0)
    for k in range(width):
        step[k] = rest[k]
        size += rest[k] * rest[k]
    for _ in range(steps):
        if size < 1e-12:
            break
        _apply(gram, others, extra, vectors, ridge, step, product)
        along = np.float32(0)
        for k in range(width):
            along += step[k] * product[k]
        length = size / along
        before, size = size, np.float32(0)
        for k in range(width):
            x[k] += length * step[k]
            rest[k] -= length * product[k]
            size += rest[k] * rest[k]
        for k in range(width):
            step[k] = rest[k] + (size / before) * step[k]


@nb.njit(nogil=True, cache=True, fastmath=True)
def solve_rows(
    start: Any,
    others: Any,
    extra: Any,
    vectors: Any,
    gram: Any,
    ridge: Any,
    solved: Any,
    steps: int,
    low: int,
    high: int,
) -> None:
    """Improve rows of `solved` (N, f) by steps of conjugate gradients towards their least-squares solution.

    Row n minimises the sum over all others of c (p - x·y)² + ridge[n] |x|², where p is 1 and c is 1 + extra for
    `others[start[n]:start[n + 1]]`, and p is 0 and c is 1 for all the rest, whose part is in `gram`. A row without
    others is 0. Takács, Pilászy and Tikk, "Applications of the conjugate gradient method for implicit feedback
    collaborative filtering" (2011).
    """
    width = vectors.shape[1]
    # Far from each other and from what else there is: compiled loops over near arrays round in another order, so that
    # results would depend on where memory happens to be.
    work = np.empty((5, max(width, APART)), np.float32)
    rest, step, product = work[1, :width], work[2, :width], work[3, :width]
    for row in range(low, high):
        begin, end = start[row], start[row + 1]
        x = solved[row]
        if begin == end:
            x[:] = 0
            continue
        near, more = others[begin:end], extra[begin:end]
        _apply(gram, near, more, vectors, ridge[row], x, product)
        for k in range(width):
            rest[k] = -product[k]
        for place in range(end - begin):
            weight = np.float32(1) + more[place]
            for k in range(width):
                rest[k] += weight * vectors[near[place], k]
        _descend(gram, near, more, vectors, ridge[row], x, rest, step, product, steps)


@nb.njit(nogil=True, cache=True, fastmath=True)
def observed_errors(
    start: Any, others: Any, extra: Any, vectors: Any, solved: Any, errors: Any, low: int, high: int
) -> None:
    """Compute each row's sum over its others of (1 + extra) (1 - x·y)² - (x·y)²: the rest of the loss is dense."""
    for row in range(low, high):
        total = np.float64(0)
        for place in range(start[row], start[row + 1]):
            other = others[place]
            score = np.float32(0)
            for k in range(vectors.shape[1]):
                score += vectors[other, k] * solved[row, k]
            total += (1 + extra[place]) * (1 - score) * (1 - score) - score * score
        errors[row] = total
