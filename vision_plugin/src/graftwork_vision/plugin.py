"""The entry module: what this plugin offers, as records that name their components without importing them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from graftwork.api import (
    BaselineSpec,
    BlockSpec,
    CommandSpec,
    LossSpec,
    MetricSpec,
    ModelSpec,
    Plugin,
    SourceSpec,
    TaskSpec,
    TransformSpec,
    hookimpl,
)
from graftwork_vision.archs import ARCHS, XRESNETS
from graftwork_vision.records import AUGMENTS

PLUGIN = Plugin(
    namespace="vision",
    summary="Pictures: blocks, transforms, models and baselines for them",
    extras={
        "albumentations": "the transforms of albumentations, by name",
        "tiff": "TIFF files of several bands beyond 8 bits",
        "timm": "the models of timm, by name",
    },
)

IMAGE, PICTURE, PIXELS = "vision/image", "vision/picture", "vision/image-tensor"
CLASS_INDEX = "core/class-index"
POINTS, PLACED_POINTS, POINT_TENSOR = "vision/points", "vision/placed-points", "vision/point-tensor"
BOXES, PLACED_BOXES, BOX_TENSOR = "vision/boxes", "vision/placed-boxes", "vision/box-tensor"
BANDS = "vision/bands"
OPENED = (PICTURE, BANDS, PLACED_POINTS, PLACED_BOXES)
NUMBERS, SCALED = "vision/numbers", "vision/scaled-numbers"
TARGETS = (CLASS_INDEX, "core/multi-hot", "core/regression", SCALED, POINT_TENSOR)

_BLOCKS = (
    (IMAGE, "blocks:ImageBlock", "A picture: a path, bytes, a PIL image or an array"),
    (PICTURE, "blocks:PictureBlock", "An opened picture, RGB or grey"),
    (PIXELS, "blocks:ImageTensorBlock", "A picture's pixels as a tensor, channels first"),
    (BANDS, "bands:BandsBlock", "An opened picture of any number of bands"),
    (NUMBERS, "numbers:NumbersBlock", "Numbers to predict, in their own units"),
    (SCALED, "numbers:ScaledNumbersBlock", "Numbers scaled by the training split"),
    (POINTS, "points:PointBlock", "Points in a picture, in pixels"),
    (PLACED_POINTS, "points:PlacedPointsBlock", "Points placed in an opened picture"),
    (POINT_TENSOR, "points:PointTensorBlock", "Points as a tensor, from -1 to 1"),
    (BOXES, "boxes:BBoxBlock", "Boxes with labels in a picture, in pixels"),
    (PLACED_BOXES, "boxes:PlacedBoxesBlock", "Boxes placed in an opened picture"),
    (BOX_TENSOR, "boxes:BoxTensorBlock", "Boxes with labels and scores as a tensor, from -1 to 1"),
)


@hookimpl
def graftwork_register_blocks() -> Iterator[BlockSpec]:
    """Return the three forms of a picture, of points and of boxes in one."""
    for name, attribute, summary in _BLOCKS:
        yield BlockSpec(id=name, target=f"graftwork_vision.{attribute}", summary=summary)


_TRANSFORMS = (
    ("decode", "transforms:DecodeImage", "Open a picture as RGB or grey", (IMAGE,), PICTURE, ""),
    ("resize", "transforms:Resize", "Crop, pad or squish to one size", OPENED, PICTURE, "random"),
    (
        "random-resized-crop",
        "transforms:RandomResizedCrop",
        "Crop a random part to a size",
        OPENED,
        PICTURE,
        "random",
    ),
    ("to-tensor", "transforms:ToTensor", "Turn a picture into bytes", (PICTURE, BANDS), PIXELS, "invertible"),
    ("scale-numbers", "numbers:ScaleNumbers", "Scale numbers by the training split", (NUMBERS,), SCALED, "invertible"),
    ("place-points", "points:PlacePoints", "Place points in the opened picture", (POINTS,), PLACED_POINTS, ""),
    (
        "pack-points",
        "points:PackPoints",
        "Make placed points a tensor",
        (PLACED_POINTS,),
        POINT_TENSOR,
        "invertible",
    ),
    (
        "place-boxes",
        "boxes:PlaceBoxes",
        "Place boxes in the opened picture",
        (BOXES,),
        PLACED_BOXES,
        "",
    ),
    ("pack-boxes", "boxes:PackBoxes", "Make placed boxes a tensor", (PLACED_BOXES,), BOX_TENSOR, "invertible"),
    ("to-float", "transforms:ToFloat", "Turn bytes into floats from 0 to 1", (PIXELS,), PIXELS, "invertible"),
    ("normalize", "transforms:Normalize", "Subtract a mean, divide by a deviation", (PIXELS,), PIXELS, "invertible"),
)


@hookimpl
def graftwork_register_transforms() -> Iterator[TransformSpec]:
    """Return the ways from one form of a picture to another."""
    for name, where, summary, accepts, gives, trait in _TRANSFORMS:
        yield TransformSpec(
            id=f"vision/{name}",
            target=f"graftwork_vision.{where}",
            summary=summary,
            accepts=accepts,
            gives=gives,
            stage="batch" if accepts == (PIXELS,) else "item",
            random=trait == "random",
            invertible=trait == "invertible",
        )
    yield TransformSpec(
        id="vision/albumentations",
        target="graftwork_vision.albumentations_bridge:AlbumentationsTransform",
        summary="What a transform of albumentations does, by its name",
        requires=("albumentations",),
        accepts=(PICTURE,),
        gives=PICTURE,
        random=True,
    )
    yield from (_augment(name, where, summary) for name, where, summary in AUGMENTS)


def _augment(name: str, where: str, summary: str) -> TransformSpec:
    return TransformSpec(
        id=f"vision/{name}",
        target=f"graftwork_vision.{where}",
        summary=summary,
        accepts=(PIXELS, POINT_TENSOR, BOX_TENSOR) if where.startswith("spatial:") else (PIXELS,),
        gives=PIXELS,
        stage="batch",
        random=True,
    )


@hookimpl
def graftwork_register_models() -> Iterator[ModelSpec]:
    """Return the small models, and every classifier of torchvision, XResNet and timm model with a new head."""
    for name, attribute, summary, params_m in (
        ("lenet5", "lenet5", "LeNet-5 for small pictures such as digits", 0.06),
        ("small-cnn", "small_cnn", "Five convolutions for small pictures", 0.28),
    ):
        yield ModelSpec(
            id=f"vision/{name}",
            target=f"graftwork_vision.models:{attribute}",
            summary=summary,
            inputs=(PIXELS,),
            output=TARGETS,
            params_m=params_m,
        )
    yield ModelSpec(
        id="vision/siamese",
        target="graftwork_vision.siamese:siamese",
        summary="One backbone for two or more pictures of a sample",
        inputs=(PIXELS, PIXELS),
        output=TARGETS,
        params_m=12.2,
    )
    yield ModelSpec(
        id="vision/fusion",
        target="graftwork_vision.fusion:fusion",
        summary="A registered model for each input, their outputs added",
        inputs=(PIXELS, PIXELS),
        output=TARGETS,
    )
    for name, attribute, summary, params_m in (
        ("faster-rcnn", "faster_rcnn", "Faster R-CNN on the pyramid of a backbone", 14.2),
        ("retinanet", "retinanet", "RetinaNet on the pyramid of a backbone", 14.1),
    ):
        yield ModelSpec(
            id=f"vision/{name}",
            target=f"graftwork_vision.detectors:{attribute}",
            summary=summary,
            inputs=(PIXELS,),
            output=BOX_TENSOR,
            params_m=params_m,
        )
    for name, (params_m, _) in ARCHS.items():
        yield ModelSpec(
            id=f"vision/{name}",
            target=f"graftwork_vision.models:{name}",
            summary=f"A new head on torchvision's {name}",
            inputs=(PIXELS,),
            output=TARGETS,
            params_m=params_m,
            pretrained=("DEFAULT",),
        )
    for name, (params_m, _) in XRESNETS.items():
        yield ModelSpec(
            id=f"vision/{name}",
            target=f"graftwork_vision.models:{name}",
            summary=f"A new head on an XResNet, {name}",
            inputs=(PIXELS,),
            output=TARGETS,
            params_m=params_m,
        )
    yield ModelSpec(
        id="vision/timm",
        target="graftwork_vision.timm_models:timm_model",
        summary="A new head on any model of timm (option arch)",
        inputs=(PIXELS,),
        output=TARGETS,
        pretrained=("DEFAULT",),
        requires=("timm",),
    )


@hookimpl
def graftwork_register_losses() -> Iterable[LossSpec]:
    """Return the losses of points and of boxes."""
    return (
        LossSpec(
            id="vision/points",
            target="graftwork_vision.point_scores:PointLoss",
            summary="Mean squared error of the points that are there",
            blocks=(POINT_TENSOR,),
            default=True,
        ),
        LossSpec(
            id="vision/box_set",
            target="graftwork_vision.box_scores:BoxSetLoss",
            summary="Each true box against the candidate that suits it best",
            blocks=(BOX_TENSOR,),
            default=True,
        ),
    )


@hookimpl
def graftwork_register_metrics() -> Iterator[MetricSpec]:
    """Return the metrics of points and of boxes."""
    for name, attribute, summary, block, higher in (
        ("point_distance", "point_scores", "Mean distance of points, a picture's side being 1", POINT_TENSOR, False),
        ("box_map", "box_scores", "Mean average precision of boxes over overlaps from 0.5 to 0.95", BOX_TENSOR, True),
        ("box_map_50", "box_scores", "Mean average precision of boxes that overlap by a half", BOX_TENSOR, True),
    ):
        yield MetricSpec(
            id=f"vision/{name}",
            target=f"graftwork_vision.{attribute}:{name}",
            summary=summary,
            blocks=(block,),
            higher_is_better=higher,
            default=True,
        )


@hookimpl
def graftwork_register_baselines() -> Iterable[BaselineSpec]:
    """Return what a classifier of pictures must beat."""
    return (
        BaselineSpec(
            id="vision/mean-points",
            target="graftwork_vision.point_scores:MeanPoints",
            summary="Predict the mean place of every point",
            blocks=(POINT_TENSOR,),
        ),
        BaselineSpec(
            id="vision/frequent-boxes",
            target="graftwork_vision.box_baseline:FrequentBoxes",
            summary="Predict the boxes that are right most often",
            blocks=(BOX_TENSOR,),
        ),
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
def graftwork_register_commands() -> Iterator[CommandSpec]:
    """Return `graft pictures`."""
    yield CommandSpec(
        id="vision/pictures",
        target="graftwork_vision.command:pictures",
        summary="Verify, shrink and fetch pictures",
        name="pictures",
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
        TaskSpec(
            id="vision/multilabel",
            target="graftwork_vision.tasks:ImageMultilabel",
            summary="Tell which of many labels a picture has",
            inputs=(IMAGE,),
            targets=("core/multi-category",),
            defaults={
                "model": ("vision/small-cnn", "vision/resnet18"),
                "loss": "core/bce",
                "metrics": ("core/accuracy_multi", "core/f1_multi", "core/roc_auc_multi"),
                "baselines": ("core/majority",),
            },
        ),
        TaskSpec(
            id="vision/regression",
            target="graftwork_vision.tasks:ImageRegression",
            summary="Predict numbers, or points in a picture",
            inputs=(IMAGE,),
            targets=(NUMBERS, POINTS),
            defaults={
                "model": ("vision/small-cnn", "vision/resnet18"),
                "loss": ("core/mse", "vision/points"),
                "metrics": ("core/rmse", "core/mae", "vision/point_distance"),
                "baselines": ("core/mean", "vision/mean-points"),
            },
        ),
        TaskSpec(
            id="vision/detection",
            target="graftwork_vision.detection_task:Detection",
            summary="Find things in pictures",
            inputs=(IMAGE,),
            targets=(BOXES,),
            defaults={
                "model": "vision/faster-rcnn",
                "loss": "vision/box_set",
                "metrics": ("vision/box_map", "vision/box_map_50"),
                "baselines": ("vision/frequent-boxes",),
            },
        ),
    )


@hookimpl
def graftwork_resolve_source(location: str) -> str | None:
    """Claim what holds pictures: folders of them, tables whose paths are pictures, IDX files."""
    from graftwork_vision.sources import resolve_source

    return resolve_source(location)
