"""The builders behind the registered models: every one is a function of a ModelContext and JSON options."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

import torch
from torch import Tensor, nn

from graftwork.api import Block, ModelContext, ModelParts, OptionError
from graftwork_vision.archs import ARCHS
from graftwork_vision.backbones import build_body
from graftwork_vision.blocks import ImageTensorBlock
from graftwork_vision.head import create_head
from graftwork_vision.small import lenet5_parts, small_cnn_parts
from graftwork_vision.transforms import imagenet_stats
from graftwork_vision.weights import pretrained_state

__all__ = ["Standardize", "classifier", "lenet5", "small_cnn"]


class Standardize(nn.Module):
    """Normalise pictures from 0 to 1 with ImageNet's statistics inside the model, for data that is not normalised."""

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        """Keep the statistics as buffers; pictures that are not RGB get their average."""
        super().__init__()
        for name, values in zip(("mean", "std"), stats_for(channels), strict=True):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Subtract the mean, divide by the deviation."""
        return (x - self.mean) / self.std


def stats_for(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return ImageNet's statistics for RGB, and their average for any other number of channels."""
    mean, std = imagenet_stats
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
    """Graft a new head on the body of a torchvision classifier.

    `weights` are torchvision's names ("DEFAULT", "IMAGENET1K_V1", …) or the path of a file; what is saved of the model
    no longer needs them. `normalize=True` puts ImageNet's normalisation into the model.
    """
    block = picture_block(ctx.inputs, arch)
    # Parameters that are about to be read from an artifact need no initial values.
    on_meta = torch.get_default_device().type == "meta"
    state = pretrained_state(arch, weights) if weights is not None and not on_meta else None
    body = build_body(arch, channels=block.channels, size=block.size, state=state)
    head_options = {"ps": ps, "lin_ftrs": lin_ftrs, "concat_pool": concat_pool, "bn_final": bn_final}
    n_out = ctx.num_outputs if n_out is None else n_out
    head = create_head(body.num_features, n_out, pool=not body.pooled, **head_options)  # type: ignore[arg-type]
    module = nn.Sequential()
    if normalize:
        module.add_module("normalize", Standardize(block.channels))
    module.add_module("body", body.module)
    module.add_module("head", head)
    config = {**head_options, "n_out": n_out, "normalize": normalize, "weights": None}
    return ModelParts(module=module, groups={**body.groups, "head": (head,)}, config=config)


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


BUILDERS: Final[Mapping[str, Callable[..., ModelParts]]] = {name: partial(classifier, arch=name) for name in ARCHS}


def __getattr__(name: str) -> Callable[..., ModelParts]:
    """Give each classifier's builder under its own name, which is what its record points to."""
    if name not in BUILDERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__])
    return BUILDERS[name]
