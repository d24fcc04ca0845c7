"""Where pictures and labels come from: folders, tables of paths, IDX files; and telling which of them a path is."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, overload

import numpy as np

from graftwork.api import (
    ColSplitter,
    DataError,
    GrandparentSplitter,
    ItemError,
    OptionError,
    RegexLabeller,
    Split,
    Splitter,
    get_files,
    parent_label,
    unknown,
)
from graftwork_vision.idx import find_idx, read_idx
from graftwork_vision.pictures import IMAGE_SUFFIXES

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "NameLabeller",
    "Sample",
    "Samples",
    "csv_source",
    "folder_source",
    "get_image_files",
    "idx_source",
    "read_source",
    "resolve_source",
    "train_valid_source",
]

_TRAIN_NAMES: Final = ("train", "training")
_VALID_NAMES: Final = ("valid", "val", "validation", "test")
LABEL_NAMES: Final = ("label", "labels", "class", "category", "target", "y")
VALID_COLUMN: Final = "is_valid"
_TABLES: Final = (".csv", ".tsv")
LABEL_FORMS: Final = "parent, name:REGEX or csv:COLUMN"


def get_image_files(
    path: str | Path, *, recurse: bool = True, folders: str | Collection[str] | None = None
) -> list[Path]:
    """List the pictures under `path`, sorted, told by their endings; options and errors as of `get_files`."""
    return get_files(path, extensions=IMAGE_SUFFIXES, recurse=recurse, folders=folders)


@dataclass(frozen=True, slots=True)
class Sample:
    """Be a picture and its label as a table or an array holds them; printed by the name it has there."""

    x: Any
    y: Any
    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Say what a source holds: its items, how to get one's picture and label, its own split if it has one.

    `notes` say what was found and chosen that was not asked for.
    """

    items: Sequence[Any]
    get_x: Callable[[Any], Any]
    get_y: Callable[[Any], Any]
    splitter: Splitter | None = None
    notes: tuple[str, ...] = ()


def sample_x(item: Any) -> Any:
    """Return a sample's picture; anything else is taken for the picture itself."""
    return item.x if isinstance(item, Sample) else item


def sample_y(item: Sample) -> Any:
    """Return a sample's label."""
    return item.y


@dataclass(frozen=True, slots=True)
class NameLabeller:
    """Label a file with the first group of a pattern found in its name, without its folders.

    Raises:
        OptionError: the pattern is not valid, or has no group.
        ItemError: (when called) the pattern does not match; names the file.
    """

    pattern: str

    def __post_init__(self) -> None:
        """Refuse a faulty pattern at once."""
        RegexLabeller(self.pattern)

    def __call__(self, item: str | os.PathLike[str]) -> str:
        """Return the first group."""
        path = Path(item)
        try:
            return RegexLabeller(self.pattern)(path.name)
        except ItemError as error:
            raise ItemError(f"{error} (file {str(path)!r}); for names such as cat_12.jpg write ^(.+)_\\d+") from error


def read_source(path: str | Path, *, label_from: str = "auto", source: str | None = None) -> Samples:
    """Read `path` as the source it is, or as the named one ("vision/folder", …).

    Raises:
        DataError: there is no such path, or it holds no pictures.
        OptionError: `label_from` is not "auto", "parent", "name:REGEX" or "csv:COLUMN", or does not fit the source.
    """
    path = Path(path)
    kind, rest = parse_label_from(label_from)
    name = source or resolve_source(path) or _no_source(path)
    if kind == "csv" and path.is_dir():
        return csv_source(only_table(path), label_from=label_from)
    if kind == "csv" and name != "vision/csv":
        raise OptionError(f"label_from={label_from!r} reads a table, and {str(path)!r} is none")
    if name not in SOURCES:
        raise unknown("source", name, SOURCES)
    if kind in ("parent", "name") and name in ("vision/csv", "vision/idx"):
        raise OptionError(f"label_from={label_from!r} reads labels from paths; {str(path)!r} has its own, leave it out")
    return SOURCES[name](path, label_from=f"{kind}:{rest}" if rest else kind)


def parse_label_from(label_from: str) -> tuple[str, str]:
    """Split a --label-from into its form and what follows the colon; raise OptionError for other forms."""
    kind, _, rest = label_from.partition(":")
    if kind not in ("auto", "parent", "name", "csv") or (kind in ("name", "csv")) != bool(rest):
        raise OptionError(f"label_from={label_from!r} is none of {LABEL_FORMS}; for example name:^(.+)_\\d+\\.jpg$")
    return kind, rest


def resolve_source(path: str | Path) -> str | None:
    """Tell the registry id of the source that reads `path`, or None if it holds no pictures to be seen."""
    path = Path(path)
    if path.is_file():
        return "vision/csv" if path.suffix.lower() in _TABLES and _names_pictures(path) else None
    if not path.is_dir():
        return None
    if find_idx(path):
        return "vision/idx"
    if _parts(path) is not None:
        return "vision/train-valid"
    return "vision/folder" if _has_picture(path) else None


def _no_source(path: Path) -> str:
    if path.is_file() and path.suffix.lower() in _TABLES:
        return "vision/csv"
    if path.is_file():
        raise DataError(f"{str(path)!r} is a file, but neither a folder of pictures nor a table of their paths (.csv)")
    # Says what is wrong: no such path, or which endings were looked for in vain.
    get_image_files(path)
    return "vision/folder"


def _has_picture(path: Path) -> bool:
    for _, folders, files in os.walk(path):
        folders[:] = [f for f in folders if not f.startswith(".")]
        if any(Path(f).suffix.lower() in IMAGE_SUFFIXES for f in files):
            return True
    return False


# --- folders ---------------------------------------------------------------------------------------------------------


def folder_source(path: str | Path, *, label_from: str = "parent") -> Samples:
    """Read pictures in one folder per class, or, with "name:REGEX", pictures whose names tell their class."""
    files: Sequence[Path] = get_image_files(path)
    kind, pattern = parse_label_from(label_from)
    if kind == "name":
        return Samples(items=files, get_x=sample_x, get_y=NameLabeller(pattern))
    inside = [file for file in files if file.parent != Path(path)]
    if not inside:
        raise DataError(
            f"the pictures lie directly in {str(path)!r} and not in a folder per class; "
            "take labels from their names with --label-from 'name:REGEX', or from a table with csv:COLUMN"
        )
    left = len(files) - len(inside)
    notes = (f"{left} pictures lie directly in {str(path)!r}, in no class folder, and are left out",) if left else ()
    return Samples(items=inside, get_x=sample_x, get_y=parent_label, notes=notes)


def train_valid_source(path: str | Path, *, label_from: str = "parent") -> Samples:
    """Read a folder that has a folder for training and one for validation, with a folder per class in each."""
    path = Path(path)
    parts = _parts(path)
    if parts is None:
        raise DataError(f"{str(path)!r} has no folders named {_TRAIN_NAMES[0]!r} and {_VALID_NAMES[0]!r}")
    train, valid = parts
    kind, pattern = parse_label_from(label_from)
    notes = [f"the validation split is the folder {valid!r}"] if valid != "valid" else []
    others = [p.name for p in path.iterdir() if p.is_dir() and p.name in _VALID_NAMES and p.name != valid]
    notes += [f"the folder(s) {', '.join(sorted(others))} are left out of training"] if others else []
    return Samples(
        items=get_image_files(path, folders=(train, valid)),
        get_x=sample_x,
        get_y=NameLabeller(pattern) if kind == "name" else parent_label,
        splitter=TopFolderSplitter(str(path), train, valid) if kind == "name" else GrandparentSplitter(train, valid),
        notes=tuple(notes),
    )


def _parts(path: Path) -> tuple[str, str] | None:
    train = next((n for n in _TRAIN_NAMES if (path / n).is_dir()), None)
    valid = next((n for n in _VALID_NAMES if (path / n).is_dir()), None)
    return None if train is None or valid is None else (train, valid)


@dataclass(frozen=True, slots=True)
class TopFolderSplitter(Splitter):
    """Split files by the folder directly under `root` they lie in."""

    root: str
    train: str
    valid: str

    def divide(self, items: Any, label: Any) -> Split:
        """Compare the first part of every path below the root."""
        tops = np.array([Path(item).relative_to(self.root).parts[0] for item in items])
        return Split(train=np.flatnonzero(tops == self.train), valid=np.flatnonzero(tops == self.valid))


# --- tables ----------------------------------------------------------------------------------------------------------


def csv_source(path: str | Path, *, label_from: str = "auto") -> Samples:
    """Read a table with a header: a column of picture paths, one of labels, and a split if it has `is_valid`.

    The column of paths is the one whose values are files, beside the table or in the working folder.
    """
    path = Path(path)
    table = read_table(path)
    kind, column = parse_label_from(label_from)
    paths, root = path_column(table, path)
    label = column if kind == "csv" else _label_column(table, paths, path)
    if label not in table.columns:
        raise unknown(f"column of {path.name}", label, map(str, table.columns))
    notes = [f"{path.name}: paths are in column {paths!r}, labels in column {label!r}"]
    splitter = None
    if VALID_COLUMN in table.columns:
        notes.append(f"{path.name}: the split is that of column {VALID_COLUMN!r}")
        splitter = FlagSplitter(valid_flags(table))
    rows = zip(table[paths].astype(str), table[label].tolist(), strict=True)
    items = [Sample(root / name, y, str(root / name)) for name, y in rows]
    return Samples(items=items, get_x=sample_x, get_y=sample_y, splitter=splitter, notes=tuple(notes))


@dataclass(frozen=True, slots=True)
class FlagSplitter(Splitter):
    """Split items by one flag each, true for validation."""

    is_valid: tuple[bool, ...]

    def divide(self, items: Any, label: Any) -> Split:
        """Return the positions of either flag."""
        flags = np.array(self.is_valid)
        return Split(train=np.flatnonzero(~flags), valid=np.flatnonzero(flags))


def valid_flags(table: pd.DataFrame) -> tuple[bool, ...]:
    """Return which rows the column `is_valid` holds out."""
    split = ColSplitter(VALID_COLUMN)(table)
    flags = np.zeros(len(table), dtype=bool)
    flags[split.valid] = True
    return tuple(flags.tolist())


def read_table(path: Path) -> pd.DataFrame:
    """Read a .csv or .tsv file with a header; only empty cells are missing, so that a class may be called NA."""
    import pandas as pd

    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        table = pd.read_csv(path, sep=separator, keep_default_na=False, na_values=[""])
    except (OSError, ValueError) as error:
        raise DataError(f"{str(path)!r} cannot be read as a table: {error}") from error
    if table.empty:
        raise DataError(f"the table {str(path)!r} has no rows")
    return table


def path_column(table: pd.DataFrame, path: Path) -> tuple[str, Path]:
    """Find the column whose values are files, and the folder they are relative to."""
    for root in (path.parent, path.parent / "images", path.parent / "train", Path()):
        counts = {c: sum(_is_file(root, v) for v in table[c].head(20)) for c in table.columns}
        best = max(counts, key=lambda c: counts[c])
        if counts[best]:
            return best, root
    raise DataError(
        f"no column of {str(path)!r} ({', '.join(map(str, table.columns))}) holds paths of files, "
        f"neither below {str(path.parent)!r} nor below the working folder"
    )


def _is_file(root: Path, value: Any) -> bool:
    try:
        return isinstance(value, str) and (root / value).is_file()
    except (OSError, ValueError):  # a text too long for a path, or with a zero byte
        return False


def _label_column(table: pd.DataFrame, paths: str, path: Path) -> str:
    others = [str(c) for c in table.columns if c not in (paths, VALID_COLUMN)]
    named = [c for c in others if c.lower() in LABEL_NAMES]
    if len(named) == 1 or len(others) == 1:
        return (named or others)[0]
    raise OptionError(
        f"which column of {path.name} holds the labels? Say --label-from csv:COLUMN; "
        f"there are {', '.join(others) or 'none besides the paths'}"
    )


def _names_pictures(path: Path) -> bool:
    try:
        table = read_table(path)
        column, root = path_column(table, path)
    except DataError:
        return False
    return any(_is_file(root, v) and Path(v).suffix.lower() in IMAGE_SUFFIXES for v in table[column].head(20))


def only_table(path: Path) -> Path:
    """Return the one table in a folder; raise OptionError if there are several, or none."""
    tables = sorted(p for p in path.iterdir() if p.suffix.lower() in _TABLES)
    if len(tables) != 1:
        found = ", ".join(t.name for t in tables) or "none"
        raise OptionError(f"labels come from one table in {str(path)!r}, and there is: {found}; name the file itself")
    return tables[0]


# --- IDX -------------------------------------------------------------------------------------------------------------


class IdxItems(Sequence[Sample]):
    """Give the pictures of IDX files one after the other: the training part, then the validation part."""

    def __init__(self, parts: Sequence[tuple[Path, np.ndarray[Any, Any], np.ndarray[Any, Any]]]) -> None:
        """Hold (file, images, labels) per part."""
        self._parts = tuple(parts)

    def __len__(self) -> int:
        """Count the pictures."""
        return sum(len(labels) for _, _, labels in self._parts)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        """Return a picture with its label."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = index if index >= 0 else index + len(self)
        for file, images, labels in self._parts:
            if 0 <= row < len(labels):
                return Sample(images[row], int(labels[row]), f"{file}[{row}]")
            row -= len(labels)
        raise IndexError(index)


@dataclass(frozen=True, slots=True)
class HeadSplitter(Splitter):
    """Take the first `num_train` items for training and all others for validation."""

    num_train: int

    def divide(self, items: Any, label: Any) -> Split:
        """Cut once."""
        return Split(train=np.arange(self.num_train), valid=np.arange(self.num_train, len(items)))


def idx_source(path: str | Path, *, label_from: str = "auto") -> Samples:
    """Read a folder of IDX files as MNIST has them; `t10k-…` is the validation split.

    Raises:
        DataError: a file is broken, or images and labels are not one for one.
    """
    if label_from != "auto":
        raise OptionError(f"IDX files have their own labels; leave label_from={label_from!r} out")
    found = find_idx(path)
    if not found:
        raise DataError(f"{str(path)!r} holds no IDX files such as train-images-idx3-ubyte.gz with their labels")
    parts = [(pair[0], *_idx_pair(*pair)) for pair in found.values()]
    splitter = HeadSplitter(len(parts[0][2])) if len(parts) == 2 else None
    return Samples(items=IdxItems(parts), get_x=sample_x, get_y=sample_y, splitter=splitter)


def _idx_pair(images: Path, labels: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    x, y = read_idx(images), read_idx(labels)
    if x.ndim != 3 or x.dtype != np.uint8 or y.ndim != 1:
        raise DataError(f"{images}: {x.shape} {x.dtype}, labels {y.shape}: no grey pictures with one label each")
    if len(x) != len(y):
        raise DataError(f"{images} holds {len(x)} pictures, {labels.name} {len(y)} labels")
    return x, y


SOURCES: Final[Mapping[str, Callable[..., Samples]]] = {
    "vision/csv": csv_source,
    "vision/folder": folder_source,
    "vision/idx": idx_source,
    "vision/train-valid": train_valid_source,
}
