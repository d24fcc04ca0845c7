"""Two other decoders: DeepLabV3's dilated pyramid, and the feature pyramid of FPN."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from graftwork.api import OptionError
from graftwork_segmentation.encoder import Encoder
from graftwork_segmentation.parts import ConvNormAct, to_size

__all__ = ["DeepLabDecoder", "FPNDecoder", "dilate"]

RATES: Final = (12, 24, 36)


def dilate(encoder: Encoder, output_stride: int) -> None:
    """Let the last levels keep their size: strides become dilations, in place, until a map is 1/`output_stride`.

    Raises:
        OptionError: the levels to be dilated shrink by pooling, not by convolutions.
    """
    for part, level, before in list(zip(encoder.parts, encoder.levels, (None, *encoder.levels), strict=False)):
        if before is None or level.reduction <= output_stride:
            continue
        rate, strided = level.reduction // output_stride, False
        for conv in (m for m in part.modules() if isinstance(m, nn.Conv2d)):
            strided = strided or conv.stride[0] > 1
            conv.stride = (1, 1)
            if conv.kernel_size[0] > 1:
                conv.dilation = (rate, rate)
                conv.padding = tuple(rate * (k // 2) for k in conv.kernel_size)
        if not strided:
            raise OptionError(f"this body shrinks by pooling below 1/{output_stride}, which cannot be dilated away")


class DeepLabDecoder(nn.Module):
    """Look at the last map through convolutions of several dilations (Chen et al., arXiv 1706.05587)."""

    def __init__(
        self, encoder: Encoder, n_out: int, *, width: int = 256, output_stride: int = 8, ps: float = 0.5
    ) -> None:
        """Dilate the encoder; rates are those of the paper, halved for an output stride of 16."""
        super().__init__()
        if output_stride not in (8, 16):
            raise OptionError(f"output_stride={output_stride}: DeepLabV3 works at 8 or 16")
        dilate(encoder, output_stride)
        n_in = encoder.levels[-1].channels
        rates = [rate * 8 // output_stride for rate in RATES]
        self.branches = nn.ModuleList(
            [ConvNormAct(n_in, width, 1), *(ConvNormAct(n_in, width, dilation=rate) for rate in rates)]
        )
        # No norm on a single pixel: a batch of one has no statistics there.
        self.whole = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(n_in, width, 1), nn.ReLU())
        self.mix = nn.Sequential(
            ConvNormAct(width * (len(rates) + 2), width, 1), nn.Dropout(ps), ConvNormAct(width, width)
        )
        self.logits = nn.Conv2d(width, n_out, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return logits in the size of the last map."""
        x = features[-1]
        seen = [branch(x) for branch in self.branches]
        logits: Tensor = self.logits(self.mix(torch.cat([*seen, to_size(self.whole(x), x.shape[-2:])], 1)))
        return logits


class FPNDecoder(nn.Module):
    """Add up a pyramid of maps of one width, from the smallest to a quarter (Kirillov et al., arXiv 1901.02446)."""

    def __init__(self, encoder: Encoder, n_out: int, *, width: int = 256, head: int = 128, ps: float = 0.2) -> None:
        """Build; maps larger than a quarter of the picture are not used."""
        super().__init__()
        self.first = next((i for i, level in enumerate(encoder.levels) if level.reduction >= 4), 0)
        levels = encoder.levels[self.first :]
        self.laterals = nn.ModuleList(nn.Conv2d(level.channels, width, 1) for level in levels)
        self.heads = nn.ModuleList(_head(width, head, steps) for steps in range(len(levels)))
        self.logits = nn.Sequential(nn.Dropout2d(ps), nn.Conv2d(head, n_out, 1))

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return logits in the size of the largest map used."""
        used = features[self.first :]
        size, x = used[0].shape[-2:], used[-1].new_zeros(())
        total: Tensor = x
        for lateral, head, feature in reversed(list(zip(self.laterals, self.heads, used, strict=True))):
            own = lateral(feature)
            x = own if x.ndim == 0 else own + to_size(x, own.shape[-2:])
            total = total + to_size(head(x), size, mode="bilinear")
        logits: Tensor = self.logits(total)
        return logits


def _head(width: int, n_out: int, steps: int) -> nn.Sequential:
    """Convolve and enlarge `steps` times; a map that has the size already is convolved once."""
    layers: list[nn.Module] = []
    for step in range(max(1, steps)):
        conv = nn.Conv2d(width if step == 0 else n_out, n_out, 3, padding=1, bias=False)
        layers += [conv, nn.GroupNorm(_groups(n_out), n_out), nn.ReLU(inplace=True)]
        if steps:
            layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
    return nn.Sequential(*layers)


def _groups(channels: int) -> int:
    """Return into how many groups to norm, of at least four channels: a group of one pixel has no statistics."""
    return next(n for n in (32, 16, 8, 4, 2, 1) if channels % n == 0 and (channels >= 4 * n or n == 1))
