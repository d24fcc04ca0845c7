"""The builders behind the registered models: every one is a function of a ModelContext and JSON options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from graftwork.api import ModelContext, ModelParts, OptionError
from graftwork_segmentation.dynamic import DynamicUnet
from graftwork_segmentation.encoder import Encoder, cut
from graftwork_segmentation.pyramids import DeepLabDecoder, FPNDecoder
from graftwork_segmentation.unet import UNet, UNetDecoder
from graftwork_vision import Body, ImageTensorBlock, Standardize, vision_body

__all__ = ["deeplabv3", "dynamic_unet", "fpn", "smp", "unet"]

WIDTHS = (256, 128, 64, 32)


def unet(
    ctx: ModelContext,
    *,
    arch: str = "resnet18",
    weights: str | None = None,
    n_out: int | None = None,
    widths: Sequence[int] | None = None,
    normalize: bool = False,
    cuts: Sequence[Sequence[int]] | None = None,
) -> ModelParts:
    """Build the default U-Net on a classifier's body; `widths` are the decoder's channels, the smallest map's first.

    `weights` are the body's: torchvision's names or a file; what is saved of the model no longer needs them.
    `normalize=True` puts ImageNet's normalisation into the model. `cuts` say where the body is cut, as the saved model
    knows.
    """

    def build(encoder: Encoder, outputs: int) -> nn.Module:
        return UNetDecoder(encoder, outputs, widths=_widths(encoder) if widths is None else widths)

    own = {"widths": None if widths is None else list(widths)}
    return _decoded(ctx, arch, weights, n_out, normalize, cuts, build, own)


def _widths(encoder: Encoder) -> Sequence[int]:
    """Decode up to half of the picture's size, or to the largest map."""
    steps = sum(level.reduction >= 2 for level in encoder.levels[:-1])
    return WIDTHS[: max(1, min(steps, len(WIDTHS)))]


def deeplabv3(
    ctx: ModelContext,
    *,
    arch: str = "resnet18",
    weights: str | None = None,
    n_out: int | None = None,
    width: int = 256,
    output_stride: int = 8,
    ps: float = 0.5,
    normalize: bool = False,
    cuts: Sequence[Sequence[int]] | None = None,
) -> ModelParts:
    """Build DeepLabV3 on a classifier's body, whose last strides become dilations."""

    def build(encoder: Encoder, outputs: int) -> nn.Module:
        return DeepLabDecoder(encoder, outputs, width=width, output_stride=output_stride, ps=ps)

    return _decoded(
        ctx, arch, weights, n_out, normalize, cuts, build, {"width": width, "output_stride": output_stride, "ps": ps}
    )


def fpn(
    ctx: ModelContext,
    *,
    arch: str = "resnet18",
    weights: str | None = None,
    n_out: int | None = None,
    width: int = 256,
    head: int = 128,
    ps: float = 0.2,
    normalize: bool = False,
    cuts: Sequence[Sequence[int]] | None = None,
) -> ModelParts:
    """Build a feature pyramid network on a classifier's body."""

    def build(encoder: Encoder, outputs: int) -> nn.Module:
        return FPNDecoder(encoder, outputs, width=width, head=head, ps=ps)

    return _decoded(ctx, arch, weights, n_out, normalize, cuts, build, {"width": width, "head": head, "ps": ps})


def dynamic_unet(
    ctx: ModelContext,
    *,
    arch: str = "resnet34",
    weights: str | None = None,
    n_out: int | None = None,
    blur: bool = False,
    blur_final: bool = True,
    self_attention: bool = False,
    last_cross: bool = True,
    bottle: bool = False,
    normalize: bool = False,
    cuts: Sequence[Sequence[int]] | None = None,
) -> ModelParts:
    """Build fastai's DynamicUnet on a classifier's body, with fastai's options."""
    block = _picture(ctx)
    body, encoder = _encoder(block, arch, weights, cuts)
    outputs = n_out or ctx.num_outputs
    options = {
        "blur": blur,
        "blur_final": blur_final,
        "self_attention": self_attention,
        "last_cross": last_cross,
        "bottle": bottle,
    }
    module = DynamicUnet(encoder, block.channels, outputs, **options, normalize=_normalizer(block, normalize))
    config = {"arch": arch, "n_out": outputs, "normalize": normalize, "cuts": encoder.cuts, **options}
    return ModelParts(module=module, groups={**body.groups, "decoder": module.decoder}, config=config)


def smp(
    ctx: ModelContext,
    *,
    decoder: str = "Unet",
    encoder: str = "resnet34",
    weights: str | None = None,
    n_out: int | None = None,
    normalize: bool = False,
) -> ModelParts:
    """Build a model of segmentation_models_pytorch (the extra `smp`): its decoder and encoder by its own names.

    `weights` are its encoder's, such as "imagenet"; it downloads them.
    """
    import segmentation_models_pytorch as peer

    block = _picture(ctx)
    outputs = n_out or ctx.num_outputs
    try:
        model = peer.create_model(
            decoder, encoder_name=encoder, encoder_weights=weights, in_channels=block.channels, classes=outputs
        )
    except (KeyError, ValueError) as error:
        raise OptionError(f"segmentation_models_pytorch cannot build {decoder!r} on {encoder!r}: {error}") from error
    module = nn.Sequential(_normalizer(block, normalize) or nn.Identity(), model)
    rest = [part for name, part in model.named_children() if name != "encoder"]
    config = {"decoder": decoder, "encoder": encoder, "n_out": outputs, "normalize": normalize}
    return ModelParts(module=module, groups={"body": (model.encoder,), "decoder": rest}, config=config)


def _decoded(
    ctx: ModelContext,
    arch: str,
    weights: str | None,
    n_out: int | None,
    normalize: bool,
    cuts: Sequence[Sequence[int]] | None,
    build: Callable[[Encoder, int], nn.Module],
    own: dict[str, Any],
) -> ModelParts:
    block = _picture(ctx)
    body, encoder = _encoder(block, arch, weights, cuts)
    outputs = n_out or ctx.num_outputs
    decoder = build(encoder, outputs)
    config = {"arch": arch, "n_out": outputs, "normalize": normalize, "cuts": encoder.cuts, **own}
    module = UNet(encoder, decoder, _normalizer(block, normalize))
    return ModelParts(module=module, groups={**body.groups, "decoder": (decoder,)}, config=config)


def _picture(ctx: ModelContext) -> ImageTensorBlock:
    blocks = list(ctx.inputs.values())
    if len(blocks) != 1 or not isinstance(blocks[0], ImageTensorBlock):
        raise OptionError(f"a segmentation model takes one picture, and the data's inputs are {dict(ctx.inputs)}")
    return blocks[0]


def _encoder(
    block: ImageTensorBlock, arch: str, weights: str | None, cuts: Sequence[Sequence[int]] | None
) -> tuple[Body, Encoder]:
    body = vision_body(arch, channels=block.channels, weights=weights)
    return body, cut(body, block.channels, name=arch, cuts=cuts)


def _normalizer(block: ImageTensorBlock, wanted: bool) -> nn.Module | None:
    return Standardize(block.channels) if wanted else None
