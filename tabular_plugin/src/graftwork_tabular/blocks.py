"""What a row of a table is: as the source gives it, and packed into one row of numbers for a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from graftwork.api import Block, BlockError, BlockSteps, OptionError, unknown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["EXACT_CODES", "Column", "Kind", "PackedRowBlock", "RowBlock"]

Kind = Literal["category", "number", "date", "code"]
EXACT_CODES = 2**24
"""Codes are stored as float32, which holds every whole number below this one."""

SHOWN = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """Describe one column of a row: a category by its value, a number, a date, or a code of a category of `size`."""

    name: str
    kind: Kind
    size: int = 0


@dataclass(frozen=True, repr=False)
class RowBlock(Block):
    """Hold one row of a table: a mapping from column to value, of which the named columns count.

    `columns` are (name, kind) or, for codes, (name, "code", size). A missing value is None or NaN.
    """

    id: ClassVar[str] = "tabular/row"
    columns: tuple[tuple[Any, ...], ...] = ()

    def __post_init__(self) -> None:
        """Refuse a column named twice or of an unknown kind."""
        names = [column[0] for column in self.columns]
        if len(set(names)) != len(names):
            raise OptionError(f"{self.id}: a column is named twice: {names}")
        for name, kind, *_ in self.columns:
            if kind not in ("category", "number", "date", "code"):
                raise OptionError(f"{self.id}: column {name!r} is of kind {kind!r}; use category, number, date or code")

    def __repr__(self) -> str:
        """Count the columns by kind."""
        kinds: tuple[tuple[Kind, str], ...] = (
            ("category", "categories"),
            ("code", "codes"),
            ("number", "numbers"),
            ("date", "dates"),
        )
        counts = ((len(self.names(kind)), word) for kind, word in kinds)
        return f"RowBlock({', '.join(f'{count} {word}' for count, word in counts if count)})"

    @classmethod
    def of(cls, columns: Sequence[Column]) -> RowBlock:
        """Build from records."""
        return cls(tuple((c.name, c.kind, c.size) if c.kind == "code" else (c.name, c.kind) for c in columns))

    @property
    def parts(self) -> tuple[Column, ...]:
        """The columns as records."""
        return tuple(Column(name=c[0], kind=c[1], size=c[2] if len(c) > 2 else 0) for c in self.columns)

    def names(self, kind: Kind) -> tuple[str, ...]:
        """Return the columns of a kind, in their order."""
        return tuple(c[0] for c in self.columns if c[1] == kind)

    def check(self, value: Any) -> str | None:
        """Return which column is missing or holds what it cannot, or None."""
        if not isinstance(value, Mapping):
            return f"a row is a mapping from column to value, not {type(value).__name__}"
        for column in self.parts:
            if column.name not in value:
                return f"column {column.name!r} is not in the row, which has {', '.join(map(str, value))}"
            reason = _cell_reason(value[column.name], column)
            if reason:
                return f"column {column.name!r}: {reason}"
        return None

    def mock(self, rng: np.random.Generator) -> dict[str, Any]:
        """Invent a row."""
        return {c.name: _mock_cell(c, rng) for c in self.parts}

    def collate(self, values: Sequence[Any]) -> Tensor:
        """Refuse: rows are packed before they are batched."""
        raise BlockError(f"{self.id} has no tensor form; encode its categories and pack it first (Categorify, PackRow)")

    def uncollate(self, column: Tensor) -> list[Any]:
        """Refuse: rows are packed before they are batched."""
        raise BlockError(f"{self.id} has no tensor form")

    def show(self, value: Any, ax: Axes) -> None:
        """Write the row as lines of text."""
        _write({name: value[name] for name, *_ in self.columns}, ax)

    def steps(self) -> BlockSteps:
        """Read the row first, and pack it at the end."""
        from graftwork_tabular.procs import PackRow, ReadRow

        return BlockSteps(opening=(ReadRow(),), closing=(PackRow(),))


def _cell_reason(value: Any, column: Column) -> str | None:
    if value is None or value != value:
        return None
    if column.kind == "number":
        try:
            float(value)
        except (TypeError, ValueError):
            return f"{value!r} is no number"
    if column.kind == "code" and not 0 <= int(value) < column.size:
        return f"code {value!r} is not in 0 … {column.size - 1}"
    return None


def _mock_cell(column: Column, rng: np.random.Generator) -> Any:
    match column.kind:
        case "number":
            return float(rng.normal())
        case "date":
            return f"20{rng.integers(10, 30)}-{rng.integers(1, 13):02d}-{rng.integers(1, 29):02d}"
        case "code":
            return int(rng.integers(column.size))
        case _:
            return ("first", "second", "third")[int(rng.integers(3))]


def _write(row: Mapping[str, Any], ax: Axes) -> None:
    lines = [f"{name}: {_short(value)}" for name, value in row.items()]
    more = [f"… {len(lines) - SHOWN} more columns"] if len(lines) > SHOWN else []
    ax.text(0.0, 1.0, "\n".join(lines[:SHOWN] + more), va="top", ha="left", fontsize=7, transform=ax.transAxes)


def _short(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 24 else text[:23] + "…"


@dataclass(frozen=True, repr=False)
class PackedRowBlock(Block):
    """Hold an encoded row: the codes of its categories, then its numbers; float32 (n_cat + n_cont,), batched (B, …).

    `cat` names the category columns and `sizes` says how many codes each has: 0 for unseen, 1 … n for the vocabulary,
    n + 1 for missing. `cont` names the numbers.
    """

    id: ClassVar[str] = "tabular/packed-row"
    cat: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()
    cont: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit the columns, or that float32 cannot hold."""
        if len(self.cat) != len(self.sizes):
            raise OptionError(f"{self.id}: {len(self.cat)} category columns and {len(self.sizes)} sizes")
        for name, size in zip(self.cat, self.sizes, strict=True):
            if not 2 <= size <= EXACT_CODES:
                raise OptionError(
                    f"{self.id}: column {name!r} has {size:,} codes; a packed row holds 2 to {EXACT_CODES:,}. "
                    "Leave the column out, or keep its frequent values only (Categorify(min_freq=…))"
                )

    def __repr__(self) -> str:
        """Count the columns."""
        return f"PackedRowBlock({self.n_cat} codes, {self.n_cont} numbers)"

    @property
    def n_cat(self) -> int:
        """Number of category columns."""
        return len(self.cat)

    @property
    def n_cont(self) -> int:
        """Number of number columns."""
        return len(self.cont)

    @property
    def names(self) -> tuple[str, ...]:
        """All columns, in the order of a packed row."""
        return self.cat + self.cont

    def position(self, name: str) -> int:
        """Return where a column is in a packed row; raise UnknownName with the nearest names."""
        if name not in self.names:
            raise unknown("column", name, self.names)
        return self.names.index(name)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the codes, int32 (B, n_cat), and the numbers, float32 (B, n_cont), of packed rows (B, columns)."""
        return x[:, : self.n_cat].int(), x[:, self.n_cat :]

    def check(self, value: Any) -> str | None:
        """Return why `value` is no packed row of these columns, or None."""
        width = len(self.names)
        if not isinstance(value, np.ndarray) or value.shape != (width,):
            return f"a packed row is an array of shape ({width},)"
        codes = value[: self.n_cat]
        for name, code, size in zip(self.cat, codes, self.sizes, strict=True):
            if code != int(code) or not 0 <= code < size:
                return f"column {name!r}: code {code} is not in 0 … {size - 1}"
        return None if np.isfinite(value).all() else "a packed row holds finite numbers only"

    def mock(self, rng: np.random.Generator) -> np.ndarray[Any, Any]:
        """Invent a packed row."""
        codes = [rng.integers(size) for size in self.sizes]
        return np.concatenate([np.asarray(codes, np.float32), rng.normal(size=self.n_cont).astype(np.float32)])

    def collate(self, values: Sequence[Any]) -> Tensor:
        """Stack to float32 (B, n_cat + n_cont)."""
        return torch.from_numpy(np.stack(values).astype(np.float32, copy=False))

    def uncollate(self, column: Tensor) -> list[Any]:
        """Return one float32 array per row."""
        return list(column.cpu().float().numpy())

    def show(self, value: Any, ax: Axes) -> None:
        """Write the row as lines of text."""
        codes = {name: int(code) for name, code in zip(self.cat, value[: self.n_cat], strict=True)}
        _write({**codes, **dict(zip(self.cont, map(float, value[self.n_cat :]), strict=True))}, ax)
