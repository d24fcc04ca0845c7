"""Residual networks whose parameters are named as torchvision's are, so that its weights load into them.

torchvision itself takes longer to import than torch does; these cost nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

from torch import Tensor, nn

__all__ = ["RESNETS", "resnet_body"]


class Design(NamedTuple):
    """Describe a network: blocks per layer, and for bottlenecks the groups and width of their 3x3 convolution."""

    depths: tuple[int, int, int, int]
    bottleneck: bool = True
    groups: int = 1
    base_width: int = 64


RESNETS: Final = {
    "resnet18": Design((2, 2, 2, 2), bottleneck=False),
    "resnet34": Design((3, 4, 6, 3), bottleneck=False),
    "resnet50": Design((3, 4, 6, 3)),
    "resnet101": Design((3, 4, 23, 3)),
    "resnet152": Design((3, 8, 36, 3)),
    "resnext50_32x4d": Design((3, 4, 6, 3), groups=32, base_width=4),
    "resnext101_32x8d": Design((3, 4, 23, 3), groups=32, base_width=8),
    "resnext101_64x4d": Design((3, 4, 23, 3), groups=64, base_width=4),
    "wide_resnet50_2": Design((3, 4, 6, 3), base_width=128),
    "wide_resnet101_2": Design((3, 4, 23, 3), base_width=128),
}


class Basic(nn.Module):
    """Add two 3x3 convolutions to their input (He et al., 2016, ResNet-18 and -34)."""

    def __init__(self, n_in: int, planes: int, stride: int) -> None:
        """Build; `downsample` exists where the shape changes."""
        super().__init__()
        self.conv1 = _conv(n_in, planes, 3, stride=stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv(planes, planes, 3)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = _shortcut(n_in, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Compute relu(f(x) + x)."""
        out: Tensor = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        added: Tensor = self.relu(out.add_(x if self.downsample is None else self.downsample(x)))
        return added


class Bottleneck(nn.Module):
    """Add a narrow 3x3 convolution between two 1x1 ones to their input; the stride is in the middle one."""

    def __init__(self, n_in: int, planes: int, stride: int, *, groups: int, base_width: int) -> None:
        """Build; `downsample` exists where the shape changes."""
        super().__init__()
        width, n_out = planes * base_width // 64 * groups, planes * 4
        self.conv1 = _conv(n_in, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3, stride=stride, groups=groups)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _conv(width, n_out, 1)
        self.bn3 = nn.BatchNorm2d(n_out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(n_in, n_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Compute relu(f(x) + x)."""
        out: Tensor = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        added: Tensor = self.relu(out.add_(x if self.downsample is None else self.downsample(x)))
        return added


def _conv(n_in: int, n_out: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(n_in, n_out, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _shortcut(n_in: int, n_out: int, stride: int) -> nn.Sequential | None:
    if n_in == n_out and stride == 1:
        return None
    return nn.Sequential(_conv(n_in, n_out, 1, stride=stride), nn.BatchNorm2d(n_out))


def _layer(design: Design, n_in: int, planes: int, depth: int, stride: int) -> nn.Sequential:
    blocks: list[nn.Module] = []
    for i in range(depth):
        step = stride if i == 0 else 1
        if design.bottleneck:
            blocks.append(Bottleneck(n_in, planes, step, groups=design.groups, base_width=design.base_width))
        else:
            blocks.append(Basic(n_in, planes, step))
        n_in = planes * (4 if design.bottleneck else 1)
    return nn.Sequential(*blocks)


def resnet_body(name: str, *, channels: int = 3) -> nn.Sequential:
    """Build a network of `RESNETS` up to its last feature map (B, 512|2048, H/32, W/32)."""
    design = RESNETS[name]
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False),
        bn1=nn.BatchNorm2d(64),
        relu=nn.ReLU(inplace=True),
        maxpool=nn.MaxPool2d(3, stride=2, padding=1),
    )
    nn.init.kaiming_normal_(parts["conv1"].weight, mode="fan_out", nonlinearity="relu")  # type: ignore[arg-type]
    n_in = 64
    for i, depth in enumerate(design.depths):
        planes = 64 * 2**i
        parts[f"layer{i + 1}"] = _layer(design, n_in, planes, depth, stride=1 if i == 0 else 2)
        n_in = planes * (4 if design.bottleneck else 1)
    return nn.Sequential(parts)
