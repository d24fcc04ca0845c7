"""The default U-Net (Ronneberger et al., arXiv 1505.04597) on a classifier's body: two convolutions a level, no more.

Most of the time of a decoder goes to its largest maps. This one upsamples by copying, which costs nothing, and stops
decoding below the picture's own size: from there each pixel of the map gives the logits of a block of the picture's
pixels (Shi et al., arXiv 1609.05158), begun as copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from graftwork.api import OptionError
from graftwork_segmentation.encoder import Encoder
from graftwork_segmentation.parts import ConvNormAct, to_size

__all__ = ["UNet"]


class _Up(nn.Module):
    """Bring a map to the size of a larger one, put both side by side, and convolve twice."""

    def __init__(self, n_in: int, n_skip: int, n_out: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(ConvNormAct(n_in + n_skip, n_out), ConvNormAct(n_out, n_out))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Return (B, n_out, …) in the size of `skip`."""
        mixed: Tensor = self.convs(torch.cat([to_size(x, skip.shape[-2:]), skip], 1))
        return mixed


class UNetDecoder(nn.Module):
    """Decode an encoder's maps from the smallest up, `widths` channels a step, and give logits."""

    def __init__(self, encoder: Encoder, n_out: int, *, widths: Sequence[int]) -> None:
        """Build a step for each width; beyond the encoder's largest map there is nothing to decode."""
        super().__init__()
        channels = [level.channels for level in reversed(encoder.levels)]
        if not 1 <= len(widths) < len(channels) or min(widths) < 1:
            raise OptionError(
                f"widths={tuple(widths)}: give the decoder 1 to {len(channels) - 1} widths, each at least 1; "
                f"this body has feature maps of {len(channels)} sizes"
            )
        sizes = [channels[0], *widths]
        self.ups = nn.ModuleList(_Up(a, s, b) for (a, b), s in zip(pairwise(sizes), channels[1:], strict=False))
        factor = encoder.levels[-1 - len(widths)].reduction
        conv = nn.Conv2d(sizes[-1], n_out * factor**2, 3, padding=1)
        with torch.no_grad():
            conv.weight.copy_(conv.weight[:: factor**2].repeat_interleave(factor**2, 0))
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        self.logits = nn.Sequential(conv, nn.PixelShuffle(factor))

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return logits in the size of the picture, up to rounding."""
        x = features[-1]
        for up, skip in zip(self.ups, features[-2::-1], strict=False):
            x = up(x, skip)
        logits: Tensor = self.logits(x)
        return logits


class UNet(nn.Module):
    """Encode, decode, and give logits in the picture's size: (B, C, H, W) to (B, classes, H, W)."""

    def __init__(self, encoder: Encoder, decoder: nn.Module, normalize: nn.Module | None = None) -> None:
        """Put parts together; `normalize` comes first."""
        super().__init__()
        self.normalize = normalize or nn.Identity()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        logits = self.decoder(self.encoder(self.normalize(x)))
        return to_size(logits, x.shape[-2:], mode="bilinear")
