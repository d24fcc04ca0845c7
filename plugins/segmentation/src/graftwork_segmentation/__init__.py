"""Semantic segmentation for graftwork. Every name is imported on first use."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

__all__ = [
    "ColourLogistic",
    "Combined",
    "CrossEntropyDice",
    "DecodeMask",
    "DiceLoss",
    "DynamicUnet",
    "LovaszSoftmax",
    "MaskBlock",
    "MaskPath",
    "MaskPictureBlock",
    "MaskTensorBlock",
    "MaskToTensor",
    "MostFrequent",
    "Pair",
    "PixelCrossEntropy",
    "PixelFocal",
    "SegmentationDataLoaders",
    "SegmentationInterpretation",
    "SemanticSegmentation",
    "Tversky",
    "boundary_f",
    "class_dice",
    "class_iou",
    "folder_source",
    "foreground_accuracy",
    "get_image",
    "get_mask",
    "mean_dice",
    "mean_iou",
    "pixel_accuracy",
    "predict_mask",
    "unet_learner",
]

if TYPE_CHECKING:
    from graftwork_segmentation.baselines import ColourLogistic, MostFrequent
    from graftwork_segmentation.blocks import MaskBlock, MaskPictureBlock, MaskTensorBlock
    from graftwork_segmentation.boundary import boundary_f
    from graftwork_segmentation.data import SegmentationDataLoaders
    from graftwork_segmentation.dynamic import DynamicUnet
    from graftwork_segmentation.interpret import SegmentationInterpretation
    from graftwork_segmentation.learner import unet_learner
    from graftwork_segmentation.losses import (
        Combined,
        CrossEntropyDice,
        DiceLoss,
        LovaszSoftmax,
        PixelCrossEntropy,
        PixelFocal,
        Tversky,
    )
    from graftwork_segmentation.metrics import (
        class_dice,
        class_iou,
        foreground_accuracy,
        mean_dice,
        mean_iou,
        pixel_accuracy,
    )
    from graftwork_segmentation.sources import MaskPath, Pair, folder_source, get_image, get_mask
    from graftwork_segmentation.tasks import SemanticSegmentation
    from graftwork_segmentation.transforms import DecodeMask, MaskToTensor
    from graftwork_segmentation.windows import predict_mask

_HOMES: Final = {
    "baselines": "ColourLogistic MostFrequent",
    "blocks": "MaskBlock MaskPictureBlock MaskTensorBlock",
    "boundary": "boundary_f",
    "data": "SegmentationDataLoaders",
    "dynamic": "DynamicUnet",
    "interpret": "SegmentationInterpretation",
    "learner": "unet_learner",
    "losses": "Combined CrossEntropyDice DiceLoss LovaszSoftmax PixelCrossEntropy PixelFocal Tversky",
    "metrics": "class_dice class_iou foreground_accuracy mean_dice mean_iou pixel_accuracy",
    "sources": "MaskPath Pair folder_source get_image get_mask",
    "tasks": "SemanticSegmentation",
    "transforms": "DecodeMask MaskToTensor",
    "windows": "predict_mask",
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
