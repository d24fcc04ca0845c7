"""Random light of a batch: brightness and contrast work on the logit of pixels, so that nothing is clipped.

Both scale and shift logits, so a run of them is one pass over the pixels: logit, scale, shift, sigmoid.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from graftwork.api import Block, Bound, Fused, OptionError, Transform
from graftwork_vision.blocks import ImageTensorBlock
from graftwork_vision.spatial import check_share, leading

__all__ = ["Brightness", "Contrast", "LightingTransform", "light", "lighting", "lighting_run"]

EPS = 1e-7


@dataclass(frozen=True)
class LightingTransform(Transform):
    """Light the pictures of a batch, each by a number of its own, with probability `p`; never outside training.

    `batch` draws one number for all.
    """

    stage = "batch"
    random = True
    max_lighting: float = 0.2
    p: float = field(default=0.75, kw_only=True)
    batch: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        """Refuse impossible values by name."""
        check_share(self.id, p=self.p)
        if not 0 <= self.max_lighting < 1:
            raise OptionError(f"{self.id}: max_lighting={self.max_lighting} must be at least 0 and below 1")

    @abstractmethod
    def change(self, numbers: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """Return by what logits are multiplied and what is then added, numbers or (B,), for numbers from 0 to 1."""

    @final
    def accepts(self, block: Block) -> bool:
        """Work on pixels from 0 to 1."""
        return isinstance(block, ImageTensorBlock) and block.scale == "unit"

    @final
    def out_block(self, block: Block) -> Block:
        """Change nothing about the block."""
        return block

    @final
    def draw(self, rng: torch.Generator, sample: Mapping[str, Any]) -> Tensor:
        """Draw two numbers for every picture, (2, B)."""
        count = len(next(iter(sample.values())))
        numbers = torch.rand(2, 1 if self.batch else count, generator=rng, device=rng.device)
        return numbers.expand(-1, count)

    @final
    def bind(self, block: Block) -> Bound:
        """Light the pictures."""
        return Bound(lambda pixels, numbers: light(pixels, lighting([self], [numbers])))

    @final
    def fused(self, block: Block, following: Sequence[Transform]) -> Fused | None:
        """Light once for this and the steps of its kind that follow."""
        run = lighting_run([self, *following])
        return Fused(len(run), lambda pixels, params: light(pixels, lighting(run, params)))


def lighting_run(tfms: Sequence[Transform]) -> list[LightingTransform]:
    """Return the transforms at the beginning that can be done by one pass."""
    return leading(tfms, LightingTransform)  # type: ignore[type-abstract]


def lighting(run: Sequence[LightingTransform], params: Sequence[Tensor | None]) -> tuple[Tensor, Tensor] | None:
    """Put a run together: what logits are multiplied by, what is then added, (B,) each; None if nothing was drawn."""
    total: tuple[Tensor, Tensor] | None = None
    for tfm, numbers in zip(run, params, strict=True):
        if numbers is None:
            continue
        gain, shift = tfm.change(numbers[1])
        drawn = numbers[0] < tfm.p
        gain, shift = torch.where(drawn, gain, 1.0), torch.where(drawn, shift, 0.0)
        total = (gain, shift) if total is None else (total[0] * gain, total[1] * gain + shift)
    return total


def light(pixels: Tensor, change: tuple[Tensor, Tensor] | None) -> Tensor:
    """Return lit pictures (B, C, H, W) from 0 to 1; computed in float32."""
    if change is None:
        return pixels
    gain, shift = (numbers.to(pixels.device)[:, None, None, None] for numbers in change)
    exact = pixels if pixels.dtype == torch.float64 else pixels.float()
    return exact.logit(EPS).mul_(gain).add_(shift).sigmoid_().to(pixels.dtype)


@final
@dataclass(frozen=True)
class Brightness(LightingTransform):
    """Make pictures lighter or darker: grey (0.5) becomes up to 0.5 * (1 ± `max_lighting`)."""

    id: ClassVar[str] = "vision/brightness"

    def change(self, numbers: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """Add the logit of what grey becomes."""
        return 1.0, (0.5 + self.max_lighting * (numbers - 0.5)).logit()


@final
@dataclass(frozen=True)
class Contrast(LightingTransform):
    """Multiply logits by 1 - `max_lighting` to 1 / (1 - `max_lighting`)."""

    id: ClassVar[str] = "vision/contrast"

    def change(self, numbers: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """Draw evenly in the logarithm, so that more and less contrast balance."""
        widest = -math.log(1 - self.max_lighting)
        return ((2 * numbers - 1) * widest).exp(), 0.0
