"""Images for graftwork: blocks, transforms, data, models and baselines. Every name is imported on first use."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

__all__ = [
    "AdaptiveConcatPool2d",
    "DecodeImage",
    "Flip",
    "GreyLogistic",
    "ImageBlock",
    "ImageClassification",
    "ImageDataLoaders",
    "ImageTensorBlock",
    "NearestMean",
    "Normalize",
    "PictureBlock",
    "PixelBlock",
    "RandomResizedCrop",
    "Resize",
    "ToFloat",
    "ToTensor",
    "create_head",
    "get_image_files",
    "imagenet_stats",
    "read_idx",
    "vision_learner",
]

if TYPE_CHECKING:
    from graftwork_vision.baselines import GreyLogistic, NearestMean
    from graftwork_vision.blocks import ImageBlock, ImageTensorBlock, PictureBlock, PixelBlock
    from graftwork_vision.data import ImageDataLoaders
    from graftwork_vision.head import AdaptiveConcatPool2d, create_head
    from graftwork_vision.idx import read_idx
    from graftwork_vision.learner import vision_learner
    from graftwork_vision.sources import get_image_files
    from graftwork_vision.tasks import ImageClassification
    from graftwork_vision.transforms import (
        DecodeImage,
        Flip,
        Normalize,
        RandomResizedCrop,
        Resize,
        ToFloat,
        ToTensor,
        imagenet_stats,
    )

_HOMES: Final = {
    "baselines": "GreyLogistic NearestMean",
    "blocks": "ImageBlock ImageTensorBlock PictureBlock PixelBlock",
    "data": "ImageDataLoaders",
    "head": "AdaptiveConcatPool2d create_head",
    "idx": "read_idx",
    "learner": "vision_learner",
    "sources": "get_image_files",
    "tasks": "ImageClassification",
    "transforms": "DecodeImage Flip Normalize RandomResizedCrop Resize ToFloat ToTensor imagenet_stats",
}


def __getattr__(name: str) -> object:
    """Import a public name on first use."""
    from importlib import import_module

    for module, names in _HOMES.items():
        if name in names.split():
            value: object = getattr(import_module(f"{__name__}.{module}"), name)
            vars(sys.modules[__name__])[name] = value
            return value
    from difflib import get_close_matches

    near = get_close_matches(name, __all__, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}", name=name, obj=sys.modules[__name__])


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
