"""The entry module: what this plugin offers, as records that name their components without importing them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from graftwork.api import (
    BaselineSpec,
    BlockSpec,
    LossSpec,
    MetricSpec,
    ModelSpec,
    Plugin,
    SourceSpec,
    TaskSpec,
    TransformSpec,
    hookimpl,
)

PLUGIN = Plugin(
    namespace="segmentation",
    summary="Masks: the class of every pixel; U-Nets, losses, metrics and baselines",
    extras={"smp": "the models of segmentation_models_pytorch"},
)

IMAGE, PIXELS = "vision/image", "vision/image-tensor"
MASK, PICTURE, TENSOR = "segmentation/mask", "segmentation/mask-picture", "segmentation/mask-tensor"


@hookimpl
def graftwork_register_blocks() -> Iterator[BlockSpec]:
    """Return the three forms of a mask."""
    for name, attribute, summary in (
        (MASK, "MaskBlock", "A mask: a picture whose pixel values are classes"),
        (PICTURE, "MaskPictureBlock", "An opened mask, which is resized without mixing classes"),
        (TENSOR, "MaskTensorBlock", "The class of every pixel, as a model predicts it"),
    ):
        yield BlockSpec(id=name, target=f"graftwork_segmentation.blocks:{attribute}", summary=summary)


@hookimpl
def graftwork_register_transforms() -> Iterable[TransformSpec]:
    """Return the ways from one form of a mask to another."""
    return (
        TransformSpec(
            id="segmentation/decode-mask",
            target="graftwork_segmentation.transforms:DecodeMask",
            summary="Open a mask and look its values up",
            accepts=(MASK,),
            gives=PICTURE,
        ),
        TransformSpec(
            id="segmentation/mask-to-tensor",
            target="graftwork_segmentation.transforms:MaskToTensor",
            summary="Turn an opened mask into a tensor of classes",
            accepts=(PICTURE,),
            gives=TENSOR,
            invertible=True,
        ),
    )


@hookimpl
def graftwork_register_models() -> Iterator[ModelSpec]:
    """Return the decoders; each stands on the body of a classifier of the vision plugin."""
    for name, attribute, summary, params_m, requires in (
        ("unet", "unet", "A lean U-Net on a classifier's body (ResNet-18 by default)", 14.3, ()),
        (
            "dynamic_unet",
            "dynamic_unet",
            "DynamicUnet as fastai builds it, on a classifier's body (ResNet-34)",
            41.2,
            (),
        ),
        ("deeplabv3", "deeplabv3", "DeepLabV3: dilated convolutions of several widths", 15.9, ()),
        ("fpn", "fpn", "A feature pyramid, added up at a quarter of the size", 13.0, ()),
        ("smp", "smp", "Any model of segmentation_models_pytorch", None, ("segmentation_models_pytorch",)),
    ):
        yield ModelSpec(
            id=f"segmentation/{name}",
            target=f"graftwork_segmentation.models:{attribute}",
            summary=summary,
            inputs=(PIXELS,),
            output=TENSOR,
            params_m=params_m,
            pretrained=("DEFAULT",) if not requires else ("imagenet",),
            requires=requires,
        )


@hookimpl
def graftwork_register_losses() -> Iterator[LossSpec]:
    """Return the losses of pixels and of regions."""
    for name, attribute, summary in (
        ("cross_entropy", "PixelCrossEntropy", "Cross-entropy over the pixels whose class is known"),
        ("cross_entropy_dice", "CrossEntropyDice", "Cross-entropy plus Dice: every pixel and every class counts"),
        ("focal", "PixelFocal", "Cross-entropy that looks at what is not yet sure"),
        ("dice", "DiceLoss", "One minus the soft Dice coefficient of each picture"),
        ("tversky", "Tversky", "Dice in which pixels missed and pixels too many cost differently"),
        ("lovasz", "LovaszSoftmax", "Intersection over union, extended to probabilities"),
        ("combined", "Combined", "Cross-entropy plus a loss of regions of one's choice, by default Dice"),
    ):
        yield LossSpec(
            id=f"segmentation/{name}",
            target=f"graftwork_segmentation.losses:{attribute}",
            summary=summary,
            blocks=(TENSOR,),
            default=name == "cross_entropy_dice",
        )


@hookimpl
def graftwork_register_metrics() -> Iterator[MetricSpec]:
    """Return the metrics of pixels and outlines."""
    for name, module, summary in (
        ("mean_iou", "metrics", "Intersection over union, a mean over classes"),
        ("mean_dice", "metrics", "Dice coefficient, a mean over classes"),
        ("pixel_accuracy", "metrics", "The share of pixels that are right"),
        ("foreground_accuracy", "metrics", "The share that is right of the pixels that are not background"),
        ("class_iou", "metrics", "Intersection over union of one class"),
        ("class_dice", "metrics", "Dice coefficient of one class"),
        ("boundary_f", "boundary", "How well predicted outlines follow the actual ones"),
    ):
        yield MetricSpec(
            id=f"segmentation/{name}",
            target=f"graftwork_segmentation.{module}:{name}",
            summary=summary,
            blocks=(TENSOR,),
            higher_is_better=True,
            default=name == "mean_iou",
        )


@hookimpl
def graftwork_register_baselines() -> Iterable[BaselineSpec]:
    """Return what a segmentation must beat."""
    return (
        BaselineSpec(
            id="segmentation/position",
            target="graftwork_segmentation.baselines:MostFrequent",
            summary="The most frequent class at each position",
            blocks=(TENSOR,),
        ),
        BaselineSpec(
            id="segmentation/colour-logistic",
            target="graftwork_segmentation.baselines:ColourLogistic",
            summary="Logistic regression on each pixel's colour",
            blocks=(TENSOR,),
            inputs=(PIXELS,),
            requires=("sklearn",),
        ),
    )


@hookimpl
def graftwork_register_sources() -> Iterator[SourceSpec]:
    """Return the form in which pictures with masks lie on a disk."""
    yield SourceSpec(
        id="segmentation/folder",
        target="graftwork_segmentation.sources:folder_source",
        summary="Folders images and labels, codes.txt, perhaps train.txt and valid.txt",
        patterns=("images/*", "labels/*", "codes.txt"),
        gives=(IMAGE, MASK),
    )


@hookimpl
def graftwork_register_tasks() -> Iterable[TaskSpec]:
    """Return the one-command job."""
    return (
        TaskSpec(
            id="segmentation/semantic",
            target="graftwork_segmentation.tasks:SemanticSegmentation",
            summary="Tell the class of every pixel",
            inputs=(IMAGE,),
            targets=(MASK,),
            defaults={
                "model": ("segmentation/unet",),
                "loss": "segmentation/cross_entropy_dice",
                "metrics": ("segmentation/mean_iou", "segmentation/pixel_accuracy", "segmentation/mean_dice"),
                "baselines": ("segmentation/position", "segmentation/colour-logistic"),
            },
        ),
    )


@hookimpl
def graftwork_resolve_source(location: str) -> str | None:
    """Claim folders of pictures that have a folder of masks beside them."""
    from graftwork_segmentation.sources import resolve_source

    return resolve_source(location)
