"""Random geometry of a batch: each transform gives a matrix per picture, and a run of them samples the pixels once.

Every field that lies in the picture follows by the same numbers: pixels, masks, points, boxes (`SpatialBlock`).
Matrices lead from output to input positions, in [-1, 1] (see `geometry`), and turn circles into circles whatever the
picture's shape. A picture that turns shows what lies beyond its edge by `pad_mode`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, ClassVar, TypeVar, final

import torch
from torch import Tensor

from graftwork.api import Block, Bound, Fused, OptionError, PlanError, Transform, unknown
from graftwork_vision.geometry import PAD_MODES, PadMode, SampleMode, Size, SpatialBlock, Warp, check_mode
from graftwork_vision.transforms import as_size

__all__ = [
    "Dihedral",
    "Drawn",
    "Flip",
    "Perspective",
    "RandomResizedCropGPU",
    "Rotate",
    "SpatialTransform",
    "Zoom",
    "check_share",
    "composed",
    "leading",
    "matrix",
    "picture_size",
    "spatial_run",
]

T = TypeVar("T", bound=Transform)

MOST_WARP = 0.35


@dataclass(frozen=True, slots=True)
class Drawn:
    """Hold what a batch drew: numbers (K, B) from 0 to 1, none outside training, and the size of its pictures."""

    numbers: Tensor | None
    size: Size | None


def picture_size(sample: Mapping[str, Tensor]) -> Size | None:
    """Return the size of the pictures among a batch's fields, the first if there are several; None if there is none."""
    return next(((column.shape[2], column.shape[3]) for column in sample.values() if column.ndim == 4), None)


def check_share(owner: str, **given: float) -> None:
    """Refuse what is not between 0 and 1, by name."""
    for name, value in given.items():
        if not 0 <= value <= 1:
            raise OptionError(f"{owner}: {name}={value} is not between 0 and 1")


@dataclass(frozen=True)
class SpatialTransform(Transform):
    """Move the pictures of a batch and all that lies in them, each by numbers of its own.

    Subclasses say how many `draws` a picture needs and make matrices of them. Give pictures `size` on the way;
    `batch` draws one set of numbers for all; `mode` says how pixels are sampled, "bilinear" or "nearest".
    """

    stage = "batch"
    random = True
    reads_sample: ClassVar[bool] = True
    draws: ClassVar[int]
    p: float = field(default=0.5, kw_only=True)
    size: int | Size | None = field(default=None, kw_only=True)
    pad_mode: PadMode = field(default="reflection", kw_only=True)
    batch: bool = field(default=False, kw_only=True)
    mode: SampleMode = field(default="bilinear", kw_only=True)

    def __post_init__(self) -> None:
        """Make the size (height, width), and refuse impossible values by name."""
        check_share(self.id, p=self.p)
        if self.size is not None:
            object.__setattr__(self, "size", as_size(self.size, self.id))
        if self.pad_mode not in PAD_MODES:
            raise unknown("pad mode", self.pad_mode, PAD_MODES)
        check_mode(self.id, self.mode)

    @abstractmethod
    def matrices(self, numbers: Tensor | None, size: Size) -> Tensor | None:
        """Return homographies (B, 3, 3) of numbers (K, B), or outside training; None where nothing moves.

        `size` is that of the pictures before this step.
        """

    @final
    def after(self, size: Size) -> Size:
        """Return the size of pictures after this step."""
        return size if self.size is None else as_size(self.size, self.id)

    @final
    def accepts(self, block: Block) -> bool:
        """Work on all that lies in a picture."""
        return isinstance(block, SpatialBlock)

    @final
    def out_block(self, block: Block) -> Block:
        """Give the same, of the size if there is one."""
        assert isinstance(block, SpatialBlock)
        return block if self.size is None else block.sized(as_size(self.size, self.id))

    @final
    def draw(self, rng: torch.Generator | None, sample: Mapping[str, Any]) -> Drawn:
        """Draw numbers for every picture, and see how large pictures are."""
        size = picture_size(sample)
        if rng is None:
            return Drawn(None, size)
        count = len(next(iter(sample.values())))
        numbers = torch.rand(self.draws, 1 if self.batch else count, generator=rng, device=rng.device)
        return Drawn(numbers.expand(-1, count), size)

    @final
    def bind(self, block: Block) -> Bound:
        """Move the column."""
        return Bound(lambda column, drawn: moved([self], [drawn], column, block))

    @final
    def fused(self, block: Block, following: Sequence[Transform]) -> Fused | None:
        """Sample once for this and the steps of its kind that follow."""
        run = spatial_run([self, *following])
        return Fused(len(run), lambda column, params: moved(run, params, column, block))


def leading(tfms: Sequence[Transform], kind: type[T]) -> list[T]:
    """Return the transforms at the beginning that are of a kind."""
    found: list[T] = []
    for tfm in tfms:
        if not isinstance(tfm, kind):
            break
        found.append(tfm)
    return found


def spatial_run(tfms: Sequence[Transform]) -> list[SpatialTransform]:
    """Return the transforms at the beginning that can be done by one sampling: one way of padding and of sampling."""
    run = leading(tfms, SpatialTransform)  # type: ignore[type-abstract]
    return list(takewhile(lambda tfm: (tfm.pad_mode, tfm.mode) == (run[0].pad_mode, run[0].mode), run))


def moved(run: Sequence[SpatialTransform], params: Sequence[Drawn | None], column: Tensor, block: Block) -> Tensor:
    """Return a column after a run of steps; the same one if nothing moves."""
    assert isinstance(block, SpatialBlock)
    warp = composed(run, params, column)
    return column if warp is None else block.warp(column, warp)


def composed(run: Sequence[SpatialTransform], params: Sequence[Drawn | None], column: Tensor) -> Warp | None:
    """Put the matrices of a run together, None if nothing moves; raise PlanError if the pictures' size is not known."""
    before = _size_of(column, params)
    after, total = before, None
    for tfm, drawn in zip(run, params, strict=True):
        step = tfm.matrices(None if drawn is None else drawn.numbers, after)
        if step is not None:
            total = step if total is None else total @ step
        after = tfm.after(after)
    if total is None:
        if after == before:
            return None
        total = torch.eye(3, device=column.device)[None]
    matrices = total.to(column.device).expand(len(column), 3, 3)
    return Warp(matrices=matrices, before=before, after=after, pad_mode=run[0].pad_mode, mode=run[0].mode)


def _size_of(column: Tensor, params: Sequence[Drawn | None]) -> Size:
    """Return the size of the pictures: the column's own, or that of the pictures beside it."""
    known = [drawn.size for drawn in params if drawn is not None and drawn.size is not None]
    if column.ndim != 4 and known:
        return known[0]
    if column.ndim < 3:
        raise PlanError(f"no picture is beside a column of shape {tuple(column.shape)}, so its geometry is not known")
    return column.shape[-2], column.shape[-1]


def matrix(*entries: Tensor | float) -> Tensor:
    """Return matrices (B, 3, 3) of nine entries, numbers or (B,)."""
    like = next(entry for entry in entries if isinstance(entry, Tensor))
    rows = [entry if isinstance(entry, Tensor) else like.new_tensor(entry).expand_as(like) for entry in entries]
    return torch.stack(rows, 1).view(-1, 3, 3)


def _either(chance: Tensor, p: float, value: Tensor, neutral: float) -> Tensor:
    """Take the value with probability p."""
    return torch.where(chance < p, value, neutral)


def _between(numbers: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * numbers


@final
@dataclass(frozen=True)
class Flip(SpatialTransform):
    """Mirror pictures left to right, each of a batch with probability `p`; never outside training."""

    id: ClassVar[str] = "vision/flip"
    draws = 1
    p: float = 0.5

    def matrices(self, numbers: Tensor | None, size: Size) -> Tensor | None:
        """Mirror where the number is below p."""
        if numbers is None:
            return None
        sign = _either(numbers[0], self.p, -torch.ones_like(numbers[0]), 1.0)
        return matrix(sign, 0, 0, 0, 1, 0, 0, 0, 1)


@final
@dataclass(frozen=True)
class Dihedral(SpatialTransform):
    """Give pictures one of the eight symmetries of a square with probability `p`; never outside training.

    Pictures that are no squares keep their size and are squeezed by quarter turns.
    """

    id: ClassVar[str] = "vision/dihedral"
    draws = 2
    p: float = 0.5

    def matrices(self, numbers: Tensor | None, size: Size) -> Tensor | None:
        """Mirror left to right by the first bit, up and down by the second, exchange x and y by the third."""
        if numbers is None:
            return None
        which = _either(numbers[0], self.p, (numbers[1] * 8).floor(), 0.0).long()
        x, y = 1.0 - 2 * (which & 1), 1.0 - (which & 2)
        exchanged = (which >> 2).to(x.dtype)
        kept = 1 - exchanged
        return matrix(x * kept, x * exchanged, 0, y * exchanged, y * kept, 0, 0, 0, 1)


@final
@dataclass(frozen=True)
class Rotate(SpatialTransform):
    """Turn pictures by up to `max_deg` degrees either way with probability `p`; never outside training."""

    id: ClassVar[str] = "vision/rotate"
    draws = 2
    max_deg: float = 10.0

    def __post_init__(self) -> None:
        """Refuse what is no angle."""
        super().__post_init__()
        if not 0 <= self.max_deg <= 180:
            raise OptionError(f"{self.id}: max_deg={self.max_deg} is not between 0 and 180 degrees")

    def matrices(self, numbers: Tensor | None, size: Size) -> Tensor | None:
        """Turn in pixels, where both sides have one measure."""
        if numbers is None:
            return None
        angle = _either(numbers[0], self.p, _between(numbers[1], -self.max_deg, self.max_deg), 0.0) * (math.pi / 180)
        cos, sin, shape = angle.cos(), angle.sin(), size[0] / size[1]
        return matrix(cos, sin * shape, 0, -sin / shape, cos, 0, 0, 0, 1)


@final
@dataclass(frozen=True)
class Zoom(SpatialTransform):
    """Enlarge pictures `min_zoom` to `max_zoom` times about a random place, with probability `p`; only in training."""

    id: ClassVar[str] = "vision/zoom"
    draws = 4
    min_zoom: float = 1.0
    max_zoom: float = 1.1

    def __post_init__(self) -> None:
        """Refuse a range that does not rise from above 0."""
        super().__post_init__()
        if not 0 < self.min_zoom <= self.max_zoom:
            raise OptionError(
                f"{self.id}: min_zoom={self.min_zoom} and max_zoom={self.max_zoom} must satisfy "
                "0 < min_zoom <= max_zoom"
            )

    def matrices(self, numbers: Tensor | None, size: Size) -> Tensor | None:
        """Scale, and choose what is seen of the picture, or where it lies if it shrinks."""
        if numbers is None:
            return None
        share = 1 / _either(numbers[0], self.p, _between(numbers[1], self.min_zoom, self.max_zoom), 1.0)
        room = 1 - share
        x, y = (room * _between(numbers[k], -1, 1) for k in (2, 3))
        return matrix(share, 0, x, 0, share, y, 0, 0, 1)


@final
@dataclass(frozen=True)
class Perspective(SpatialTransform):
    """Look at pictures from aside and from above or below, each with probability `p`; never outside training.

    An edge becomes up to 1 + `magnitude` times as long and the opposite one as much shorter (fastai's Warp).
    """

    id: ClassVar[str] = "vision/perspective"
    draws = 4
    magnitude: float = 0.2

    def __post_init__(self) -> None:
        """Refuse what would bring a corner behind the eye."""
        super().__post_init__()
        if not 0 <= self.magnitude <= MOST_WARP:
            raise OptionError(f"{self.id}: magnitude={self.magnitude} is not between 0 and {MOST_WARP}")

    def matrices(self, numbers: Tensor | None, size: Size) -> Tensor | None:
        """Invert the map that moves the corners (-1, -1), (-1, 1), … to (-1 - y, -1 - x), (-1 + y, 1 + x), …."""
        if numbers is None:
            return None
        x, y = (
            _either(numbers[k], self.p, _between(numbers[k + 1], -self.magnitude, self.magnitude), 0.0) for k in (0, 2)
        )
        xx, yy = x * x, y * y
        diagonal, across = 1 - xx - yy, 2 * x * y
        right, down = -x * (1 - xx + yy), -y * (1 - yy + xx)
        return matrix(diagonal, across, right, across, diagonal, down, right, down, diagonal)


@final
@dataclass(frozen=True)
class RandomResizedCropGPU(SpatialTransform):
    """Crop a random part of each picture and give it the `size`; outside training the largest centred part.

    The part covers `min_scale` to `max_scale` of the picture, as far as its ratio of width to height, within `ratio`,
    lets it. Outside training `valid_scale` of the centred part's sides is taken. What geometry after this one turns
    into view from beyond the part is there to be seen. (fastai draws one part for all pictures of a batch.)
    """

    id: ClassVar[str] = "vision/random-resized-crop-gpu"
    draws = 4
    p: float = field(default=1.0, kw_only=True)
    size: int | Size | None = None
    min_scale: float = field(default=0.08, kw_only=True)
    max_scale: float = field(default=1.0, kw_only=True)
    ratio: tuple[float, float] = field(default=(3 / 4, 4 / 3), kw_only=True)
    valid_scale: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        """Refuse impossible ranges."""
        super().__post_init__()
        if not 0 < self.min_scale <= self.max_scale <= 1:
            raise OptionError(
                f"{self.id}: min_scale={self.min_scale} and max_scale={self.max_scale} must satisfy "
                "0 < min_scale <= max_scale <= 1"
            )
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise OptionError(f"{self.id}: ratio={self.ratio} must rise from above 0")
        if not 0 < self.valid_scale <= 1:
            raise OptionError(f"{self.id}: valid_scale={self.valid_scale} must be above 0 and at most 1")

    def matrices(self, numbers: Tensor | None, size: Size) -> Tensor | None:
        """Draw a ratio, then an area that a part of that ratio can have, then the part's place."""
        shape = size[1] / size[0]
        if numbers is None:
            return self._centre(shape)
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        relative = _between(numbers[0], low, high).exp() / shape
        most = torch.minimum(relative, 1 / relative).clamp(max=self.max_scale)
        area = torch.minimum(self.min_scale + (most - self.min_scale).clamp(min=0) * numbers[1], most)
        wide, high_part = (area * relative).sqrt(), (area / relative).sqrt()
        x, y = (1 - wide) * _between(numbers[2], -1, 1), (1 - high_part) * _between(numbers[3], -1, 1)
        return matrix(wide, 0, x, 0, high_part, y, 0, 0, 1)

    def _centre(self, shape: float) -> Tensor | None:
        wide = min(1.0, self.ratio[1] / shape) * self.valid_scale
        high = min(1.0, shape / self.ratio[0]) * self.valid_scale
        if wide == high == 1:
            return None
        return torch.tensor([[[wide, 0, 0], [0, high, 0], [0, 0, 1]]])
