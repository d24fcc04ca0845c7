"""Tables to tensors: fit the procs on the training rows, encode all rows at once, and later new ones the same way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from graftwork.api import (
    Block,
    CategoryBlock,
    ClassIndexBlock,
    DataError,
    MultiCategoryBlock,
    MultiHotBlock,
    On,
    Plan,
    PlanError,
    RegressionBlock,
    TargetBlock,
    unknown,
)
from graftwork_tabular.blocks import RowBlock
from graftwork_tabular.columns import Columns, num_distinct, to_numbers, to_values
from graftwork_tabular.procs import PackRow, ReadRow, TableTransform
from graftwork_tabular.targets import ScaledNumbersBlock, ScaleTarget, scaled_column

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "ROW",
    "TARGET",
    "Encoded",
    "encode_rows",
    "encode_targets",
    "fit_procs",
    "fitted_scale",
    "fitted_target",
    "make_plan",
    "row_field",
    "target_block",
    "with_target",
]

ROW, TARGET = "row", "y"
FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """Hold encoded targets with the positions of the rows that have one, and what is to be said of the others."""

    values: Tensor
    rows: np.ndarray[Any, Any]
    notes: tuple[str, ...] = ()


def fit_procs(
    table: pa.Table, block: RowBlock, procs: Sequence[TableTransform], train: np.ndarray[Any, Any]
) -> tuple[list[TableTransform], Tensor, list[str]]:
    """Fit procs on the rows `train` and encode all rows; return them, the rows float32 (N, columns), and notes."""
    columns: Columns = {name: table.column(name) for name, *_ in block.columns}
    notes: list[str] = []
    columns = ReadRow().encode_columns(columns, block, notes)
    fitted: list[TableTransform] = []
    for proc in procs:
        done, columns = proc.fit_encode(columns, block, train)
        block = _rows_of(done.out_block(block), done)
        fitted.append(done)
    packed = PackRow().encode_columns(columns, block, notes)["packed"]
    return fitted, torch.from_numpy(packed), notes


def _rows_of(block: Block, proc: TableTransform) -> RowBlock:
    if not isinstance(block, RowBlock):
        raise PlanError(f"{proc!r} gives {block!r}; a proc leads from rows to rows")
    return block


def make_plan(
    block: RowBlock, target: Block, fitted: Sequence[TableTransform], scale: ScaleTarget | None = None
) -> Plan:
    """Return the plan of fitted procs; a target's vocabulary is known by now."""

    def nothing(name: str) -> Iterable[Any]:
        raise PlanError(f"something of {name!r} has not been fitted on the table")

    return Plan.compile(
        {ROW: block, TARGET: target},
        inputs=(ROW,),
        targets=(TARGET,),
        item_tfms=[On(ROW, proc) for proc in fitted] + ([] if scale is None else [On(TARGET, scale)]),
        train=nothing,
    )


def row_field(plan: Plan) -> str:
    """Return the name of the input that is a row; raise PlanError if there is none."""
    for name in plan.inputs:
        if isinstance(plan.fields[name].raw, RowBlock):
            return name
    raise PlanError(f"the inputs {plan.inputs} hold no row of a table")


def encode_rows(plan: Plan, table: pa.Table, notes: list[str]) -> Tensor:
    """Encode all rows of a table by a fitted plan; float32 (N, columns).

    Raises:
        ItemError: a column the model was trained with is not there.
    """
    name = row_field(plan)
    columns: Columns = {column: table.column(column) for column in table.column_names}
    for step in plan.item_steps:
        for field, part in step.targets:
            if field == name:
                assert isinstance(part.transform, TableTransform)
                assert isinstance(part.before, RowBlock)
                columns = part.transform.encode_columns(columns, part.before, notes)
    return torch.from_numpy(columns["packed"])


# -- targets ----------------------------------------------------------------------------------------------------------


def target_block(table: pa.Table, names: Sequence[str], kind: str | None) -> tuple[Block, str]:
    """Choose the block of the target columns, without a vocabulary yet, and say why.

    `kind` is "category", "number" or "labels" (several columns of 0 and 1), or None to look at the columns.
    """
    for name in names:
        if name not in table.column_names:
            raise unknown("column", name, table.column_names)
    found = kind or _kind(table, names)
    if found == "labels":
        return MultiCategoryBlock(tuple(names)), f"{len(names)} labels"
    if found == "number":
        return RegressionBlock(len(names)), "a number" if len(names) == 1 else f"{len(names)} numbers"
    if found != "category":
        raise unknown("y_block", found, ("category", "number", "labels"))
    if len(names) > 1:
        raise DataError(f"several category targets {tuple(names)} are not possible here; use 0/1 columns as labels")
    return CategoryBlock(), "a category"


def _kind(table: pa.Table, names: Sequence[str]) -> str:
    import pyarrow as pa

    columns = [table.column(name) for name in names]
    if len(names) > 1:
        for name, column in zip(names, columns, strict=True):
            if not _numeric(column.type):
                raise DataError(
                    f"several targets are numbers or 0/1 labels, and {name!r} holds {column.type}; give one target"
                )
        return "labels" if all(_binary(column) for column in columns) else "number"
    kind = columns[0].type
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "number"
    if pa.types.is_integer(kind):
        return "category" if num_distinct(columns[0]) <= 20 else "number"
    return "category"


def _numeric(kind: Any) -> bool:
    import pyarrow as pa

    types = (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    return any(is_kind(kind) for is_kind in types)


def _binary(column: Any) -> bool:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_boolean(column.type):
        return True
    return pa.types.is_integer(column.type) and set(pc.unique(column).to_pylist()) <= {0, 1, None}


def with_target(table: pa.Table, names: Sequence[str], block: Block) -> tuple[np.ndarray[Any, Any], list[str]]:
    """Return the positions of the rows whose targets can be used, and say how many cannot.

    Raises:
        DataError: none can, or all are the same.
    """
    import pyarrow.compute as pc

    notes: list[str] = []
    good = np.ones(table.num_rows, bool)
    for name in names:
        column = table.column(name)
        if isinstance(block, RegressionBlock):
            values = _float_target(column, name, notes)
            good &= ~np.isnan(values)
        else:
            good &= ~np.asarray(pc.is_null(column, nan_is_null=True))
    dropped = int((~good).sum())
    if dropped == len(good):
        raise DataError(f"the target {', '.join(map(repr, names))} is missing in every row")
    if dropped:
        notes.append(f"left out {dropped} row(s) without a target ({', '.join(names)})")
    rows = np.flatnonzero(good)
    for name in names:
        values = table.column(name)
        if num_distinct(values.take(rows) if dropped else values) < 2:
            raise DataError(
                f"the target {name!r} is the same in every row, {values[int(rows[0])].as_py()!r}: nothing to learn"
            )
    return rows, notes


def _float_target(column: Any, name: str, notes: list[str]) -> np.ndarray[Any, Any]:
    values = to_numbers(column, name, notes)
    large = np.abs(values) > FLOAT32_MAX
    if large.any():
        notes.append(
            f"target {name!r}: {int(large.sum())} value(s) beyond 3.4e38, which float32 cannot hold, count as missing"
        )
        values = np.where(large, np.nan, values)
    whole = np.abs(values[~np.isnan(values)])
    if (
        whole.size
        and whole.max() > 2**24
        and not (values[~np.isnan(values)].astype(np.float32) == values[~np.isnan(values)]).all()
    ):
        notes.append(f"target {name!r}: float32 holds its values to 7 digits only (the largest is {whole.max():.6g})")
    return values


def fitted_target(table: pa.Table, names: Sequence[str], block: Block, train: np.ndarray[Any, Any]) -> Block:
    """Return the target's block with the vocabulary of the training rows."""
    if not isinstance(block, CategoryBlock) or block.vocab is not None:
        return block
    from graftwork_tabular.vocab import fit_encode

    vocabs, _ = fit_encode({names[0]: to_values(table.column(names[0]).take(train))}, train=None)
    labels = tuple(vocabs[names[0]].values.to_pylist())
    if len(labels) < 2:
        raise DataError(f"only one class, {labels[0]!r}, occurs in the training split; a classifier needs at least two")
    return CategoryBlock(labels)


def encode_targets(plan: Plan, table: pa.Table, names: Sequence[str]) -> Encoded:
    """Encode the targets of a table by a fitted plan; rows without one are left out.

    Raises:
        DataError: a class that training did not see.
    """
    for name in names:
        if name not in table.column_names:
            raise unknown("column", name, table.column_names, hint="it is the target, which is needed here")
    block = plan.target
    notes: list[str] = []
    if isinstance(block, ClassIndexBlock):
        return _classes(table.column(names[0]), names[0], block)
    if isinstance(block, MultiHotBlock):
        columns = [to_numbers(table.column(name), name, notes) for name in names]
    else:
        columns = [_float_target(table.column(name), name, notes) for name in names]
    values = np.stack(columns, 1)
    rows = np.flatnonzero(~np.isnan(values).any(1))
    if isinstance(block, MultiHotBlock) and not np.isin(values[rows], (0, 1)).all():
        raise DataError(f"labels are columns of 0 and 1; {', '.join(names)} hold other values too")
    notes += _left_out(len(values), rows, names)
    return Encoded(values=_numbers(block, values[rows]), rows=rows, notes=tuple(notes))


def _numbers(block: TargetBlock, values: np.ndarray[Any, Any]) -> Tensor:
    if isinstance(block, ScaledNumbersBlock):
        return scaled_column(block, values)
    kept = torch.from_numpy(values.astype(np.float32))
    return kept[:, 0] if isinstance(block, RegressionBlock) and block.n_out == 1 else kept


def fitted_scale(
    table: pa.Table, names: Sequence[str], block: Block, train: np.ndarray[Any, Any]
) -> ScaleTarget | None:
    """Return what scales the target, fitted on the training rows; None for classes and labels."""
    if not isinstance(block, RegressionBlock):
        return None
    columns = [_float_target(table.column(name).take(train), name, []) for name in names]
    return ScaleTarget().fit_columns(np.stack(columns, 1))


def _left_out(total: int, rows: np.ndarray[Any, Any], names: Sequence[str]) -> tuple[str, ...]:
    left = total - len(rows)
    return (f"left out {left} row(s) without a target ({', '.join(names)})",) if left else ()


def _classes(column: Any, name: str, block: ClassIndexBlock) -> Encoded:
    import pyarrow as pa
    import pyarrow.compute as pc

    values = to_values(column)
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    missing = np.asarray(pc.is_null(values, nan_is_null=True))
    vocab = pa.array(block.vocab)
    try:
        same = values.cast(vocab.type)
    except pa.ArrowInvalid:
        same, vocab = values.cast(pa.large_string()), vocab.cast(pa.large_string())
    codes = np.asarray(pc.fill_null(pc.index_in(same, value_set=vocab), -1))
    rows = np.flatnonzero(~missing)
    unseen = rows[codes[rows] < 0]
    if len(unseen):
        label = values[int(unseen[0])].as_py()
        raise DataError(
            f"target {name!r}: {label!r} (row {int(unseen[0]) + 1}, and {len(unseen) - 1} more) does not occur in the "
            f"training split, whose {len(block.vocab)} classes are {block.vocab[:12]}; leave such rows out"
        )
    return Encoded(
        values=torch.from_numpy(codes[rows].astype(np.int64)), rows=rows, notes=_left_out(len(missing), rows, (name,))
    )
