"""Where ratings and events come from: any table that graftwork-tabular reads, and the folders of MovieLens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, final

from graftwork.api import DataError

if TYPE_CHECKING:
    import pyarrow as pa

    from graftwork_collab.events import Events

__all__ = [
    "RawTable",
    "csv_source",
    "movielens_features",
    "movielens_source",
    "parquet_source",
    "read_events",
    "read_raw",
    "resolve_source",
]

RATINGS: Final = ("ratings.csv", "ratings.dat", "u.data", "ratings.parquet")
TITLES: Final = ("movies.csv", "movies.dat", "u.item", "movies.parquet")
MOVIE_COLUMNS: Final = 3
NO_HEADER: Final = ("user", "item", "rating", "timestamp")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RawTable:
    """Hold a source as it was read; `titles` names items, `notes` say how it was read."""

    table: pa.Table
    where: str
    titles: Mapping[Any, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_events(
    source: Any,
    *,
    user: str | None = None,
    item: str | None = None,
    rating: str | None = None,
    timestamp: str | None = None,
    with_rating: bool = True,
    duplicates: Literal["last", "all"] = "last",
    on_bad_item: Literal["skip", "error"] = "skip",
) -> Events:
    """Read who rated what, when, and how: a frame, an Arrow table, rows, a file, or a folder in MovieLens' format.

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


def read_raw(source: Any) -> RawTable:
    """Read a source as it is; raise DataError if it cannot be read or holds nothing."""
    if not isinstance(source, str | Path):
        return _read(source, "the table")
    path = Path(source)
    named = path.is_dir() and any((path / name).is_file() for name in RATINGS)
    return movielens_source(path) if named else _read(path, repr(path.name))


def _read(source: Any, where: str) -> RawTable:
    from graftwork_tabular import read_table

    found = read_table(source)
    table, notes = found.table, list(found.notes)
    numbered = [f"column{i + 1}" for i in range(table.num_columns)]
    if isinstance(source, Path) and table.column_names == numbered:
        names = [*NO_HEADER, *numbered[len(NO_HEADER) :]][: table.num_columns]
        table = table.rename_columns(names)
        notes = [note for note in notes if "column1" not in note]
        notes.append(f"there is no header, so the columns are taken for {', '.join(names)}")
    where_notes = tuple(note if where in note else f"{where}: {note}" for note in notes)
    return RawTable(table=table, where=where, notes=where_notes)


def csv_source(path: str | Path) -> RawTable:
    """Read a text file of columns; without a header they are user, item, rating and timestamp, in this order."""
    return _read(Path(path), repr(Path(path).name))


def parquet_source(path: str | Path) -> RawTable:
    """Read a Parquet file, or a folder of them."""
    return _read(Path(path), repr(Path(path).name))


def movielens_source(folder: str | Path) -> RawTable:
    """Read a folder as MovieLens comes: ratings.csv, ratings.dat or u.data, and the titles if they lie beside them.

    F. M. Harper and J. A. Konstan, "The MovieLens Datasets: History and Context" (doi 10.1145/2827872).
    """
    folder = Path(folder)
    ratings = next((folder / name for name in RATINGS if (folder / name).is_file()), None)
    if ratings is None:
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise DataError(f"{str(folder)!r} holds none of {', '.join(RATINGS)}; found {there}")
    found = csv_source(ratings)
    titles = next((folder / name for name in TITLES if (folder / name).is_file()), None)
    if titles is None:
        return found
    named, notes = _titles(titles)
    return RawTable(table=found.table, where=found.where, titles=named, notes=(*found.notes, *notes))


def _titles(path: Path) -> tuple[dict[Any, str], tuple[str, ...]]:
    """Read the names of items: the first column is the id, the second the title."""
    table = _read(path, repr(path.name)).table
    if table.num_columns < 2:
        raise DataError(f"{path.name!r} should give an id and a title in each row; it has one column")
    ids, titles = table.column(0).to_pylist(), table.column(1).to_pylist()
    named = {i: str(t).strip() for i, t in zip(ids, titles, strict=True) if i is not None and t is not None}
    shared = len(named) - len(set(named.values()))
    if not shared:
        return named, ()
    return named, (f"{path.name!r}: {shared} titles name several ids; those items answer to their ids only",)


def movielens_features(folder: str | Path) -> pa.Table:
    """Return what a folder as MovieLens comes knows of its films: id, year, and a column of 0 and 1 for each genre.

    Raises:
        DataError: no table of films, or one without genres.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    folder = Path(folder)
    path = next((folder / name for name in TITLES if (folder / name).is_file()), None)
    if path is None:
        raise DataError(f"{str(folder)!r} holds none of {', '.join(TITLES)}, so nothing is known of the films")
    table = _read(path, repr(path.name)).table
    if table.num_columns != MOVIE_COLUMNS:
        raise DataError(f"{path.name!r} has {table.num_columns} columns; id, title and genres are looked for")
    ids, titles, genres = (table.column(i) for i in range(MOVIE_COLUMNS))
    years = pc.struct_field(pc.extract_regex(titles, r"\((?P<year>\d{4})\)\s*$"), "year").cast(pa.float64())
    lists = pc.split_pattern(pc.fill_null(genres, ""), "|")
    names = sorted(set(lists.combine_chunks().flatten().to_pylist()) - {"", "(no genres listed)"})
    padded = pc.binary_join_element_wise("|", pc.fill_null(genres, ""), "|", "")
    flags = {name: pc.match_substring(padded, f"|{name}|").cast(pa.int64()) for name in names}
    return pa.table({table.column_names[0]: ids, "year": years, **flags})


def resolve_source(location: str) -> str | None:
    """Say which of this plugin's sources reads a location, or None: a folder as MovieLens comes."""
    path = Path(location)
    return "collab/movielens" if path.is_dir() and any((path / name).is_file() for name in RATINGS) else None
