"""Predict pictures of any size: at the scale the model was trained on, by windows that overlap where one is not enough.

A picture is scaled as the data's resizing step would scale it (nothing of it is cut off), windows of the trained size
slide over it, probabilities are averaged where they overlap, and the result is brought back to the picture's own size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from graftwork import Predictor
from graftwork.api import Batch, Feed, Learner, OptionError, PlanError, Prediction
from graftwork_segmentation.blocks import MaskTensorBlock
from graftwork_vision import DecodeImage, ImageBlock, PixelBlock, Resize

__all__ = ["answer", "places", "predict_mask"]

Size = tuple[int, int]
OVERLAP: Final = 0.25
BATCH: Final = 8


def predict_mask(
    model: Learner | Predictor,
    picture: Any,
    *,
    window: int | Size | None = None,
    overlap: float = OVERLAP,
) -> Prediction:
    """Predict a picture's mask in the picture's own size, as the values mask files have, uint8 or uint16 (H, W).

    `probabilities` are each class's share of the pixels, `raw` the probabilities (C, h, w) at the scale worked at. With
    `window` (pixels, or height and width) the picture is not scaled at all, and windows of that size slide over it.

    Raises:
        OptionError: an overlap that is not at least 0 and below 1, or an empty window.
        PlanError: the model predicts no mask.
    """
    if not 0 <= overlap < 1:
        raise OptionError(f"overlap={overlap} is a share of a window, at least 0 and below 1")
    block = model.feed.plan.target
    if not isinstance(block, MaskTensorBlock):
        raise PlanError(f"this model predicts {block!r}, and no mask")
    side = (window, window) if isinstance(window, int) else window
    if side is not None and min(side) < 1:
        raise OptionError(f"window={window!r} must be at least 1 pixel high and wide")
    training = [part for part in model.feed.module.modules() if part.training]
    model.feed.module.eval()
    try:
        return answer(block, model.feed, {model.feed.plan.inputs[0]: picture}, window=side, overlap=overlap)
    finally:
        for part in training:
            part.training = True


@torch.inference_mode()
def answer(
    block: MaskTensorBlock,
    feed: Feed,
    values: Mapping[str, Any],
    *,
    window: Size | None = None,
    overlap: float = OVERLAP,
) -> Prediction:
    """Predict one picture; the module is in evaluation mode."""
    plan = feed.plan
    if len(plan.inputs) != 1:
        raise PlanError(f"masks are predicted of one picture, and the inputs are {plan.inputs}")
    way = _Way.of(feed, plan.inputs[0])
    picture = way.opened(values[plan.inputs[0]])
    size = (picture.height, picture.width)
    work = picture if window is not None else way.scaled(picture)
    side = window or way.window or (work.height, work.width)
    chances = _averaged(block, feed, way, work, side, overlap)
    codes = _likeliest(chances, size)
    shares = torch.bincount(codes.flatten(), minlength=block.num_outputs).double() / codes.numel()
    return Prediction(
        value=_as_values(codes, block),
        probabilities=dict(zip(block.codes, shares.tolist(), strict=True)),
        raw=chances.clone(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """Hold a picture's way into the model: how it is opened and resized, and what is done to each window."""

    name: str
    raw: Any
    resizing: Any
    window: Size | None
    rest: tuple[Any, ...]

    @classmethod
    def of(cls, feed: Feed, name: str) -> _Way:
        field = feed.plan.fields[name]
        steps = field.item_steps[1:] if isinstance(field.raw, ImageBlock) else field.item_steps
        sizing = [s for s in steps if isinstance(s.after, PixelBlock) and _size(s.after) != _size(s.before)]
        window = _size(sizing[-1].after) if sizing else None
        return cls(
            name=name,
            raw=field.raw,
            resizing=sizing[-1].transform if sizing else None,
            window=window,
            rest=tuple(step for step in steps if step not in sizing),
        )

    def opened(self, value: Any) -> Image.Image:
        """Open the whole picture, whatever the data's recipe may shrink it to."""
        if isinstance(self.raw, ImageBlock):
            bound = DecodeImage().bind(replace(self.raw, shrink_to=None, size=None))
            value = bound.encode(value, None)
        if not isinstance(value, Image.Image):
            raise PlanError(f"windows slide over opened pictures, and {self.raw!r} gives a {type(value).__name__}")
        return value

    def scaled(self, picture: Image.Image) -> Image.Image:
        """Bring the whole picture to the scale the model was trained on."""
        if self.window is None:
            return picture
        height, width = self.window
        if isinstance(self.resizing, Resize) and self.resizing.method != "squish":
            factors = picture.height / height, picture.width / width
            scale = min(factors) if self.resizing.method == "crop" else max(factors)
            height, width = max(1, round(picture.height / scale)), max(1, round(picture.width / scale))
        return picture.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)

    def tensor(self, part: Image.Image) -> Any:
        """Run what is left of the item steps."""
        value: Any = part
        for step in self.rest:
            value = step.bound.encode(value, None)
        return value


def _size(block: Any) -> Size | None:
    return block.size if isinstance(block, PixelBlock) else None


def _averaged(block: MaskTensorBlock, feed: Feed, way: _Way, work: Image.Image, side: Size, overlap: float) -> Tensor:
    """Return probabilities (C, H, W), float32 on the CPU, of a picture at the scale to work at."""
    height, width = min(side[0], work.height), min(side[1], work.width)
    boxes = [(top, left) for top in places(work.height, height, overlap) for left in places(work.width, width, overlap)]
    hat = _hat(height)[:, None] * _hat(width)
    total = torch.zeros(block.num_outputs, work.height, work.width)
    weight = torch.zeros(work.height, work.width)
    for group in _groups(boxes):
        parts = [work.crop((left, top, left + width, top + height)) for top, left in group]
        for (top, left), chances in zip(group, _run(block, feed, way, parts, (height, width)), strict=True):
            total[:, top : top + height, left : left + width] += chances * hat
            weight[top : top + height, left : left + width] += hat
    return total / weight


def _groups(boxes: Sequence[Size]) -> Iterator[Sequence[Size]]:
    return (boxes[start : start + BATCH] for start in range(0, len(boxes), BATCH))


def _run(block: MaskTensorBlock, feed: Feed, way: _Way, parts: Sequence[Image.Image], size: Size) -> Tensor:
    item = feed.plan.fields[way.name].item
    column = item.collate([way.tensor(part) for part in parts])
    batch = Batch({way.name: column}, feed.plan.inputs, (), torch.arange(len(parts)))
    raw = feed.forward(feed.ready(batch)).float()
    if raw.shape[-2:] != size:
        raw = F.interpolate(raw, size=size, mode="bilinear", align_corners=False)
    return block.activate(raw).cpu()


def places(length: int, window: int, overlap: float) -> list[int]:
    """Return where windows begin so that they cover `length`, evenly, each overlapping the next by at least a share."""
    if window >= length:
        return [0]
    step = max(1, int(window * (1 - overlap)))
    count = -(-(length - window) // step) + 1
    return [round(i * (length - window) / (count - 1)) for i in range(count)]


def _hat(length: int) -> Tensor:
    """Return weights that fall off towards a window's edges, where it sees least of what is around."""
    centre = (length - 1) / 2
    return 1 - (torch.arange(length) - centre).abs() / (length / 2 + 0.5) + 1e-3


def _likeliest(chances: Tensor, size: Size) -> Tensor:
    """Return the likeliest classes in another size, uint16-like int32 (H, W); class by class, to save memory."""
    best, codes = torch.full(size, -1.0), torch.zeros(size, dtype=torch.int32)
    for code, chance in enumerate(chances):
        whole = F.interpolate(chance[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
        better = whole > best
        codes.masked_fill_(better, code)
        best = torch.where(better, whole, best)
    return codes


def _as_values(codes: Tensor, block: MaskTensorBlock) -> np.ndarray[Any, Any]:
    values = np.arange(block.num_outputs) if block.values is None else np.array(block.values)
    mask: np.ndarray[Any, Any] = values.astype(np.uint8 if values.max() < 256 else np.uint16)[codes.numpy()]
    return mask
