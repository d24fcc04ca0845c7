"""Masks as files hold them: what is read, and what is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from graftwork.api import ItemError, OptionError, Plan
from graftwork_segmentation import MaskBlock, MaskTensorBlock
from graftwork_segmentation.blocks import VOID
from graftwork_segmentation.masks import classes_of, lookup, mask_values
from graftwork_vision import Resize, Warp

VALUES = np.array([[0, 1, 2], [2, 1, 0]], dtype=np.uint8)
THREE = ("sky", "road", "car")


def palette(values: np.ndarray[Any, Any]) -> Image.Image:
    picture = Image.fromarray(values).convert("P")
    picture.putdata(values.flatten().tolist())
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    return picture


@pytest.mark.parametrize(
    "make",
    [
        Image.fromarray,
        palette,
        lambda v: Image.fromarray(v.astype(np.uint16)),
        lambda v: Image.fromarray(v.astype(np.int32)),
        lambda v: Image.fromarray(np.repeat(v[..., None], 3, 2)),
        lambda v: Image.fromarray(
            np.concatenate([np.repeat(v[..., None], 3, 2), np.full((2, 3, 1), 255, np.uint8)], 2)
        ),
    ],
    ids=["grey", "palette", "16 bits", "32 bits", "grey as RGB", "grey as RGBA"],
)
def test_pixel_values_are_what_the_file_stores(make: Callable[[Any], Image.Image], tmp_path: Path) -> None:
    for suffix in ("tif",) if make(VALUES).mode == "I" else ("png", "tif"):
        make(VALUES).save(tmp_path / f"mask.{suffix}")
        values, name = mask_values(tmp_path / f"mask.{suffix}")
        assert values.tolist() == VALUES.tolist()
        assert name.endswith(f"mask.{suffix}")
    assert mask_values((tmp_path / "mask.tif").read_bytes())[0].tolist() == VALUES.tolist()


def test_a_mask_of_one_bit_is_false_and_true(tmp_path: Path) -> None:
    Image.fromarray(VALUES > 0).save(tmp_path / "mask.png")
    assert mask_values(tmp_path / "mask.png")[0].tolist() == (VALUES > 0).astype(int).tolist()


def test_a_mask_in_colours_is_refused_by_name(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 3), dtype=np.uint8)
    pixels[1, 2] = 128, 64, 0
    Image.fromarray(pixels).save(tmp_path / "colours.png")
    with pytest.raises(ItemError, match=r"colours\.png: a mask in colours, such as \(128, 64, 0\) at row 1, column 2"):
        mask_values(tmp_path / "colours.png")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.zeros((2, 2), dtype=np.float32), "integers"),
        (np.zeros((2, 2, 3), dtype=np.uint8), "shape"),
        (np.full((2, 2), -1), "between 0 and 65535"),
        (np.full((2, 2), 70_000), "between 0 and 65535"),
        (Image.fromarray(np.zeros((2, 2), dtype=np.float32)), "mode 'F'"),
        (b"no picture", "cannot be read as a mask"),
        ("absent.png", "no such file"),
        (3, "not int"),
    ],
)
def test_what_is_no_mask_is_refused(value: Any, reason: str) -> None:
    with pytest.raises(ItemError, match=reason):
        mask_values(value)


def test_a_value_beyond_the_codes_is_named_with_its_file_and_place(tmp_path: Path) -> None:
    values = VALUES.copy()
    values[1, 2] = 7
    Image.fromarray(values).save(tmp_path / "wrong.png")
    plan = Plan.compile({"y": MaskBlock(THREE)}, inputs=(), targets=("y",), train=lambda _: [])
    with pytest.raises(
        ItemError, match=r"wrong\.png: the mask has the value 7 at row 1, column 2 .*0 to 2.*ignore_index"
    ):
        plan.encode({"y": tmp_path / "wrong.png"})


@settings(deadline=None, max_examples=40)
@given(st.sampled_from([2, 3, 255, 256, 400]), st.integers(0, 60_000), st.integers(0, 2**32 - 1))
def test_encoding_looks_values_up_and_decoding_leads_back(count: int, first: int, seed: int) -> None:
    codes, rng = tuple(map(str, range(count))), np.random.default_rng(seed)
    values = tuple((first + rng.permutation(count)).tolist()) if seed % 2 else None
    block = MaskBlock(codes, values=values)
    plan = Plan.compile({"y": block}, inputs=(), targets=("y",), train=lambda _: [])
    classes = rng.integers(0, count, (2, 3))
    pixels = np.array(block.pixel_values)[classes]
    encoded = plan.encode({"y": pixels})["y"]
    assert encoded.tolist() == classes.tolist()
    shifted, _ = plan.decode("y", encoded)
    assert (np.asarray(shifted) - 1).tolist() == classes.tolist()


def test_what_is_to_be_ignored_becomes_void_a_code_or_not() -> None:
    plan = Plan.compile({"y": MaskBlock(THREE, 2)}, inputs=(), targets=("y",), train=lambda _: [])
    assert plan.encode({"y": VALUES})["y"].tolist() == [[0, 1, VOID], [VOID, 1, 0]]
    assert plan.target == MaskTensorBlock(THREE, 2)
    other = Plan.compile({"y": MaskBlock(THREE, 255)}, inputs=(), targets=("y",), train=lambda _: [])
    assert other.encode({"y": np.array([[255, 2]])})["y"].tolist() == [[VOID, 2]]
    assert other.target == MaskTensorBlock(THREE)


def test_padding_is_void_where_nothing_is_mirrored_into_it() -> None:
    tfms = [Resize((6, 6), method="pad", pad_mode="zeros")]
    plan = Plan.compile({"y": MaskBlock(THREE)}, inputs=(), targets=("y",), item_tfms=tfms, train=lambda _: [])
    encoded = plan.encode({"y": VALUES})["y"]
    assert encoded[0].tolist() == [VOID] * 6
    assert encoded[1:5, ::2].tolist() == np.repeat(VALUES, 2, 0).tolist()


def test_a_mask_follows_the_geometry_and_what_comes_from_outside_is_void() -> None:
    import torch

    block, column = MaskTensorBlock(THREE, size=(2, 3)), torch.from_numpy(VALUES.astype(np.int64))[None]
    mirrored = torch.tensor([[[-1.0, 0, 0], [0, 1, 0], [0, 0, 1]]])
    assert block.warp(column, Warp(matrices=mirrored, before=(2, 3), after=(2, 3))).equal(column.flip(2))
    away = torch.tensor([[[1.0, 0, 2], [0, 1, 0], [0, 0, 1]]])
    moved = block.warp(column, Warp(matrices=away, before=(2, 3), after=(2, 3), pad_mode="zeros"))
    assert moved.unique().tolist() == [VOID]
    assert block.sized((5, 5)).size == (5, 5)


def test_codes_and_values_that_cannot_be_are_refused() -> None:
    with pytest.raises(OptionError, match="at least two"):
        MaskBlock(("only",))
    with pytest.raises(OptionError, match="twice"):
        MaskBlock(("a", "a"))
    with pytest.raises(OptionError, match="as many different values"):
        MaskBlock(("a", "b"), values=(1, 1))
    with pytest.raises(OptionError, match="between 0 and 65535"):
        MaskBlock(("a", "b"), 70_000)


def test_the_void_class_is_never_predicted() -> None:
    import torch

    block = MaskTensorBlock(THREE, 1)
    raw = torch.zeros(1, 3, 2, 2)
    raw[:, 1] = 9.0
    activated = block.activate(raw)
    assert activated[:, 1].eq(0).all()
    assert block.predict(activated).ne(1).all()
    assert raw[0, 1, 0, 0] == 9.0
    assert sum(block.probabilities(activated[0]).values()) == pytest.approx(1)


def test_a_table_of_16_bits_holds_every_code() -> None:
    codes = tuple(map(str, range(1000)))
    picture = classes_of(np.array([[999, 0]], dtype=np.uint16), lookup(tuple(range(1000)), None), len(codes))
    assert picture.mode == "I"
    assert np.asarray(picture).tolist() == [[1000, 1]]
