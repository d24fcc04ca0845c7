"""The compiled loops, each against a plain one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork_collab.ranking_kernels import (
    CHUNK,
    _key,
    add_gram,
    dot_candidates,
    observed_errors,
    scan_bf16,
    scan_float,
    solve_rows,
)
from graftwork_collab.topk import NOTHING, top_k_products

NUMBERS = st.floats(-(2.0**100), 2.0**100, width=32)


def as_bits(values: list[float]) -> np.ndarray:
    return torch.tensor(values).bfloat16().view(torch.int16).numpy()


@settings(deadline=None)
@given(first=NUMBERS, second=NUMBERS)
def test_keys_of_bfloat16_compare_as_the_numbers_do(first: float, second: float):
    bits = as_bits([first, second])
    left, right = (float(v) for v in torch.from_numpy(bits.copy()).view(torch.bfloat16).float())
    keys = [int(_key(b)) for b in bits]
    if left != right:
        assert (keys[0] < keys[1]) == (left < right)


def test_minus_infinity_has_the_key_of_nothing():
    assert int(_key(as_bits([-torch.inf])[0])) == NOTHING
    assert int(_key(as_bits([-3e38])[0])) > NOTHING


def heaps(rows: int, k: int, kind: type, nothing: float) -> tuple[np.ndarray, np.ndarray]:
    return np.full((rows, k), nothing, dtype=kind), np.full((rows, k), -1, dtype=np.int64)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    columns=st.integers(1, 5 * CHUNK),
    k=st.integers(1, 12),
    first=st.integers(0, 1),
    offset=st.sampled_from([-50.0, 0.0, 50.0]),
)
def test_both_scans_keep_the_same_candidates(seed: int, columns: int, k: int, first: int, offset: float):
    rng = np.random.default_rng(seed)
    # Numbers that bfloat16 holds exactly, few enough for ties.
    scores = (rng.integers(-4, 5, (3, columns)) + offset).astype(np.float32)
    hidden = [rng.choice(columns, rng.integers(0, columns // 2 + 1), replace=False) for _ in range(3)]
    start = np.append(0, np.cumsum([len(part) for part in hidden])).astype(np.int64)
    seen = np.concatenate(hidden).astype(np.int32)
    visible = scores.copy()
    for row, part in enumerate(hidden):
        visible[row, part] = -np.inf
    visible[:, :first] = -np.inf
    values, codes = heaps(3, k, np.float32, -np.inf)
    scan_float(scores.copy(), first, start, seen, values, codes, 0, 3)
    keys, rounded = heaps(3, k, np.int16, NOTHING)
    bits = torch.from_numpy(scores).bfloat16().view(torch.int16).numpy().copy()
    scan_bf16(bits, first, start, seen, keys, rounded, 0, 3)
    for row in range(3):
        order = np.lexsort((np.arange(columns), -visible[row]))
        wanted = [int(c) for c in order if visible[row, c] > -np.inf][:k]
        assert sorted(c for c in codes[row].tolist() if c >= 0) == sorted(wanted)
        assert sorted(c for c in rounded[row].tolist() if c >= 0) == sorted(wanted)


def test_only_the_given_rows_are_touched():
    scores = np.ones((4, 10), dtype=np.float32)
    values, codes = heaps(4, 2, np.float32, -np.inf)
    scan_float(scores, 0, np.zeros(5, np.int64), np.zeros(0, np.int32), values, codes, 1, 3)
    assert codes.tolist() == [[-1, -1], [1, 0], [1, 0], [-1, -1]]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.sampled_from([1e-3, 1.0, 1e3]), shift=st.sampled_from([0.0, -3.0, 3.0]))
def test_rounding_never_shows(seed: int, scale: float, shift: float):
    rng = torch.Generator().manual_seed(seed)
    users, items = torch.randn(6, 9, generator=rng) * scale, torch.randn(300, 9, generator=rng)
    # Some items are far longer than others, as popular ones are.
    items[::50] *= 20
    items += shift
    found = top_k_products(users, items, 8, bf16=True)
    exact = users.double() @ items.double().T
    best = exact.topk(8, 1).values
    torch.testing.assert_close(exact.gather(1, found.codes), best, rtol=1e-5, atol=1e-5 * scale)


def test_products_of_candidates():
    rng = np.random.default_rng(0)
    users, items = rng.random((3, 5), dtype=np.float32), rng.random((7, 5), dtype=np.float32)
    codes = np.array([[0, 6], [-1, 2], [3, 3]])
    found = np.zeros((3, 2), dtype=np.float32)
    dot_candidates(users, items, codes, found, 0, 3)
    expected = np.where(codes < 0, -np.inf, np.einsum("uf,ukf->uk", users, items[codes]))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("rows", [1, 4, 7])
def test_gram_matrices_add_up(rows: int):
    vectors = np.random.default_rng(rows).random((rows, 6), dtype=np.float32)
    whole = np.zeros((6, 6), dtype=np.float32)
    for cut in ((0, rows // 2), (rows // 2, rows)):
        add_gram(vectors, *cut, whole)
    np.testing.assert_allclose(whole, vectors.T @ vectors, rtol=1e-5)


def test_no_steps_leave_rows_as_they_are_but_for_empty_ones():
    solved = np.ones((2, 3), dtype=np.float32)
    arguments = (np.array([0, 1, 1]), np.array([0], dtype=np.int32), np.ones(1, np.float32))
    vectors, gram, ridge = np.ones((1, 3), np.float32), np.eye(3, dtype=np.float32), np.ones(2, np.float32)
    solve_rows(*arguments, vectors, gram, ridge, solved, 0, 0, 2)
    assert solved.tolist() == [[1, 1, 1], [0, 0, 0]]


def test_a_row_that_is_solved_stays():
    vectors = np.array([[2.0]], dtype=np.float32)
    gram, ridge = vectors.T @ vectors, np.ones(1, dtype=np.float32)
    # (4 + 1 + 3 · 4) x = (1 + 3) · 2
    solved = np.array([[8 / 17]], dtype=np.float32)
    start, others, extra = np.array([0, 1]), np.zeros(1, dtype=np.int32), np.array([3.0], dtype=np.float32)
    solve_rows(start, others, extra, vectors, gram, ridge, solved, 5, 0, 1)
    assert solved[0, 0] == pytest.approx(8 / 17, rel=1e-6)
    errors = np.zeros(1)
    observed_errors(start, others, extra, vectors, solved, errors, 0, 1)
    score = 2 * 8 / 17
    assert errors[0] == pytest.approx(4 * (1 - score) ** 2 - score**2, rel=1e-5)
