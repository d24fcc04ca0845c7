"""From a table to DataLoaders: everything is encoded once, and a batch is one index operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, final

import numpy as np
import torch
from torch import Tensor

from graftwork.api import (
    Block,
    ClassIndexBlock,
    ColumnLoader,
    DataError,
    DataLoaders,
    EndSplitter,
    IndexSplitter,
    OptionError,
    Plan,
    RandomSplitter,
    Split,
    Splitter,
    StratifiedSplitter,
    unknown,
)
from graftwork_tabular.columns import to_numbers
from graftwork_tabular.dates import AddDateparts
from graftwork_tabular.encode import (
    ROW,
    TARGET,
    encode_rows,
    encode_targets,
    fit_procs,
    fitted_scale,
    fitted_target,
    make_plan,
    target_block,
    with_target,
)
from graftwork_tabular.procs import Categorify, FillMissing, TableTransform
from graftwork_tabular.reading import Table, read_table
from graftwork_tabular.scaling import Normalize
from graftwork_tabular.schema import Schema, infer_schema

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["TabularDataLoaders", "TabularOptions", "default_procs", "table_loader"]

Names = str | Sequence[str]


class TabularOptions(TypedDict, total=False):
    """Name what every recipe takes.

    `y_names` is the target column, or several: columns of 0 and 1 are labels, others numbers; `y_block` says
    "category", "number" or "labels". Name `cat_names`, `cont_names` or `date_names` and only those are inputs; name
    none and all are looked at (`infer_schema`). `procs` default to AddDateparts, FillMissing, Categorify, Normalize.
    `weight_name` is a column of weights in the training loss; `sampling` draws training rows by a column's shares, or
    "balanced" by class. Target numbers are scaled (`scale_target`), which metrics do not see. The split is `splitter`,
    or `valid_idx`, or a share `valid_pct` drawn with `seed`, of every class where the target is one; 0 holds nothing
    out.
    """

    y_names: Names
    y_block: Literal["category", "number", "labels"] | None
    cat_names: Sequence[str] | None
    cont_names: Sequence[str] | None
    date_names: Sequence[str]
    drop: Sequence[str]
    procs: Sequence[TableTransform] | None
    splitter: Splitter | None
    valid_pct: float
    valid_idx: Sequence[int] | None
    seed: int
    bs: int
    valid_bs: int | None
    shuffle: bool
    drop_last: bool
    weight_name: str | None
    sampling: str | None
    scale_target: bool
    schema: Schema | None


def default_procs(schema: Schema) -> list[TableTransform]:
    """Return the procs of a table nobody said anything about."""
    dates = [AddDateparts()] if schema.names("date") else []
    return [*dates, FillMissing(), Categorify(), Normalize()]


@final
class TabularDataLoaders:
    """Make DataLoaders of a table. Every recipe takes the options of `TabularOptions`."""

    @classmethod
    def from_df(cls, df: pd.DataFrame | pa.Table | Any, **options: Unpack[TabularOptions]) -> DataLoaders:
        """Take a pandas frame, an Arrow table, or a sequence of mappings."""
        return _loaders(read_table(df), **options)

    @classmethod
    def from_csv(
        cls,
        path: str | Path,
        *,
        sep: str | None = None,
        encoding: str | None = None,
        header: bool | None = None,
        na_values: Sequence[str] = (),
        **options: Unpack[TabularOptions],
    ) -> DataLoaders:
        """Read a CSV; separator, encoding and header are found out where not given."""
        return _loaders(read_table(path, sep=sep, encoding=encoding, header=header, na_values=na_values), **options)

    @classmethod
    def from_parquet(cls, path: str | Path, **options: Unpack[TabularOptions]) -> DataLoaders:
        """Read a Parquet file, or a folder of them."""
        return _loaders(read_table(path), **options)


def _loaders(
    read: Table,
    *,
    y_names: Names,
    y_block: Literal["category", "number", "labels"] | None = None,
    cat_names: Sequence[str] | None = None,
    cont_names: Sequence[str] | None = None,
    date_names: Sequence[str] = (),
    drop: Sequence[str] = (),
    procs: Sequence[TableTransform] | None = None,
    splitter: Splitter | None = None,
    valid_pct: float = 0.2,
    valid_idx: Sequence[int] | None = None,
    seed: int = 42,
    bs: int = 64,
    valid_bs: int | None = None,
    shuffle: bool = True,
    drop_last: bool = False,
    weight_name: str | None = None,
    sampling: str | None = None,
    scale_target: bool = True,
    schema: Schema | None = None,
) -> DataLoaders:
    table, names = read.table, (y_names,) if isinstance(y_names, str) else tuple(y_names)
    target, _ = target_block(table, names, y_block)
    apart = [name for name in (weight_name, None if sampling == "balanced" else sampling) if name is not None]
    schema = schema or infer_schema(
        table,
        target=names,
        cat_names=cat_names,
        cont_names=cont_names,
        date_names=date_names,
        drop=[*drop, *apart],
        only_given=bool(cat_names or cont_names or date_names),
    )
    usable, notes = with_target(table, names, target)
    if len(usable) < table.num_rows:
        table = table.take(usable)
    split = _split(table, names, target, splitter, valid_pct, valid_idx, seed)
    target = fitted_target(table, names, target, split.train)
    given = default_procs(schema) if procs is None else list(procs)
    if procs is not None and schema.names("date") and not any(isinstance(p, AddDateparts) for p in given):
        given = [AddDateparts(), *given]
    fitted, rows, said = fit_procs(table, schema.block, given, split.train)
    scale = fitted_scale(table, names, target, split.train) if scale_target else None
    plan = make_plan(schema.block, target, fitted, scale)
    y = encode_targets(plan, table, names).values
    notes += [*read.notes, *said, *split.notes]

    def columns(part: np.ndarray[Any, Any]) -> dict[str, Tensor]:
        at = torch.from_numpy(part)
        return {ROW: rows.index_select(0, at), TARGET: y.index_select(0, at)}

    def item(position: int) -> dict[str, Any]:
        return dict(table.slice(position, 1).to_pylist()[0])

    train = ColumnLoader(
        columns(split.train),
        plan,
        bs=bs,
        shuffle=shuffle,
        seed=seed,
        training=True,
        drop_last=drop_last,
        positions=torch.from_numpy(split.train),
        item=item,
        weights=_numbers_of(table, weight_name, split.train),
        sampling=_shares(table, sampling, split.train, y, plan),
    )
    valid = None
    if len(split.valid):
        positions = torch.from_numpy(split.valid)
        valid = ColumnLoader(columns(split.valid), plan, bs=valid_bs or bs, positions=positions, item=item)

    def test(items: Any, with_labels: bool) -> ColumnLoader:
        return table_loader(plan, items, y_names=names if with_labels else None, bs=valid_bs or bs)

    return DataLoaders(train=train, valid=valid, test=test, notes=notes)


def table_loader(
    plan: Plan, source: Any, *, y_names: Names | None = None, bs: int = 1024, notes: list[str] | None = None
) -> ColumnLoader:
    """Return a loader of new rows, encoded by a trained plan: all that `read_table` reads, or one mapping.

    With `y_names` it has targets too, and rows without one are left out. `notes` hears of what had to be changed.
    """
    said = [] if notes is None else notes
    source = [source] if isinstance(source, dict) else source
    read = read_table(source)
    table = read.table
    said += read.notes
    rows = encode_rows(plan, table, said)
    columns, positions = {ROW: rows}, torch.arange(len(rows))
    if y_names is not None:
        encoded = encode_targets(plan, table, (y_names,) if isinstance(y_names, str) else tuple(y_names))
        positions = torch.from_numpy(encoded.rows)
        columns = {ROW: rows.index_select(0, positions), TARGET: encoded.values}
        said += encoded.notes

    def item(position: int) -> dict[str, Any]:
        return dict(table.slice(position, 1).to_pylist()[0])

    return ColumnLoader(columns, plan, bs=bs, positions=positions, item=item)


def _split(
    table: pa.Table,
    names: Sequence[str],
    target: Block,
    splitter: Splitter | None,
    valid_pct: float,
    valid_idx: Sequence[int] | None,
    seed: int,
) -> Split:
    if splitter is not None and valid_idx is not None:
        raise OptionError("splitter= and valid_idx= both say how to split; give one of them")
    if valid_idx is not None:
        splitter = IndexSplitter(list(valid_idx))
    if splitter is None and valid_pct == 0:
        return Split(train=np.arange(table.num_rows), valid=np.empty(0, np.int64))
    if splitter is None:
        by_class = type(target).__name__ == "CategoryBlock"
        splitter = StratifiedSplitter(valid_pct, seed=seed) if by_class else RandomSplitter(valid_pct, seed=seed)
    label: Callable[[Any], Any] | None = None
    if isinstance(splitter, StratifiedSplitter):
        label = table.column(names[0]).to_pylist().__getitem__
    plain = isinstance(splitter, RandomSplitter | StratifiedSplitter | IndexSplitter | EndSplitter)
    split = splitter(range(table.num_rows) if plain else table.to_pandas(), label=label)
    if not len(split.train):
        raise DataError("the training split is empty")
    return split


def _numbers_of(table: pa.Table, name: str | None, rows: np.ndarray[Any, Any]) -> Tensor | None:
    if name is None:
        return None
    if name not in table.column_names:
        raise unknown("column", name, table.column_names)
    return torch.from_numpy(np.array(to_numbers(table.column(name).take(rows), name, []), np.float32))


def _shares(table: pa.Table, sampling: str | None, rows: np.ndarray[Any, Any], y: Tensor, plan: Plan) -> Tensor | None:
    if sampling != "balanced":
        return _numbers_of(table, sampling, rows)
    if not isinstance(plan.target, ClassIndexBlock):
        raise OptionError("sampling='balanced' needs classes to balance; name a column of shares instead")
    codes = y[torch.from_numpy(rows)]
    return 1.0 / torch.bincount(codes, minlength=plan.target.num_outputs).clamp(min=1)[codes].float()
