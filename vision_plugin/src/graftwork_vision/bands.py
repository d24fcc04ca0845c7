"""Pictures of any number of bands and of more than 8 bits: TIFF, 16-bit PNG, .npy.

Values become float32 from 0 to 1. What counts as 1 is `white`: by default 255 of 8-bit values, 65535 of 16-bit ones, 1
of floats. What is above is cut off.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageSequence
from torch import Tensor

from graftwork.api import Block, BlockSteps, ItemError, OptionError
from graftwork_vision.geometry import Size
from graftwork_vision.pictures import MAX_PIXELS, TooLargeError, opened_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["BandsBlock", "bands_reason", "read_bands"]

Bands: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]
_TIFF = (".tif", ".tiff")


@dataclass(frozen=True)
class BandsBlock(Block):
    """Hold an opened picture of any number of bands: a float32 array (H, W, channels), 0 to 1."""

    id: ClassVar[str] = "vision/bands"
    channels: int = 4
    size: Size | None = None

    def __post_init__(self) -> None:
        """Refuse fewer than one band."""
        if self.channels < 1:
            raise OptionError(f"{self.id}: channels={self.channels} must be at least 1")

    @property
    def resample(self) -> Image.Resampling:
        """Bilinear, over all pixels that fall together when the picture shrinks."""
        return Image.Resampling.BILINEAR

    def sized(self, size: Size) -> Self:
        """Return the same block with a known size."""
        return replace(self, size=size)

    def check(self, value: Any) -> str | None:
        """Return why `value` is no such array, or None."""
        if not isinstance(value, np.ndarray) or value.dtype != np.float32 or value.ndim != 3:
            return "bands are a float32 array (H, W, channels)"
        if value.shape[2] != self.channels:
            return f"{self.channels} bands expected, not {value.shape[2]}"
        if self.size is not None and value.shape[:2] != self.size:
            return f"a picture of {self.size} (height, width) expected, not {value.shape[:2]}"
        return None if ((value >= 0) & (value <= 1)).all() else "values between 0 and 1 expected"

    def mock(self, rng: np.random.Generator) -> Bands:
        """Invent noise."""
        height, width = self.size or (int(rng.integers(24, 64)), int(rng.integers(24, 64)))
        return rng.random((height, width, self.channels)).astype(np.float32)

    def collate(self, values: Sequence[Any]) -> Tensor:
        """Stack to float32 (B, C, H, W)."""
        from graftwork_vision.blocks import ImageTensorBlock

        pixels = [torch.from_numpy(value).permute(2, 0, 1) for value in values]
        return ImageTensorBlock(self.channels, self.size, "unit").collate(pixels)

    def uncollate(self, column: Tensor) -> list[Any]:
        """Return one array an item."""
        return [pixels.permute(1, 2, 0).numpy() for pixels in column.cpu()]

    def show(self, value: Any, ax: Axes) -> None:
        """Draw the first three bands as red, green and blue, or the first one in grey."""
        ax.imshow(value[..., :3] if value.shape[2] >= 3 else value[..., 0], cmap="gray", vmin=0, vmax=1)
        ax.axis("off")

    def steps(self) -> BlockSteps:
        """Turn the bands into a tensor."""
        from graftwork_vision.transforms import ToTensor

        return BlockSteps(closing=(ToTensor(),))


def read_bands(value: Any, *, channels: int, white: float | None = None, max_pixels: int = MAX_PIXELS) -> Bands:
    """Open a path (.npy, TIFF, any picture), bytes, a PIL image or an array (H, W), (H, W, C) or (C, H, W).

    Raises:
        ItemError: naming the file: it cannot be read, has other bands, holds NaN, or is larger than `max_pixels`.
    """
    name = f"<{len(value)} bytes>" if isinstance(value, bytes) else str(value)
    if isinstance(value, np.ndarray):
        name = "<array>"
    array = _arrayed(value, name, max_pixels)
    reason = bands_reason(array, channels)
    if reason:
        raise ItemError(f"{name}: {reason}")
    placed = _last(array, channels)
    limit = white if white is not None else 1.0 if placed.dtype.kind == "f" else float(np.iinfo(placed.dtype).max)
    scaled: Bands = placed.astype(np.float32) / np.float32(limit)
    if np.isnan(scaled).any():
        raise ItemError(f"{name}: {int(np.isnan(scaled).sum())} values are NaN; fill them before, for example with 0")
    return np.clip(scaled, 0, 1, out=scaled)


def bands_reason(array: np.ndarray[Any, Any], channels: int) -> str | None:
    """Return why `array` is no picture of so many bands, or None."""
    if array.dtype not in (np.uint8, np.uint16) and array.dtype.kind != "f":
        return f"values are uint8, uint16 or floats, not {array.dtype}"
    if array.ndim not in (2, 3) or array.size == 0:
        return f"a picture has the shape (H, W), (H, W, C) or (C, H, W), not {array.shape}"
    found = 1 if array.ndim == 2 else array.shape[2] if array.shape[2] == channels else array.shape[0]
    if found == channels:
        return None
    return f"{channels} bands expected, and the shape is {array.shape}; say ImageBlock(channels=…) to match"


def _last(array: np.ndarray[Any, Any], channels: int) -> np.ndarray[Any, Any]:
    if array.ndim == 2:
        return array[:, :, None]
    return array if array.shape[2] == channels else array.transpose(1, 2, 0)


def _arrayed(value: Any, name: str, max_pixels: int) -> np.ndarray[Any, Any]:
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, Image.Image):
        return _of_picture(value, name)
    if isinstance(value, str | os.PathLike) and Path(value).suffix.lower() == ".npy":
        return _numpy_file(Path(value), name, max_pixels)
    source = BytesIO(value) if isinstance(value, bytes) else Path(value)
    if isinstance(source, Path) and source.suffix.lower() in _TIFF:
        return _tiff(source, name, max_pixels)
    with opened_file(source, name, max_pixels=max_pixels) as opened:
        if opened.format == "PNG" and opened.mode in ("LA", "RGB", "RGBA") and _has_sixteen_bits(source):
            return _sixteen_bits(source, name)
        return _of_picture(opened, name)


def _numpy_file(path: Path, name: str, max_pixels: int) -> np.ndarray[Any, Any]:
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ItemError(f"{name}: cannot be read as a .npy file ({error})") from error
    if mapped.size > max_pixels * 16:
        raise ItemError(f"{name}: an array {mapped.shape} is more than the limit of {max_pixels:,} pixels (max_pixels)")
    return np.array(mapped)


def _has_sixteen_bits(source: Path | BytesIO) -> bool:
    """Say whether a PNG's header says 16 bits."""
    if isinstance(source, BytesIO):
        return source.getvalue()[24:25] == b"\x10"
    with source.open("rb") as file:
        return file.read(25)[24:] == b"\x10"


def _sixteen_bits(source: Path | BytesIO, name: str) -> np.ndarray[Any, Any]:
    """Decode a PNG of several bands of 16 bits, of which Pillow keeps 8."""
    from graftwork_vision.png import sixteen_bit_png

    return sixteen_bit_png(source.getvalue() if isinstance(source, BytesIO) else source.read_bytes(), name)


def _tiff(path: Path, name: str, max_pixels: int) -> np.ndarray[Any, Any]:
    """Read a TIFF, of several pages the bands one after the other; what Pillow has no mode for needs tifffile."""
    try:
        with opened_file(path, name, max_pixels=max_pixels) as opened:
            pages = [_of_picture(page, name) for page in ImageSequence.Iterator(opened)]
            if len(pages) == 1 and opened.tag_v2.get(258, (8,))[0] <= 8:  # type: ignore[attr-defined]
                return pages[0]
            if all(page.ndim == 2 for page in pages):
                return np.stack(pages) if len(pages) > 1 else pages[0]
    except TooLargeError:
        raise
    except ItemError:
        if not path.is_file():
            raise
    return _by_tifffile(path, name, max_pixels)


def _by_tifffile(path: Path, name: str, max_pixels: int) -> np.ndarray[Any, Any]:
    try:
        from tifffile import TiffFile, TiffFileError
    except ImportError as error:
        raise ItemError(
            f"{name}: Pillow cannot read this kind of TIFF (several bands of more than 8 bits); "
            "pip install 'graftwork-vision[tiff]', or save it as .npy"
        ) from error
    try:
        with TiffFile(path) as opened:
            shape = opened.series[0].shape
            if int(np.prod(sorted(shape)[-2:])) > max_pixels:
                raise TooLargeError(f"{name}: {shape} values are more than the limit of {max_pixels:,} pixels")
            found: np.ndarray[Any, Any] = opened.asarray()
    except (TiffFileError, ValueError, OSError) as error:
        raise ItemError(f"{name}: cannot be read as a TIFF ({error})") from error
    return found


def _of_picture(picture: Image.Image, name: str) -> np.ndarray[Any, Any]:
    if picture.mode in ("1", "P"):
        picture = picture.convert("RGB" if picture.mode == "P" else "L")
    try:
        array = np.array(picture)
    except (OSError, ValueError, SyntaxError) as error:
        raise ItemError(f"{name}: truncated or broken picture ({error})") from error
    # Pillow opens some 16-bit files as 32-bit integers.
    return array.astype(np.uint16) if array.dtype == np.int32 and array.min() >= 0 and array.max() < 2**16 else array
