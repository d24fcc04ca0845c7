"""The network: residual blocks of 1-d convolutions (Wang, Yan and Oates, arXiv 1611.06455), made small."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from graftwork.api import ModelContext, ModelParts, OptionError
from graftwork_signals.blocks import SeriesBlock

__all__ = ["Head", "channels_of", "resnet"]


def channels_of(ctx: ModelContext) -> int:
    """Return the channels of the only input; raise OptionError if it is no series."""
    blocks = list(ctx.inputs.values())
    if len(blocks) != 1 or not isinstance(blocks[0], SeriesBlock):
        raise OptionError(f"this network reads one series, and the inputs are {blocks}")
    return blocks[0].channels


def _conv(width_in: int, width: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(width_in, width, kernel, padding="same", bias=False), nn.BatchNorm1d(width))


class _Residual(nn.Module):
    """Add three convolutions, of widths 7, 5 and 3, to what comes in (B, C, L)."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(width_in, width, 7), nn.ReLU(), _conv(width, width, 5), nn.ReLU(), _conv(width, width, 3)
        )
        self.skip = _conv(width_in, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, width, L)."""
        return torch.relu(self.body(x) + self.skip(x))


class Head(nn.Module):
    """Average over time and map linearly: (B, C, L) to (B, outputs)."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        logits: Tensor = self.linear(x.mean(2))
        return logits


def resnet(ctx: ModelContext, *, width: int = 32, depth: int = 2) -> ModelParts:
    """Build `depth` residual blocks; the later ones are twice as wide as the first."""
    widths = [channels_of(ctx), width, *[2 * width] * (depth - 1)]
    body = nn.Sequential(*(_Residual(a, b) for a, b in pairwise(widths)))
    head = Head(widths[-1], ctx.num_outputs)
    return ModelParts(module=nn.Sequential(body, head), groups={"body": [body], "head": [head]})
