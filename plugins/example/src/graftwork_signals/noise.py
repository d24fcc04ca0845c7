"""Noise: what a sensor adds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graftwork.api import Block, Bound, OptionError, Transform
from graftwork_signals.blocks import Array, SeriesBlock

__all__ = ["Noise"]


@dataclass(frozen=True)
class Noise(Transform):
    """Add normal noise in training, `scale` times the deviation of the channel it is added to."""

    id: ClassVar[str] = "signals/noise"
    random = True
    scale: float = 0.05

    def __post_init__(self) -> None:
        """Refuse a negative scale."""
        if not self.scale >= 0:
            raise OptionError(f"{self.id}: scale={self.scale} must be 0 or more")

    def accepts(self, block: Block) -> bool:
        """Work on series."""
        return isinstance(block, SeriesBlock)

    def out_block(self, block: Block) -> Block:
        """Give series of the same shape."""
        return block

    def draw(self, rng: Any, sample: Mapping[str, Any]) -> int:
        """Draw the seed of the noise, so that every field of a sample gets the same."""
        return int(rng.integers(2**62))

    def bind(self, block: Block) -> Bound:
        """Add noise; it cannot be taken away again."""
        return Bound(lambda value, seed: value if seed is None else self._add(value, seed))

    def _add(self, value: Array, seed: int) -> Array:
        noise = np.random.default_rng(seed).standard_normal(value.shape, dtype=np.float32)
        louder: Array = value + np.float32(self.scale) * value.std(1, keepdims=True) * noise
        return louder
