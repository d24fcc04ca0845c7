"""Read a table: a CSV whose separator, header and encoding are found out, Parquet, a frame, an Arrow table."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graftwork.api import DataError, OptionError, unknown
from graftwork_tabular.columns import to_array

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["NA_VALUES", "Table", "TableSource", "read_table", "table_from_rows"]

TableSource = "str | Path | pd.DataFrame | pa.Table | Sequence[Mapping[str, Any]]"

NA_VALUES = ("", "?", "#N/A", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null", "-nan", "<NA>")
"""What a CSV writes for a missing value; others by `na_values`."""

SEPARATORS = (",", ";", "\t", "|", "::", " ")
SAMPLE_BYTES = 256 * 1024
SAMPLE_LINES = 200
BLOCK_BYTES = 16 * 2**20
BAD_ROWS_ALLOWED = 0.1
UNIT = "\x1f"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Hold an Arrow table and what reading it had to say."""

    table: pa.Table
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """Say how a CSV file is written."""

    encoding: str
    separator: str
    header: bool
    decimal: str = "."


def read_table(
    source: Any,
    *,
    sep: str | None = None,
    encoding: str | None = None,
    header: bool | None = None,
    na_values: Sequence[str] = (),
) -> Table:
    """Read a CSV (also .tsv, .dat, .data, .gz) or Parquet file or folder, a frame, an Arrow table, or a list of rows.

    What is not given is found out from the file's beginning, and said. Lines of another width than the header are left
    out, counted and said.

    Raises:
        DataError: empty, no table, a column named twice, or too many lines that do not fit.
    """
    import pyarrow as pa

    if isinstance(source, str | Path):
        path = Path(source)
        if not path.exists():
            beside = [str(p) for p in path.parent.iterdir()] if path.parent.is_dir() else []
            raise unknown("path", str(path), beside, hint="there is no such file or folder")
        found = _read_file(path, sep=sep, encoding=encoding, header=header, na_values=na_values)
    elif isinstance(source, pa.Table):
        found = Table(table=source)
    elif isinstance(source, Sequence):
        found = Table(table=table_from_rows(source))
    else:
        found = _from_frame(source)
    _check(found.table, source)
    return found


def _check(table: pa.Table, source: Any) -> None:
    name = source if isinstance(source, str | Path) else "the table"
    twice = [str(column) for column, count in Counter(table.column_names).items() if count > 1]
    if twice:
        raise DataError(f"{name} has several columns named {twice[0]!r}; rename them, so that each has its own name")
    if table.num_columns == 0 or table.num_rows == 0:
        raise DataError(f"{name} is empty: {table.num_columns} columns, {table.num_rows} rows")


def table_from_rows(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Build a table from mappings; a column that a row does not have is missing there."""
    if not rows or not all(isinstance(row, Mapping) for row in rows):
        raise DataError("a table is a path, a frame, an Arrow table, or a sequence of rows, each a mapping from column")
    names = dict.fromkeys(name for row in rows for name in row)
    import pyarrow as pa

    return pa.table({str(name): to_array([row.get(name) for row in rows]) for name in names})


def _from_frame(frame: Any) -> Table:
    import pandas as pd
    import pyarrow as pa

    if not isinstance(frame, pd.DataFrame):
        raise DataError(
            f"a {type(frame).__name__} is no table; give a path, a pandas frame, an Arrow table or a list of mappings"
        )
    notes, columns, names = [], [], []
    for i, label in enumerate(frame.columns):
        series = frame.iloc[:, i]
        columns.append(to_array(series))
        names.append(str(label))
        if pa.types.is_large_string(columns[-1].type) and not pd.api.types.is_string_dtype(series):
            notes.append(f"column {str(label)!r} holds values of several types; they are compared as text")
    return Table(table=pa.Table.from_arrays(columns, names=names), notes=tuple(notes))


def _read_file(
    path: Path, *, sep: str | None, encoding: str | None, header: bool | None, na_values: Sequence[str]
) -> Table:
    import pyarrow as pa

    suffixes = {suffix.lower() for suffix in path.suffixes}
    if path.is_dir() or suffixes & {".parquet", ".pq"}:
        import pyarrow.dataset as ds

        files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
        if not files:
            raise DataError(f"{path} is a folder without Parquet files; give a CSV or Parquet file, or such a folder")
        try:
            return Table(table=ds.dataset([str(file) for file in files], format="parquet").to_table())
        except (pa.ArrowInvalid, pa.ArrowTypeError, OSError) as error:
            raise DataError(f"{path} cannot be read as Parquet: {error}") from error
    if suffixes & {".arrow", ".feather"}:
        import pyarrow.feather as feather

        return Table(table=feather.read_table(path))
    return _read_csv(path, sep=sep, encoding=encoding, header=header, na_values=na_values)


def _beginning(path: Path) -> bytes:
    import pyarrow as pa

    try:
        with pa.input_stream(str(path)) as stream:
            return bytes(stream.read(SAMPLE_BYTES))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _read_csv(
    path: Path, *, sep: str | None, encoding: str | None, header: bool | None, na_values: Sequence[str]
) -> Table:
    sample = _beginning(path)
    if not sample.strip():
        raise DataError(f"{path} is empty")
    if b"\0" in sample and not sample.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path} is no text: give a CSV or a Parquet file")
    dialect = sniff(sample, sep=sep, encoding=encoding, header=header)
    notes = _said(dialect, sep=sep, encoding=encoding, header=header)
    names = None if dialect.header else _numbered(sample, dialect)
    bad: list[str] = []
    try:
        table = _parse(path, dialect, names, na_values, bad)
    except UnicodeError:
        # The beginning was UTF-8, a later line is not.
        if encoding is not None:
            raise DataError(f"{path} is not written in {encoding}; leave encoding= out, or say another") from None
        dialect = replace(dialect, encoding="cp1252")
        notes.append("the file is not all UTF-8; it was read as cp1252")
        bad.clear()
        table = _parse(path, dialect, names, na_values, bad)
    notes += _bad_rows(path, bad, table.num_rows)
    return Table(table=table, notes=tuple(notes))


def _parse(path: Path, dialect: Dialect, names: list[str] | None, na_values: Sequence[str], bad: list[str]) -> pa.Table:
    """Parse a CSV file; `bad` gets the lines of another width. Raises UnicodeError for another encoding."""
    import pyarrow as pa

    source, separator = str(path), dialect.separator
    if len(separator) > 1:
        source, separator = _one_letter(path, dialect), UNIT
    try:
        return _arrow(source, dialect, separator, names, na_values)
    except pa.ArrowInvalid as error:
        # Arrow could hand us bad lines itself, but then sometimes aborts when the program ends.
        if "Expected" not in str(error):
            raise DataError(f"{path} cannot be read as a table: {error}") from error
    whole = replace(dialect, encoding="utf-8")
    return _arrow(_fitting_lines(path, dialect, names, bad), whole, UNIT, names, na_values)


def _arrow(
    source: Any, dialect: Dialect, separator: str, names: list[str] | None, na_values: Sequence[str]
) -> pa.Table:
    import pyarrow as pa
    from pyarrow import csv as pacsv

    convert = pacsv.ConvertOptions(
        null_values=[*NA_VALUES, *na_values], strings_can_be_null=True, decimal_point=dialect.decimal
    )
    parse = pacsv.ParseOptions(delimiter=separator, newlines_in_values=True)
    read = pacsv.ReadOptions(encoding=dialect.encoding, column_names=names, block_size=BLOCK_BYTES)
    try:
        table = pacsv.read_csv(source, read, parse, convert)
    except pa.ArrowInvalid as error:
        if "UTF8" in str(error):
            raise UnicodeError(str(error)) from error
        raise
    # Arrow takes text that is not UTF-8 for bytes.
    if any(pa.types.is_binary(kind) for kind in table.schema.types):
        raise UnicodeError(f"the table is not {dialect.encoding}")
    return table


def _fitting_lines(path: Path, dialect: Dialect, names: list[str] | None, bad: list[str]) -> pa.BufferReader:
    """Return the lines of the header's width, separated by a letter that text does not hold; `bad` gets the others."""
    import io

    import pyarrow as pa

    with pa.input_stream(str(path)) as stream:
        text = stream.read().decode(dialect.encoding).removeprefix("\ufeff")
    rows = _rows(text.splitlines(), dialect.separator)
    width = len(rows[0]) if names is None else len(names)
    kept = io.StringIO()
    writer = csv.writer(kept, delimiter=UNIT)
    for row in rows:
        if len(row) == width:
            writer.writerow(row)
        elif row:
            bad.append(repr(dialect.separator.join(row)[:60]))
    return pa.BufferReader(kept.getvalue().encode())


def _one_letter(path: Path, dialect: Dialect) -> Any:
    """Replace a separator of several letters, as in MovieLens' `::`, by one that text does not hold."""
    import pyarrow as pa

    with pa.input_stream(str(path)) as stream:
        data = stream.read()
    return pa.BufferReader(data.replace(dialect.separator.encode(dialect.encoding), UNIT.encode()))


def _bad_rows(path: Path, bad: Sequence[str], good: int) -> list[str]:
    if not bad:
        return []
    if len(bad) > BAD_ROWS_ALLOWED * (good + len(bad)):
        raise DataError(
            f"{path}: {len(bad)} of {good + len(bad)} lines have another number of cells than the first ({bad[0]}); "
            "say the separator (sep=) or mend the file"
        )
    return [
        f"{path.name}: left out {len(bad)} line(s) with another number of cells than the first: {'; '.join(bad[:3])}"
    ]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return cell.strip().lower() not in ("nan", "inf", "-inf", "infinity")


def sniff(sample: bytes, *, sep: str | None = None, encoding: str | None = None, header: bool | None = None) -> Dialect:
    """Find out how a CSV file is written, from its beginning; what is given is taken as given."""
    encoding = encoding or _encoding(sample)
    try:
        text = sample.decode(encoding, errors="replace")
    except LookupError as error:
        raise OptionError(f"encoding={encoding!r} is none Python knows; utf-8, cp1252 and utf-16 are common") from error
    text = text.removeprefix("\ufeff")
    lines = text.splitlines()
    whole = lines if len(sample) < SAMPLE_BYTES else lines[:-1]
    kept = [line for line in whole[:SAMPLE_LINES] if line.strip()]
    separator = sep or _separator(kept)
    rows = _rows(kept, separator)
    has_header = _has_header(rows) if header is None else header
    return Dialect(encoding=encoding, separator=separator, header=has_header, decimal=_decimal(rows[1:], separator))


def _encoding(sample: bytes) -> str:
    for mark, name in ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if sample.startswith(mark):
            return name
    try:
        sample[: len(sample) - 4].decode("utf-8")
    except UnicodeDecodeError as error:
        return "utf-8" if error.start > len(sample) - 8 else "cp1252"
    return "utf-8"


def _rows(lines: Sequence[str], separator: str) -> list[list[str]]:
    if len(separator) > 1:
        return [line.split(separator) for line in lines]
    return list(csv.reader(lines, delimiter=separator))


def _separator(lines: Sequence[str]) -> str:
    """Return the separator that cuts most lines into one number of cells, and that into many."""

    def score(separator: str) -> tuple[float, int]:
        counts = Counter(len(row) for row in _rows(lines, separator))
        width, often = max(counts.items(), key=lambda item: (item[0] > 1, item[1]))
        return (often / max(1, len(lines)) if width > 1 else 0.0, width)

    return max(SEPARATORS, key=lambda s: (round(score(s)[0], 1), -SEPARATORS.index(s) if s == " " else 0, score(s)[1]))


def _has_header(rows: Sequence[Sequence[str]]) -> bool:
    """Say whether the first row names the columns: no cell of it is a number."""
    return not rows or not any(_is_number(cell.strip()) for cell in rows[0])


def _decimal(rows: Sequence[Sequence[str]], separator: str) -> str:
    """Return the decimal mark: a comma if numbers are written with one, which a comma-separated file cannot."""
    if separator == ",":
        return "."
    cells = [cell for row in rows for cell in row]
    commas = sum(1 for cell in cells if re.fullmatch(r"\s*-?\d+,\d+\s*", cell))
    points = sum(1 for cell in cells if re.fullmatch(r"\s*-?\d+\.\d+\s*", cell))
    return "," if commas > points else "."


def _numbered(sample: bytes, dialect: Dialect) -> list[str]:
    lines = sample.decode(dialect.encoding, errors="replace").splitlines()[:10]
    width = max(len(row) for row in _rows([line for line in lines if line.strip()], dialect.separator))
    return [f"column{i + 1}" for i in range(width)]


def _said(dialect: Dialect, *, sep: str | None, encoding: str | None, header: bool | None) -> list[str]:
    """Say what was found out, where it is not the usual."""
    said = []
    if sep is None and dialect.separator != ",":
        said.append(f"the separator is {dialect.separator!r}")
    if encoding is None and dialect.encoding != "utf-8":
        said.append(f"the encoding is {dialect.encoding}")
    if dialect.decimal == ",":
        said.append("numbers are written with a decimal comma")
    if header is None and not dialect.header:
        said.append("the first line holds data, so the columns are named column1, column2, …")
    return said
