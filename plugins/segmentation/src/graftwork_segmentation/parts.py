"""What decoders are made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ConvNormAct", "Resized", "to_size"]


class ConvNormAct(nn.Sequential):
    """Convolve without a bias, normalise over the batch, rectify."""

    def __init__(self, n_in: int, n_out: int, kernel: int = 3, *, dilation: int = 1) -> None:
        """Pad so that the size stays."""
        padding = dilation * (kernel // 2)
        conv = nn.Conv2d(n_in, n_out, kernel, padding=padding, dilation=dilation, bias=False)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        super().__init__(conv, nn.BatchNorm2d(n_out), nn.ReLU(inplace=True))


class Resized(nn.Module):
    """Bring the output of a decoder (B, C, h, w) to the size of the picture, between pixels linearly."""

    def forward(self, x: Tensor, picture: Tensor) -> Tensor:
        """Interpolate."""
        return to_size(x, picture.shape[-2:], mode="bilinear")


def to_size(x: Tensor, size: torch.Size, *, mode: str = "nearest") -> Tensor:
    """Return feature maps in another size, or as they are if they have it."""
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size=tuple(size), mode=mode, align_corners=False if mode == "bilinear" else None)
