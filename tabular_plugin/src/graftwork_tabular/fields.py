"""Reach the packed rows of a plan and whole fields of a loader."""

from __future__ import annotations

import torch
from torch import Tensor

from graftwork.api import ColumnLoader, Loader, Plan, PlanError
from graftwork_tabular.blocks import PackedRowBlock

__all__ = ["column_of", "row_field", "weights_of"]


def row_field(plan: Plan) -> tuple[str, PackedRowBlock]:
    """Return name and block of the input that is a packed row; raise PlanError unless there is exactly one."""
    blocks = {name: plan.fields[name].final for name in plan.inputs}
    found = [(name, block) for name, block in blocks.items() if isinstance(block, PackedRowBlock)]
    if len(found) != 1:
        raise PlanError(f"one packed row of a table is needed among the inputs, which are {blocks}")
    return found[0]


def column_of(loader: Loader, name: str) -> Tensor:
    """Return a field of all items, on the CPU, in the items' order, as it is before batch transforms."""
    if isinstance(loader, ColumnLoader):
        return loader.columns[name].cpu()
    ordered = loader.in_order()
    found = torch.cat([batch.fields[name].cpu() for batch in ordered])
    loader.bad_items.update(ordered.bad_items)
    return found


def weights_of(loader: Loader) -> Tensor | None:
    """Return the items' weights in the training loss, on the CPU, or None where all count the same."""
    return loader.weights.cpu() if isinstance(loader, ColumnLoader) and loader.weights is not None else None
