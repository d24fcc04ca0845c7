"""Reading series: CSV with one series a row, and npz with arrays x and y."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graftwork.api import DataError, ItemError, OptionError

__all__ = ["Item", "get_label", "get_values", "read_source"]

LABEL_NAMES = ("label", "class", "target", "y")


@dataclass(frozen=True, slots=True)
class Item:
    """Be one series of a file: its cells as text, or its numbers."""

    where: str
    values: Any
    label: str | int | None

    def __str__(self) -> str:
        """Name the file and the row."""
        return self.where


def get_values(item: Item) -> Any:
    """Return an item's numbers; raise ItemError if a cell is none."""
    try:
        return np.asarray(item.values, dtype=np.float32)
    except ValueError as error:
        raise ItemError(f"{item}: {error}") from error


def get_label(item: Item) -> str | int:
    """Return an item's label; raise ItemError if it has none."""
    if item.label is None or item.label == "":
        raise ItemError(f"{item}: there is no label")
    return item.label


def read_source(path: str | Path, *, label: str = "auto", labelled: bool = True) -> list[Item]:
    """Return the series of a CSV or npz file.

    `label` names a CSV's column of labels, or gives its number from 0. "auto" is the column called label, class, target
    or y, else the only one with text in it, else the first, as in the UCR archive; with `labelled=False`, then none.

    Raises:
        DataError: the file holds no series.
        OptionError: there is no such column.
    """
    path = Path(path)
    items = _read_npz(path) if path.suffix == ".npz" else _read_csv(path, label, labelled=labelled)
    if not items:
        raise DataError(f"{path} holds no series; write one a row, or arrays x and y with np.savez")
    return items


def _read_npz(path: Path) -> list[Item]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in ("x", "y") if name in arrays}
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no npz file of plain arrays: {error}") from error
    if "x" not in found or found["x"].ndim not in (2, 3):
        raise DataError(f"{path} has no array x of shape (N, channels, length) or (N, length)")
    x = found["x"]
    labels = found["y"].tolist() if "y" in found else [None] * len(x)
    if len(labels) != len(x):
        raise DataError(f"{path} holds {len(x)} series and {len(labels)} labels; x and y must be of one length")
    return [Item(f"{path}:{row}", *pair) for row, pair in enumerate(zip(x, labels, strict=True))]


def _read_csv(path: Path, label: str, *, labelled: bool) -> list[Item]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no text file in UTF-8: {error}") from error
    first = text.partition("\n")[0]
    separator = max(",\t;", key=first.count)
    lines = [(number, row) for number, row in enumerate(csv.reader(text.splitlines(), delimiter=separator), 1) if row]
    # A header has text above columns of numbers.
    has_header = len(lines) > 1 and sum(map(_is_text, lines[0][1])) > sum(map(_is_text, lines[1][1]))
    header = lines[0][1] if has_header else []
    lines = lines[1:] if has_header else lines
    column = _label_column(path, label, header, [row for _, row in lines], labelled=labelled)
    return [_item(path, number, row, column) for number, row in lines]


def _item(path: Path, number: int, row: list[str], column: int | None) -> Item:
    if column is None:
        return Item(f"{path}:{number}", row, None)
    label = row[column].strip() if column < len(row) else None
    return Item(f"{path}:{number}", [cell for place, cell in enumerate(row) if place != column], label)


def _label_column(
    path: Path, label: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, labelled: bool
) -> int | None:
    if label != "auto":
        width = max(map(len, rows), default=0)
        if label in header:
            return header.index(label)
        if label.isdecimal() and int(label) < width:
            return int(label)
        raise OptionError(f"{path} has no column {label!r}; its {width} columns are {', '.join(header) or 'unnamed'}")
    named = [place for place, name in enumerate(header) if name.strip().lower() in LABEL_NAMES]
    texts = [place for place, cell in enumerate(rows[0] if rows else []) if _is_text(cell)]
    if named or len(texts) == 1:
        return (named or texts)[0]
    return 0 if labelled else None


def _is_text(cell: str) -> bool:
    try:
        float(cell or "nan")
    except ValueError:
        return True
    return False
