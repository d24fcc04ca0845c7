"""Where pictures and their masks come from: two folders whose files belong together by name, and lists of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import ExifTags, Image

from graftwork.api import DataError, ItemError, OptionError, Split, Splitter, unknown
from graftwork_segmentation.masks import classes_of, lookup, mask_values
from graftwork_vision import get_image_files

__all__ = [
    "Codes",
    "ListSplitter",
    "MaskPath",
    "Pair",
    "Pairs",
    "folder_source",
    "get_image",
    "get_mask",
    "pair_up",
    "picture_size",
]

IMAGES: Final = "images"
LABELS: Final = ("labels", "masks", "annotations")
VOID_NAMES: Final = ("void", "unlabelled", "unlabeled", "ignore", "ignored")
MAX_LOOKS: Final = 24
_LYING: Final = (5, 6, 7, 8)


@dataclass(frozen=True, slots=True)
class Pair:
    """Be a picture and its mask; printed by the picture's name."""

    image: Any
    mask: Any

    def __str__(self) -> str:
        return str(self.image)


def get_image(item: Any) -> Any:
    """Return a pair's picture; anything else is taken for the picture itself."""
    return item.image if isinstance(item, Pair) else item


def get_mask(item: Pair) -> Any:
    """Return a pair's mask; raise ItemError naming both sizes if the picture's is another."""
    if isinstance(item.image, Path) and isinstance(item.mask, Path):
        image, mask = picture_size(item.image), picture_size(item.mask)
        if image is not None and mask is not None and image != mask:
            raise ItemError(
                f"{item.image} has {image[1]}x{image[0]} pixels (width x height), its mask {item.mask} "
                f"{mask[1]}x{mask[0]}; a mask has a value for each pixel of its picture"
            )
    return item.mask


def picture_size(path: Path) -> tuple[int, int] | None:
    """Return (height, width) as the picture is shown; None for what cannot be opened, which decoding will say."""
    try:
        with Image.open(path) as picture:
            lying = picture.getexif().get(ExifTags.Base.Orientation, 1) in _LYING
            return (picture.width, picture.height) if lying else (picture.height, picture.width)
    except Exception:  # whatever a decoder raises on broken data
        return None


@dataclass(frozen=True, slots=True)
class MaskPath:
    """Tell where a picture's mask lies, below `root`: "labels/{stem}.png", "{parent}/{stem}_mask.png".

    `{stem}` is the picture's name without its ending, `{name}` with it, `{parent}` its folder below the root.

    Raises:
        OptionError: the pattern has no {stem} and no {name}, or something else in braces.
    """

    root: Path
    pattern: str

    def __post_init__(self) -> None:
        """Refuse a pattern that names the same file for every picture."""
        known = set(re.findall(r"{(.*?)}", self.pattern))
        for name in known - {"stem", "name", "parent"}:
            raise unknown("place in the pattern", name, ("stem", "name", "parent"))
        if not known & {"stem", "name"}:
            raise OptionError(f"the pattern {self.pattern!r} has no {{stem}}; for example labels/{{stem}}.png")

    def __call__(self, image: Path) -> Path:
        """Return the mask's path."""
        parent = image.parent.relative_to(self.root) if image.is_relative_to(self.root) else image.parent
        return self.root / self.pattern.format(stem=image.stem, name=image.name, parent=parent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Codes:
    """Hold the classes' names, the pixel value of each (None: its position), and the value that counts for nothing."""

    names: tuple[str, ...]
    values: tuple[int, ...] | None = None
    ignore_index: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Say what a source holds: pairs, codes, its own split if it has one; `notes` say what was not asked for."""

    items: Sequence[Pair]
    codes: Codes
    splitter: Splitter | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ListSplitter(Splitter):
    """Split pairs by lists of names, one a line, with or without ending; without one list its side is the rest.

    Pairs on no list, and lines that fit no pair, are counted in the split's notes.
    """

    train: Path | None
    valid: Path | None

    def divide(self, items: Any, label: Any) -> Split:
        """Look every picture up."""
        sides = {path: _lines(path) for path in (self.train, self.valid) if path is not None}
        found = {path: np.array([bool(_names(item) & lines) for item in items]) for path, lines in sides.items()}
        train = found[self.train] if self.train is not None else ~found[self.valid]  # type: ignore[index]
        valid = found[self.valid] if self.valid is not None else ~train
        valid &= ~train
        every = {name for item in items for name in _names(item)}
        notes = []
        for path, lines in sides.items():
            if path is not None and (missing := sorted(lines - every)):
                notes.append(f"{len(missing)} line(s) of {path.name} fit no pair, such as {missing[0]!r}")
        if left := int((~(train | valid)).sum()):
            notes.append(f"{left} pair(s) are on neither list and are left out")
        return Split(train=np.flatnonzero(train), valid=np.flatnonzero(valid), notes=tuple(notes))


def _names(item: Any) -> set[str]:
    path = Path(str(get_image(item)))
    return {path.name, path.stem}


def _lines(path: Path) -> set[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the list {str(path)!r} cannot be read: {error}") from error
    return {Path(line.strip()).name for line in text.splitlines() if line.strip()}


def folder_source(
    path: str | Path,
    *,
    label_from: str = "auto",
    ignore: str = "auto",
    codes: Sequence[str] | None = None,
    images: str = IMAGES,
) -> Pairs:
    """Read a folder with images/, labels/, codes.txt and perhaps train.txt and valid.txt.

    `label_from` is "auto" (a file of the same name in labels/, masks/ or annotations/) or a pattern (`MaskPath`).
    `ignore` names a code, or a pixel value, that counts for nothing; "auto" takes a code called void, unlabelled or
    the like, "none" nothing.

    Raises:
        DataError: no such folder, no pairs in it, masks that do not fit the codes.
        OptionError: a pattern without {stem}; an `ignore` that is no code and no value.
    """
    path = Path(path)
    if not path.is_dir():
        raise DataError(f"{str(path)!r} is no folder; a source of masks holds images/, labels/ and codes.txt")
    items, notes = _pairs(path, label_from, images)
    named, found = _codes(path, codes, items)
    chosen, said = _ignoring(named, ignore)
    _try_masks(items, chosen)
    lists = [path / f"{side}.txt" for side in ("train", "valid")]
    there = [file if file.is_file() else None for file in lists]
    splitter = ListSplitter(*there) if any(there) else None
    said += [f"the split is that of {' and '.join(f.name for f in there if f is not None)}"] if splitter else []
    return Pairs(items=items, codes=chosen, splitter=splitter, notes=(*notes, *found, *said))


def _pairs(path: Path, label_from: str, images: str) -> tuple[list[Pair], list[str]]:
    if label_from != "auto":
        mask_of = MaskPath(path, label_from)
        folder = path / images if (path / images).is_dir() else path
        masks = {mask_of(file) for file in get_image_files(folder)}
        return pair_up([file for file in get_image_files(folder) if file not in masks], mask_of)
    labels = next((path / name for name in LABELS if (path / name).is_dir()), None)
    if not (path / images).is_dir() or labels is None:
        raise DataError(
            f"{str(path)!r} holds no folders {images}/ and {LABELS[0]}/ (or {', '.join(LABELS[1:])}); say where the "
            "masks are with --label-from 'FOLDER/{stem}.png'"
        )
    by_stem = {file.relative_to(labels).with_suffix(""): file for file in get_image_files(labels)}

    def mask_of_stem(image: Path) -> Path:
        relative = image.relative_to(path / images).with_suffix("")
        return by_stem.get(relative, labels / relative.with_suffix(".png"))

    return pair_up(get_image_files(path / images), mask_of_stem, masks=list(by_stem.values()))


def pair_up(
    images: Sequence[Path], mask_of: Callable[[Path], Path], *, masks: Sequence[Path] = ()
) -> tuple[list[Pair], list[str]]:
    """Return pictures with their masks, and what is said of those without; raise DataError if none has one."""
    pairs = [Pair(image, Path(mask_of(image))) for image in images]
    whole = [pair for pair in pairs if pair.mask.is_file()]
    if not whole:
        first = f"; the mask of {pairs[0].image} should be {pairs[0].mask}" if pairs else ""
        raise DataError(f"none of {len(pairs)} pictures has a mask{first}")
    bare = [pair.image for pair in pairs if not pair.mask.is_file()]
    lone = sorted(set(masks) - {pair.mask for pair in whole})
    notes = [f"{len(bare)} picture(s) without a mask are left out, such as {bare[0]}"] if bare else []
    return whole, notes + ([f"{len(lone)} mask(s) without a picture are left out, such as {lone[0]}"] if lone else [])


def _codes(path: Path, given: Sequence[str] | None, items: Sequence[Pair]) -> tuple[Codes, list[str]]:
    if given is not None:
        return Codes(names=tuple(map(str, given))), []
    file = path / "codes.txt"
    if file.is_file():
        names = tuple(line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip())
        if len(names) < 2 or len(set(names)) != len(names):
            raise DataError(f"{str(file)!r} must name at least two classes, one a line, none twice; it has {names}")
        return Codes(names=names), []
    return _found_codes(items)


def _found_codes(items: Sequence[Pair]) -> tuple[Codes, list[str]]:
    """Make codes up from the values of some masks."""
    seen: set[int] = set()
    for item in _some(items):
        try:
            seen |= set(np.unique(mask_values(item.mask)[0]).tolist())
        except ItemError:
            continue
    if not seen:
        raise DataError(f"none of the masks looked at can be read, such as {items[0].mask}")
    if len(seen) == 2 and max(seen) > 2:
        low, high = sorted(seen)
        codes = Codes(names=("background", "object"), values=(low, high))
        return codes, [f"there is no codes.txt: {low} is taken for the background, {high} for the object"]
    names = tuple(f"class {value}" for value in range(max(2, max(seen) + 1)))
    return Codes(names=names), [f"there is no codes.txt: {len(names)} classes, by the values of the masks looked at"]


def _ignoring(codes: Codes, ignore: str) -> tuple[Codes, list[str]]:
    if ignore == "none":
        return codes, []
    values = codes.values or tuple(range(len(codes.names)))
    if ignore == "auto":
        voids = [i for i, name in enumerate(codes.names) if name.lower() in VOID_NAMES]
        if len(voids) != 1 or len(codes.names) < 3:
            return codes, []
        said = f"pixels of {codes.names[voids[0]]!r} count for nothing (--ignore none counts them)"
        return _with_ignore(codes, values[voids[0]]), [said]
    if ignore in codes.names:
        return _with_ignore(codes, values[codes.names.index(ignore)]), []
    if ignore.isdecimal():
        return _with_ignore(codes, int(ignore)), []
    raise unknown("code to ignore", ignore, (*codes.names, "auto", "none"))


def _with_ignore(codes: Codes, value: int) -> Codes:
    return Codes(names=codes.names, values=codes.values, ignore_index=value)


def _try_masks(items: Sequence[Pair], codes: Codes) -> None:
    """Look at some masks before any work is done; raise DataError if more than half do not fit the codes."""
    values = codes.values or tuple(range(len(codes.names)))
    table, reasons = lookup(values, codes.ignore_index), []
    looked = _some(items)
    for item in looked:
        try:
            classes_of(item.mask, table, len(codes.names))
        except ItemError as error:
            reasons.append(str(error))
    if len(reasons) > len(looked) / 2:
        raise DataError(f"{len(reasons)} of {len(looked)} masks looked at cannot be used; the first one: {reasons[0]}")


def _some(items: Sequence[Pair]) -> list[Pair]:
    positions = np.unique(np.linspace(0, len(items) - 1, min(MAX_LOOKS, len(items))).astype(int))
    return [items[int(position)] for position in positions]


def resolve_source(path: str | Path) -> str | None:
    """Tell whether a folder holds pictures and masks: the registry id, or None."""
    path = Path(path)
    masks = any((path / name).is_dir() for name in LABELS)
    return "segmentation/folder" if path.is_dir() and masks and (path / IMAGES).is_dir() else None
