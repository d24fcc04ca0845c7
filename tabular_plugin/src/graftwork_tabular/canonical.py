"""One plain form for every Arrow column that can hold categories: text, whole numbers, numbers, booleans."""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from graftwork.api import DataError

__all__ = ["KINDS", "Column", "Flags", "Kind", "aligned", "join", "kind_of", "missing_rows", "plain"]

Kind = Literal["string", "integer", "float", "boolean"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
Column: TypeAlias = Any  # pa.Array | pa.ChunkedArray, which have no types
Flags = np.ndarray[tuple[int], np.dtype[np.bool_]]
_NUMBERS: Final[tuple[Kind, ...]] = ("boolean", "integer", "float")
_TYPES: Final[dict[Kind, pa.DataType]] = {
    "string": pa.large_string(),
    "integer": pa.int64(),
    "float": pa.float64(),
    "boolean": pa.int64(),
}
_LEAST, _BEYOND = -(2.0**63), 2.0**63


def kind_of(form: pa.DataType) -> Kind:
    """Return what a column of this type holds; nothing at all counts as text. Other types are a DataError."""
    if pa.types.is_dictionary(form):
        return kind_of(form.value_type)
    if pa.types.is_string(form) or pa.types.is_large_string(form) or pa.types.is_string_view(form):
        return "string"
    if pa.types.is_integer(form):
        return "integer"
    if pa.types.is_floating(form):
        return "float"
    if pa.types.is_boolean(form):
        return "boolean"
    if pa.types.is_null(form):
        return "string"
    raise DataError(
        f"a column of type {form} cannot hold categories; text, whole numbers, numbers and booleans can: "
        "cast it to text, or turn dates into numbers with add_datepart"
    )


def join(first: Kind, second: Kind) -> Kind:
    """Return the kind that holds the values of both; text and numbers do not go together."""
    if first == second:
        return first
    if "string" in (first, second):
        raise DataError(
            f"one part of the column holds {first} values, another {second} values; "
            "read all parts with the same column type (for CSV files: give the type)"
        )
    return max(first, second, key=_NUMBERS.index)


def plain(column: Column) -> pa.ChunkedArray:
    """Return large_string, int64, uint64 (where int64 is too small) or float64 without NaN and -0.0."""
    chunks = column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])
    kind = kind_of(chunks.type)
    if pa.types.is_dictionary(chunks.type):
        return plain(chunks.cast(chunks.type.value_type))
    if pa.types.is_uint64(chunks.type):
        return chunks if _needs_unsigned(chunks) else chunks.cast(pa.int64())
    found = chunks.cast(_TYPES[kind])
    return pc.add(pc.if_else(pc.is_nan(found), None, found), 0.0) if kind == "float" else found


def _needs_unsigned(column: pa.ChunkedArray) -> bool:
    largest = pc.max(column).as_py()
    return largest is not None and largest > np.iinfo(np.int64).max


def missing_rows(column: pa.ChunkedArray) -> Flags:
    """Return which rows of a plain column are missing."""
    if not column.null_count:
        return np.zeros(len(column), np.bool_)
    flags: Flags = pc.is_null(column).to_numpy().astype(np.bool_)
    return flags


def aligned(column: pa.ChunkedArray, form: pa.DataType) -> pa.ChunkedArray:
    """Convert a plain column to the plain type of a vocabulary; a value that has no equal there becomes null."""
    if column.type == form:
        return column
    if pa.types.is_large_string(form) or pa.types.is_large_string(column.type):
        return pa.chunked_array([pa.nulls(len(column), form)])
    numbers = pc.fill_null(column, 0).to_numpy()
    found, fits = _converted(numbers, np.dtype(form.to_pandas_dtype()))
    return pa.chunked_array([pa.array(found, form, mask=missing_rows(column) | ~fits)])


def _converted(numbers: np.ndarray, form: np.dtype) -> tuple[np.ndarray, Flags]:
    """Convert numbers, and say which kept their value exactly."""
    if numbers.dtype.kind == "f":
        top = _BEYOND * 2 if form.kind == "u" else _BEYOND
        fits = (np.floor(numbers) == numbers) & (numbers >= (0.0 if form.kind == "u" else _LEAST)) & (numbers < top)
        return np.where(fits, numbers, 0).astype(form), fits
    if form.kind == "f":
        found = numbers.astype(form)
        return found, _exact(numbers, found)
    if form.kind == "u":
        return numbers.astype(form), numbers >= 0
    return numbers.astype(form), numbers <= np.iinfo(np.int64).max


def _exact(whole: np.ndarray, found: np.ndarray) -> Flags:
    top = _BEYOND * 2 if whole.dtype.kind == "u" else _BEYOND
    inside = found < top  # the largest whole numbers round up to one that has no whole number of this type
    back = np.where(inside, found, 0).astype(whole.dtype)
    flags: Flags = inside & (back == whole)
    return flags
