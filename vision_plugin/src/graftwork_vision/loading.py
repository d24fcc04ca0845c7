"""From a JPEG to a tensor of its final size in one go, by way of arrays alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from PIL import Image

from graftwork.api import Fused, Transform
from graftwork_vision.blocks import ImageBlock, Size
from graftwork_vision.pictures import jpeg_pixels, to_array
from graftwork_vision.transforms import Box, RandomResizedCrop, Resize, ToTensor, as_pixels, as_size, cut_at

__all__ = ["fused_jpeg", "resized"]

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
GAP: Final = 2.0
"""As Pillow's `reducing_gap`: shrinking more than twice this, it averages whole blocks first."""


def fused_jpeg(block: ImageBlock, following: Sequence[Transform]) -> Fused | None:
    """Return DecodeImage done with the cropping and resizing, if any, and the ToTensor that follow; or None."""
    if block.all_bands or block.size is not None:
        return None
    sizing = following[0] if following and _sizes(following[0]) else None
    count = 1 if sizing is None else 2
    if len(following) < count or type(following[count - 1]) is not ToTensor:
        return None

    def encode(value: Any, params: Sequence[Any]) -> Any:
        pixels = jpeg_pixels(value, channels=block.channels, shrink_to=block.shrink_to, max_pixels=block.max_pixels)
        if pixels is None:
            return NotImplemented
        if isinstance(sizing, Resize | RandomResizedCrop):
            box = sizing.part((pixels.shape[0], pixels.shape[1]), params[1])
            pixels = resized(pixels, as_size(sizing.size, sizing.id), box)
        return as_pixels(pixels)

    return Fused(count + 1, encode)


def _sizes(transform: Transform) -> bool:
    """Say whether it gives pictures a size by nothing but cropping and resizing; a subclass may do anything."""
    if type(transform) is Resize:
        return transform.method != "pad"
    return type(transform) is RandomResizedCrop


def resized(pixels: Pixels, size: Size, box: Box) -> Pixels:
    """Return a part of pixels (H, W, C) in a size (height, width), to a level as Pillow's bilinear filter does."""
    if corner := cut_at(box, size):
        x, y = corner
        part = pixels[y : y + size[0], x : x + size[1]]
        return part if 2 * part.size >= pixels.size else part.copy()  # a batch keeps what its items are part of
    if max((box[3] - box[1]) / size[0], (box[2] - box[0]) / size[1]) >= 2 * GAP:
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        return to_array(picture.resize(size[::-1], Image.Resampling.BILINEAR, box=box, reducing_gap=GAP))
    from graftwork_vision.resizing import resize

    result = np.empty((*size, pixels.shape[2]), np.uint8)
    left, top, right, bottom = map(float, box)
    resize(pixels, left, top, right, bottom, result)
    return result
