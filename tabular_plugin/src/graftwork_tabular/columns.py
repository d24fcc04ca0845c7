"""Columns on their way to a model: Arrow arrays as read, numpy arrays once they are numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["Columns", "Numbers", "num_distinct", "to_array", "to_numbers", "to_values"]

Columns = Mapping[str, Any]
"""A column by name: pyarrow (Chunked)Array, or numpy array; all of one length."""
Numbers = np.ndarray[Any, np.dtype[Any]]


def to_values(column: Any) -> Any:
    """Return a column of categories as Arrow."""
    if isinstance(column, pa.Array | pa.ChunkedArray):
        return column
    return pa.array(column, from_pandas=True)


def to_array(values: Any) -> pa.Array:
    """Return a pandas or numpy column, or a list, as Arrow; values of several types become text."""
    try:
        return pa.array(values, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([_text(value) for value in values], pa.large_string())


def _text(value: Any) -> str | None:
    if value is None or value != value:
        return None
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def num_distinct(column: Any) -> int:
    """Count the distinct values that are not missing."""
    if pa.types.is_null(column.type):
        return 0
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return len(pc.unique(column.drop_null()))


def to_numbers(column: Any, name: str, notes: list[str]) -> Numbers:
    """Return a column as float64, NaN where missing; text that is no number and infinite values count as missing.

    `notes` hears of both.
    """
    if isinstance(column, np.ndarray):
        column = pa.array(column, from_pandas=True)
    values = _float64(column, name, notes)
    infinite = np.isinf(values)
    if infinite.any():
        notes.append(f"column {name!r}: {int(infinite.sum())} infinite value(s) count as missing")
        values = np.where(infinite, np.nan, values)
    return values


def _float64(column: Any, name: str, notes: list[str]) -> Numbers:
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _parsed(column, name, notes)
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan)
    if pa.types.is_duration(kind):
        column = column.cast(pa.duration("us"), safe=False).cast(pa.int64())
        return _plain(column) / 1e6
    if pa.types.is_temporal(kind):
        column = column.cast(pa.timestamp("us"), safe=False).cast(pa.int64())
    return _plain(column)


def _plain(column: Any) -> Numbers:
    if column.type != pa.float64():
        column = column.cast(pa.float64(), safe=False)
    values = column.to_numpy(zero_copy_only=False) if isinstance(column, pa.Array) else column.to_numpy()
    return np.asarray(values, np.float64)


def _parsed(column: Any, name: str, notes: list[str]) -> Numbers:
    stripped = pc.utf8_trim_whitespace(column)
    try:
        return _plain(stripped.cast(pa.float64()))
    except pa.ArrowInvalid:
        pass
    # Only a column that is not clean comes here, so it may take its time.
    values = np.array([_number(text) for text in stripped.to_pylist()], np.float64)
    bad = np.isnan(values) & ~np.asarray(stripped.is_null())
    if bad.any():
        first = int(np.argmax(bad))
        notes.append(
            f"column {name!r}: {int(bad.sum())} value(s) are no number and count as missing, "
            f"the first one {stripped[first].as_py()!r} in row {first + 1}"
        )
    return values


def _number(text: str | None) -> float:
    try:
        return float("nan" if text is None else text)
    except ValueError:
        return float("nan")
