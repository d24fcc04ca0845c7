"""Where ratings and events come from: frames, CSV in its dialects, Parquet, and the folders of MovieLens."""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, final

from graftwork.api import DataError, OptionError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from graftwork_collab.events import Events

__all__ = ["RawTable", "csv_source", "movielens_source", "parquet_source", "read_events", "read_raw", "resolve_source"]

Source: TypeAlias = "str | Path | pa.Table | pd.DataFrame"

HEAD_BYTES: Final = 1 << 16
SEPARATORS: Final = ("\t", ";", ",", "|")
# What stands for MovieLens' two-character separator while pyarrow reads: the ASCII unit separator.
UNIT: Final = "\x1f"
NO_HEADER: Final = ("user", "item", "rating", "timestamp")
MISSING: Final = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")
_ZEROS: Final = re.compile(r"\s*0\d+\s*$")
_NUMBER: Final = re.compile(r"\s*[-+]?\d+([.,]\d*)?([eE][-+]?\d+)?\s*")

RATINGS: Final = ("ratings.csv", "ratings.dat", "u.data", "ratings.parquet")
TITLES: Final = ("movies.csv", "movies.dat", "u.item", "movies.parquet")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RawTable:
    """Hold a source as it was read; `titles` names items, `notes` say how it was read."""

    table: pa.Table
    where: str
    titles: Mapping[Any, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_events(
    source: Source,
    *,
    user: str | None = None,
    item: str | None = None,
    rating: str | None = None,
    timestamp: str | None = None,
    with_rating: bool = True,
    duplicates: Literal["last", "all"] = "last",
    on_bad_item: Literal["skip", "error"] = "skip",
) -> Events:
    """Read who rated what, when, and how: a frame, an Arrow table, a file, or a folder in MovieLens' format.

    Columns not named are found by their name (userId, movie_id, stars, …), else they are the first three. With
    `with_rating=False` a rating is read only if it is named. Rows that cannot be used (an id is missing, a rating is no
    number) are left out and counted, or with `on_bad_item="error"` the first one raises. Of several ratings of one item
    by one user the last one counts, or with `duplicates="all"` each of them.

    Raises:
        DataError: nothing that can be read, no such column, or no row that can be used.
    """
    from graftwork_collab.events import clean

    return clean(
        read_raw(source),
        wanted={"user": user, "item": item, "rating": rating, "timestamp": timestamp},
        with_rating=with_rating,
        duplicates=duplicates,
        on_bad_item=on_bad_item,
    )


def read_raw(source: Source) -> RawTable:
    """Read a source as it is; raise DataError if it cannot be read or holds nothing."""
    import pyarrow as pa

    if isinstance(source, str | Path):
        found = _read_path(Path(source))
    elif isinstance(source, pa.Table):
        found = RawTable(table=source, where="the table")
    else:
        found = RawTable(table=_from_frame(source), where="the frame")
    twice = sorted({name for name in found.table.column_names if found.table.column_names.count(name) > 1})
    if twice:
        raise DataError(f"{found.where} has several columns of the name {twice[0]!r}; rename all but one")
    if found.table.num_rows == 0:
        raise DataError(f"{found.where} has no rows, only the columns {found.table.column_names}")
    return found


def _from_frame(frame: pd.DataFrame) -> pa.Table:
    import pandas as pd
    import pyarrow as pa

    if not isinstance(frame, pd.DataFrame):
        raise OptionError(f"ratings come as a path, a DataFrame or an Arrow table, not as {type(frame).__name__}")
    columns = [str(name) for name in frame.columns]
    arrays = []
    for position, name in enumerate(columns):
        try:
            arrays.append(pa.chunked_array([pa.Array.from_pandas(frame.iloc[:, position])]))
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise DataError(
                f"column {name!r} holds values of several types ({error}); give it one: df[{name!r}].astype(str)"
            ) from error
    return pa.table(arrays, names=columns)


def _read_path(path: Path) -> RawTable:
    if not path.exists():
        raise DataError(f"there is no file or folder {str(path)!r}")
    if path.is_dir():
        return movielens_source(path)
    return parquet_source(path) if path.suffix in (".parquet", ".pq") else csv_source(path)


def parquet_source(path: str | Path) -> RawTable:
    """Read a Parquet file, or a folder of them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return RawTable(table=pq.read_table(path), where=f"{Path(path).name!r}")
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{str(path)!r} cannot be read as Parquet: {error}") from error


def movielens_source(folder: str | Path) -> RawTable:
    """Read a folder as MovieLens comes: ratings.csv, ratings.dat or u.data, and the titles if they lie beside them."""
    folder = Path(folder)
    ratings = next((folder / name for name in RATINGS if (folder / name).is_file()), None)
    if ratings is None and any(folder.glob("*.parquet")):
        return parquet_source(folder)
    if ratings is None:
        there = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
        raise DataError(f"{str(folder)!r} holds none of {', '.join(RATINGS)}, and no Parquet files; found {there}")
    found = _read_path(ratings)
    titles = next((folder / name for name in TITLES if (folder / name).is_file()), None)
    if titles is None:
        return found
    named, note = _titles(titles)
    return RawTable(table=found.table, where=found.where, titles=named, notes=(*found.notes, *note))


def _titles(path: Path) -> tuple[dict[Any, str], tuple[str, ...]]:
    """Read the names of items: the first column is the id, the second the title."""
    table = _read_path(path).table
    if table.num_columns < 2:
        raise DataError(f"{path.name!r} should give an id and a title in each row; it has {table.num_columns} column")
    ids, titles = table.column(0).to_pylist(), table.column(1).to_pylist()
    named = {i: str(t).strip() for i, t in zip(ids, titles, strict=True) if i is not None and t is not None}
    shared = len(named) - len(set(named.values()))
    if not shared:
        return named, ()
    return named, (f"{path.name!r}: {shared} titles name several ids; those items answer to their ids only",)


# -- text files --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Dialect:
    """Say how a text file is written; `texts` are columns whose numbers have leading zeros, which must not get lost."""

    separator: str
    encoding: str
    header: bool
    columns: tuple[str, ...]
    texts: tuple[str, ...] = ()

    @property
    def plain(self) -> bool:
        """Say whether it is what everybody expects."""
        return (self.separator, self.encoding, self.header) == (",", "utf-8", True)

    def describe(self) -> str:
        """Say what was found."""
        names = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "bar", "::": "::"}
        header = "with a header" if self.header else "without a header"
        return f"separator {names[self.separator]}, {self.encoding}, {header}"


def csv_source(path: str | Path) -> RawTable:
    """Read a text file of columns; separator (, ; tab | ::), encoding and header are told by looking at it.

    Files without a header are taken to hold user, item, rating and timestamp, in this order.
    """
    path = Path(path)
    head = _head(path)
    if not head.strip():
        raise DataError(f"{str(path)!r} is empty")
    dialect = _sniff(head)
    table, skipped = _parse(path, dialect)
    if any(column.type == "binary" for column in table.columns):
        # Beyond the head there are letters that are no UTF-8.
        dialect = replace(dialect, encoding="latin-1")
        table, skipped = _parse(path, dialect)
    notes = [] if dialect.plain else [f"{path.name!r}: {dialect.describe()}"]
    if skipped:
        notes.append(
            f"{path.name!r}: left out {len(skipped)} lines that do not have {len(dialect.columns)} fields, "
            f"the first: {skipped[0]!r}"
        )
    return RawTable(table=table, where=f"{path.name!r}", notes=tuple(notes))


def _open(path: Path) -> Any:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _head(path: Path) -> bytes:
    with _open(path) as file:
        start: bytes = file.read(HEAD_BYTES)
    # Only whole lines, unless there is but one.
    return start[: start.rfind(b"\n") + 1] or start


def _sniff(head: bytes) -> _Dialect:
    encoding = _encoding(head)
    lines = [line for line in head.decode(encoding).lstrip("\ufeff").splitlines() if line.strip()]
    separator = "::" if "::" in lines[0] else max(SEPARATORS, key=lambda s: _agreement(lines[:50], s))
    fields = [text.strip().strip('"') for text in lines[0].split(separator)]
    header = not any(_NUMBER.fullmatch(text) for text in fields)
    columns = fields if header else [*NO_HEADER, *(f"column{i}" for i in range(5, len(fields) + 1))][: len(fields)]
    rows = [line.split(separator) for line in lines[header:]]
    texts = {columns[i] for row in rows for i, text in enumerate(row[: len(columns)]) if _ZEROS.match(text.strip('"'))}
    return _Dialect(
        separator=separator, encoding=encoding, header=header, columns=tuple(columns), texts=tuple(sorted(texts))
    )


def _encoding(head: bytes) -> str:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    try:
        head.decode("utf-8")
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"


def _agreement(lines: Sequence[str], separator: str) -> tuple[int, int]:
    """Return how many lines have as many separators as the first one, if it has any, and how many that is."""
    number = lines[0].count(separator)
    return (sum(line.count(separator) >= number for line in lines) if number else 0, number)


def _parse(path: Path, dialect: _Dialect) -> tuple[pa.Table, list[str]]:
    import pyarrow as pa
    from pyarrow import csv

    skipped: list[str] = []

    def skip(row: csv.InvalidRow) -> str:
        skipped.append(row.text)
        return "skip"

    read = csv.ReadOptions(encoding=dialect.encoding, column_names=None if dialect.header else list(dialect.columns))
    double = dialect.separator == "::"
    parse = csv.ParseOptions(
        delimiter=UNIT if double else dialect.separator,
        quote_char=False if double else '"',
        invalid_row_handler=skip,
    )
    convert = csv.ConvertOptions(
        strings_can_be_null=True,
        null_values=list(MISSING),
        column_types=dict.fromkeys(dialect.texts, pa.string()),
    )
    try:
        with _bytes(path, dialect) as file:
            return csv.read_csv(file, read_options=read, parse_options=parse, convert_options=convert), skipped
    except (pa.ArrowInvalid, UnicodeError) as error:
        raise DataError(f"{str(path)!r} cannot be read as columns ({dialect.describe()}): {error}") from error


def _bytes(path: Path, dialect: _Dialect) -> Any:
    import io

    if dialect.separator != "::":
        return _open(path)
    with _open(path) as file:
        return io.BytesIO(file.read().replace(b"::", UNIT.encode()))


def resolve_source(location: str) -> str | None:
    """Say which of this plugin's sources reads a location, or None: a folder as MovieLens comes."""
    path = Path(location)
    if path.is_dir() and any((path / name).is_file() for name in RATINGS):
        return "collab/movielens"
    return None
