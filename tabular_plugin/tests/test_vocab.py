"""Vocabularies are sorted, codes go by value, and parts add up to the whole."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.api import DataError, ItemError, OptionError
from graftwork_tabular.vocab import Vocab, VocabCounts, encode_columns, fit_encode

relaxed = settings(deadline=None)  # the machine may be busy
# Lengths on both sides of what the hash reads at once, shared prefixes, zero bytes, and all planes of Unicode.
words = st.one_of(
    st.text(max_size=3),
    st.sampled_from(["", "a", "a\0", "a\0\0", "naïve", "日本", "𝛑", "customer_0001", "customer_0002", "x" * 40]),
    st.integers(0, 99).map(lambda n: f"a common beginning of many letters {n}"),
)
whole = st.one_of(st.integers(-3, 3), st.integers(-(2**63), 2**63 - 1))
numbers = st.one_of(st.integers(-3, 3).map(float), st.floats(allow_nan=False), st.sampled_from([0.0, -0.0, math.inf]))
VALUES: dict[str, tuple[st.SearchStrategy[Any], tuple[Any, ...]]] = {
    "string": (words, (pa.string(), pa.large_string(), pa.string_view())),
    "integer": (whole, (pa.int64(),)),
    "byte": (st.integers(-128, 127), (pa.int8(), pa.int16(), pa.int32(), pa.int64())),
    "natural": (st.integers(0, 2**64 - 1), (pa.uint64(),)),
    "small natural": (st.integers(0, 255), (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())),
    "float": (numbers, (pa.float64(),)),
    "half": (st.sampled_from([0.5, -1.0, 2.0, math.inf]), (pa.float16(), pa.float32(), pa.float64())),
    "boolean": (st.booleans(), (pa.bool_(),)),
}


@st.composite
def columns(draw: st.DrawFn, kind: str | None = None) -> tuple[list[Any], Any]:
    """Draw values (None for missing) and the same as a column: sliced, chunked, dictionaries or plain."""
    values, forms = VALUES[kind or draw(st.sampled_from(sorted(VALUES)))]
    listed = draw(st.lists(st.one_of(st.none(), values), max_size=30))
    return listed, draw(as_column(listed, draw(st.sampled_from(forms))))


@st.composite
def as_column(draw: st.DrawFn, listed: list[Any], form: Any) -> Any:
    before, after = draw(st.integers(0, 9)), draw(st.integers(0, 3))
    padded = pa.array([*listed[:1] * before, *listed, None][: before + len(listed) + after or None], form)
    begin = min(before, before * len(listed[:1]))
    array = padded.slice(begin, len(listed))
    if draw(st.booleans()) and form != pa.string_view() and form != pa.float16():
        array = array.dictionary_encode()
    if draw(st.booleans()):
        return array
    cuts = sorted(draw(st.lists(st.integers(0, len(listed)), max_size=3)))
    bounds = [0, *cuts, len(listed)]
    return pa.chunked_array([array.slice(low, high - low) for low, high in itertools.pairwise(bounds)], array.type)


def expected(listed: Sequence[Any], train: Sequence[bool] | None = None) -> tuple[list[Any], list[int], list[int]]:
    """Do it the slow way: sorted values, counts, codes."""
    counts = Counter(v for n, v in enumerate(listed) if v is not None and (train is None or train[n]))
    values = sorted(counts, key=lambda v: v.encode() if isinstance(v, str) else v)
    place = {value: n for n, value in enumerate(values, 1)}
    codes = [len(values) + 1 if v is None else place.get(v, 0) for v in listed]
    return values, [counts[value] for value in values], codes


def fitted(column: Any, train: np.ndarray | None = None, **options: Any) -> tuple[Vocab, np.ndarray]:
    vocabs, codes = fit_encode({"c": column}, train=train, **options)
    return vocabs["c"], codes["c"]


class TestFitEncode:
    @relaxed
    @given(columns(), st.data())
    def test_it_agrees_with_the_slow_way(self, drawn: tuple[list[Any], Any], data: st.DataObject) -> None:
        listed, column = drawn
        train = data.draw(st.one_of(st.none(), st.lists(st.booleans(), min_size=len(listed), max_size=len(listed))))
        vocab, codes = fitted(column, None if train is None else np.array(train, bool))
        values, counts, wanted = expected(listed, train)
        assert vocab.values.to_pylist() == values
        assert vocab.counts.tolist() == counts
        assert codes.tolist() == wanted
        assert codes.dtype == np.int32
        assert vocab.num_missing == sum(v is None for n, v in enumerate(listed) if train is None or train[n])

    @relaxed
    @given(columns())
    def test_what_was_fitted_encodes_the_same(self, drawn: tuple[list[Any], Any]) -> None:
        vocab, codes = fitted(drawn[1])
        assert vocab.encode(drawn[1]).tolist() == codes.tolist()
        assert vocab.decode(codes) == drawn[0]
        assert [vocab.encode_value(value) for value in drawn[0]] == codes.tolist()

    def test_pandas_agrees(self) -> None:
        rng = np.random.default_rng(0)
        names = np.array([f"name {n}" for n in range(5000)])
        frame = pd.DataFrame({"s": names[rng.integers(0, 5000, 20_000)], "i": rng.integers(-9, 9, 20_000)})
        frame.loc[::7, "s"] = None
        table = pa.Table.from_pandas(frame)
        _, codes = fit_encode({name: table[name] for name in table.column_names}, train=None, threads=2)
        for name in frame:
            theirs, values = pd.factorize(frame[name], sort=True)
            assert np.where(theirs < 0, len(values), theirs).tolist() == (codes[name] - 1).tolist()

    def test_positions_and_flags_name_the_same_rows(self) -> None:
        column = pa.array(["b", "a", "c", "a"])
        by_place = fitted(column, np.array([3, 0, 3]))
        by_flag = fitted(column, np.array([True, False, False, True]))
        assert by_place[0] == by_flag[0]
        assert by_place[0].counts.tolist() == [1, 1]
        assert by_place[1].tolist() == by_flag[1].tolist() == [2, 1, 0, 1]

    def test_the_golden_values(self) -> None:
        _, codes = fitted(pa.array([0, 1, 2, 3, 2]), np.arange(3))
        assert codes.tolist() == [1, 2, 3, 0, 3]

    def test_rare_values_are_unseen_and_counted(self) -> None:
        vocab, codes = fitted(pa.array(["a", "b", "a", None, "c"]), min_freq=2)
        assert vocab.values.to_pylist() == ["a"]
        assert codes.tolist() == [1, 0, 1, 2, 0]
        assert (vocab.num_rare, vocab.num_missing) == (2, 1)

    def test_nan_is_missing_and_minus_zero_is_zero(self) -> None:
        vocab, codes = fitted(pa.array([0.0, math.nan, -0.0, None, math.inf]))
        assert vocab.values.to_pylist() == [0.0, math.inf]
        assert math.copysign(1, vocab.values[0].as_py()) == 1
        assert codes.tolist() == [1, 3, 1, 3, 2]

    @pytest.mark.parametrize("form", [pa.null(), pa.string(), pa.int8(), pa.float32(), pa.bool_()], ids=str)
    @pytest.mark.parametrize("rows", [0, 3])
    def test_a_column_without_values(self, form: pa.DataType, rows: int) -> None:
        vocab, codes = fitted(pa.nulls(rows, form))
        assert (len(vocab), vocab.num_codes, vocab.num_missing) == (0, 2, rows)
        assert codes.tolist() == [1] * rows
        assert vocab.encode(pa.array(["x"])).tolist() == [0]
        assert Vocab.from_config(vocab.to_config()) == vocab

    def test_dictionaries_of_chunks_may_differ_and_repeat(self) -> None:
        first = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, None]), pa.array(["b", "a", "b"]))
        second = pa.DictionaryArray.from_arrays(pa.array([0, 1, 1, 0]), pa.array(["c", None]))
        vocab, codes = fitted(pa.chunked_array([first, second.cast(first.type)]))
        assert vocab.values.to_pylist() == ["a", "b", "c"]
        assert vocab.counts.tolist() == [1, 2, 2]
        assert codes.tolist() == [2, 1, 2, 4, 3, 4, 4, 3]

    def test_values_of_a_dictionary_that_no_row_has_are_not_fitted(self) -> None:
        categorical = pd.Series(pd.Categorical(["b"], categories=["a", "b"]))
        assert fitted(pa.Array.from_pandas(categorical))[0].values.to_pylist() == ["b"]

    def test_threads_change_nothing(self) -> None:
        rng = np.random.default_rng(1)
        table = {f"c{n}": pa.array(rng.integers(0, 10**n, 30_000)) for n in range(1, 8)}
        one, two = fit_encode(table, train=None, threads=1), fit_encode(table, train=None, threads=2)
        assert one[0] == two[0]
        assert all((one[1][name] == two[1][name]).all() for name in table)

    @pytest.mark.parametrize(
        ("train", "reason"),
        [
            (np.array([0, 5]), "rows 0 to 5; the table has rows 0 to 2"),
            (np.array([-1]), "rows -1 to -1"),
            (np.array([True]), r"\(1,\) flags for 3 rows"),
        ],
        ids=["beyond", "negative", "short"],
    )
    def test_training_rows_that_do_not_exist_are_refused(self, train: np.ndarray, reason: str) -> None:
        with pytest.raises(OptionError, match=reason):
            fitted(pa.array([1, 2, 3]), train)

    def test_columns_of_different_length_are_refused(self) -> None:
        with pytest.raises(DataError, match="one length; found"):
            fit_encode({"a": pa.array([1]), "b": pa.array([1, 2])}, train=None)

    def test_a_type_that_holds_no_categories_is_refused_by_name(self) -> None:
        with pytest.raises(DataError, match=r"column 'when': a column of type date32\[day\] cannot hold categories"):
            fit_encode({"when": pa.array([1], pa.date32())}, train=None)

    def test_no_threads_are_refused(self) -> None:
        with pytest.raises(OptionError, match="threads=0"):
            fit_encode({"a": pa.array([1])}, train=None, threads=0)


class TestEncode:
    def test_a_value_is_the_same_in_every_number_type(self) -> None:
        vocab, _ = fitted(pa.array([1, 2, 300, -1]))
        assert vocab.values.to_pylist() == [-1, 1, 2, 300]
        assert vocab.encode(pa.array([1.0, 2.5, math.nan, 300.0, math.inf, 1e300])).tolist() == [2, 0, 5, 4, 0, 0]
        assert vocab.encode(pa.array([1, 44], pa.int8())).tolist() == [2, 0]
        assert vocab.encode(pa.array([True, False, None])).tolist() == [2, 0, 5]
        assert vocab.encode(pa.array([2**64 - 1, 2], pa.uint64())).tolist() == [0, 3]
        assert vocab.encode(pa.array(["1", None])).tolist() == [0, 5]
        for same in (1, 1.0, np.int8(1), np.float32(1), True, np.uint64(1)):
            assert vocab.encode_value(same) == 2
        assert vocab.encode_value("1") == vocab.encode_value(2**64 - 1) == vocab.encode_value(2.5) == 0

    def test_a_vocabulary_of_floats_finds_whole_numbers(self) -> None:
        vocab, _ = fitted(pa.array([0.5, 1.0, 2.0**53]))
        assert vocab.encode(pa.array([1, 2**53, 2**53 + 1, None])).tolist() == [2, 3, 0, 4]
        assert vocab.encode(pa.array([True, False])).tolist() == [2, 0]
        top, _ = fitted(pa.array([2.0**63, 2.0**64]))
        assert top.encode(pa.array([2**63 - 1])).tolist() == [0]
        assert top.encode(pa.array([2**63, 2**64 - 1], pa.uint64())).tolist() == [1, 0]

    def test_booleans_are_zero_and_one(self) -> None:
        vocab, _ = fitted(pa.array([True, False]))
        assert vocab.values.to_pylist() == [False, True]
        assert vocab.encode(pa.array([1, 0, 2])).tolist() == [2, 1, 0]
        assert vocab.decode([1, 2, 3]) == [False, True, None]

    @relaxed
    @given(columns(), columns())
    def test_columns_and_single_values_agree(self, fit: tuple[list[Any], Any], other: tuple[list[Any], Any]) -> None:
        vocab, _ = fitted(fit[1])
        assert vocab.encode(other[1]).tolist() == [vocab.encode_value(value) for value in other[0]]

    @pytest.mark.parametrize("value", [None, math.nan, np.float32("nan"), pd.NA, pd.NaT, np.datetime64("NaT")], ids=str)
    def test_what_is_missing(self, value: object) -> None:
        for column in (pa.array(["a"]), pa.array([1]), pa.array([0.5])):
            assert fitted(column)[0].encode_value(value) == 2

    def test_several_values_are_no_category(self) -> None:
        with pytest.raises(ItemError, match="one value: text or a number, not list"):
            fitted(pa.array(["a"]))[0].encode_value(["a"])

    def test_all_columns_at_once(self) -> None:
        table = {"a": pa.array(["x", "y"]), "b": pa.array([2, 1])}
        vocabs, codes = fit_encode(table, train=None)
        again = encode_columns(vocabs, {**table, "more": pa.array([0, 0])})
        assert {name: found.tolist() for name, found in again.items()} == {"a": [1, 2], "b": [2, 1]}
        assert {name: found.tolist() for name, found in codes.items()} == {"a": [1, 2], "b": [2, 1]}

    def test_a_column_that_is_not_there(self) -> None:
        vocabs, _ = fit_encode({"a": pa.array(["x"])}, train=None)
        with pytest.raises(DataError, match="no column 'a'; it has 'b'"):
            encode_columns(vocabs, {"b": pa.array(["x"])})


class TestVocab:
    def test_codes(self) -> None:
        vocab = Vocab(pa.array(["a", "b"]), counts=np.array([1, 2]))
        assert (len(vocab), vocab.num_codes, vocab.UNSEEN, vocab.missing) == (2, 4, 0, 3)
        assert vocab.decode(np.array([0, 1, 2, 3])) == [None, "a", "b", None]
        assert repr(vocab) == "Vocab(string, 2 values: 'a', 'b')"

    @pytest.mark.parametrize("code", [-1, 4])
    def test_a_code_that_is_none(self, code: int) -> None:
        with pytest.raises(DataError, match=f"from 0 to 3; found {code}"):
            Vocab(pa.array(["a", "b"])).decode([code])

    @relaxed
    @given(columns())
    def test_json_and_back(self, drawn: tuple[list[Any], Any]) -> None:
        vocab, _ = fitted(drawn[1])
        again = Vocab.from_config(json.loads(json.dumps(vocab.to_config(), allow_nan=False)))
        assert again == vocab
        assert hash(again) == hash(vocab)
        assert again.values.type == vocab.values.type
        assert again.encode(drawn[1]).tolist() == vocab.encode(drawn[1]).tolist()

    @pytest.mark.parametrize(
        "change",
        [
            {"values": ["b", "a"]},
            {"values": ["a", "a"]},
            {"values": ["a", None]},
            {"values": ["a", 1]},
            {"kind": "date"},
            {"counts": [1]},
            {"counts": ["x", 2]},
            {"num_missing": None},
        ],
        ids=lambda change: json.dumps(change),
    )
    def test_json_that_is_no_vocabulary(self, change: dict[str, Any]) -> None:
        config = Vocab(pa.array(["a", "b"])).to_config()
        with pytest.raises(DataError, match="vocabulary"):
            Vocab.from_config({**config, **change})

    def test_vocabularies_differ_by_kind_values_and_counts(self) -> None:
        base = Vocab(pa.array([0, 1]))
        assert base == Vocab(pa.array([0, 1], pa.int8()))
        others = [pa.array([False, True]), pa.array([0.0, 1.0]), pa.array([0, 2])]
        assert all(Vocab(values) != base for values in others)
        assert Vocab(pa.array([0, 1]), counts=np.array([1, 1])) != base

    def test_a_copy_is_the_same(self) -> None:
        vocab, codes = fitted(pa.array(["b", "a", None]))
        again = copy.deepcopy(vocab)
        assert again == vocab
        assert again.encode(pa.array(["b", "a", None])).tolist() == codes.tolist()


def counted(*parts: Any) -> VocabCounts:
    counts = VocabCounts()
    for part in parts:
        counts.update(part)
    return counts


class TestVocabCounts:
    @relaxed
    @given(st.lists(columns("string"), max_size=4), st.randoms())
    def test_parts_in_any_order_are_the_whole(self, parts: list[tuple[list[Any], Any]], order: Any) -> None:
        values = [value for listed, _ in parts for value in listed]
        whole = counted(pa.array(values, pa.string())).finish()
        order.shuffle(parts)
        merged = VocabCounts()
        for _, column in parts:
            merged.merge(counted(column))
        assert merged.finish() == whole
        assert counted(*[column for _, column in parts]).finish() == whole

    @relaxed
    @given(st.lists(st.one_of(*map(columns, ("byte", "half", "boolean", "small natural"))), max_size=4), st.randoms())
    def test_number_types_mix_in_any_order(self, parts: list[tuple[list[Any], Any]], order: Any) -> None:
        first = counted(*[column for _, column in parts]).finish()
        order.shuffle(parts)
        assert counted(*[column for _, column in parts]).finish() == first
        values = expected([value for listed, _ in parts for value in listed])
        assert first.values.to_pylist() == values[0]
        assert first.counts.tolist() == values[1]

    def test_many_parts_are_added_up_on_the_way(self) -> None:
        rng = np.random.default_rng(2)
        parts = [pa.array(rng.integers(0, 60_000, 40_000)) for _ in range(5)]
        counts = counted(*parts)
        assert len(counts._parts) < 5
        assert counts.finish() == counted(pa.chunked_array(parts)).finish()

    @pytest.mark.parametrize("first", [0, 1])
    def test_text_and_numbers_do_not_mix(self, first: int) -> None:
        parts = [pa.array(["a"]), pa.array([1])]
        with pytest.raises(DataError, match="one part of the column holds"):
            counted(parts[first], parts[1 - first])

    def test_an_empty_part_of_another_type_is_no_obstacle(self) -> None:
        vocab = counted(pa.nulls(2), pa.array([3]), pa.nulls(1, pa.float64())).finish()
        assert (vocab.kind, vocab.values.to_pylist(), vocab.num_missing) == ("integer", [3], 3)
        assert counted(pa.nulls(1, pa.int8())).finish().kind == "integer"
        assert VocabCounts().finish().kind == "string"

    def test_numbers_that_no_type_holds_together(self) -> None:
        with pytest.raises(DataError, match="no number type holds 9007199254740993"):
            counted(pa.array([2**53 + 1]), pa.array([0.5])).finish()
        with pytest.raises(DataError, match="no number type holds -1"):
            counted(pa.array([-1]), pa.array([2**64 - 1], pa.uint64())).finish()

    def test_the_most_frequent_stay(self) -> None:
        counts = counted(pa.array(["d", "c", "b", "a", "b", "d", None]))
        assert counts.finish(max_size=3).values.to_pylist() == ["a", "b", "d"]
        cut = counts.finish(min_freq=2, max_size=1)
        assert (cut.values.to_pylist(), cut.num_rare, cut.num_missing) == (["b"], 4, 1)
        assert len(counts.finish()) == 4

    @pytest.mark.parametrize("options", [{"min_freq": 0}, {"max_size": -1}], ids=str)
    def test_impossible_limits(self, options: dict[str, Any]) -> None:
        with pytest.raises(OptionError, match="must be"):
            counted(pa.array([1])).finish(**options)
