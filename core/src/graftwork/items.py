"""Get items from a folder, and values from an item: what `get_items`, `get_x` and `get_y` are filled with."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path, PurePath
from typing import Any, ClassVar, Protocol, TypeAlias, runtime_checkable

import numpy as np

from graftwork.errors import DataError, ItemError, OptionError, unknown

__all__ = [
    "ColReader",
    "ItemGetter",
    "Key",
    "Label",
    "RegexLabeller",
    "as_rows",
    "get_files",
    "parent_label",
    "paths_of",
    "values_of",
]

Label: TypeAlias = Callable[[Any], Hashable]
Key: TypeAlias = Label | str
"""A function of an item, or the name of a column of it."""


def get_files(
    path: str | Path,
    *,
    extensions: str | Collection[str] | None = None,
    recurse: bool = True,
    folders: str | Collection[str] | None = None,
) -> list[Path]:
    """List the files under `path`, sorted; files and folders whose names begin with a dot are left out.

    `extensions` are compared without regard to case, with or without their dot. `folders` names the sub-folders of
    `path` to look into; files that lie directly in `path` are then left out. Linked folders are followed.

    Raises:
        DataError: no such path, not a folder, not readable, no such sub-folder, or no file found.
    """
    root = Path(path)
    _check_folder(root)
    endings = _endings(extensions)
    starts = [str(root)] if folders is None else [str(root / name) for name in _sub_folders(root, folders)]
    found = [file for start in starts for file in _walk(start, recurse) if file.lower().endswith(endings)]
    if not found:
        raise DataError(_nothing(root, extensions, recurse=recurse, folders=folders))
    return [Path(file) for file in sorted(found)]


def _check_folder(root: Path) -> None:
    if root.is_dir():
        return
    if root.exists():
        raise DataError(f"{str(root)!r} is a file, not a folder; give the folder it lies in: {str(root.parent)!r}")
    above = root.parent
    names = [child.name for child in above.iterdir() if child.is_dir()] if above.is_dir() else []
    hint = str(unknown("folder", root.name, names)) if names else f"{str(above)!r} holds no folder either"
    raise DataError(f"no such path: {str(root)!r} ({hint})")


def _endings(extensions: str | Collection[str] | None) -> tuple[str, ...]:
    """Return what a file's name may end with, in lower case; the empty ending fits every name."""
    if extensions is None:
        return ("",)
    given = (extensions,) if isinstance(extensions, str) else extensions
    return tuple(f".{extension.lower().lstrip('.')}" for extension in given)


def _sub_folders(root: Path, folders: str | Collection[str]) -> list[str]:
    names = [folders] if isinstance(folders, str) else list(folders)
    there = {child.name for child in root.iterdir() if child.is_dir()}
    for name in names:
        if name not in there:
            raise DataError(f"in {str(root)!r}: {unknown('folder', name, there)}")
    return names


def _walk(folder: str, recurse: bool, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[str]:
    """Yield the files below a folder; `above` keeps a link that leads back up from being followed for ever."""
    status = os.stat(folder)  # noqa: PTH116 - scandir and plain strings list a large folder several times faster
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    try:
        entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except PermissionError as error:
        raise DataError(f"the folder {folder!r} cannot be read: {error.strerror}") from error
    for entry in entries:
        if entry.is_file():
            yield entry.path
        elif recurse and entry.is_dir():
            yield from _walk(entry.path, recurse, above | {here})


def _nothing(
    root: Path, extensions: str | Collection[str] | None, *, recurse: bool, folders: str | Collection[str] | None
) -> str:
    """Say what was looked for in vain, and what lies there instead."""
    kind = "files" if extensions is None else "files ending in " + ", ".join(sorted(_endings(extensions)))
    where = "its sub-folders too" if recurse else "its sub-folders not: recurse=True looks there"
    only = "" if folders is None else f", only in {folders!r}"
    others = {Path(file).suffix for file in _walk(str(root), True)} if extensions is not None else set()
    there = f"; it holds {', '.join(sorted(others)[:8]) or 'nothing'}" if extensions is not None else ""
    return f"no {kind} in {str(root)!r} ({where}{only}){there}"


def parent_label(item: str | PurePath) -> str:
    """Return the name of the folder an item lies in.

    Raises:
        ItemError: the path names no folder.
    """
    name = PurePath(item).parent.name
    if not name:
        raise ItemError(f"{str(item)!r} names no parent folder to take the label from; give a path such as 'cat/1.jpg'")
    return name


@dataclass(frozen=True, slots=True)
class RegexLabeller:
    """Label an item with the first group of a pattern found in its path, whose separators are written `/`.

    The pattern may match anywhere in the path; with `match=True` only at its beginning.

    Raises:
        OptionError: the pattern is not valid, or has no group.
        ItemError: (when called) the pattern does not match; names the item and the pattern.
    """

    pattern: str
    _: KW_ONLY
    match: bool = False

    def __post_init__(self) -> None:
        try:
            groups = re.compile(self.pattern).groups
        except re.error as error:
            raise OptionError(f"the label pattern {self.pattern!r} is not a regular expression: {error}") from error
        if groups == 0:
            raise OptionError(
                f"the label pattern {self.pattern!r} has no group; put (…) around the part that is the label"
            )

    def __call__(self, item: str | PurePath) -> str:
        """Return the first group."""
        text = str(item).replace(os.sep, "/")
        found = re.match(self.pattern, text) if self.match else re.search(self.pattern, text)
        label = found.group(1) if found else None
        if label is None:
            raise ItemError(f"the label pattern {self.pattern!r} matches nothing in {text!r}")
        return label


@dataclass(frozen=True, slots=True)
class ItemGetter:
    """Get one position of an item that is a sequence, or one key of a mapping."""

    key: Any

    def __call__(self, item: Any) -> Any:
        """Return the value; raise ItemError if the item has no such position or key."""
        try:
            return item[self.key]
        except (LookupError, TypeError) as error:
            raise ItemError(f"item {item!r} has no {self.key!r}: {type(error).__name__}: {error}") from error


@dataclass(frozen=True, slots=True)
class ColReader:
    """Read one column of a row, or several as a list; a row is a mapping, a Series, a named tuple or a sequence.

    A column is a name, or a position counted from 0. `prefix` and `suffix` turn the value into text around it; a prefix
    that is a path is joined as one. `label_delim` cuts the text into a list of labels, empty text into none.

    Raises:
        OptionError: no column, or a delimiter together with a prefix or suffix.
        ItemError: (when called) the row has no such column; names the nearest.
    """

    col: str | int | Sequence[str | int]
    _: KW_ONLY
    prefix: str | PurePath = ""
    suffix: str = ""
    label_delim: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.col, str | int) and len(self.col) == 0:
            raise OptionError("ColReader was given no column; name one: ColReader('label')")
        if self.label_delim is not None and (not self.label_delim or self.prefix or self.suffix):
            raise OptionError("label_delim cuts a column into labels: give some text, and no prefix or suffix with it")

    @property
    def verbatim(self) -> bool:
        """Whether the value of a single column is returned as it stands."""
        return isinstance(self.col, str) and not self.prefix and not self.suffix and self.label_delim is None

    def __call__(self, row: Any) -> Any:
        """Return the column's value, or a list for several columns."""
        if isinstance(self.col, str | int):
            return self._finish(_cell(row, self.col))
        return [self._finish(_cell(row, col)) for col in self.col]

    def _finish(self, value: Any) -> Any:
        if self.label_delim is not None:
            return _labels(value, self.label_delim)
        if isinstance(self.prefix, PurePath):
            return f"{self.prefix / str(value)}{self.suffix}"
        return f"{self.prefix}{value}{self.suffix}" if self.prefix or self.suffix else value


@runtime_checkable
class _NamedTuple(Protocol):
    """Be a tuple whose positions have names."""

    _fields: ClassVar[tuple[str, ...]]


def _labels(value: Any, delimiter: str) -> list[str]:
    """Cut a cell into labels; an empty cell, which pandas reads as NaN, holds none."""
    if value is None or value != value or value == "":
        return []
    return str(value).split(delimiter)


def _cell(row: Any, col: str | int) -> Any:
    names, values = _columns(row)
    if names is not None and col in names:
        return values[names.index(col)] if isinstance(names, list) else values[col]
    if isinstance(col, int) and -len(values) <= col < len(values):
        return (list(values.values()) if isinstance(values, Mapping) else values)[col]
    if names is None:
        raise ItemError(
            f"a row of {len(values)} values has no column {col!r}; name a position from 0 to {len(values) - 1}"
        )
    raise ItemError(f"in a row: {unknown('column', str(col), map(str, names))}")


def _columns(row: Any) -> tuple[Collection[Any] | None, Any]:
    """Return a row's column names, None if it has none, and its values by name or by position."""
    if isinstance(row, Mapping):
        return row.keys(), row
    if isinstance(row, tuple):
        return (list(row._fields) if isinstance(row, _NamedTuple) else None), row
    if isinstance(row, Sequence | np.ndarray) and not isinstance(row, str):
        return None, row
    from pandas import Series

    if isinstance(row, Series):
        return list(row.index), row.tolist()
    raise ItemError(f"ColReader reads a row of a table, not a {type(row).__name__}: {row!r}")


def as_rows(items: Any) -> Sequence[Any]:
    """Return items as a sequence that gives one item a position; the rows of a DataFrame become mappings.

    Raises:
        DataError: neither a sequence, an array nor a DataFrame.
    """
    if isinstance(items, Sequence | np.ndarray):
        return items  # type: ignore[return-value]
    if _is_frame(items):
        return list(items.to_dict("records"))
    raise DataError(f"items come as a sequence or a DataFrame, not as {type(items).__name__}")


def _is_frame(items: Any) -> bool:
    """Whether items are the rows of a DataFrame; pandas is not imported to look at a list."""
    if isinstance(items, Sequence | np.ndarray):
        return False
    from pandas import DataFrame

    return isinstance(items, DataFrame)


def values_of(items: Any, key: Key) -> list[Any]:
    """Return the key of every item; a column of a DataFrame is read at once, without making rows.

    Raises:
        UnknownName: a DataFrame without that column.
    """
    column = key if isinstance(key, str) else key.col if isinstance(key, ColReader) and key.verbatim else None
    if column is not None and _is_frame(items):
        if column not in items.columns:
            raise unknown("column", str(column), map(str, items.columns))
        return list(items[column].tolist())
    read = ColReader(key) if isinstance(key, str) else key
    return [read(item) for item in as_rows(items)]


def paths_of(items: Any) -> list[PurePath]:
    """Return items as paths; raise DataError if they are none."""
    try:
        return [PurePath(item) for item in as_rows(items)]
    except TypeError as error:
        raise DataError(f"items must be paths to be split by their folders or names: {error}") from error
