"""Events: who rated (watched, bought) what. Columns are found, rows that cannot be used are left out and counted."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from graftwork.api import DataError, unknown

if TYPE_CHECKING:
    import pyarrow as pa

    from graftwork_collab.sources import RawTable

__all__ = ["Events", "clean"]

Positions: TypeAlias = NDArray[np.int64]

# How columns are often called, small letters and digits only.
ROLES: Final[Mapping[str, tuple[str, ...]]] = {
    "user": ("user", "userid", "uid", "users", "username", "customer", "customerid", "reviewer", "reviewerid"),
    "item": (
        "item", "itemid", "iid", "movie", "movieid", "film", "filmid", "product", "productid", "asin", "book", "bookid",
        "isbn", "song", "songid", "track", "trackid", "article", "articleid", "title",
    ),
    "rating": ("rating", "ratings", "score", "stars", "star", "overall"),
    "timestamp": ("timestamp", "time", "ts", "date", "datetime", "unixreviewtime", "ratedat", "createdat"),
}  # fmt: skip
SHOWN: Final = 3
_DECIMAL_COMMA: Final = r"^\s*[-+]?\d+,\d+\s*$"
_NUMBER: Final = r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """Hold cleaned rows: `user` and `item` (strings or int64, none missing), `rating` (float64) and `time`.

    `columns` says which columns of the source they are, `rows` where in the source each one stands, from 0; `titles`
    names items; `notes` say what was found, left out and counted.
    """

    user: pa.ChunkedArray
    item: pa.ChunkedArray
    rating: NDArray[np.float64] | None
    time: NDArray[Any] | None
    rows: Positions
    columns: Mapping[str, str]
    titles: Mapping[Any, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    how: tuple[str, ...] = ()
    """The notes that only say how the source was read."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """The notes on what was left out, or may not be what was meant."""
        return tuple(note for note in self.notes if note not in self.how)

    def __len__(self) -> int:
        """Count the events."""
        return len(self.rows)

    def take(self, positions: Positions) -> Events:
        """Return some of the events, in the order given."""
        return Events(
            user=self.user.take(positions),
            item=self.item.take(positions),
            rating=None if self.rating is None else self.rating[positions],
            time=None if self.time is None else self.time[positions],
            rows=self.rows[positions],
            columns=self.columns,
            titles=self.titles,
            notes=self.notes,
            how=self.how,
        )


def clean(
    raw: RawTable,
    *,
    wanted: Mapping[str, str | None],
    with_rating: bool,
    duplicates: Literal["last", "all"],
    on_bad_item: Literal["skip", "error"],
) -> Events:
    """Turn a table as read into events; see `sources.read_events`."""
    columns = find_columns(raw, wanted, with_rating=with_rating)
    notes = [*raw.notes, *_said_columns(raw, columns, wanted)]
    user, item = (_ids(raw.table.column(columns[role]), columns[role], raw.where) for role in ("user", "item"))
    rating, unreadable = (None, ()) if "rating" not in columns else _numbers(raw.table.column(columns["rating"]))
    time, time_notes = _times(raw, columns.get("timestamp"), asked=wanted["timestamp"] is not None)
    bad = {
        f"no {columns['user']!r}": _nulls(user),
        f"no {columns['item']!r}": _nulls(item),
    }
    if rating is not None:
        bad |= _bad_ratings(raw, columns["rating"], rating, unreadable)
    kept, left_out = _left_out(raw.where, bad, on_bad_item)
    events = Events(
        user=user, item=item, rating=rating, time=time, rows=np.arange(len(kept)), columns=columns, titles=raw.titles,
    ).take(np.flatnonzero(kept))  # fmt: skip
    events, twice = (events, []) if duplicates == "all" else _last_of_each(events)
    return replace(events, notes=(*notes, *time_notes, *left_out, *twice), how=tuple(notes))


# -- columns -----------------------------------------------------------------------------------------------------------


def find_columns(raw: RawTable, wanted: Mapping[str, str | None], *, with_rating: bool) -> dict[str, str]:
    """Return the column of each role: the one asked for, else one with a usual name, else the first three in order.

    Raises:
        UnknownName: a column asked for that is not there, with the nearest names.
        DataError: too few columns.
    """
    names = list(raw.table.column_names)
    for role, name in wanted.items():
        if name is not None and name not in names:
            raise unknown(f"column of {raw.where}", name, names, hint=f"it was asked for as the {role}")
    roles = ("user", "item", "rating") if with_rating or wanted["rating"] else ("user", "item")
    if len(names) < len(roles):
        raise DataError(
            f"{raw.where} has the columns {names}; {len(roles)} are needed: {', '.join(roles)}. "
            "If they are one column, the separator is not one of , ; tab | ::"
        )
    found = {role: name for role in (*roles, "timestamp") if (name := wanted[role]) is not None}
    for role in (*roles, "timestamp"):
        if role not in found and (name := _usual(role, names, found.values())) is not None:
            found[role] = name
    for place, role in enumerate(roles):
        if role not in found:
            free = [name for name in (names[place], *names) if name not in found.values()]
            found[role] = free[0]
    same = [role for role in found if list(found.values()).count(found[role]) > 1]
    if same:
        raise DataError(f"column {found[same[0]]!r} is asked for as {' and '.join(same)}; name one column for each")
    return found


def _usual(role: str, names: Sequence[str], taken: Any) -> str | None:
    """Return the column whose name is the most usual one for a role."""
    plain = {re.sub(r"[^a-z0-9]", "", name.lower()): name for name in reversed(names) if name not in taken}
    return next((plain[usual] for usual in ROLES[role] if usual in plain), None)


def _said_columns(raw: RawTable, columns: Mapping[str, str], wanted: Mapping[str, str | None]) -> list[str]:
    chosen = [f"{role} {name!r}" for role, name in columns.items() if wanted[role] is None]
    return [f"{raw.where}: took the columns {', '.join(chosen)}"] if chosen else []


# -- ids ---------------------------------------------------------------------------------------------------------------


def _ids(column: pa.ChunkedArray, name: str, where: str) -> pa.ChunkedArray:
    """Return a column of ids as strings or int64; an empty string is missing. Raise DataError for what is no id."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_dictionary(kind):
        return _ids(column.cast(kind.value_type), name, where)
    if column.null_count == len(column):
        raise DataError(f"column {name!r} of {where} is missing in all {len(column)} rows")
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        texts = column.cast(pa.large_string())
        return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.large_string()), texts)
    if pa.types.is_integer(kind) or _is_whole(column):
        return column.cast(pa.int64())
    raise DataError(
        f"column {name!r} of {where} holds {kind} values such as {_first(column)!r}; "
        "an id is a string or a whole number"
    )


def _is_whole(column: pa.ChunkedArray) -> bool:
    """Say whether a column holds floats that are whole numbers, as pandas makes them of integers with missing ones."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_floating(column.type):
        return False
    values = column.drop_null()
    return bool(pc.all(pc.equal(pc.round(values), values)).as_py())


def _first(column: pa.ChunkedArray) -> Any:
    return next((value for value in column.slice(0, 100).to_pylist() if value is not None), None)


def _nulls(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    return np.asarray(column.is_null().combine_chunks().to_numpy(zero_copy_only=False), dtype=bool)


# -- ratings -----------------------------------------------------------------------------------------------------------


def _numbers(column: pa.ChunkedArray) -> tuple[NDArray[np.float64], tuple[int, ...]]:
    """Return a column as float64, nan where it is missing or no number, and the places of the first of the latter."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_dictionary(kind):
        return _numbers(column.cast(kind.value_type))
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind):
        return column.cast(pa.float64()).to_numpy().astype(np.float64), ()
    if pa.types.is_decimal(kind):
        return _numbers(column.cast(pa.float64()))
    texts = column.cast(pa.large_string())
    comma = pc.match_substring_regex(texts, _DECIMAL_COMMA)
    texts = pc.if_else(comma, pc.replace_substring(texts, ",", "."), texts)
    good = pc.match_substring_regex(texts, _NUMBER)
    numbers = pc.if_else(good, pc.utf8_trim_whitespace(texts), pa.scalar(None, pa.large_string())).cast(pa.float64())
    wrong = np.flatnonzero(pc.fill_null(pc.invert(good), fill_value=False).to_numpy())
    return numbers.to_numpy().astype(np.float64), tuple(wrong.tolist())


def _bad_ratings(
    raw: RawTable, name: str, rating: NDArray[np.float64], unreadable: Sequence[int]
) -> dict[str, NDArray[np.bool_]]:
    """Return the rows whose rating cannot be used, by reason; raise DataError if that is most of them."""
    wrong = np.zeros(len(rating), dtype=bool)
    wrong[list(unreadable)] = True
    known = int((~np.isnan(rating)).sum())
    if known + len(unreadable) == 0:
        raise DataError(f"column {name!r} of {raw.where} is missing in all {len(rating)} rows; there is no rating")
    column = raw.table.column(name)
    if len(unreadable) > known:
        first = f"row {unreadable[0] + 1}, {column[unreadable[0]].as_py()!r}"
        raise DataError(
            f"column {name!r} of {raw.where} was taken as the rating, and {len(unreadable)} of {len(rating)} values "
            f"are no numbers, the first: {first}. Name the column with rating=…; there are {raw.table.column_names}"
        )
    shown = ", ".join(f"row {place + 1} {column[place].as_py()!r}" for place in unreadable[:SHOWN])
    return {
        f"a {name!r} that is no number ({shown})": wrong,
        f"no {name!r}": np.isnan(rating) & ~wrong,
        f"an infinite {name!r}": np.isinf(rating),
    }


def _left_out(
    where: str, bad: Mapping[str, NDArray[np.bool_]], on_bad_item: str
) -> tuple[NDArray[np.bool_], list[str]]:
    """Return which rows are kept, and say which are not; raise DataError if that is all, or none is allowed."""
    found = {reason: mask for reason, mask in bad.items() if mask.any()}
    dropped = np.logical_or.reduce(list(bad.values()))
    said = [
        f"{where}: left out {mask.sum()} of {len(mask)} rows with {reason}, the first: row {mask.argmax() + 1}"
        for reason, mask in found.items()
    ]
    if found and on_bad_item == "error":
        raise DataError(said[0].replace("left out ", "") + "; mend them, or leave them out with on_bad_item='skip'")
    if dropped.all():
        raise DataError("no row can be used; " + "; ".join(said))
    return ~dropped, said


# -- times -------------------------------------------------------------------------------------------------------------


def _times(raw: RawTable, name: str | None, *, asked: bool) -> tuple[NDArray[Any] | None, list[str]]:
    """Return times as int64 or float64; a column nobody asked for that cannot be read counts as none, and is said."""
    if name is None:
        return None, []
    times = _ordered(raw.table.column(name))
    if times is None:
        problem = f"{raw.where}: column {name!r} holds no times (numbers, dates or ISO 8601), such as " + repr(
            _first(raw.table.column(name))
        )
        if asked:
            raise DataError(problem)
        return None, [f"{problem}; it is not used"]
    missing = np.isnan(times) if times.dtype.kind == "f" else np.zeros(len(times), dtype=bool)
    if not missing.any():
        return times, []
    return np.where(missing, -np.inf, times), [
        f"{raw.where}: {int(missing.sum())} rows have no {name!r}; they count as the earliest"
    ]


def _ordered(column: pa.ChunkedArray) -> NDArray[Any] | None:
    import pyarrow as pa

    kind = column.type
    if pa.types.is_integer(kind) and column.null_count == 0:
        return np.asarray(column.to_numpy(), dtype=np.int64)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float64)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _parsed(column)
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return _ordered(
            column.cast(pa.timestamp("us", tz=kind.tz if pa.types.is_timestamp(kind) else None)).cast(pa.int64())
        )
    return None


def _parsed(column: pa.ChunkedArray) -> NDArray[Any] | None:
    import pandas as pd

    try:
        times = pd.to_datetime(column.to_pandas(), utc=True, format="ISO8601")
    except (TypeError, ValueError):
        return None
    seconds = times.dt.tz_localize(None).to_numpy(dtype="datetime64[us]")
    return np.where(np.isnat(seconds), np.nan, seconds.astype(np.int64).astype(np.float64))


# -- duplicates --------------------------------------------------------------------------------------------------------


def _last_of_each(events: Events) -> tuple[Events, list[str]]:
    """Keep the last event of each pair: by time, and by place where times are equal or there are none."""
    from graftwork_collab.blocks import fit_encode_ids

    _, codes = fit_encode_ids({"user": events.user, "item": events.item})
    pairs = codes["user"] * (codes["item"].max(initial=0) + 1) + codes["item"]
    if len(np.unique(pairs)) == len(pairs):
        return events, []
    order = np.argsort(pairs, kind="stable") if events.time is None else np.lexsort((events.time, pairs))
    last = np.r_[pairs[order][1:] != pairs[order][:-1], True]
    kept = np.sort(order[last])
    which = "the one that stands last" if events.time is None else "the latest one"
    note = f"{len(pairs) - len(kept)} rows repeat a pair of user and item; of each pair {which} is kept"
    return events.take(kept), [note]
