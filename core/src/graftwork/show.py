"""Look at the data: pictures of samples, and a walk through the recipe step by step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graftwork.dataloader import ColumnLoader, ItemLoader, Loader
from graftwork.errors import GraftworkError, OptionError
from graftwork.plan import Plan
from graftwork.seeds import derive_seed
from graftwork.transform import brief

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from graftwork.block import Block
    from graftwork.datablock import DataBlock, Datasets

__all__ = ["decoded_samples", "grid", "name_colours", "show_samples", "show_variants", "walk"]


def grid(count: int, *, size: float = 2.2, together: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a figure with `count` axes without frames, about as wide as high; nothing global is touched.

    `together` says how many that follow one another are to lie in one row.
    """
    from graftwork.figure import new_figure

    columns = max(1, math.ceil(math.sqrt(count) / together)) * together
    rows = max(1, math.ceil(count / columns))
    figure = new_figure(width=columns * size, height=rows * (size + 0.3))
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(count)]
    for ax in axes:
        ax.set_axis_off()
    return figure, axes


def decoded_samples(plan: Plan, fields: Mapping[str, Tensor]) -> Iterator[dict[str, tuple[Any, Any]]]:
    """Iterate samples of a batch as {field: (value, block)}, decoded as far as steps are invertible."""
    columns = {name: plan.decode_batch(name, column) for name, column in fields.items()}
    for i in range(len(next(iter(fields.values())))):
        yield {name: (values[i], block) for name, (values, block) in columns.items()}


def show_samples(loader: Loader, *, max_n: int = 9) -> Figure:
    """Draw the first samples of an epoch as the model sees them."""
    plan = loader.plan
    batch = next(loader.at(0))
    fields = {name: column[:max_n].clone() for name, column in batch.fields.items()}
    generator = None
    if loader.training and fields:
        device = next(iter(fields.values())).device
        generator = torch.Generator(device).manual_seed(derive_seed(loader.seed, "batch", 0, 0))
    return _drawn(plan, plan.encode_batch(fields, generator))


def show_variants(loader: Loader, position: int, *, max_n: int = 9) -> Figure:
    """Draw what training may make of one sample, drawn anew each time; raise OptionError if there is no such sample."""
    if not 0 <= position < loader.num_items:
        raise OptionError(f"position={position}: the training split has the samples 0 to {loader.num_items - 1}")
    if isinstance(loader, ColumnLoader):
        fields = {name: column[[position] * max_n] for name, column in loader.columns.items()}
    elif isinstance(loader, ItemLoader):
        fields = loader.plan.collate([loader.sample(position, epoch) for epoch in range(max_n)])
    else:
        raise OptionError(f"a {type(loader).__name__} does not give single samples to draw")
    device = next(iter(fields.values())).device
    generator = torch.Generator(device).manual_seed(derive_seed(loader.seed, "batch", 0, 0))
    return _drawn(loader.plan, loader.plan.encode_batch(fields, generator))


def _drawn(plan: Plan, fields: Mapping[str, Tensor]) -> Figure:
    samples = list(decoded_samples(plan, fields))
    figure, axes = grid(len(samples))
    for ax, sample in zip(axes, samples, strict=True):
        for value, block in sample.values():
            block.show(value, ax)
    name_colours(figure, samples)
    return figure


def name_colours(figure: Figure, samples: Iterable[Mapping[str, tuple[Any, Any]]]) -> None:
    """Say below a figure what the colours in decoded samples mean, if their blocks know."""
    from graftwork.figure import add_legend

    groups: list[tuple[Block, list[Any]]] = []
    for value, block in (pair for sample in samples for pair in sample.values()):
        known = next((values for other, values in groups if other == block), None)
        if known is None:
            groups.append((block, [value]))
        else:
            known.append(value)
    add_legend(figure, list(dict.fromkeys(pair for block, values in groups for pair in block.legend(values))))


def _shape(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"tensor {tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return brief(value, 60)


def walk(recipe: DataBlock, source: Any, *, bs: int = 4) -> str:
    """Run a recipe on one sample and one batch, and say what came out of each step, up to the one that failed."""
    lines: list[str] = []
    try:
        _walk_data(recipe, source, lines, bs)
        lines.append("Everything fits.")
    except GraftworkError as error:
        lines.append(f"FAILED: {error}")
    return "\n".join(lines)


def _walk_data(recipe: DataBlock, source: Any, lines: list[str], bs: int) -> None:
    items = recipe.items(source)
    lines.append(f"source {brief(source)}: {len(items)} items")
    data = recipe.datasets(source, on_bad_item="error")
    lines.append(f"split by {brief(recipe.splitter)}: {len(data.train)} to train, {len(data.valid)} to validate")
    _walk_sample(data, lines)
    _walk_batch(data, lines, bs)


def _walk_sample(data: Datasets, lines: list[str]) -> None:
    plan = data.plan
    lines.append(f"one sample, from {brief(data.train.item(0))}:")
    values = data.train.raw(0)
    for name, value in values.items():
        raw = plan.fields[name].raw
        reason = raw.check(value)
        lines.append(f"  {name}: {_shape(value)}  [{brief(raw)}]")
        if reason:
            lines.append(f"    this value does not fit its block: {reason}")
    for name, part, value in plan.trace(values):
        lines.append(f"  {name}: {brief(part.transform)}")
        lines.append(f"    → {_shape(value)}  [{brief(part.after)}]")


def _walk_batch(data: Datasets, lines: list[str], bs: int) -> None:
    plan = data.plan
    count = min(bs, len(data.train))
    lines.append(f"one batch of {count}:")
    fields = plan.collate([data.train[i] for i in range(count)])
    for name, column in fields.items():
        lines.append(f"  {name}: {_shape(column)}")
    for step in plan.batch_steps:
        for name, part in step.targets:
            lines.append(f"  {name}: {brief(part.transform)}")
            fields[name] = part.bound.encode(fields[name], None)
            lines.append(f"    → {_shape(fields[name])}  [{brief(part.after)}]")
