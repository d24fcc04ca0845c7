"""Places in an opened picture, points or corners of boxes, on their way to a tensor: what item transforms move.

Raw points and boxes are in pixels, from the outer edge of the top left one. As soon as the picture is open they become
positions in [-1, 1], -1 and 1 being the picture's outer edges, and from there on mean the same at every size.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self, TypedDict

import numpy as np
from PIL import Image
from torch import Tensor

from graftwork.api import Block, BlockError, ItemError
from graftwork_vision.pictures import full_size

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from graftwork_vision.geometry import Size

__all__ = ["Frame", "Placed", "PlacedBlock", "located", "moved", "picture_size", "place", "to_axes"]

PROBE_SIDE: Final = 64.0
Pairs = np.ndarray[Any, np.dtype[np.float64]]


class Placed(TypedDict):
    """Hold positions `xy` in [-1, 1] of a picture of `size` (height, width), None where that is no longer known.

    Of boxes, `xy` are two opposite corners each, `labels` a code and `scores` a number each. `probe` marks what only
    shows where places of the picture go: nothing of it is left out or cut off.
    """

    xy: list[list[float]]
    size: tuple[int, int] | None
    labels: list[int]
    scores: list[float]
    probe: bool


@dataclass(frozen=True, slots=True)
class Frame:
    """Say where positions go along both axes: `scale * xy + shift`, each (x, y)."""

    scale: tuple[float, float]
    shift: tuple[float, float]

    @classmethod
    def of_part(cls, size: Size, box: Sequence[float]) -> Self:
        """Return what happens when the part (left, top, right, bottom) in pixels becomes the whole picture."""
        left, top, right, bottom = box
        height, width = size
        wide, tall = right - left, bottom - top
        return cls((width / wide, height / tall), ((width - 2 * left) / wide - 1, (height - 2 * top) / tall - 1))

    @classmethod
    def of_inset(cls, size: Size, inner: Size, corner: tuple[int, int]) -> Self:
        """Return what happens when the whole becomes `inner` pixels at `corner` (top, left) of a picture of `size`."""
        scale = (inner[1] / size[1], inner[0] / size[0])
        return cls(scale, (scale[0] + 2 * corner[1] / size[1] - 1, scale[1] + 2 * corner[0] / size[0] - 1))


class PlacedBlock(Block):
    """Be places in an opened picture, mappings as `Placed` says. Item transforms of pictures move them alike."""

    @abstractmethod
    def count_of(self, value: Placed) -> int:
        """Count the things, points or boxes."""

    def check(self, value: Any) -> str | None:
        """Return why `value` holds no places, or None."""
        if not isinstance(value, Mapping) or set(value) != set(Placed.__annotations__):
            return f"places are a mapping with {', '.join(Placed.__annotations__)}, not {type(value).__name__}"
        xy = np.asarray(value["xy"], np.float64)
        return None if xy.size == 0 or (xy.ndim == 2 and xy.shape[1] == 2) else "places are pairs (x, y)"

    def collate(self, values: Sequence[Any]) -> Tensor:
        """Refuse: places are packed before they are batched."""
        raise BlockError(f"{self.id} holds places in a picture, which have no tensor form; pack them first")

    def uncollate(self, column: Tensor) -> list[Any]:
        """Refuse: places are packed before they are batched."""
        raise BlockError(f"{self.id} holds places in a picture, which have no tensor form")


def picture_size(sample: Mapping[str, Any]) -> Size | None:
    """Return (height, width) of the first opened picture of a sample, as it was on the disk; None if there is none."""
    for value in sample.values():
        if isinstance(value, Image.Image):
            return full_size(value)
        if isinstance(value, np.ndarray) and value.ndim == 3 and value.dtype == np.float32:
            return value.shape[0], value.shape[1]
    return None


def place(pixels: Pairs, size: Size | None, *, labels: Sequence[int] = (), probe: bool = False) -> Placed:
    """Turn pixels (N, 2), xy, into positions; raise ItemError if no picture's size is known."""
    if size is None:
        raise ItemError(
            "these places need the size of the picture they lie in, and the sample has none that is opened; "
            "give the data an ImageBlock before them"
        )
    scaled = pixels * (2 / np.array([size[1], size[0]], np.float64)) - 1
    return Placed(xy=scaled.tolist(), size=size, labels=list(labels), scores=[], probe=probe)


def moved(value: Placed, frame: Frame, size: Size) -> Placed:
    """Return the places after a change of the picture, which then has `size`."""
    xy = np.asarray(value["xy"], np.float64).reshape(-1, 2) * frame.scale + frame.shift
    return {**value, "xy": xy.tolist(), "size": size}


def located(xy: Pairs, probe: Placed) -> Pairs:
    """Return positions (N, 2) in pixels of the raw picture, by where its pixels (0, 0) and (64, 64) have gone."""
    first, second = np.asarray(probe["xy"], np.float64)[:2]
    pixels: Pairs = (xy - first) / (second - first) * PROBE_SIDE
    return pixels


def to_axes(xy: Sequence[Sequence[float]], ax: Axes) -> Pairs:
    """Return positions (N, 2) as coordinates of the axes, whose picture fills them."""
    return (np.asarray(xy, np.float64).reshape(-1, 2) + 1) / 2 * (1, -1) + (0, 1)
