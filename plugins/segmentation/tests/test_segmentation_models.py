"""Encoders and decoders: where a body is cut, sizes, parameters, groups."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from graftwork.api import ModelContext, ModelParts, OptionError, UnknownName
from graftwork_segmentation import MaskTensorBlock, models
from graftwork_segmentation.encoder import cut
from graftwork_segmentation.models import deeplabv3, dynamic_unet, fpn, unet
from graftwork_segmentation.pyramids import dilate
from graftwork_vision import ImageTensorBlock, vision_body

FIVE = tuple("abcde")


def context(num_classes: int = 5, channels: int = 3) -> ModelContext:
    codes = tuple(map(str, range(num_classes)))
    return ModelContext(inputs={"x": ImageTensorBlock(channels)}, targets={"y": MaskTensorBlock(codes)})


def test_fastais_unet_has_its_number_of_parameters() -> None:
    parts = dynamic_unet(context(32), arch="resnet34")
    assert sum(p.numel() for p in parts.module.parameters()) == 41_224_168


@pytest.mark.parametrize(
    ("build", "options"),
    [
        (unet, {"widths": (8, 8, 8, 4)}),
        (unet, {"widths": (8,)}),
        (dynamic_unet, {"arch": "resnet18", "self_attention": True, "blur": True, "bottle": True}),
        (dynamic_unet, {"arch": "resnet18", "last_cross": False, "blur": True, "blur_final": False}),
        (deeplabv3, {"width": 8}),
        (deeplabv3, {"width": 8, "output_stride": 16}),
        (fpn, {"width": 8, "head": 6}),
    ],
)
def test_decoders_take_any_size_and_any_number_of_channels(build: Any, options: dict[str, Any]) -> None:
    parts: ModelParts = build(context(channels=2), **options)
    module = parts.module.eval()
    with torch.no_grad():
        for size in ((32, 32), (45, 37)):
            assert module(torch.randn(2, 2, *size)).shape == (2, 5, *size)
    assert list(parts.parameter_groups()) == ["lower", "upper", "decoder"]
    module.train()(torch.randn(2, 2, 64, 64)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
    assert parts.config is not None
    rebuilt = build(context(channels=2), **parts.config)
    assert {n: p.shape for n, p in rebuilt.module.state_dict().items()} == {
        n: p.shape for n, p in module.state_dict().items()
    }


@pytest.mark.parametrize(
    ("arch", "channels", "reductions"),
    [
        ("resnet18", [64, 64, 128, 256, 512], [2, 4, 8, 16, 32]),
        ("mobilenet_v3_small", [16, 16, 24, 48, 576], [2, 4, 8, 16, 32]),
        ("densenet121", [64, 256, 512, 1024, 1024], [2, 4, 8, 16, 32]),
        ("convnext_tiny", [96, 192, 384, 768], [4, 8, 16, 32]),
        ("inception_v3", [64, 192, 288, 768, 2048], [2, 5, 10, 21, 64]),
    ],
)
def test_a_body_is_cut_where_its_maps_change_size(arch: str, channels: list[int], reductions: list[int]) -> None:
    body = vision_body(arch)
    encoder = cut(body, 3, name=arch)
    assert [level.channels for level in encoder.levels] == channels
    assert [level.reduction for level in encoder.levels] == reductions
    assert cut(body, 3, name=arch, cuts=encoder.cuts).levels == encoder.levels
    assert body.module.training, "looking leaves the mode as it was"


@pytest.mark.parametrize("arch", ["swin_t", "vit_b_32"])
def test_bodies_without_maps_of_several_sizes_are_refused(arch: str) -> None:
    with pytest.raises(OptionError, match=f"{arch} gives no feature maps"):
        cut(vision_body(arch, size=(224, 224)), 3, name=arch)


def test_an_encoder_computes_what_the_body_computes() -> None:
    body = vision_body("resnet18")
    encoder, x = cut(body, 3, name="resnet18").eval(), torch.randn(1, 3, 64, 48)
    with torch.no_grad():
        maps = encoder(x)
        assert torch.equal(maps[-1], body.module.eval()(x))
    assert [m.shape[-1] for m in maps] == [24, 12, 6, 3, 2]


def test_strides_become_dilations() -> None:
    encoder = cut(vision_body("resnet18"), 3, name="resnet18").eval()
    dilate(encoder, 8)
    with torch.no_grad():
        assert [m.shape[-1] for m in encoder(torch.randn(1, 3, 64, 64))] == [32, 16, 8, 8, 8]
    with pytest.raises(OptionError, match="pooling"):
        dilate(cut(vision_body("squeezenet1_1"), 3, name="squeezenet1_1"), 8)


def test_what_no_model_can_be_built_of_is_refused() -> None:
    for widths in ((), (8,) * 5, (8, 0)):
        with pytest.raises(OptionError, match="widths"):
            unet(context(), widths=widths)
    with pytest.raises(OptionError, match="output_stride=4"):
        deeplabv3(context(), output_stride=4)
    with pytest.raises(UnknownName, match="resnet18"):
        unet(context(), arch="resnet81")
    with pytest.raises(OptionError, match="one picture"):
        unet(ModelContext(inputs={}, targets=context().targets))


def test_the_other_librarys_models_are_an_extra() -> None:
    from importlib.util import find_spec

    if find_spec("segmentation_models_pytorch") is None:
        with pytest.raises(ImportError):
            models.smp(context())
        return
    parts = models.smp(context(), encoder="resnet18")
    assert parts.module.eval()(torch.randn(1, 3, 64, 64)).shape == (1, 5, 64, 64)
