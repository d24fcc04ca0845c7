"""XResNets: residual networks with a stem of three small convolutions, and shortcuts that average before they project.

T. He et al., "Bag of Tricks for Image Classification with Convolutional Neural Networks" (arXiv 1812.01187).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from torch import Tensor, nn

from graftwork.api import unknown

__all__ = ["DEPTHS", "xresnet", "xresnet_body"]

DEPTHS: Final = {
    "xresnet18": (2, 2, 2, 2),
    "xresnet34": (3, 4, 6, 3),
    "xresnet50": (3, 4, 6, 3),
    "xresnet101": (3, 4, 23, 3),
    "xresnet152": (3, 8, 36, 3),
}
"""Blocks in each layer."""
_NARROW: Final = ("xresnet18", "xresnet34")
_STEM: Final = (32, 32, 64)


class Block(nn.Module):
    """Add a path of convolutions to their input, as `relu(path(x) + shortcut(x))`; the path begins as nothing."""

    def __init__(self, n_in: int, planes: int, stride: int, *, expansion: int) -> None:
        """Build; with `expansion` 1 two 3x3 convolutions, else a narrow one between two of 1x1."""
        super().__init__()
        n_out = planes * expansion
        if expansion == 1:
            path = [_conv(n_in, planes, 3, stride=stride), _conv(planes, n_out, 3, act=False, gain=0.0)]
        else:
            path = [_conv(n_in, planes, 1), _conv(planes, planes, 3, stride=stride)]
            path.append(_conv(planes, n_out, 1, act=False, gain=0.0))
        self.path = nn.Sequential(*path)
        shortcut: list[nn.Module] = [] if stride == 1 else [nn.AvgPool2d(stride, ceil_mode=True)]
        if n_in != n_out:
            shortcut.append(_conv(n_in, n_out, 1, act=False))
        self.shortcut = nn.Sequential(*shortcut)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Add both ways."""
        out: Tensor = self.relu(self.path(x) + self.shortcut(x))
        return out


def _conv(n_in: int, n_out: int, kernel: int, *, stride: int = 1, act: bool = True, gain: float = 1.0) -> nn.Sequential:
    """Build a convolution and its batch norm, whose scale begins at `gain`."""
    conv = nn.Conv2d(n_in, n_out, kernel, stride=stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight)
    norm = nn.BatchNorm2d(n_out)
    nn.init.constant_(norm.weight, gain)
    nn.init.constant_(norm.bias, 1e-3)
    return nn.Sequential(conv, norm, *([nn.ReLU(inplace=True)] if act else []))


def xresnet_body(name: str, *, channels: int = 3) -> nn.Sequential:
    """Build a network of `DEPTHS` up to its last feature map (B, 512|2048, H/32, W/32)."""
    if name not in DEPTHS:
        raise unknown("xresnet", name, DEPTHS)
    expansion = 1 if name in _NARROW else 4
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    n_in = channels
    for i, width in enumerate(_STEM):
        parts[f"stem{i + 1}"] = _conv(n_in, width, 3, stride=2 if i == 0 else 1)
        n_in = width
    parts["maxpool"] = nn.MaxPool2d(3, stride=2, padding=1)
    for i, depth in enumerate(DEPTHS[name]):
        planes, blocks = 64 * 2**i, list[nn.Module]()
        for number in range(depth):
            blocks.append(Block(n_in, planes, 2 if i and not number else 1, expansion=expansion))
            n_in = planes * expansion
        parts[f"layer{i + 1}"] = nn.Sequential(*blocks)
    return nn.Sequential(parts)


def xresnet(name: str, *, channels: int = 3, n_out: int = 1000) -> nn.Sequential:
    """Build a whole classifier: `xresnet("xresnet50", n_out=10)` has fastai's 23,547,754 parameters."""
    body = xresnet_body(name, channels=channels)
    linear = nn.Linear(512 if name in _NARROW else 2048, n_out)
    nn.init.kaiming_normal_(linear.weight)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(OrderedDict(body=body, pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), classifier=linear))
