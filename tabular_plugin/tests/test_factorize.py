"""The engine's several ways give one answer: plain tables, one hash table, partitions, Arrow after a collision."""

from __future__ import annotations

import ctypes
import itertools
import mmap
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork_tabular import engine, keys, text_kernels
from graftwork_tabular.canonical import plain
from graftwork_tabular.engine import factorize
from graftwork_tabular.factors import arrow_codes, arrow_factors
from graftwork_tabular.lookup import lookup

relaxed = settings(deadline=None)  # the machine may be busy
ROWS = 100_000


@pytest.fixture(params=["direct", "partitioned"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Take one of the two ways, whatever the size."""
    monkeypatch.setattr(engine, "MANY_ROWS", 0 if request.param == "partitioned" else sys.maxsize)
    monkeypatch.setattr(engine, "MANY_VALUES", -1)
    monkeypatch.setattr(engine, "WIDEST", 0)
    return str(request.param)


def texts(many: int, rng: np.random.Generator) -> pa.Array:
    lengths = rng.integers(0, 40, many)
    names = [f"{'a beginning that many share' if n % 3 else ''}{n:x}{'é' * (lengths[n] // 2)}" for n in range(many)]
    return pa.array(names).take(pa.array(rng.integers(0, many, ROWS)))


DRAWS: dict[str, Callable[[int, np.random.Generator], pa.Array]] = {
    "text": texts,
    "integer": lambda many, rng: pa.array(rng.integers(0, many, ROWS) * 2**44 - 2**60),
    "natural": lambda many, rng: pa.array(rng.integers(0, many, ROWS).astype(np.uint64) * 2**44 + 2**63),
    "float": lambda many, rng: pa.array(rng.integers(-many, many, ROWS) / 7),
    "int32": lambda many, rng: pa.array((rng.integers(0, many, ROWS) * 2**11).astype(np.int32)),
}
FORMS: dict[str, Callable[[pa.Array, np.random.Generator], Any]] = {
    "whole": lambda array, rng: array,
    "sliced": lambda array, rng: array.slice(13, ROWS - 100),
    "with nulls": lambda array, rng: with_nulls(array, rng).slice(5),
    "chunked": lambda array, rng: pa.chunked_array(
        [array.slice(0, 70_001), array.slice(0, 0), with_nulls(array.slice(70_001), rng)]
    ),
    "in crumbs": lambda array, rng: pa.chunked_array([array.slice(n, 300) for n in range(0, ROWS, 300)]),
    "a dictionary": lambda array, rng: with_nulls(array, rng).dictionary_encode(),
}


def with_nulls(array: pa.Array, rng: np.random.Generator) -> pa.Array:
    return pa.compute.if_else(pa.array(rng.random(len(array)) < 0.9), array, None)


def assert_same(found: Any, wanted: Any) -> None:
    assert found.values.equals(wanted.values)
    assert found.counts.tolist() == wanted.counts.tolist()
    assert found.num_missing == wanted.num_missing
    assert np.array_equal(found.codes, wanted.codes)
    assert found.codes.dtype == np.int32


class TestFactorize:
    @pytest.mark.parametrize("many", [1, 50, 3000, 60_000])
    @pytest.mark.parametrize("draw", list(DRAWS))
    def test_both_ways_agree_with_arrow(self, way: str, draw: str, many: int) -> None:
        rng = np.random.default_rng(many)
        column = DRAWS[draw](many, rng)
        for train in (None, rng.random(ROWS) < 0.8, np.arange(ROWS) < ROWS // 2, np.zeros(ROWS, bool)):
            assert_same(factorize(column, train), arrow_factors(plain(column), train))

    @pytest.mark.parametrize("form", list(FORMS))
    @pytest.mark.parametrize("draw", list(DRAWS))
    def test_every_form_of_a_column(self, way: str, draw: str, form: str) -> None:
        rng = np.random.default_rng(1)
        column = FORMS[form](DRAWS[draw](20_000, rng), rng)
        train = rng.random(len(column)) < 0.7
        found = factorize(column, train)
        assert_same(found, arrow_factors(plain(column), train))
        assert np.array_equal(lookup(found.values).codes(column), found.codes)

    def test_numpy_agrees(self, way: str) -> None:
        column = np.random.default_rng(2).integers(-(2**62), 2**62, 50_000).repeat(2)
        values, codes, counts = np.unique(column, return_inverse=True, return_counts=True)
        found = factorize(pa.array(column), None)
        assert found.values.to_numpy().tolist() == values.tolist()
        assert found.counts.tolist() == counts.tolist()
        assert (found.codes - 1).tolist() == codes.tolist()

    def test_pandas_agrees(self, way: str) -> None:
        column = pd.Series(np.random.default_rng(3).integers(0, 30_000, ROWS)).astype("str")
        codes, values = pd.factorize(column, sort=True)
        found = factorize(pa.Array.from_pandas(column), None)
        assert found.values.to_pylist() == list(values)
        assert (found.codes - 1).tolist() == codes.tolist()

    def test_the_way_is_chosen_by_the_number_of_values(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engine, "MANY_ROWS", ROWS)
        monkeypatch.setattr(engine, "MANY_VALUES", 1000)
        taken: list[str] = []
        for name in ("_direct", "_partitioned", "_narrow"):
            monkeypatch.setattr(engine, name, lambda *_, name=name: taken.append(name))
        rng = np.random.default_rng(4)
        for column in (texts(500, rng), texts(5000, rng), texts(5000, rng)[:-1], rng.integers(5, ROWS, ROWS)):
            factorize(column if isinstance(column, pa.Array) else pa.array(column), None)
        assert taken == ["_direct", "_partitioned", "_direct", "_narrow"]

    @pytest.mark.parametrize("limits", [(-(2**63), -(2**63) + 5), (2**64 - 6, 2**64 - 1), (-3, 2)], ids=str)
    def test_narrow_ranges_at_all_ends(self, limits: tuple[int, int]) -> None:
        low, high = limits
        form = pa.uint64() if high >= 2**63 else pa.int64()
        column = pa.array([high, low, None, high, low + 2], form)
        found = factorize(column, None)
        assert found.values.to_pylist() == [low, low + 2, high]
        assert found.codes.tolist() == [3, 1, 4, 3, 2]
        assert lookup(found.values).codes(column).tolist() == [3, 1, 4, 3, 2]


def by_length(offsets: Any, wide: bool, data: Any, begin: int, keys: np.ndarray) -> None:
    """Hash all texts of one length alike."""
    kind = ctypes.c_int64 if wide else ctypes.c_int32
    found = np.ctypeslib.as_array((kind * (begin + len(keys) + 1)).from_address(int(offsets)))
    keys[:] = np.diff(found[begin:]).astype(np.uint64) << np.uint64(40)


class TestCollisions:
    @pytest.fixture(autouse=True)
    def _few_hashes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(text_kernels, "hash_text", by_length)

    @pytest.mark.parametrize("form", [pa.string(), pa.large_string()], ids=str)
    def test_texts_with_one_hash_are_told_apart(self, way: str, form: pa.DataType) -> None:
        column = pa.array(["aa", "bb", "c", None, "aa", "ddd"], form)
        for train in (None, np.array([True, False, True, True, True, False])):
            assert_same(factorize(column, train), arrow_factors(plain(column), train))

    def test_texts_without_collisions_stay(self, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(engine, "arrow_factors")
        assert factorize(pa.array(["b", "aa", "b", None]), None).codes.tolist() == [2, 1, 2, 3]

    def test_an_unseen_text_with_a_known_hash_is_unseen(self) -> None:
        vocabulary = lookup(pa.array(["a", "bb"], pa.large_string()))
        assert vocabulary.codes(pa.array(["x", "bb", None, "bx", "a"])).tolist() == [0, 2, 3, 0, 1]

    def test_a_vocabulary_with_one_hash_for_two(self) -> None:
        assert lookup(pa.array(["a", "b"], pa.large_string())).codes(pa.array(["b", "c", None])).tolist() == [2, 0, 3]


class TestHash:
    def test_every_length_and_every_byte_counts(self) -> None:
        """Texts that differ in a bit, or by a zero at the end, hash differently: 64 bits leave no chance of two."""
        base = bytes(range(60))
        listed = [base[:n] for n in range(61)] + [base[:n] + b"\0" for n in range(60)]
        listed += [base[:at] + bytes([base[at] ^ bit]) + base[at + 1 : n] for n in (5, 9, 16, 17, 40, 60)
                   for at in range(n) for bit in (1, 64)]  # fmt: skip
        column = pa.array(sorted(set(listed)), pa.binary()).view(pa.string())
        (block,) = keys.blocks(pa.chunked_array([column]))
        found, _ = block.keys(np.empty(len(column), np.uint64), unsigned=False)
        assert len(np.unique(found)) == len(column)
        assert len(np.unique(found >> np.uint64(32))) >= len(column) - 1
        assert len(np.unique(found & np.uint64(2**32 - 1))) >= len(column) - 1

    def test_both_widths_of_offsets_give_one_hash(self) -> None:
        listed = ["", "a", "日本", "x" * 33]
        found = []
        for form in (pa.string(), pa.large_string()):
            (block,) = keys.blocks(pa.chunked_array([pa.array(listed, form)]))
            found.append(block.keys(np.empty(4, np.uint64), unsigned=False)[0].tolist())
        assert found[0] == found[1]


class TestSort:
    @relaxed
    @given(st.sets(st.binary(max_size=20), max_size=80), st.binary(max_size=20))
    def test_texts_are_sorted_by_bytes(self, listed: set[bytes], before: bytes) -> None:
        texts = [before + text for text in listed]
        assert in_order(texts) == sorted(texts)

    def test_long_shared_beginnings_and_many_texts(self) -> None:
        rng = np.random.default_rng(5)
        listed = {
            b"same start of all " * 3 + bytes(rng.integers(0, 3, rng.integers(0, 30)).tolist()) for _ in range(9000)
        }
        assert in_order(listed) == sorted(listed)

    @relaxed
    @given(st.lists(st.integers(0, 2**64 - 1), max_size=60))
    def test_keys_are_sorted_and_the_order_with_them(self, listed: list[int]) -> None:
        column, order = np.array(listed, np.uint64), np.arange(len(listed), dtype=np.int32)
        text_kernels.sort_keys(column, order)
        assert column.tolist() == sorted(listed)
        assert [listed[n] for n in order] == sorted(listed)


def in_order(texts: list[bytes]) -> list[bytes]:
    column = pa.chunked_array([pa.array(texts, pa.large_binary()).view(pa.large_string())])
    where = keys.places(column, np.arange(len(texts), dtype=np.uint64))
    order = text_kernels.sort_text(where)
    offsets = np.zeros(len(texts) + 1, np.int64)
    data = text_kernels.pack_text(where, order, offsets).tobytes()
    return [data[low:high] for low, high in itertools.pairwise(offsets)]


class TestNumbers:
    @relaxed
    @given(st.lists(st.floats(allow_nan=False), max_size=30))
    def test_keys_of_floats_rise_as_they_do(self, listed: list[float]) -> None:
        column = pa.chunked_array([pa.array(listed, pa.float64())])
        for block in keys.blocks(column):
            found, missing = block.keys(np.empty(len(listed), np.uint64), unsigned=False)
            order = np.argsort(found, kind="stable")
            assert np.array(listed)[order].tolist() == sorted(listed)
            assert keys.numbers(found, column.type, unsigned=False).to_pylist() == listed
            assert not missing.any()

    @pytest.mark.parametrize(
        "form", [pa.int8(), pa.uint16(), pa.int32(), pa.uint32(), pa.int64(), pa.uint64()], ids=str
    )
    def test_keys_of_whole_numbers_come_back(self, form: pa.DataType) -> None:
        info = np.iinfo(form.to_pandas_dtype())
        listed = [info.min, info.min + 1, info.max // 2, min(info.max, 2**63 - 1)]
        for block in keys.blocks(pa.chunked_array([pa.array([0, *listed], form).slice(1)])):
            found, _ = block.keys(np.empty(4, np.uint64), unsigned=False)
            assert found.tolist() == sorted(found.tolist())
            assert keys.numbers(found, form, unsigned=False).to_pylist() == listed


@pytest.fixture
def last_page() -> Iterator[tuple[mmap.mmap, int]]:
    """Give memory and its address; what comes behind its first page cannot be read."""
    memory = mmap.mmap(-1, 2 * mmap.PAGESIZE)
    view = (ctypes.c_char * (2 * mmap.PAGESIZE)).from_buffer(memory)
    address, protect = ctypes.addressof(view), ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    assert protect(address + mmap.PAGESIZE, mmap.PAGESIZE, 0) == 0
    yield memory, address
    protect(address + mmap.PAGESIZE, mmap.PAGESIZE, 3)
    del view


@pytest.mark.skipif(sys.platform != "linux", reason="memory is protected by a call of Linux")
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31])
def test_nothing_behind_a_text_is_read(last_page: tuple[mmap.mmap, int], length: int) -> None:
    """Reading on would end this process."""
    memory, address = last_page
    listed = [bytes([97 + n]) * length for n in (2, 0, 1)]
    memory[mmap.PAGESIZE - 3 * length : mmap.PAGESIZE] = b"".join(listed)
    data = pa.foreign_buffer(address + mmap.PAGESIZE - 3 * length, 3 * length)
    offsets = pa.py_buffer(np.arange(0, 4 * length, length, dtype=np.int32))
    column = pa.Array.from_buffers(pa.string(), 3, [None, offsets, data])
    found = factorize(column, None)
    assert found.values.to_pylist() == sorted(text.decode() for text in listed)
    assert found.codes.tolist() == lookup(found.values).codes(column).tolist() == [3, 1, 2]


def test_a_column_of_another_type_is_looked_up_by_value() -> None:
    values = pa.array([1, 2, 2**60])
    for column in (pa.array([2.0, 0.5, None]), pa.array([2, 2**64 - 1, None], pa.uint64())):
        assert lookup(values).codes(column).tolist() == arrow_codes(values, plain(column)).tolist() == [2, 0, 4]
