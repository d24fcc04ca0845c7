"""Points in a picture as a field: landmarks to predict, or to augment along with the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from graftwork.api import Block, BlockError, BlockSteps, Bound, OptionError, TargetBlock, Transform
from graftwork_vision.geometry import Size, SpatialBlock, Warp, warp_points
from graftwork_vision.places import PROBE_SIDE, Placed, PlacedBlock, located, picture_size, place, to_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["PackPoints", "PlacePoints", "PlacedPointsBlock", "PointBlock", "PointTensorBlock"]

MOCK_SIDE = 24


def _check_count(num_points: int | None, owner: str) -> None:
    if num_points is not None and num_points < 1:
        raise OptionError(f"{owner}: num_points={num_points} must be at least 1, or None for any number")


@dataclass(frozen=True)
class PointBlock(Block):
    """Hold points in a picture: pairs (x, y) in pixels from its top left corner, (N, 2); (y, x) with `y_first`.

    A model that predicts them needs a fixed `num_points`; None allows any number, filled up in a batch with NaN. A
    point that is not there is (NaN, NaN), and costs nothing. Points may lie outside the picture. Predictions come back
    in pixels of the picture that was given, whatever it was resized to.
    """

    id: ClassVar[str] = "vision/points"
    num_points: int | None = None
    y_first: bool = False

    def __post_init__(self) -> None:
        """Refuse fewer than one point."""
        _check_count(self.num_points, self.id)

    def check(self, value: Any) -> str | None:
        """Return why `value` holds no such points, or None."""
        try:
            pairs = np.asarray(value, np.float64)
        except (TypeError, ValueError):
            return f"points are pairs of numbers, not {type(value).__name__}"
        if pairs.size and (pairs.ndim != 2 or pairs.shape[1] != 2):
            return f"points have the shape (N, 2), not {pairs.shape}"
        if np.isinf(pairs).any():
            return "a point's position is infinite"
        if self.num_points is not None and len(pairs) != self.num_points:
            return f"{self.num_points} points expected, not {len(pairs)}; write (nan, nan) for one that is not there"
        return None

    def mock(self, rng: np.random.Generator) -> list[list[float]]:
        """Invent points."""
        count = int(rng.integers(1, 5)) if self.num_points is None else self.num_points
        return rng.uniform(0, MOCK_SIDE, (count, 2)).tolist()  # type: ignore[no-any-return]

    def collate(self, values: Sequence[Any]) -> Tensor:
        """Refuse: points are placed in their picture before they are batched."""
        raise BlockError(f"{self.id} holds pixels of a picture of unknown size; place them first (PlacePoints)")

    def uncollate(self, column: Tensor) -> list[Any]:
        """Refuse: points are placed in their picture before they are batched."""
        raise BlockError(f"{self.id} holds pixels of a picture of unknown size")

    def show(self, value: Any, ax: Axes) -> None:
        """Mark the points on the picture."""
        pairs = np.asarray(value, np.float64).reshape(-1, 2)
        xy = pairs[:, ::-1] if self.y_first else pairs
        ax.plot(xy[:, 0] - 0.5, xy[:, 1] - 0.5, **_style(ax))

    def steps(self) -> BlockSteps:
        """Place the points in the opened picture."""
        return BlockSteps(opening=(PlacePoints(),))

    def probe(self) -> list[list[float]]:
        """Return two points whose way shows that of all others."""
        return [[0.0, 0.0], [PROBE_SIDE, PROBE_SIDE], [np.nan, np.nan]]


@dataclass(frozen=True)
class PlacedPointsBlock(PlacedBlock):
    """Hold points placed in an opened picture."""

    id: ClassVar[str] = "vision/placed-points"
    num_points: int | None = None
    y_first: bool = False

    def count_of(self, value: Placed) -> int:
        """Count the points."""
        return len(value["xy"])

    def mock(self, rng: np.random.Generator) -> Placed:
        """Invent points within a picture."""
        count = int(rng.integers(1, 5)) if self.num_points is None else self.num_points
        return place(rng.uniform(0, MOCK_SIDE, (count, 2)), (MOCK_SIDE, MOCK_SIDE))

    def show(self, value: Any, ax: Axes) -> None:
        """Mark the points on the picture."""
        xy = to_axes(value["xy"], ax)
        ax.plot(xy[:, 0], xy[:, 1], transform=ax.transAxes, **_style(ax))

    def steps(self) -> BlockSteps:
        """Turn the points into a tensor."""
        return BlockSteps(closing=(PackPoints(),))

    def locate(self, value: Any, probe: Any) -> list[list[float]]:
        """Return the points in pixels of the raw picture."""
        pixels = located(np.asarray(value["xy"], np.float64).reshape(-1, 2), probe)
        return (pixels[:, ::-1] if self.y_first else pixels).tolist()  # type: ignore[no-any-return]


@dataclass(frozen=True)
class PlacePoints(Transform):
    """Turn pixels into positions in [-1, 1] of the sample's first opened picture."""

    id: ClassVar[str] = "vision/place-points"
    reads_sample = True

    def accepts(self, block: Block) -> bool:
        """Work on raw points."""
        return isinstance(block, PointBlock)

    def out_block(self, block: Block) -> Block:
        """Give placed points."""
        assert isinstance(block, PointBlock)
        return PlacedPointsBlock(block.num_points, block.y_first)

    def draw(self, rng: Any, sample: Mapping[str, Any]) -> Size | None:
        """Read the picture's size."""
        return picture_size(sample)

    def bind(self, block: Block) -> Bound:
        """Divide by half the size; refuse what is no points of the block, but for the probe."""
        assert isinstance(block, PointBlock)
        probe = np.asarray(block.probe())

        def encode(value: Any, size: Size | None) -> Placed:
            pairs = np.asarray(value, np.float64).reshape(-1, 2)
            if pairs.shape == probe.shape and np.array_equal(pairs, probe, equal_nan=True):
                return place(probe[:2], size, probe=True)
            reason = block.check(value)
            if reason:
                raise BlockError(reason)
            return place(pairs[:, ::-1] if block.y_first else pairs, size)

        return Bound(encode)


@dataclass(frozen=True)
class PointTensorBlock(TargetBlock, SpatialBlock):
    """Hold points as a tensor (N, 2) of xy in [-1, 1], batched (B, N, 2); NaN where there is none.

    Models of `num_points` points give (B, 2 * num_points) values.
    """

    id: ClassVar[str] = "vision/point-tensor"
    num_points: int | None = None

    def __post_init__(self) -> None:
        """Refuse fewer than one point."""
        _check_count(self.num_points, self.id)

    @property
    def num_outputs(self) -> int:
        """Two numbers a point; raise OptionError if their number is not fixed."""
        if self.num_points is None:
            raise OptionError(f"{self.id}: a model predicts a fixed number of points; say PointBlock(num_points=…)")
        return 2 * self.num_points

    @property
    def loss_id(self) -> str:
        """Mean squared error of the points that are there."""
        return "vision/points"

    @property
    def metric_ids(self) -> tuple[str, ...]:
        """Mean distance."""
        return ("vision/point_distance",)

    @property
    def baseline_ids(self) -> tuple[str, ...]:
        """The mean place of every point."""
        return ("vision/mean-points",)

    def check(self, value: Any) -> str | None:
        """Return why `value` is no such tensor, or None."""
        if not isinstance(value, Tensor) or value.ndim != 2 or value.shape[1] != 2:
            return "points are a tensor (N, 2)"
        if self.num_points is not None and len(value) != self.num_points:
            return f"{self.num_points} points expected, not {len(value)}"
        return None

    def mock(self, rng: np.random.Generator) -> Tensor:
        """Invent points within the picture."""
        count = int(rng.integers(1, 5)) if self.num_points is None else self.num_points
        return torch.from_numpy(rng.uniform(-1, 1, (count, 2)).astype(np.float32))

    def collate(self, values: Sequence[Any]) -> Tensor:
        """Stack to float32 (B, N, 2), fewer points filled up with NaN."""
        return torch.nn.utils.rnn.pad_sequence(list(values), batch_first=True, padding_value=torch.nan)

    def uncollate(self, column: Tensor) -> list[Any]:
        """Return one tensor an item; where any number is allowed, without what filled it up."""
        rows = list(column.cpu().float())
        return rows if self.num_points is not None else [row[~row.isnan().all(1)] for row in rows]

    def show(self, value: Any, ax: Axes) -> None:
        """Mark the points on the picture."""
        PlacedPointsBlock().show({"xy": value.tolist()}, ax)

    def activate(self, raw: Tensor) -> Tensor:
        """Give the outputs the target's shape (B, N, 2)."""
        return raw.float().reshape(len(raw), -1, 2)

    def predict(self, activated: Tensor) -> Tensor:
        """Return the points themselves."""
        return activated

    def warp(self, column: Tensor, warp: Warp) -> Tensor:
        """Move the points along with the picture."""
        return warp_points(column, warp)

    def sized(self, size: Size) -> Self:
        """Stay as it is: positions do not depend on the size."""
        return self


@dataclass(frozen=True)
class PackPoints(Transform):
    """Turn placed points into a tensor."""

    id: ClassVar[str] = "vision/pack-points"

    def accepts(self, block: Block) -> bool:
        """Work on placed points."""
        return isinstance(block, PlacedPointsBlock)

    def out_block(self, block: Block) -> Block:
        """Give tensors."""
        assert isinstance(block, PlacedPointsBlock)
        return PointTensorBlock(block.num_points)

    def bind(self, block: Block) -> Bound:
        """Change the type; the picture's size is not kept."""

        def encode(value: Placed, _: Any) -> Tensor:
            return torch.tensor(value["xy"], dtype=torch.float32).reshape(-1, 2)

        def decode(points: Tensor) -> Placed:
            return {"xy": points.tolist(), "size": None, "labels": [], "scores": [], "probe": False}

        return Bound(encode, decode)


def _style(ax: Axes) -> dict[str, Any]:
    """Draw a second set of points on the same axes, a prediction, as crosses."""
    first = not ax.lines
    return {"linestyle": "", "marker": "o" if first else "x", "color": "lime" if first else "red", "markersize": 4}
