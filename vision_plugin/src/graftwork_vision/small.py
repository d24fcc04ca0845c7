"""Small models for small pictures."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from graftwork.api import OptionError

__all__ = ["lenet5_parts", "small_cnn_parts"]

Size = tuple[int, int]


def lenet5_parts(channels: int, size: Size | None, n_out: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Build LeNet-5 (LeCun et al., 1998) with rectifiers and maximum pooling: its convolutions, its linear layers.

    Pictures below 32 pixels are padded by 2, as 28x28 digits are in the paper. Raises OptionError below 12 pixels.
    """
    if size is None:
        raise OptionError("lenet5 needs pictures of one known size; pass size=28, or item_tfms=[Resize(28)]")
    pad = 2 if min(size) < 32 else 0
    height, width = (((n + 2 * pad - 4) // 2 - 4) // 2 for n in size)
    if height < 1 or width < 1:
        raise OptionError(f"lenet5 needs pictures of at least 12x12 pixels, not {size[0]}x{size[1]}; use small-cnn")
    body = nn.Sequential(
        *(nn.Conv2d(channels, 6, 5, padding=pad), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten()),
    )
    head = nn.Sequential(
        *(nn.Linear(16 * height * width, 120), nn.ReLU(inplace=True)),
        *(nn.Linear(120, 84), nn.ReLU(inplace=True), nn.Linear(84, n_out)),
    )
    return body, head


def small_cnn_parts(
    channels: int, size: Size | None, n_out: int, *, widths: Sequence[int] = (32, 64, 64, 128, 128), ps: float = 0.1
) -> tuple[nn.Sequential, nn.Sequential]:
    """Build five 3x3 convolutions with batch norm, then mean pooling and one linear layer.

    Every layer but the first halves the picture, as long as four pixels a side are left. `ps` is the dropout.
    """
    if not widths or any(w < 1 for w in widths):
        raise OptionError(f"small-cnn: widths={tuple(widths)!r} needs at least one layer of at least one channel")
    side = 64 if size is None else min(size)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    n_in = channels
    for i, width in enumerate(widths):
        stride = 2 if i > 0 and side >= 8 else 1
        side = -(-side // stride)
        layers[f"layer{i + 1}"] = _conv(n_in, width, stride)
        n_in = width
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(ps), nn.Linear(n_in, n_out))
    return nn.Sequential(layers), head


def _conv(n_in: int, n_out: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(n_out), nn.ReLU(inplace=True))
