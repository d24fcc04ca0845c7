"""Geometric changes: pixels, labels and points go the same way, by one convention of positions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from graftwork.api import OptionError, UnknownName
from graftwork_vision import ImageTensorBlock, SpatialBlock, Warp, warp_labels, warp_pixels, warp_points
from graftwork_vision.geometry import PadMode

SIZE = (24, 32)


def matrices(*rows: list[list[float]]) -> Tensor:
    """Return matrices (B, 3, 3)."""
    return torch.tensor(rows, dtype=torch.float32)


def warp(*rows: list[list[float]], after: tuple[int, int] = SIZE, pad_mode: PadMode = "reflection") -> Warp:
    """Return a change of pictures of 24x32."""
    return Warp(matrices=matrices(*rows), before=SIZE, after=after, pad_mode=pad_mode)


SAME = [[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]
MIRRORED = [[-1.0, 0, 0], [0, 1, 0], [0, 0, 1]]
LEANING = [[0.9, 0.1, 0.05], [-0.08, 1.0, 0.02], [0.1, -0.05, 1]]


def noise(batch: int = 1, *, channels: int = 3) -> Tensor:
    """Return bytes (B, C, 24, 32)."""
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (batch, channels, *SIZE), dtype=np.uint8))


def bilinear(picture: np.ndarray, matrix: np.ndarray, after: tuple[int, int], pad_mode: PadMode) -> np.ndarray:
    """Sample one picture (H, W) by the definition, pixel for pixel in float64."""
    height, width = picture.shape
    result = np.zeros(after)

    def at(row: int, column: int) -> float:
        if pad_mode == "zeros" and not (0 <= row < height and 0 <= column < width):
            return 0.0
        return float(picture[fold(row, height, pad_mode), fold(column, width, pad_mode)])

    for i in range(after[0]):
        for j in range(after[1]):
            x, y, w = matrix @ np.array([(2 * j + 1) / after[1] - 1, (2 * i + 1) / after[0] - 1, 1.0])
            column, row = ((x / w + 1) * width - 1) / 2, ((y / w + 1) * height - 1) / 2
            left, top = int(np.floor(column)), int(np.floor(row))
            right, down = column - left, row - top
            result[i, j] = (at(top, left) * (1 - right) + at(top, left + 1) * right) * (1 - down) + (
                at(top + 1, left) * (1 - right) + at(top + 1, left + 1) * right
            ) * down
    return result


def fold(index: int, count: int, pad_mode: PadMode) -> int:
    """Bring an index into the picture."""
    if pad_mode == "reflection":
        index %= 2 * count
        return index if index < count else 2 * count - 1 - index
    return min(max(index, 0), count - 1)


class TestPixels:
    """Pictures are sampled once, bilinearly."""

    def test_nothing_changes_without_a_change(self) -> None:
        """The identity gives the same bytes."""
        assert torch.equal(warp_pixels(noise(2), warp(SAME, SAME)), noise(2))

    def test_a_mirror_is_exact(self) -> None:
        """Mirroring moves whole pixels: no half pixel is lost at an edge."""
        assert torch.equal(warp_pixels(noise(), warp(MIRRORED)), noise().flip(-1))

    @pytest.mark.parametrize("pad_mode", ["reflection", "border", "zeros"])
    def test_equals_the_definition_in_float64(self, pad_mode: PadMode) -> None:
        """Far outside as well as inside, also where the picture shrinks."""
        far = [[2.5, 0.3, 0.4], [-0.2, 2.2, -0.6], [0.15, 0.1, 1]]
        change = warp(LEANING, far, after=(15, 20), pad_mode=pad_mode)
        found = warp_pixels(noise(2).double(), change)
        for i, matrix in enumerate(change.matrices.double().numpy()):
            wanted = bilinear(noise(2)[i, 0].double().numpy(), matrix, (15, 20), pad_mode)
            assert np.abs(found[i, 0].numpy() - wanted).max() < 1e-6

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
    def test_positions_do_not_suffer_from_half_precision(self, dtype: torch.dtype) -> None:
        """A mirror of a wide picture is exact in bf16 too."""
        pixels = torch.rand(1, 1, 3, 700).to(dtype)
        found = warp_pixels(pixels, Warp(matrices=matrices(MIRRORED), before=(3, 700), after=(3, 700)))
        assert found.dtype == dtype
        assert (found.float() - pixels.flip(-1).float()).abs().max() < 2e-2

    def test_large_pictures_are_averaged_first(self) -> None:
        """A fine checkerboard becomes grey, not black or white."""
        board = (torch.arange(256)[:, None] + torch.arange(256)) % 2 * 255.0
        change = Warp(matrices=matrices(SAME), before=(256, 256), after=(32, 32))
        assert (warp_pixels(board[None, None], change) - 127.5).abs().max() < 1e-3

    def test_a_gradient_flows(self) -> None:
        """Pixels can be learned from."""
        pixels = torch.rand(1, 1, *SIZE, requires_grad=True)
        warp_pixels(pixels, warp(LEANING)).sum().backward()
        assert pixels.grad is not None
        assert bool((pixels.grad > 0).any())


class TestLabels:
    """Integers are taken, never mixed."""

    @pytest.mark.parametrize("pad_mode", ["reflection", "border"])
    def test_go_where_pixels_go(self, pad_mode: PadMode) -> None:
        """Nearest sampling of torch says the same."""
        labels = torch.randint(0, 2**40, (2, *SIZE), generator=torch.Generator().manual_seed(0))
        change = warp(LEANING, [[1.7, 0, 0.3], [0.2, 1.6, 0], [0, 0.1, 1]], pad_mode=pad_mode)
        found = warp_labels(labels, change, outside=0)
        grid = positions(change)
        wanted = functional.grid_sample(labels[:, None].double(), grid.double(), "nearest", pad_mode, False)[:, 0]
        assert found.dtype == torch.int64
        assert (found == wanted).float().mean() > 0.995  # halfway between two pixels rounding decides

    def test_outside_is_what_was_said(self) -> None:
        """Zeros stands for the value that is ignored."""
        away = [[1.0, 0, 2], [0, 1, 0], [0, 0, 1]]
        found = warp_labels(torch.ones((1, *SIZE), dtype=torch.uint8), warp(away, pad_mode="zeros"), outside=255)
        assert found.dtype == torch.uint8
        assert bool((found == 255).all())

    def test_a_mirror_is_exact(self) -> None:
        """Whole pixels move."""
        labels = noise(channels=1)[:, 0]
        assert torch.equal(warp_labels(labels, warp(MIRRORED), outside=0), labels.flip(-1))


def positions(change: Warp) -> Tensor:
    """Return the positions (B, H, W, 2) by the definition."""
    height, width = change.after
    y, x = (torch.arange(n, dtype=torch.float32) * 2 / n + 1 / n - 1 for n in (height, width))
    ones = torch.ones(height, width)
    grid = torch.stack((ones * x, ones * y[:, None], ones), -1)
    moved = torch.einsum("bij,hwj->bhwi", change.matrices, grid)
    return moved[..., :2] / moved[..., 2:]


class TestPoints:
    """Points go to where their pixel goes."""

    def test_a_point_stays_on_its_spot(self) -> None:
        """A bright spot and the point on it end at one place."""
        pixels = torch.zeros(2, 1, 64, 64)
        pixels[:, 0, 20:24, 40:44] = 1
        point = torch.tensor([[[42 / 32 - 1, 22 / 32 - 1]]]).repeat(2, 1, 1)
        change = Warp(matrices=matrices(LEANING, MIRRORED), before=(64, 64), after=(96, 48))
        found, moved = warp_pixels(pixels, change), warp_points(point, change)
        for i in range(2):
            total = found[i, 0].sum()
            x = (found[i, 0].sum(0) * (torch.arange(48) * 2 + 1) / 48).sum() / total - 1
            y = (found[i, 0].sum(1) * (torch.arange(96) * 2 + 1) / 96).sum() / total - 1
            assert torch.allclose(moved[i, 0], torch.stack((x, y)), atol=0.02)

    @settings(deadline=None, max_examples=50)
    @given(st.lists(st.floats(-0.3, 0.3), min_size=9, max_size=9))
    def test_there_and_back(self, entries: list[float]) -> None:
        """The inverse undoes the change."""
        matrix = torch.eye(3) + torch.tensor(entries).view(3, 3) * 0.5
        change = Warp(matrices=matrix[None], before=SIZE, after=SIZE)
        back = Warp(matrices=change.inverse, before=SIZE, after=SIZE)
        points = torch.tensor([[[0.0, 0], [0.5, -0.3], [-0.7, 0.2]]])
        assert torch.allclose(warp_points(warp_points(points, change), back), points, atol=1e-3)


class TestBlocks:
    """Blocks follow; what is no change is refused."""

    def test_pixels_are_a_spatial_block(self) -> None:
        """The block samples its column and knows the size after it."""
        block = ImageTensorBlock(3, SIZE)
        assert isinstance(block, SpatialBlock)
        assert block.sized((10, 12)) == ImageTensorBlock(3, (10, 12))
        assert block.warp(noise(), warp(LEANING, after=(10, 12))).shape == (1, 3, 10, 12)

    def test_refuses_what_is_no_change(self) -> None:
        """Shapes and pad modes are looked at."""
        with pytest.raises(OptionError, match="shape"):
            Warp(matrices=torch.eye(3), before=SIZE, after=SIZE)
        with pytest.raises(UnknownName, match="reflection"):
            Warp(matrices=torch.eye(3)[None], before=SIZE, after=SIZE, pad_mode="reflect")  # type: ignore[arg-type]
