"""Read what torchtext's datasets have left on a disk; torchtext itself is not needed for it."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from graftwork.api import DataError, unknown

__all__ = ["TextData", "read_torchtext"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TextData:
    """Hold texts and their labels; a data set of plain text has one line a text and no labels."""

    texts: list[str]
    labels: list[str] | None = None


Reader = Callable[[Path, str], TextData]


def _csv(folder: Path, split: str) -> TextData:
    """Read rows of a label and texts, which are joined."""
    with _file(folder, f"{split}.csv").open(encoding="utf-8", newline="") as lines:
        old = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
        try:
            rows = [row for row in csv.reader(lines) if row]
        finally:
            csv.field_size_limit(old)
    return TextData(texts=[" ".join(row[1:]) for row in rows], labels=[row[0] for row in rows])


def _imdb(folder: Path, split: str) -> TextData:
    texts, labels = [], []
    for label in ("neg", "pos"):
        place = next((p for p in sorted(folder.rglob(f"{split}/{label}")) if p.is_dir()), None)
        if place is None:
            raise DataError(f"there is no folder {split}/{label} below {folder}")
        for path in sorted(place.glob("*.txt")):
            texts.append(path.read_text(encoding="utf-8"))
            labels.append(label)
    return TextData(texts=texts, labels=labels)


def _sst2(folder: Path, split: str) -> TextData:
    with _file(folder, f"{split}.tsv").open(encoding="utf-8", newline="") as lines:
        rows = [line.rstrip("\r\n").split("\t") for line in lines][1:]
    return TextData(texts=[row[0].strip() for row in rows], labels=[row[1] for row in rows])


def _lines(pattern: str) -> Reader:
    def read(folder: Path, split: str) -> TextData:
        return TextData(texts=_file(folder, pattern.format(split)).read_text(encoding="utf-8").splitlines())

    return read


_READERS: Final[dict[str, Reader]] = {
    **dict.fromkeys(
        (
            "AG_NEWS", "AmazonReviewFull", "AmazonReviewPolarity", "DBpedia", "SogouNews", "YahooAnswers",
            "YelpReviewFull", "YelpReviewPolarity",
        ),
        _csv,
    ),
    "IMDB": _imdb,
    "PennTreebank": _lines("ptb.{}.txt"),
    "SST2": _sst2,
    "WikiText103": _lines("wiki.{}.tokens"),
    "WikiText2": _lines("wiki.{}.tokens"),
}  # fmt: skip


def _file(folder: Path, name: str) -> Path:
    found = next(iter(sorted(folder.rglob(name))), None)
    if found is None:
        raise DataError(f"there is no {name} below {folder}; torchtext.datasets.{folder.name}(root=…) downloads it")
    return found


def read_torchtext(name: str, root: str | Path, split: str = "train") -> TextData:
    """Read a split of a data set that `torchtext.datasets` has unpacked below `root` (…/datasets/NAME).

    Raises:
        UnknownName: no such data set, with those that can be read.
        DataError: the files are not there.
    """
    if name not in _READERS:
        raise unknown("torchtext data set", name, _READERS)
    folder = next((p for p in (Path(root) / "datasets" / name, Path(root) / name, Path(root)) if p.is_dir()), None)
    if folder is None:
        raise DataError(f"there is no folder {root}")
    return _READERS[name](folder, split)
