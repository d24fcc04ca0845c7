"""InceptionTime's network (Ismail Fawaz et al., arXiv 1909.04939): one member of the paper's ensemble of five."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graftwork.api import ModelContext, ModelParts
from graftwork_signals.models import Head, channels_of

__all__ = ["inception"]

KERNELS = (39, 19, 9)


class _Module(nn.Module):
    """Put convolutions of three widths and a pooled copy side by side: (B, C, L) to (B, 4 * width, L)."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        # A convolution of one channel needs no bottleneck before it.
        self.bottleneck = nn.Conv1d(width_in, width, 1, bias=False) if width_in > 1 else nn.Identity()
        inner = width if width_in > 1 else 1
        self.branches = nn.ModuleList(nn.Conv1d(inner, width, k, padding="same", bias=False) for k in KERNELS)
        self.pooled = nn.Sequential(nn.MaxPool1d(3, 1, 1), nn.Conv1d(width_in, width, 1, bias=False))
        self.norm = nn.BatchNorm1d(4 * width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the branches, joined."""
        narrow = self.bottleneck(x)
        joined = torch.cat([*(branch(narrow) for branch in self.branches), self.pooled(x)], 1)
        return torch.relu(self.norm(joined))


class _Shortcut(nn.Module):
    """Run three modules and add what came in."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_Module(width_in, width), *(_Module(4 * width, width) for _ in range(2)))
        self.skip = nn.Sequential(nn.Conv1d(width_in, 4 * width, 1, bias=False), nn.BatchNorm1d(4 * width))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 4 * width, L)."""
        return torch.relu(self.body(x) + self.skip(x))


def inception(ctx: ModelContext, *, width: int = 32, depth: int = 2) -> ModelParts:
    """Build `depth` groups of three inception modules each; six modules are the paper's."""
    widths = [channels_of(ctx), *[4 * width] * depth]
    body = nn.Sequential(*(_Shortcut(w, width) for w in widths[:-1]))
    head = Head(widths[-1], ctx.num_outputs)
    return ModelParts(module=nn.Sequential(body, head), groups={"body": [body], "head": [head]})
