"""Boxes with labels in a picture as a field: what detectors predict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

import numpy as np
import torch
from torch import Tensor

from graftwork.api import Block, BlockError, BlockSteps, Bound, DataError, OptionError, TargetBlock, Transform
from graftwork_vision.geometry import Size, SpatialBlock, Warp, warp_points
from graftwork_vision.places import PROBE_SIDE, Placed, PlacedBlock, located, picture_size, place, to_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["BBoxBlock", "BoxTensorBlock", "PackBoxes", "PlaceBoxes", "PlacedBoxesBlock"]

Label = str | int
EMPTY: Final = -1
"""The label of what fills a picture's boxes up to their fixed number."""
_PROBE: Final = -2
MOCK_SIDE: Final = 24
MAX_BOXES: Final = 100
COLORS: Final = ("cyan", "orange", "lime", "magenta", "yellow", "deepskyblue", "tomato")


def _check_setting(vocab: Sequence[Label] | None, max_boxes: int, threshold: float, owner: str) -> None:
    if vocab is not None and len(set(vocab)) != len(vocab):
        raise OptionError(f"{owner}: the vocabulary names a class twice: {vocab}")
    if max_boxes < 1:
        raise OptionError(f"{owner}: max_boxes={max_boxes} must be at least 1")
    if not 0 < threshold < 1:
        raise OptionError(f"{owner}: threshold={threshold} is not between 0 and 1")


@dataclass(frozen=True)
class BBoxBlock(Block):
    """Hold boxes with labels: `{"boxes": [(x1, y1, x2, y2), …], "labels": [label, …]}`, or those two as a pair.

    Corners are in pixels from the picture's top left. There may be no box at all. What lies outside the picture is cut
    off, and a box that is then empty is left out; so are all beyond the `max_boxes` largest. A vocabulary not given is
    fitted on the training split. Predictions are those whose score is at least `threshold`; they come back in pixels of
    the picture that was given, with their scores.
    """

    id: ClassVar[str] = "vision/boxes"
    vocab: tuple[Label, ...] | None = None
    max_boxes: int = MAX_BOXES
    threshold: float = 0.5

    def __post_init__(self) -> None:
        """Refuse a vocabulary that names a class twice, no room for a box, and a threshold that is no probability."""
        _check_setting(self.vocab, self.max_boxes, self.threshold, self.id)

    def check(self, value: Any) -> str | None:
        """Return why `value` holds no boxes with labels, or None."""
        try:
            boxes, labels = _parts(value)
            corners = np.asarray(boxes, np.float64)
        except (KeyError, TypeError, ValueError):
            return f"boxes with labels are a mapping with 'boxes' and 'labels', not {type(value).__name__}"
        if corners.size and (corners.ndim != 2 or corners.shape[1] != 4):
            return f"boxes have the shape (N, 4), not {corners.shape}"
        if len(corners) != len(labels):
            return f"{len(corners)} boxes and {len(labels)} labels"
        if not np.isfinite(corners).all():
            return "a box has a corner that is no finite number"
        unknown = [label for label in labels if self.vocab is not None and label not in self.vocab]
        return f"{unknown[0]!r} is not among the {len(self.vocab or ())} classes" if unknown else None

    def mock(self, rng: np.random.Generator) -> dict[str, Any]:
        """Invent boxes."""
        vocab = self.vocab or ("first", "second", "third")
        corners = _mock_boxes(rng, self.max_boxes)
        return {"boxes": corners.tolist(), "labels": [vocab[int(rng.integers(len(vocab)))] for _ in corners]}

    def collate(self, values: Sequence[Any]) -> Tensor:
        """Refuse: boxes are placed in their picture before they are batched."""
        raise BlockError(f"{self.id} holds pixels of a picture of unknown size; place them first (PlaceBoxes)")

    def uncollate(self, column: Tensor) -> list[Any]:
        """Refuse: boxes are placed in their picture before they are batched."""
        raise BlockError(f"{self.id} holds pixels of a picture of unknown size")

    def show(self, value: Any, ax: Axes) -> None:
        """Draw the boxes on the picture."""
        boxes, labels = _parts(value)
        corners = np.asarray(boxes, np.float64).reshape(-1, 4) - 0.5
        scores = value.get("scores", ()) if isinstance(value, Mapping) else ()
        _draw(corners, list(map(str, labels)), scores, ax, ax.transData)

    def steps(self) -> BlockSteps:
        """Place the boxes in the opened picture."""
        return BlockSteps(opening=(PlaceBoxes(vocab=self.vocab),))

    def probe(self) -> dict[str, Any]:
        """Return a box whose way shows that of all others."""
        return {"boxes": [(0.0, 0.0, PROBE_SIDE, PROBE_SIDE)], "labels": [], "probe": True}


def _parts(value: Any) -> tuple[Any, Any]:
    return (value["boxes"], value["labels"]) if isinstance(value, Mapping) else (value[0], value[1])


def _mock_boxes(rng: np.random.Generator, most: int) -> np.ndarray[Any, Any]:
    corners = rng.uniform(0, MOCK_SIDE / 2, (int(rng.integers(0, min(4, most) + 1)), 4))
    corners[:, 2:] += corners[:, :2] * 0.5 + 2
    return corners


@dataclass(frozen=True)
class PlacedBoxesBlock(PlacedBlock):
    """Hold boxes placed in an opened picture, their labels as codes of the vocabulary."""

    id: ClassVar[str] = "vision/placed-boxes"
    vocab: tuple[Label, ...] = ("first", "second")
    max_boxes: int = MAX_BOXES
    threshold: float = 0.5

    def __post_init__(self) -> None:
        """Refuse a vocabulary that names a class twice, no room for a box, and a threshold that is no probability."""
        _check_setting(self.vocab, self.max_boxes, self.threshold, self.id)

    def count_of(self, value: Placed) -> int:
        """Count the boxes."""
        return len(value["labels"])

    def mock(self, rng: np.random.Generator) -> Placed:
        """Invent boxes within a picture."""
        corners = _mock_boxes(rng, self.max_boxes)
        labels = rng.integers(len(self.vocab), size=len(corners)).tolist()
        return place(corners.reshape(-1, 2), (MOCK_SIDE, MOCK_SIDE), labels=labels)

    def show(self, value: Any, ax: Axes) -> None:
        """Draw the boxes on the picture."""
        corners = to_axes(value["xy"], ax).reshape(-1, 4)
        names = [str(self.vocab[code]) for code in value["labels"]]
        _draw(corners, names, value["scores"], ax, ax.transAxes)

    def steps(self) -> BlockSteps:
        """Turn the boxes into a tensor."""
        return BlockSteps(closing=(PackBoxes(),))

    def locate(self, value: Any, probe: Any) -> dict[str, Any]:
        """Return the boxes in pixels of the raw picture, with the classes' names and scores, the surest first."""
        corners = located(np.asarray(value["xy"], np.float64).reshape(-1, 2), probe).reshape(-1, 4)
        order = np.argsort(-np.asarray(value["scores"]), kind="stable").tolist()
        return {
            "boxes": [corners[i].tolist() for i in order],
            "labels": [self.vocab[value["labels"][i]] for i in order],
            "scores": [value["scores"][i] for i in order],
        }


@dataclass(frozen=True)
class PlaceBoxes(Transform):
    """Turn pixels into positions in [-1, 1] of the sample's first opened picture, and labels into codes."""

    id: ClassVar[str] = "vision/place-boxes"
    reads_sample = True
    vocab: tuple[Label, ...] | None = None

    def accepts(self, block: Block) -> bool:
        """Work on raw boxes."""
        return isinstance(block, BBoxBlock)

    @property
    def needs_fit(self) -> bool:
        """Fit where no vocabulary was given."""
        return self.vocab is None

    def fit(self, values: Iterable[Any], block: Block) -> Self:
        """Take the sorted distinct labels; raise DataError if there is no box at all."""
        counts = Counter(label for value in values for label in _parts(value)[1])
        if not counts:
            raise DataError(f"{block.id}: there is not one box in the training split")
        kinds = {type(label) for label in counts}
        return replace(self, vocab=tuple(sorted(counts, key=str if len(kinds) > 1 else None)))

    def out_block(self, block: Block) -> Block:
        """Give placed boxes."""
        assert isinstance(block, BBoxBlock)
        return PlacedBoxesBlock(self.vocab or (), block.max_boxes, block.threshold)

    def draw(self, rng: Any, sample: Mapping[str, Any]) -> Size | None:
        """Read the picture's size."""
        return picture_size(sample)

    def bind(self, block: Block) -> Bound:
        """Divide by half the size, look labels up by value; refuse what is no boxes of the block."""
        assert isinstance(block, BBoxBlock)
        vocab = self.vocab or ()
        known, codes = replace(block, vocab=vocab), {label: i for i, label in enumerate(vocab)}

        def encode(value: Any, size: Size | None) -> Placed:
            if isinstance(value, Mapping) and value.get("probe"):
                return place(np.asarray(value["boxes"], np.float64).reshape(-1, 2), size, labels=[_PROBE], probe=True)
            reason = known.check(value)
            if reason:
                raise BlockError(reason)
            boxes, labels = _parts(value)
            return place(np.asarray(boxes, np.float64).reshape(-1, 2), size, labels=[codes[label] for label in labels])

        return Bound(encode)


@dataclass(frozen=True)
class BoxTensorBlock(TargetBlock, SpatialBlock):
    """Hold boxes as a tensor (max_boxes, 6): xyxy in [-1, 1], the label's code, a score; batched (B, max_boxes, 6).

    Rows with the label -1 are empty; targets have the score 1. Models give (B, max_boxes * (4 + classes)) values: for
    each of as many candidates its corners and a logit per class. `threshold` is the least score of a prediction.
    """

    id: ClassVar[str] = "vision/box-tensor"
    vocab: tuple[Label, ...] = ("first", "second")
    max_boxes: int = MAX_BOXES
    threshold: float = 0.5

    def __post_init__(self) -> None:
        """Refuse a vocabulary that names a class twice, no room for a box, and a threshold that is no probability."""
        _check_setting(self.vocab, self.max_boxes, self.threshold, self.id)

    @property
    def num_outputs(self) -> int:
        """Four corners and a logit per class, for every candidate."""
        return self.max_boxes * (4 + len(self.vocab))

    @property
    def loss_id(self) -> str:
        """The loss of a set of boxes, each true one matched with its best candidate."""
        return "vision/box_set"

    @property
    def metric_ids(self) -> tuple[str, ...]:
        """Mean average precision, over overlaps and at 0.5."""
        return ("vision/box_map", "vision/box_map_50")

    @property
    def baseline_ids(self) -> tuple[str, ...]:
        """The boxes that are right most often whatever the picture is."""
        return ("vision/frequent-boxes",)

    def check(self, value: Any) -> str | None:
        """Return why `value` is no such tensor, or None."""
        if not isinstance(value, Tensor) or value.shape != (self.max_boxes, 6):
            return f"boxes are a tensor ({self.max_boxes}, 6)"
        labels = value[:, 4]
        if not bool(((labels == labels.round()) & (labels >= _PROBE) & (labels < len(self.vocab))).all()):
            return f"labels are codes from 0 to {len(self.vocab) - 1}, or {EMPTY}"
        return None if bool(value.isfinite().all()) else "a box has a corner that is no finite number"

    def mock(self, rng: np.random.Generator) -> Tensor:
        """Invent boxes."""
        placed = PlacedBoxesBlock(self.vocab, self.max_boxes)
        packed: Tensor = PackBoxes().bind(placed).encode(placed.mock(rng), None)
        return packed

    def collate(self, values: Sequence[Any]) -> Tensor:
        """Stack to float32 (B, max_boxes, 6)."""
        return torch.stack(list(values))

    def uncollate(self, column: Tensor) -> list[Any]:
        """Return one tensor an item."""
        return list(column.cpu().float())

    def show(self, value: Any, ax: Axes) -> None:
        """Draw the boxes on the picture."""
        placed = PlacedBoxesBlock(self.vocab, self.max_boxes)
        placed.show(_unpacked(value), ax)

    def candidates(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Return corners (B, N, 4) and logits (B, N, classes) of raw outputs, in float32."""
        each = raw.float().reshape(len(raw), -1, 4 + len(self.vocab))
        return each[..., :4], each[..., 4:]

    def activate(self, raw: Tensor) -> Tensor:
        """Return (B, N, 6): of every candidate its corners, its likeliest class and that one's probability."""
        corners, logits = self.candidates(raw)
        score, label = logits.sigmoid().max(2)
        return torch.cat([corners, label[..., None].float(), score[..., None]], 2)

    def predict(self, activated: Tensor) -> Tensor:
        """Keep the candidates whose score reaches the threshold; the others become empty."""
        kept = activated[..., 5:] >= self.threshold
        return torch.where(kept, activated, activated.new_tensor([0, 0, 0, 0, EMPTY, 0]))

    def warp(self, column: Tensor, warp: Warp) -> Tensor:
        """Move the boxes along with the picture: the box around a moved box, cut off at the picture's edges."""
        x1, y1, x2, y2 = column[..., :4].unbind(-1)
        corners = torch.stack([x1, y1, x2, y1, x2, y2, x1, y2], -1).reshape(len(column), -1, 2)
        moved = warp_points(corners, warp).reshape(*column.shape[:2], 4, 2)
        boxes = torch.cat([moved.amin(2), moved.amax(2)], -1)
        return _emptied(torch.cat([boxes, column[..., 4:]], -1))

    def sized(self, size: Size) -> Self:
        """Stay as it is: positions do not depend on the size."""
        return self


def _emptied(column: Tensor) -> Tensor:
    """Cut boxes off at the picture's edges, and empty those of which nothing is left; the probe stays whole."""
    cut = torch.cat([column[..., :4].clamp(-1, 1), column[..., 4:]], -1)
    gone = ((cut[..., 2:4] - cut[..., :2]) <= 0).any(-1, keepdim=True) | (column[..., 4:5] == EMPTY)
    kept = torch.where(gone, column.new_tensor([0, 0, 0, 0, EMPTY, 0]), cut)
    return torch.where(column[..., 4:5] == _PROBE, column, kept)


def _unpacked(rows: Tensor) -> Placed:
    there = rows[rows[:, 4] != EMPTY]
    scores = there[:, 5].tolist()
    return {
        "xy": there[:, :4].reshape(-1, 2).tolist(),
        "size": None,
        "labels": there[:, 4].long().tolist(),
        # A target is sure of itself.
        "scores": [] if all(score == 1 for score in scores) else scores,
        "probe": bool((there[:, 4] == _PROBE).any()),
    }


@dataclass(frozen=True)
class PackBoxes(Transform):
    """Turn placed boxes into a tensor: cut off at the picture's edges, the empty left out, the largest first kept."""

    id: ClassVar[str] = "vision/pack-boxes"

    def accepts(self, block: Block) -> bool:
        """Work on placed boxes."""
        return isinstance(block, PlacedBoxesBlock)

    def out_block(self, block: Block) -> Block:
        """Give tensors."""
        assert isinstance(block, PlacedBoxesBlock)
        return BoxTensorBlock(block.vocab, block.max_boxes, block.threshold)

    def bind(self, block: Block) -> Bound:
        """Order corners, cut, leave out, fill up; the picture's size is not kept."""
        assert isinstance(block, PlacedBoxesBlock)
        most = block.max_boxes

        def encode(value: Placed, _: Any) -> Tensor:
            pairs = torch.tensor(value["xy"], dtype=torch.float64).reshape(-1, 2, 2)
            labels = torch.tensor(value["labels"], dtype=torch.float64).reshape(-1, 1)
            rows = torch.cat([pairs.amin(1), pairs.amax(1), labels, torch.ones_like(labels)], 1)
            rows = _emptied(rows)
            rows = rows[rows[:, 4] != EMPTY]
            if len(rows) > most:
                areas = (rows[:, 2] - rows[:, 0]) * (rows[:, 3] - rows[:, 1])
                rows = rows[areas.argsort(descending=True, stable=True)[:most].sort().values]
            filled = torch.tensor([0.0, 0, 0, 0, EMPTY, 0]).repeat(most, 1)
            filled[: len(rows)] = rows.float()
            return filled

        return Bound(encode, _unpacked)


def _draw(corners: np.ndarray[Any, Any], names: Sequence[str], scores: Sequence[float], ax: Axes, where: Any) -> None:
    """Draw targets in white and predictions, which have scores, in a colour of their class, the score below."""
    from matplotlib.patches import Rectangle

    guessed = len(scores) > 0
    for i, (x1, y1, x2, y2) in enumerate(corners):
        color = COLORS[sum(map(ord, names[i])) % len(COLORS)] if guessed else "white"
        ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=color, transform=where))
        text = f"{names[i]} {scores[i]:.2f}" if guessed else names[i]
        place = {"y": y2, "va": "top"} if guessed else {"y": y1, "va": "bottom"}
        written = ax.text(x1, s=text, fontsize=6, color=color, transform=where, clip_on=True, **place)
        # A box far outside must not take the picture its room.
        written.set_in_layout(False)
    if not len(corners):
        ax.set_title("\n".join(filter(None, (ax.get_title(), "(no box)"))), fontsize=9)
