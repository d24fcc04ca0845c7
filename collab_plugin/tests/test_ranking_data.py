"""Interactions to loaders: honest vocabularies, splits, weights, repetitions, histories; bad input is answered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.api import DataError, OptionError, Split, UnknownName
from graftwork_collab.interactions import Interactions
from graftwork_collab.ranking_data import RankingDataLoaders, held_out_from, windows


def frame(rows: list[tuple], columns: str = "user item time") -> pd.DataFrame:
    return pd.DataFrame(rows, columns=columns.split())


def small(users: int = 6, items: int = 8) -> pd.DataFrame:
    """Give user u the items u … u + 3, one after another."""
    return frame([(f"u{u}", f"i{(u + step) % items}", step) for u in range(users) for step in range(4)])


def train_pairs(data: RankingDataLoaders) -> set[tuple[str, str]]:
    return {(u, i) for u, i in decoded(data, data.interactions.users, data.interactions.items)}


def decoded(data: RankingDataLoaders, users: np.ndarray, items: np.ndarray) -> list[tuple[str, str]]:
    vocabs = [data.plan.fields[name].item_steps[0].transform.vocab for name in ("user", "item")]
    return [(vocabs[0][u - 1], vocabs[1][i - 1]) for u, i in zip(users, items, strict=True)]


def test_every_row_is_in_training_or_held_out(ratings: pd.DataFrame):
    data = RankingDataLoaders.from_df(ratings)
    users, items = data.held_out
    kept = items > 0
    held_out = decoded(data, users[:, None].expand_as(items)[kept].numpy(), items[kept].numpy())
    assert len(held_out) == len(set(held_out))
    assert not set(held_out) & train_pairs(data)
    assert train_pairs(data) | set(held_out) == set(zip(ratings.userId, ratings.movieId, strict=True))


def test_batches_have_the_fields_a_ranker_reads(ratings: pd.DataFrame):
    data = RankingDataLoaders.from_df(ratings, bs=32, negatives=10)
    batch = next(data.train.at(0))
    assert {name: tuple(column.shape) for name, column in batch.fields.items()} == {
        "user": (32,), "item": (32, 1), "y": (32,),
    }  # fmt: skip
    assert (batch.y == 0).all()
    valid = next(data.valid.at(0))
    assert valid.fields["item"].shape == (40, 0)
    assert valid.inputs == ("user", "item")
    assert data.plan.target.k == 10


def test_a_batch_names_the_rows_of_the_source(ratings: pd.DataFrame):
    data = RankingDataLoaders.from_df(ratings, bs=16)
    batch = next(data.train.at(0))
    pairs = decoded(data, batch.fields["user"].numpy(), batch.fields["item"][:, 0].numpy())
    rows = ratings.iloc[batch.index.numpy()]
    assert pairs == list(zip(rows.userId, rows.movieId, strict=True))


def test_the_vocabulary_is_that_of_training():
    rows = small()
    split = Split(train=np.arange(12), valid=np.arange(12, 24))
    data = RankingDataLoaders.from_df(rows, split=split, k=3)
    assert data.plan.fields["user"].item_steps[0].transform.vocab == ("u0", "u1", "u2")
    assert data.num_items == 6
    # u3, u4 and u5 are unknown, and so are items i6 and i7, each of them held out.
    users, items = data.held_out
    assert users.tolist() == [0, 0, 0]
    assert (items == 0).sum() == 5
    assert any("3 of 3 validated users do not occur in training" in note for note in data.notes)
    assert any("5 of 12 held-out items do not occur in training" in note for note in data.notes)


def test_leaving_the_last_out_keeps_whoever_has_but_one():
    rows = pd.concat([small(), frame([("loner", "i0", 9)])])
    data = RankingDataLoaders.from_df(rows, split="leave-last-out", k=3)
    users, items = data.held_out
    assert items.shape == (6, 1)
    assert decoded(data, users.numpy(), items[:, 0].numpy()) == [(f"u{u}", f"i{(u + 3) % 8}") for u in range(6)]
    assert any("1 of 7 users have one rating" in note for note in data.notes)
    assert "loner" in data.plan.fields["user"].item_steps[0].transform.vocab
    with pytest.raises(DataError, match="none of the 2 users has more than 1"):
        RankingDataLoaders.from_df(frame([("a", "x", 1), ("b", "y", 2)]), split="leave-last-out", k=1)


def test_a_split_by_time_needs_times():
    data = RankingDataLoaders.from_df(small(), split="time", valid_pct=0.25, k=3)
    assert len(data.interactions) == 18
    with pytest.raises(DataError, match="needs a column of times"):
        RankingDataLoaders.from_df(small().drop(columns="time"), split="time", k=3)


def test_histories_are_in_the_order_of_time():
    rows = small().sample(frac=1, random_state=3)
    data = RankingDataLoaders.from_df(rows, split="leave-last-out", k=3)
    seen = data.interactions
    first = decoded(data, seen.users[:3], seen.items[:3])
    assert first == [("u0", "i0"), ("u0", "i1"), ("u0", "i2")]


@pytest.mark.parametrize("weight", [None, "count"])
def test_repeated_pairs_count_once(weight: str | None):
    rows = frame(
        [("a", "x", 1, 2.0), ("a", "x", 5, 3.0), ("a", "y", 3, 1.0), ("b", "x", 1, 4.0)], "user item time count"
    )
    everything = Split(train=np.arange(3), valid=np.zeros(0, dtype=np.int64))
    data = RankingDataLoaders.from_df(rows, weight=weight, split=everything, k=1)
    assert len(data.interactions) == 3
    how = "their weights are added up" if weight else "they count once"
    assert data.notes == (f"1 rows repeat a pair of user and item; {how}",)
    # The repetition counts at its last time, which is after y.
    assert decoded(data, data.interactions.users, data.interactions.items) == [("a", "y"), ("a", "x"), ("b", "x")]
    if weight:
        assert data.interactions.weights.tolist() == [1.0, 5.0, 4.0]
        assert data.train.weights.tolist() == [1.0, 5.0, 4.0]
    else:
        assert data.interactions.weights is None
    assert data.valid is None


@settings(max_examples=40, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 5)), min_size=1, max_size=30),
)
def test_weights_of_repetitions_add_up(pairs: list[tuple[int, int, int]]):
    everything = Split(train=np.arange(len({p[:2] for p in pairs})), valid=np.zeros(0, dtype=np.int64))
    data = RankingDataLoaders.from_df(frame(pairs, "user item n"), weight="n", split=everything, k=1)
    seen = data.interactions
    ours = dict(zip(decoded(data, seen.users, seen.items), seen.weights.tolist(), strict=True))
    theirs: dict[tuple[int, int], float] = {}
    for user, item, weight in pairs:
        theirs[user, item] = theirs.get((user, item), 0) + weight
    assert ours == theirs


def test_what_weighs_nothing_is_left_out():
    rows = frame([("a", "x", 1.0), ("a", "y", 0.0), ("b", "y", -2.0), ("b", "x", 3.0)], "user item n")
    data = RankingDataLoaders.from_df(rows, weight="n", split=Split(train=np.arange(2), valid=np.zeros(0, int)), k=1)
    assert data.num_items == 1
    assert any("left out 2 of 4 rows with 'n' not above 0" in note for note in data.notes)
    with pytest.raises(DataError, match="no 'n' is above 0"):
        RankingDataLoaders.from_df(rows.assign(n=-1.0), weight="n")


def test_a_rating_is_no_weight_unless_it_is_named(ratings: pd.DataFrame):
    assert RankingDataLoaders.from_df(ratings).interactions.weights is None
    assert RankingDataLoaders.from_df(ratings, weight="rating").interactions.weights.max() == 5


def test_only_so_many_users_are_validated(ratings: pd.DataFrame):
    whole, some = (RankingDataLoaders.from_df(ratings, valid_users=n) for n in (100, 7))
    users, items = some.held_out
    assert len(users) == 7
    assert "7 of 40 users with held-out items are validated, chosen at random" in some.notes
    rows = {user: set(row) for user, row in zip(whole.held_out[0].tolist(), whole.held_out[1].tolist(), strict=True)}
    for user, row in zip(users.tolist(), items.tolist(), strict=True):
        assert set(row) - {-1} == rows[user] - {-1}


def test_files_are_read_as_frames_are(ratings: pd.DataFrame, movielens: Path, tmp_path: Path):
    wanted = train_pairs(RankingDataLoaders.from_df(ratings))
    ratings.to_csv(tmp_path / "ratings.tsv", sep="\t", index=False)
    ratings.to_parquet(tmp_path / "ratings.parquet")
    for made in (
        RankingDataLoaders.from_csv(tmp_path / "ratings.tsv"),
        RankingDataLoaders.from_parquet(tmp_path / "ratings.parquet"),
        RankingDataLoaders.from_source(movielens),
    ):
        assert train_pairs(made) == wanted
    names = RankingDataLoaders.from_source(movielens).plan.fields["item"].item_steps[0].transform.names
    assert names[2].startswith("Film, The")


def test_the_same_seed_gives_the_same_split(ratings: pd.DataFrame):
    assert train_pairs(RankingDataLoaders.from_df(ratings)) == train_pairs(RankingDataLoaders.from_df(ratings))
    assert train_pairs(RankingDataLoaders.from_df(ratings)) != train_pairs(RankingDataLoaders.from_df(ratings, seed=1))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"k": 0}, OptionError, "at least one item"),
        ({"k": 100}, OptionError, "there are 60 items to rank"),
        ({"history": 1}, OptionError, "at least two items"),
        ({"valid_users": 0}, OptionError, "at least one user"),
        ({"negatives": 0}, OptionError, "draw at least one"),
        ({"split": "ramdom"}, UnknownName, "random"),
        ({"negativs": 3}, UnknownName, "negatives"),
        ({"weight": "ratig"}, UnknownName, "rating"),
        ({"bs": 0}, OptionError, "bs=0"),
    ],
    ids=str,
)
def test_impossible_options_are_answered(ratings: pd.DataFrame, options, error, words: str):
    with pytest.raises(error, match=words):
        RankingDataLoaders.from_df(ratings, **options)


def test_new_interactions_are_encoded_by_value(ratings: pd.DataFrame):
    data = RankingDataLoaders.from_df(ratings, history=5)
    rows = frame([(40, 5, 1), (1, 15, 1), (999, 25, 1), (1, 4444, 2)], "userId movieId timestamp")
    loader, notes = held_out_from(rows, data.plan, {})
    found = dict(zip(loader.columns["user"].tolist(), loader.columns["y"].tolist(), strict=True))
    code = data.plan.fields["item"].item_steps[0].transform.vocab.index
    assert found == {1: [code(15) + 1, 0], 40: [code(5) + 1, -1], 0: [code(25) + 1, -1]}
    assert loader.columns["history"].shape == (3, 5)
    assert len(notes) >= 2


# -- sequences ---------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=6).filter(lambda sizes: max(sizes) > 1),
    length=st.integers(2, 5),
)
def test_stretches_hold_each_step_once(lengths: list[int], length: int):
    users = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    items = np.arange(1, len(users) + 1)
    seen, _ = Interactions.sorted(users, items, num_users=len(lengths), num_items=len(users))
    columns = windows(seen, length)
    steps = []
    for user, before, after, y in zip(*(columns[n].tolist() for n in ("user", "history", "item", "y")), strict=True):
        assert [place == 0 for place in y] == [item > 0 for item in after] == [item > 0 for item in before]
        assert [item > 0 for item in before] == sorted(item > 0 for item in before)
        steps += [(user, b, a) for b, a in zip(before, after, strict=True) if a]
    wanted = [(users[i], items[i], items[i + 1]) for i in range(len(users) - 1) if users[i] == users[i + 1]]
    assert sorted(steps) == sorted(wanted)


def test_stretches_overlap_by_one_and_end_at_the_end():
    seen, _ = Interactions.sorted(np.ones(6, dtype=np.int64), np.arange(1, 7), num_users=1, num_items=6)
    columns = windows(seen, 3)
    assert columns["history"].tolist() == [[3, 4, 5], [0, 1, 2]]
    assert columns["item"].tolist() == [[4, 5, 6], [0, 2, 3]]
    assert columns["y"].tolist() == [[0, 0, 0], [-1, 0, 0]]


def test_sequences_need_two_of_somebody():
    rows = frame([("a", "x", 1), ("b", "y", 2), ("c", "x", 3)])
    with pytest.raises(DataError, match="no sequence to learn from"):
        RankingDataLoaders.from_df(rows, history=5, k=1, split=Split(train=np.arange(3), valid=np.zeros(0, int)))


def test_weights_are_not_used_by_sequences_and_that_is_said(ratings: pd.DataFrame):
    data = RankingDataLoaders.from_df(ratings, weight="rating", history=5)
    assert data.train.weights is None
    assert any("their weights are not used" in note for note in data.notes)


@settings(deadline=None)
@given(rows=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=1, max_size=30))
def test_interactions_are_sorted_by_user(rows: list[tuple[int, int]]):
    users, items = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    seen, order = Interactions.sorted(users, items, num_users=4, num_items=5)
    assert list(zip(seen.users.tolist(), seen.items.tolist(), strict=True)) == sorted(rows, key=lambda row: row[0])
    assert np.array_equal(items[order], seen.items)
    assert (len(seen), seen.num_users, seen.start[0], seen.start[1]) == (len(rows), 4, 0, 0)
    assert np.array_equal(torch.bincount(torch.from_numpy(items), minlength=6).numpy(), seen.popularity)
