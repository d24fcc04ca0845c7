"""Boxes as others write them down: COCO's JSON, and Pascal VOC's XML beside every picture."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

from graftwork.api import DataError, OptionError, Splitter
from graftwork_vision.pictures import IMAGE_SUFFIXES
from graftwork_vision.sources import HeadSplitter, Sample, Samples, sample_x, sample_y

__all__ = ["box_source", "coco_source", "find_annotations", "voc_source"]

IMAGE_FOLDERS: Final = ("images", "JPEGImages", "imgs", "")
_TRAIN: Final = ("train",)
_VALID: Final = ("valid", "val", "validation", "test")
Boxes = dict[str, list[Any]]


class _Remarks:
    """Count what had to be left out or cut off."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.missing: list[str] = []

    def notes(self, name: str) -> list[str]:
        """Say what was counted."""
        said = [f"{name}: {count:,} {what}" for what, count in sorted(self.counts.items())]
        if self.missing:
            first = f"the first is {self.missing[0]!r}"
            said.append(f"{name}: {len(self.missing):,} pictures are named and not there, and are left out; {first}")
        return said


def box_source(path: str | Path) -> tuple[Samples, tuple[str, ...] | None]:
    """Read pictures with boxes, and the classes where the source declares them.

    `path` is a COCO file, a folder with one (or with one for training and one for validation), or a folder of VOC's
    XML files. Pictures lie beside the file or below, in `images`, `JPEGImages` or a folder called like the file.

    Raises:
        DataError: no such annotations; or a file is damaged, naming it.
    """
    path = Path(path)
    if path.is_file():
        return coco_source([path])
    found = find_annotations(path)
    if not found:
        raise DataError(
            f"{str(path)!r} holds no annotations of boxes: neither a COCO file (.json with images, annotations and "
            "categories, here or in `annotations`) nor VOC files (.xml, here or in `Annotations`)"
        )
    if found[0].suffix.lower() == ".xml":
        return voc_source(path, found), None
    return coco_source(found)


def find_annotations(path: Path) -> list[Path]:
    """Return a folder's COCO files, the one for training first, else its VOC files; none if it holds neither."""
    coco = [file for folder in (path, path / "annotations") for file in sorted(folder.glob("*.json")) if _is_coco(file)]
    if len(coco) > 1:
        train = [f for f in coco if _named(f, _TRAIN)]
        valid = [f for f in coco if _named(f, _VALID)]
        if len(train) != 1 or len(valid) != 1:
            names = ", ".join(f.name for f in coco)
            raise OptionError(f"which COCO file of {str(path)!r} is it? There are {names}; name the file itself")
        return [train[0], valid[0]]
    return coco or [file for folder in (path / "Annotations", path) for file in sorted(folder.glob("*.xml"))]


def _named(file: Path, words: Sequence[str]) -> bool:
    return any(word in file.stem.lower() for word in words)


def _is_coco(file: Path) -> bool:
    """Say whether a file's beginning looks like COCO's; damaged ones are read, and then named."""
    with file.open("rb") as opened:
        start = opened.read(2**16)
    return any(key in start for key in (b'"images"', b'"annotations"', b'"categories"')) or not _is_json_start(start)


def _is_json_start(start: bytes) -> bool:
    return start.lstrip()[:1] in (b"{", b"[")


# -- COCO ------------------------------------------------------------------------------------------------------------


def coco_source(files: Sequence[Path]) -> tuple[Samples, tuple[str, ...]]:
    """Read one COCO file, or one for training and one for validation, and return the samples and the categories.

    Groups (iscrowd) are no single things, and are left out.

    Raises:
        DataError: a file is damaged, is no COCO file, or none of its pictures is there.
    """
    contents = [_json(file) for file in files]
    names = [_categories(content, file) for content, file in zip(contents, files, strict=True)]
    vocab = tuple(sorted(set(names[0].values())))
    new = [name for part in names[1:] for name in part.values() if name not in vocab]
    if new:
        raise DataError(f"{files[1].name} has the category {new[0]!r}, which {files[0].name} does not have")
    notes: list[str] = []
    parts = [_coco_items(*part, notes) for part in zip(files, contents, names, strict=True)]
    if len(files) > 1:
        notes.append(f"the validation split is {files[1].name}")
    items = [item for part in parts for item in part]
    splitter: Splitter | None = HeadSplitter(len(parts[0])) if len(files) > 1 else None
    return Samples(items=items, get_x=sample_x, get_y=sample_y, splitter=splitter, notes=tuple(notes)), vocab


def _coco_items(file: Path, content: Mapping[str, Any], names: Mapping[Any, str], notes: list[str]) -> list[Sample]:
    remarks = _Remarks()
    boxes: dict[Any, Boxes] = {i["id"]: {"boxes": [], "labels": []} for i in _records(content, "images", file)}
    for note in _records(content, "annotations", file):
        _add_coco(note, boxes, names, remarks, file)
    folder = _picture_folder(file, [str(image.get("file_name", "")) for image in content["images"][:20]])
    items = []
    for image in content["images"]:
        path = folder / str(image.get("file_name", ""))
        if not path.is_file():
            remarks.missing.append(path.name)
            continue
        found = _within(boxes[image["id"]], image.get("width"), image.get("height"), remarks)
        items.append(Sample(path, found, str(path)))
    if not items:
        raise DataError(f"{file}: none of its {len(content['images'])} pictures is there, as in {str(folder)!r}")
    notes += remarks.notes(file.name)
    return items


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise DataError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict) or not {"images", "annotations", "categories"} <= content.keys():
        raise DataError(f"{file} is no COCO file: it needs the lists images, annotations and categories")
    return content


def _records(content: Mapping[str, Any], key: str, file: Path) -> Iterator[dict[str, Any]]:
    if not isinstance(content[key], list):
        raise DataError(f"{file}: {key!r} is no list")
    for number, record in enumerate(content[key]):
        if not isinstance(record, dict) or (key != "annotations" and "id" not in record):
            raise DataError(f"{file}: {key}[{number}] is no record with an id: {str(record)[:60]}")
        yield record


def _categories(content: Mapping[str, Any], file: Path) -> dict[Any, str]:
    return {record["id"]: str(record.get("name", record["id"])) for record in _records(content, "categories", file)}


def _add_coco(
    note: Mapping[str, Any], boxes: dict[Any, Boxes], names: Mapping[Any, str], remarks: _Remarks, file: Path
) -> None:
    if note.get("iscrowd"):
        remarks.counts["groups (iscrowd) are left out"] += 1
    elif note.get("image_id") not in boxes:
        remarks.counts["boxes belong to no picture of the file"] += 1
    elif note.get("category_id") not in names:
        raise DataError(
            f"{file}: annotation {note.get('id')!r} has the category {note.get('category_id')!r}, which is none"
        )
    else:
        x, y, width, height = _four(note.get("bbox"), f"{file}: annotation {note.get('id')!r}")
        boxes[note["image_id"]]["boxes"].append((x, y, x + width, y + height))
        boxes[note["image_id"]]["labels"].append(names[note["category_id"]])


def _four(numbers: Any, where: str) -> tuple[float, float, float, float]:
    try:
        first, second, third, fourth = (float(number) for number in numbers)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where} has the box {numbers!r}, which is not four numbers") from error
    return first, second, third, fourth


def _within(found: Boxes, width: Any, height: Any, remarks: _Remarks) -> Boxes:
    """Cut boxes off at the picture's edges where its size is said, leave empty ones out, and count both."""
    kept: Boxes = {"boxes": [], "labels": []}
    sized = isinstance(width, int | float) and isinstance(height, int | float)
    for (x1, y1, x2, y2), label in zip(found["boxes"], found["labels"], strict=True):
        box = (max(x1, 0.0), max(y1, 0.0), min(x2, width), min(y2, height)) if sized else (x1, y1, x2, y2)
        if box[2] <= box[0] or box[3] <= box[1]:
            empty = x2 <= x1 or y2 <= y1
            remarks.counts[
                "boxes have no area and are left out" if empty else "boxes lie outside and are left out"
            ] += 1
            continue
        # A rounding error beyond the edge is not worth a word.
        if max(abs(a - b) for a, b in zip(box, (x1, y1, x2, y2), strict=True)) > 1:
            remarks.counts["boxes reach outside their picture and are cut off"] += 1
        kept["boxes"].append(box)
        kept["labels"].append(label)
    return kept


def _picture_folder(file: Path, names: Sequence[str]) -> Path:
    """Return the folder the first names lie in, beside a file of annotations or one above."""
    roots = (file.parent, file.parent.parent)
    tails = (*IMAGE_FOLDERS, file.stem, file.stem.removeprefix("instances_"))
    places = [root / tail for root in roots for tail in tails]
    return max(places, key=lambda place: sum((place / name).is_file() for name in names if name))


# -- VOC -------------------------------------------------------------------------------------------------------------


def voc_source(path: Path, files: Sequence[Path]) -> Samples:
    """Read a VOC XML file for each picture."""
    remarks, items = _Remarks(), []
    for file in files:
        picture, found, size = _voc(file)
        place = _voc_picture(path, file, picture)
        if place is None:
            remarks.missing.append(picture or file.stem)
            continue
        items.append(Sample(place, _within(found, *size, remarks), str(place)))
    if not items:
        raise DataError(f"{str(path)!r}: none of the pictures that {len(files)} XML files name is there")
    return Samples(items=items, get_x=sample_x, get_y=sample_y, notes=tuple(remarks.notes(path.name)))


def _voc(file: Path) -> tuple[str, Boxes, tuple[float | None, float | None]]:
    """Return the picture's name, its boxes and its (width, height); corners count from 1 in VOC."""
    try:
        root = ElementTree.fromstring(file.read_bytes())
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{file} cannot be read as XML: {error}") from error
    found: Boxes = {"boxes": [], "labels": []}
    for thing in root.iter("object"):
        name = thing.findtext("name")
        corners = [thing.findtext(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
        if not name:
            raise DataError(f"{file}: an object has no name")
        x1, y1, x2, y2 = _four(corners, f"{file}: the object {name!r}")
        found["boxes"].append((x1 - 1, y1 - 1, x2, y2))
        found["labels"].append(name.strip())
    width, height = root.findtext("size/width"), root.findtext("size/height")
    return root.findtext("filename") or "", found, (_number(width), _number(height))


def _number(text: str | None) -> float | None:
    try:
        return float(text) or None if text else None
    except ValueError:
        return None


def _voc_picture(path: Path, file: Path, name: str) -> Path | None:
    """Find the picture by the name in the file, or by the file's own."""
    names = [name, *(file.stem + suffix for suffix in IMAGE_SUFFIXES)]
    folders = [root / tail for root in (path, file.parent) for tail in IMAGE_FOLDERS]
    return next((folder / n for n in names if n for folder in folders if (folder / n).is_file()), None)
