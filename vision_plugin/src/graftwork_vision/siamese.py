"""Models of several pictures in one sample: one body looks at each, and one head at what it found."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from graftwork.api import ModelContext, ModelParts, OptionError
from graftwork_vision.backbones import vision_body
from graftwork_vision.blocks import ImageTensorBlock
from graftwork_vision.head import AdaptiveConcatPool2d, create_head
from graftwork_vision.models import small_cnn

__all__ = ["Siamese", "siamese"]


class Siamese(nn.Module):
    """Pass each picture (B, C, H, W) through one body, and what was found of all through a head."""

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        """Hold the parts; the body gives (B, features)."""
        super().__init__()
        self.body, self.head = body, head

    def forward(self, *pictures: Tensor) -> Tensor:
        """Return raw outputs."""
        # All in one pass where they can be: batch norm then sees the same of each.
        same = len({picture.shape for picture in pictures}) == 1
        found = self.body(torch.cat(pictures)).chunk(len(pictures)) if same else [self.body(p) for p in pictures]
        raw: Tensor = self.head(torch.cat(found, 1))
        return raw


def siamese(
    ctx: ModelContext,
    *,
    backbone: str = "resnet18",
    weights: str | None = None,
    n_out: int | None = None,
    ps: float = 0.5,
    lin_ftrs: Sequence[int] | None = None,
) -> ModelParts:
    """Build a model of two or more pictures, which share a backbone: `small-cnn`, or torchvision's by name.

    All inputs are pictures with the same channels. `weights` are the backbone's, as for the classifiers.
    """
    blocks = list(ctx.inputs.values())
    if len(blocks) < 2 or not all(isinstance(b, ImageTensorBlock) for b in blocks):
        raise OptionError(f"vision/siamese takes two or more pictures, and the data's inputs are {dict(ctx.inputs)}")
    first = blocks[0]
    assert isinstance(first, ImageTensorBlock)
    if any(isinstance(b, ImageTensorBlock) and b.channels != first.channels for b in blocks):
        raise OptionError(f"vision/siamese: the pictures differ in their channels: {dict(ctx.inputs)}")
    body, features, groups = _body(ctx, first, backbone, weights)
    n_out = ctx.num_outputs if n_out is None else n_out
    head = create_head(features * len(blocks), n_out, ps=ps, lin_ftrs=lin_ftrs, pool=False)
    config = {"backbone": backbone, "weights": None, "n_out": n_out, "ps": ps, "lin_ftrs": lin_ftrs}
    return ModelParts(module=Siamese(body, head), groups={**groups, "head": (head,)}, config=config)


def _body(
    ctx: ModelContext, block: ImageTensorBlock, backbone: str, weights: str | None
) -> tuple[nn.Module, int, dict[str, tuple[nn.Module, ...]]]:
    """Return a body that gives (B, features), how many those are, and its groups."""
    if backbone == "small-cnn":
        if weights is not None:
            raise OptionError("there are no weights of small-cnn; use weights=None")
        (inner, _) = small_cnn(ModelContext(inputs={"x": block}, targets=ctx.targets), n_out=1).module.children()
        pooled = nn.Sequential(inner, AdaptiveConcatPool2d(), nn.Flatten())
        return pooled, 2 * 128, {"body": (pooled,)}
    body = vision_body(backbone, channels=block.channels, size=block.size, weights=weights)
    if body.pooled:
        return body.module, body.num_features, dict(body.groups)
    return nn.Sequential(body.module, AdaptiveConcatPool2d(), nn.Flatten()), 2 * body.num_features, dict(body.groups)
