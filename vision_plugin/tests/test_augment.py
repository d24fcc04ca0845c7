"""Batched augmentation: one sampling, one pass of light, the same on every path and for all that lies in a picture."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from graftwork.api import Block, OptionError, Plan, Transform, UnknownName
from graftwork_vision import (
    Brightness,
    Contrast,
    Dihedral,
    Flip,
    ImageTensorBlock,
    Normalize,
    Perspective,
    RandAugment,
    RandomResizedCropGPU,
    Rotate,
    SpatialBlock,
    SpatialTransform,
    TrivialAugment,
    Warp,
    Zoom,
    aug_transforms,
    geometry,
    imagenet_stats,
    warp_labels,
    warp_points,
)
from graftwork_vision.geometry import PAD_MODES, SAMPLE_MODES, Size, shrink_factor, warp_pixels
from graftwork_vision.kernels import Augmenter
from graftwork_vision.lighting import light
from graftwork_vision.spatial import Drawn, composed

UNIT = ImageTensorBlock(3, None, "unit")
NORMALIZE = Normalize.from_stats(*imagenet_stats)
EACH: list[SpatialTransform] = [
    Flip(),
    Dihedral(),
    Rotate(),
    Zoom(),
    Perspective(),
    RandomResizedCropGPU(min_scale=0.5),
]


@dataclass(frozen=True)
class Labels(SpatialBlock):
    """Be a mask beside the pictures."""

    id: ClassVar[str] = "test/labels"

    def warp(self, column: Tensor, warp: Warp) -> Tensor:
        return warp_labels(column, warp, outside=255)

    def sized(self, size: tuple[int, int]) -> Self:
        return self

    def check(self, value: Any) -> str | None:
        return None

    def mock(self, rng: np.random.Generator) -> Any:
        raise NotImplementedError

    def collate(self, values: Sequence[Any]) -> Tensor:
        return torch.stack(list(values))

    def uncollate(self, column: Tensor) -> list[Any]:
        return list(column)

    def show(self, value: Any, ax: Any) -> None:
        raise NotImplementedError


@dataclass(frozen=True)
class Points(Labels):
    """Be points in the pictures."""

    id: ClassVar[str] = "test/points"

    def warp(self, column: Tensor, warp: Warp) -> Tensor:
        return warp_points(column, warp)


def generator(seed: int = 0) -> torch.Generator:
    """Return a generator."""
    return torch.Generator().manual_seed(seed)


def plan(tfms: Sequence[Transform], block: Block | None = None, **others: Block) -> Plan:
    """Compile a plan of pictures, and of other fields beside them."""
    blocks = {"x": block or ImageTensorBlock(), **others}
    return Plan.compile(blocks, inputs=tuple(blocks), targets=(), batch_tfms=tfms, train=lambda name: iter(()))


def one_by_one(plan: Plan, column: Tensor, seed: int | None = 0) -> Tensor:
    """Run a plan's steps on pictures as if nothing were fused."""
    rng = None if seed is None else generator(seed)
    for step in plan.batch_steps:
        drawn = step.draw(rng, {"x": column}) if step.draw and rng else None
        column = step.targets[0][1].bound.encode(column, drawn)
    return column


def smooth(batch: int, height: int, width: int) -> Tensor:
    """Return bytes (B, 3, H, W), channels last, that interpolation hardly blurs."""
    y, x = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 3, width), indexing="ij")
    waves = [torch.sin(x + b) * torch.cos(y * (1 + c / 2)) for b in range(batch) for c in range(3)]
    levels = torch.stack(waves).view(batch, 3, height, width) * 100 + 128
    return levels.to(torch.uint8).contiguous(memory_format=torch.channels_last)


def noise(batch: int, height: int, width: int, *, channels: int = 3) -> Tensor:
    """Return noisy bytes (B, C, H, W)."""
    return torch.randint(0, 256, (batch, channels, height, width), dtype=torch.uint8, generator=generator(3))


def matrices(tfm: SpatialTransform, *numbers: float, size: tuple[int, int] = (30, 40)) -> Tensor:
    """Return the matrix of one picture that drew these numbers."""
    found = tfm.matrices(torch.tensor(numbers)[:, None], size)
    assert found is not None
    return found


def apply(matrix: Tensor, x: float, y: float) -> tuple[float, float]:
    """Return where an output position comes from."""
    moved = matrix[0] @ torch.tensor([x, y, 1.0])
    return float(moved[0] / moved[2]), float(moved[1] / moved[2])


def clearly_nearest(grid: Tensor, size: Size) -> Tensor:
    """Say where positions (B, h, w, 2) are not halfway between two pixels, nor too far off to know: (B, 1, h, w)."""
    pixels = (grid + 1) * torch.tensor([size[1], size[0]]) / 2
    away = (pixels - pixels.round()).abs() > 2e-3 * (1 + pixels.abs())
    return (away & (grid.abs() < 500)).all(-1)[:, None]


class TestGeometry:
    """Each transform does what it says."""

    def test_a_flip_mirrors_exactly_the_drawn_ones(self) -> None:
        pixels = torch.rand(64, 3, 2, 5, generator=generator())
        drawn = Flip(0.5).draw(generator(1), {"x": pixels})
        assert drawn.numbers is not None
        mirrored = drawn.numbers[0] < 0.5
        found = Flip(0.5).bind(UNIT).encode(pixels, drawn)
        assert 0 < mirrored.sum() < 64
        assert torch.allclose(found[mirrored], pixels[mirrored].flip(-1), atol=1e-5)
        assert torch.allclose(found[~mirrored], pixels[~mirrored], atol=1e-5)

    def test_dihedral_gives_the_eight_symmetries(self) -> None:
        pixels = torch.rand(8, 3, 6, 6)
        numbers = torch.stack((torch.zeros(8), (torch.arange(8) + 0.5) / 8))
        found = Dihedral().bind(UNIT).encode(pixels, Drawn(numbers, (6, 6)))
        picture = pixels[0]
        wanted = [w for turned in (picture, picture.transpose(1, 2)) for w in (turned, turned.flip(1))]
        wanted += [w.flip(2) for w in wanted]
        same = Dihedral().bind(UNIT).encode(picture.expand(8, 3, 6, 6), Drawn(numbers, (6, 6)))
        assert found.shape == pixels.shape
        for symmetry in wanted:
            assert sum(torch.allclose(symmetry, one, atol=1e-5) for one in same) == 1

    def test_turning_keeps_distances_in_pixels(self) -> None:
        """A circle stays a circle in a picture that is no square."""
        matrix = matrices(Rotate(90, p=1.0), 0.0, 0.75)  # 45 degrees
        for x, y in ((1.0, 0.0), (0.0, 1.0), (0.3, -0.7)):
            moved = apply(matrix, x, y)
            assert np.hypot(40 * x, 30 * y) == pytest.approx(np.hypot(40 * moved[0], 30 * moved[1]), rel=1e-5)
        right = apply(matrix, 0.5, 0.0)
        assert (right[0] * 40, right[1] * 30) == pytest.approx((0.5 * 40 / 2**0.5, -0.5 * 40 / 2**0.5), rel=1e-5)

    def test_zoom_shows_a_part_within(self) -> None:
        matrix = matrices(Zoom(1, 2, p=1.0), 0.0, 1.0, 1.0, 0.0)  # twice as large, of the upper right corner
        assert apply(matrix, 1, -1) == pytest.approx((1, -1))
        assert apply(matrix, -1, 1) == pytest.approx((0, 0))

    def test_perspective_moves_corners_as_fastai_does(self) -> None:
        x, y = 0.1, -0.2
        matrix = matrices(Perspective(0.2, p=1.0), 0.0, (x / 0.2 + 1) / 2, 0.0, (y / 0.2 + 1) / 2)
        corners = {
            (-1, -1): (-1 - y, -1 - x),
            (-1, 1): (-1 + y, 1 + x),
            (1, -1): (1 + y, -1 + x),
            (1, 1): (1 - y, 1 - x),
        }
        for before, after in corners.items():
            assert apply(matrix, *after) == pytest.approx(before, abs=1e-5)

    @settings(deadline=None, max_examples=60)
    @given(st.lists(st.floats(0, 1), min_size=4, max_size=4), st.floats(0.1, 1), st.integers(10, 90))
    def test_a_crop_lies_in_the_picture_and_has_its_ratio(self, numbers: list[float], least: float, width: int) -> None:
        crop = RandomResizedCropGPU(8, min_scale=least)
        matrix = matrices(crop, *numbers, size=(40, width))
        (left, top), (right, bottom) = apply(matrix, -1, -1), apply(matrix, 1, 1)
        assert min(left, top) >= -1.0001
        assert max(right, bottom) <= 1.0001
        wide, high = (right - left) * width / 2, (bottom - top) * 40 / 2
        assert 3 / 4 - 1e-3 <= wide / high <= 4 / 3 + 1e-3
        possible = min(width / 40 * 4 / 3, 40 / width * 4 / 3, 1)
        assert wide * high >= min(least, possible * 3 / 4 * 3 / 4) * 40 * width * 0.999

    @pytest.mark.parametrize("tfm", EACH, ids=lambda tfm: type(tfm).__name__)
    def test_each_picture_has_numbers_of_its_own_unless_told_otherwise(self, tfm: SpatialTransform) -> None:
        pixels = smooth(1, 24, 32).expand(16, 3, 24, 32).float() / 255
        for batch in (False, True):
            alike = type(tfm)(**{**vars(tfm), "p": 0.9, "batch": batch})
            found = alike.bind(UNIT).encode(pixels, alike.draw(generator(4), {"x": pixels}))
            assert all(torch.equal(found[0], one) for one in found) == batch

    @pytest.mark.parametrize("p", [0.0, 0.25, 1.0])
    def test_the_share_is_p(self, p: float) -> None:
        drawn = Flip(p).draw(generator(), {"x": torch.empty(20_000)})
        assert drawn.numbers is not None
        found = Flip(p).matrices(drawn.numbers, (4, 4))
        assert found is not None
        assert float((found[:, 0, 0] < 0).float().mean()) == pytest.approx(p, abs=0.01)

    def test_the_global_generator_is_not_used(self) -> None:
        state = torch.random.get_rng_state()
        for tfm in aug_transforms():
            tfm.draw(generator(), {"x": torch.empty(8, 3, 4, 4)})
        assert torch.equal(torch.random.get_rng_state(), state)


class TestLight:
    """Brightness and contrast work on logits, as fastai's do."""

    def test_grey_becomes_what_was_drawn(self) -> None:
        grey = torch.full((3, 3, 2, 2), 0.5)
        numbers = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
        found = Brightness(0.2, p=0.75).bind(UNIT).encode(grey, numbers)
        assert found[:, 0, 0, 0].tolist() == pytest.approx([0.4, 0.6, 0.5])
        assert torch.allclose(Contrast(0.2).bind(UNIT).encode(grey, numbers), grey)

    def test_contrast_multiplies_logits(self) -> None:
        pixels = torch.tensor([0.0, 0.2, 0.8, 1.0]).view(1, 1, 2, 2)
        found = Contrast(0.2, p=1.0).bind(UNIT).encode(pixels, torch.tensor([[0.0], [1.0]]))
        wanted = torch.sigmoid(torch.logit(pixels, eps=1e-7) * 1.25)
        assert torch.allclose(found, wanted, atol=1e-6)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_is_safe(self, dtype: torch.dtype) -> None:
        pixels = torch.linspace(0, 1, 256).view(1, 1, 16, 16).expand(4, 3, 16, 16)
        whole = plan([*aug_transforms(mult=1.5), NORMALIZE], UNIT)
        exact = whole.encode_batch({"x": pixels.clone()}, generator())["x"]
        found = whole.encode_batch({"x": pixels.to(dtype)}, generator())["x"]
        assert bool(found.isfinite().all())
        assert (found - exact).abs().max() < 0.1


class TestOnce:
    """What is done at once gives what the steps give one by one."""

    @pytest.mark.parametrize("size", [None, (40, 28)])
    def test_bytes_to_normalised_equals_the_steps_in_float64(self, size: tuple[int, int] | None) -> None:
        """Where no step looks beyond an edge, which the next one could not see."""
        tfms = aug_transforms(size=size, max_rotate=6, max_warp=0.05)
        pixels = smooth(12, 48, 36)
        whole = plan([*tfms, NORMALIZE])
        found = whole.encode_batch({"x": pixels.clone()}, generator())["x"]
        exact = one_by_one(plan([*tfms], UNIT), pixels.double() / 255)
        mean, std = (torch.tensor(stats).double()[:, None, None] for stats in imagenet_stats)
        exact = (exact - mean) / std
        assert found.dtype == torch.float32
        assert found.shape[2:] == exact.shape[2:] == (size or (48, 36))
        inner = (slice(None), slice(None), slice(10, -10), slice(8, -8))
        gap = (found[inner] - exact[inner]).abs()
        assert gap.max() < 0.06  # each single step blurs a little
        assert gap.mean() < 0.01

    @settings(deadline=None, max_examples=40)
    @given(
        data=st.data(),
        channels=st.sampled_from([1, 2, 3, 5]),
        pad=st.sampled_from(PAD_MODES),
        mode=st.sampled_from(SAMPLE_MODES),
    )
    def test_the_kernel_equals_torch(self, data: st.DataObject, channels: int, pad: Any, mode: Any) -> None:
        """Any homography, far outside too, any size and number of channels."""
        sides = [data.draw(st.integers(2, 20)) for _ in range(4)]
        assume(mode == "nearest" or shrink_factor((sides[0], sides[1]), (sides[2], sides[3])) == 1)
        entries = st.lists(st.floats(-0.375, 0.375, width=16), min_size=9, max_size=9)
        change = torch.tensor([data.draw(entries) for _ in range(2)]).view(2, 3, 3)
        wild = torch.tensor([1.0, 1.0, 3.0, 1.0, 1.0, 3.0, 1.0, 1.0, 1.0]).view(3, 3)
        before, after = (sides[0], sides[1]), (sides[2], sides[3])
        warp = Warp(matrices=torch.eye(3) + change * wild, before=before, after=after, pad_mode=pad, mode=mode)
        pixels = noise(2, sides[0], sides[1], channels=channels)
        gains, shifts = torch.tensor([1.0, 1.2]), torch.tensor([0.0, -0.3])
        scale, offset = (
            np.linspace(0.01, 0.02, channels, dtype=np.float32),
            np.linspace(-1, 1, channels, dtype=np.float32),
        )
        found = Augmenter()(pixels, warp, gains, shifts, scale, offset)
        lit = light(warp_pixels(pixels.double(), warp) / 255, (gains, shifts))
        wanted = lit * 255 * torch.from_numpy(scale)[:, None, None] + torch.from_numpy(offset)[:, None, None]
        gap = (found - wanted).abs()
        if mode == "nearest":
            grid = geometry._positions(warp.matrices, after, torch.float64)
            theirs = functional.grid_sample(pixels.double(), grid, "nearest", pad, align_corners=False)
            clear = clearly_nearest(grid, before)
            gap = gap.where(clear, 0)
            assert torch.equal(warp_pixels(pixels, warp).where(clear, 0), theirs.to(torch.uint8).where(clear, 0))
        # Far away a pixel's place is known to some thousandths, and between two bytes lies at most 255.
        assert gap.max() < 0.05
        assert gap.mean() < 2e-3

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
    def test_the_nearest_pixels_are_not_mixed_and_go_where_labels_go(self, dtype: torch.dtype) -> None:
        codes = torch.randint(0, 3, (6, 40, 30), generator=generator())
        pixels = (codes * 100).to(torch.uint8)[:, None].expand(6, 3, 40, 30).to(dtype)
        tfms = aug_transforms(mult=2, max_warp=0.15, max_lighting=0, mode="nearest", pad_mode="border")
        block = ImageTensorBlock(3, None, "bytes" if dtype == torch.uint8 else "unit")
        fields = {"x": pixels if dtype == torch.uint8 else pixels / 255, "mask": codes}
        found = plan(tfms, block, mask=Labels()).encode_batch(dict(fields), generator(2))
        levels = (found["x"] * 255).round()
        assert set(levels.unique().tolist()) <= {0.0, 100.0, 200.0}
        assert (levels[:, 0] == found["mask"] * 100).float().mean() > 0.999
        assert not torch.equal(found["mask"], codes)
        mixed = plan([*aug_transforms(mult=2, max_warp=0.15, max_lighting=0)], block).encode_batch(
            {"x": fields["x"]}, generator(2)
        )["x"]
        assert len((mixed * 255).round().unique()) > 50

    def test_ways_of_sampling_are_not_mixed(self) -> None:
        whole = plan([Rotate(40, p=1.0, mode="nearest"), Zoom(1.5, 1.5, p=1.0)])
        pixels = noise(2, 16, 16)
        found = whole.encode_batch({"x": pixels}, generator())["x"]
        assert (found - one_by_one(whole, pixels)).abs().mean() < 2e-3

    def test_nearest_does_not_average_large_pictures_down(self) -> None:
        board = ((torch.arange(256)[:, None] // 2 + torch.arange(256) // 2) % 2 * 255).to(torch.uint8)
        tfms = aug_transforms(size=32, max_lighting=0, mode="nearest")
        found = plan(tfms).encode_batch({"x": board.expand(2, 3, 256, 256)}, generator())["x"]
        assert set(found.unique().tolist()) == {0.0, 1.0}

    def test_the_kernel_is_used_in_training_and_not_otherwise(self) -> None:
        pixels = noise(4, 20, 24)
        whole = plan([*aug_transforms(), NORMALIZE])
        trained = whole.encode_batch({"x": pixels}, generator())["x"]
        assert trained.is_contiguous(memory_format=torch.channels_last)
        assert not torch.allclose(trained, one_by_one(whole, pixels, None), atol=0.5)
        assert torch.equal(whole.encode_batch({"x": pixels})["x"], one_by_one(whole, pixels, None))

    @pytest.mark.parametrize(
        "tfms", [[], [Flip(1.0)], [Brightness()], [Rotate(), Contrast()], [Flip(), Rotate(), Flip()]]
    )
    def test_any_selection_works(self, tfms: list[Transform]) -> None:
        pixels = smooth(8, 20, 24)
        for last in ([], [NORMALIZE]):
            whole = plan([*tfms, *last])
            found = whole.encode_batch({"x": pixels.clone()}, generator())["x"]
            assert (found - one_by_one(whole, pixels)).abs().mean() < 0.05

    def test_ways_of_padding_are_not_mixed(self) -> None:
        whole = plan([Zoom(0.5, 0.5, p=1.0, pad_mode="zeros"), Flip(1.0, pad_mode="border")])
        pixels = noise(2, 16, 16)
        found = whole.encode_batch({"x": pixels}, generator())["x"]
        assert torch.allclose(found, one_by_one(whole, pixels), atol=2e-4)
        assert (found == 0).float().mean() > 0.5

    def test_several_threads_give_the_same(self) -> None:
        whole, pixels = plan([*aug_transforms(), NORMALIZE]), noise(5, 20, 24)
        one = whole.encode_batch({"x": pixels}, generator())["x"].clone()
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(3)
            assert torch.equal(whole.encode_batch({"x": pixels}, generator())["x"], one)
        finally:
            torch.set_num_threads(before)

    def test_memory_is_lent_again_only_when_nobody_holds_it(self) -> None:
        whole, pixels = plan([*aug_transforms()]), noise(4, 16, 16)

        def batch(seed: int) -> Tensor:
            return whole.encode_batch({"x": pixels}, generator(seed))["x"]

        held = [batch(seed) for seed in range(4)]
        kept = [one.clone() for one in held]
        views = [batch(4)[1:2, :1], *(batch(seed) for seed in range(5, 8))]
        assert len({one.data_ptr() for one in held}) == 4
        assert all(torch.equal(one, copy) for one, copy in zip(held, kept, strict=True))
        assert torch.equal(views[0], batch(4)[1:2, :1])
        del held, views
        places = {batch(seed).data_ptr() for seed in range(9)}
        assert len(places) <= 2

    def test_large_pictures_are_averaged_down(self) -> None:
        board = ((torch.arange(256)[:, None] + torch.arange(256)) % 2 * 255).to(torch.uint8).expand(2, 3, 256, 256)
        found = plan(aug_transforms(size=32, max_lighting=0)).encode_batch({"x": board}, generator())["x"]
        assert (found - 0.5).abs().max() < 0.01


class TestTogether:
    """All that lies in a picture follows it."""

    def fields(self) -> dict[str, Tensor]:
        """Return pictures with a bright square each, its mask and its centre."""
        pixels = torch.zeros(16, 3, 60, 80, dtype=torch.uint8)
        pixels[:, :, 20:30, 50:62] = 255
        return {
            "x": pixels,
            "mask": pixels[:, 0].long() // 255,
            "point": torch.tensor([[[56 / 40 - 1, 25 / 30 - 1]]]).repeat(16, 1, 1),
        }

    @pytest.mark.parametrize("size", [None, (48, 48)])
    def test_masks_and_points_go_along(self, size: tuple[int, int] | None) -> None:
        tfms = aug_transforms(mult=1.5, size=size, min_scale=1.0 if size is None else 0.7, max_lighting=0)
        whole = plan(tfms, mask=Labels(), point=Points())
        found = whole.encode_batch(self.fields(), generator())
        height, width = size or (60, 80)
        assert found["mask"].shape == (16, height, width)
        for picture, mask, point in zip(found["x"], found["mask"], found["point"], strict=True):
            if not bool((point.abs() < 0.7).all()):
                continue  # the square may be cut off
            assert ((picture[0] > 0.5) == mask.bool()).float().mean() > 0.99
            rows, columns = torch.nonzero(mask, as_tuple=True)
            centre = ((columns.float().mean() + 0.5) * 2 / width - 1, (rows.float().mean() + 0.5) * 2 / height - 1)
            assert point[0].tolist() == pytest.approx(list(map(float, centre)), abs=0.06)

    @pytest.mark.parametrize("policy", [RandAugment(4, 20), TrivialAugment()], ids=lambda p: type(p).__name__)
    def test_policies_move_masks_and_points_too(self, policy: Transform) -> None:
        pixels = torch.zeros(32, 3, 60, 80)
        pixels[:, :, 20:30, 50:62] = 1
        fields = {"x": pixels, "mask": pixels[:, 0].long(), "point": torch.tensor([[[56 / 40 - 1, 25 / 30 - 1]]] * 32)}
        whole = plan([policy], UNIT, mask=Labels(), point=Points())
        found = whole.encode_batch(dict(fields), generator(1))
        moved = 0
        for mask, point in zip(found["mask"], found["point"], strict=True):
            if not bool((point.abs() < 0.6).all()):
                continue
            rows, columns = torch.nonzero(mask, as_tuple=True)
            near = ((columns + 0.5) / 40 - 1 - point[0, 0]).abs() + ((rows + 0.5) / 30 - 1 - point[0, 1]).abs()
            assert float(near.min()) < 0.1
            moved += not torch.allclose(point, fields["point"][0])
        assert moved > 5

    def test_points_know_the_centre_that_validation_takes(self) -> None:
        """A crop of the centre depends on the picture's shape, which points do not have."""
        whole = plan(aug_transforms(size=30, min_scale=0.5), mask=Labels(), point=Points())
        found = whole.encode_batch(self.fields())
        assert found["x"].shape == (16, 3, 30, 30)
        rows, columns = torch.nonzero(found["mask"][0], as_tuple=True)
        wanted = [(float(columns.float().mean()) + 0.5) / 15 - 1, (float(rows.float().mean()) + 0.5) / 15 - 1]
        assert found["point"][0, 0].tolist() == pytest.approx(wanted, abs=0.05)
        assert found["point"][0, 0, 0] == pytest.approx((56 - 40) / 30)

    def test_without_size_validation_leaves_everything_alone(self) -> None:
        whole = plan(aug_transforms(), mask=Labels(), point=Points())
        found, before = whole.encode_batch(self.fields()), self.fields()
        assert torch.equal(found["x"], before["x"].float() / 255)
        assert torch.equal(found["mask"], before["mask"])
        assert torch.equal(found["point"], before["point"])

    def test_with_size_validation_squishes(self) -> None:
        block = ImageTensorBlock(3, (60, 80))
        whole = plan(aug_transforms(size=(30, 20)), block)
        assert whole.fields["x"].final == ImageTensorBlock(3, (30, 20), "unit")
        found = whole.encode_batch({"x": smooth(2, 60, 80)})["x"]
        assert found.shape == (2, 3, 30, 20)
        assert (found[:, :, 0, 0] * 255 - smooth(2, 60, 80)[:, :, 0, 0]).abs().max() < 12


class TestParameters:
    """The parameters are fastai's, and impossible ones are refused by name."""

    def test_the_defaults_are_fastais(self) -> None:
        assert aug_transforms() == [
            Flip(0.5), Perspective(0.2, p=0.75), Rotate(10, p=0.75), Zoom(1.0, 1.1, p=0.75),
            Brightness(0.2, p=0.75), Contrast(0.2, p=0.75),
        ]  # fmt: skip

    def test_what_is_off_is_left_out(self) -> None:
        nothing: dict[str, Any] = {"do_flip": False, "max_rotate": 0, "max_zoom": 1, "max_lighting": 0, "max_warp": 0}
        assert aug_transforms(**nothing) == []
        assert [type(t).__name__ for t in aug_transforms(**nothing, size=8)] == ["Zoom"]
        assert isinstance(aug_transforms(flip_vert=True)[0], Dihedral)
        assert aug_transforms(xtra_tfms=NORMALIZE)[-1] is NORMALIZE
        assert aug_transforms(size=224, min_scale=0.75)[0] == RandomResizedCropGPU(224, min_scale=0.75, ratio=(1, 1))

    @pytest.mark.parametrize(
        ("make", "named"),
        [
            (lambda: aug_transforms(min_zoom=1.2), "min_zoom=1.2 and max_zoom=1.1"),
            (lambda: aug_transforms(min_zoom=0), "min_zoom=0"),
            (lambda: aug_transforms(p_affine=1.5), r"p_affine=1\.5 is not between 0 and 1"),
            (lambda: aug_transforms(p_lighting=-0.1), "p_lighting=-0.1"),
            (lambda: aug_transforms(max_rotate=-1), "max_rotate=-1"),
            (lambda: aug_transforms(max_warp=-1), "max_warp=-1"),
            (lambda: aug_transforms(max_warp=0.2, mult=2), r"max_warp=0\.2 times mult=2 is more than 0\.35"),
            (lambda: aug_transforms(max_lighting=1), "max_lighting=1 is more than"),
            (lambda: aug_transforms(mult=float("nan")), "mult=nan"),
            (lambda: aug_transforms(min_scale=0.5), "needs the size"),
            (lambda: aug_transforms(min_scale=0, size=8), "min_scale=0"),
            (lambda: aug_transforms(size=0), "size=0"),
            (lambda: aug_transforms(mode="bicubic"), "aug_transforms: mode='bicubic' is unknown.*'nearest'"),  # type: ignore[arg-type]
            (lambda: Flip(mode="linear"), "mode='linear'"),  # type: ignore[arg-type]
            (lambda: Flip(1.5), r"p=1\.5"),
            (lambda: Rotate(200), "max_deg=200"),
            (lambda: Zoom(2, 1), "min_zoom=2"),
            (lambda: Perspective(0.5), r"magnitude=0\.5"),
            (lambda: RandomResizedCropGPU(8, min_scale=0.9, max_scale=0.5), r"min_scale=0\.9"),
            (lambda: RandomResizedCropGPU(8, ratio=(2, 1)), "ratio"),
            (lambda: RandomResizedCropGPU(8, valid_scale=0), "valid_scale=0"),
            (lambda: Brightness(1.0), r"max_lighting=1\.0"),
            (lambda: Contrast(0.2, p=2), "p=2"),
        ],
    )
    def test_impossible_ones(self, make: Callable[[], object], named: str) -> None:
        with pytest.raises(OptionError, match=named):
            make()

    def test_unknown_pad_mode(self) -> None:
        with pytest.raises(UnknownName, match="reflection"):
            aug_transforms(pad_mode="reflect")  # type: ignore[arg-type]

    @pytest.mark.parametrize("tfm", [*EACH, Brightness(), Contrast()], ids=lambda tfm: type(tfm).__name__)
    def test_json(self, tfm: Transform) -> None:
        assert type(tfm).from_config(tfm.to_config()) == tfm

    def test_composing_none_is_nothing(self) -> None:
        assert composed([Flip(), Rotate()], [None, None], noise(1, 4, 4)) is None
        assert len(set(itertools.chain.from_iterable(vars(tfm) for tfm in EACH))) > 5
