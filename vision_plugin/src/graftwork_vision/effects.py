"""More that may happen to pictures of a batch: colour, blur, noise, compression, parts that are missing.

Each transform changes every picture by numbers of its own, with probability `p`, and nothing outside training. Pixels
are from 0 to 1 before and after, whatever their precision; the work is done in float32.
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

from graftwork.api import Block, Bound, OptionError, Transform
from graftwork_vision.blocks import ImageTensorBlock
from graftwork_vision.lighting import EPS
from graftwork_vision.spatial import check_share

__all__ = ["Blur", "Hue", "JpegArtifacts", "Noise", "PictureEffect", "RandomErasing", "Saturation", "grey"]

# The luma of Rec. 601, as in JPEG and in fastai.
LUMA: Final = (0.299, 0.587, 0.114)
Noises = dict[tuple[int, ...], Tensor]


@dataclass(frozen=True)
class PictureEffect(Transform):
    """Change the pixels of a batch's pictures where they are.

    Subclasses say how many `draws` from 0 to 1 a picture needs, whether they are `noisy`, needing a normal number for
    each of its pixels, and whether they need `colours`, three channels. `batch` draws one set of numbers for all.
    """

    stage = "batch"
    random = True
    draws: ClassVar[int] = 1
    noisy: ClassVar[bool] = False
    colours: ClassVar[bool] = False
    p: float = field(default=0.5, kw_only=True)
    batch: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        """Refuse what is no probability."""
        check_share(self.id, p=self.p)

    @abstractmethod
    def change(self, pixels: Tensor, numbers: Tensor, noise: Tensor | None) -> Tensor:
        """Return pictures (B, C, H, W) float32 changed by numbers (`draws`, B, 1, 1, 1), all of them."""

    @final
    def accepts(self, block: Block) -> bool:
        """Work on pixels from 0 to 1."""
        if not isinstance(block, ImageTensorBlock) or block.scale != "unit":
            return False
        return block.channels == 3 or not self.colours

    @final
    def out_block(self, block: Block) -> Block:
        """Change nothing about the block."""
        return block

    @final
    def draw(self, rng: torch.Generator, sample: Mapping[str, Any]) -> tuple[Tensor, Noises]:
        """Draw numbers (1 + draws, B, 1, 1, 1) for the pictures, and noise for pictures of every shape there is."""
        count = len(next(iter(sample.values())))
        numbers = torch.rand(1 + self.draws, 1 if self.batch else count, generator=rng, device=rng.device)
        shapes = sorted({tuple(column.shape) for column in sample.values() if column.ndim == 4} if self.noisy else ())
        noises = {shape: torch.randn(shape, generator=rng, device=rng.device) for shape in shapes}
        return numbers.expand(-1, count)[..., None, None, None], noises

    @final
    def bind(self, block: Block) -> Bound:
        """Change the pictures that drew it."""

        def encode(pixels: Tensor, params: tuple[Tensor, Noises] | None) -> Tensor:
            if params is None:
                return pixels
            numbers, noise = params[0].to(pixels.device), params[1].get(tuple(pixels.shape))
            changed = self.change(pixels.float(), numbers[1:], noise).clamp_(0, 1).to(pixels.dtype)
            return torch.where(numbers[0] < self.p, changed, pixels)

        return Bound(encode)


def grey(pixels: Tensor) -> Tensor:
    """Return the luma (B, 1, H, W) of colours (B, 3, H, W)."""
    return (pixels * pixels.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)


def _positive(owner: str, **given: float) -> None:
    for name, value in given.items():
        if not value > 0:
            raise OptionError(f"{owner}: {name}={value} must be above 0")


@final
@dataclass(frozen=True)
class Saturation(PictureEffect):
    """Make colours stronger or paler by up to `max_lighting`, on logits, so that nothing is clipped."""

    id: ClassVar[str] = "vision/saturation"
    colours = True
    max_lighting: float = 0.2
    p: float = field(default=0.75, kw_only=True)

    def __post_init__(self) -> None:
        """Refuse what would leave no colour."""
        super().__post_init__()
        if not 0 <= self.max_lighting < 1:
            raise OptionError(f"{self.id}: max_lighting={self.max_lighting} must be at least 0 and below 1")

    def change(self, pixels: Tensor, numbers: Tensor, noise: Tensor | None) -> Tensor:
        """Move away from grey, or towards it."""
        widest = -math.log(1 - self.max_lighting)
        logits = pixels.logit(EPS)
        return torch.lerp(grey(logits), logits, ((2 * numbers[0] - 1) * widest).exp()).sigmoid_()


@final
@dataclass(frozen=True)
class Hue(PictureEffect):
    """Turn hues by up to `max_hue` of the whole circle either way."""

    id: ClassVar[str] = "vision/hue"
    colours = True
    max_hue: float = 0.1
    p: float = field(default=0.75, kw_only=True)

    def __post_init__(self) -> None:
        """Refuse more than half a circle."""
        super().__post_init__()
        if not 0 <= self.max_hue <= 0.5:
            raise OptionError(f"{self.id}: max_hue={self.max_hue} is not between 0 and 0.5")

    def change(self, pixels: Tensor, numbers: Tensor, noise: Tensor | None) -> Tensor:
        """Add to the hue of HSV, in sixths of the circle."""
        red, green, blue = pixels.unbind(1)
        value, least = pixels.amax(1), pixels.amin(1)
        chroma = (value - least).clamp(min=1e-8)
        hue = torch.where(value == green, 2 + (blue - red) / chroma, 4 + (red - green) / chroma)
        hue = torch.where(value == red, (green - blue) / chroma, hue)
        hue = hue + 6 * self.max_hue * (2 * numbers[0, :, 0] - 1)
        turns = ((offset + hue) % 6 for offset in (5, 3, 1))
        return torch.stack([value - (value - least) * torch.minimum(k, 4 - k).clamp(0, 1) for k in turns], 1)


@final
@dataclass(frozen=True)
class Blur(PictureEffect):
    """Blur by a Gaussian whose deviation is up to `max_sigma` pixels."""

    id: ClassVar[str] = "vision/blur"
    max_sigma: float = 2.0

    def __post_init__(self) -> None:
        """Refuse no width at all."""
        super().__post_init__()
        _positive(self.id, max_sigma=self.max_sigma)

    def change(self, pixels: Tensor, numbers: Tensor, noise: Tensor | None) -> Tensor:
        """Weigh rows, then columns; edges go on outside."""
        count, channels = pixels.shape[:2]
        radius = math.ceil(3 * self.max_sigma)
        place = torch.arange(-radius, radius + 1, device=pixels.device)
        sigma = (numbers[0].view(-1, 1) * self.max_sigma).clamp(min=1e-3)
        weights = torch.softmax(-(place**2) / (2 * sigma**2), 1).repeat_interleave(channels, 0)
        whole = functional.pad(pixels, [radius] * 4, mode="replicate")
        whole = whole.reshape(1, count * channels, *whole.shape[2:])
        for shape in ((-1, 1, 2 * radius + 1, 1), (-1, 1, 1, 2 * radius + 1)):
            whole = functional.conv2d(whole, weights.view(shape), groups=count * channels)
        return whole.view_as(pixels)


@final
@dataclass(frozen=True)
class Noise(PictureEffect):
    """Add to every number of a picture one from a normal distribution whose deviation is up to `max_sigma`."""

    id: ClassVar[str] = "vision/noise"
    noisy = True
    max_sigma: float = 0.1

    def __post_init__(self) -> None:
        """Refuse no noise at all."""
        super().__post_init__()
        _positive(self.id, max_sigma=self.max_sigma)

    def change(self, pixels: Tensor, numbers: Tensor, noise: Tensor | None) -> Tensor:
        """Add."""
        assert noise is not None
        return pixels + noise * (numbers[0] * self.max_sigma)


@final
@dataclass(frozen=True)
class RandomErasing(PictureEffect):
    """Replace up to `max_count` rectangles by noise, each of a share from `sl` to `sh` of the picture.

    Their ratio of height to width is from `min_aspect` to its inverse (Zhong et al., 2017).
    """

    id: ClassVar[str] = "vision/random-erasing"
    noisy = True
    sl: float = field(default=0.0, kw_only=True)
    sh: float = field(default=0.3, kw_only=True)
    min_aspect: float = field(default=0.3, kw_only=True)
    max_count: int = field(default=1, kw_only=True)
    draws: ClassVar[int] = 64

    def __post_init__(self) -> None:
        """Refuse impossible shares, ratios and numbers."""
        super().__post_init__()
        if not 0 <= self.sl <= self.sh <= 1:
            raise OptionError(f"{self.id}: sl={self.sl} and sh={self.sh} must satisfy 0 <= sl <= sh <= 1")
        if not 0 < self.min_aspect <= 1:
            raise OptionError(f"{self.id}: min_aspect={self.min_aspect} must be above 0 and at most 1")
        if not 1 <= self.max_count <= 15:
            raise OptionError(f"{self.id}: max_count={self.max_count} is not between 1 and 15")

    def change(self, pixels: Tensor, numbers: Tensor, noise: Tensor | None) -> Tensor:
        """Erase one rectangle after the other."""
        assert noise is not None
        height, width = pixels.shape[2:]
        y = torch.arange(height, device=pixels.device)[:, None]
        x = torch.arange(width, device=pixels.device)
        count = 1 + (numbers[0] * self.max_count).floor()
        erased = torch.zeros_like(pixels[:, :1], dtype=torch.bool)
        for k in range(self.max_count):
            area, aspect, down, right = numbers[1 + 4 * k : 5 + 4 * k]
            share = (self.sl + (self.sh - self.sl) * area) / self.max_count * height * width
            ratio = ((2 * aspect - 1) * -math.log(self.min_aspect)).exp()
            tall = (share * ratio).sqrt().round().clamp(max=height)
            wide = (share / ratio).sqrt().round().clamp(max=width)
            top, left = (down * (height - tall)).round(), (right * (width - wide)).round()
            inside = (y >= top) & (y < top + tall) & (x >= left) & (x < left + wide)
            erased |= inside & (k < count)
        return torch.where(erased, 0.5 + 0.25 * noise, pixels)


# The standard's own tables for luma and chroma (ITU T.81, annex K), a row each.
_TABLES: Final = (
    (
        "16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62 "
        "18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"
    ),
    "17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 " + "99 " * 38,
)
_TO_YCC: Final = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


@final
@dataclass(frozen=True)
class JpegArtifacts(PictureEffect):
    """Lose what a JPEG of a quality from `min_quality` to `max_quality` loses, chroma at full size."""

    id: ClassVar[str] = "vision/jpeg-artifacts"
    min_quality: int = 30
    max_quality: int = 90

    def __post_init__(self) -> None:
        """Refuse qualities that JPEG does not have."""
        super().__post_init__()
        if not 1 <= self.min_quality <= self.max_quality <= 100:
            raise OptionError(
                f"{self.id}: min_quality={self.min_quality} and max_quality={self.max_quality} must satisfy "
                "1 <= min_quality <= max_quality <= 100"
            )

    def change(self, pixels: Tensor, numbers: Tensor, noise: Tensor | None) -> Tensor:
        """Round the cosine transform of 8x8 blocks, as the standard does."""
        quality = self.min_quality + (self.max_quality - self.min_quality) * numbers[0]
        scale = torch.where(quality < 50, 50 / quality, 2 - quality / 50)
        height, width = pixels.shape[2:]
        whole = functional.pad(255 * pixels, (0, -width % 8, 0, -height % 8), mode="replicate")
        if pixels.shape[1] != 3:
            return _quantised(whole - 128, 0, scale)[:, :, :height, :width].add_(128).div_(255)
        to_ycc = whole.new_tensor(_TO_YCC)
        planes = torch.einsum("kc,bchw->bkhw", to_ycc, whole)
        luma = _quantised(planes[:, :1] - 128, 0, scale) + 128
        planes = torch.cat((luma, _quantised(planes[:, 1:], 1, scale)), 1)
        found = torch.einsum("ck,bkhw->bchw", torch.linalg.inv(to_ycc.cpu()).to(whole.device), planes)
        return found[:, :, :height, :width].div(255)


def _quantised(planes: Tensor, table: int, scale: Tensor) -> Tensor:
    """Round planes (B, C, H, W) in steps of a table times a scale (B, 1, 1, 1)."""
    count, channels, height, width = planes.shape
    steps = planes.new_tensor([float(n) for n in _TABLES[table].split()]).view(8, 8)
    steps = (steps * scale + 0.5).floor_().clamp_(1, 255)[:, :, None, None]
    at = torch.arange(8, dtype=torch.float32, device=planes.device)
    cosines = torch.cos(math.pi / 8 * (at + 0.5) * at[:, None]) / 2
    cosines[0] /= 2**0.5
    blocks = planes.reshape(count, channels, height // 8, 8, width // 8, 8).transpose(3, 4)
    blocks = (cosines @ blocks @ cosines.T / steps).round_() * steps
    return (cosines.T @ blocks @ cosines).transpose(3, 4).reshape(planes.shape)
