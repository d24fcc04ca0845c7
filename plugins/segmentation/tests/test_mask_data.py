"""Where pairs of pictures and masks come from, and what is said of those that are none."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from graftwork.api import DataError, OptionError, UnknownName
from graftwork_segmentation import MaskPath, SegmentationDataLoaders, folder_source, get_mask
from graftwork_segmentation.blocks import VOID
from graftwork_segmentation.sources import resolve_source
from graftwork_vision import Resize, get_image_files

CODES = ("background", "square", "disc")


def test_a_folder_gives_pairs_and_batches_of_both(source: Path) -> None:
    data = SegmentationDataLoaders.from_folder(source, size=(24, 40), bs=4, workers=0)
    batch = data.one_batch()
    assert batch.x.shape == (4, 3, 24, 40)
    assert batch.y.shape == (4, 24, 40)
    assert batch.y.dtype == torch.int64
    assert data.plan.target.codes == CODES
    assert (data.train.num_items, data.valid.num_items) == (10, 2)
    assert resolve_source(source) == "segmentation/folder"
    assert resolve_source(source / "images") is None


def test_lists_of_names_are_the_split(source: Path) -> None:
    (source / "train.txt").write_text("00\n01.png\n02\n77\n")
    (source / "valid.txt").write_text("03\n04\n")
    data = SegmentationDataLoaders.from_folder(source, workers=0)
    assert {Path(str(data.train.item(i))).stem for i in range(3)} == {"00", "01", "02"}
    assert data.valid.num_items == 2
    said = " ".join(data.notes)
    assert "1 line(s) of train.txt fit no pair, such as '77'" in said
    assert "7 pair(s) are on neither list" in said
    (source / "train.txt").unlink()
    assert SegmentationDataLoaders.from_folder(source, workers=0).train.num_items == 10
    (source / "valid.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"valid\.txt"):
        SegmentationDataLoaders.from_folder(source, workers=0)


def test_pictures_and_masks_without_the_other_are_left_out_and_counted(source: Path) -> None:
    (source / "labels" / "03.png").unlink()
    shutil.copy(source / "labels" / "04.png", source / "labels" / "lone.png")
    found = folder_source(source)
    assert len(found.items) == 11
    said = " ".join(found.notes)
    assert "1 picture(s) without a mask are left out, such as" in said
    assert "03.png" in said
    assert "1 mask(s) without a picture are left out, such as" in said
    assert "lone.png" in said


def test_a_picture_and_a_mask_of_different_sizes_are_named_and_left_out(source: Path) -> None:
    Image.fromarray(np.zeros((32, 30), dtype=np.uint8)).save(source / "labels" / "05.png")
    data = SegmentationDataLoaders.from_folder(source, size=16, workers=0)
    assert sum(batch.size for loader in (data.train, data.valid) for batch in loader.in_order()) == 11
    data = SegmentationDataLoaders.from_folder(source, workers=0)
    (reason,) = data.bad_items
    assert "05.png has 32x32 pixels" in reason
    assert "30x32" in reason


def test_a_picture_turned_by_exif_fits_a_mask_that_is_upright(source: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(source / "images" / "turned.jpg", exif=exif)
    Image.fromarray(np.zeros((20, 10), dtype=np.uint8)).save(source / "labels" / "turned.png")
    pair = next(pair for pair in folder_source(source).items if str(pair).endswith("turned.jpg"))
    assert get_mask(pair) == source / "labels" / "turned.png"


def test_masks_beyond_the_codes_are_left_out_if_few_and_refused_if_many(source: Path) -> None:
    wrong = np.full((32, 32), 9, dtype=np.uint8)
    Image.fromarray(wrong).save(source / "labels" / "00.png")
    data = SegmentationDataLoaders.from_folder(source, workers=0)
    (reason,) = data.bad_items
    assert "00.png: the mask has the value 9" in reason
    (source / "codes.txt").write_text("background\nsquare\n")
    with pytest.raises(DataError, match=r"12 of 12 masks looked at cannot be used; the first one: .*00\.png.* value 9"):
        folder_source(source)


def test_empty_masks_are_allowed(source: Path) -> None:
    Image.fromarray(np.zeros((32, 32), dtype=np.uint8)).save(source / "labels" / "00.png")
    data = SegmentationDataLoaders.from_folder(source, ignore="background", workers=0)
    every = [mask for loader in (data.train, data.valid) for batch in loader.in_order() for mask in batch.y]
    assert any(mask.eq(VOID).all() for mask in every)
    assert not data.bad_items


def test_codes_that_mark_nothing_known_are_found_by_name(source: Path) -> None:
    (source / "codes.txt").write_text("background\nsquare\nVoid\n")
    found = folder_source(source)
    assert found.codes.ignore_index == 2
    assert "pixels of 'Void' count for nothing" in " ".join(found.notes)
    assert folder_source(source, ignore="none").codes.ignore_index is None
    assert folder_source(source, ignore="square").codes.ignore_index == 1
    assert folder_source(source, ignore="255").codes.ignore_index == 255
    with pytest.raises(UnknownName, match="square"):
        folder_source(source, ignore="squares")


def test_without_codes_the_values_of_masks_make_them(source: Path) -> None:
    (source / "codes.txt").unlink()
    found = folder_source(source)
    assert found.codes.names == ("class 0", "class 1", "class 2")
    assert "there is no codes.txt" in " ".join(found.notes)
    assert folder_source(source, codes=CODES).codes.names == CODES
    (source / "codes.txt").write_text("one\none\n")
    with pytest.raises(DataError, match="none twice"):
        folder_source(source)


def test_a_pattern_tells_where_masks_are(source: Path) -> None:
    flat = source.parent / "flat"
    flat.mkdir()
    for file in (source / "images").iterdir():
        shutil.copy(file, flat / file.name)
        shutil.copy(source / "labels" / file.name, flat / f"{file.stem}_mask.png")
    shutil.copy(source / "codes.txt", flat / "codes.txt")
    found = folder_source(flat, label_from="{stem}_mask.png")
    assert len(found.items) == 12
    assert all(pair.mask.name == f"{pair.image.stem}_mask.png" for pair in found.items)
    assert MaskPath(flat, "{parent}/{name}")(flat / "a" / "b.png") == flat / "a" / "b.png"
    with pytest.raises(OptionError, match=r"no {stem}"):
        MaskPath(flat, "mask.png")
    with pytest.raises(UnknownName, match="stem"):
        MaskPath(flat, "{stm}.png")
    with pytest.raises(DataError, match="none of 12 pictures has a mask; the mask of"):
        folder_source(source, label_from="labels/{stem}_P.png")


def test_a_function_or_a_table_tells_too(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = get_image_files(source / "images")
    by_function = SegmentationDataLoaders.from_label_func(
        source, files, lambda image: f"labels/{image.name}", CODES, workers=0
    )
    assert by_function.train.num_items == 10
    monkeypatch.chdir(source.parent)
    relative = get_image_files(Path(source.name) / "images")
    again = SegmentationDataLoaders.from_label_func(
        source.name, relative, lambda image: f"labels/{image.name}", CODES, workers=0
    )
    assert again.one_batch().y.equal(by_function.one_batch().y)
    frame = pd.DataFrame({"image": [f"images/{file.name}" for file in files], "held": [n < 3 for n in range(12)]})
    frame.insert(1, "mask", [f"labels/{file.name}" for file in files])
    by_table = SegmentationDataLoaders.from_df(frame, source, codes=CODES, valid_col="held", workers=0)
    assert by_table.valid.num_items == 3
    assert by_table.one_batch().y.shape == (8, 32, 32)


def test_what_is_no_source_is_refused_with_what_would_be(source: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        folder_source(source / "codes.txt")
    with pytest.raises(DataError, match="--label-from"):
        folder_source(source / "images")
    with pytest.raises(OptionError, match="one of them"):
        SegmentationDataLoaders.from_folder(source, size=16, item_tfms=[Resize(16)])
    with pytest.raises(UnknownName, match="resize"):
        SegmentationDataLoaders.from_folder(source, resise="crop")
