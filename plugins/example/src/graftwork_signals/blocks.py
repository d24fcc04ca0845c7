"""The block: what one series is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from graftwork.api import Block, BlockError, BlockSteps, OptionError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "Array",
    "SeriesBlock",
    "as_array",
]

Array = np.ndarray[Any, np.dtype[np.float32]]
MOCK_LENGTH = 32


def as_array(value: Any) -> Array:
    """Return numbers as float32 (channels, length); a single row is one channel. Raise BlockError for anything else."""
    try:
        array = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise BlockError(f"a series is an array of numbers, not {type(value).__name__}: {error}") from error
    return array[None] if array.ndim == 1 else array


@dataclass(frozen=True)
class SeriesBlock(Block):
    """Hold numbers (channels, length), or (length,) for one channel; float32 (B, channels, length) in a batch.

    `length` is None where it is not known.
    """

    id: ClassVar[str] = "signals/series"
    channels: int = 1
    length: int | None = None

    def __post_init__(self) -> None:
        """Refuse series without channels or without values."""
        if self.channels < 1 or (self.length is not None and self.length < 1):
            raise OptionError(f"{self.id}: channels={self.channels} and length={self.length} must be at least 1")

    def check(self, value: Any) -> str | None:
        """Return why `value` is no such series, or None."""
        try:
            array = as_array(value)
        except BlockError as error:
            return str(error)
        wanted = (self.channels, self.length or array.shape[-1])
        if array.shape != wanted:
            return f"a series of shape {wanted} is expected, not {array.shape}"
        if array.size == 0 or not np.isfinite(array).all():
            return "a series has at least one value, and all of them are finite"
        return None

    def mock(self, rng: np.random.Generator) -> Array:
        """Invent noise."""
        return rng.normal(size=(self.channels, self.length or MOCK_LENGTH)).astype(np.float32)

    def collate(self, values: Sequence[Any]) -> Tensor:
        """Stack to float32 (B, channels, length)."""
        arrays = [as_array(value) for value in values]
        shapes = {array.shape for array in arrays}
        if len(shapes) > 1:
            raise BlockError(f"{self.id}: series of several shapes make no batch: {sorted(shapes)}; use Crop(…)")
        return torch.from_numpy(np.stack(arrays))

    def uncollate(self, column: Tensor) -> list[Any]:
        """Return one array per series."""
        return list(column.cpu().float().numpy())

    def show(self, value: Any, ax: Axes) -> None:
        """Draw a line per channel."""
        ax.set_axis_on()
        ax.plot(as_array(value).T, linewidth=0.8)
        ax.tick_params(labelsize=6)

    def steps(self) -> BlockSteps:
        """Read numbers as an array."""
        from graftwork_signals.transforms import ToArray

        return BlockSteps(opening=(ToArray(),))
