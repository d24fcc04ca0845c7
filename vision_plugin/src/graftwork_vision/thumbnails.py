"""Pictures of what a model saw, and small ones to put into a page."""

from __future__ import annotations

from base64 import b64encode
from io import BytesIO
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from graftwork.api import Block, PlanError
from graftwork_vision.blocks import ImageTensorBlock, to_picture
from graftwork_vision.pictures import open_picture

__all__ = ["inlined", "picture_of"]


def picture_of(value: Any, block: Block) -> Image.Image:
    """Return a decoded value of a picture's field as a PIL image; normalised pixels are stretched over the range."""
    if not isinstance(value, Tensor):
        return open_picture(value)
    if not isinstance(block, ImageTensorBlock):
        raise PlanError(f"{block!r} is no picture")
    pixels = value.detach().cpu()
    if block.scale == "standard":
        pixels = (pixels - pixels.min()) / (pixels.max() - pixels.min()).clamp(min=1e-6)
    if block.scale != "bytes":
        pixels = (pixels * 255).round().clamp(0, 255).to(torch.uint8)
    return to_picture(pixels if block.channels in (1, 3) else pixels[:1])


def inlined(picture: Image.Image, *, side: int) -> str:
    """Return a picture, shrunk to at most `side` pixels, as the address of an <img>: the page needs no other file."""
    small = picture.convert("RGB")
    small.thumbnail((side, side))
    buffer = BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + b64encode(buffer.getvalue()).decode("ascii")
