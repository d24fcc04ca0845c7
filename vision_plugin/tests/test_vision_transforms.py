"""Transforms of pictures: blocks in and out, values, inverses, randomness."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from graftwork.api import DataError, OptionError, Plan, PlanError, Transform, UnknownName
from graftwork_vision import (
    DecodeImage,
    Flip,
    ImageBlock,
    ImageTensorBlock,
    Normalize,
    PictureBlock,
    RandomResizedCrop,
    Resize,
    ToFloat,
    ToTensor,
    imagenet_stats,
)

TRANSFORMS = [
    (DecodeImage(), ImageBlock(channels=1)),
    (Resize(12), PictureBlock()),
    (Resize((10, 14), method="pad"), PictureBlock(channels=1)),
    (Resize((10, 14), method="squish"), PictureBlock()),
    (RandomResizedCrop(16), PictureBlock()),
    (ToTensor(), PictureBlock(size=(9, 7))),
    (ToFloat(), ImageTensorBlock()),
    (Normalize.from_stats(*imagenet_stats), ImageTensorBlock(scale="unit")),
]
IDS = [repr(t) for t, _ in TRANSFORMS]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def drawn(transform: Transform, seed: int, batch: torch.Tensor | None = None):
    generator = rng(seed) if transform.stage == "item" else torch.Generator().manual_seed(seed)
    return transform.draw(generator, {} if batch is None else {"x": batch})


@pytest.mark.parametrize(("transform", "block"), TRANSFORMS, ids=IDS)
class TestEvery:
    """What holds of every transform."""

    def test_accepts_its_block_and_no_label(self, transform, block):
        from graftwork.api import CategoryBlock

        assert transform.accepts(block)
        assert not transform.accepts(CategoryBlock())

    def test_gives_what_its_out_block_says(self, transform, block):
        after = transform.out_block(block)
        value = block.mock(rng())
        if transform.stage == "batch":
            (value,) = after.uncollate(transform.bind(block).encode(block.collate([value]), None))
            assert after.check(value) is None
        else:
            assert after.check(transform.bind(block).encode(value, None)) is None

    def test_config_goes_through_json(self, transform, block):
        assert type(transform).from_config(json.loads(json.dumps(transform.to_config()))) == transform

    def test_leaves_its_input_alone(self, transform, block):
        value = block.mock(rng())
        if transform.stage == "batch":
            value = block.collate([value])
        before = np.asarray(value).copy()
        transform.bind(block).encode(value, drawn(transform, 1, value) if transform.random else None)
        assert np.array_equal(np.asarray(value), before)

    def test_is_the_same_for_the_same_draw(self, transform, block):
        value = block.mock(rng())
        if transform.stage == "batch":
            value = block.collate([value])
        encode = transform.bind(block).encode
        first, second = (np.asarray(encode(value, drawn(transform, 5, value))) for _ in range(2))
        assert np.array_equal(first, second)

    def test_cannot_be_changed(self, transform, block):
        with pytest.raises(FrozenInstanceError):
            transform.size = 3


@pytest.mark.parametrize("channels", [1, 3])
def test_to_tensor_is_inverted_exactly(channels):
    block = PictureBlock(channels=channels, size=(5, 8))
    picture = block.mock(rng())
    bound = ToTensor().bind(block)
    assert bound.encode(picture, None).shape == (channels, 5, 8)
    assert bound.decode is not None
    assert np.array_equal(np.asarray(bound.decode(bound.encode(picture, None))), np.asarray(picture))


def test_all_bytes_survive_floats():
    x = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    bound = ToFloat().bind(ImageTensorBlock(channels=1))
    floats = bound.encode(x, None)
    assert floats.dtype == torch.float32
    assert (floats.min(), floats.max()) == (0, 1)
    assert bound.decode is not None
    assert torch.equal(bound.decode(floats), x)


class TestNormalize:
    """Statistics given or fitted, and back again."""

    @given(st.lists(st.tuples(st.floats(-2, 2), st.floats(0.01, 5)), min_size=1, max_size=4), st.integers(0, 9))
    def test_is_inverted_within_rounding(self, stats, seed):
        mean, std = zip(*stats, strict=True)
        block = ImageTensorBlock(channels=len(stats), size=(4, 4), scale="unit")
        x = block.collate([block.mock(rng(seed))])
        bound = Normalize.from_stats(mean, std).bind(block)
        assert bound.decode is not None
        assert torch.allclose(bound.decode(bound.encode(x, None)), x, atol=1e-5)

    def test_bytes_survive_the_whole_way(self):
        block = ImageTensorBlock(size=(8, 8))
        x = block.collate([block.mock(rng(s)) for s in range(4)])
        there = ToFloat().bind(block)
        normal = Normalize.from_stats(*imagenet_stats).bind(ToFloat().out_block(block))
        assert there.decode is not None
        assert normal.decode is not None
        assert torch.equal(there.decode(normal.decode(normal.encode(there.encode(x, None), None))), x)

    @given(st.lists(st.integers(1, 7), min_size=1, max_size=5), st.floats(0.001, 1.0))
    def test_fits_in_a_stream_as_over_the_whole(self, sizes, spread):
        batches = [
            torch.rand(n, 2, 3, 4, generator=torch.Generator().manual_seed(i)) * spread for i, n in enumerate(sizes)
        ]
        block = ImageTensorBlock(channels=2, scale="unit")
        fitted = Normalize().fit(iter(batches), block)
        whole = torch.cat(batches).double()
        assert fitted.mean == pytest.approx(whole.mean((0, 2, 3)).tolist(), rel=1e-12)
        assert fitted.std == pytest.approx(whole.std((0, 2, 3), correction=0).tolist(), rel=1e-9)
        assert not fitted.needs_fit
        assert Normalize().needs_fit

    def test_is_exact_far_from_zero(self):
        """Sums of squares in float32 would lose everything here."""
        x = torch.rand(8, 1, 50, 50, generator=torch.Generator().manual_seed(0)) * 1e-3 + 1000
        fitted = Normalize().fit([x[:3], x[3:]], ImageTensorBlock(channels=1, scale="unit"))
        assert fitted.std == pytest.approx((float(x.double().std(correction=0)),), rel=1e-9)

    def test_a_channel_that_never_changes_keeps_its_scale(self):
        fitted = Normalize().fit([torch.full((2, 1, 3, 3), 0.5)], ImageTensorBlock(channels=1, scale="unit"))
        assert fitted == Normalize((0.5,), (1.0,))

    def test_nothing_to_fit_on(self):
        with pytest.raises(DataError, match="no picture to take statistics of"):
            Normalize().fit([], ImageTensorBlock(scale="unit"))

    def test_other_channels_are_refused_when_the_plan_is_made(self):
        with pytest.raises(PlanError, match=r"statistics of 3 channel.*pictures have 1"):
            Normalize.from_stats(*imagenet_stats).out_block(ImageTensorBlock(channels=1, scale="unit"))

    @pytest.mark.parametrize("stats", [((0.5,), None), ((0.5,), (0.0,)), ((0.5, 0.5), (1.0,))])
    def test_impossible_statistics(self, stats):
        with pytest.raises(OptionError, match="vision/normalize"):
            Normalize(*stats)


def ramp(height: int, width: int) -> Image.Image:
    """A picture whose pixel tells its column."""
    return Image.fromarray(np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1)))


def columns(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)[0]


GREY = PictureBlock(channels=1)
SIDES = st.integers(1, 60)


class TestResize:
    """fastai's three methods."""

    @given(SIDES, SIDES, SIDES, SIDES, st.sampled_from(["crop", "pad", "squish"]), st.booleans(), st.integers(0, 99))
    @example(1, 60, 60, 1, "crop", True, 0)
    @example(60, 1, 7, 7, "pad", True, 0)
    def test_any_picture_gets_any_size(self, height, width, to_height, to_width, method, train, seed):
        transform = Resize((to_height, to_width), method=method)
        picture = transform.bind(GREY).encode(ramp(height, width), transform.draw(rng(seed), {}) if train else None)
        assert transform.out_block(GREY).check(picture) is None

    def test_crop_takes_the_centre_outside_training(self):
        picture = Resize(20).bind(GREY).encode(ramp(20, 60), None)
        assert np.array_equal(columns(picture), columns(ramp(20, 60))[20:40])

    def test_crop_takes_a_random_part_in_training(self):
        transform = Resize(20)
        lefts = {
            int(np.argmin(np.abs(columns(ramp(20, 60)) - columns(transform.bind(GREY).encode(ramp(20, 60), d))[0])))
            for d in (transform.draw(rng(s), {}) for s in range(200))
        }
        assert min(lefts) <= 2
        assert max(lefts) >= 38

    def test_crop_at_the_corners(self):
        encode = Resize(20).bind(GREY).encode
        assert np.array_equal(columns(encode(ramp(20, 60), (0.0, 0.0))), columns(ramp(20, 60))[:20])
        assert np.array_equal(columns(encode(ramp(20, 60), (1.0, 1.0))), columns(ramp(20, 60))[40:])

    def test_crop_keeps_the_shape_of_things(self):
        """A wide picture loses its sides, not its proportions: 40x120 to 20 shows the middle 40 columns."""
        picture = columns(Resize(20).bind(GREY).encode(ramp(40, 120), None))
        whole = columns(ramp(40, 120))
        assert picture[0] == pytest.approx(whole[40:42].mean(), abs=2)
        assert picture[-1] == pytest.approx(whole[78:80].mean(), abs=2)

    def test_squish_shows_everything(self):
        picture = columns(Resize(20, method="squish").bind(GREY).encode(ramp(20, 60), None))
        assert picture[0] < 6
        assert picture[-1] > 245

    def test_pad_shows_everything_in_the_middle(self):
        white = Image.new("L", (60, 20), 255)
        pixels = np.asarray(Resize(60, method="pad", pad_mode="zeros").bind(GREY).encode(white, None))
        assert (pixels[20:40] == 255).all()
        assert (pixels[:20] == 0).all()
        assert (pixels[40:] == 0).all()

    @pytest.mark.parametrize(
        ("mode", "left"), [("reflection", [40, 30, 20, 10]), ("border", [0] * 4), ("zeros", [0] * 4)]
    )
    def test_pad_modes(self, mode, left):
        start = 0 if mode != "zeros" else 7
        tall = Image.fromarray(np.tile(np.arange(start, start + 50, 10, dtype=np.uint8), (15, 1)))  # 15 x 5
        pixels = np.asarray(Resize(15, method="pad", pad_mode=mode).bind(GREY).encode(tall, None))
        assert pixels[0, 5:10].tolist() == [start + n for n in (0, 10, 20, 30, 40)]
        assert pixels[0, 1:5].tolist() == left

    def test_shrinking_averages_all_pixels(self):
        """Without antialiasing a chess board of single pixels turns black, white, or moiré."""
        board = Image.fromarray((np.indices((96, 96)).sum(0) % 2 * 255).astype(np.uint8))
        pixels = np.asarray(Resize(12).bind(GREY).encode(board, None)).astype(int)
        assert np.abs(pixels - 127).max() <= 3

    def test_a_picture_of_the_size_is_left_as_it_is(self):
        picture = ramp(20, 20)
        assert Resize(20).bind(GREY).encode(picture, (0.3, 0.7)) is picture

    def test_one_number_means_a_square(self):
        assert Resize(20) == Resize((20, 20))
        assert Resize(20).size == (20, 20)

    @pytest.mark.parametrize("size", [0, -3, (3, 0), (1, 2, 3), "20", None, 1.5])
    def test_impossible_sizes(self, size):
        with pytest.raises(OptionError, match="vision/resize"):
            Resize(size)

    def test_unknown_names(self):
        with pytest.raises(UnknownName, match="'crop'"):
            Resize(8, method="corp")
        with pytest.raises(UnknownName, match="'reflection'"):
            Resize(8, pad_mode="reflect")


class TestRandomResizedCrop:
    """fastai's (and Inception's) crop."""

    @given(SIDES, SIDES, SIDES, st.booleans(), st.integers(0, 999))
    def test_any_picture_gets_any_size(self, height, width, to, train, seed):
        transform = RandomResizedCrop(to)
        picture = transform.bind(GREY).encode(ramp(height, width), transform.draw(rng(seed), {}) if train else None)
        assert transform.out_block(GREY).check(picture) is None

    @given(st.integers(20, 200), st.integers(20, 200), st.integers(0, 999))
    def test_a_part_has_an_allowed_area_and_shape(self, height, width, seed):
        transform = RandomResizedCrop(8, min_scale=0.2, max_scale=0.7)
        left, top, right, bottom = transform.box((height, width), transform.draw(rng(seed), {}))
        wide, tall = right - left, bottom - top
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        if 0.75 <= width / height <= 4 / 3:
            assert 0.2 * 0.85 <= wide * tall / (height * width) <= 0.7 * 1.15
            assert 0.75 * 0.85 <= wide / tall <= 4 / 3 * 1.15

    @pytest.mark.parametrize(
        ("size", "box"), [((10, 100), (43, 0, 56, 10)), ((100, 10), (0, 43, 10, 56)), ((30, 30), (0, 0, 30, 30))]
    )
    def test_after_ten_misses_the_largest_centred_part_is_taken(self, size, box):
        """Draws that ask for the whole area of an impossible shape miss every time."""
        transform = RandomResizedCrop(8, min_scale=1.0)
        draws = np.tile([1.0, 1.0 if size[0] >= size[1] else 0.0, 0.5, 0.5], (10, 1))
        if size == (30, 30):
            draws[:, 1] = 1.0
        assert transform.box(size, draws) == box

    def test_draws_cover_the_picture(self):
        transform = RandomResizedCrop(8)
        boxes = np.array([transform.box((100, 100), transform.draw(rng(s), {})) for s in range(400)])
        assert boxes[:, :2].min() == 0
        assert boxes[:, 2:].max() == 100
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / 1e4
        assert areas.min() < 0.15
        assert areas.max() > 0.85

    def test_outside_training_it_is_squished_and_the_middle_taken(self):
        """128: the picture becomes 128 + ceil(128 * 0.14 / 8) * 8 = 152 a side, and 12 pixels go on each side."""
        assert math.ceil(128 * 0.14 / 8) * 8 == 24
        picture = RandomResizedCrop(128).bind(GREY).encode(ramp(60, 304), None)
        squished = ramp(60, 304).resize((152, 152), Image.Resampling.BILINEAR)
        assert np.array_equal(np.asarray(picture), np.asarray(squished)[12:140, 12:140])

    @pytest.mark.parametrize(
        "options", [{"min_scale": 0.0}, {"max_scale": 1.1}, {"min_scale": 0.9, "max_scale": 0.5}, {"ratio": (2.0, 1.0)}]
    )
    def test_impossible_ranges(self, options):
        with pytest.raises(OptionError, match="vision/random-resized-crop"):
            RandomResizedCrop(8, **options)


class TestPlan:
    """The steps together, as the core binds them."""

    def make(self, *item_tfms, channels=3, batch_tfms=(), train=lambda _: ()):
        return Plan.compile(
            {"x": ImageBlock(channels=channels)},
            inputs=["x"],
            targets=[],
            item_tfms=item_tfms,
            batch_tfms=batch_tfms,
            train=train,
        )

    def test_the_blocks_follow_from_each_other(self, photo):
        plan = self.make(Resize(16), batch_tfms=[Flip(), Normalize.from_stats(*imagenet_stats)])
        field = plan.fields["x"]
        assert field.item == ImageTensorBlock(3, (16, 16), "bytes")
        assert field.final == ImageTensorBlock(3, (16, 16), "standard")
        fields = plan.encode_batch(plan.collate([plan.encode({"x": photo()}), plan.encode({"x": photo(seed=2)})]))
        assert field.final.check(fields["x"][0].contiguous()) is None

    def test_two_fields_are_cropped_alike(self, photo):
        plan = Plan.compile(
            {"left": ImageBlock(), "right": ImageBlock()},
            inputs=["left", "right"],
            targets=[],
            item_tfms=[Resize(8)],
            train=lambda _: (),
        )
        sample = plan.encode({"left": photo(16, 40), "right": photo(16, 40)}, rng(4))
        assert torch.equal(sample["left"], sample["right"])
        other = plan.encode({"left": photo(16, 40), "right": photo(16, 40)}, rng(5))
        assert not torch.equal(sample["left"], other["left"])

    def test_statistics_are_fitted_on_what_is_given(self, photo):
        pictures = [photo(12, 12, seed=s) for s in range(70)]
        plan = self.make(batch_tfms=[Normalize()], train=lambda _: pictures)
        fields = plan.encode_batch(plan.collate([plan.encode({"x": p}) for p in pictures]))
        assert fields["x"].mean((0, 2, 3)).abs().max() < 1e-5
        assert (fields["x"].std((0, 2, 3), correction=0) - 1).abs().max() < 1e-4

    def test_it_is_rebuilt_from_json(self, photo):
        from graftwork.api import get_host

        plan = self.make(Resize(16, method="pad"), batch_tfms=[Flip(), Normalize.from_stats(*imagenet_stats)])
        again = Plan.from_config(
            json.loads(json.dumps(plan.to_config())), block=get_host().blocks.get, transform=get_host().transforms.get
        )
        assert again.explain() == plan.explain()
        assert torch.equal(again.encode({"x": photo()})["x"], plan.encode({"x": photo()})["x"])

    def test_a_batch_goes_back_to_pictures(self, photo):
        plan = self.make(Resize(16), batch_tfms=[Normalize.from_stats(*imagenet_stats)])
        encoded = plan.encode({"x": photo()})
        fields = plan.encode_batch(plan.collate([encoded]))
        (picture,), block = plan.decode_batch("x", fields["x"])
        assert block == PictureBlock(3, (16, 16))
        assert np.array_equal(np.asarray(picture), encoded["x"].permute(1, 2, 0).numpy())

    def test_resizing_tensors_is_refused(self):
        with pytest.raises(PlanError, match="item_tfms"):
            self.make(batch_tfms=[Resize(16)])


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_a_seed_decides_everything(seed):
    for transform in (Resize(8), RandomResizedCrop(8)):
        first, second = (transform.draw(rng(seed), {}) for _ in range(2))
        assert np.array_equal(np.asarray(first), np.asarray(second))


def test_a_part_of_the_right_size_is_cut_out_and_not_interpolated(photo):
    pixels = np.asarray(photo(24, 40))
    bound = Resize(24).bind(PictureBlock(3)).encode
    for share in (0.0, 0.31, 0.5, 1.0):
        left = round(share * 16)
        assert np.array_equal(np.asarray(bound(photo(24, 40), (0.7, share))), pixels[:, left : left + 24])
