"""What the columns of a table are: found out from their values, printed, and overridden by the user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from graftwork.api import DataError, OptionError, unknown
from graftwork_tabular.blocks import RowBlock
from graftwork_tabular.columns import num_distinct

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ColumnFound", "Schema", "infer_schema"]

FoundKind = Literal["category", "number", "date", "dropped"]
MAX_CARD = 20
"""Integers of at most this many distinct values are categories, as in fastai."""
SAMPLE_ROWS = 50_000
IDS_FROM = 50
ID_SHARE = 0.95
WORDS = 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnFound:
    """Say what one column is taken for, and why."""

    name: str
    kind: FoundKind
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """Say what the columns of a table are taken for."""

    columns: tuple[ColumnFound, ...]

    def names(self, kind: FoundKind) -> tuple[str, ...]:
        """Return the columns of a kind, in the table's order."""
        return tuple(c.name for c in self.columns if c.kind == kind)

    @property
    def block(self) -> RowBlock:
        """The block of a row with the columns that are used."""
        return RowBlock(tuple((c.name, c.kind) for c in self.columns if c.kind != "dropped"))

    def lines(self) -> list[str]:
        """Return one line a kind, and one for every column left out."""
        said = []
        for kind, word in (("category", "categories"), ("number", "numbers"), ("date", "dates")):
            names = self.names(kind)  # type: ignore[arg-type]
            if names:
                said.append(f"{word}: {', '.join(names)}")
        said += [f"left out {c.name}: {c.why}" for c in self.columns if c.kind == "dropped"]
        return said

    def __str__(self) -> str:
        """Return a table: column, kind, why."""
        width = max((len(c.name) for c in self.columns), default=0)
        return "\n".join(f"{c.name:<{width}}  {c.kind:<8}  {c.why}" for c in self.columns)


def infer_schema(
    table: pa.Table,
    *,
    target: Sequence[str] = (),
    cat_names: Sequence[str] | None = None,
    cont_names: Sequence[str] | None = None,
    date_names: Sequence[str] = (),
    drop: Sequence[str] = (),
    only_given: bool = False,
) -> Schema:
    """Find out what the columns are, from at most 50,000 rows spread over the table. What is named is taken as named.

    Text is a category, unless nearly every value is different (an id) or values are sentences; integers of at most 20
    distinct values are categories, other numbers are numbers; a column of one value is left out. With `only_given`,
    columns not named are left out.

    Raises:
        UnknownName: a named column is not there. OptionError: one is named for two things.
    """
    given = _given(table, target, cat_names or (), cont_names or (), date_names, drop)
    rows = table.num_rows
    sample = table
    if rows > SAMPLE_ROWS:
        sample = table.take(np.linspace(0, rows - 1, SAMPLE_ROWS).astype(np.int64))
    found = []
    for name in table.column_names:
        if name in target:
            continue
        if name in given:
            found.append(ColumnFound(name=name, kind=given[name], why="as you said"))
        elif only_given:
            found.append(ColumnFound(name=name, kind="dropped", why="not among the columns you named"))
        else:
            kind, why = _look(sample.column(name))
            found.append(ColumnFound(name=name, kind=kind, why=why))
    schema = Schema(columns=tuple(found))
    if not schema.block.columns:
        raise DataError("no column is left to learn from:\n" + "\n".join(schema.lines()))
    return schema


def _given(
    table: pa.Table,
    target: Sequence[str],
    cat: Sequence[str],
    cont: Sequence[str],
    date: Sequence[str],
    drop: Sequence[str],
) -> dict[str, FoundKind]:
    given: dict[str, FoundKind] = {}
    named: tuple[tuple[FoundKind, Sequence[str]], ...] = (
        ("category", cat),
        ("number", cont),
        ("date", date),
        ("dropped", drop),
    )
    for kind, names in named:
        for name in names:
            if name not in table.column_names:
                raise unknown("column", name, table.column_names)
            if name in target:
                raise OptionError(f"column {name!r} is the target, so it cannot be an input too")
            if given.get(name, kind) != kind:
                raise OptionError(f"column {name!r} is named as {given[name]} and as {kind}; name it once")
            given[name] = kind
    return given


def _look(column: Any) -> tuple[FoundKind, str]:
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
        if not pa.types.is_floating(kind):
            return _few(column) or ("category", "a categorical column")
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return "dropped", f"values of type {kind} are neither numbers nor labels"
    distinct = num_distinct(column)
    if distinct == 0:
        return "dropped", "every value is missing"
    if distinct == 1 and column.null_count == 0:
        return "dropped", f"every value is {column[0].as_py()!r}"
    if pa.types.is_boolean(kind):
        return "category", "true or false"
    if pa.types.is_temporal(kind) and not pa.types.is_duration(kind) and not pa.types.is_time(kind):
        return "date", f"{kind}"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return _look_at_text(column, distinct)
    return _look_at_numbers(column, distinct)


def _few(column: Any) -> tuple[FoundKind, str] | None:
    distinct = num_distinct(column)
    if distinct == 0:
        return "dropped", "every value is missing"
    return ("dropped", "every value is the same") if distinct == 1 and column.null_count == 0 else None


def _look_at_text(column: Any, distinct: int) -> tuple[FoundKind, str]:
    import pyarrow as pa
    import pyarrow.compute as pc

    values = column.drop_null()
    count = len(values)
    if _are_dates(values):
        return "date", "text that reads as dates"
    numbers = pc.match_substring_regex(pc.utf8_trim_whitespace(values), r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")
    share = pc.mean(numbers.cast(pa.float64())).as_py()
    if share >= ID_SHARE:
        return "number", "text that reads as numbers"
    if share >= 0.5 and distinct > MAX_CARD:
        return "number", f"text of which {share:.0%} reads as numbers; the rest counts as missing"
    words = pc.mean(pc.add(pc.count_substring(values, " "), 1)).as_py()
    if distinct > IDS_FROM and words >= WORDS:
        return "dropped", f"sentences of {words:.0f} words on average; the text plugin reads those"
    if count > IDS_FROM and distinct >= ID_SHARE * count:
        return "dropped", f"nearly every value is different ({distinct} of {count}), as in an id"
    return "category", f"text, {distinct} values"


def _are_dates(values: Any) -> bool:
    import pyarrow as pa
    import pyarrow.compute as pc

    head = values.slice(0, 200)
    shaped = pc.match_substring_regex(head, r"^\s*\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T]\d{1,2}:\d{2}.*)?\s*$")
    return bool(pc.mean(shaped.cast(pa.float64())).as_py() >= ID_SHARE)


def _look_at_numbers(column: Any, distinct: int) -> tuple[FoundKind, str]:
    import pyarrow as pa

    if not pa.types.is_integer(column.type):
        return "number", str(column.type)
    if distinct <= MAX_CARD:
        return "category", f"integers, {distinct} values"
    if column.null_count == 0 and distinct == len(column) and _counts_up(column):
        return "dropped", "it counts the rows"
    return "number", f"integers, {distinct} values"


def _counts_up(column: Any) -> bool:
    values = column.to_numpy()
    steps = np.diff(values)
    # A sample of a counter has steps that differ by one.
    return bool(len(steps) > IDS_FROM and steps.min() > 0 and steps.max() - steps.min() <= 1)
