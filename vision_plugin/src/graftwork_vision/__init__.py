"""Images for graftwork: blocks, transforms, data, models and baselines. Every name is imported on first use."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

__all__ = [
    "AdaptiveConcatPool2d",
    "AlbumentationsTransform",
    "BBoxBlock",
    "Blur",
    "Body",
    "BoxMap",
    "Brightness",
    "ConfusionBrowser",
    "Contrast",
    "DecodeImage",
    "Detection",
    "Dihedral",
    "FilesReport",
    "Flip",
    "FrequentBoxes",
    "GradCam",
    "GreyLogistic",
    "Hue",
    "ImageBlock",
    "ImageClassification",
    "ImageCleaner",
    "ImageDataLoaders",
    "ImageMultilabel",
    "ImageRegression",
    "ImageTensorBlock",
    "JpegArtifacts",
    "MeanPoints",
    "NearestMean",
    "Noise",
    "Normalize",
    "NumbersBlock",
    "Perspective",
    "PictureBlock",
    "PictureEffect",
    "PixelBlock",
    "PointBlock",
    "RandAugment",
    "RandomErasing",
    "RandomResizedCrop",
    "RandomResizedCropGPU",
    "Resize",
    "Rotate",
    "Saturation",
    "SpatialBlock",
    "SpatialTransform",
    "Standardize",
    "ToFloat",
    "ToTensor",
    "TorchvisionTransform",
    "TrivialAugment",
    "Warp",
    "Zoom",
    "aug_transforms",
    "box_map",
    "box_map_50",
    "box_source",
    "create_head",
    "download_images",
    "get_image_files",
    "grad_cam",
    "imagenet_stats",
    "is_normal",
    "parse_size",
    "picture_data_block",
    "point_distance",
    "read_idx",
    "resize_images",
    "show_grad_cam",
    "verify_images",
    "vision_body",
    "vision_learner",
    "warp_labels",
    "warp_pixels",
    "warp_points",
    "xresnet",
]

if TYPE_CHECKING:
    from graftwork_vision.albumentations_bridge import AlbumentationsTransform
    from graftwork_vision.annotations import box_source
    from graftwork_vision.augment import aug_transforms
    from graftwork_vision.backbones import Body, vision_body
    from graftwork_vision.baselines import GreyLogistic, NearestMean
    from graftwork_vision.blocks import ImageBlock, ImageTensorBlock, PictureBlock, PixelBlock
    from graftwork_vision.box_baseline import FrequentBoxes
    from graftwork_vision.box_scores import BoxMap, box_map, box_map_50
    from graftwork_vision.boxes import BBoxBlock
    from graftwork_vision.confusions import ConfusionBrowser, ImageCleaner
    from graftwork_vision.data import ImageDataLoaders, picture_data_block
    from graftwork_vision.detection_task import Detection
    from graftwork_vision.effects import Blur, Hue, JpegArtifacts, Noise, PictureEffect, RandomErasing, Saturation
    from graftwork_vision.folders import FilesReport, download_images, resize_images, verify_images
    from graftwork_vision.geometry import SpatialBlock, Warp, warp_labels, warp_pixels, warp_points
    from graftwork_vision.head import AdaptiveConcatPool2d, create_head
    from graftwork_vision.heat import GradCam, grad_cam, show_grad_cam
    from graftwork_vision.idx import read_idx
    from graftwork_vision.learner import is_normal, vision_learner
    from graftwork_vision.lighting import Brightness, Contrast
    from graftwork_vision.models import Standardize
    from graftwork_vision.numbers import NumbersBlock
    from graftwork_vision.picture_task import parse_size
    from graftwork_vision.point_scores import MeanPoints, point_distance
    from graftwork_vision.points import PointBlock
    from graftwork_vision.policies import RandAugment, TrivialAugment
    from graftwork_vision.sources import get_image_files
    from graftwork_vision.spatial import (
        Dihedral,
        Flip,
        Perspective,
        RandomResizedCropGPU,
        Rotate,
        SpatialTransform,
        Zoom,
    )
    from graftwork_vision.tasks import ImageClassification, ImageMultilabel, ImageRegression
    from graftwork_vision.torchvision_bridge import TorchvisionTransform
    from graftwork_vision.transforms import (
        DecodeImage,
        Normalize,
        RandomResizedCrop,
        Resize,
        ToFloat,
        ToTensor,
        imagenet_stats,
    )
    from graftwork_vision.xresnets import xresnet

_HOMES: Final = {
    "albumentations_bridge": "AlbumentationsTransform",
    "annotations": "box_source",
    "augment": "aug_transforms",
    "backbones": "Body vision_body",
    "baselines": "GreyLogistic NearestMean",
    "blocks": "ImageBlock ImageTensorBlock PictureBlock PixelBlock",
    "box_baseline": "FrequentBoxes",
    "box_scores": "BoxMap box_map box_map_50",
    "boxes": "BBoxBlock",
    "confusions": "ConfusionBrowser ImageCleaner",
    "data": "ImageDataLoaders picture_data_block",
    "detection_task": "Detection",
    "effects": "Blur Hue JpegArtifacts Noise PictureEffect RandomErasing Saturation",
    "folders": "FilesReport download_images resize_images verify_images",
    "geometry": "SpatialBlock Warp warp_labels warp_pixels warp_points",
    "head": "AdaptiveConcatPool2d create_head",
    "heat": "GradCam grad_cam show_grad_cam",
    "idx": "read_idx",
    "learner": "is_normal vision_learner",
    "picture_task": "parse_size",
    "lighting": "Brightness Contrast",
    "models": "Standardize",
    "numbers": "NumbersBlock",
    "point_scores": "MeanPoints point_distance",
    "points": "PointBlock",
    "policies": "RandAugment TrivialAugment",
    "sources": "get_image_files",
    "spatial": "Dihedral Flip Perspective RandomResizedCropGPU Rotate SpatialTransform Zoom",
    "tasks": "ImageClassification ImageMultilabel ImageRegression",
    "torchvision_bridge": "TorchvisionTransform",
    "transforms": "DecodeImage Normalize RandomResizedCrop Resize ToFloat ToTensor imagenet_stats",
    "xresnets": "xresnet",
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
