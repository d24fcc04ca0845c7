"""The kernel beside a dense AdamW, written down here as the textbook has it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork_collab import kernels

BETA2, EPS = 0.99, 1e-5


def one_cycle(steps: int, lr: float = 0.01) -> tuple[np.ndarray, np.ndarray]:
    share = np.arange(steps) / steps
    return lr * (0.05 + np.sin(np.pi * share) ** 2), 0.95 - 0.1 * np.sin(np.pi * share)


def dense_step(w, m, v, grad, t, lr, mom, decay):
    """Take step number t, from 1, of AdamW in float64."""
    m = mom * m + (1 - mom) * grad
    v = BETA2 * v + (1 - BETA2) * grad * grad
    reach = np.sqrt(v / (1 - BETA2**t)) + EPS
    return (1 - lr * decay) * w - lr / (1 - mom**t) * m / reach, m, v


class Problem:
    """A few users and items with random cells, and ratings of them in an order."""

    def __init__(self, seed=0, num_users=6, num_items=9, factors=5, num_ratings=40, bs=4, epochs=2):
        rng = np.random.default_rng(seed)
        self.bias, self.bs, self.num_users, self.width = factors, bs, num_users, kernels.CELL
        self.users = rng.integers(0, num_users, num_ratings)
        self.items = rng.integers(0, num_items, num_ratings) + num_users
        self.ratings = rng.uniform(1, 5, num_ratings).astype(np.float32)
        self.orders = [rng.permutation(num_ratings) for _ in range(epochs)]
        self.cells = np.zeros((num_users + num_items, 3 * self.width), np.float32)
        self.cells[:, : factors + 1] = rng.normal(0, 0.3, (num_users + num_items, factors + 1))
        self.rates, self.momenta = one_cycle(epochs * -(-num_ratings // bs))

    def by_kernel(self, decay=0.1, low=0.5, span=5.0, beta2=BETA2):
        cells, losses, done = self.cells.copy(), [], 0
        table = kernels.schedule_table(self.rates, self.momenta, decay, beta2)
        for order in self.orders:
            found = kernels.train_epoch(
                cells, self.bias, self.users, self.items, self.ratings, order, self.bs, done,
                table, self.rates, self.momenta, decay, beta2, EPS, low, span,
            )  # fmt: skip
            losses, done = [*losses, *found.tolist()], done + len(found)
        return cells, losses

    def densely(self, decay=0.1, low=0.5, span=5.0):
        w, m, v = (part.astype(np.float64) for part in np.split(self.cells, 3, axis=1))
        losses, t, f = [], 0, self.bias
        for order in self.orders:
            for start in range(0, len(order), self.bs):
                rows, grad = order[start : start + self.bs], np.zeros_like(w)
                u, i = self.users[rows], self.items[rows]
                score = (w[u, :f] * w[i, :f]).sum(1) + w[u, f] + w[i, f]
                part = 1 / (1 + np.exp(-score)) if span else None
                error = (low + span * part if span else score) - self.ratings[rows]
                push = 2 * error / len(rows) * (span * part * (1 - part) if span else 1)
                np.add.at(grad[:, :f], u, push[:, None] * w[i, :f])
                np.add.at(grad[:, :f], i, push[:, None] * w[u, :f])
                np.add.at(grad[:, f], u, push)
                np.add.at(grad[:, f], i, push)
                losses.append(float(np.mean(error**2)))
                t += 1
                w, m, v = dense_step(w, m, v, grad, t, self.rates[t - 1], self.momenta[t - 1], decay)
        return np.concatenate((w, m, v), 1), losses


@pytest.mark.parametrize("span", [5.0, 0.0])
@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_it_ends_where_dense_adamw_does(seed, decay, span):
    problem = Problem(seed)
    (found, losses), (wanted, dense_losses) = problem.by_kernel(decay, 0.5, span), problem.densely(decay, 0.5, span)
    width, moved = problem.width, np.abs(wanted - problem.cells)[:, : problem.width].max()
    assert moved > 0.05
    assert np.abs(found - wanted)[:, :width].max() < 0.02 * moved
    assert np.allclose(found[:, width:], wanted[:, width:], rtol=0.05, atol=2e-3)
    assert np.allclose(losses, dense_losses, rtol=0.01)


@pytest.mark.parametrize("seed", range(2))
def test_where_every_row_is_in_every_batch_it_is_the_same(seed):
    problem = Problem(seed, num_users=1, num_items=1, num_ratings=24, bs=4)
    (found, losses), (wanted, dense_losses) = problem.by_kernel(), problem.densely()
    assert np.allclose(found, wanted, rtol=1e-4, atol=1e-5)
    assert np.allclose(losses, dense_losses, rtol=1e-4)


@given(st.integers(1, 150), st.integers(1, 100), st.floats(0, 0.5), st.integers(0, 2**31))
@settings(deadline=None, max_examples=60)
def test_catching_up_is_walking_all_the_steps(start, gap, decay, seed):
    rng, end = np.random.default_rng(seed), start + gap
    rates, momenta = one_cycle(260)
    cells = np.zeros((1, 3 * kernels.CELL), np.float32)
    w, v = rng.normal(0, 1, 8), rng.uniform(1e-5, 1e-2, 8)
    m = rng.normal(0, 1, 8) * np.sqrt(v)
    for part, values in enumerate((w, m, v)):
        cells[0, part * kernels.CELL : part * kernels.CELL + 8] = values
    for t in range(start + 1, end + 1):
        w, m, v = dense_step(w, m, v, np.zeros(8), t, rates[t - 1], momenta[t - 1], decay)
    before = cells[0, :8].copy()
    table = kernels.schedule_table(rates, momenta, decay, BETA2)
    left_m, left_v = kernels._catch_up(cells, 0, start, end, table, EPS)
    assert np.allclose(cells[0, :8], w, atol=0.02 * np.abs(w - before).max() + 1e-5)
    assert np.allclose(cells[0, kernels.CELL :][:8] * left_m, m, rtol=1e-4, atol=1e-8)
    assert np.allclose(cells[0, 2 * kernels.CELL :][:8] * left_v, v, rtol=1e-4, atol=1e-12)
    assert not cells[0, 8 : kernels.CELL].any()


def test_a_row_nobody_rates_only_decays():
    problem = Problem(num_users=3)
    problem.users = problem.users % 2
    found, _ = problem.by_kernel(decay=0.5)
    kept = np.prod(1 - 0.5 * problem.rates)
    assert np.allclose(found[2], problem.cells[2] * kept, rtol=1e-5)
    assert not np.allclose(found[1], problem.cells[1] * kept, rtol=1e-2)


def test_padding_stays_zero_and_the_same_input_gives_the_same_bits():
    problem = Problem()
    (first, losses), (second, again) = problem.by_kernel(), problem.by_kernel()
    assert (first == second).all()
    assert losses == again
    parts = first.reshape(len(first), 3, problem.width)
    assert not parts[:, :, problem.bias + 1 :].any()
    assert parts[:, :, : problem.bias + 1].all()


def test_a_loss_that_is_no_number_is_seen():
    problem = Problem()
    problem.ratings[7] = np.nan
    _, losses = problem.by_kernel()
    assert np.isnan(losses).any()


def test_constant_momentum_and_none_at_all():
    problem = Problem()
    for mom in (0.9, 0.0):
        problem.momenta = np.full_like(problem.rates, mom)
        (found, _), (wanted, _) = problem.by_kernel(), problem.densely()
        moved = np.abs(wanted - problem.cells)[:, : problem.width].max()
        assert np.abs(found - wanted)[:, : problem.width].max() < 0.02 * moved


def test_a_last_batch_that_is_not_full():
    problem = Problem(num_ratings=41, bs=8)
    (_, losses), (_, wanted) = problem.by_kernel(), problem.densely()
    assert len(losses) == 12
    assert np.allclose(losses, wanted, rtol=0.01)


def test_very_long_gaps_leave_nothing_of_the_moments():
    rates, momenta = one_cycle(6000)
    table = kernels.schedule_table(rates, momenta, 0.1, BETA2)
    cells = np.ones((1, 3 * kernels.CELL), np.float32)
    assert kernels._catch_up(cells, 0, 10, 5990, table, EPS) == (0.0, 0.0)
    assert np.isfinite(cells).all()
