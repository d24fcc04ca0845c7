"""Procs: what happens to the columns of a table before a model sees them, fitted on the training split.

A proc is a Transform from row to row. It works on one row, a mapping, and on all rows at once, column by column, with
the same result; `fitting` learns it from any number of chunks, in any order, on any number of machines.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from graftwork.api import Block, Bound, DataError, ItemError, OptionError, Transform, unknown
from graftwork_tabular.blocks import Column, PackedRowBlock, RowBlock
from graftwork_tabular.columns import Columns, Numbers, to_numbers, to_values
from graftwork_tabular.statistics import ValueCounts
from graftwork_tabular.vocab import Vocab, VocabCounts, encode_columns, fit_encode

if TYPE_CHECKING:
    pass

__all__ = ["MISSING_SUFFIX", "Categorify", "FillMissing", "Fitting", "PackRow", "ReadRow", "TableTransform"]

MISSING_SUFFIX = "_na"


class Fitting(ABC):
    """Learn a proc chunk by chunk. The result depends on the rows seen, not on their order or division."""

    @abstractmethod
    def update(self, columns: Columns) -> None:
        """See some rows."""

    @abstractmethod
    def merge(self, other: Self) -> None:
        """See the rows another one saw."""

    @abstractmethod
    def finish(self) -> TableTransform:
        """Return the fitted proc."""


class TableTransform(Transform):
    """Map rows to rows. Subclasses are frozen dataclasses."""

    def accepts(self, block: Block) -> bool:
        """Work on rows."""
        return isinstance(block, RowBlock)

    def out_block(self, block: Block) -> Block:
        """Keep the columns as they are."""
        return block

    def learns_from(self, block: RowBlock) -> tuple[str, ...]:
        """Return the columns that `fitting` reads: the numbers, unless a proc says otherwise."""
        return block.names("number")

    def fitting(self, block: RowBlock) -> Fitting:
        """Return what learns this proc; only called where `needs_fit`."""
        raise NotImplementedError(f"{self.id} has nothing to learn")

    def fit(self, values: Iterable[Any], block: Block) -> Self:
        """Return a copy that has learned from rows."""
        assert isinstance(block, RowBlock)
        rows = list(values)
        return self.fit_columns(
            {name: np.asarray([row[name] for row in rows], object) for name, *_ in block.columns}, block
        )

    def fit_columns(self, columns: Columns, block: RowBlock) -> Self:
        """Return a copy that has learned from columns."""
        if not self.needs_fit:
            return self
        fitting = self.fitting(block)
        fitting.update(columns)
        fitted = fitting.finish()
        assert isinstance(fitted, type(self))
        return fitted

    def fit_encode(self, columns: Columns, block: RowBlock, train: np.ndarray[Any, Any]) -> tuple[Self, Columns]:
        """Learn from the rows `train` (int64 positions), and encode all rows."""
        fitted = self.fit_columns(take(columns, self.learns_from(block), train), block) if self.needs_fit else self
        return fitted, fitted.encode_columns(columns, block, [])

    @abstractmethod
    def encode_columns(self, columns: Columns, block: RowBlock, notes: list[str]) -> Columns:
        """Encode all rows at once; `notes` hears of what had to be changed."""


def take(columns: Columns, names: Iterable[str], rows: np.ndarray[Any, Any]) -> Columns:
    """Return some rows of the columns named."""
    return {name: columns[name].take(rows) for name in names}


@dataclass(frozen=True)
class ReadRow(TableTransform):
    """Take the columns that count out of a row, as plain values: text or numbers, None for missing.

    A number that cannot be read, or is infinite, counts as missing in a table, which is said; in a single row it is an
    error.
    """

    id: ClassVar[str] = "tabular/read-row"

    def bind(self, block: Block) -> Bound:
        """Read one row."""
        assert isinstance(block, RowBlock)
        readers = [(name, _READERS[kind]) for name, kind, *_ in block.columns]

        def encode(row: Any, _: Any) -> dict[str, Any]:
            values = row if isinstance(row, dict) else dict(row)
            try:
                return {name: read(values[name], name) for name, read in readers}
            except KeyError as error:
                raise _absent(str(error.args[0]), values) from None

        return Bound(encode)

    def encode_columns(self, columns: Columns, block: RowBlock, notes: list[str]) -> Columns:
        """Read the columns of a table."""
        given = dict(columns)
        read: dict[str, Any] = {}
        for name, kind, *_ in block.columns:
            if name not in given:
                raise _absent(name, given)
            read[name] = to_numbers(given[name], name, notes) if kind == "number" else given[name]
        return read


def _absent(name: str, given: Mapping[str, Any]) -> ItemError:
    error = unknown("column", name, list(map(str, given)), hint=f"the row has the columns {', '.join(map(str, given))}")
    return ItemError(f"{error}; the model was trained with it")


def _number(value: Any, name: str) -> float:
    if value is None:
        return float("nan")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ItemError(f"column {name!r} holds numbers, and {value!r} is none") from None
    if number in (float("inf"), float("-inf")):
        raise ItemError(f"column {name!r} is infinite; give a finite number, or None for missing")
    return number


def _as_is(value: Any, name: str) -> Any:
    return value


_READERS: Mapping[str, Any] = {"number": _number, "category": _as_is, "date": _as_is, "code": _as_is}


# -- missing values ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FillMissing(TableTransform):
    """Fill missing numbers with the training split's median (or mean, mode, a constant), and flag where they were.

    Every number column is fitted, so that a value first missing when the model is used is filled too. Columns with
    missing values in training get a category column `NAME_na`, unless `add_flag` is off. `fills` is what was learned:
    (column, value, flagged).
    """

    id: ClassVar[str] = "tabular/fill-missing"
    strategy: Literal["median", "mean", "mode", "constant"] = "median"
    constant: float = 0.0
    add_flag: bool = True
    fills: tuple[tuple[str, float, bool], ...] | None = None

    def __post_init__(self) -> None:
        """Refuse an unknown strategy."""
        if self.strategy not in ("median", "mean", "mode", "constant"):
            raise unknown("strategy", self.strategy, ("median", "mean", "mode", "constant"))

    @property
    def needs_fit(self) -> bool:
        """Fit where nothing has been learned."""
        return self.fills is None

    def fitting(self, block: RowBlock) -> Fitting:
        """Count values."""
        return _Filling(self, block.names("number"))

    def out_block(self, block: Block) -> Block:
        """Add the flags."""
        assert isinstance(block, RowBlock)
        flags = [(name + MISSING_SUFFIX, "category") for name, _, flagged in self.fills or () if flagged]
        return RowBlock((*block.columns, *flags))

    def bind(self, block: Block) -> Bound:
        """Fill one row."""
        fills = [(name, fill, name + MISSING_SUFFIX if flagged else None) for name, fill, flagged in self.fills or ()]

        def encode(row: dict[str, Any], _: Any) -> dict[str, Any]:
            filled = dict(row)
            for name, fill, flag in fills:
                value = row[name]
                missing = value is None or value != value
                if missing:
                    filled[name] = fill
                if flag is not None:
                    filled[flag] = missing
            return filled

        return Bound(encode)

    def encode_columns(self, columns: Columns, block: RowBlock, notes: list[str]) -> Columns:
        """Fill columns."""
        filled = dict(columns)
        for name, fill, flagged in self.fills or ():
            values = columns[name]
            missing = np.isnan(values)
            if missing.any():
                filled[name] = np.where(missing, fill, values)
            if flagged:
                filled[name + MISSING_SUFFIX] = missing
        return filled


class _Filling(Fitting):
    def __init__(self, proc: FillMissing, names: Sequence[str]) -> None:
        from graftwork_tabular.statistics import Moments

        self.proc = proc
        self.counts = {name: ValueCounts() for name in names} if proc.strategy in ("median", "mode") else {}
        self.moments = {name: Moments() for name in names} if proc.strategy in ("mean", "constant") else {}

    def update(self, columns: Columns) -> None:
        for name, counts in self.counts.items():
            counts.update(columns[name])
        for name, moments in self.moments.items():
            moments.update(columns[name])

    def merge(self, other: Self) -> None:
        for name, counts in self.counts.items():
            counts.merge(other.counts[name])
        for name, moments in self.moments.items():
            moments.merge(other.moments[name])

    def finish(self) -> FillMissing:
        missing = {name: counts.missing for name, counts in self.counts.items()}
        missing |= {name: moments.missing for name, moments in self.moments.items()}
        fills = [(name, self._fill(name), count > 0) for name, count in missing.items()]
        return replace(self.proc, fills=tuple((n, fill, flag and self.proc.add_flag) for n, fill, flag in fills))

    def _fill(self, name: str) -> float:
        strategy = self.proc.strategy
        if strategy == "constant":
            return self.proc.constant
        state: Any = self.moments[name] if strategy == "mean" else self.counts[name]
        if state.n == 0:
            # Nothing is known of a column that is missing in every training row.
            return 0.0
        return float(state.mean if strategy == "mean" else state.median if strategy == "median" else state.mode)


# -- categories -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Categorify(TableTransform):
    """Encode categories by value: 0 for a value unseen in training (or rarer than `min_freq`), 1 … n for the sorted
    vocabulary, n + 1 for missing.

    `max_size` keeps the most frequent values only. `vocabs` is what was learned.
    """

    id: ClassVar[str] = "tabular/categorify"
    min_freq: int = 1
    max_size: int | None = None
    vocabs: Mapping[str, Vocab] | None = field(default=None, repr=False)

    @property
    def needs_fit(self) -> bool:
        """Fit where there are no vocabularies."""
        return self.vocabs is None

    def to_config(self) -> dict[str, Any]:
        """Return the vocabularies as lists of values."""
        vocabs = None if self.vocabs is None else {name: vocab.to_config() for name, vocab in self.vocabs.items()}
        return {"min_freq": self.min_freq, "max_size": self.max_size, "vocabs": vocabs}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Build from `to_config`'s mapping."""
        for key in config:
            if key not in ("min_freq", "max_size", "vocabs"):
                raise unknown(f"field of {cls.id}", key, ("min_freq", "max_size", "vocabs"))
        given = config.get("vocabs")
        vocabs = None if given is None else {name: Vocab.from_config(vocab) for name, vocab in given.items()}
        return cls(min_freq=config.get("min_freq", 1), max_size=config.get("max_size"), vocabs=vocabs)

    def learns_from(self, block: RowBlock) -> tuple[str, ...]:
        """Return the categories."""
        return block.names("category")

    def fitting(self, block: RowBlock) -> Fitting:
        """Count values."""
        return _Categories(self, block.names("category"))

    def fit_encode(self, columns: Columns, block: RowBlock, train: np.ndarray[Any, Any]) -> tuple[Self, Columns]:
        """Learn and encode in one pass over the values."""
        if not self.needs_fit or self.max_size is not None:
            return super().fit_encode(columns, block, train)
        mine = {name: to_values(columns[name]) for name in block.names("category")}
        vocabs, codes = fit_encode(mine, train=train, min_freq=self.min_freq)
        return replace(self, vocabs=vocabs), {**columns, **codes}

    def out_block(self, block: Block) -> Block:
        """Turn category columns into codes."""
        assert isinstance(block, RowBlock)
        vocabs = self.vocabs or {}
        return RowBlock.of(
            [
                Column(name=c.name, kind="code", size=vocabs[c.name].num_codes) if c.name in vocabs else c
                for c in block.parts
            ]
        )

    def bind(self, block: Block) -> Bound:
        """Look values up."""
        vocabs = self.vocabs or {}
        lookups = [(name, vocab.encode_value) for name, vocab in vocabs.items()]

        def encode(row: dict[str, Any], _: Any) -> dict[str, Any]:
            coded = dict(row)
            for name, look_up in lookups:
                coded[name] = look_up(row[name])
            return coded

        def decode(row: dict[str, Any]) -> dict[str, Any]:
            return {**row, **{name: vocab.decode([int(row[name])])[0] for name, vocab in vocabs.items()}}

        return Bound(encode, decode)

    def encode_columns(self, columns: Columns, block: RowBlock, notes: list[str]) -> Columns:
        """Look columns up, in parallel."""
        vocabs = self.vocabs or {}
        return {**columns, **encode_columns(vocabs, {name: to_values(columns[name]) for name in vocabs})}


class _Categories(Fitting):
    def __init__(self, proc: Categorify, names: Sequence[str]) -> None:
        self.proc, self.counts = proc, {name: VocabCounts() for name in names}

    def update(self, columns: Columns) -> None:
        for name, counts in self.counts.items():
            counts.update(to_values(columns[name]))

    def merge(self, other: Self) -> None:
        for name, counts in self.counts.items():
            counts.merge(other.counts[name])

    def finish(self) -> Categorify:
        proc = self.proc
        vocabs = {n: c.finish(min_freq=proc.min_freq, max_size=proc.max_size) for n, c in self.counts.items()}
        return replace(proc, vocabs=vocabs)


# -- the last step ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PackRow(TableTransform):
    """Pack a row's codes and numbers into one float32 row, codes first."""

    id: ClassVar[str] = "tabular/pack-row"

    def out_block(self, block: Block) -> Block:
        """Give packed rows; raise OptionError for columns that are not numbers yet."""
        assert isinstance(block, RowBlock)
        left = [c for c in block.parts if c.kind in ("category", "date")]
        if left:
            step = "Categorify()" if left[0].kind == "category" else "AddDateparts()"
            raise OptionError(
                f"column {left[0].name!r} is a {left[0].kind} and has no number yet; add {step} to the procs"
            )
        sizes = {c.name: c.size for c in block.parts if c.kind == "code"}
        return PackedRowBlock(cat=tuple(sizes), sizes=tuple(sizes.values()), cont=block.names("number"))

    def bind(self, block: Block) -> Bound:
        """Pack one row."""
        packed = self.out_block(block)
        assert isinstance(packed, PackedRowBlock)
        names, n_cat = packed.names, packed.n_cat

        def encode(row: dict[str, Any], _: Any) -> Numbers:
            values = np.array([row[name] for name in names], np.float32)
            if not np.isfinite(values).all():
                raise _unfilled(names[int(np.argmin(np.isfinite(values)))])
            return values

        def decode(values: Numbers) -> dict[str, Any]:
            codes = {name: int(code) for name, code in zip(names[:n_cat], values[:n_cat], strict=True)}
            return {**codes, **dict(zip(names[n_cat:], map(float, values[n_cat:]), strict=True))}

        return Bound(encode, decode)

    def encode_columns(self, columns: Columns, block: RowBlock, notes: list[str]) -> Columns:
        """Return the packed table, float32 (N, columns), as the only column "packed"."""
        packed = self.out_block(block)
        assert isinstance(packed, PackedRowBlock)
        count = len(next(iter(columns.values())))
        table = np.empty((count, len(packed.names)), np.float32)
        for i, name in enumerate(packed.names):
            with np.errstate(over="ignore"):
                table[:, i] = columns[name]
            if i >= packed.n_cat and not np.isfinite(table[:, i]).all():
                raise _unfilled(name)
        return {"packed": table}


def _unfilled(name: str) -> DataError:
    return DataError(
        f"column {name!r} holds missing values, or values beyond 3.4e38; add FillMissing() and Normalize() to the procs"
    )
