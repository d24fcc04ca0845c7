"""Geometric changes of a batch of pictures, and the blocks that follow them: one record, one sampling of the pixels.

Positions are (x, y), right and down, in [-1, 1]: -1 and 1 are the outer edges of the picture, not the centres of its
outermost pixels (torch's `align_corners=False`). So they mean the same place whatever the picture's size is.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Final, Literal, Self, get_args

import torch
from torch import Tensor
from torch.nn import functional

from graftwork.api import Block, OptionError, unknown

__all__ = ["PadMode", "SampleMode", "Size", "SpatialBlock", "Warp", "warp_labels", "warp_pixels", "warp_points"]

Size = tuple[int, int]
PadMode = Literal["reflection", "border", "zeros"]

SampleMode = Literal["bilinear", "nearest"]

PAD_MODES: Final = get_args(PadMode)
SAMPLE_MODES: Final = get_args(SampleMode)
# How far off the horizon a position must be: one beyond it would come from behind the camera.
_HORIZON: Final = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Warp:
    """Be a geometric change of a batch of pictures: for each, where an output pixel comes from in the input.

    `matrices` (B, 3, 3) float32 are homographies from output to input positions; sizes are (height, width).
    `pad_mode` says what lies outside: "reflection", "border" (the edge repeated) or "zeros". `mode` says how pixels are
    sampled: "bilinear", or "nearest", which mixes nothing and makes no new values; labels are always nearest.
    """

    matrices: Tensor
    before: Size
    after: Size
    pad_mode: PadMode = "reflection"
    mode: SampleMode = "bilinear"

    def __post_init__(self) -> None:
        """Refuse other shapes and unknown modes."""
        if self.matrices.ndim != 3 or self.matrices.shape[1:] != (3, 3):
            raise OptionError(f"Warp: matrices of shape (B, 3, 3) expected, not {tuple(self.matrices.shape)}")
        if self.pad_mode not in PAD_MODES:
            raise unknown("pad mode", self.pad_mode, PAD_MODES)
        check_mode("Warp", self.mode)

    @property
    def inverse(self) -> Tensor:
        """Homographies from input to output positions, (B, 3, 3): where a point of the input goes."""
        first, second, third = self.matrices.unbind(1)
        # By cross products: torch's own inverse waits for the device to say whether there is one.
        rows = (torch.linalg.cross(second, third), torch.linalg.cross(third, first), torch.linalg.cross(first, second))
        determinant = (first * rows[0]).sum(1)
        return torch.stack(rows, 2).div_(determinant[:, None, None])

    def to(self, device: torch.device) -> Warp:
        """Return the change with its matrices on `device`."""
        if self.matrices.device == device:
            return self
        return replace(self, matrices=self.matrices.to(device))


def check_mode(owner: str, mode: str) -> None:
    """Refuse a way of sampling that is none, by name."""
    if mode not in SAMPLE_MODES:
        raise OptionError(
            f"{owner}: mode={mode!r} is unknown; pixels are sampled {' or '.join(map(repr, SAMPLE_MODES))}"
        )


class SpatialBlock(Block):
    """Be a field that lies in a picture and follows its geometry: pixels, masks, points, boxes (collated tensors)."""

    @abstractmethod
    def warp(self, column: Tensor, warp: Warp) -> Tensor:
        """Return the collated column after a geometric change of the pictures; `column` itself stays as it is."""

    @abstractmethod
    def sized(self, size: Size) -> Self:
        """Return the block after a change that gives pictures of `size` (height, width)."""


def warp_pixels(pixels: Tensor, warp: Warp) -> Tensor:
    """Sample pictures (B, C, H, W) as the warp says; what they are made of (bytes, half precision, …) stays.

    Positions are computed in float32 in any case. Sampled bilinearly, pictures at least four times as large as the
    result are averaged down to twice its size first.
    """
    moved = warp.to(pixels.device)
    if warp.mode == "nearest":
        return _nearest_pixels(pixels, moved, 0)
    source = shrunk(pixels if pixels.dtype == torch.float64 else pixels.float(), warp.after)
    grid = _positions(moved.matrices, warp.after, source.dtype)
    sampled = functional.grid_sample(source, grid, "bilinear", warp.pad_mode, align_corners=False)
    if pixels.dtype.is_floating_point:
        return sampled.to(pixels.dtype)
    info = torch.iinfo(pixels.dtype)
    return sampled.round_().clamp_(info.min, info.max).to(pixels.dtype)


def shrunk(pixels: Tensor, after: Size) -> Tensor:
    """Average float pictures down to twice the size `after` where they are at least four times as large."""
    height, width = pixels.shape[-2:]
    factor = shrink_factor((height, width), after)
    return pixels if factor == 1 else functional.interpolate(pixels, (height // factor, width // factor), mode="area")


def shrink_factor(before: Size, after: Size) -> int:
    """Return by what pictures are averaged down before they are sampled, so that small results do not flicker."""
    return max(1, min(before[0] // (2 * after[0]), before[1] // (2 * after[1])))


def warp_labels(labels: Tensor, warp: Warp, *, outside: int) -> Tensor:
    """Sample integers (B, H, W) at the nearest pixel; with pad mode "zeros", `outside` is what lies outside."""
    return _nearest_pixels(labels[:, None], warp.to(labels.device), outside)[:, 0]


def _nearest_pixels(pixels: Tensor, warp: Warp, outside: int) -> Tensor:
    """Take the nearest pixel of (B, C, H, W) for every place; halfway between two it is the lower or right one."""
    height, width = pixels.shape[-2:]
    grid = _positions(warp.matrices, warp.after, torch.float32)
    columns, rows = _nearest(grid[..., 0], width), _nearest(grid[..., 1], height)
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    place = _folded(rows, height, warp.pad_mode) * width + _folded(columns, width, warp.pad_mode)
    every = place.flatten(1)[:, None].expand(-1, pixels.shape[1], -1)
    sampled = pixels.flatten(2).gather(2, every).view(*pixels.shape[:2], *warp.after)
    return torch.where(inside[:, None], sampled, outside) if warp.pad_mode == "zeros" else sampled


def _nearest(positions: Tensor, count: int) -> Tensor:
    # Far outside, a position times the count need not fit into an integer; what is folded there does not matter.
    return ((positions + 1) * (count / 2)).floor_().clamp_(-(2**20), 2**20).long()


def _folded(index: Tensor, count: int, pad_mode: PadMode) -> Tensor:
    """Bring indices into the picture; reflection repeats the edge, as its mirror is the outer edge."""
    if pad_mode == "reflection":
        index = index % (2 * count)
        return torch.where(index < count, index, 2 * count - 1 - index)
    return index.clamp(0, count - 1)


def warp_points(points: Tensor, warp: Warp) -> Tensor:
    """Move points (B, N, 2), xy in [-1, 1], to where the change takes them; they may come to lie outside."""
    inverse = warp.to(points.device).inverse
    return _applied(inverse, points.float()).to(points.dtype)


def _applied(matrices: Tensor, points: Tensor) -> Tensor:
    """Apply homographies (B, 3, 3) to points (B, N, 2)."""
    moved = points @ matrices[:, :, :2].transpose(1, 2) + matrices[:, None, :, 2]
    return moved[..., :2] / moved[..., 2:].clamp(min=_HORIZON)


def _positions(matrices: Tensor, after: Size, dtype: torch.dtype) -> Tensor:
    """Return where every output pixel comes from, (B, H, W, 2) in [-1, 1]."""
    height, width = after
    matrices = matrices.to(dtype)
    y, x = _centres(height, matrices), _centres(width, matrices)
    grid = torch.stack((x.expand(height, width), y[:, None].expand(height, width)), -1).view(1, -1, 2)
    return _applied(matrices, grid.expand(len(matrices), -1, -1)).view(-1, height, width, 2)


def _centres(count: int, like: Tensor) -> Tensor:
    """Return the positions of pixels' centres along a side."""
    return (2 * torch.arange(count, dtype=like.dtype, device=like.device) + 1) / count - 1
