"""SeriesDataLoaders: the usual recipe for labelled series. It is an ordinary DataBlock."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import numpy as np

from graftwork.api import CategoryBlock, DataBlock, DataError, DataLoaders, ItemError, StratifiedSplitter, Transform
from graftwork_signals.blocks import SeriesBlock, as_array
from graftwork_signals.sources import Item, get_label, get_values, read_source
from graftwork_signals.transforms import Standardize

__all__ = ["SeriesDataLoaders"]


@final
class SeriesDataLoaders:
    """Make DataLoaders of labelled series; options are those of `DataBlock.dataloaders`."""

    @classmethod
    def from_path(cls, path: str | Path, *, label: str = "auto", **options: Any) -> DataLoaders:
        """Read a CSV or npz file; `label` is the column of labels, as for `read_source`."""
        return cls.from_items(read_source(path, label=label), **options)

    @classmethod
    def from_arrays(cls, x: np.ndarray[Any, Any], y: Sequence[Any], **options: Any) -> DataLoaders:
        """Take series (N, channels, length) or (N, length) and their labels."""
        items = [Item(f"row {row}", values, label) for row, (values, label) in enumerate(zip(x, y, strict=True))]
        return cls.from_items(items, **options)

    @classmethod
    def from_items(
        cls,
        items: Sequence[Item],
        *,
        valid_pct: float = 0.2,
        seed: int = 42,
        item_tfms: Sequence[Transform] = (),
        batch_tfms: Sequence[Transform] = (Standardize(),),
        **options: Any,
    ) -> DataLoaders:
        """Take items; a share of every class is held out. Series of another shape than the first are bad items."""
        channels, length = _shape(items)
        recipe = DataBlock(
            blocks=(SeriesBlock(channels, length), CategoryBlock()),
            get_x=get_values,
            get_y=get_label,
            splitter=StratifiedSplitter(valid_pct, seed=seed),
            item_tfms=item_tfms,
            batch_tfms=batch_tfms,
        )
        return recipe.dataloaders(items, seed=seed, **{"cache": "auto", **options})


def _shape(items: Sequence[Item]) -> tuple[int, int]:
    """Return (channels, length) of the first series that can be read."""
    for item in items:
        try:
            channels, length = as_array(get_values(item)).shape
        except (ItemError, ValueError):
            continue
        return channels, length
    raise DataError("none of the series can be read; the first one: " + str(items[0]))
