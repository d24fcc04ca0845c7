"""The classifiers of torchvision by name, known without importing it, and the family of our own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["ARCHS", "BACKBONES", "MIN_SIDES", "XRESNETS"]

_TABLE = """
alexnet 61.1 256 | convnext_base 88.6 1024 | convnext_large 197.8 1536 | convnext_small 50.2 768
convnext_tiny 28.6 768 | densenet121 8.0 1024 | densenet161 28.7 2208 | densenet169 14.1 1664
densenet201 20.0 1920 | efficientnet_b0 5.3 1280 | efficientnet_b1 7.8 1280 | efficientnet_b2 9.1 1408
efficientnet_b3 12.2 1536 | efficientnet_b4 19.3 1792 | efficientnet_b5 30.4 2048 | efficientnet_b6 43.0 2304
efficientnet_b7 66.3 2560 | efficientnet_v2_l 118.5 1280 | efficientnet_v2_m 54.1 1280
efficientnet_v2_s 21.5 1280 | googlenet 6.6 1024 | inception_v3 27.2 2048 | maxvit_t 30.9 512
mnasnet0_5 2.2 1280 | mnasnet0_75 3.2 1280 | mnasnet1_0 4.4 1280 | mnasnet1_3 6.3 1280 | mobilenet_v2 3.5 1280
mobilenet_v3_large 5.5 960 | mobilenet_v3_small 2.5 576 | regnet_x_16gf 54.3 2048 | regnet_x_1_6gf 9.2 912
regnet_x_32gf 107.8 2520 | regnet_x_3_2gf 15.3 1008 | regnet_x_400mf 5.5 400 | regnet_x_800mf 7.3 672
regnet_x_8gf 39.6 1920 | regnet_y_128gf 644.8 7392 | regnet_y_16gf 83.6 3024 | regnet_y_1_6gf 11.2 888
regnet_y_32gf 145.0 3712 | regnet_y_3_2gf 19.4 1512 | regnet_y_400mf 4.3 440 | regnet_y_800mf 6.4 784
regnet_y_8gf 39.4 2016 | resnet101 44.5 2048 | resnet152 60.2 2048 | resnet18 11.7 512 | resnet34 21.8 512
resnet50 25.6 2048 | resnext101_32x8d 88.8 2048 | resnext101_64x4d 83.5 2048 | resnext50_32x4d 25.0 2048
shufflenet_v2_x0_5 1.4 1024 | shufflenet_v2_x1_0 2.3 1024 | shufflenet_v2_x1_5 3.5 1024
shufflenet_v2_x2_0 7.4 2048 | squeezenet1_0 1.2 512 | squeezenet1_1 1.2 512 | swin_b 87.8 1024 | swin_s 49.6 768
swin_t 28.3 768 | swin_v2_b 87.9 1024 | swin_v2_s 49.7 768 | swin_v2_t 28.4 768 | vgg11 132.9 512
vgg11_bn 132.9 512 | vgg13 133.0 512 | vgg13_bn 133.1 512 | vgg16 138.4 512 | vgg16_bn 138.4 512
vgg19 143.7 512 | vgg19_bn 143.7 512 | vit_b_16 86.6 768 | vit_b_32 88.2 768 | vit_h_14 633.5 1280
vit_l_16 304.3 1024 | vit_l_32 306.5 1024 | wide_resnet101_2 126.9 2048 | wide_resnet50_2 68.9 2048
"""


def _read(table: str) -> dict[str, tuple[float, int]]:
    cells = (cell.split() for cell in table.replace("\n", "|").split("|") if cell.strip())
    return {name: (float(params_m), int(channels)) for name, params_m, channels in cells}


ARCHS: Final[Mapping[str, tuple[float, int]]] = _read(_TABLE)
"""Millions of parameters with the classifier, and channels of the last feature map, by name."""

XRESNETS: Final[Mapping[str, tuple[float, int]]] = _read(
    "xresnet18 11.7 512 | xresnet34 21.8 512 | xresnet50 25.6 2048 | xresnet101 44.6 2048 | xresnet152 60.2 2048"
)
"""The same of the XResNets, for which there are no published weights."""

BACKBONES: Final[Mapping[str, tuple[float, int]]] = {**ARCHS, **XRESNETS}
"""All names whose body can be had."""

MIN_SIDES: Final[Mapping[str, int]] = {
    "alexnet": 63,
    "convnext": 32,
    "densenet": 29,
    "googlenet": 15,
    "inception": 75,
    "squeezenet": 21,
    "vgg": 32,
}
"""The smallest side a picture can have, by the beginning of a name; the others take any."""
