"""Code a column by the values of a vocabulary: what is built once for it, and used for every column that comes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from graftwork_tabular import kernels, text_kernels
from graftwork_tabular.canonical import Column, plain
from graftwork_tabular.engine import indices, is_narrow, limits
from graftwork_tabular.factors import Codes, arrow_codes
from graftwork_tabular.keys import BLOCK, NO_BYTES, Block, Bytes, Keys, blocks, is_text, places_of, ready

__all__ = ["Lookup", "lookup"]


class Lookup(ABC):
    """Find plain sorted values by value."""

    def __init__(self, values: pa.Array) -> None:
        """Take the values."""
        self.values = values

    def codes(self, column: Column) -> Codes:
        """Return codes: 0 for what is not there, n + 1 for missing."""
        if pa.types.is_dictionary(column.type):
            return self._of_dictionary(column)
        chunks = ready(column)
        if not self.fits(chunks):
            return arrow_codes(self.values, plain(column))
        codes, room = np.empty(len(chunks), np.int32), np.empty(min(BLOCK, len(chunks)), np.uint64)
        for block in blocks(chunks):
            keys, missing = block.keys(room, unsigned=pa.types.is_uint64(self.values.type))
            self.find(block, keys, missing, codes[block.rows])
        return codes

    @abstractmethod
    def fits(self, column: pa.ChunkedArray) -> bool:
        """Say whether the keys of a ready column mean the same as those of the values."""

    @abstractmethod
    def find(self, block: Block, keys: Keys, missing: Bytes, codes: Codes) -> None:
        """Fill in the codes of a block."""

    def _of_dictionary(self, column: Column) -> Codes:
        chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
        found = [np.zeros(0, np.int32)]
        for chunk in chunks:
            table = np.append(self.codes(chunk.dictionary), np.int32(len(self.values) + 1))
            found.append(table[indices(chunk)])
        return np.concatenate(found)


@final
class _Range(Lookup):
    """Find whole numbers of a narrow range in a plain table."""

    def __init__(self, values: pa.Array, keys: Keys) -> None:
        super().__init__(values)
        self._first = keys[0]
        self._table = np.zeros(int(keys[-1] - keys[0]) + 1, np.int32)
        self._table[keys - self._first] = np.arange(1, len(keys) + 1)

    def fits(self, column: pa.ChunkedArray) -> bool:
        return _same_numbers(self.values, column)

    def find(self, block: Block, keys: Keys, missing: Bytes, codes: Codes) -> None:
        kernels.look_up(keys, missing, self._first, self._table, len(self.values) + 1, codes)


@final
class _Numbers(Lookup):
    """Find numbers by hash."""

    def __init__(self, values: pa.Array, keys: Keys) -> None:
        super().__init__(values)
        self._table = _hashed(keys)[1]

    def fits(self, column: pa.ChunkedArray) -> bool:
        return _same_numbers(self.values, column)

    def find(self, block: Block, keys: Keys, missing: Bytes, codes: Codes) -> None:
        kernels.find(keys, missing, self._table, len(self.values) + 1, codes)


@final
class _Text(Lookup):
    """Find text by hash, then compare."""

    def __init__(self, values: pa.Array, table: Keys) -> None:
        super().__init__(values)
        self._table, self._places = table, places_of(values)

    def fits(self, column: pa.ChunkedArray) -> bool:
        return is_text(column.type)

    def find(self, block: Block, keys: Keys, missing: Bytes, codes: Codes) -> None:
        kernels.find(keys, missing, self._table, len(self.values) + 1, codes)
        text_kernels.check_text(*block.text, codes, self._places)


@final
class _Arrow(Lookup):
    """Find by Arrow's tables: for no values, and for texts that share a hash."""

    def fits(self, column: pa.ChunkedArray) -> bool:
        return False

    def find(self, block: Block, keys: Keys, missing: Bytes, codes: Codes) -> None:
        raise NotImplementedError


def lookup(values: pa.Array) -> Lookup:
    """Build what finds these plain sorted values."""
    if not len(values):
        return _Arrow(values)
    column = pa.chunked_array([values])
    room = np.empty(len(values), np.uint64)
    for block in blocks(column):
        block.keys(room[block.rows], unsigned=pa.types.is_uint64(values.type))
    if is_text(values.type):
        num, table = _hashed(room)
        return _Text(values, table) if num == len(values) else _Arrow(values)
    found = limits(column)
    narrow = found is not None and is_narrow(found, 4 * len(values))
    return _Range(values, room) if narrow else _Numbers(values, room)


def _hashed(keys: Keys) -> tuple[int, Keys]:
    """Return a hash table of keys in order, and how many different ones there are."""
    slots = 1 << max(5, (4 * len(keys)).bit_length())
    known, counts, ids = (
        np.zeros(len(keys) + 2, np.uint64),
        np.zeros(len(keys) + 2, np.int64),
        np.empty(len(keys), np.int32),
    )
    known, _, table = kernels.insert(keys, NO_BYTES, NO_BYTES, known, counts, np.zeros(2 * slots, np.uint64), ids)
    return int(known[0]), table


def _same_numbers(values: pa.Array, column: pa.ChunkedArray) -> bool:
    """Say whether numbers have keys of one meaning: both floats, or whole and both below 2**63."""
    if pa.types.is_floating(values.type):
        return bool(pa.types.is_floating(column.type))
    if not pa.types.is_integer(column.type) or pa.types.is_uint64(values.type):
        return False
    return not pa.types.is_uint64(column.type) or (pc.max(column).as_py() or 0) < 2**63
