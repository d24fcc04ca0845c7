"""Factorize a column: hash every row once, sort the distinct values, give every row its code.

Few distinct values are counted in one hash table, and whole numbers of a narrow range in a plain one. Many, whose
table would not fit the cache, are first divided by the upper bits of their hash. The order of rows needs not be kept
for that: a row's place in its partition follows from the partitions of the rows before it. Text is hashed to 64 bits
(54 and more of them within partitions) and every row is compared with what its hash stands for. If two texts share a
hash, which practically never happens, the column starts again with Arrow's tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from graftwork_tabular import kernels, text_kernels
from graftwork_tabular.canonical import Column, Flags, plain
from graftwork_tabular.factors import Codes, Counts, Factors, arrow_factors
from graftwork_tabular.keys import (
    BLOCK,
    NO_BYTES,
    NO_KEYS,
    Block,
    Bytes,
    Keys,
    blocks,
    is_text,
    numbers,
    places,
    places_of,
    ready,
)

__all__ = ["factorize", "indices", "is_narrow", "limits"]

MANY_ROWS: Final = 1 << 17
MANY_VALUES: Final = 24_000
WIDEST: Final = 1 << 22
SAMPLES: Final = 16
FEW_BITS, MANY_BITS = 5, 7  # with 6, the 64 streams of a block lie 8 kB apart and push each other out of the cache
Order = np.ndarray[tuple[int], np.dtype[np.int32]]


class _CollisionError(Exception):
    """Two texts share a hash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """Hold a ready column and which rows count, as bytes (none: all do)."""

    column: pa.ChunkedArray
    train: Bytes
    unsigned: bool

    @property
    def text(self) -> bool:
        """Whether the column is text."""
        return is_text(self.column.type)

    def blocks(self) -> Iterator[tuple[Block, Keys, Bytes, Bytes]]:
        """Give blocks with their keys (in memory that is used again), missing rows and training rows."""
        room = np.empty(min(BLOCK, len(self.column)), np.uint64)
        for block in blocks(self.column):
            yield block, *block.keys(room, unsigned=self.unsigned), self.train[block.rows]

    def ordered(self, keys: Keys) -> tuple[Order, pa.Array]:
        """Return the order of numbers, given by keys, or of texts, given by places, and the values in that order."""
        if self.text:
            return _ordered_text(keys)
        order = np.arange(len(keys), dtype=np.int32)
        text_kernels.sort_keys(keys, order)
        return order, numbers(keys, self.column.type, unsigned=self.unsigned)

    def factors(self, values: pa.Array, counts: Counts, codes: Codes) -> Factors:
        """Return the result."""
        num_rows = int(np.count_nonzero(self.train)) if len(self.train) else len(codes)
        return Factors(values=values, counts=counts, num_missing=num_rows - int(counts.sum()), codes=codes)


def factorize(column: Column, train: Flags | None) -> Factors:
    """Return the sorted values of training rows with their counts, and codes of all rows."""
    if pa.types.is_dictionary(column.type):
        return _from_dictionary(column, train)
    chunks = ready(column)
    flags = NO_BYTES if train is None else np.ascontiguousarray(train).view(np.uint8)
    found = limits(chunks)
    job = _Job(column=chunks, train=flags, unsigned=found is not None and found[1] > np.iinfo(np.int64).max)
    if found is not None and is_narrow(found, len(chunks)):
        return _narrow(job, *found)
    try:
        return _partitioned(job) if _many(chunks) else _direct(job)
    except _CollisionError:
        return arrow_factors(plain(column), train)


def limits(column: pa.ChunkedArray) -> tuple[int, int] | None:
    """Return the least and the largest of whole numbers; None if there are none."""
    if not pa.types.is_integer(column.type):
        return None
    found = pc.min_max(column).as_py()
    return (found["min"], found["max"]) if found["min"] is not None else None


def is_narrow(limits: tuple[int, int], num_rows: int) -> bool:
    """Say whether whole numbers lie so close that a plain table is better than hashing."""
    return limits[1] - limits[0] < max(1024, min(num_rows, WIDEST))


def _many(column: pa.ChunkedArray) -> bool:
    """Judge by a sample whether a hash table would be larger than the cache."""
    if len(column) < MANY_ROWS:
        return False
    size, step = BLOCK // SAMPLES, len(column) // SAMPLES
    room, ids = np.empty(size, np.uint64), np.empty(size, np.int32)
    known, counts, table = (np.zeros(n, form) for n, form in ((1024, "u8"), (1024, "i8"), (4 * BLOCK, "u8")))
    for n in range(SAMPLES):
        for block in blocks(column.slice(n * step, size)):
            keys, missing = block.keys(room, unsigned=False)
            known, counts, table = kernels.insert(keys, missing, NO_BYTES, known, counts, table, ids)
    return int(known[0]) > MANY_VALUES


def _narrow(job: _Job, low: int, high: int) -> Factors:
    """Count whole numbers in a table of all that lie between."""
    first, counts = np.uint64(low % 2**64), np.zeros(high - low + 1, np.int64)
    room = np.empty(min(BLOCK, len(job.column)), np.uint64)
    for block in blocks(job.column):
        keys, missing = block.keys(room, unsigned=True)  # differences are what counts: signs need no care
        kernels.tally(keys, missing, job.train[block.rows], first, counts)
    present = np.flatnonzero(counts)
    ranks = np.zeros(len(counts), np.int32)
    ranks[present] = np.arange(1, len(present) + 1)
    codes = np.empty(len(job.column), np.int32)
    for block in blocks(job.column):
        keys, missing = block.keys(room, unsigned=True)
        kernels.look_up(keys, missing, first, ranks, len(present) + 1, codes[block.rows])
    values = present.astype(np.uint64) + first
    return job.factors(pa.array(values if job.unsigned else values.view(np.int64)), counts[present], codes)


def _direct(job: _Job) -> Factors:
    """Count in one hash table, in the order of rows; codes are identities first."""
    codes = np.empty(len(job.column), np.int32)
    known, counts, table = (np.zeros(n, form) for n, form in ((1024, "u8"), (1024, "i8"), (1 << 14, "u8")))
    where = np.zeros(2 * len(known), np.uint64)
    for block, keys, missing, train in job.blocks():
        part = codes[block.rows]
        known, counts, table = kernels.insert(keys, missing, train, known, counts, table, part)
        if job.text:
            if len(where) < 2 * len(known):
                where = np.concatenate([where, np.zeros(2 * len(known) - len(where), np.uint64)])
            _compare(block, part, where)
    trained = np.flatnonzero(counts)
    order, values = job.ordered(where.reshape(-1, 2)[trained].reshape(-1) if job.text else known[trained])
    ranks = np.zeros(len(counts), np.int32)
    ranks[trained[order]] = np.arange(1, len(trained) + 1)
    ranks[0] = len(trained) + 1
    kernels.translate(codes, ranks)
    return job.factors(values, counts[trained[order]], codes)


def _partitioned(job: _Job) -> Factors:
    """Count in a hash table for each partition, then bring the rows' codes back into order."""
    parts = _Partitions.of(job)
    keys, counts = kernels.group(parts.entries, parts.starts, parts.bounds, job.text, parts.firsts)
    order, values = job.ordered(places(job.column, keys) if job.text else keys)
    ranks = np.empty(len(order), np.int32)
    ranks[order] = np.arange(1, len(order) + 1)
    counts = counts[order]
    del keys, order  # memory counts from here on
    kernels.rename(parts.entries, parts.starts, parts.bounds, parts.firsts, ranks)
    return job.factors(values, counts, parts.codes(job, values))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Partitions:
    """Hold rows divided by hash: what `scatter` made of every block, and where partitions' identities begin."""

    blocks: list[Block]
    entries: Keys
    parts: Bytes
    bounds: np.ndarray
    firsts: np.ndarray

    @classmethod
    def of(cls, job: _Job) -> _Partitions:
        """Divide the rows of a column."""
        num_rows, divided = len(job.column), list(blocks(job.column))
        bits = FEW_BITS if num_rows < 16 * BLOCK else MANY_BITS
        entries, parts = np.empty(num_rows, np.uint64), np.empty(num_rows, np.uint8)
        bounds = np.zeros((len(divided), 2 ** (bits + 1) + 1), np.int64)
        for (block, keys, missing, train), bound in zip(job.blocks(), bounds, strict=True):
            kernels.scatter(keys, missing, train, bits, job.text, parts[block.rows], entries[block.rows], bound)
        return cls(blocks=divided, entries=entries, parts=parts, bounds=bounds, firsts=np.zeros(2**bits + 1, np.int64))

    @property
    def starts(self) -> np.ndarray:
        """The first rows of the blocks."""
        return np.array([block.row for block in self.blocks], np.int64)

    def codes(self, job: _Job, values: pa.Array) -> Codes:
        """Bring codes, which entries have become, back into the order of rows; compare text."""
        found = np.empty(len(job.column), np.int32)
        for block, bound in zip(self.blocks, self.bounds, strict=True):
            rows = block.rows
            kernels.merge(self.entries[rows], self.parts[rows], job.train[rows], bound, len(values) + 1, found[rows])
        where = places_of(values) if job.text else NO_KEYS
        for block in self.blocks if job.text else ():  # both at once, block by block, takes three times as long
            _compare(block, found[block.rows], where)
        return found


def _compare(block: Block, codes: Codes, where: Keys) -> None:
    if text_kernels.check_text(*block.text, codes, where):
        raise _CollisionError


def _ordered_text(where: Keys) -> tuple[Order, pa.Array]:
    order = text_kernels.sort_text(where)
    offsets = np.zeros(len(order) + 1, np.int64)
    data = text_kernels.pack_text(where, order, offsets)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    return order, pa.Array.from_buffers(pa.large_string(), len(order), buffers)


def _from_dictionary(column: Column, train: Flags | None) -> Factors:
    """Factorize the dictionary, then count and code rows by its entries."""
    chunks = column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])
    dictionaries, which = _dictionaries(chunks)
    entries = factorize(pa.chunked_array(dictionaries, chunks.type.value_type), None)
    begins = np.cumsum([0, *(len(dictionary) for dictionary in dictionaries)])
    parts = [np.zeros(0, np.int32)]
    for number, chunk in zip(which, chunks.chunks, strict=True):
        table = entries.codes[begins[number] : begins[number + 1]]
        parts.append(np.append(table, np.int32(len(entries.values) + 1))[indices(chunk)])
    codes: Codes = np.concatenate(parts)
    counts = np.bincount(codes if train is None else codes[train], minlength=len(entries.values) + 2).astype(np.int64)
    found = Factors(values=entries.values, counts=counts[1:-1], num_missing=int(counts[-1]), codes=codes)
    return found.select(found.counts > 0)


def _dictionaries(column: pa.ChunkedArray) -> tuple[list[pa.Array], list[int]]:
    """Return the dictionaries of chunks that differ from the one before, and which one each chunk has."""
    found: list[pa.Array] = []
    which: list[int] = []
    for chunk in column.chunks:
        if not found or not chunk.dictionary.equals(found[-1]):
            found.append(chunk.dictionary)
        which.append(len(found) - 1)
    return found, which


def indices(chunk: pa.Array) -> np.ndarray:
    """Return places in a chunk's dictionary; for missing, the one beyond its end."""
    found: np.ndarray = pc.fill_null(chunk.indices.cast(pa.int64()), len(chunk.dictionary)).to_numpy()
    return found
