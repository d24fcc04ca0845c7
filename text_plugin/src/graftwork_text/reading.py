"""Read texts, and what is known of them, from tables, text files and folders. What is left out is counted and said."""

from __future__ import annotations

import gzip
import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from graftwork.api import DataError, OptionError, get_files, unknown

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["TABLES", "Texts", "decoded", "file_text", "read_texts"]

TABLES: Final = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet")
PLAIN: Final = (".txt", ".txt.gz", ".text", ".md")
TARGETS: Final = ("label", "target", "class", "category", "sentiment", "y")
SPLITS: Final = ("is_valid", "split", "set", "fold")
VALID: Final = frozenset({"valid", "validation", "val", "dev", "test", "true", "1"})
TRAIN: Final = frozenset({"train", "training", "false", "0"})
MOST_SAID: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """Hold texts, their labels and which are held out, each None where the source does not say.

    `notes` say how the source was read; `warnings` what was left out, and `left_out` counts that.
    """

    texts: Sequence[str]
    labels: Sequence[Any] | None = None
    valid: NDArray[np.bool_] | None = None
    names: Callable[[int], str] = str
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    left_out: int = 0
    origin: str = field(default="")

    def __len__(self) -> int:
        """Count the texts."""
        return len(self.texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Columns:
    """Say which column of a table is what, as far as somebody said it."""

    text: str | Sequence[str] | None
    target: str | None
    labelled: bool
    split: str | None


def decoded(raw: bytes, name: str, *, encoding: str = "utf-8", errors: str = "strict") -> str:
    """Return bytes as text, without a byte-order mark; raise DataError naming the byte that is wrong."""
    try:
        text = raw.decode(encoding, errors)
    except LookupError as error:
        raise OptionError(f"encoding={encoding!r} or errors={errors!r}: {error}") from error
    except UnicodeDecodeError as error:
        around = raw[max(0, error.start - 10) : error.start + 10]
        raise DataError(
            f"{name} is not {encoding}: byte {error.start} is 0x{raw[error.start]:02x} (…{around!r}…); name its "
            "encoding, as in --encoding latin-1, or let wrong bytes be replaced: --errors replace"
        ) from error
    return text.removeprefix("\ufeff")


def _bytes_of(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def read_texts(
    source: Any,
    *,
    text_col: str | Sequence[str] | None = None,
    target: str | None = None,
    labelled: bool = True,
    split_col: str | None = None,
    encoding: str = "utf-8",
    errors: str = "strict",
) -> Texts:
    """Read a CSV, a Parquet file, a frame, a text file (a text a line), or a folder of text files (a label a folder).

    Without `text_col` it is the column of the longest texts; without `target` one that is called so, or the only other.

    Raises:
        DataError: no such thing, nothing in it, or bytes that are no text, with the place of the first.
        OptionError: the columns cannot be told.
    """
    columns = _Columns(text=text_col, target=target, labelled=labelled, split=split_col)
    if not isinstance(source, str | Path):
        return _from_table(_as_table(source), "the frame", columns)
    path = Path(source)
    if path.is_dir():
        return _from_folder(path, labelled=labelled, encoding=encoding, errors=errors)
    if not path.exists():
        raise DataError(f"there is no {path}")
    if path.name.lower().endswith(TABLES):
        return _from_table(_read_table(path, encoding, errors), str(path), columns)
    if labelled:
        raise DataError(f"{path}: labels come with a table (.csv, .parquet) or with folders of text files, one a label")
    lines = decoded(_bytes_of(path), str(path), encoding=encoding, errors=errors).splitlines(keepends=True)
    kept = [line for line in lines if line.strip()]
    if not kept:
        raise DataError(f"{path} holds no text")
    return Texts(texts=kept, notes=(f"{len(kept)} lines of {path.name}, each a text",), origin=str(path))


def file_text(path: Path, *, encoding: str = "utf-8", errors: str = "strict") -> str:
    """Return a file's text; raise DataError for one that cannot be read."""
    return decoded(_bytes_of(path), str(path), encoding=encoding, errors=errors)


# -- tables ----------------------------------------------------------------------------------------------------------


def _as_table(source: Any) -> pa.Table:
    import pyarrow as pa

    if isinstance(source, pa.Table):
        return source
    if isinstance(source, Sequence):
        return pa.Table.from_pylist([dict(row) for row in source])
    return pa.Table.from_pandas(source, preserve_index=False)


def _read_table(path: Path, encoding: str, errors: str) -> pa.Table:
    import pyarrow as pa
    from pyarrow import csv, parquet

    try:
        if path.suffix == ".parquet":
            return parquet.read_table(path)
        raw = decoded(_bytes_of(path), str(path), encoding=encoding, errors=errors).encode("utf-8", "replace")
        delimiter = "\t" if ".tsv" in path.name.lower() else ","
        return csv.read_csv(
            io.BytesIO(raw),
            read_options=csv.ReadOptions(block_size=max(1 << 20, len(raw) + 1)),
            parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=csv.ConvertOptions(
                strings_can_be_null=True, quoted_strings_can_be_null=False, null_values=[""]
            ),
        )
    except pa.ArrowInvalid as error:
        raise DataError(f"{path} cannot be read as a table: {error}") from error


def _from_table(table: pa.Table, name: str, given: _Columns) -> Texts:
    target, split_col = given.target, given.split
    if not table.num_rows:
        raise DataError(f"{name} holds no rows")
    notes: list[str] = []
    for column in (target, split_col):
        _check_column(table, column)
    text_cols = _text_columns(table, given.text, (target, split_col), notes)
    label = _target_column(table, target, (*text_cols, split_col), notes) if given.labelled else None
    texts = _joined_columns(table, text_cols)
    labels = None if label is None else table.column(label).to_pylist()
    valid = _split_column(table, split_col, (*text_cols, label), notes)
    kept, warnings = _complete(name, texts, labels)
    return Texts(
        texts=[texts[i] for i in kept],
        labels=None if labels is None else [labels[i] for i in kept],
        valid=None if valid is None else valid[kept],
        names=lambda i: f"row {kept[i] + 1}",
        notes=tuple(notes),
        warnings=tuple(warnings),
        left_out=len(texts) - len(kept),
        origin=name,
    )


def _check_column(table: pa.Table, column: str | None) -> None:
    if column is not None and column not in table.column_names:
        raise unknown("column", column, table.column_names)


def _text_columns(table: pa.Table, given: Any, others: Sequence[str | None], notes: list[str]) -> list[str]:
    import pyarrow.compute as pc
    import pyarrow.types as pt

    if given:
        names = [given] if isinstance(given, str) else list(given)
        for name in names:
            _check_column(table, name)
        return names
    found = {
        name: pc.mean(pc.utf8_length(table.column(name))).as_py() or 0.0
        for name in table.column_names
        if name not in others and (pt.is_string(table.column(name).type) or pt.is_large_string(table.column(name).type))
    }
    if not found:
        raise OptionError(
            f"no column holds text; the columns are {', '.join(table.column_names)}: name one, --text-col"
        )
    name = max(found, key=lambda column: found[column])
    notes.append(f"the text is column {name!r} ({found[name]:.0f} characters on average)")
    return [name]


def _target_column(table: pa.Table, given: str | None, others: Sequence[str | None], notes: list[str]) -> str:
    if given:
        return given
    left = [name for name in table.column_names if name not in others and name.lower() not in SPLITS]
    named = [name for name in left if name.lower() in TARGETS]
    if len(named) != 1 and len(left) != 1:
        raise OptionError(f"say which column to learn: --target COLUMN, one of {', '.join(left) or 'none'}")
    name: str = (named or left)[0]
    notes.append(f"the label is column {name!r}")
    return name


def _joined_columns(table: pa.Table, names: Sequence[str]) -> list[Any]:
    """Return a text a row; of several columns, each with its mark and number, as fastai joins them."""
    columns: list[list[Any]] = [table.column(name).to_pylist() for name in names]
    if len(columns) == 1:
        return columns[0]
    rows = zip(*columns, strict=True)
    return [" ".join(f"xxfld {n} {cell}" for n, cell in enumerate(row, 1) if cell is not None) or None for row in rows]


def _split_column(
    table: pa.Table, given: str | None, others: Sequence[str | None], notes: list[str]
) -> NDArray[np.bool_] | None:
    names = [given] if given else [n for n in table.column_names if n.lower() in SPLITS and n not in others]
    for name in names:
        said = [str(value).strip().lower() for value in table.column(name).to_pylist()]
        kinds = Counter(said)
        if set(kinds) <= VALID | TRAIN and len({kind in VALID for kind in kinds}) == 2:
            notes.append(f"column {name!r} says what is held out")
            return np.array([value in VALID for value in said], np.bool_)
        if given:
            raise DataError(
                f"column {name!r} must say train or valid (or 0 and 1) in every row; it says {list(kinds)[:5]}"
            )
    return None


def _complete(name: str, texts: Sequence[Any], labels: Sequence[Any] | None) -> tuple[list[int], list[str]]:
    """Return the rows that have a text and a label, and what to say of the others."""
    wrong = [i for i, text in enumerate(texts) if not isinstance(text, str)]
    bare = [] if labels is None else [i for i, label in enumerate(labels) if label is None or label != label]
    out = {*wrong, *bare}
    if len(out) == len(texts):
        raise DataError(f"{name}: not one of {len(texts)} rows has " + ("a text" if wrong else "a label"))
    said = [f"left out {len(rows)} row(s) without a {what}, the first is row {rows[0] + 1}"
            for rows, what in ((wrong, "text"), (bare, "label")) if rows]  # fmt: skip
    blank = sum(1 for i, text in enumerate(texts) if i not in out and not text.strip())
    if blank:
        said.append(f"{blank} text(s) are empty; they are kept")
    return [i for i in range(len(texts)) if i not in out], said


# -- folders ---------------------------------------------------------------------------------------------------------


def _from_folder(root: Path, *, labelled: bool, encoding: str, errors: str) -> Texts:
    files = get_files(root, extensions=PLAIN)
    texts, kept, bad = [], list[Path](), list[str]()
    for file in files:
        try:
            texts.append(decoded(_bytes_of(file), str(file), encoding=encoding, errors=errors))
            kept.append(file)
        except DataError as error:
            bad.append(str(error))
    if not kept:
        raise DataError(f"none of {len(files)} files can be read; {bad[0]}")
    parts = [file.relative_to(root).parts for file in kept]
    tops = {part[0].lower() for part in parts if len(part) > 1}
    divided = bool(tops & VALID) and bool(tops & TRAIN)
    warnings = [f"left out {len(bad)} file(s) that cannot be read", *bad[:MOST_SAID]] if bad else []
    notes = ["the folders train and valid say what is held out"] if divided else []
    found = Texts(
        texts=texts,
        valid=np.array([part[0].lower() in VALID for part in parts], np.bool_) if divided else None,
        names=lambda i: str(kept[i]),
        notes=tuple(notes),
        warnings=tuple(warnings),
        left_out=len(bad),
        origin=str(root),
    )
    return replace(found, labels=_folder_labels(root, kept)) if labelled else found


def _folder_labels(root: Path, files: Sequence[Path]) -> list[str]:
    bare = next((file for file in files if file.parent == root), None)
    if bare is not None:
        raise DataError(f"{bare} lies in no folder of a label; put each label's texts in a folder of its name")
    return [file.parent.name for file in files]
