"""The builders behind the registered models: every one is a function of a ModelContext and JSON options."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from graftwork.api import Block, ModelContext, ModelParts, OptionError
from graftwork_vision.archs import BACKBONES
from graftwork_vision.backbones import Body, vision_body
from graftwork_vision.blocks import ImageTensorBlock
from graftwork_vision.head import create_head
from graftwork_vision.small import lenet5_parts, small_cnn_parts
from graftwork_vision.transforms import imagenet_stats

__all__ = ["Standardize", "classifier", "graft", "lenet5", "small_cnn"]


Stats = tuple[tuple[float, ...], tuple[float, ...]]


class Standardize(nn.Module):
    """Normalise pictures from 0 to 1 with known statistics inside the model, for data that is not normalised."""

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, stats: Stats = imagenet_stats) -> None:
        """Keep the statistics as buffers; pictures that are not RGB get their average."""
        super().__init__()
        for name, values in zip(("mean", "std"), stats_for(channels, stats), strict=True):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Subtract the mean, divide by the deviation."""
        return (x - self.mean) / self.std


def stats_for(channels: int, stats: Stats = imagenet_stats) -> Stats:
    """Return statistics, ImageNet's by default, for RGB, and their average for any other number of channels."""
    mean, std = stats
    if channels == 3:
        return mean, std
    return (sum(mean) / 3,) * channels, (sum(std) / 3,) * channels


def picture_block(inputs: Mapping[str, Block], model: str) -> ImageTensorBlock:
    """Return the only input's block; raise OptionError if it is no picture."""
    blocks = list(inputs.values())
    if len(blocks) != 1 or not isinstance(blocks[0], ImageTensorBlock):
        raise OptionError(f"{model} takes one picture, and the data's inputs are {dict(inputs)}")
    return blocks[0]


def classifier(
    ctx: ModelContext,
    *,
    arch: str,
    weights: str | None = None,
    n_out: int | None = None,
    ps: float = 0.5,
    lin_ftrs: Sequence[int] | None = None,
    concat_pool: bool = True,
    bn_final: bool = False,
    normalize: bool = False,
) -> ModelParts:
    """Graft a new head on the body of a torchvision classifier, or of an XResNet.

    `weights` are torchvision's names ("DEFAULT", "IMAGENET1K_V1", …) or the path of a file; what is saved of the model
    no longer needs them. `normalize=True` puts ImageNet's normalisation into the model.
    """
    block = picture_block(ctx.inputs, arch)
    body = vision_body(arch, channels=block.channels, size=block.size, weights=weights)
    head = {"ps": ps, "lin_ftrs": lin_ftrs, "concat_pool": concat_pool, "bn_final": bn_final}
    return graft(ctx, body, head=head, n_out=n_out, normalize=imagenet_stats if normalize else None)


def graft(
    ctx: ModelContext,
    body: Body,
    *,
    head: Mapping[str, Any],
    n_out: int | None = None,
    normalize: Stats | None = None,
    config: Mapping[str, Any] | None = None,
) -> ModelParts:
    """Put a new head, of `create_head`'s options, on a body, with its normalisation before it where that is given.

    `config` adds to what rebuilds the model without the weights it was begun with.
    """
    n_out = ctx.num_outputs if n_out is None else n_out
    grafted = create_head(body.num_features, n_out, pool=not body.pooled, **head)
    module = nn.Sequential()
    if normalize is not None:
        module.add_module("normalize", Standardize(picture_block(ctx.inputs, "the model").channels, normalize))
    module.add_module("body", body.module)
    module.add_module("head", grafted)
    rebuilt = {**head, "n_out": n_out, "normalize": normalize is not None, "weights": None, **(config or {})}
    return ModelParts(module=module, groups={**body.groups, "head": (grafted,)}, config=rebuilt)


def lenet5(ctx: ModelContext, *, n_out: int | None = None) -> ModelParts:
    """Build LeNet-5 for small pictures of one known size."""
    block = picture_block(ctx.inputs, "lenet5")
    return _small(*lenet5_parts(block.channels, block.size, n_out or ctx.num_outputs))


def small_cnn(
    ctx: ModelContext,
    *,
    n_out: int | None = None,
    widths: Sequence[int] = (32, 64, 64, 128, 128),
    ps: float = 0.1,
) -> ModelParts:
    """Build a convolutional network of as many layers as `widths` for small pictures."""
    block = picture_block(ctx.inputs, "small-cnn")
    return _small(*small_cnn_parts(block.channels, block.size, n_out or ctx.num_outputs, widths=widths, ps=ps))


def _small(body: nn.Sequential, head: nn.Sequential) -> ModelParts:
    module = nn.Sequential()
    module.add_module("body", body)
    module.add_module("head", head)
    return ModelParts(module=module, groups={"body": (body,), "head": (head,)})


BUILDERS: Final[Mapping[str, Callable[..., ModelParts]]] = {name: partial(classifier, arch=name) for name in BACKBONES}


def __getattr__(name: str) -> Callable[..., ModelParts]:
    """Give each classifier's builder under its own name, which is what its record points to."""
    if name not in BUILDERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__])
    return BUILDERS[name]
