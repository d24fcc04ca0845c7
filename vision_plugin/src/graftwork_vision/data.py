"""ImageDataLoaders: the usual recipes for labelled pictures. Each is an ordinary DataBlock."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, final

from graftwork.api import (
    Block,
    CategoryBlock,
    ColReader,
    ColSplitter,
    DataBlock,
    DataLoaders,
    GrandparentSplitter,
    MultiCategoryBlock,
    OptionError,
    RandomSplitter,
    Splitter,
    StratifiedSplitter,
    Transform,
    parent_label,
    unknown,
)
from graftwork_vision.blocks import ImageBlock, Size
from graftwork_vision.models import stats_for
from graftwork_vision.pictures import MAX_PIXELS
from graftwork_vision.sources import NameLabeller, get_image_files
from graftwork_vision.transforms import Method, Normalize, RandomResizedCrop, Resize, as_size

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ImageDataLoaders", "ImageOptions", "image_data_block", "picture_data_block"]

Normalizing = Literal["imagenet", "fit", "none"]


class ImageOptions(TypedDict, total=False):
    """List the options all recipes share.

    `size` is short for `item_tfms=[Resize(size)]`. `normalize` is "imagenet" (its statistics), "fit" (those of the
    training split) or "none". `channels` is 3 (RGB) or 1 (grey). The others are those of `DataBlock.dataloaders`.
    """

    size: int | Size | None
    item_tfms: Sequence[Transform] | Transform
    batch_tfms: Sequence[Transform] | Transform
    normalize: Normalizing
    channels: int
    bs: int
    workers: int | None
    worker_type: Literal["thread", "process", "fork"]
    on_bad_item: Literal["skip", "error"]
    cache: Literal["none", "memory", "auto"]


def image_data_block(
    *,
    get_items: Callable[[Any], Any] | None = None,
    get_x: Callable[[Any], Any] | None = None,
    get_y: Callable[[Any], Any],
    splitter: Splitter,
    multi: bool = False,
    size: int | Size | None = None,
    item_tfms: Sequence[Transform] | Transform = (),
    batch_tfms: Sequence[Transform] | Transform = (),
    normalize: Normalizing = "imagenet",
    channels: int = 3,
    native_size: Size | None = None,
) -> DataBlock:
    """Return the recipe from pictures to one category each, or with `multi` to several.

    `native_size` (height, width) says that all pictures have it already.
    """
    return picture_data_block(
        MultiCategoryBlock() if multi else CategoryBlock(),
        get_items=get_items,
        get_x=get_x,
        get_y=get_y,
        splitter=splitter,
        size=size,
        item_tfms=item_tfms,
        batch_tfms=batch_tfms,
        normalize=normalize,
        channels=channels,
        native_size=native_size,
    )


def picture_data_block(
    target: Block,
    *,
    get_items: Callable[[Any], Any] | None = None,
    get_x: Callable[[Any], Any] | None = None,
    get_y: Callable[[Any], Any],
    splitter: Splitter,
    size: int | Size | None = None,
    resize: Method = "crop",
    item_tfms: Sequence[Transform] | Transform = (),
    batch_tfms: Sequence[Transform] | Transform = (),
    normalize: Normalizing = "imagenet",
    channels: int = 3,
    native_size: Size | None = None,
    max_pixels: int = MAX_PIXELS,
) -> DataBlock:
    """Return the recipe from pictures to any target, also one of another plugin.

    `size` is short for a Resize by the method `resize` among `item_tfms`; `normalize` is as in `ImageOptions`,
    `native_size` (height, width) what all pictures have already.
    """
    items = _listed(item_tfms)
    if size is not None and any(isinstance(t, Resize | RandomResizedCrop) for t in items):
        raise OptionError(f"size={size!r} and a resizing transform among item_tfms; give one of them")
    if size is not None:
        items = [*items, Resize(size, method=resize)]
    batches = [*_listed(batch_tfms), *_normalizing(normalize, channels)]
    picture = ImageBlock(channels=channels, size=native_size, shrink_to=_shrink_to(items), max_pixels=max_pixels)
    return DataBlock(
        blocks=(picture, target),
        get_items=get_items,
        get_x=get_x,
        get_y=get_y,
        splitter=splitter,
        item_tfms=items,
        batch_tfms=batches,
    )


def _listed(tfms: Sequence[Transform] | Transform) -> list[Transform]:
    return [tfms] if isinstance(tfms, Transform) else list(tfms)


def _normalizing(normalize: Normalizing, channels: int) -> list[Transform]:
    if normalize == "imagenet":
        return [Normalize.from_stats(*stats_for(channels))]
    if normalize == "fit":
        return [Normalize()]
    if normalize != "none":
        raise unknown("normalize", normalize, ("imagenet", "fit", "none"))
    return []


def _shrink_to(tfms: Sequence[Transform]) -> int | None:
    """Let JPEGs be decoded smaller where the first step is a Resize: it sees the whole picture at least at its size."""
    if tfms and isinstance(tfms[0], Resize):
        return max(as_size(tfms[0].size, Resize.id))
    return None


@final
class ImageDataLoaders:
    """Make DataLoaders of labelled pictures.

    Every recipe takes the options of `ImageOptions`; where there is no split of its own, `valid_pct` of every class is
    drawn for validation with `seed`, which also orders the batches.
    """

    @classmethod
    def from_folder(
        cls,
        path: str | Path,
        *,
        train: str = "train",
        valid: str = "valid",
        valid_pct: float = 0.2,
        seed: int = 42,
        **options: Unpack[ImageOptions],
    ) -> DataLoaders:
        """Label pictures by the folder they lie in; folders `train` and `valid` are the split if both are there."""
        path = Path(path)
        if (path / train).is_dir() and (path / valid).is_dir():
            files = get_image_files(path, folders=(train, valid))
            return _loaders(files, parent_label, GrandparentSplitter(train, valid), seed, options)
        return _loaders(get_image_files(path), parent_label, StratifiedSplitter(valid_pct, seed=seed), seed, options)

    @classmethod
    def from_path_func(
        cls,
        path: str | Path,
        files: Sequence[str | Path],
        label_func: Callable[[Any], Hashable],
        *,
        valid_pct: float = 0.2,
        seed: int = 42,
        **options: Unpack[ImageOptions],
    ) -> DataLoaders:
        """Label files by a function of their path; relative ones lie below `path`."""
        whole = [Path(path) / file for file in files]
        return _loaders(whole, label_func, StratifiedSplitter(valid_pct, seed=seed), seed, options)

    @classmethod
    def from_name_re(
        cls,
        path: str | Path,
        pattern: str,
        *,
        files: Sequence[str | Path] | None = None,
        valid_pct: float = 0.2,
        seed: int = 42,
        **options: Unpack[ImageOptions],
    ) -> DataLoaders:
        r"""Label pictures by the first group of a pattern found in their names: `^(.+)_\d+\.jpg$`."""
        found = get_image_files(path) if files is None else files
        return cls.from_path_func(path, found, NameLabeller(pattern), valid_pct=valid_pct, seed=seed, **options)

    @classmethod
    def from_df(
        cls,
        df: pd.DataFrame,
        path: str | Path = ".",
        *,
        fn_col: str | int = 0,
        label_col: str | int = 1,
        valid_col: str | None = None,
        label_delim: str | None = None,
        valid_pct: float = 0.2,
        seed: int = 42,
        **options: Unpack[ImageOptions],
    ) -> DataLoaders:
        """Read paths (below `path`) and labels from a table; with `label_delim` a cell holds several labels.

        `valid_col` is true for validation.
        """
        splitter = _table_splitter(valid_col, label_delim, valid_pct, seed)
        get_x = ColReader(fn_col, prefix=Path(path))
        get_y = ColReader(label_col, label_delim=label_delim)
        return _loaders(df, get_y, splitter, seed, options, get_x=get_x, multi=label_delim is not None)


def _table_splitter(valid_col: str | None, label_delim: str | None, valid_pct: float, seed: int) -> Splitter:
    if valid_col is not None:
        return ColSplitter(valid_col)
    # Several labels an item make no classes to draw the same share of.
    return StratifiedSplitter(valid_pct, seed=seed) if label_delim is None else RandomSplitter(valid_pct, seed=seed)


def _loaders(
    source: Any,
    get_y: Callable[[Any], Any],
    splitter: Splitter,
    seed: int,
    options: ImageOptions,
    *,
    get_x: Callable[[Any], Any] | None = None,
    multi: bool = False,
) -> DataLoaders:
    recipe, loading = _divided(options)
    block = image_data_block(get_x=get_x, get_y=get_y, splitter=splitter, multi=multi, **recipe)
    return block.dataloaders(source, seed=seed, **loading)


_RECIPE = ("size", "item_tfms", "batch_tfms", "normalize", "channels")
_LOADING = ("bs", "workers", "worker_type", "on_bad_item", "cache")


def _divided(options: ImageOptions) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divide options into those of the recipe and those of the loaders; raise UnknownName for any other."""
    for name in options:
        if name not in _RECIPE + _LOADING:
            raise unknown("option", name, (*_RECIPE, *_LOADING))
    given: dict[str, Any] = dict(options)
    return {k: given[k] for k in _RECIPE if k in given}, {k: given[k] for k in _LOADING if k in given}
