"""Transforms of pictures: opening and closing steps, resizing, normalising."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Final, Literal, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from graftwork.api import Block, Bound, DataError, Fused, ItemError, OptionError, PlanError, Transform, unknown
from graftwork_vision.bands import BandsBlock, read_bands
from graftwork_vision.blocks import (
    ImageBlock,
    ImageTensorBlock,
    PictureBlock,
    PixelBlock,
    Scale,
    Size,
    to_picture,
)
from graftwork_vision.geometry import PadMode
from graftwork_vision.pictures import open_picture, to_array
from graftwork_vision.places import Frame, PlacedBlock, moved

__all__ = [
    "DecodeImage",
    "Normalize",
    "RandomResizedCrop",
    "Resize",
    "ToFloat",
    "ToTensor",
    "imagenet_stats",
]

Method = Literal["crop", "pad", "squish"]
Stats = tuple[float, ...]

imagenet_stats: Final = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_PAD: Final = {"reflection": "reflect", "border": "edge", "zeros": "constant"}


def as_size(size: int | Size, owner: str) -> Size:
    """Return (height, width); one number means a square. Raise OptionError for anything else."""
    pair = size if isinstance(size, tuple | list) else (size, size)
    if len(pair) != 2 or not all(isinstance(n, int) and n > 0 for n in pair):
        raise OptionError(f"{owner}: size={size!r} is no number of pixels, nor (height, width), from 1 on")
    return pair[0], pair[1]


def as_pixels(pixels: np.ndarray[Any, Any]) -> Tensor:
    """Return an array (H, W, C) as a tensor (C, H, W) of the same memory.

    numpy turns it: torch would let other threads run at every call, for which they then fight.
    """
    return torch.from_numpy(pixels.transpose(2, 0, 1))


@dataclass(frozen=True)
class DecodeImage(Transform):
    """Open a picture as RGB or grey, as its block says: EXIF rotation applied, transparency laid on white.

    Raises ItemError naming the file if it cannot be read, or has not the size the block states.
    """

    id: ClassVar[str] = "vision/decode"

    def accepts(self, block: Block) -> bool:
        """Work on named pictures."""
        return isinstance(block, ImageBlock)

    def out_block(self, block: Block) -> Block:
        """Give opened pictures."""
        assert isinstance(block, ImageBlock)
        return (BandsBlock if block.all_bands else PictureBlock)(block.channels, block.size)

    def bind(self, block: Block) -> Bound:
        """Open with the block's channels."""
        assert isinstance(block, ImageBlock)
        options: dict[str, Any] = {"channels": block.channels, "max_pixels": block.max_pixels}
        if block.all_bands:
            opening: Callable[[Any], Any] = partial(read_bands, white=block.white, **options)
        else:
            opening = partial(open_picture, shrink_to=block.shrink_to, **options)
        if block.size is None:
            return Bound(lambda value, _: opening(value))
        opened = self.out_block(block)

        def encode(value: Any, _: Any) -> Any:
            picture = opening(value)
            reason = opened.check(picture)
            if reason:
                raise ItemError(f"{reason}; give all pictures one size with item_tfms=[Resize(…)]")
            return picture

        return Bound(encode)

    def fused(self, block: Block, following: Sequence[Transform]) -> Fused | None:
        """Make a tensor of a JPEG's pixels, of the size it is to have, on the way."""
        from graftwork_vision.loading import fused_jpeg

        assert isinstance(block, ImageBlock)
        return fused_jpeg(block, following) if type(self) is DecodeImage else None


@dataclass(frozen=True)
class ToTensor(Transform):
    """Turn an opened picture into uint8 pixels (C, H, W)."""

    id: ClassVar[str] = "vision/to-tensor"

    def accepts(self, block: Block) -> bool:
        """Work on opened pictures."""
        return isinstance(block, PictureBlock | BandsBlock)

    def out_block(self, block: Block) -> Block:
        """Give pixels as bytes, or as floats where all bits are kept."""
        assert isinstance(block, PictureBlock | BandsBlock)
        scale: Scale = "unit" if isinstance(block, BandsBlock) else "bytes"
        return ImageTensorBlock(block.channels, block.size, scale)

    def bind(self, block: Block) -> Bound:
        """Copy the pixels."""
        if isinstance(block, BandsBlock):
            return Bound(
                lambda bands, _: as_pixels(bands.copy()),
                lambda pixels: pixels.permute(1, 2, 0).numpy(),
            )
        return Bound(lambda picture, _: as_pixels(to_array(picture)), to_picture)


@dataclass(frozen=True)
class ToFloat(Transform):
    """Turn bytes into floats from 0 to 1, on the device. Decoding is exact."""

    id: ClassVar[str] = "vision/to-float"
    stage = "batch"

    def accepts(self, block: Block) -> bool:
        """Work on pixels as bytes."""
        return isinstance(block, ImageTensorBlock) and block.scale == "bytes"

    def out_block(self, block: Block) -> Block:
        """Give pixels from 0 to 1."""
        return _scaled(block, "unit")

    def bind(self, block: Block) -> Bound:
        """Divide by 255."""
        return Bound(
            lambda x, _: x.float().div_(255),
            lambda x: (x * 255).round_().clamp_(0, 255).to(torch.uint8),
        )

    def fused(self, block: Block, following: Sequence[Transform]) -> Fused | None:
        """Move, light and normalise pictures on the way."""
        from graftwork_vision.one_pass import fused_bytes

        assert isinstance(block, ImageTensorBlock)
        return fused_bytes(block, following)


def _scaled(block: Block, scale: Scale) -> ImageTensorBlock:
    assert isinstance(block, ImageTensorBlock)
    return replace(block, scale=scale)


@dataclass(frozen=True)
class Normalize(Transform):
    """Subtract a mean per channel and divide by a standard deviation, given or fitted on the training split.

    Statistics are of pixels from 0 to 1. A channel that never changes keeps its scale (deviation 1).
    """

    id: ClassVar[str] = "vision/normalize"
    stage = "batch"
    mean: Stats | None = None
    std: Stats | None = None

    def __post_init__(self) -> None:
        """Refuse one without the other, different lengths, and deviations that are not positive."""
        if (self.mean is None) != (self.std is None):
            raise OptionError(f"{self.id}: give mean and std together, or neither to have both fitted")
        if self.mean is None or self.std is None:
            return
        if len(self.mean) != len(self.std) or not all(s > 0 for s in self.std):
            raise OptionError(f"{self.id}: mean={self.mean} and std={self.std} need one value per channel, std above 0")

    @classmethod
    def from_stats(cls, mean: Stats, std: Stats) -> Self:
        """Normalise with known statistics: `Normalize.from_stats(*imagenet_stats)`."""
        return cls(tuple(map(float, mean)), tuple(map(float, std)))

    def accepts(self, block: Block) -> bool:
        """Work on pixels from 0 to 1."""
        return isinstance(block, ImageTensorBlock) and block.scale == "unit"

    @property
    def needs_fit(self) -> bool:
        """Fit where no statistics were given."""
        return self.mean is None

    def fit(self, values: Iterable[Any], block: Block) -> Self:
        """Take mean and deviation of batches (B, C, H, W), in float64; raise DataError if there is none."""
        count, mean, spread = 0, torch.zeros(()), torch.zeros(())
        for batch in values:
            count, mean, spread = _merge(count, mean, spread, batch)
        if not count:
            raise DataError(f"{self.id}: there is no picture to take statistics of")
        std = (spread / count).sqrt()
        std = torch.where(std < 1e-6, torch.ones_like(std), std)
        return replace(self, mean=tuple(mean.tolist()), std=tuple(std.tolist()))

    def out_block(self, block: Block) -> Block:
        """Give normalised pixels."""
        after = _scaled(block, "standard")
        if self.mean is not None and len(self.mean) != after.channels:
            raise PlanError(
                f"{self.id} has statistics of {len(self.mean)} channel(s), the pictures have {after.channels}; "
                "use Normalize() to have them fitted, or open the pictures with ImageBlock(channels=…) to match"
            )
        return after

    def bind(self, block: Block) -> Bound:
        """Keep the statistics on the device of the last batch."""
        on = _OnDevice(self.mean or (), self.std or ())

        def encode(x: Tensor, _: Any) -> Tensor:
            mean, std = on(x.device)
            return x.sub(mean).div_(std)

        def decode(x: Tensor) -> Tensor:
            mean, std = on(x.device)
            return x.mul(std).add_(mean)

        return Bound(encode, decode)


def _merge(count: int, mean: Tensor, spread: Tensor, batch: Tensor) -> tuple[int, Tensor, Tensor]:
    """Merge running moments with a batch's (Chan, Golub and LeVeque, 1979)."""
    x = batch.detach().cpu().double().transpose(0, 1).flatten(1)
    new, new_mean = x.shape[1], x.mean(1)
    new_spread = (x - new_mean[:, None]).square().sum(1)
    if not count:
        return new, new_mean, new_spread
    total, delta = count + new, new_mean - mean
    return total, mean + delta * (new / total), spread + new_spread + delta.square() * (count * new / total)


class _OnDevice:
    """Hold mean and deviation as (C, 1, 1) tensors, moved once per device."""

    def __init__(self, mean: Stats, std: Stats) -> None:
        self._stats = (torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None])

    def __call__(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if self._stats[0].device != device:
            self._stats = (self._stats[0].to(device), self._stats[1].to(device))
        return self._stats


@dataclass(frozen=True)
class Resize(Transform):
    """Give pictures one size by cropping to its shape, padding to it, or squishing.

    "crop" and "pad" place the picture at random in training and in the centre otherwise. `pad_mode` is "reflection",
    "border" (the edge repeated) or "zeros".
    """

    id: ClassVar[str] = "vision/resize"
    random = True
    size: int | Size
    method: Method = field(default="crop", kw_only=True)
    pad_mode: PadMode = field(default="reflection", kw_only=True)

    def __post_init__(self) -> None:
        """Make the size (height, width), and refuse unknown methods."""
        object.__setattr__(self, "size", as_size(self.size, self.id))
        if self.method not in ("crop", "pad", "squish"):
            raise unknown("resize method", self.method, ("crop", "pad", "squish"))
        if self.pad_mode not in _PAD:
            raise unknown("pad mode", self.pad_mode, _PAD)

    def accepts(self, block: Block) -> bool:
        """Work on opened pictures, and on places in them."""
        return isinstance(block, PixelBlock | BandsBlock | PlacedBlock)

    def out_block(self, block: Block) -> Block:
        """Give pictures of the size."""
        return _resized_block(block, as_size(self.size, self.id))

    def draw(self, rng: np.random.Generator, sample: Mapping[str, Any]) -> tuple[float, float]:
        """Draw the position as shares of the room left, down and right."""
        return float(rng.random()), float(rng.random())

    def bind(self, block: Block) -> Bound:
        """Resize with the block's interpolation."""
        size, pad_mode = as_size(self.size, self.id), _PAD[self.pad_mode]
        if isinstance(block, PlacedBlock):
            return Bound(lambda placed, at: moved(placed, self._frame(placed["size"], at or (0.5, 0.5)), size))
        assert isinstance(block, PixelBlock | BandsBlock)
        resample = block.resample
        if self.method == "squish":
            return _bound(block, lambda picture, _: _resized(picture, size, resample))
        if self.method == "crop":
            return _bound(block, lambda picture, at: _resized(picture, size, resample, self.part(_size(picture), at)))
        return _bound(block, lambda picture, at: _padded(picture, size, resample, at or (0.5, 0.5), pad_mode))

    def part(self, before: Size, at: tuple[float, float] | None) -> Box:
        """Return the part (left, top, right, bottom) of a picture that fills the size; not of "pad"."""
        if self.method == "squish":
            return 0.0, 0.0, float(before[1]), float(before[0])
        return _crop_box(before, as_size(self.size, self.id), at or (0.5, 0.5))

    def _frame(self, before: Size, at: tuple[float, float]) -> Frame:
        """Say where places of a picture of size `before` go."""
        size = as_size(self.size, self.id)
        if self.method == "pad":
            return Frame.of_inset(size, *_inset(before, size, at))
        return Frame.of_part(before, self.part(before, at))


Box = tuple[float, float, float, float]


def _resized(picture: Image.Image, size: Size, resample: Image.Resampling, box: Box | None = None) -> Image.Image:
    whole = (0.0, 0.0, float(picture.width), float(picture.height))
    if (picture.height, picture.width) == size and box in (None, whole):
        return picture
    if box is not None and (corner := cut_at(box, size)):
        left, top = corner
        return picture.crop((left, top, left + size[1], top + size[0]))
    # The gap lets Pillow average whole blocks first when shrinking more than four times.
    return picture.resize((size[1], size[0]), resample, box=box, reducing_gap=2.0)


def cut_at(box: Box, size: Size) -> tuple[int, int] | None:
    """Return (left, top) of a part that has the size already: it is cut out at whole pixels, nothing interpolated."""
    same = abs(box[3] - box[1] - size[0]) + abs(box[2] - box[0] - size[1]) < 1e-6
    return (round(box[0]), round(box[1])) if same else None


def _size(picture: Image.Image) -> Size:
    return picture.height, picture.width


def _crop_box(before: Size, size: Size, at: tuple[float, float]) -> Box:
    height, width = before
    scale = min(height / size[0], width / size[1])
    # Floating point must not push the box over the edge, which Pillow refuses.
    tall, wide = min(scale * size[0], height), min(scale * size[1], width)
    top, left = at[0] * (height - tall), at[1] * (width - wide)
    return left, top, min(left + wide, width), min(top + tall, height)


def _padded(
    picture: Image.Image, size: Size, resample: Image.Resampling, at: tuple[float, float], pad_mode: str
) -> Image.Image:
    inner, (top, left) = _inset((picture.height, picture.width), size, at)
    pixels = np.asarray(_resized(picture, inner, resample))
    room = [(top, size[0] - inner[0] - top), (left, size[1] - inner[1] - left)]
    room += [(0, 0)] * (pixels.ndim - 2)
    return Image.fromarray(np.pad(pixels, room, mode=pad_mode))  # type: ignore[call-overload]


def _inset(before: Size, size: Size, at: tuple[float, float]) -> tuple[Size, tuple[int, int]]:
    """Return the size a picture has within a padded one, and where it lies there (top, left)."""
    scale = max(before[0] / size[0], before[1] / size[1])
    inner = (_clamp(round(before[0] / scale), size[0]), _clamp(round(before[1] / scale), size[1]))
    return inner, (int(at[0] * (size[0] - inner[0])), int(at[1] * (size[1] - inner[1])))


def _resized_block(block: Block, size: Size) -> Block:
    if isinstance(block, PlacedBlock):
        return block
    assert isinstance(block, PixelBlock | BandsBlock)
    return block.sized(size)


def _bound(block: Block, change: Callable[[Image.Image, Any], Image.Image]) -> Bound:
    """Bind a change of a picture; of one with bands it is done to each."""
    if not isinstance(block, BandsBlock):
        return Bound(change)

    def each(bands: np.ndarray[Any, Any], params: Any) -> np.ndarray[Any, Any]:
        changed = [change(Image.fromarray(bands[:, :, i]), params) for i in range(bands.shape[2])]
        return np.stack([np.asarray(band) for band in changed], 2).clip(0, 1)

    return Bound(each)


def _clamp(value: int, high: int) -> int:
    return max(1, min(value, high))


@dataclass(frozen=True)
class RandomResizedCrop(Transform):
    """Crop a random part of random shape and give it the size; outside training, squish and take the centre.

    The part covers `min_scale` to `max_scale` of the picture, width over height within `ratio`; after ten misses the
    largest centred part with an allowed ratio is taken. `val_xtra` is how much larger the squished picture is.
    """

    id: ClassVar[str] = "vision/random-resized-crop"
    random = True
    size: int | Size
    min_scale: float = field(default=0.08, kw_only=True)
    max_scale: float = field(default=1.0, kw_only=True)
    ratio: tuple[float, float] = field(default=(3 / 4, 4 / 3), kw_only=True)
    val_xtra: float = field(default=0.14, kw_only=True)

    def __post_init__(self) -> None:
        """Make the size (height, width), and refuse impossible ranges."""
        object.__setattr__(self, "size", as_size(self.size, self.id))
        if not 0 < self.min_scale <= self.max_scale <= 1:
            raise OptionError(
                f"{self.id}: min_scale={self.min_scale} and max_scale={self.max_scale} must satisfy "
                "0 < min_scale <= max_scale <= 1"
            )
        if not 0 < self.ratio[0] <= self.ratio[1] or self.val_xtra < 0:
            raise OptionError(f"{self.id}: ratio={self.ratio} must rise from above 0, val_xtra={self.val_xtra} be >= 0")

    def accepts(self, block: Block) -> bool:
        """Work on opened pictures, and on places in them."""
        return isinstance(block, PixelBlock | BandsBlock | PlacedBlock)

    def out_block(self, block: Block) -> Block:
        """Give pictures of the size."""
        return _resized_block(block, as_size(self.size, self.id))

    def draw(self, rng: np.random.Generator, sample: Mapping[str, Any]) -> np.ndarray[Any, Any]:
        """Draw ten attempts of (area, ratio, down, right), each from 0 to 1."""
        return rng.random((10, 4))

    def bind(self, block: Block) -> Bound:
        """Crop with the block's interpolation."""
        size = as_size(self.size, self.id)
        if isinstance(block, PlacedBlock):
            return Bound(lambda placed, draws: moved(placed, self._frame(placed["size"], draws), size))
        assert isinstance(block, PixelBlock | BandsBlock)
        resample = block.resample
        return _bound(block, lambda picture, at: _resized(picture, size, resample, self.part(_size(picture), at)))

    def box(self, size: Size, draws: np.ndarray[Any, Any]) -> tuple[int, int, int, int]:
        """Return the part (left, top, right, bottom) of a picture of `size` that the draws choose."""
        height, width = size
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for area, ratio, down, right in draws.tolist():
            pixels = (self.min_scale + area * (self.max_scale - self.min_scale)) * height * width
            shape = math.exp(low + ratio * (high - low))
            wide, tall = round(math.sqrt(pixels * shape)), round(math.sqrt(pixels / shape))
            if 0 < wide <= width and 0 < tall <= height:
                left, top = int(right * (width - wide + 1)), int(down * (height - tall + 1))
                return left, top, left + wide, top + tall
        wide, tall = min(width, _clamp(int(height * self.ratio[1]), width)), height
        if width / height < self.ratio[0]:
            wide, tall = width, _clamp(int(width / self.ratio[0]), height)
        left, top = (width - wide) // 2, (height - tall) // 2
        return left, top, left + wide, top + tall

    def part(self, before: Size, draws: Any) -> Box:
        """Return the part (left, top, right, bottom) of a picture that fills the size, in training or outside."""
        if draws is not None:
            return self.box(before, draws)
        size = as_size(self.size, self.id)
        half = self._extra(size) // 2
        tall, wide = before[0] / (size[0] + 2 * half), before[1] / (size[1] + 2 * half)
        # Floating point must not push the part over the edge, which Pillow refuses.
        right, bottom = min((half + size[1]) * wide, before[1]), min((half + size[0]) * tall, before[0])
        return half * wide, half * tall, right, bottom

    def _frame(self, before: Size, draws: Any) -> Frame:
        """Say where places of a picture of size `before` go."""
        return Frame.of_part(before, self.part(before, draws))

    def _extra(self, size: Size) -> int:
        return math.ceil(max(size) * self.val_xtra / 8) * 8
