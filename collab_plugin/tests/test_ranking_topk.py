"""The k best: what a sort gives, whatever the way there; seen items never; ties by the smaller code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.api import OptionError
from graftwork_collab import topk
from graftwork_collab.topk import Seen, TopK, check_k, in_threads, top_k, top_k_products


def sorted_best(scores: torch.Tensor, k: int) -> TopK:
    """Sort all scores, the smaller code first among equals."""
    best = scores.sort(dim=1, descending=True, stable=True)
    values, codes = best.values[:, :k], best.indices[:, :k]
    return TopK(scores=values, codes=codes.masked_fill(values == -torch.inf, -1))


def some_seen(rows: int, columns: int, seed: int, most: int = 6) -> Seen:
    rng = np.random.default_rng(seed)
    lists = [rng.choice(columns, rng.integers(0, min(most, columns) + 1), replace=False) for _ in range(rows)]
    start = np.append(0, np.cumsum([len(found) for found in lists])).astype(np.int64)
    return Seen(start=start, codes=np.concatenate([*lists, np.zeros(0)]).astype(np.int32))


def masked(scores: torch.Tensor, seen: Seen, first: int) -> torch.Tensor:
    scores = scores.clone()
    rows, codes = seen.places()
    scores[rows, codes] = -torch.inf
    scores[:, :first] = -torch.inf
    return scores


@settings(max_examples=60, deadline=None)
@given(data=st.data(), rows=st.integers(1, 5), columns=st.integers(1, 200), k=st.integers(1, 30))
def test_given_scores_are_selected_as_by_a_sort(data, rows: int, columns: int, k: int):
    # Few different values, so that there are ties, and places that do not count.
    seed = data.draw(st.integers(0, 2**31))
    rng = torch.Generator().manual_seed(seed)
    scores = torch.randint(-3, 4, (rows, columns), generator=rng).float()
    scores[torch.rand(rows, columns, generator=rng) < 0.2] = -torch.inf
    found, wanted = top_k(scores, k), sorted_best(scores, k)
    width = wanted.codes.shape[1]
    assert torch.equal(found.codes[:, :width], wanted.codes)
    assert torch.equal(found.scores[:, :width], wanted.scores)
    assert (found.codes[:, width:] == -1).all()


def test_scores_are_not_changed_and_nan_is_never_best():
    scores = torch.tensor([[1.0, torch.nan, 3.0, -torch.inf]])
    before = scores.clone()
    found = top_k(scores, 4)
    assert found.codes.tolist() == [[2, 0, -1, -1]]
    assert torch.equal(scores.nan_to_num(), before.nan_to_num())


@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("rows", "columns", "width", "k"), [(40, 300, 5, 7), (3, 20, 1, 20), (70, 1000, 33, 10)])
def test_products_are_selected_as_by_a_sort(bf16: bool, seed: int, rows: int, columns: int, width: int, k: int):
    rng = torch.Generator().manual_seed(seed)
    users, items = torch.randn(rows, width, generator=rng), torch.randn(columns, width, generator=rng)
    seen = some_seen(rows, columns, seed)
    found = top_k_products(users, items, k, seen=seen, first=1, bf16=bf16)
    wanted = sorted_best(masked(users @ items.T, seen, 1), k)
    torch.testing.assert_close(found.scores, wanted.scores)
    same = found.codes == wanted.codes
    # Where codes differ, their scores must be equal but for rounding.
    assert same.float().mean() > 0.99


@pytest.mark.parametrize("bf16", [True, False])
def test_ties_go_to_the_smaller_code_and_need_no_proof(bf16: bool):
    users, items = torch.ones(5, 2), torch.ones(400, 2)
    items[7] = 2
    found = top_k_products(users, items, 4, first=1, bf16=bf16)
    assert found.codes.tolist() == [[7, 1, 2, 3]] * 5


@pytest.mark.parametrize("bf16", [True, False])
def test_somebody_who_has_seen_nearly_everything_gets_what_is_left(bf16: bool):
    items = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    seen = Seen(start=np.array([0, 57, 57]), codes=np.arange(1, 58, dtype=np.int32))
    found = top_k_products(torch.ones(2, 4), items, 5, seen=seen, first=1, bf16=bf16)
    assert sorted(found.codes[0].tolist()) == [-1, -1, -1, 58, 59]
    assert (found.scores[0, 2:] == -torch.inf).all()
    assert (found.codes[1] > 0).all()


def test_all_negative_products_are_ranked_too():
    items = -torch.rand(500, 3, generator=torch.Generator().manual_seed(1)) - 0.1
    users = torch.rand(30, 3, generator=torch.Generator().manual_seed(2)) + 0.1
    exact, rounded = (top_k_products(users, items, 6, bf16=way) for way in (False, True))
    assert torch.equal(exact.codes, rounded.codes)


def test_rows_without_proof_are_computed_again(monkeypatch: pytest.MonkeyPatch):
    # Scores that bfloat16 cannot tell apart: 8 bits are too few for differences of 1 in 10,000.
    items = torch.ones(400, 2)
    items[:, 1] = torch.arange(400) / 1e4
    users = torch.ones(3, 2)
    unproven = []
    monkeypatch.setattr(topk, "_blocks", lambda u, *rest, old=topk._blocks: unproven.append(len(u)) or old(u, *rest))
    found = top_k_products(users, items, 5, bf16=True)
    assert unproven == [3]
    assert found.codes.tolist() == [[399, 398, 397, 396, 395]] * 3


def test_a_proven_answer_is_not_computed_again(monkeypatch: pytest.MonkeyPatch):
    rng = torch.Generator().manual_seed(0)
    users, items = torch.randn(50, 16, generator=rng), torch.randn(2000, 16, generator=rng)
    monkeypatch.setattr(topk, "_blocks", lambda *_: pytest.fail("the proof failed"))
    top_k_products(users, items, 10, bf16=True)


def test_blocks_do_not_change_the_answer(monkeypatch: pytest.MonkeyPatch):
    rng = torch.Generator().manual_seed(3)
    users, items = torch.randn(50, 8, generator=rng), torch.randn(300, 8, generator=rng)
    seen = some_seen(50, 300, 3)
    whole = [top_k_products(users, items, 9, seen=seen, bf16=way) for way in (True, False)]
    monkeypatch.setattr(topk, "BLOCK_SCORES", 7 * 300)
    parts = [top_k_products(users, items, 9, seen=seen, bf16=way) for way in (True, False)]
    for found, wanted in zip(parts, whole, strict=True):
        assert torch.equal(found.codes, wanted.codes)


def test_torch_gives_the_same_as_the_kernels():
    rng = torch.Generator().manual_seed(4)
    scores = torch.randn(6, 50, generator=rng)
    scores[0, 3:] = -torch.inf
    for k in (5, 50, 60):
        ours, theirs = top_k(scores, k), topk._by_torch(scores, k)
        assert torch.equal(ours.codes, theirs.codes)
        assert torch.equal(ours.scores, theirs.scores)
    users, items = torch.randn(6, 4, generator=rng), torch.randn(50, 4, generator=rng)
    seen = some_seen(6, 50, 4)
    on_device = topk._on_device(users, items, 7, seen, 1)
    assert torch.equal(on_device.codes, top_k_products(users, items, 7, seen=seen, first=1).codes)


def test_threads_share_rows_and_pass_errors_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    done = np.zeros(100, dtype=int)

    def work(low: int, high: int) -> None:
        done[low:high] += 1

    in_threads(work, 100, topk.WORTH_THREADS)
    assert (done == 1).all()
    with pytest.raises(ZeroDivisionError):
        in_threads(lambda low, high: 1 / 0, 100, topk.WORTH_THREADS)


def test_chosen_rows_of_seen():
    seen = Seen(start=np.array([0, 2, 2, 5]), codes=np.array([4, 5, 6, 7, 8], dtype=np.int32))
    taken = seen.take(np.array([2, 0, 1, 2]))
    assert taken.start.tolist() == [0, 3, 5, 5, 8]
    assert taken.codes.tolist() == [6, 7, 8, 4, 5, 6, 7, 8]
    rows, codes = seen.rows(1, 3).places()
    assert (rows.tolist(), codes.tolist()) == ([1, 1, 1], [6, 7, 8])
    assert seen.take(np.zeros(0, dtype=np.int64)).start.tolist() == [0]


@pytest.mark.parametrize("k", [0, -3, 11])
def test_k_is_between_one_and_the_catalogue(k: int):
    with pytest.raises(OptionError, match=f"k={k}: there are 10 items"):
        check_k(k, 10)
    assert check_k(10, 10) == 10
