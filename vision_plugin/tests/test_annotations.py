"""COCO and VOC files: what is read, and what is left out, counted and said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from graftwork import DataError, OptionError
from graftwork_vision import box_source

SIZE = "<size><width>100</width><height>80</height></size>"
VOC = "<annotation><filename>{name}</filename>" + SIZE + "{objects}</annotation>"
ONE = (
    '{{"images": [{{"id": 1}}], "categories": [{{"id": 1, "name": "a"}}],'
    ' "annotations": [{{"id": 3, "image_id": 1, "category_id": {}, "bbox": {}}}]}}'
)
THING = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"


def pictures(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (100, 80)).save(folder / name)


def coco(file: Path, images, notes, categories=((1, "cat"), (7, "dog"))) -> Path:
    content = {
        "images": [{"id": i, "file_name": n, "width": 100, "height": 80} for i, n in images],
        "annotations": [{"id": k, **note} for k, note in enumerate(notes)],
        "categories": [{"id": i, "name": n} for i, n in categories],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def note(image, category, *box, **more):
    return {"image_id": image, "category_id": category, "bbox": list(box), **more}


def test_coco_boxes_become_corners_with_names(tmp_path):
    pictures(tmp_path / "images", "a.png", "b.png")
    coco(
        tmp_path / "annotations.json",
        [(1, "a.png"), (2, "b.png")],
        [note(1, 7, 10, 20, 30, 40), note(1, 1, 0, 0, 5, 5)],
    )
    samples, vocab = box_source(tmp_path)
    assert vocab == ("cat", "dog")
    assert [item.y for item in samples.items] == [
        {"boxes": [(10, 20, 40, 60), (0, 0, 5, 5)], "labels": ["dog", "cat"]},
        {"boxes": [], "labels": []},
    ]
    assert samples.notes == ()
    assert samples.items[0].x == tmp_path / "images" / "a.png"


def test_what_cannot_be_used_is_left_out_counted_and_said(tmp_path):
    pictures(tmp_path / "images", "a.png")
    notes = [
        note(1, 1, 90, 70, 30, 30),  # across the corner
        note(1, 1, 10, 10, 0, 5),  # no area
        note(1, 1, 10, 10, -4, 5),
        note(1, 1, 200, 10, 5, 5),  # outside
        note(1, 1, 1, 1, 50, 50, iscrowd=1),
        note(9, 1, 1, 1, 5, 5),  # of no picture
        note(2, 1, 1, 1, 5, 5),  # of a picture that is not there
        note(1, 1, 95.5, 1, 5, 5),  # half a pixel beyond the edge: cut off without a word
    ]
    file = coco(tmp_path / "a.json", [(1, "a.png"), (2, "gone.png"), (3, "gone too.png")], notes)
    samples, _ = box_source(file)
    assert samples.items[0].y == {"boxes": [(90, 70, 100, 80), (95.5, 1, 100, 6)], "labels": ["cat", "cat"]}
    assert samples.notes == (
        "a.json: 1 boxes belong to no picture of the file",
        "a.json: 2 boxes have no area and are left out",
        "a.json: 1 boxes lie outside and are left out",
        "a.json: 1 boxes reach outside their picture and are cut off",
        "a.json: 1 groups (iscrowd) are left out",
        "a.json: 2 pictures are named and not there, and are left out; the first is 'gone.png'",
    )


def test_a_file_for_training_and_one_for_validation(tmp_path):
    pictures(tmp_path / "train2017", "a.png")
    pictures(tmp_path / "val2017", "b.png")
    coco(tmp_path / "annotations" / "instances_train2017.json", [(1, "a.png")], [note(1, 1, 1, 1, 5, 5)])
    valid = coco(tmp_path / "annotations" / "instances_val2017.json", [(1, "b.png")], [note(1, 7, 1, 1, 5, 5)])
    samples, vocab = box_source(tmp_path)
    split = samples.splitter(samples.items)
    assert (split.train.tolist(), split.valid.tolist(), vocab) == ([0], [1], ("cat", "dog"))
    assert samples.notes == ("the validation split is instances_val2017.json",)
    coco(valid, [(1, "b.png")], [], categories=[(1, "cow")])
    with pytest.raises(DataError, match="category 'cow', which instances_train2017"):
        box_source(tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"images": [', r"a\.json cannot be read as JSON"),
        ("[]", "is no COCO file: it needs the lists"),
        ('{"images": 1, "annotations": [], "categories": []}', "'images' is no list"),
        ('{"images": [1], "annotations": [], "categories": []}', r"images\[0\] is no record"),
        (
            '{"images": [{"id": 1, "file_name": "x.png"}], "annotations": [], "categories": []}',
            "none of its 1 pictures",
        ),
        (ONE.format(1, [1, 2, 3]), r"annotation 3 has the box \[1, 2, 3\], which is not four numbers"),
        (ONE.format(4, [1, 2, 3, 4]), "annotation 3 has the category 4, which is none"),
    ],
)
def test_a_damaged_coco_file_is_named_with_what_is_wrong(tmp_path, content, reason):
    (tmp_path / "a.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=reason) as found:
        box_source(tmp_path / "a.json")
    assert "a.json" in str(found.value)


def test_voc_counts_from_one(tmp_path):
    pictures(tmp_path / "JPEGImages", "a.png", "b.png")
    (tmp_path / "Annotations").mkdir()
    for name, objects in (("a", THING.format("cat", 1, 1, 50, 40)), ("b", ""), ("c", THING.format("dog", 1, 1, 5, 4))):
        text = VOC.format(name=f"{name}.png", objects=objects)
        (tmp_path / "Annotations" / f"{name}.xml").write_text(text, encoding="utf-8")
    samples, vocab = box_source(tmp_path)
    assert vocab is None
    assert [item.y for item in samples.items] == [
        {"boxes": [(0, 0, 50, 40)], "labels": ["cat"]},
        {"boxes": [], "labels": []},
    ]
    assert samples.notes == (
        f"{tmp_path.name}: 1 pictures are named and not there, and are left out; the first is 'c.png'",
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<annotation><object>", "cannot be read as XML"),
        (VOC.format(name="a.png", objects=THING.format("cat", 1, 1, 5, "x")), "which is not four numbers"),
        (VOC.format(name="a.png", objects=THING.format("", 1, 1, 5, 5)), "an object has no name"),
    ],
)
def test_a_damaged_voc_file_is_named(tmp_path, text, reason):
    pictures(tmp_path, "a.png")
    (tmp_path / "a.xml").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=reason) as found:
        box_source(tmp_path)
    assert str(tmp_path / "a.xml") in str(found.value)


def test_where_nothing_is_annotated_the_forms_are_said(tmp_path):
    pictures(tmp_path, "a.png")
    with pytest.raises(DataError, match="neither a COCO file"):
        box_source(tmp_path)


def test_of_two_unclear_files_neither_is_taken(tmp_path):
    for name in ("one.json", "two.json"):
        coco(tmp_path / name, [], [])
    with pytest.raises(OptionError, match=r"There are one\.json, two\.json; name the file itself"):
        box_source(tmp_path)
