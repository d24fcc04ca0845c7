"""Encoders: the body of a classifier, cut where its feature maps change size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from graftwork.api import OptionError
from graftwork_vision import Body

__all__ = ["Encoder", "Level", "cut"]

PROBE_SIDE: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """Say of a feature map how many channels it has and how many pixels of the picture, along a side, one of it is.

    `end` is the position of the body's stage that gives it.
    """

    end: int
    channels: int
    reduction: int


class Encoder(nn.Module):
    """Run a body level by level, and give the feature map at the end of each, the largest first."""

    def __init__(self, parts: Sequence[nn.Sequential], levels: Sequence[Level]) -> None:
        """Hold the levels."""
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.levels = tuple(levels)

    @property
    def cuts(self) -> list[list[int]]:
        """The levels as JSON values, with which `cut` cuts the same body without looking."""
        return [[level.end, level.channels, level.reduction] for level in self.levels]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return one feature map (B, C, H, W) a level."""
        features = []
        for part in self.parts:
            x = part(x)
            features.append(x)
        return features


def cut(body: Body, channels: int, *, name: str, cuts: Sequence[Sequence[int]] | None = None) -> Encoder:
    """Cut a body after each stage whose successor gives feature maps of less than two thirds of the size.

    Where that is, one picture shows, unless `cuts` say it; the encoder takes pictures of any size.

    Raises:
        OptionError: the body gives no feature maps (B, C, H, W) of at least two sizes, as transformers do not.
    """
    if cuts is None:
        levels = _levels(body, channels, name)
    else:
        levels = [Level(end=end, channels=width, reduction=reduction) for end, width, reduction in cuts]
    starts = [0, *(level.end + 1 for level in levels[:-1])]
    parts = [nn.Sequential(*body.stages[start : lv.end + 1]) for start, lv in zip(starts, levels, strict=True)]
    return Encoder(parts, levels)


def _levels(body: Body, channels: int, name: str) -> list[Level]:
    training = [part for part in body.module.modules() if part.training]
    body.module.eval()
    try:
        shapes = _shapes(body.stages, channels, name)
    finally:
        for part in training:
            part.training = True
    ends = [i for i, shape in enumerate(shapes) if i + 1 == len(shapes) or 3 * shapes[i + 1][-1] < 2 * shape[-1]]
    if body.pooled or len(ends) < 2:
        raise _no_maps(name)
    return [Level(end=end, channels=shapes[end][1], reduction=round(PROBE_SIDE / shapes[end][-1])) for end in ends]


@torch.no_grad()
def _shapes(stages: Sequence[nn.Module], channels: int, name: str) -> list[torch.Size]:
    shapes: list[torch.Size] = []
    x = torch.zeros(1, channels, PROBE_SIDE, PROBE_SIDE)
    for stage in stages:
        try:
            x = stage(x)
        except (RuntimeError, ValueError, AssertionError) as error:
            raise _no_maps(name) from error
        # Channels last, as in swin, make no map.
        if not isinstance(x, Tensor) or x.ndim != 4 or x.shape[-1] != x.shape[-2]:
            raise _no_maps(name)
        shapes.append(x.shape)
    return shapes


def _no_maps(name: str) -> OptionError:
    return OptionError(
        f"{name} gives no feature maps of several sizes, which a decoder needs; "
        "use a convolutional network, such as resnet18, resnet34, efficientnet_b0, convnext_tiny or mobilenet_v3_large"
    )
