"""Dates become numbers and categories: year, month, week, day, …, and the time since and until events."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np

from graftwork.api import Block, Bound, DataError, ItemError, unknown
from graftwork_tabular.blocks import RowBlock
from graftwork_tabular.columns import Columns
from graftwork_tabular.procs import TableTransform

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["AddDateparts", "add_datepart", "add_elapsed_times", "to_timestamps"]

_PARTS: Final = {
    "Year": "number",
    "Month": "category",
    "Week": "number",
    "Day": "number",
    "Dayofweek": "category",
    "Dayofyear": "number",
    "Is_month_end": "category",
    "Is_month_start": "category",
    "Is_quarter_end": "category",
    "Is_quarter_start": "category",
    "Is_year_end": "category",
    "Is_year_start": "category",
}
_TIMES: Final = {"Hour": "number", "Minute": "number", "Second": "number"}
_ELAPSED: Final = {"Elapsed": "number"}
_DAY: Final = timedelta(days=1)


def part_kinds(*, time: bool) -> dict[str, str]:
    """Return the kind of every part of a date, in fastai's order: 13 of them, and with `time` three more."""
    return {**_PARTS, **(_TIMES if time else {}), **_ELAPSED}


def prefix_of(name: str) -> str:
    """Return a column's name without a final "date", as fastai names the parts."""
    return re.sub("[Dd]ate$", "", name)


def parts_of(when: datetime) -> dict[str, Any]:
    """Return the parts of one moment, in UTC; Elapsed is in seconds since 1970."""
    before, after = when - _DAY, when + _DAY
    ends, starts = after.month != when.month, before.month != when.month
    return {
        "Year": when.year,
        "Month": when.month,
        "Week": when.isocalendar().week,
        "Day": when.day,
        "Dayofweek": when.weekday(),
        "Dayofyear": when.timetuple().tm_yday,
        "Is_month_end": ends,
        "Is_month_start": starts,
        "Is_quarter_end": ends and when.month % 3 == 0,
        "Is_quarter_start": starts and when.month % 3 == 1,
        "Is_year_end": ends and when.month == 12,
        "Is_year_start": starts and when.month == 1,
        "Hour": when.hour,
        "Minute": when.minute,
        "Second": when.second,
        "Elapsed": when.replace(tzinfo=UTC).timestamp(),
    }


def to_moment(value: Any, name: str) -> datetime | None:
    """Read one date: text in ISO 8601, a date, a datetime, a numpy datetime64; None for a missing one.

    Raises:
        ItemError: it is none of these.
    """
    if value is None or value != value:
        return None
    if isinstance(value, np.datetime64):
        value = value.astype("datetime64[us]").item()
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise ItemError(
                f"column {name!r} holds dates, and {value!r} is none; write 2026-11-23 or …T12:30"
            ) from None
    if isinstance(value, datetime):
        return value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day)
    raise ItemError(f"column {name!r} holds dates, and {value!r} is none")


def to_timestamps(column: Any, name: str, notes: list[str]) -> pa.Array | pa.ChunkedArray:
    """Return a column as timestamps in µs; text that is no date counts as missing, which `notes` hears of.

    Raises:
        DataError: nothing in it is a date.
    """
    import pyarrow as pa

    if not isinstance(column, pa.Array | pa.ChunkedArray):
        column = pa.array(column, from_pandas=True)
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_timestamp(kind):
        return column.cast(pa.timestamp("us", kind.tz), safe=False).cast(pa.timestamp("us"), safe=False)
    if pa.types.is_date(kind):
        return column.cast(pa.timestamp("us"), safe=False)
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
        raise DataError(f"column {name!r} holds {kind}, which is no date; leave it out of the dates")
    try:
        return column.cast(pa.timestamp("us"))
    except pa.ArrowInvalid:
        return _parsed(column, name, notes)


def _parsed(column: Any, name: str, notes: list[str]) -> pa.Array:
    import pandas as pd
    import pyarrow as pa

    texts = pd.Series(column.to_pylist(), dtype="object")
    parsed = pd.to_datetime(texts, errors="coerce", format="mixed", utc=True)
    bad = int((parsed.isna() & texts.notna()).sum())
    if bad and bad == int(texts.notna().sum()):
        first = texts.dropna().iloc[0]
        raise DataError(f"column {name!r} is no column of dates: not one value can be read, the first one {first!r}")
    if bad:
        first = texts[parsed.isna() & texts.notna()].iloc[0]
        notes.append(f"column {name!r}: {bad} value(s) are no date and count as missing, the first one {first!r}")
    return pa.array(parsed.dt.tz_localize(None), pa.timestamp("us"), from_pandas=True)


def column_parts(moments: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Return the parts of a column of timestamps; NaN where missing (Elapsed in seconds since 1970)."""
    import pyarrow.compute as pc

    missing = np.asarray(pc.is_null(moments))
    us = np.asarray(pc.fill_null(moments.cast("int64"), 0)).astype("datetime64[us]")
    days = us.astype("datetime64[D]")
    months, years = days.astype("datetime64[M]"), days.astype("datetime64[Y]")
    month = months.astype(np.int64) % 12 + 1
    day = (days - months).astype(np.int64) + 1
    weekday = (days.astype(np.int64) + 3) % 7
    starts, ends = day == 1, (days + 1).astype("datetime64[M]") != months
    seconds = (us - days).astype("timedelta64[s]").astype(np.int64)
    # The ISO week is that of its Thursday.
    thursday = days + (3 - weekday)
    found: dict[str, Any] = {
        "Year": years.astype(np.int64) + 1970,
        "Month": month,
        "Week": (thursday - thursday.astype("datetime64[Y]")).astype(np.int64) // 7 + 1,
        "Day": day,
        "Dayofweek": weekday,
        "Dayofyear": (days - years).astype(np.int64) + 1,
        "Is_month_end": ends,
        "Is_month_start": starts,
        "Is_quarter_end": ends & (month % 3 == 0),
        "Is_quarter_start": starts & (month % 3 == 1),
        "Is_year_end": ends & (month == 12),
        "Is_year_start": starts & (month == 1),
        "Hour": seconds // 3600,
        "Minute": seconds // 60 % 60,
        "Second": seconds % 60,
        "Elapsed": us.astype(np.int64) / 1e6,
    }
    return {name: _with_missing(values, missing) for name, values in found.items()}


def _with_missing(values: Any, missing: np.ndarray[Any, Any]) -> Any:
    return np.where(missing, np.nan, values) if missing.any() else values


@dataclass(frozen=True)
class AddDateparts(TableTransform):
    """Replace every date column by its parts: year, month, week, day, day of the week and of the year, whether a month,
    quarter or year starts or ends, and the seconds since 1970; with `time` hour, minute and second too.
    """

    id: ClassVar[str] = "tabular/add-dateparts"
    time: bool = False

    def out_block(self, block: Block) -> Block:
        """Put the parts in the dates' places, at the end."""
        assert isinstance(block, RowBlock)
        kinds = part_kinds(time=self.time)
        parts = [(prefix_of(name) + part, kind) for name in block.names("date") for part, kind in kinds.items()]
        return RowBlock((*(column for column in block.columns if column[1] != "date"), *parts))

    def bind(self, block: Block) -> Bound:
        """Take one row's dates apart."""
        assert isinstance(block, RowBlock)
        names, kinds = block.names("date"), part_kinds(time=self.time)

        def encode(row: dict[str, Any], _: Any) -> dict[str, Any]:
            apart = {name: value for name, value in row.items() if name not in names}
            for name in names:
                when = to_moment(row[name], name)
                parts = {} if when is None else parts_of(when)
                for part, kind in kinds.items():
                    value = parts.get(part, float("nan"))
                    apart[prefix_of(name) + part] = float(value) if kind == "number" else value
            return apart

        return Bound(encode)

    def encode_columns(self, columns: Columns, block: RowBlock, notes: list[str]) -> Columns:
        """Take columns of dates apart."""
        names, kinds = block.names("date"), part_kinds(time=self.time)
        apart = {name: column for name, column in columns.items() if name not in names}
        for name in names:
            parts = column_parts(to_timestamps(columns[name], name, notes))
            for part, kind in kinds.items():
                values = parts[part]
                apart[prefix_of(name) + part] = values.astype(np.float64) if kind == "number" else values
        return apart


def add_datepart(
    df: pd.DataFrame, field_name: str, *, prefix: str | None = None, drop: bool = True, time: bool = False
) -> pd.DataFrame:
    """Return a copy of a frame with a date column's parts, named after it without a final "date" (or by `prefix`).

    Raises:
        UnknownName: no such column. DataError: it holds no dates.
    """
    import pandas as pd

    if field_name not in df.columns:
        raise unknown("column", field_name, list(map(str, df.columns)))
    parts = column_parts(to_timestamps(pd.Series(df[field_name]), field_name, []))
    start = prefix_of(field_name) if prefix is None else prefix
    added = {start + part: parts[part] for part in part_kinds(time=time)}
    kept = df.drop(columns=field_name) if drop else df
    return kept.assign(**added)


def add_elapsed_times(
    df: pd.DataFrame, field_names: Sequence[str], date_field: str, base_field: str, *, window: int = 7
) -> pd.DataFrame:
    """Return a copy with, for every event column (true where something happened), the days since and until it.

    Within each `base_field` (a shop, a patient), by date: `AfterEVENT` counts the days since the last one and
    `BeforeEVENT` those until the next one, negative as in fastai; both are missing where there is none. `EVENT_bw` and
    `EVENT_fw` sum the events of the last and the next `window` rows, this one included. The rows keep their order.
    """
    import pandas as pd

    for name in (*field_names, date_field, base_field):
        if name not in df.columns:
            raise unknown("column", name, list(map(str, df.columns)))
    order = df[[base_field]].assign(_when=pd.to_datetime(df[date_field]), _row=np.arange(len(df)))
    order = order.sort_values([base_field, "_when", "_row"], kind="stable")
    rows, base, when = order["_row"].to_numpy(), order[base_field], order["_when"]
    added: dict[str, Any] = {}
    for name in field_names:
        happened = df[name].fillna(False).astype(bool).to_numpy()[rows]
        event = when.where(pd.Series(happened, index=when.index))
        last, coming = event.groupby(base).ffill(), event.groupby(base).bfill()
        counts = pd.Series(happened.astype(float), index=when.index)
        columns = {
            f"After{name}": (when - last).dt.total_seconds() / 86400,
            f"Before{name}": (when - coming).dt.total_seconds() / 86400,
            f"{name}_bw": counts.groupby(base).transform(lambda s: s.rolling(window, min_periods=1).sum()),
            f"{name}_fw": counts[::-1]
            .groupby(base[::-1])
            .transform(lambda s: s.rolling(window, min_periods=1).sum())[::-1],
        }
        for column, values in columns.items():
            back = np.empty(len(df))
            back[rows] = values.to_numpy()
            added[column] = back
    return df.assign(**added)
