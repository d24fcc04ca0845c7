"""Reach single rows of a loader: its encoded targets without its inputs, or some of its samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from graftwork.dataloader import ColumnLoader, ItemLoader, Loader
from graftwork.errors import DataError, ItemError

__all__ = ["fields_at", "targets_of"]


def targets_of(loader: Loader) -> dict[str, Tensor]:
    """Return the encoded targets of every item, in the items' order, without reading inputs where that can be avoided.

    Items that the loader has found bad are left out, as it leaves them out itself.
    """
    plan = loader.plan
    if isinstance(loader, ColumnLoader):
        return plan.encode_batch({name: loader.columns[name] for name in plan.targets})
    if isinstance(loader, ItemLoader):
        samples = [sample for i in range(loader.num_items) if (sample := _targets_at(loader, i)) is not None]
        if not samples:
            raise DataError(f"not one of {loader.num_items} items has a target that can be read")
        return plan.encode_batch(plan.collate(samples))
    batches = [plan.encode_batch({n: b.fields[n] for n in plan.targets}) for b in loader.in_order()]
    return {name: torch.cat([batch[name] for batch in batches]) for name in plan.targets}


def _targets_at(loader: ItemLoader, position: int) -> dict[str, object] | None:
    if position in loader.bad_items:
        return None
    try:
        plan, raw = loader.plan, loader.source.raw(position)
        encoded = plan.encode({name: raw[name] for name in plan.targets} if plan.alone else raw)
        return {name: encoded[name] for name in plan.targets}
    except ItemError:
        if loader.on_bad_item == "error":
            raise
        return None


def fields_at(loader: Loader, positions: Sequence[int]) -> dict[str, Tensor]:
    """Return the samples at positions that a batch's index names, collated, as they are before batch transforms."""
    plan = loader.plan
    if isinstance(loader, ItemLoader):
        return plan.collate([plan.encode(loader.source.raw(position)) for position in positions])
    if isinstance(loader, ColumnLoader):
        rows = {position: row for row, position in enumerate(loader.positions.tolist())}
        wanted = torch.tensor([rows[position] for position in positions])
        return {name: column[wanted.to(column.device)] for name, column in loader.columns.items()}
    return _found(loader, positions)


def _found(loader: Loader, positions: Sequence[int]) -> dict[str, Tensor]:
    """Look for positions in any other loader, by reading it. Items may be of another size in every batch."""
    found: dict[int, dict[str, object]] = {}
    for batch in loader.in_order():
        for row, position in enumerate(batch.index.tolist()):
            if position in positions:
                found[position] = {n: _item(loader, n, column[row : row + 1]) for n, column in batch.fields.items()}
    return loader.plan.collate([found[position] for position in positions])


def _item(loader: Loader, name: str, column: Tensor) -> object:
    return loader.plan.fields[name].item.uncollate(column)[0]
