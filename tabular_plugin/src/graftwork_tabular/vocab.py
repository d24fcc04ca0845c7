"""Vocabularies: the sorted values of a column, counted; codes by value, never by position in somebody's table."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, TypeVar, cast, final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from graftwork.api import DataError, ItemError, OptionError, UserError
from graftwork_tabular.canonical import KINDS, Column, Flags, Kind, aligned, join, kind_of, plain
from graftwork_tabular.factors import Codes, Counts, Factors

__all__ = ["Vocab", "VocabCounts", "encode_columns", "fit_encode"]

if TYPE_CHECKING:
    from graftwork_tabular.lookup import Lookup

T = TypeVar("T")
_WORTH_A_THREAD: Final = 1_000_000


@final
class Vocab:
    """The sorted distinct values of one column; code 0 is unseen, 1..n are the values, n + 1 is missing.

    `counts` says how often each value occurred in training (int64), `num_missing` how many rows had none, `num_rare`
    how many rows had a value that was cut for being rare. Immutable.
    """

    UNSEEN: ClassVar[int] = 0
    __slots__ = ("_codes", "_lookup", "counts", "kind", "num_missing", "num_rare", "values")

    def __init__(
        self, values: pa.Array, *, counts: Counts | None = None, num_missing: int = 0, num_rare: int = 0
    ) -> None:
        """Take values in strictly rising order, text by code point, without nulls; else it is a DataError."""
        self.kind: Kind = kind_of(values.type)
        self.values = _checked(values, self.kind)
        self.counts = np.zeros(len(values), np.int64) if counts is None else np.asarray(counts, np.int64)
        if len(self.counts) != len(values):
            raise DataError(f"a vocabulary of {len(values)} values came with {len(self.counts)} counts")
        self.num_missing, self.num_rare = num_missing, num_rare
        self._codes: dict[Any, int] | None = None
        self._lookup: Lookup | None = None

    def __len__(self) -> int:
        """Return the number of values, without the places for unseen and missing."""
        return len(self.values)

    def __eq__(self, other: object) -> bool:
        """Compare values, kind and counts."""
        return isinstance(other, Vocab) and self.to_config() == other.to_config()

    def __hash__(self) -> int:
        """Hash what is quick to hash."""
        return hash((self.kind, len(self), self.num_missing))

    def __reduce__(self) -> tuple[Callable[..., Vocab], tuple[Any, ...]]:
        """Copy without what was built for speed: it knows addresses in memory."""
        return _rebuilt, (self.values, self.counts, self.num_missing, self.num_rare)

    def __repr__(self) -> str:
        """Show the kind, the size and the first values."""
        shown = ", ".join(repr(value) for value in self.values[:3].to_pylist())
        return f"Vocab({self.kind}, {len(self)} values: {shown}{', …' if len(self) > 3 else ''})"

    @property
    def num_codes(self) -> int:
        """The number of codes: the values, unseen and missing."""
        return len(self.values) + 2

    @property
    def missing(self) -> int:
        """The code of missing values."""
        return len(self.values) + 1

    def encode(self, column: Column) -> Codes:
        """Return the code of every row by its value: 1, 1.0 and True are one value, "1" is another."""
        from graftwork_tabular.lookup import lookup  # numba is not needed to encode single values

        if self._lookup is None:
            self._lookup = lookup(_plain_values(self.values))
        return self._lookup.codes(column)

    def encode_value(self, value: object) -> int:
        """Return the code of one value; None and NaN are missing."""
        codes = self._codes or self._dictionary()
        try:
            code = codes.get(value)
        except TypeError:
            raise ItemError(f"a category is one value: text or a number, not {type(value).__name__}") from None
        return code if code is not None else self.missing if _is_missing(value) else self.UNSEEN

    def decode(self, codes: Sequence[int] | np.ndarray) -> list[Any]:
        """Return the values; None for unseen and missing. A code beyond them is a DataError."""
        wanted = np.asarray(codes, np.int64).reshape(-1)
        if len(wanted) and (wanted.min() < 0 or wanted.max() > self.missing):
            raise DataError(f"codes go from 0 to {self.missing}; found {wanted.min()} to {wanted.max()}")
        named = (wanted > 0) & (wanted < self.missing)
        found: list[Any] = self.values.take(pa.array(wanted - 1, mask=~named)).to_pylist()
        return found

    def to_config(self) -> dict[str, Any]:
        """Return JSON; numbers beyond all bounds are written as text."""
        values = self.values.to_pylist()
        if self.kind == "float":
            values = [value if np.isfinite(value) else str(value) for value in values]
        return {
            "kind": self.kind,
            "values": values,
            "counts": self.counts.tolist(),
            "num_missing": self.num_missing,
            "num_rare": self.num_rare,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Rebuild a vocabulary; what is none is a DataError."""
        try:
            values = _array(config["kind"], config["values"])
            counts = np.array(config["counts"], np.int64)
            return cls(values, counts=counts, num_missing=int(config["num_missing"]), num_rare=int(config["num_rare"]))
        except (KeyError, TypeError, ValueError, OverflowError, pa.ArrowException) as error:
            raise DataError(f"this is no vocabulary: {error!r}; save it with to_config") from error

    def _dictionary(self) -> dict[Any, int]:
        self._codes = dict(zip(self.values.to_pylist(), range(1, self.missing), strict=True))
        self._codes[None] = self.missing
        return self._codes


def _rebuilt(values: pa.Array, counts: Counts, num_missing: int, num_rare: int) -> Vocab:
    return Vocab(values, counts=counts, num_missing=num_missing, num_rare=num_rare)


def _checked(values: pa.Array, kind: Kind) -> pa.Array:
    form = pa.bool_() if kind == "boolean" else plain(values[:0]).type
    if kind == "integer" and pa.types.is_uint64(values.type):
        form = plain(values).type
    found = values if values.type == form else values.cast(form)
    comparable = _plain_values(found)
    if found.null_count or not pc.all(pc.less(comparable[:-1], comparable[1:]), min_count=0).as_py():
        raise DataError("the values of a vocabulary must rise strictly, without missing ones; sort them, each once")
    return found


def _plain_values(values: pa.Array) -> pa.Array:
    """Return values as the engine compares them: booleans as 0 and 1."""
    return values.cast(pa.int64()) if pa.types.is_boolean(values.type) else values


def _array(kind: str, values: Iterable[Any]) -> pa.Array:
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, not one of {', '.join(KINDS)}")
    if kind == "integer":
        listed = list(values)
        return pa.array(listed, pa.uint64() if listed and max(listed) >= 2**63 else pa.int64())
    if kind == "float":
        return pa.array([float(value) for value in values], pa.float64())
    return pa.array(list(values), pa.bool_() if kind == "boolean" else pa.large_string())


def _is_missing(value: object) -> bool:
    """Say whether a value differs from itself, as NaN and NaT do, or will not say, as pandas' NA."""
    try:
        return bool(value != value)
    except TypeError:
        return str(value) == "<NA>"


@final
class VocabCounts:
    """Count values part by part: the vocabulary depends on the multiset of values alone, not on the parts."""

    __slots__ = ("_empty_kinds", "_kind", "_num_missing", "_parts")

    def __init__(self) -> None:
        """Start with nothing."""
        self._parts: list[tuple[pa.Array, Counts]] = []
        self._kind: Kind | None = None
        self._empty_kinds: frozenset[Kind] = frozenset()
        self._num_missing = 0

    def update(self, column: Column) -> None:
        """Count the values of a column."""
        from graftwork_tabular.engine import factorize

        found = factorize(column, None)
        self._num_missing += found.num_missing
        self._take(found.values, found.counts, kind_of(column.type))

    def merge(self, other: VocabCounts) -> None:
        """Count what another has counted."""
        self._num_missing += other._num_missing
        self._empty_kinds |= other._empty_kinds
        for values, counts in other._parts:
            self._take(values, counts, cast(Kind, other._kind))

    def finish(self, *, min_freq: int = 1, max_size: int | None = None) -> Vocab:
        """Return the vocabulary of values that occurred `min_freq` times, at most the `max_size` most frequent ones."""
        if not self._parts:
            kinds = self._empty_kinds
            return Vocab(_typed(pa.array([], pa.int64()), min(kinds, default="string")), num_missing=self._num_missing)
        self._compact()
        values, counts = self._parts[0]
        found = Factors(values=values, counts=counts, num_missing=self._num_missing, codes=np.zeros(0, np.int32))
        return _vocab(found, cast(Kind, self._kind), _kept(counts, min_freq, max_size))

    def _take(self, values: pa.Array, counts: Counts, kind: Kind) -> None:
        if not len(values):
            self._empty_kinds |= {kind}
            return
        self._kind = kind if self._kind is None else join(self._kind, kind)
        self._parts.append((values, counts))
        if sum(len(v) for v, _ in self._parts[1:]) > max(65_536, len(self._parts[0][0])):
            self._compact()

    def _compact(self) -> None:
        """Add up the parts; done when they have grown as large as what was added up before, so that it costs little."""
        if len(self._parts) > 1:
            from graftwork_tabular.engine import factorize

            joined = _joined([values for values, _ in self._parts])
            found = factorize(joined, None)
            counts = np.zeros(len(found.values), np.int64)
            np.add.at(counts, found.codes - 1, np.concatenate([counts for _, counts in self._parts]))
            self._parts = [(found.values, counts)]


def _joined(parts: Sequence[pa.Array]) -> pa.ChunkedArray:
    """Put plain arrays of several number types into one that holds them all exactly, or raise a DataError."""
    forms = {part.type for part in parts}
    if len(forms) == 1:
        return pa.chunked_array(parts)
    form = pa.float64() if pa.float64() in forms else pa.uint64()
    joined = [aligned(pa.chunked_array([part]), form) for part in parts]
    for part, found in zip(parts, joined, strict=True):
        if found.null_count:
            lost = pc.filter(part, pc.is_null(found.combine_chunks()))[0].as_py()
            raise DataError(f"no number type holds {lost} and the column's other values exactly; cast it to text")
    return pa.chunked_array([chunk for part in joined for chunk in part.chunks])


def _kept(counts: Counts, min_freq: int, max_size: int | None) -> Flags:
    """Return which values stay; among equally frequent ones the smaller."""
    if min_freq < 1 or (max_size is not None and max_size < 0):
        raise OptionError(f"min_freq={min_freq} must be 1 or more, max_size={max_size} None or 0 or more")
    kept: Flags = counts >= min_freq
    if max_size is not None and int(kept.sum()) > max_size:
        first = np.argsort(-counts, kind="stable")[:max_size]
        among = np.zeros(len(counts), np.bool_)
        among[first] = True
        kept = kept & among
    return kept


def _vocab(found: Factors, kind: Kind, kept: Flags) -> Vocab:
    rare = int(found.counts[~kept].sum())
    found = found.select(kept)
    return Vocab(_typed(found.values, kind), counts=found.counts, num_missing=found.num_missing, num_rare=rare)


def _typed(values: pa.Array, kind: Kind) -> pa.Array:
    """Return plain values as a vocabulary shows them."""
    if kind == "boolean":
        return values.cast(pa.bool_())
    if not len(values):
        return values.cast({"string": pa.large_string(), "integer": pa.int64(), "float": pa.float64()}[kind])
    return values


def fit_encode(
    columns: Mapping[str, Column],
    *,
    train: np.ndarray | None,
    min_freq: int = 1,
    threads: int | None = None,
) -> tuple[dict[str, Vocab], dict[str, Codes]]:
    """Return vocabularies of the rows `train` (positions, flags, or None for all) and codes of all rows.

    A position counts once, however often it is named.
    """
    from graftwork_tabular.engine import factorize

    flags = _flags(train, columns)

    def job(_: str, column: Column) -> tuple[Vocab, Codes]:
        found = factorize(column, flags)
        kept = _kept(found.counts, min_freq, None)
        return _vocab(found, kind_of(column.type), kept), found.select(kept).codes

    done = _each(job, columns, threads)
    return {name: vocab for name, (vocab, _) in done.items()}, {name: codes for name, (_, codes) in done.items()}


def encode_columns(
    vocabs: Mapping[str, Vocab], columns: Mapping[str, Column], *, threads: int | None = None
) -> dict[str, Codes]:
    """Return the codes of every column that has a vocabulary."""
    absent = [name for name in vocabs if name not in columns]
    if absent:
        raise DataError(f"the table has no column {absent[0]!r}; it has {', '.join(map(repr, columns))}")
    wanted = {name: columns[name] for name in vocabs}
    return _each(lambda name, column: vocabs[name].encode(column), wanted, threads)


def _flags(train: np.ndarray | None, columns: Mapping[str, Column]) -> Flags | None:
    """Return training rows as flags, or None for all."""
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"columns must have one length; found {lengths}")
    if train is None or not lengths:
        return None
    num_rows = next(iter(lengths.values()))
    if train.dtype == np.bool_:
        if train.shape != (num_rows,):
            raise OptionError(f"train has {train.shape} flags for {num_rows} rows")
        return train.copy()
    if len(train) and (train.min() < 0 or train.max() >= num_rows):
        raise OptionError(f"train names rows {train.min()} to {train.max()}; the table has rows 0 to {num_rows - 1}")
    flags = np.zeros(num_rows, np.bool_)
    flags[train] = True
    return flags


def _each(job: Callable[[str, Column], T], columns: Mapping[str, Column], threads: int | None) -> dict[str, T]:
    """Do a job for every column, several at once where that is worth it; errors name the column."""

    def named(name: str) -> T:
        try:
            return job(name, columns[name])
        except UserError as error:
            raise type(error)(f"column {name!r}: {error}") from error

    workers = min(_available() if threads is None else threads, len(columns))
    if workers < 1 and columns:
        raise OptionError(f"threads={threads} must be 1 or more, or None for all cores")
    if workers < 2 or sum(len(column) for column in columns.values()) < _WORTH_A_THREAD:
        return {name: named(name) for name in columns}
    largest_first = sorted(columns, key=lambda name: columns[name].nbytes, reverse=True)
    with ThreadPoolExecutor(workers) as pool:
        done = dict(zip(largest_first, pool.map(named, largest_first), strict=True))
    return {name: done[name] for name in columns}


def _available() -> int:
    """Return the number of cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not every system tells
        return os.cpu_count() or 1
