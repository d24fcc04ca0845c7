"""Blocks of pictures: as a source names them, opened, and as a tensor. Sizes are (height, width) everywhere."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from graftwork.api import Block, BlockError, BlockSteps, OptionError
from graftwork_vision.bands import BandsBlock, bands_reason, read_bands
from graftwork_vision.geometry import Size, SpatialBlock, Warp, warp_pixels
from graftwork_vision.pictures import IMAGE_SUFFIXES, MAX_PIXELS, array_reason, is_picture_name, open_picture, to_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ImageBlock", "ImageTensorBlock", "PictureBlock", "PixelBlock", "Scale", "Size"]

Scale = Literal["bytes", "unit", "standard"]


def check_size(size: Size | None, owner: str) -> None:
    """Refuse anything but (height, width) of at least one pixel; raise OptionError."""
    if size is not None and (len(size) != 2 or not all(isinstance(n, int) and n > 0 for n in size)):
        raise OptionError(f"{owner}: size={size!r} is not (height, width) in pixels, both at least 1")


def _check_channels(channels: int, owner: str) -> None:
    if channels not in (1, 3):
        raise OptionError(f"{owner}: channels={channels!r}; pictures are opened as grey (1) or RGB (3)")


class PixelBlock(Block):
    """Be an opened picture, a PIL image of one mode. Item transforms of pixels work on every subclass (photo, mask)."""

    @property
    @abstractmethod
    def size(self) -> Size | None:
        """(height, width) if every picture has the same one."""

    @property
    @abstractmethod
    def resample(self) -> Image.Resampling:
        """How pixels are interpolated when the picture is resized."""

    @abstractmethod
    def sized(self, size: Size) -> Self:
        """Return the same block with a known size."""


@dataclass(frozen=True)
class ImageBlock(Block):
    """Name a picture: a path, bytes, a PIL image, or a uint8 array (H, W) or (H, W, C). It is opened as RGB or grey.

    Other `channels` than 3 and 1, or a `white` (the value that counts as 1), keep all bands and bits: see `bands`.

    `size` (height, width) is what every picture has, where that is known. `shrink_to` lets large JPEGs be decoded at
    a fraction of their size, never below `shrink_to` pixels a side. Files of more than `max_pixels` are refused unread.
    """

    id: ClassVar[str] = "vision/image"
    channels: int = 3
    size: Size | None = None
    shrink_to: int | None = None
    max_pixels: int = MAX_PIXELS
    white: float | None = None

    def __post_init__(self) -> None:
        """Refuse impossible channels and sizes."""
        if self.channels < 1 or (self.white is not None and not self.white > 0):
            raise OptionError(f"{self.id}: channels={self.channels} must be at least 1, white={self.white} above 0")
        check_size(self.size, self.id)
        if self.shrink_to is not None and self.shrink_to < 1:
            raise OptionError(f"{self.id}: shrink_to={self.shrink_to} must be at least 1")
        if self.max_pixels < 1:
            raise OptionError(f"{self.id}: max_pixels={self.max_pixels} must be at least 1")

    @property
    def all_bands(self) -> bool:
        """Whether the picture is opened with all its bands and bits, and not as 8-bit RGB or grey."""
        return self.channels not in (1, 3) or self.white is not None

    def check(self, value: Any) -> str | None:
        """Return why `value` names no picture, or None; files are looked at from outside only."""
        if isinstance(value, bytes):
            return None if value else "there is nothing in it (0 bytes)"
        if isinstance(value, np.ndarray):
            return bands_reason(value, self.channels) if self.all_bands else array_reason(value)
        if isinstance(value, Image.Image):
            return None
        if isinstance(value, str | os.PathLike):
            return _path_reason(Path(value), (*IMAGE_SUFFIXES, ".npy") if self.all_bands else IMAGE_SUFFIXES)
        return f"a picture is a path, bytes, a PIL image or a uint8 array, not {type(value).__name__}"

    def mock(self, rng: np.random.Generator) -> Any:
        """Invent a noisy picture."""
        opened = BandsBlock if self.all_bands else PictureBlock
        return opened(self.channels, self.size).mock(rng)

    def collate(self, values: Sequence[Any]) -> Tensor:
        """Refuse: pictures are opened before they are batched."""
        raise BlockError(f"{self.id} names pictures, which have no tensor form; open them first (DecodeImage)")

    def uncollate(self, column: Tensor) -> list[Any]:
        """Refuse: pictures are opened before they are batched."""
        raise BlockError(f"{self.id} names pictures, which have no tensor form")

    def show(self, value: Any, ax: Axes) -> None:
        """Open the picture and draw it."""
        if self.all_bands:
            bands = read_bands(value, channels=self.channels, white=self.white, max_pixels=self.max_pixels)
            BandsBlock(self.channels).show(bands, ax)
            return
        _draw(open_picture(value, channels=self.channels, max_pixels=self.max_pixels), ax)

    def steps(self) -> BlockSteps:
        """Open the picture."""
        from graftwork_vision.transforms import DecodeImage

        return BlockSteps(opening=(DecodeImage(),))


@dataclass(frozen=True)
class PictureBlock(PixelBlock):
    """Hold an opened picture: a PIL image of mode RGB (3 channels) or L (1)."""

    id: ClassVar[str] = "vision/picture"
    channels: int = 3
    size: Size | None = None

    def __post_init__(self) -> None:
        """Refuse impossible channels and sizes."""
        _check_channels(self.channels, self.id)
        check_size(self.size, self.id)

    @property
    def resample(self) -> Image.Resampling:
        """Bilinear, over all pixels that fall together when the picture shrinks."""
        return Image.Resampling.BILINEAR

    @property
    def mode(self) -> str:
        """Pillow's name of the pixel format."""
        return "L" if self.channels == 1 else "RGB"

    def sized(self, size: Size) -> Self:
        """Return the same block with a known size."""
        return replace(self, size=size)

    def check(self, value: Any) -> str | None:
        """Return why `value` is no such picture, or None."""
        if not isinstance(value, Image.Image):
            return f"an opened picture is a PIL image, not {type(value).__name__}"
        if value.mode != self.mode:
            return f"a picture of mode {self.mode} expected, not {value.mode}"
        if self.size is not None and (value.height, value.width) != self.size:
            return f"a picture of {_by(self.size)} expected, not {_by((value.height, value.width))}"
        return None

    def mock(self, rng: np.random.Generator) -> Image.Image:
        """Invent a noisy picture."""
        height, width = self.size or (int(rng.integers(24, 64)), int(rng.integers(24, 64)))
        shape = (height, width) if self.channels == 1 else (height, width, self.channels)
        return Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))

    def collate(self, values: Sequence[Any]) -> Tensor:
        """Stack to uint8 (B, C, H, W)."""
        pixels = [torch.from_numpy(to_array(value)).permute(2, 0, 1) for value in values]
        return ImageTensorBlock(self.channels, self.size).collate(pixels)

    def uncollate(self, column: Tensor) -> list[Any]:
        """Return one PIL image per item."""
        return [to_picture(pixels) for pixels in column]

    def show(self, value: Any, ax: Axes) -> None:
        """Draw the picture."""
        _draw(value, ax)

    def steps(self) -> BlockSteps:
        """Turn the picture into a tensor."""
        from graftwork_vision.transforms import ToTensor

        return BlockSteps(closing=(ToTensor(),))


@dataclass(frozen=True)
class ImageTensorBlock(SpatialBlock):
    """Hold pixels as a tensor (C, H, W), in a batch (B, C, H, W), laid out channels last in memory.

    `scale` is "bytes" (uint8), "unit" (float32, 0 to 1) or "standard" (float32, normalised).
    """

    id: ClassVar[str] = "vision/image-tensor"
    channels: int = 3
    size: Size | None = None
    scale: Scale = "bytes"

    def __post_init__(self) -> None:
        """Refuse impossible channels, sizes and scales."""
        if self.channels < 1:
            raise OptionError(f"{self.id}: channels={self.channels} must be at least 1")
        check_size(self.size, self.id)
        if self.scale not in ("bytes", "unit", "standard"):
            raise OptionError(f"{self.id}: scale={self.scale!r} is none of 'bytes', 'unit', 'standard'")

    def check(self, value: Any) -> str | None:
        """Return why `value` is no such tensor, or None."""
        if not isinstance(value, Tensor):
            return f"pixels are a torch tensor, not {type(value).__name__}"
        dtype = torch.uint8 if self.scale == "bytes" else torch.float32
        if value.dtype != dtype:
            return f"pixels of {dtype} expected, not {value.dtype}"
        if value.ndim != 3 or value.shape[0] != self.channels:
            return f"the shape ({self.channels}, H, W) is expected, not {tuple(value.shape)}"
        if self.size is not None and tuple(value.shape[1:]) != self.size:
            return f"a picture of {_by(self.size)} expected, not {_by((value.shape[1], value.shape[2]))}"
        if self.scale == "unit" and not bool(((value >= 0) & (value <= 1)).all()):
            return "pixels between 0 and 1 expected"
        return None

    def mock(self, rng: np.random.Generator) -> Tensor:
        """Invent noise."""
        height, width = self.size or (32, 32)
        shape = (height, width, self.channels)
        if self.scale == "bytes":
            return torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8)).permute(2, 0, 1)
        pixels = rng.random(shape) if self.scale == "unit" else rng.normal(size=shape)
        return torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)

    def collate(self, values: Sequence[Any]) -> Tensor:
        """Stack to (B, C, H, W), channels last in memory; raise BlockError naming two sizes that differ."""
        first = values[0].shape
        for value in values:
            if value.shape != first:
                raise BlockError(
                    f"pictures of {_by(first[1:])} and of {_by(value.shape[1:])} cannot form one batch; "
                    "give them one size with item_tfms=[Resize(128)]"
                )
        # numpy copies in the loader's own thread; torch would start a team of threads in each of them.
        stacked = np.stack([value.numpy().transpose(1, 2, 0) for value in values])
        return torch.from_numpy(stacked).permute(0, 3, 1, 2)

    def uncollate(self, column: Tensor) -> list[Any]:
        """Return one tensor (C, H, W) per item."""
        return list(column.cpu())

    def warp(self, column: Tensor, warp: Warp) -> Tensor:
        """Sample the pictures bilinearly."""
        return warp_pixels(column, warp)

    def sized(self, size: Size) -> Self:
        """Return the same block with a known size."""
        return replace(self, size=size)

    def show(self, value: Any, ax: Axes) -> None:
        """Draw the pixels; normalised ones are stretched over the visible range."""
        pixels = value.detach().cpu()
        if self.scale == "standard":
            low, high = pixels.min(), pixels.max()
            pixels = (pixels - low) / (high - low).clamp(min=1e-6)
        if self.scale != "bytes":
            pixels = (pixels * 255).round().clamp(0, 255).to(torch.uint8)
        _draw(to_picture(pixels if self.channels in (1, 3) else pixels[:1]), ax)

    def steps(self) -> BlockSteps:
        """Turn bytes into floats on the device."""
        from graftwork_vision.transforms import ToFloat

        return BlockSteps(batch=(ToFloat(),) if self.scale == "bytes" else ())


def to_picture(pixels: Tensor) -> Image.Image:
    """Turn uint8 pixels (1|3, H, W) into a PIL image."""
    array = pixels.detach().cpu().permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def _by(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]} (height x width)"


def _path_reason(path: Path, suffixes: Sequence[str]) -> str | None:
    if not path.exists():
        return f"no such file: {path}"
    if not path.is_file():
        return f"not a file: {path}"
    if not is_picture_name(path, suffixes):
        return f"{path.name!r} does not end like a picture ({', '.join(suffixes)})"
    return None


def _draw(picture: Image.Image, ax: Axes) -> None:
    grey = picture.mode == "L"
    ax.imshow(np.asarray(picture), cmap="gray" if grey else None, vmin=0, vmax=255)
    ax.axis("off")
