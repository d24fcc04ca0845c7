"""Splitters: disjoint, covering, a function of items and seed, and deaf to global random state."""

from __future__ import annotations

import pickle
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graftwork.errors import DataError, OptionError, UnknownName
from graftwork.items import ColReader
from graftwork.split import (
    ColSplitter,
    EndSplitter,
    FileSplitter,
    FuncSplitter,
    GrandparentSplitter,
    GroupSplitter,
    IndexSplitter,
    RandomSplitter,
    Split,
    Splitter,
    StratifiedSplitter,
    TimeSplitter,
    k_folds,
)


def itself(item):
    return item


def even(item):
    return item % 2 == 0


pcts = st.floats(0.01, 0.99)
seeds = st.integers(0, 2**31)
classes = st.lists(st.sampled_from("abcdefg"), min_size=2, max_size=120)


def assert_parts(split: Split, num_items: int) -> None:
    assert split.train.dtype == split.valid.dtype == np.int64
    assert len(split.train) > 0
    assert len(split.valid) > 0
    assert sorted(np.concatenate((split.train, split.valid)).tolist()) == list(range(num_items))


def same(a: Split, b: Split) -> bool:
    return np.array_equal(a.train, b.train) and np.array_equal(a.valid, b.valid)


def global_state() -> tuple:
    numpy_state = np.random.get_state()  # noqa: NPY002 - the global state is what is looked at
    return random.getstate(), numpy_state[1].tolist(), numpy_state[2], torch.get_rng_state().tolist()


SPLITTERS = [
    RandomSplitter(0.3, seed=1),
    StratifiedSplitter(0.3, seed=1, label=even),
    IndexSplitter([3, 1]),
    FuncSplitter(even),
    EndSplitter(0.3),
    EndSplitter(0.3, valid_last=False),
    GroupSplitter(even, valid_pct=0.5),
    TimeSplitter(itself, valid_pct=0.3),
]


@pytest.mark.parametrize("splitter", SPLITTERS, ids=lambda s: type(s).__name__)
def test_every_splitter_is_a_pure_function_that_travels(splitter: Splitter):
    items = list(range(20))
    before = global_state()
    split = splitter(items)
    assert global_state() == before
    assert_parts(split, 20)
    random.seed(5)
    torch.manual_seed(5)
    assert same(split, splitter(items))
    assert same(split, pickle.loads(pickle.dumps(splitter))(items))


@pytest.mark.parametrize("splitter", SPLITTERS, ids=lambda s: type(s).__name__)
def test_no_splitter_takes_an_empty_list(splitter: Splitter):
    with pytest.raises(DataError):
        splitter([])


def test_a_split_refuses_overlap_negatives_and_masks():
    with pytest.raises(DataError, match="occur twice: 2, 3"):
        Split(train=[1, 2, 3], valid=[3, 2, 0])
    with pytest.raises(DataError, match="occur twice: 1"):
        Split(train=[1, 1], valid=[0])
    with pytest.raises(DataError, match="from 0; found -1"):
        Split(train=[1], valid=[-1])
    with pytest.raises(DataError, match=r"bool.*np\.flatnonzero"):
        Split(train=[True, False], valid=[0])
    with pytest.raises(DataError, match="whole numbers, not float64"):
        Split(train=[0.5], valid=[0])


def test_a_split_may_lack_a_side_but_a_splitter_may_not():
    assert len(Split(train=[1, 2], valid=[]).valid) == 0
    with pytest.raises(DataError, match="none of the 3 items into the validation split"):
        FuncSplitter(lambda item: False)([1, 2, 3])
    with pytest.raises(DataError, match="none of the 3 items into the training split"):
        FuncSplitter(lambda item: True)([1, 2, 3])


@pytest.mark.parametrize("make", [RandomSplitter, StratifiedSplitter, EndSplitter])
@pytest.mark.parametrize("pct", [0, 1, -0.1, 1.5, float("nan")])
def test_an_impossible_share_is_refused(make, pct):
    with pytest.raises(OptionError, match="between 0 and 1"):
        make(pct)


def test_a_share_in_per_cent_is_corrected():
    with pytest.raises(OptionError, match=r"for 20 % write 0\.2"):
        RandomSplitter(20)


def test_random_gives_fastais_split():
    split = RandomSplitter(0.2, seed=42)(list(range(10)))
    assert split.valid.tolist() == [2, 6]
    assert split.train.tolist() == [1, 8, 4, 5, 0, 9, 3, 7]


@given(st.integers(2, 500), pcts, seeds)
def test_random_covers_and_counts(num_items, pct, seed):
    split = RandomSplitter(pct, seed=seed)(range(num_items))
    assert_parts(split, num_items)
    assert abs(len(split.valid) - num_items * pct) <= 1


def test_the_share_is_not_short_of_one_by_rounding():
    assert len(RandomSplitter(0.29)(range(100)).valid) == 29


def test_other_seeds_give_other_splits():
    items = range(100)
    assert not same(RandomSplitter(seed=1)(items), RandomSplitter(seed=2)(items))
    labels = [i % 3 for i in items]
    assert not same(StratifiedSplitter(seed=1)(labels, label=itself), StratifiedSplitter(seed=2)(labels, label=itself))


@given(classes, pcts, seeds)
def test_stratified_is_within_one_item_of_every_class(labels, pct, seed):
    sizes = Counter(labels)
    if max(sizes.values()) == 1:
        with pytest.raises(DataError, match="two items"):
            StratifiedSplitter(pct, seed=seed)(labels, label=itself)
        return
    split = StratifiedSplitter(pct, seed=seed)(labels, label=itself)
    assert_parts(split, len(labels))
    drawn = Counter(labels[i] for i in split.valid)
    for label, size in sizes.items():
        assert drawn[label] < size, "a class must keep an item for training"
        assert abs(drawn[label] - size * pct) <= 1
    alone = [label for label, size in sizes.items() if size == 1]
    assert len(split.notes) == bool(alone)


def test_stratified_draws_the_total_by_largest_rest():
    labels = ["a"] * 7 + ["b"] * 8  # exact shares 1.4 and 1.6 of 3 in all
    split = StratifiedSplitter(0.2)(labels, label=itself)
    assert Counter(labels[i] for i in split.valid) == {"a": 1, "b": 2}


def test_stratified_wants_one_label_an_item():
    with pytest.raises(DataError, match="label=parent_label"):
        StratifiedSplitter()([1, 2])
    with pytest.raises(DataError, match="every item needs one label"):
        StratifiedSplitter()([["a", "b"], ["a"]], label=itself)
    with pytest.raises(DataError, match="every item needs one label"):
        StratifiedSplitter()([np.zeros(2), np.ones(2)], label=itself)


def test_missing_labels_are_one_class():
    labels = [float("nan"), None, float("nan"), float("nan")]
    assert len(StratifiedSplitter(0.5)(labels, label=itself).valid) == 2


def test_both_sides_are_mixed_so_that_a_first_batch_shows_every_class():
    labels = ["a"] * 500 + ["b"] * 500
    split = StratifiedSplitter(0.5)(labels, label=itself)
    assert {labels[i] for i in split.valid[:30]} == {"a", "b"}


def test_stratified_reads_a_frames_column_by_name_or_by_the_targets_getter():
    frame = pd.DataFrame({"label": ["a", "b"] * 10, "other": range(20)})
    by_name = StratifiedSplitter(0.2, label="label")(frame)
    assert same(by_name, StratifiedSplitter(0.2)(frame, label=ColReader("label")))
    assert same(by_name, StratifiedSplitter(0.2)(frame, label=lambda row: row["label"]))
    with pytest.raises(UnknownName, match="did you mean 'label'"):
        StratifiedSplitter(label="lable")(frame)


FILES = [Path("d/train/cat/1.jpg"), Path("d/valid/cat/2.jpg"), Path("d/test/cat/3.jpg"), "d/train/dog/4.jpg"]


def test_grandparent_splits_by_folder_and_counts_the_rest():
    split = GrandparentSplitter()(FILES)
    assert (split.train.tolist(), split.valid.tolist()) == ([0, 3], [1])
    assert "1 items lie below neither" in split.notes[0]
    assert "'test': 1" in split.notes[0]


def test_grandparent_takes_several_names_a_side():
    split = GrandparentSplitter("train", ["valid", "test"])(FILES)
    assert split.valid.tolist() == [1, 2]
    assert split.notes == ()


def test_grandparent_says_which_folders_there_are():
    with pytest.raises(DataError, match=r"below 'val'; found 'train': 2, .*valid_name="):
        GrandparentSplitter(valid_name="val")(FILES)
    with pytest.raises(DataError, match="occur twice"):
        GrandparentSplitter("train", "train")(FILES)
    with pytest.raises(DataError, match="must be paths"):
        GrandparentSplitter()(pd.DataFrame({"a": [1]}))


@pytest.mark.parametrize("flags", [[False, True, False], [0, 1, 0], np.array([0.0, 1.0, 0.0])])
def test_col_reads_flags(flags):
    frame = pd.DataFrame({"is_valid": flags, "name": list("xyz")})
    for items in (frame, frame.to_dict("records")):
        split = ColSplitter()(items)
        assert (split.train.tolist(), split.valid.tolist()) == ([0, 2], [1])


def test_col_reads_names_with_on():
    frame = pd.DataFrame({"part": ["train", "val", "test"]})
    assert ColSplitter("part", on="val")(frame).valid.tolist() == [1]
    assert ColSplitter("part", on=["val", "test"])(frame).valid.tolist() == [1, 2]
    with pytest.raises(DataError, match=r"3 do not, such as 'train'.*on='valid'"):
        ColSplitter("part")(frame)


def test_col_refuses_a_missing_flag_and_a_missing_column():
    with pytest.raises(DataError, match="1 do not, such as nan"):
        ColSplitter()(pd.DataFrame({"is_valid": [0.0, np.nan, 1.0]}))
    with pytest.raises(UnknownName, match="did you mean 'isvalid'"):
        ColSplitter()(pd.DataFrame({"isvalid": [1]}))


def test_index_takes_positions():
    split = IndexSplitter([4, 0])(list("abcde"))
    assert (split.train.tolist(), split.valid.tolist()) == ([1, 2, 3], [4, 0])
    assert same(split, IndexSplitter(np.array([4, 0]))(list("abcde")))


@pytest.mark.parametrize(
    ("positions", "reason"),
    [([5], "names position 5, but there are 5 items: 0 to 4"), ([-1], "found -1"), ([1, 1], "twice: 1"), ([], "none")],
)
def test_index_refuses_positions_that_do_not_exist(positions, reason):
    with pytest.raises(DataError, match=reason):
        IndexSplitter(positions)(list("abcde"))


def test_index_refuses_a_mask_at_once():
    with pytest.raises(DataError, match="flatnonzero"):
        IndexSplitter([True, False])


def test_func_sees_items_and_rows():
    assert FuncSplitter(even)([1, 2, 3, 4]).valid.tolist() == [1, 3]
    assert FuncSplitter(lambda row: row["a"] > 1)(pd.DataFrame({"a": [1, 2]})).valid.tolist() == [1]


@given(st.integers(2, 60), pcts)
def test_ends_are_contiguous_and_in_order(num_items, pct):
    last, first = EndSplitter(pct)(range(num_items)), EndSplitter(pct, valid_last=False)(range(num_items))
    assert_parts(last, num_items)
    assert np.array_equal(np.concatenate((last.train, last.valid)), np.arange(num_items))
    assert np.array_equal(np.concatenate((first.valid, first.train)), np.arange(num_items))
    assert len(last.valid) == len(first.valid)


def test_file_lists_names_and_ends_of_paths(tmp_path: Path):
    items = ["d/cat/1.jpg", "d/dog/1.jpg", "d/dog/2.jpg", "d/dog/3.jpg"]
    listing = tmp_path / "valid.txt"
    listing.write_text("\ufeff dog/1.jpg\r\n\n2.jpg\n", encoding="utf-8")
    split = FileSplitter(listing)(items)
    assert (split.train.tolist(), split.valid.tolist()) == ([0, 3], [1, 2])
    assert split.notes == ()
    listing.write_text("1.jpg\nmissing.jpg\n")
    split = FileSplitter(str(listing))(items)
    assert split.valid.tolist() == [0, 1]
    assert "1 lines" in split.notes[0]
    assert "'missing.jpg'" in split.notes[0]


def test_file_says_what_it_cannot_read(tmp_path: Path):
    with pytest.raises(DataError, match=r"nowhere\.txt.*cannot be read"):
        FileSplitter(tmp_path / "nowhere.txt")(["a"])


@given(st.lists(st.integers(0, 8), min_size=2, max_size=80), pcts, seeds)
def test_groups_are_not_torn(groups, pct, seed):
    if len(set(groups)) == 1:
        with pytest.raises(DataError, match="found 1 group"):
            GroupSplitter(itself, valid_pct=pct, seed=seed)(groups)
        return
    split = GroupSplitter(itself, valid_pct=pct, seed=seed)(groups)
    assert_parts(split, len(groups))
    assert not {groups[i] for i in split.train} & {groups[i] for i in split.valid}
    assert abs(len(split.valid) - len(groups) * pct) <= max(Counter(groups).values())


def test_group_reads_a_column():
    frame = pd.DataFrame({"user": [1, 1, 2, 2, 3, 3]})
    split = GroupSplitter("user", valid_pct=1 / 3)(frame)
    assert frame.user.to_numpy()[split.valid].tolist() in ([1, 1], [2, 2], [3, 3])


DAYS = [datetime(2024, 1, day, tzinfo=UTC) for day in (3, 1, 5, 2, 4)]


@pytest.mark.parametrize(
    "times",
    [DAYS, [day.replace(tzinfo=None) for day in DAYS], [day.date().isoformat() for day in DAYS], [3, 1, 5, 2, 4]],
    ids=["aware", "naive", "text", "numbers"],
)
def test_the_newest_are_for_validation(times):
    split = TimeSplitter("when", valid_pct=0.4)([{"when": time} for time in times])
    assert split.valid.tolist() == [2, 4]
    assert same(split, TimeSplitter("when", valid_pct=0.4)(pd.DataFrame({"when": times})))


@pytest.mark.parametrize("cutoff", ["2024-01-04", datetime(2024, 1, 4), DAYS[4], pd.Timestamp("2024-01-04")])
def test_the_cutoff_is_the_first_time_of_validation(cutoff):
    assert TimeSplitter(itself, cutoff=cutoff)(DAYS).valid.tolist() == [2, 4]


def test_times_of_several_zones_are_compared_in_utc():
    assert TimeSplitter(itself, valid_pct=0.5)(["2024-01-01T12:00+05:00", "2024-01-01T08:00Z"]).valid.tolist() == [1]


@given(st.lists(st.integers(0, 6), min_size=2, max_size=60), pcts)
def test_items_of_one_time_stay_together(times, pct):
    if len(set(times)) == 1:
        with pytest.raises(DataError, match="no newest part"):
            TimeSplitter(itself, valid_pct=pct)(times)
        return
    split = TimeSplitter(itself, valid_pct=pct)(times)
    assert_parts(split, len(times))
    assert max(times[i] for i in split.train) < min(times[i] for i in split.valid)


def test_time_refuses_what_it_cannot_order():
    with pytest.raises(OptionError, match="not both"):
        TimeSplitter(itself, valid_pct=0.2, cutoff=3)
    with pytest.raises(OptionError, match="cannot be compared"):
        TimeSplitter(itself, cutoff="2024-01-01")([1, 2, 3])
    with pytest.raises(DataError, match="1 of 3 items have no time"):
        TimeSplitter(itself)([1.0, float("nan"), 2.0])
    with pytest.raises(DataError, match="1 of 2 items have no time"):
        TimeSplitter(itself)([DAYS[0], None])
    with pytest.raises(DataError, match="ISO 8601"):
        TimeSplitter(itself)(["1/2/2024", "13/2/2024"])
    with pytest.raises(DataError, match="training"):
        TimeSplitter(itself, cutoff=DAYS[1] - timedelta(days=9))(DAYS)


@given(classes, st.integers(2, 9), seeds, st.sampled_from([None, itself]))
def test_folds_cover_every_item_once_and_spread_labels(labels, k, seed, label):
    if k > len(labels):
        with pytest.raises(OptionError, match="between 2 and the"):
            k_folds(labels, k, seed=seed, label=label)
        return
    folds = list(k_folds(labels, k, seed=seed, label=label))
    assert len(folds) == k
    for fold in folds:
        assert_parts(fold, len(labels))
    assert sorted(np.concatenate([fold.valid for fold in folds]).tolist()) == list(range(len(labels)))
    sizes = [len(fold.valid) for fold in folds]
    assert max(sizes) - min(sizes) <= 1
    if label:
        for name in set(labels):
            counts = [sum(labels[i] == name for i in fold.valid) for fold in folds]
            assert max(counts) - min(counts) <= 1
    assert all(map(same, folds, k_folds(labels, k, seed=seed, label=label)))


@given(st.lists(st.integers(0, 12), min_size=2, max_size=80), st.integers(2, 5), seeds)
def test_folds_keep_groups_whole(groups, k, seed):
    if k > len(set(groups)):
        with pytest.raises(OptionError, match=f"between 2 and the {len(set(groups))} groups"):
            k_folds(groups, k, seed=seed, group=itself)
        return
    folds = list(k_folds(groups, k, seed=seed, group=itself))
    for fold in folds:
        assert_parts(fold, len(groups))
        assert not {groups[i] for i in fold.train} & {groups[i] for i in fold.valid}
    sizes = [len(fold.valid) for fold in folds]
    assert max(sizes) - min(sizes) <= max(Counter(groups).values())


def test_folds_keep_groups_or_spread_labels():
    with pytest.raises(OptionError, match="not both"):
        k_folds([1, 2], 2, label=itself, group=itself)
    before = global_state()
    list(k_folds(range(30), 3))
    assert global_state() == before


def test_a_hundred_thousand_rows_split_without_making_rows(monkeypatch):
    frame = pd.DataFrame({"label": np.arange(100_000) % 7})
    monkeypatch.setattr(pd.DataFrame, "to_dict", None)
    assert len(StratifiedSplitter(label="label")(frame).valid) == 20_000
