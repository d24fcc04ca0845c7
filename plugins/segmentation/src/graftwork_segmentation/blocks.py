"""Blocks of masks: as a source names them, opened, and as a tensor that a model predicts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from graftwork.api import Block, BlockError, BlockSteps, ItemError, OptionError, TargetBlock
from graftwork_segmentation.colours import legend, overlay
from graftwork_segmentation.masks import LARGEST_VALUE, classes_of, lookup, mask_values, to_picture
from graftwork_vision import PixelBlock, SpatialBlock, Warp, warp_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from graftwork.api import Feed, Prediction

__all__ = ["VOID", "MaskBlock", "MaskPictureBlock", "MaskTensorBlock"]

Size = tuple[int, int]
VOID: Final = -100
"""What an encoded mask holds where nothing is known: torch's own `ignore_index`."""
MOCK_SIDE: Final = 16


def _check_codes(codes: Sequence[str], owner: str) -> None:
    if len(codes) < 2:
        raise OptionError(f"{owner}: codes={tuple(codes)!r}; name at least two classes, the background is one of them")
    if len(set(codes)) != len(codes):
        raise OptionError(f"{owner}: the codes name a class twice: {tuple(codes)}")


@dataclass(frozen=True)
class MaskBlock(Block):
    """Name a mask, a picture whose pixel values are classes: a path, bytes, a PIL image, or integers (H, W).

    `codes` are the classes' names; the value of a pixel is the position of its class, or what `values` has there (0 and
    255, say). Pixels of the value `ignore_index`, a class's or another, count for nothing.
    """

    id: ClassVar[str] = "segmentation/mask"
    codes: tuple[str, ...] = ("background", "object")
    ignore_index: int | None = None
    values: tuple[int, ...] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        """Take any sequence of names; refuse fewer than two classes and values that cannot be."""
        object.__setattr__(self, "codes", tuple(map(str, self.codes)))
        _check_codes(self.codes, self.id)
        if self.values is not None and len(set(self.values)) != len(self.codes):
            raise OptionError(f"{self.id}: {len(self.codes)} codes need as many different values, not {self.values}")
        for value in (*self.pixel_values, *(() if self.ignore_index is None else (self.ignore_index,))):
            if not 0 <= value <= LARGEST_VALUE:
                raise OptionError(f"{self.id}: the value {value} is not between 0 and {LARGEST_VALUE}")

    @property
    def pixel_values(self) -> tuple[int, ...]:
        """The value of each class's pixels."""
        return tuple(range(len(self.codes))) if self.values is None else self.values

    @property
    def void(self) -> int | None:
        """The position of the class whose pixels count for nothing, if it is one of the codes."""
        found = [code for code, value in enumerate(self.pixel_values) if value == self.ignore_index]
        return found[0] if found else None

    def check(self, value: Any) -> str | None:
        """Return why `value` names no mask, or None; files are looked at from outside only."""
        if isinstance(value, str | os.PathLike):
            return None if Path(value).is_file() else f"no such file: {value}"
        try:
            mask_values(value)
        except ItemError as error:
            return str(error)
        return None

    def mock(self, rng: np.random.Generator) -> Image.Image:
        """Invent a mask of noise."""
        return Image.fromarray(rng.choice(self.pixel_values, (MOCK_SIDE, MOCK_SIDE)).astype(np.int32))

    def collate(self, values: Sequence[Any]) -> Tensor:
        """Refuse: masks are opened before they are batched."""
        raise BlockError(f"{self.id} names masks, which have no tensor form; open them first (DecodeMask)")

    def uncollate(self, column: Tensor) -> list[Any]:
        """Refuse: masks are opened before they are batched."""
        raise BlockError(f"{self.id} names masks, which have no tensor form")

    def show(self, value: Any, ax: Axes) -> None:
        """Open the mask and lay it over what is drawn."""
        table = lookup(self.pixel_values, self.ignore_index)
        overlay(np.asarray(classes_of(value, table, len(self.codes))), ax)

    def steps(self) -> BlockSteps:
        """Open the mask."""
        from graftwork_segmentation.transforms import DecodeMask

        return BlockSteps(opening=(DecodeMask(),))


@dataclass(frozen=True)
class MaskPictureBlock(PixelBlock):
    """Hold an opened mask: a PIL image of classes plus one, 0 where nothing is known (padding, `ignore_index`).

    Its mode is L, or I for more than 255 classes. It is resized without mixing classes.
    """

    id: ClassVar[str] = "segmentation/mask-picture"
    codes: tuple[str, ...] = ("background", "object")
    void: int | None = None
    values: tuple[int, ...] | None = None
    known_size: Size | None = None

    def __post_init__(self) -> None:
        """Refuse fewer than two classes."""
        _check_codes(self.codes, self.id)

    @property
    def size(self) -> Size | None:
        """(height, width) if every mask has the same one."""
        return self.known_size

    @property
    def resample(self) -> Image.Resampling:
        """The nearest pixel: classes cannot be averaged."""
        return Image.Resampling.NEAREST

    @property
    def mode(self) -> str:
        """Pillow's name of the pixel format."""
        return "L" if len(self.codes) < 256 else "I"

    def sized(self, size: Size) -> Self:
        """Return the same block with a known size."""
        return replace(self, known_size=size)

    def check(self, value: Any) -> str | None:
        """Return why `value` is no such mask, or None."""
        if not isinstance(value, Image.Image) or value.mode != self.mode:
            return (
                f"an opened mask is a PIL image of mode {self.mode}, not {getattr(value, 'mode', type(value).__name__)}"
            )
        if self.size is not None and (value.height, value.width) != self.size:
            return f"a mask of {_by(self.size)} expected, not {_by((value.height, value.width))}"
        high = int(np.asarray(value).max())
        return None if high <= len(self.codes) else f"{high - 1} is none of the {len(self.codes)} classes"

    def mock(self, rng: np.random.Generator) -> Image.Image:
        """Invent a mask of noise, all of it known."""
        size = self.size or (MOCK_SIDE, MOCK_SIDE)
        return to_picture(rng.integers(1, len(self.codes) + 1, size), len(self.codes))

    def collate(self, values: Sequence[Any]) -> Tensor:
        """Stack to classes plus one, int64 (B, H, W)."""
        return _stacked([torch.from_numpy(np.asarray(value).astype(np.int64)) for value in values])

    def uncollate(self, column: Tensor) -> list[Any]:
        """Return one picture per mask."""
        return [to_picture(mask, len(self.codes)) for mask in column.cpu().numpy()]

    def show(self, value: Any, ax: Axes) -> None:
        """Lay the mask over what is drawn."""
        overlay(np.asarray(value), ax)

    def legend(self, values: Sequence[Any]) -> list[tuple[str, str]]:
        """Name the colours of the classes in masks."""
        return legend([np.asarray(value) for value in values], self.codes)

    def steps(self) -> BlockSteps:
        """Turn the mask into a tensor of classes."""
        from graftwork_segmentation.transforms import MaskToTensor

        return BlockSteps(closing=(MaskToTensor(),))


@dataclass(frozen=True)
class MaskTensorBlock(TargetBlock, SpatialBlock):
    """Hold the class of every pixel: int64 (H, W), in a batch (B, H, W), -100 where nothing is known.

    Models give logits (B, classes, H, W). The class `void`, if there is one, is never predicted. `values` are what a
    mask file has for each class.
    """

    id: ClassVar[str] = "segmentation/mask-tensor"
    drawn: ClassVar[bool] = True
    answers: ClassVar[bool] = True
    codes: tuple[str, ...] = ("background", "object")
    void: int | None = None
    values: tuple[int, ...] | None = None
    size: Size | None = None

    def __post_init__(self) -> None:
        """Refuse fewer than two classes."""
        _check_codes(self.codes, self.id)

    @property
    def num_outputs(self) -> int:
        """One logit per class, at every pixel."""
        return len(self.codes)

    @property
    def loss_id(self) -> str:
        """Cross-entropy over the pixels whose class is known, plus the Dice loss of each picture's classes."""
        return "segmentation/cross_entropy_dice"

    @property
    def metric_ids(self) -> tuple[str, ...]:
        """Mean intersection over union, pixel accuracy, mean Dice."""
        return ("segmentation/mean_iou", "segmentation/pixel_accuracy", "segmentation/mean_dice")

    @property
    def baseline_ids(self) -> tuple[str, ...]:
        """The most frequent class at each position, and a linear model of colour."""
        return ("segmentation/position", "segmentation/colour-logistic")

    def check(self, value: Any) -> str | None:
        """Return why `value` is no such mask, or None."""
        if not isinstance(value, Tensor) or value.dtype != torch.int64 or value.ndim != 2:
            return "an encoded mask is an int64 tensor (height, width)"
        if self.size is not None and tuple(value.shape) != self.size:
            return f"a mask of {_by(self.size)} expected, not {_by(tuple(value.shape))}"
        known = value[value != VOID]
        low, high = (int(known.min()), int(known.max())) if len(known) else (0, 0)
        return None if low >= 0 and high < len(self.codes) else f"classes are 0 to {len(self.codes) - 1}, or {VOID}"

    def mock(self, rng: np.random.Generator) -> Tensor:
        """Invent a mask of noise, all of it known and nothing of it void."""
        classes = [code for code in range(len(self.codes)) if code != self.void]
        return torch.from_numpy(rng.choice(classes, self.size or (MOCK_SIDE, MOCK_SIDE)).astype(np.int64))

    def collate(self, values: Sequence[Any]) -> Tensor:
        """Stack to int64 (B, H, W); raise BlockError naming two sizes that differ."""
        return _stacked(values)

    def uncollate(self, column: Tensor) -> list[Any]:
        """Return one tensor (H, W) per item."""
        return list(column.cpu())

    def show(self, value: Any, ax: Axes) -> None:
        """Lay the mask over what is drawn."""
        overlay(_shifted(value), ax)

    def legend(self, values: Sequence[Any]) -> list[tuple[str, str]]:
        """Name the colours of the classes in masks."""
        return legend([_shifted(value) for value in values], self.codes)

    def activate(self, raw: Tensor) -> Tensor:
        """Softmax over the classes (dimension 1), 0 for the void one."""
        if self.void is None:
            return raw.float().softmax(1)
        logits = raw.to(torch.float32, copy=True)
        logits[:, self.void] = -torch.inf
        return logits.softmax(1)

    def predict(self, activated: Tensor) -> Tensor:
        """Take the most probable class of each pixel."""
        return activated.argmax(1)

    def probabilities(self, row: Tensor) -> dict[str, float]:
        """Name the share of the pixels that each class is predicted for."""
        counts = torch.bincount(row.argmax(0).flatten(), minlength=len(self.codes)).double()
        return dict(zip(self.codes, (counts / counts.sum()).tolist(), strict=True))

    def answer(self, feed: Feed, values: Mapping[str, Any]) -> Prediction:
        """Predict a mask of the picture's own size, as values of mask files, from windows where it needs them."""
        from graftwork_segmentation.windows import answer

        return answer(self, feed, values)

    def warp(self, column: Tensor, warp: Warp) -> Tensor:
        """Follow a geometric change; what comes from outside is not known."""
        return warp_labels(column, warp, outside=VOID)

    def sized(self, size: Size) -> Self:
        """Return the same block with a known size."""
        return replace(self, size=size)


def _stacked(values: Sequence[Tensor]) -> Tensor:
    for value in values:
        if value.shape != values[0].shape:
            raise BlockError(
                f"masks of {_by(values[0].shape)} and of {_by(value.shape)} cannot form one batch; "
                "give pictures and masks one size with item_tfms=[Resize(128)]"
            )
    return torch.from_numpy(np.stack([value.numpy() for value in values]))


def _by(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]} (height x width)"


def _shifted(mask: Tensor) -> np.ndarray[Any, Any]:
    """Return classes plus one, 0 where nothing is known."""
    shifted: np.ndarray[Any, Any] = (mask.cpu() + 1).clamp(min=0).numpy()
    return shifted
