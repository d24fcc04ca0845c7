"""RandAugment and TrivialAugment on batches: every picture draws its own operations out of fourteen.

Geometry comes first, all of it in one sampling, and masks, points and boxes follow; colours come after it, in the order
drawn. Brightness, contrast, posterizing, solarizing and equalizing are one look-up in a table per picture and channel.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, final

import torch
from torch import Tensor
from torch.nn import functional

from graftwork.api import Block, Bound, OptionError, Transform, unknown
from graftwork_vision.blocks import ImageTensorBlock
from graftwork_vision.effects import grey
from graftwork_vision.geometry import PAD_MODES, PadMode, Size, SpatialBlock, Warp
from graftwork_vision.spatial import Drawn, matrix, picture_size

__all__ = ["AugmentPolicy", "RandAugment", "TrivialAugment"]

OPERATIONS: Final = (
    "identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "color", "contrast",
    "sharpness", "posterize", "solarize", "autocontrast", "equalize",
)  # fmt: skip
BINS: Final = 31


@dataclass(frozen=True)
class AugmentPolicy(Transform):
    """Do some of the OPERATIONS to each picture of a batch, drawn anew for each; never outside training."""

    stage = "batch"
    random = True
    reads_sample: ClassVar[bool] = True
    pad_mode: PadMode = field(default="reflection", kw_only=True)

    def __post_init__(self) -> None:
        """Refuse unknown pad modes."""
        if self.pad_mode not in PAD_MODES:
            raise unknown("pad mode", self.pad_mode, PAD_MODES)

    @property
    @abstractmethod
    def rounds(self) -> int:
        """How many operations a picture gets."""

    @abstractmethod
    def strength(self, numbers: Tensor) -> Tensor:
        """Return how strong operations are, from 0 to 1, for numbers from 0 to 1."""

    @abstractmethod
    def most(self, size: Size) -> tuple[float, float, float, float, int]:
        """Return the strongest: shear, shift as a share of the width, degrees, change of a factor, bits left out."""

    @final
    def accepts(self, block: Block) -> bool:
        """Work on all that lies in a picture; on pixels from 0 to 1."""
        return block.scale == "unit" if isinstance(block, ImageTensorBlock) else isinstance(block, SpatialBlock)

    @final
    def out_block(self, block: Block) -> Block:
        """Change nothing about the block."""
        return block

    @final
    def draw(self, rng: torch.Generator | None, sample: Mapping[str, Any]) -> Drawn | None:
        """Draw for every round which operation, how strong, and which way: (rounds, 3, B)."""
        if rng is None:
            return None
        count = len(next(iter(sample.values())))
        return Drawn(torch.rand(self.rounds, 3, count, generator=rng, device=rng.device), picture_size(sample))

    @final
    def bind(self, block: Block) -> Bound:
        """Move everything, and change pictures' colours."""
        assert isinstance(block, SpatialBlock)
        coloured = isinstance(block, ImageTensorBlock)

        def encode(column: Tensor, drawn: Drawn | None) -> Tensor:
            if drawn is None or drawn.numbers is None:
                return column
            size = column.shape[2:] if column.ndim == 4 else drawn.size or column.shape[1:]
            numbers, total = drawn.numbers.to(column.device), None
            for which, how, way in numbers:
                step = self._matrices(which, how, way, (size[0], size[1]))
                total = step if total is None else total @ step
            assert total is not None
            warp = Warp(matrices=total, before=(size[0], size[1]), after=(size[0], size[1]), pad_mode=self.pad_mode)
            moved = block.warp(column, warp)
            return self._coloured(moved, numbers) if coloured else moved

        return Bound(encode)

    def _matrices(self, which: Tensor, how: Tensor, way: Tensor, size: Size) -> Tensor:
        """Return matrices (B, 3, 3) of one round; those of colours move nothing."""
        shear, shift, degrees, _, _ = self.most(size)
        chosen, signed = operation(which), torch.where(way < 0.5, -1.0, 1.0) * self.strength(how)
        shape = size[0] / size[1]

        def only(name: str, most: float) -> Tensor:
            return torch.where(chosen == OPERATIONS.index(name), signed * most, 0.0)

        angle = only("rotate", math.radians(degrees))
        across, along = angle.sin() * shape + only("shear_x", shear * shape), only("shear_y", shear / shape)
        return matrix(
            angle.cos(), across, only("translate_x", 2 * shift),
            along - angle.sin() / shape, angle.cos(), only("translate_y", 2 * shift), 0, 0, 1,
        )  # fmt: skip

    def _coloured(self, pixels: Tensor, numbers: Tensor) -> Tensor:
        found = pixels.float()
        _, _, _, change, bits = self.most((1, 1))
        for which, how, way in numbers:
            strength = self.strength(how)
            factor = 1 + torch.where(way < 0.5, -1.0, 1.0) * strength * change
            found = recoloured(found, operation(which), strength, factor, bits)
        return found.to(pixels.dtype)


def operation(which: Tensor) -> Tensor:
    """Return the place in OPERATIONS of numbers from 0 to 1."""
    return (which * len(OPERATIONS)).long()


def recoloured(pixels: Tensor, chosen: Tensor, strength: Tensor, factor: Tensor, bits: int) -> Tensor:
    """Change the colours of pictures (B, C, H, W) by the operations chosen (B,), with their strength and factor."""
    is_, factor = {name: (chosen == k)[:, None, None] for k, name in enumerate(OPERATIONS)}, factor[:, None, None]
    levels = (pixels * 255).round_().clamp_(0, 255).long().flatten(2)
    light = torch.arange(256, device=pixels.device) / 255
    mean = (grey(pixels) if pixels.shape[1] == 3 else pixels).mean((1, 2, 3))[:, None, None]
    kept = 2 ** (strength * bits).round()[:, None, None]
    tables = {
        "brightness": light * factor,
        "contrast": mean + factor * (light - mean),
        "posterize": (light * 255 / kept).floor() * kept / 255,
        "solarize": torch.where(light >= 1 - strength[:, None, None], 1 - light, light),
        "autocontrast": _stretched(levels, light),
        "equalize": _equalized(levels, light),
    }
    table = light.expand(len(pixels), pixels.shape[1], 256)
    for name, other in tables.items():
        table = torch.where(is_[name], other, table)
    found = table.clamp(0, 1).gather(2, levels).view_as(pixels)
    looked_up = torch.stack([is_[name] for name in tables]).any(0)[..., None]
    found = torch.where(looked_up, found, pixels)
    colour, sharp = is_["color"][..., None], is_["sharpness"][..., None]
    away = torch.where(sharp, _smooth(pixels), grey(pixels) if pixels.shape[1] == 3 else pixels)
    return torch.where(colour | sharp, torch.lerp(away, pixels, factor[..., None]).clamp(0, 1), found)


def _stretched(levels: Tensor, light: Tensor) -> Tensor:
    """Return tables that stretch what a channel has over the whole range."""
    low, high = levels.amin(2, keepdim=True) / 255, levels.amax(2, keepdim=True) / 255
    return torch.where(high > low, (light - low) / (high - low).clamp(min=1 / 255), light)


def _equalized(levels: Tensor, light: Tensor) -> Tensor:
    """Return tables that make all levels about equally frequent, as Pillow does."""
    counts = torch.zeros(*levels.shape[:2], 256, device=levels.device)
    counts.scatter_add_(2, levels, torch.ones_like(levels, dtype=torch.float32))
    last = counts.gather(2, levels.amax(2, keepdim=True))
    step = ((levels.shape[2] - last) / 255).floor()
    below = counts.cumsum(2) - counts
    table = ((below + (step / 2).floor()) / step.clamp(min=1)).floor() / 255
    return torch.where(step > 0, table, light)


def _smooth(pixels: Tensor) -> Tensor:
    """Return pictures smoothed as Pillow does it, their edges as they are."""
    if min(pixels.shape[2:]) < 3:
        return pixels
    kernel = pixels.new_ones(3, 3)
    kernel[1, 1] = 5
    channels = pixels.shape[1]
    inner = functional.conv2d(pixels, (kernel / 13).expand(channels, 1, 3, 3), groups=channels)
    found = pixels.clone()
    found[:, :, 1:-1, 1:-1] = inner
    return found


@final
@dataclass(frozen=True)
class RandAugment(AugmentPolicy):
    """Do `num_ops` operations to each picture, all of one `magnitude` from 0 to 30 (Cubuk et al., 2019)."""

    id: ClassVar[str] = "vision/rand-augment"
    num_ops: int = 2
    magnitude: int = 9

    def __post_init__(self) -> None:
        """Refuse no operation and impossible magnitudes."""
        super().__post_init__()
        if self.num_ops < 1:
            raise OptionError(f"{self.id}: num_ops={self.num_ops} must be at least 1")
        if not 0 <= self.magnitude < BINS:
            raise OptionError(f"{self.id}: magnitude={self.magnitude} is not between 0 and {BINS - 1}")

    @property
    def rounds(self) -> int:
        """As many as were asked for."""
        return self.num_ops

    def strength(self, numbers: Tensor) -> Tensor:
        """Return the magnitude's share for all."""
        return torch.full_like(numbers, self.magnitude / (BINS - 1))

    def most(self, size: Size) -> tuple[float, float, float, float, int]:
        """Return the paper's ranges."""
        return 0.3, 150 / 331, 30.0, 0.9, 4


@final
@dataclass(frozen=True)
class TrivialAugment(AugmentPolicy):
    """Do one operation of any strength, from a wide range, to each picture (Müller and Hutter, 2021)."""

    id: ClassVar[str] = "vision/trivial-augment"

    @property
    def rounds(self) -> int:
        """One."""
        return 1

    def strength(self, numbers: Tensor) -> Tensor:
        """Return one of 31 shares."""
        return (numbers * BINS).floor() / (BINS - 1)

    def most(self, size: Size) -> tuple[float, float, float, float, int]:
        """Return the paper's wide ranges; shifts are up to 32 pixels."""
        return 0.99, min(1.0, 32 / max(size)), 135.0, 0.99, 6
