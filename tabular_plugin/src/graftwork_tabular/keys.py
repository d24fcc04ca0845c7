"""Columns as the kernels read them: 64-bit keys in blocks that fit the cache, and the places where Arrow keeps text.

The key of a number is its place among all numbers of its type, so keys sort as numbers do; the key of a text is a hash.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from graftwork_tabular import text_kernels
from graftwork_tabular.canonical import Column, kind_of

__all__ = [
    "BLOCK",
    "NO_BYTES",
    "NO_KEYS",
    "Block",
    "Bytes",
    "Keys",
    "blocks",
    "is_text",
    "numbers",
    "places",
    "places_of",
    "ready",
]

Keys = np.ndarray[tuple[int], np.dtype[np.uint64]]
Bytes = np.ndarray[tuple[int], np.dtype[np.uint8]]
BLOCK: Final = 1 << 16
SIGN: Final = np.uint64(1 << 63)
NO_BYTES: Final[Bytes] = np.zeros(0, np.uint8)
NO_KEYS: Final[Keys] = np.zeros(0, np.uint64)
_FEW_CHUNKS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Hold up to 65,536 rows of one chunk; `row` and `begin` are the first one's number in the column and the chunk."""

    row: int
    chunk: pa.Array
    begin: int
    size: int

    @property
    def rows(self) -> slice:
        """The block's rows in the column."""
        return slice(self.row, self.row + self.size)

    @property
    def text(self) -> tuple[np.uint64, bool, np.uint64, int]:
        """Where Arrow keeps the text: address of the offsets, whether they have 64 bits, of the bytes, first row."""
        offsets, data = _addresses(self.chunk)
        return offsets, pa.types.is_large_string(self.chunk.type), data, self.chunk.offset + self.begin

    def keys(self, room: Keys, *, unsigned: bool) -> tuple[Keys, Bytes]:
        """Return the keys, made in `room`, and which rows are missing (or none). `unsigned`: of 64 bits, no sign."""
        keys, missing = room[: self.size], self._missing()
        if is_text(self.chunk.type):
            text_kernels.hash_text(*self.text, keys)
            return keys, missing
        values = self._values()
        if values.dtype.kind == "f":
            return keys, _float_keys(values, missing, keys)
        np.copyto(keys if values.dtype.kind == "u" else keys.view(np.int64), values)
        if not unsigned:
            np.bitwise_xor(keys, SIGN, out=keys)
        return keys, missing

    def _values(self) -> np.ndarray:
        form, first = np.dtype(self.chunk.type.to_pandas_dtype()), self.chunk.offset + self.begin
        return np.frombuffer(self.chunk.buffers()[1], form, self.size, first * form.itemsize)

    def _missing(self) -> Bytes:
        """Read which rows have no value from Arrow's bits."""
        if not self.chunk.null_count:
            return NO_BYTES
        first = self.chunk.offset + self.begin
        bits = np.frombuffer(self.chunk.buffers()[0], np.uint8, (first % 8 + self.size + 7) // 8, first // 8)
        valid: Bytes = np.unpackbits(bits, bitorder="little")[first % 8 :][: self.size]
        return valid ^ np.uint8(1)


def ready(column: Column) -> pa.ChunkedArray:
    """Return a column in chunks, not many small ones, whose buffers kernels can read: text or numbers.

    A type that holds no categories is a DataError.
    """
    kind_of(column.type)
    chunks = column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])
    if pa.types.is_string_view(chunks.type) or pa.types.is_null(chunks.type):
        chunks = chunks.cast(pa.large_string())
    if pa.types.is_boolean(chunks.type):
        chunks = chunks.cast(pa.uint8())
    if chunks.num_chunks > max(_FEW_CHUNKS, 4 * len(chunks) // BLOCK):
        chunks = pa.chunked_array([chunks.combine_chunks()])
    return chunks


def is_text(form: pa.DataType) -> bool:
    """Say whether a ready column of this type is text."""
    return bool(pa.types.is_string(form) or pa.types.is_large_string(form))


def blocks(column: pa.ChunkedArray) -> Iterator[Block]:
    """Divide a ready column."""
    row = 0
    for chunk in column.chunks:
        for begin in range(0, len(chunk), BLOCK):
            yield Block(row=row + begin, chunk=chunk, begin=begin, size=min(BLOCK, len(chunk) - begin))
        row += len(chunk)


def numbers(keys: Keys, form: pa.DataType, *, unsigned: bool) -> pa.Array:
    """Turn keys of numbers back into numbers: float64, uint64 if `unsigned`, else int64."""
    if pa.types.is_floating(form):
        bits = keys.view(np.int64)
        return pa.array((bits ^ (~(bits >> 63) | np.int64(-(2**63)))).view(np.float64))
    return pa.array(keys if unsigned else (keys ^ SIGN).view(np.int64))


def places(column: pa.ChunkedArray, rows: Keys) -> Keys:
    """Return addresses and lengths, in turn, of the texts in these rows."""
    chunks = [chunk for chunk in column.chunks if len(chunk)]
    starts = np.cumsum([0, *(len(chunk) for chunk in chunks[:-1])], dtype=np.uint64)
    wide = bool(pa.types.is_large_string(column.type))
    offsets, data = np.array([_addresses(chunk) for chunk in chunks], np.uint64).reshape(-1, 2).T.copy()
    offsets += np.array([chunk.offset * (8 if wide else 4) for chunk in chunks], np.uint64)
    found: Keys = text_kernels.locate(rows, starts, offsets, wide, data)
    return found


def places_of(values: pa.Array) -> Keys:
    """Return addresses and lengths, in turn, of sorted texts by code; the place of code 0 comes first."""
    return np.concatenate(
        [np.zeros(2, np.uint64), places(pa.chunked_array([values]), np.arange(len(values), dtype=np.uint64))]
    )


def _addresses(chunk: pa.Array) -> tuple[np.uint64, np.uint64]:
    """Return where offsets and bytes are; 0 would mean that a place is not known yet."""
    _, offsets, data = chunk.buffers()
    return np.uint64(offsets.address), np.uint64(data.address if data and data.address else offsets.address)


def _float_keys(values: np.ndarray, missing: Bytes, keys: Keys) -> Bytes:
    """Fill in the keys of numbers and return which are missing: NaN is, and zero has no sign."""
    doubles = values.astype(np.float64) + 0.0
    bits = doubles.view(np.int64)
    np.bitwise_xor(bits, (bits >> 63) | np.int64(-(2**63)), out=keys.view(np.int64))
    nan: Bytes = np.isnan(doubles).view(np.uint8)
    return nan | missing if len(missing) else nan
