"""The entry module: what this plugin offers, as records that name their components without importing them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from graftwork.api import (
    BaselineSpec,
    BlockSpec,
    ModelSpec,
    Plugin,
    SourceSpec,
    TaskSpec,
    TransformSpec,
    hookimpl,
)
from graftwork_vision.archs import ARCHS

PLUGIN = Plugin(namespace="vision", summary="Pictures: blocks, transforms, models and baselines for them")

IMAGE, PICTURE, PIXELS = "vision/image", "vision/picture", "vision/image-tensor"
CLASS_INDEX = "core/class-index"

_BLOCKS = (
    (IMAGE, "ImageBlock", "A picture: a path, bytes, a PIL image or an array"),
    (PICTURE, "PictureBlock", "An opened picture, RGB or grey"),
    (PIXELS, "ImageTensorBlock", "A picture's pixels as a tensor, channels first"),
)


@hookimpl
def graftwork_register_blocks() -> Iterator[BlockSpec]:
    """Return the three forms of a picture."""
    for name, attribute, summary in _BLOCKS:
        yield BlockSpec(id=name, target=f"graftwork_vision.blocks:{attribute}", summary=summary)


def _transform(name: str, attribute: str, summary: str, *, accepts: str, gives: str, **more: bool) -> TransformSpec:
    return TransformSpec(
        id=f"vision/{name}",
        target=f"graftwork_vision.transforms:{attribute}",
        summary=summary,
        accepts=(accepts,),
        gives=gives,
        stage="batch" if accepts == PIXELS else "item",
        random=more.get("random", False),
        invertible=more.get("invertible", False),
    )


@hookimpl
def graftwork_register_transforms() -> Iterable[TransformSpec]:
    """Return the ways from one form of a picture to another."""
    return (
        _transform("decode", "DecodeImage", "Open a picture as RGB or grey", accepts=IMAGE, gives=PICTURE),
        _transform("resize", "Resize", "Crop, pad or squish to one size", accepts=PICTURE, gives=PICTURE, random=True),
        _transform(
            "random-resized-crop",
            "RandomResizedCrop",
            "Crop a random part and give it one size",
            accepts=PICTURE,
            gives=PICTURE,
            random=True,
        ),
        _transform(
            "to-tensor", "ToTensor", "Turn a picture into bytes", accepts=PICTURE, gives=PIXELS, invertible=True
        ),
        _transform(
            "to-float", "ToFloat", "Turn bytes into floats from 0 to 1", accepts=PIXELS, gives=PIXELS, invertible=True
        ),
        _transform(
            "normalize",
            "Normalize",
            "Subtract a mean, divide by a deviation",
            accepts=PIXELS,
            gives=PIXELS,
            invertible=True,
        ),
        _transform("flip", "Flip", "Mirror left to right at random", accepts=PIXELS, gives=PIXELS, random=True),
    )


@hookimpl
def graftwork_register_models() -> Iterator[ModelSpec]:
    """Return the small models, and every classifier of torchvision with a new head."""
    for name, attribute, summary, params_m in (
        ("lenet5", "lenet5", "LeNet-5 for small pictures such as digits", 0.06),
        ("small-cnn", "small_cnn", "Five convolutions for small pictures", 0.28),
    ):
        yield ModelSpec(
            id=f"vision/{name}",
            target=f"graftwork_vision.models:{attribute}",
            summary=summary,
            inputs=(PIXELS,),
            output=CLASS_INDEX,
            params_m=params_m,
        )
    for name, (params_m, _) in ARCHS.items():
        yield ModelSpec(
            id=f"vision/{name}",
            target=f"graftwork_vision.models:{name}",
            summary=f"torchvision's {name} with a new head",
            inputs=(PIXELS,),
            output=CLASS_INDEX,
            params_m=params_m,
            pretrained=("DEFAULT",),
        )


@hookimpl
def graftwork_register_baselines() -> Iterable[BaselineSpec]:
    """Return what a classifier of pictures must beat."""
    return (
        BaselineSpec(
            id="vision/nearest-mean",
            target="graftwork_vision.baselines:NearestMean",
            summary="Predict the class whose mean picture is nearest",
            blocks=(CLASS_INDEX,),
            inputs=(PIXELS,),
        ),
        BaselineSpec(
            id="vision/grey-logistic",
            target="graftwork_vision.baselines:GreyLogistic",
            summary="Logistic regression on small grey pictures",
            blocks=(CLASS_INDEX,),
            inputs=(PIXELS,),
            requires=("sklearn",),
        ),
    )


@hookimpl
def graftwork_register_sources() -> Iterator[SourceSpec]:
    """Return the forms in which labelled pictures lie on a disk."""
    for name, attribute, summary, patterns in (
        ("folder", "folder_source", "Pictures in one folder per class", ("*/*",)),
        ("train-valid", "train_valid_source", "Folders train and valid, a folder per class in each", ("train/*/*",)),
        ("csv", "csv_source", "A table of picture paths and labels", ("*.csv", "*.tsv")),
        ("idx", "idx_source", "IDX files as MNIST has them", ("*-images-idx3-ubyte*",)),
    ):
        yield SourceSpec(
            id=f"vision/{name}",
            target=f"graftwork_vision.sources:{attribute}",
            summary=summary,
            patterns=patterns,
            gives=(IMAGE, "core/category"),
        )


@hookimpl
def graftwork_register_tasks() -> Iterable[TaskSpec]:
    """Return the one-command jobs."""
    return (
        TaskSpec(
            id="vision/classification",
            target="graftwork_vision.tasks:ImageClassification",
            summary="Tell the class of a picture",
            inputs=(IMAGE,),
            targets=("core/category",),
            defaults={
                "model": ("vision/small-cnn", "vision/resnet18"),
                "loss": "core/cross_entropy",
                "metrics": ("core/accuracy",),
                "baselines": ("core/majority", "vision/nearest-mean", "vision/grey-logistic"),
            },
        ),
    )


@hookimpl
def graftwork_resolve_source(location: str) -> str | None:
    """Claim what holds pictures: folders of them, tables whose paths are pictures, IDX files."""
    from graftwork_vision.sources import resolve_source

    return resolve_source(location)
