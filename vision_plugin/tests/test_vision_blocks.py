"""The three blocks of pictures: what they accept, invent, batch and show."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from matplotlib.figure import Figure
from PIL import Image

from graftwork.api import Block, BlockError, ItemError, OptionError
from graftwork_vision import ImageBlock, ImageTensorBlock, PictureBlock
from graftwork_vision.blocks import to_picture

SIZED = (20, 30)
BLOCKS = [
    ImageBlock(),
    ImageBlock(channels=1, size=SIZED, shrink_to=16),
    PictureBlock(),
    PictureBlock(channels=1, size=SIZED),
    ImageTensorBlock(),
    ImageTensorBlock(channels=1, size=SIZED, scale="unit"),
    ImageTensorBlock(channels=3, size=SIZED, scale="standard"),
    ImageTensorBlock(channels=5, size=SIZED),
]


@pytest.mark.parametrize("block", BLOCKS, ids=repr)
@pytest.mark.parametrize("seed", range(5))
def test_an_invented_value_passes_the_check(block: Block, seed):
    assert block.check(block.mock(np.random.default_rng(seed))) is None


@pytest.mark.parametrize("block", BLOCKS, ids=repr)
def test_the_same_seed_invents_the_same(block: Block):
    first, second = (np.asarray(block.mock(np.random.default_rng(3))) for _ in range(2))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("block", BLOCKS, ids=repr)
def test_config_goes_through_json(block: Block):
    import json

    assert type(block).from_config(json.loads(json.dumps(block.to_config()))) == block


@pytest.mark.parametrize("block", BLOCKS, ids=repr)
def test_a_value_can_be_drawn(block: Block):
    ax = Figure().add_subplot()
    block.show(block.mock(np.random.default_rng(0)), ax)
    assert len(ax.images) == 1


@pytest.mark.parametrize("block", [b for b in BLOCKS if not isinstance(b, ImageBlock) and b.size], ids=repr)
def test_uncollate_undoes_collate(block: Block):
    values = [block.mock(np.random.default_rng(seed)) for seed in range(3)]
    column = block.collate(values)
    assert column.shape[0] == 3
    assert tuple(column.shape[2:]) == SIZED
    for before, after in zip(values, block.uncollate(column), strict=True):
        assert np.array_equal(np.asarray(before), np.asarray(after))


def test_a_batch_lies_channels_last_in_memory():
    block = ImageTensorBlock(size=SIZED)
    column = block.collate([block.mock(np.random.default_rng(0))] * 2)
    assert column.is_contiguous(memory_format=torch.channels_last)


def test_sizes_that_differ_are_both_named():
    block = PictureBlock()
    with pytest.raises(BlockError, match=r"20x30 .* and of 10x12 .*Resize\(128\)"):
        block.collate([Image.new("RGB", (30, 20)), Image.new("RGB", (12, 10))])


def test_a_name_has_no_tensor_form():
    with pytest.raises(BlockError, match="open them first"):
        ImageBlock().collate(["a.png"])
    with pytest.raises(BlockError, match="no tensor form"):
        ImageBlock().uncollate(torch.zeros(1))


class TestImageCheck:
    """A picture's name is looked at from outside; the file is not read."""

    def test_good_values(self, tmp_path, photo):
        photo().save(tmp_path / "a b ü.PNG")
        for value in (tmp_path / "a b ü.PNG", str(tmp_path / "a b ü.PNG"), b"x", photo(), np.zeros((2, 2), np.uint8)):
            assert ImageBlock().check(value) is None

    def test_a_file_is_not_decoded(self, tmp_path):
        (tmp_path / "broken.png").write_bytes(b"no picture")
        assert ImageBlock().check(tmp_path / "broken.png") is None

    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            (None, "not NoneType"),
            (3, "not int"),
            (b"", "0 bytes"),
            ("nowhere.png", "no such file: nowhere.png"),
            (np.zeros((2, 2)), "uint8"),
            (torch.zeros(3, 4, 4), "not Tensor"),
        ],
    )
    def test_bad_values(self, value, reason):
        assert reason in (ImageBlock().check(value) or "")

    def test_a_folder_and_another_kind_of_file(self, tmp_path):
        (tmp_path / "notes.txt").touch()
        assert "not a file" in (ImageBlock().check(tmp_path) or "")
        assert "'notes.txt' does not end like a picture" in (ImageBlock().check(tmp_path / "notes.txt") or "")


class TestPictureCheck:
    """An opened picture has one mode, and a size if the block states one."""

    @pytest.mark.parametrize(
        ("block", "value", "reason"),
        [
            (PictureBlock(), np.zeros((2, 2), np.uint8), "not ndarray"),
            (PictureBlock(), Image.new("L", (2, 2)), "mode RGB expected, not L"),
            (PictureBlock(channels=1), Image.new("RGB", (2, 2)), "mode L expected, not RGB"),
            (PictureBlock(size=(4, 6)), Image.new("RGB", (4, 6)), "4x6 (height x width) expected, not 6x4"),
        ],
    )
    def test_bad_values(self, block, value, reason):
        assert reason in (block.check(value) or "")


class TestTensorCheck:
    """Pixels have a type, a shape and a range."""

    @pytest.mark.parametrize(
        ("block", "value", "reason"),
        [
            (ImageTensorBlock(), "x", "not str"),
            (ImageTensorBlock(), torch.zeros(3, 2, 2), "torch.uint8 expected, not torch.float32"),
            (ImageTensorBlock(), torch.zeros(1, 2, 2, dtype=torch.uint8), "(3, H, W) is expected, not (1, 2, 2)"),
            (ImageTensorBlock(size=(2, 3)), torch.zeros(3, 3, 2, dtype=torch.uint8), "2x3"),
            (ImageTensorBlock(scale="unit"), torch.full((3, 2, 2), 1.5), "between 0 and 1"),
            (ImageTensorBlock(scale="standard"), torch.zeros(3, 2, 2, dtype=torch.uint8), "torch.float32 expected"),
        ],
    )
    def test_bad_values(self, block, value, reason):
        assert reason in (block.check(value) or "")


@pytest.mark.parametrize(
    "make",
    [
        lambda: ImageBlock(channels=0),
        lambda: PictureBlock(channels=4),
        lambda: ImageTensorBlock(channels=0),
        lambda: ImageBlock(size=(0, 3)),
        lambda: PictureBlock(size=(3,)),
        lambda: ImageTensorBlock(scale="bits"),
        lambda: ImageBlock(shrink_to=0),
    ],
)
def test_impossible_blocks_are_refused(make):
    with pytest.raises(OptionError, match="vision/"):
        make()


@given(
    hnp.arrays(
        np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3])), elements=st.integers(0, 255)
    )
)
def test_pixels_and_pictures_are_the_same_thing(array):
    pixels = torch.from_numpy(array).permute(2, 0, 1)
    picture = to_picture(pixels)
    assert np.array_equal(np.asarray(picture).reshape(array.shape), array)


def test_showing_a_name_opens_it(photo):
    buffer = BytesIO()
    photo().save(buffer, "PNG")
    ax = Figure().add_subplot()
    ImageBlock().show(buffer.getvalue(), ax)
    assert np.array_equal(ax.images[0].get_array(), np.asarray(photo()))


def test_showing_unit_pixels_gives_bytes_back():
    ax = Figure().add_subplot()
    ImageTensorBlock(scale="unit").show(torch.full((3, 2, 2), 0.2), ax)
    assert (np.asarray(ax.images[0].get_array()) == 51).all()


def test_opening_states_the_size_a_picture_should_have(photo):
    block = ImageBlock(size=(24, 32))
    (decode,) = block.steps().opening
    assert decode.bind(block).encode(photo(24, 32), None).size == (32, 24)
    with pytest.raises(ItemError, match=r"24x32 .* expected, not 24x33 .*Resize"):
        decode.bind(block).encode(photo(24, 33), None)
