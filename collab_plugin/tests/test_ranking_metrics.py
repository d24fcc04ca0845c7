"""Ranking metrics: equal to their definitions, written out slowly; merged parts equal the whole."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.api import DataError, Metric, OptionError, as_metric, get_host
from graftwork_collab.ranking_metrics import (
    coverage,
    hit_rate,
    mean_ap,
    mean_popularity,
    mrr,
    ndcg,
    precision_at,
    recall_at,
)

ITEMS = 12
USER_METRICS = {
    "ndcg": ndcg, "recall": recall_at, "precision": precision_at, "mrr": mrr, "map": mean_ap, "hit_rate": hit_rate,
}  # fmt: skip


def slow(name: str, k: int, ranked: list[int], held_out: list[int]) -> float:
    """Compute one user's value from its definition."""
    found = [code in held_out and code > 0 for code in ranked[:k]]
    if name == "ndcg":
        gain = sum(1 / math.log2(place + 2) for place, hit in enumerate(found) if hit)
        return gain / sum(1 / math.log2(place + 2) for place in range(min(k, len(held_out))))
    if name == "recall":
        return sum(found) / len(held_out)
    if name == "precision":
        return sum(found) / k
    if name == "mrr":
        return next((1 / (place + 1) for place, hit in enumerate(found) if hit), 0.0)
    if name == "hit_rate":
        return float(any(found))
    total = sum(sum(found[: place + 1]) / (place + 1) for place, hit in enumerate(found) if hit)
    return total / min(k, len(held_out))


@st.composite
def users(draw: st.DrawFn) -> list[tuple[list[int], list[int]]]:
    """Draw users with a ranking, which may be shorter than k, and with held-out items, unknown ones among them."""
    drawn = []
    for _ in range(draw(st.integers(1, 6))):
        ranked = draw(st.permutations(range(1, ITEMS + 1)))[: draw(st.integers(0, ITEMS))]
        known = draw(st.sets(st.integers(1, ITEMS), max_size=ITEMS))
        drawn.append((ranked, sorted(known) + [0] * draw(st.integers(0, 2))))
    return drawn


def tensors(people: list[tuple[list[int], list[int]]]) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(len(held_out) for _, held_out in people)
    predicted = torch.tensor([ranked + [-1] * (ITEMS - len(ranked)) for ranked, _ in people])
    target = torch.tensor([held_out + [-1] * (longest - len(held_out)) for _, held_out in people], dtype=torch.int64)
    return predicted, target.reshape(len(people), longest)


@pytest.mark.parametrize("name", USER_METRICS)
@settings(max_examples=60, deadline=None)
@given(people=users(), k=st.integers(1, ITEMS))
def test_a_metric_is_its_definition(name: str, people, k: int):
    metric = USER_METRICS[name](k)
    metric.update(*tensors(people))
    values = [slow(name, k, ranked, held_out) for ranked, held_out in people if held_out]
    if values:
        assert metric.compute() == pytest.approx(sum(values) / len(values), abs=1e-6)
    else:
        assert math.isnan(metric.compute())


def all_metrics(k: int = 3) -> list[Metric]:
    popularity = torch.arange(ITEMS + 1).float()
    extra = [coverage(k, num_items=ITEMS), mean_popularity(k, popularity=popularity)]
    return [*(make(k) for make in USER_METRICS.values()), *extra]


@pytest.mark.parametrize("number", range(8))
@settings(max_examples=25, deadline=None)
@given(first=users(), second=users())
def test_merged_parts_equal_the_whole(number: int, first, second):
    whole, left, right, empty = (all_metrics()[number] for _ in range(4))
    for metric, parts in ((whole, (first, second)), (left, (first,)), (right, (second,))):
        for part in parts:
            metric.update(*tensors(part))
    left.merge(right)
    left.merge(empty)
    assert left.compute() == pytest.approx(whole.compute(), nan_ok=True)
    empty.merge(left)
    assert empty.compute() == pytest.approx(whole.compute(), nan_ok=True)


def test_coverage_and_popularity_look_at_what_is_shown():
    predicted, target = torch.tensor([[1, 2, 3], [1, 4, -1], [-1, -1, -1]]), torch.tensor([[1], [1], [1]])
    shown = coverage(2, num_items=8)
    shown.update(predicted, target)
    assert shown.compute() == 3 / 8
    popular = mean_popularity(2, popularity=torch.tensor([0.0, 10, 20, 30, 40]))
    popular.update(predicted, target)
    assert popular.compute() == (10 + 20 + 10 + 40) / 4


def test_names_say_k_and_reset_forgets():
    metric = ndcg(5)
    assert metric.name == "ndcg@5"
    predicted, target = torch.arange(1, 11)[None], torch.tensor([[1]])
    metric.update(predicted, target)
    assert metric.compute() == 1.0
    metric.reset()
    with pytest.raises(DataError, match="has seen no batch"):
        metric.compute()
    metric.update(predicted, torch.tensor([[9]]))
    assert metric.compute() == 0.0


def test_state_made_in_inference_mode_can_be_added_to():
    metric = recall_at(2)
    batch = torch.tensor([[1, 2]]), torch.tensor([[2, 3]])
    with torch.inference_mode():
        metric.update(*batch)
    metric.update(*batch)
    metric.to("cpu")
    assert metric.compute() == 0.5


@pytest.mark.parametrize("k", [0, -1, 2.5, True], ids=str)
def test_a_k_that_is_no_number_of_places_is_refused(k):
    with pytest.raises(OptionError, match="k="):
        ndcg(k)


def test_what_must_be_known_is_asked_for():
    with pytest.raises(OptionError, match=r"num_items=data\.num_items"):
        coverage(10)
    with pytest.raises(OptionError, match=r"popularity=data\.popularity"):
        mean_popularity(10)
    with pytest.raises(DataError, match="8 items cannot be merged with that of 9"):
        coverage(1, num_items=8).merge(coverage(1, num_items=9))


@pytest.mark.parametrize(
    "predicted", [torch.ones(2, 3), torch.ones(2, dtype=torch.int64), torch.ones(2, 2, dtype=torch.int64)], ids=str
)
def test_scores_and_too_few_places_are_refused(predicted: torch.Tensor):
    with pytest.raises(DataError, match="3 best item codes"):
        ndcg(3).update(predicted, torch.tensor([[1], [1]]))


@pytest.mark.parametrize("name", ["ndcg", "recall", "precision", "mrr", "map", "hit_rate"])
def test_a_metric_is_found_by_name(name: str):
    assert as_metric(f"collab/{name}").name == f"{name}@10"
    assert get_host().metrics.spec(f"collab/{name}").higher_is_better
