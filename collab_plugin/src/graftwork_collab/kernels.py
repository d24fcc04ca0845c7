"""The numba kernel of factor models: AdamW that works on the rows of a batch only, and ends where the dense one does.

A dense optimizer moves every row in every step: a row without a gradient still follows its fading momentum, and its
weights decay. Here a row is left alone until a batch needs it, and is then brought up to date in one go. If its last
step was s, and k steps passed it by since, they move a weight w with moments m and v by

    - sum over j = 1 … k of  lr[s+j] / (1 - b^(s+j)) * (b[s+1] * … * b[s+j]) * m / (root[s+j] * sqrt(v) + eps),

root[t]² being beta2^(t-s) / (1 - beta2^t), each term shrunk by the weight decay of the steps after it. Without the
root, and likewise without eps, this is m or m / sqrt(v) times a sum over the schedule that is the same for every row,
and that a difference of running tables gives exactly. Their ratio is the root to take for all steps at once: right
where either term of the denominator is much larger than the other, and very nearly so between. The rest has closed
forms.

The cells of a row are its weights, first and second moments, each `width` float32 wide: factors, bias, zeros. Users and
items are rows of one array, users first.
"""

from __future__ import annotations

import math
from typing import Final

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["CELL", "schedule_table", "train_epoch"]

CELL: Final = 32
"""Widths are multiples of this many numbers, so that vector loops have no rest."""

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Codes = NDArray[np.int64]

# All of fast math but the licence to take NaN and infinity for impossible: a loss that diverges must be seen.
_fast = numba.njit(cache=True, error_model="numpy", fastmath={"reassoc", "contract", "arcp", "nsz"})

# The columns of a schedule's table: a step's size; running sums of log momentum and of log kept weight; how far a first
# moment of 1 goes if no gradient comes any more, without and with each step divided by its root; 1 / sqrt(1 - beta2^t);
# beta2^(t/2).
_SIZE, _LOG_MOM, _LOG_KEPT, _PATH, _STEEP, _ROOT, _HALF = range(7)


@_fast
def schedule_table(rates: Doubles, momenta: Doubles, decay: float, beta2: float) -> Doubles:
    """Return what the kernel needs of a schedule, (steps + 1, 8), by the number of steps done.

    Momenta must stay below the root of beta2: only then does a row without gradients come to rest.
    """
    steps = rates.shape[0]
    table = np.zeros((steps + 1, 8))
    table[0, _HALF] = 1.0
    for t in range(1, steps + 1):
        table[t, _SIZE] = rates[t - 1] / (1.0 - momenta[t - 1] ** t)
        table[t, _LOG_MOM] = table[t - 1, _LOG_MOM] + math.log(max(momenta[t - 1], 1e-30))
        table[t, _LOG_KEPT] = table[t - 1, _LOG_KEPT] + math.log1p(-rates[t - 1] * decay)
        table[t, _ROOT] = 1.0 / math.sqrt(1.0 - beta2**t)
        table[t, _HALF] = beta2 ** (0.5 * t)
    for t in range(steps - 1, -1, -1):
        # What a step adds is decayed by the steps after it; seen from the end, it counts for more than they keep.
        size, fade = table[t + 1, _SIZE], momenta[t] / (1.0 - rates[t] * decay)
        table[t, _PATH] = fade * (size + table[t + 1, _PATH])
        table[t, _STEEP] = fade / math.sqrt(beta2) * (size / table[t + 1, _ROOT] + table[t + 1, _STEEP])
    return table


@_fast
def _catch_up(cells: Floats, row: int, start: int, end: int, table: Doubles, eps: float) -> tuple[float, float]:
    """Move a row's weights from after step `start` to after step `end`; return what is left of its two moments."""
    width, gap = cells.shape[1] // 3, end - start
    fading = table[end, _LOG_MOM] - table[start, _LOG_MOM]
    decayed = table[end, _LOG_KEPT] - table[start, _LOG_KEPT]
    # Numbers too small to be normal are slow to compute with, and are nothing.
    left, beyond = (math.exp(fading), math.exp(fading - decayed)) if fading > -46.0 else (0.0, 0.0)
    path = table[start, _PATH] - beyond * table[end, _PATH]
    steep = table[start, _STEEP] - (beyond / table[gap, _HALF] * table[end, _STEEP] if left > 0.0 else 0.0)
    kept, size = np.float32(math.exp(decayed)), np.float32(path)
    root, small = np.float32(path / steep if steep > 0.0 else 0.0), np.float32(eps)
    for j in range(width):
        reach = root * math.sqrt(cells[row, 2 * width + j]) + small
        cells[row, j] = kept * (cells[row, j] - size * cells[row, width + j] / reach)
    square = table[gap, _HALF] * table[gap, _HALF]
    return left, square if square > 1e-20 else 0.0


@_fast
def _step(
    cells: Floats,
    row: int,
    grads: Floats,
    slot: int,
    moments: tuple[float, float],
    rates: tuple[float, float],
    mom: float,
    beta2: float,
    root: float,
    eps: float,
) -> None:
    """Take one AdamW step with a gradient; `moments` is what is left of them, `rates` the step size and kept weight."""
    width = cells.shape[1] // 3
    keep_m, add_m = np.float32(mom * moments[0]), np.float32(1.0 - mom)
    keep_v, add_v = np.float32(beta2 * moments[1]), np.float32(1.0 - beta2)
    size, kept, slope, small = np.float32(rates[0]), np.float32(rates[1]), np.float32(root), np.float32(eps)
    for j in range(width):
        m = keep_m * cells[row, width + j] + add_m * grads[slot, j]
        v = keep_v * cells[row, 2 * width + j] + add_v * grads[slot, j] * grads[slot, j]
        cells[row, width + j] = m
        cells[row, 2 * width + j] = v
        cells[row, j] = kept * cells[row, j] - size * m / (slope * math.sqrt(v) + small)


@_fast
def _error(
    cells: Floats, user: int, item: int, bias: int, rating: float, low: float, span: float
) -> tuple[float, float]:
    """Return how far off the prediction is, and its slope over the score."""
    width = cells.shape[1] // 3
    score = np.float32(0)
    for j in range(width):
        score += cells[user, j] * cells[item, j]
    # The biases lie in the same column: their product is not meant, their sum is.
    score += cells[user, bias] + cells[item, bias] - cells[user, bias] * cells[item, bias]
    if span <= 0.0:
        return score - rating, 1.0
    part = 1.0 / (1.0 + math.exp(-score))
    return low + span * part - rating, span * part * (1.0 - part)


@_fast
def _push(
    cells: Floats, user: int, item: int, bias: int, grads: Floats, user_slot: int, item_slot: int, push: float
) -> None:
    """Add what a score's gradient `push` is to both rows' gradients."""
    width, force = cells.shape[1] // 3, np.float32(push)
    for j in range(width):
        grads[user_slot, j] += force * cells[item, j]
        grads[item_slot, j] += force * cells[user, j]
    grads[user_slot, bias] += force - force * cells[item, bias]
    grads[item_slot, bias] += force - force * cells[user, bias]


@_fast
def _settle(cells: Floats, seen: Codes, done: int, table: Doubles, eps: float) -> None:
    """Bring every row up to step `done`, moments included."""
    width = cells.shape[1] // 3
    for row in range(cells.shape[0]):
        if seen[row] < done:
            m, v = _catch_up(cells, row, seen[row], done, table, eps)
            for j in range(width):
                cells[row, width + j] *= np.float32(m)
                cells[row, 2 * width + j] *= np.float32(v)


@_fast
def train_epoch(
    cells: Floats,
    bias: int,
    users: Codes,
    items: Codes,
    ratings: Floats,
    order: Codes,
    bs: int,
    done: int,
    table: Doubles,
    rates: Doubles,
    momenta: Doubles,
    decay: float,
    beta2: float,
    eps: float,
    low: float,
    span: float,
) -> Floats:
    """Train the cells, in place, on an epoch of ratings in an order, from step `done` on; return each batch's loss.

    `users` and `items` are rows of `cells`, `bias` its column of biases. Ratings are low + span * sigmoid(score), or
    the score itself if span is 0. Afterwards the cells are those after the epoch's last step, of untouched rows too.
    """
    num_rows, width = order.shape[0], cells.shape[1] // 3
    losses = np.zeros((num_rows + bs - 1) // bs, np.float32)
    seen, marks, slots = np.full(cells.shape[0], done), np.full(cells.shape[0], -1), np.zeros(cells.shape[0], np.int64)
    rows, left = np.zeros(2 * bs, np.int64), np.zeros((2 * bs, 2))
    grads = np.zeros((2 * bs, width), np.float32)
    for batch in range(losses.shape[0]):
        begin, end, count = batch * bs, min(num_rows, (batch + 1) * bs), 0
        for n in range(2 * begin, 2 * end):
            row = items[order[n >> 1]] if n & 1 else users[order[n >> 1]]
            if marks[row] != batch:
                marks[row], slots[row], rows[count] = batch, count, row
                left[count, 0], left[count, 1] = 1.0, 1.0
                for j in range(width):
                    grads[count, j] = 0
                if seen[row] < done:
                    left[count, 0], left[count, 1] = _catch_up(cells, row, seen[row], done, table, eps)
                count += 1
        total = 0.0
        for n in range(begin, end):
            user, item = users[order[n]], items[order[n]]
            error, slope = _error(cells, user, item, bias, ratings[order[n]], low, span)
            total += error * error
            _push(cells, user, item, bias, grads, slots[user], slots[item], 2.0 * error * slope / (end - begin))
        losses[batch] = total / (end - begin)
        size = (table[done + 1, _SIZE], 1.0 - rates[done] * decay)
        for slot in range(count):
            _step(
                cells, rows[slot], grads, slot, (left[slot, 0], left[slot, 1]), size,
                momenta[done], beta2, table[done + 1, _ROOT], eps,
            )  # fmt: skip
            seen[rows[slot]] = done + 1
        done += 1
    _settle(cells, seen, done, table, eps)
    return losses
