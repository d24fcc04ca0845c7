"""fastai's DynamicUnet, part for part: PixelShuffle with ICNR, cross connections, a residual block at the end.

It is slower than the default U-Net by a factor of its last block, which convolves at the picture's own size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from graftwork_segmentation.encoder import Encoder
from graftwork_segmentation.parts import to_size

__all__ = ["DynamicUnet", "PixelShuffleICNR", "SelfAttention"]


class PixelShuffleICNR(nn.Sequential):
    """Enlarge twofold by sub-pixel convolution, begun as copying (ICNR; Aitken et al., arXiv 1707.02937).

    With `blur`, 2x2 means smooth what is left of the checkerboard.
    """

    def __init__(self, n_in: int, n_out: int, *, blur: bool = False) -> None:
        """Build; n_out channels come out."""
        conv = nn.Conv2d(n_in, n_out * 4, 1)
        _start(conv)
        with torch.no_grad():
            conv.weight.copy_(conv.weight[::4].repeat_interleave(4, 0))
        layers: list[nn.Module] = [conv, nn.ReLU(inplace=True), nn.PixelShuffle(2)]
        if blur:
            layers += [nn.ReplicationPad2d((1, 0, 1, 0)), nn.AvgPool2d(2, stride=1)]
        super().__init__(*layers)


class SelfAttention(nn.Module):
    """Let every pixel look at all others (Zhang et al., arXiv 1805.08318); `gamma` begins at 0."""

    def __init__(self, channels: int) -> None:
        """Build three 1x1 convolutions with spectral norm."""
        super().__init__()
        narrow = max(1, channels // 8)
        self.query, self.key, self.value = (
            parametrizations.spectral_norm(nn.Conv1d(channels, n, 1, bias=False)) for n in (narrow, narrow, channels)
        )
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return x with what it attends to added."""
        flat = x.flatten(2)
        attention = torch.bmm(self.query(flat).transpose(1, 2), self.key(flat)).softmax(1)
        seen: Tensor = self.gamma * torch.bmm(self.value(flat), attention) + flat
        return seen.view_as(x)


class _Cross(nn.Module):
    """Enlarge, put beside a normalised map of the encoder, convolve twice."""

    def __init__(self, n_up: int, n_skip: int, *, final: bool, blur: bool, attention: bool) -> None:
        super().__init__()
        n_in = n_up // 2 + n_skip
        self.n_out = n_in // 2 if final else n_in
        self.shuffle = PixelShuffleICNR(n_up, n_up // 2, blur=blur)
        self.norm = nn.BatchNorm2d(n_skip)
        self.conv1, self.conv2 = _conv(n_in, self.n_out), _conv(self.n_out, self.n_out)
        self.attention = SelfAttention(self.n_out) if attention else nn.Identity()

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Return (B, n_out, …) in the size of `skip`."""
        up = to_size(self.shuffle(x), skip.shape[-2:])
        mixed = torch.cat([up, self.norm(skip)], 1).relu()
        crossed: Tensor = self.attention(self.conv2(self.conv1(mixed)))
        return crossed


class _Residual(nn.Module):
    """Add two convolutions to what comes in; with `bottle` the middle is half as wide."""

    def __init__(self, channels: int, *, bottle: bool) -> None:
        super().__init__()
        width = channels // 2 if bottle else channels
        self.convs = nn.Sequential(_conv(channels, width), *list(_conv(width, channels))[:1])

    def forward(self, x: Tensor) -> Tensor:
        """Return the rectified sum."""
        added: Tensor = self.convs(x) + x
        return added.relu()


class DynamicUnet(nn.Module):
    """Build fastai's U-Net on an encoder; it takes pictures of any size.

    `self_attention` goes into the third cross connection from the end, `blur` smooths what is enlarged (the last one
    only with `blur_final`), `last_cross` puts the picture itself beside the last map, `bottle` narrows the last block.
    """

    def __init__(
        self,
        encoder: Encoder,
        channels: int,
        n_out: int,
        *,
        blur: bool = False,
        blur_final: bool = True,
        self_attention: bool = False,
        last_cross: bool = True,
        bottle: bool = False,
        normalize: nn.Module | None = None,
    ) -> None:
        """Build the decoder."""
        super().__init__()
        self.normalize = normalize or nn.Identity()
        self.encoder = encoder
        *skips, last = [level.channels for level in encoder.levels]
        self.middle = nn.Sequential(nn.BatchNorm2d(last), nn.ReLU(), *_conv(last, last * 2), *_conv(last * 2, last))
        self.crosses = nn.ModuleList()
        width, count = last, len(skips)
        for i, skip in enumerate(reversed(skips)):
            final = i == count - 1
            cross = _Cross(
                width,
                skip,
                final=final,
                blur=blur and (blur_final or not final),
                attention=self_attention and i == count - 3,
            )
            self.crosses.append(cross)
            width = cross.n_out
        smaller = encoder.levels[0].reduction > 1
        self.enlarge = PixelShuffleICNR(width, width) if smaller else nn.Identity()
        self.last_cross = last_cross
        width += channels if last_cross else 0
        self.mix = _Residual(width, bottle=bottle) if last_cross else nn.Identity()
        self.logits = nn.Conv2d(width, n_out, 1)
        _start(self.logits)

    @property
    def decoder(self) -> tuple[nn.Module, ...]:
        """All parts but the encoder."""
        return (self.middle, self.crosses, self.enlarge, self.mix, self.logits)

    def forward(self, picture: Tensor) -> Tensor:
        """Return logits (B, n_out, H, W) of pictures (B, C, H, W)."""
        picture = self.normalize(picture)
        *skips, x = self.encoder(picture)
        x = self.middle(x)
        for cross, skip in zip(self.crosses, reversed(skips), strict=True):
            x = cross(x, skip)
        x = to_size(self.enlarge(x), picture.shape[-2:])
        if self.last_cross:
            x = self.mix(torch.cat([x, picture.to(x.dtype)], 1))
        logits: Tensor = self.logits(x)
        return logits


def _conv(n_in: int, n_out: int) -> nn.Sequential:
    conv = nn.Conv2d(n_in, n_out, 3, padding=1)
    _start(conv)
    return nn.Sequential(conv, nn.ReLU(inplace=True))


def _start(conv: nn.Conv2d) -> None:
    nn.init.kaiming_normal_(conv.weight)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
