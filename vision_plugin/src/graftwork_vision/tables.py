"""Tables of pictures with several labels, with numbers, or with points."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from graftwork.api import DataError, OptionError, unknown
from graftwork_vision.sources import (
    LABEL_NAMES,
    VALID_COLUMN,
    FlagSplitter,
    Sample,
    Samples,
    only_table,
    path_column,
    read_table,
    sample_x,
    sample_y,
    valid_flags,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["labels_source", "numbers_source"]

DELIMITERS: Final = (";", "|", ",", " ")
_MANY_NAMES: Final = (*LABEL_NAMES, "tags", "tag", "classes", "categories")
_X_NAME: Final = re.compile(r"(?i)^(?:(.*)[ _.-])?x([ _.-]?\d*)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """Hold a table of pictures: which column has their paths, and the folder those are relative to."""

    file: Path
    rows: pd.DataFrame
    paths: str
    root: Path

    @property
    def others(self) -> list[str]:
        """The columns besides the paths and the split."""
        return [str(c) for c in self.rows.columns if c not in (self.paths, VALID_COLUMN)]

    def samples(self, values: Sequence[Any], kept: np.ndarray[Any, Any], notes: Sequence[str]) -> Samples:
        """Put pictures and values together, of the rows that are kept."""
        pairs = zip(self.rows[self.paths].astype(str), values, kept.tolist(), strict=True)
        items = [Sample(self.root / name, value, str(self.root / name)) for name, value, keep in pairs if keep]
        if not items:
            raise DataError(f"no row of {str(self.file)!r} has all that is needed")
        said, splitter = list(notes), None
        if VALID_COLUMN in self.rows.columns:
            said.append(f"{self.file.name}: the split is that of column {VALID_COLUMN!r}")
            flags = np.asarray(valid_flags(self.rows))
            splitter = FlagSplitter(tuple(flags[kept].tolist()))
        return Samples(items=items, get_x=sample_x, get_y=sample_y, splitter=splitter, notes=tuple(said))


def _table(source: Path) -> _Table:
    file = only_table(source) if source.is_dir() else source
    rows = read_table(file)
    paths, root = path_column(rows, file)
    return _Table(file=file, rows=rows, paths=paths, root=root)


def labels_source(source: str | Path, *, column: str = "auto", delimiter: str = "auto") -> Samples:
    """Read a table whose cells hold several labels each; `source` is the table, or a folder with it.

    An empty cell is no label. Raises OptionError or DataError where it is not clear which column it is.
    """
    table = _table(Path(source))
    label = _label_column(table) if column == "auto" else column
    if label not in table.others:
        raise unknown(f"column of {table.file.name}", label, table.others)
    cells = [[] if cell != cell else str(cell) for cell in table.rows[label].tolist()]
    delimiter = _delimiter([cell for cell in cells if isinstance(cell, str)]) if delimiter == "auto" else delimiter
    values = [_divided(cell, delimiter) if isinstance(cell, str) else [] for cell in cells]
    notes = [
        f"{table.file.name}: paths are in column {table.paths!r}, labels in column {label!r}, "
        + (f"with {delimiter!r} between them" if delimiter else "one a row")
    ]
    empty = sum(not value for value in values)
    if empty:
        notes.append(f"{table.file.name}: {empty} of {len(values)} pictures have no label")
    return table.samples(values, np.ones(len(values), bool), notes)


def _label_column(table: _Table) -> str:
    named = [c for c in table.others if c.lower() in _MANY_NAMES]
    if len(named) == 1 or len(table.others) == 1:
        return (named or table.others)[0]
    raise OptionError(
        f"which column of {table.file.name} holds the labels? Say --label-col COLUMN; "
        f"there are {', '.join(table.others) or 'none besides the paths'}"
    )


def _delimiter(cells: Sequence[str]) -> str:
    """Return what occurs in most cells; a blank only where nothing else does."""
    counts = {mark: sum(mark in cell.strip() for cell in cells) for mark in DELIMITERS}
    best = max(DELIMITERS[:-1], key=lambda mark: counts[mark])
    if counts[best]:
        return best
    return " " if counts[" "] else ""


def _divided(cell: str, delimiter: str) -> list[str]:
    parts = cell.split(delimiter) if delimiter else [cell]
    return list(dict.fromkeys(part.strip() for part in parts if part.strip()))


def numbers_source(source: str | Path, *, columns: str = "auto", kind: str = "auto") -> Samples:
    """Read a table of numbers, as lists, or of points, as lists of pairs (x, y); NaN is a point that is not there.

    Rows that lack one of their numbers are left out, counted and said.

    Raises:
        DataError: a column holds something else than numbers, naming the first row.
        OptionError: points have an odd number of columns, or kind is unknown.
    """
    if kind not in ("auto", "numbers", "points"):
        raise unknown("kind of target", kind, ("auto", "numbers", "points"))
    table = _table(Path(source))
    names = _number_columns(table) if columns == "auto" else [name.strip() for name in columns.split(",")]
    for name in names:
        if name not in table.others:
            raise unknown(f"column of {table.file.name}", name, table.others)
    values = np.stack([_numbers(table, name) for name in names], 1)
    points = kind == "points" or (kind == "auto" and _are_pairs(names))
    notes = [f"{table.file.name}: paths are in column {table.paths!r}, {_said(names, points)}"]
    if points:
        return table.samples(_as_points(values, names), np.ones(len(values), bool), notes)
    kept = np.asarray(np.isfinite(values).all(axis=1))
    if not kept.all():
        notes.append(f"{table.file.name}: {int((~kept).sum())} of {len(kept)} rows lack a number and are left out")
    return table.samples(values.tolist(), kept, notes)


def _number_columns(table: _Table) -> list[str]:
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    found = [c for c in table.others if is_numeric_dtype(table.rows[c]) and not is_bool_dtype(table.rows[c])]
    if not found:
        raise OptionError(
            f"no column of {table.file.name} holds numbers only; say which with --target COLUMN[,COLUMN…]; "
            f"there are {', '.join(table.others) or 'none besides the paths'}"
        )
    return found


def _numbers(table: _Table, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    import pandas as pd

    cells = table.rows[name]
    numbers = pd.to_numeric(cells, errors="coerce")
    wrong = cells[numbers.isna() & cells.notna()]
    if len(wrong):
        raise DataError(f"{table.file}: row {wrong.index[0] + 2}, column {name!r}: {wrong.iloc[0]!r} is no number")
    found: np.ndarray[Any, np.dtype[np.float64]] = numbers.to_numpy(np.float64)
    return found


def _are_pairs(names: Sequence[str]) -> bool:
    """Say whether names are x and y in turn: x,y or x1,y1,x2,y2 or nose_x,nose_y."""
    pairs = list(zip(names[::2], names[1::2], strict=False))
    return bool(pairs) and len(names) % 2 == 0 and all(_is_pair(first, second) for first, second in pairs)


def _is_pair(first: str, second: str) -> bool:
    found = _X_NAME.match(first)
    if found is None:
        return False
    place = found.start(2) - 1
    return second.lower() == (first[:place] + "y" + first[place + 1 :]).lower()


def _as_points(values: np.ndarray[Any, Any], names: Sequence[str]) -> list[list[tuple[float, float]]]:
    if len(names) % 2:
        raise OptionError(f"points are x and y in turn, and there are {len(names)} columns: {', '.join(names)}")
    pairs = values.reshape(len(values), -1, 2)
    pairs = np.where(np.isfinite(pairs).all(2, keepdims=True), pairs, np.nan)
    return [[(x, y) for x, y in row] for row in pairs.tolist()]


def _said(names: Sequence[str], points: bool) -> str:
    what = f"{len(names) // 2} point(s)" if points else f"{len(names)} number(s)"
    return f"{what} in {', '.join(names[:8])}{', …' if len(names) > 8 else ''}"
