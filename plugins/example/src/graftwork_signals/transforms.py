"""The transforms: from series to series, for single items and for whole batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from graftwork.api import Block, Bound, DataError, ItemError, OptionError, PlanError, Transform
from graftwork_signals.blocks import (
    Array,
    SeriesBlock,
    as_array,
)

__all__ = ["Crop", "Standardize", "ToArray"]


@dataclass(frozen=True)
class ToArray(Transform):
    """Read numbers as float32 (channels, length). What is no series of the block raises ItemError: it is a bad item."""

    id: ClassVar[str] = "signals/to-array"

    def accepts(self, block: Block) -> bool:
        """Work on series."""
        return isinstance(block, SeriesBlock)

    def out_block(self, block: Block) -> Block:
        """Give series of the same shape."""
        return block

    def bind(self, block: Block) -> Bound:
        """Check and convert; there is nothing to undo."""

        def encode(value: Any, _: Any) -> Array:
            reason = block.check(value)
            if reason:
                raise ItemError(reason)
            return as_array(value)

        return Bound(encode, lambda value: value)


@dataclass(frozen=True)
class Crop(Transform):
    """Take `length` values: from a random place in training, from the middle otherwise."""

    id: ClassVar[str] = "signals/crop"
    random = True
    length: int = 64

    def __post_init__(self) -> None:
        """Refuse to keep nothing."""
        if self.length < 1:
            raise OptionError(f"{self.id}: length={self.length} must be at least 1")

    def accepts(self, block: Block) -> bool:
        """Work on series."""
        return isinstance(block, SeriesBlock)

    def out_block(self, block: Block) -> Block:
        """Give shorter series; raise PlanError if they are too short already."""
        assert isinstance(block, SeriesBlock)
        if block.length is not None and block.length < self.length:
            raise PlanError(f"{self.id}: length={self.length} of series of {block.length}; choose a smaller one")
        return replace(block, length=self.length)

    def draw(self, rng: Any, sample: Mapping[str, Any]) -> float:
        """Draw where the part lies, from 0 (the beginning) to 1 (the end)."""
        return float(rng.random())

    def bind(self, block: Block) -> Bound:
        """Cut; a cut cannot be undone."""
        return Bound(lambda value, place: self._cut(value, 0.5 if place is None else place))

    def _cut(self, value: Array, place: float) -> Array:
        spare = value.shape[1] - self.length
        if spare < 0:
            raise ItemError(f"a series of {value.shape[1]} values is too short for Crop({self.length})")
        start = round(place * spare)
        return value[:, start : start + self.length]


@dataclass(frozen=True)
class Standardize(Transform):
    """Subtract each channel's mean and divide by its deviation, given or fitted on the training split.

    A channel that never changes keeps its scale (deviation 1).
    """

    id: ClassVar[str] = "signals/standardize"
    stage = "batch"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse one without the other, and deviations that are not positive."""
        if (self.mean is None) != (self.std is None) or min(self.std or (1.0,)) <= 0:
            raise OptionError(f"{self.id}: mean={self.mean} and std={self.std}: give both, std above 0, or neither")

    def accepts(self, block: Block) -> bool:
        """Work on series."""
        return isinstance(block, SeriesBlock)

    @property
    def needs_fit(self) -> bool:
        """Fit where no statistics were given."""
        return self.mean is None

    def fit(self, values: Iterable[Any], block: Block) -> Self:
        """Take mean and deviation of batches (B, channels, length), in float64."""
        count, total, square = 0, torch.zeros(()), torch.zeros(())
        for x in map(Tensor.double, values):
            count += x.shape[0] * x.shape[2]
            total, square = total + x.sum((0, 2)), square + x.square().sum((0, 2))
        if not count:
            raise DataError(f"{self.id}: there is no series to take statistics of")
        mean = total / count
        std = (square / count - mean.square()).clamp(min=0).sqrt()
        std[std < 1e-6] = 1.0
        return replace(self, mean=tuple(mean.tolist()), std=tuple(std.tolist()))

    def out_block(self, block: Block) -> Block:
        """Give series of the same shape; raise PlanError if there are other channels."""
        assert isinstance(block, SeriesBlock)
        if self.mean is not None and len(self.mean) != block.channels:
            raise PlanError(f"{self.id} has statistics of {len(self.mean)} channels, the series {block.channels}")
        return block

    def bind(self, block: Block) -> Bound:
        """Scale, and scale back."""
        mean, std = (torch.tensor(part or ()).reshape(1, -1, 1) for part in (self.mean, self.std))
        return Bound(
            lambda x, _: x.sub(mean.to(x.device)).div_(std.to(x.device)),
            lambda x: x.mul(std.to(x.device)).add_(mean.to(x.device)),
        )
