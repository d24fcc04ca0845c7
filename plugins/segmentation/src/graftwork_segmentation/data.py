"""SegmentationDataLoaders: the usual recipes for pictures with masks. Each is an ordinary DataBlock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, final

from graftwork.api import (
    ColReader,
    ColSplitter,
    DataBlock,
    DataLoaders,
    RandomSplitter,
    Splitter,
    Transform,
    unknown,
)
from graftwork_segmentation.blocks import MaskBlock
from graftwork_segmentation.sources import Pair, folder_source, get_image, get_mask, pair_up
from graftwork_vision import picture_data_block

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MaskOptions", "SegmentationDataLoaders", "mask_data_block"]

Size = tuple[int, int]
Method = Literal["crop", "pad", "squish"]


class MaskOptions(TypedDict, total=False):
    """List the options all recipes share.

    `size` is short for `item_tfms=[Resize(size, method=resize)]`; `resize` is "squish" unless given. `normalize` is
    "imagenet" (its statistics), "fit" (those of the training split) or "none". The others are those of
    `DataBlock.dataloaders`.
    """

    size: int | Size | None
    resize: Method
    item_tfms: Sequence[Transform] | Transform
    batch_tfms: Sequence[Transform] | Transform
    normalize: Literal["imagenet", "fit", "none"]
    bs: int
    workers: int | None
    worker_type: Literal["thread", "process", "fork"]
    on_bad_item: Literal["skip", "error"]
    cache: Literal["none", "memory", "auto"]


def mask_data_block(
    mask: MaskBlock,
    *,
    splitter: Splitter,
    size: int | Size | None = None,
    resize: Method = "squish",
    item_tfms: Sequence[Transform] | Transform = (),
    batch_tfms: Sequence[Transform] | Transform = (),
    normalize: Literal["imagenet", "fit", "none"] = "imagenet",
) -> DataBlock:
    """Return the recipe from pairs of a picture and a mask to batches of both."""
    return picture_data_block(
        mask,
        get_x=get_image,
        get_y=get_mask,
        splitter=splitter,
        size=size,
        resize=resize,
        item_tfms=item_tfms,
        batch_tfms=batch_tfms,
        normalize=normalize,
    )


@final
class SegmentationDataLoaders:
    """Make DataLoaders of pictures with masks.

    `codes` are the classes' names, `ignore_index` the pixel value that counts for nothing. Every recipe takes the
    options of `MaskOptions`; where there is no split of its own, `valid_pct` is drawn for validation with `seed`, which
    also orders the batches. Pictures without a mask, and masks without a picture, are left out and said in `notes`.
    """

    @classmethod
    def from_folder(
        cls,
        path: str | Path,
        *,
        label_from: str = "auto",
        codes: Sequence[str] | None = None,
        ignore: str = "auto",
        valid_pct: float = 0.2,
        seed: int = 42,
        **options: Unpack[MaskOptions],
    ) -> DataLoaders:
        """Read images/, labels/, codes.txt and perhaps train.txt and valid.txt; see `folder_source`."""
        found = folder_source(path, label_from=label_from, ignore=ignore, codes=codes)
        mask = MaskBlock(found.codes.names, found.codes.ignore_index, values=found.codes.values)
        splitter = found.splitter or RandomSplitter(valid_pct, seed=seed)
        return _loaders(found.items, mask, splitter, seed, options, notes=found.notes)

    @classmethod
    def from_label_func(
        cls,
        path: str | Path,
        files: Sequence[str | Path],
        label_func: Callable[[Path], str | Path],
        codes: Sequence[str],
        *,
        ignore_index: int | None = None,
        values: tuple[int, ...] | None = None,
        valid_pct: float = 0.2,
        seed: int = 42,
        **options: Unpack[MaskOptions],
    ) -> DataLoaders:
        """Find a picture's mask by a function of its path; paths that do not exist as they are lie below `path`."""
        root = Path(path)
        items, notes = pair_up([_below(root, file) for file in files], lambda image: _below(root, label_func(image)))
        mask = MaskBlock(tuple(codes), ignore_index, values=values)
        return _loaders(items, mask, RandomSplitter(valid_pct, seed=seed), seed, options, notes=notes)

    @classmethod
    def from_df(
        cls,
        df: pd.DataFrame,
        path: str | Path = ".",
        *,
        codes: Sequence[str],
        fn_col: str | int = 0,
        mask_col: str | int = 1,
        valid_col: str | None = None,
        ignore_index: int | None = None,
        values: tuple[int, ...] | None = None,
        valid_pct: float = 0.2,
        seed: int = 42,
        **options: Unpack[MaskOptions],
    ) -> DataLoaders:
        """Read the paths of pictures and masks (below `path`) from a table; `valid_col` is true for validation."""
        image_of, mask_of = ColReader(fn_col, prefix=Path(path)), ColReader(mask_col, prefix=Path(path))
        rows = [Pair(Path(image_of(row)), Path(mask_of(row))) for row in df.to_dict("records")]
        splitter = RandomSplitter(valid_pct, seed=seed)
        fixed = None if valid_col is None else ColSplitter(valid_col)(df)
        mask = MaskBlock(tuple(codes), ignore_index, values=values)
        return _loaders(rows, mask, splitter if fixed is None else (lambda _: fixed), seed, options)


def _below(root: Path, file: str | Path) -> Path:
    path = Path(file)
    return path if path.exists() else root / path


_RECIPE = ("size", "resize", "item_tfms", "batch_tfms", "normalize")
_LOADING = ("bs", "workers", "worker_type", "on_bad_item", "cache")


def _loaders(
    items: Sequence[Pair],
    mask: MaskBlock,
    splitter: Any,
    seed: int,
    options: MaskOptions,
    *,
    notes: Sequence[str] = (),
) -> DataLoaders:
    for name in options:
        if name not in _RECIPE + _LOADING:
            raise unknown("option", name, (*_RECIPE, *_LOADING))
    given: dict[str, Any] = dict(options)
    block = mask_data_block(mask, splitter=splitter, **{k: given[k] for k in _RECIPE if k in given})
    loading: dict[str, Any] = {"bs": 8, "cache": "auto"} | {k: given[k] for k in _LOADING if k in given}
    data = block.dataloaders(items, seed=seed, **loading)
    data.notes = (*notes, *data.notes)
    return data
