"""Bodies: classifiers of torchvision without their own pooling and classifier."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from graftwork.api import OptionError, unknown
from graftwork_vision.archs import ARCHS, BACKBONES, MIN_SIDES, XRESNETS
from graftwork_vision.resnet import RESNETS, resnet_body
from graftwork_vision.weights import fit_channels, load_body, pretrained_state
from graftwork_vision.xresnets import xresnet_body

__all__ = ["Body", "build_body", "vision_body"]

Size = tuple[int, int]

# What of a classifier belongs to its body, by the beginning of its name. Parts keep their names, so that published
# weights fit; what stands behind them is pooling and classifier.
_PARTS: Final = {
    "alexnet": ("features",),
    "convnext": ("features",),
    "densenet": ("features",),
    "efficientnet": ("features",),
    "googlenet": (),
    "inception": (),
    "maxvit": ("stem", "blocks"),
    "mnasnet": ("layers",),
    "mobilenet": ("features",),
    "regnet": ("stem", "trunk_output"),
    "shufflenet": ("conv1", "maxpool", "stage2", "stage3", "stage4", "conv5"),
    "squeezenet": ("features",),
    "swin": ("features", "norm", "permute"),
    "vgg": ("features",),
}
_OPTIONS: Final[Mapping[str, Mapping[str, Any]]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception": {"aux_logits": False, "init_weights": True},
}
_CONTAINERS: Final = ("features", "layers", "blocks", "trunk_output")
# Where fastai separates early stages from late ones; elsewhere it is at half of the stages.
_LOWER: Final = {"resn": 6, "wide": 6, "densenet": 7, "alexnet": 6, "squeezenet": 5}
_FIXED_SIZE: Final = {"vit": "image_size", "maxvit": "input_size"}
_PRETRAINED_SIZE: Final = (224, 224)


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """Hold a body, its stages from input to output, how many of them are early ones, and the channels it gives.

    `pooled` says that it gives (B, features) and not a feature map. A body of one stage is not divided.
    """

    module: nn.Module
    stages: tuple[nn.Module, ...]
    num_lower: int
    num_features: int
    pooled: bool = False

    @property
    def groups(self) -> dict[str, tuple[nn.Module, ...]]:
        """The stages in two named groups, or one."""
        if len(self.stages) < 2:
            return {"body": self.stages}
        return {"lower": self.stages[: self.num_lower], "upper": self.stages[self.num_lower :]}


def vision_body(arch: str, *, channels: int = 3, size: Size | None = None, weights: str | None = None) -> Body:
    """Return the body of a classifier for a model of your own, with torchvision's weights by name, or those of a file.

    On the meta device no weights are read: parameters that are about to come from an artifact need no initial values.

    Raises:
        UnknownName: no such classifier, or no such weights.
        UserError: the weights cannot be downloaded or read.
    """
    arch = arch.removeprefix("vision/")
    if arch not in BACKBONES:
        raise unknown("backbone", arch, BACKBONES)
    on_meta = torch.get_default_device().type == "meta"
    state = pretrained_state(arch, weights) if weights is not None and not on_meta else None
    return build_body(arch, channels=channels, size=size, state=state)


def build_body(
    arch: str, *, channels: int = 3, size: Size | None = None, state: Mapping[str, Tensor] | None = None
) -> Body:
    """Build the body of a classifier, with random parameters or those of `state`, for pictures of any channels.

    Raises:
        OptionError: `state` is of another network, or the pictures' size is not one this network can have.
    """
    _check_side(arch, size)
    if arch in XRESNETS:
        body = _xresnet(arch)
    else:
        body = _resnet(arch) if arch in RESNETS else _cut(arch, size, pretrained=state is not None)
    # Weights that were made for such pictures are read as they are, others are fitted to them.
    fits = state is not None and channels != 3 and _channels_of(body, state) == channels
    if fits:
        body = _with_channels(body, channels, pretrained=False)
    if state is not None:
        load_body(body.module, state, name=arch)
    return body if channels == 3 or fits else _with_channels(body, channels, pretrained=state is not None)


def _channels_of(body: Body, state: Mapping[str, Tensor]) -> int | None:
    """Return how many channels the first convolution of a file's weights takes."""
    path = next(name for name, part in body.module.named_modules() if isinstance(part, nn.Conv2d))
    found = next((state[key] for key in (f"{path}.weight", f"body.{path}.weight") if key in state), None)
    return None if found is None else found.shape[1]


def _check_side(arch: str, size: Size | None) -> None:
    least = next((side for name, side in MIN_SIDES.items() if arch.startswith(name)), 1)
    if size is not None and min(size) < least:
        raise OptionError(
            f"{arch} needs pictures of at least {least}x{least} pixels, not {size[0]}x{size[1]}; "
            f"use size={max(least, 64)}, or a small model such as vision/small-cnn"
        )


def _resnet(arch: str) -> Body:
    module = resnet_body(arch)
    return Body(module=module, stages=tuple(module), num_lower=_LOWER["resn"], num_features=ARCHS[arch][1])


def _xresnet(arch: str) -> Body:
    module = xresnet_body(arch)
    # fastai's division: the stem, and the rest.
    return Body(module=module, stages=tuple(module), num_lower=3, num_features=XRESNETS[arch][1])


def _cut(arch: str, size: Size | None, *, pretrained: bool) -> Body:
    family = next((name for name in (*_PARTS, "vit") if arch.startswith(name)), arch)
    whole = _whole(arch, family, size, pretrained=pretrained)
    if family == "vit":
        # The class token is what the classifier would have seen.
        whole.heads = nn.Identity()
        return Body(module=whole, stages=(whole,), num_lower=0, num_features=ARCHS[arch][1], pooled=True)
    parts = {name: part for name, part in whole.named_children() if name in (_PARTS[family] or _before_pool(whole))}
    if family == "densenet":
        parts["relu"] = nn.ReLU(inplace=True)
    stages: list[nn.Module] = []
    for name, part in parts.items():
        stages += part.children() if name in _CONTAINERS else [part]
    ordered = OrderedDict((n, nn.Sequential(*p) if isinstance(p, nn.ModuleList) else p) for n, p in parts.items())
    lower = next((n for name, n in _LOWER.items() if arch.startswith(name)), len(stages) // 2)
    return Body(module=nn.Sequential(ordered), stages=tuple(stages), num_lower=lower, num_features=ARCHS[arch][1])


class _Blank(TorchFunctionMode):
    """Give parameters no memory but let numbers be computed: regnet takes its widths from tensors."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        device = "meta" if func is torch.empty else "cpu"
        if func in (torch.empty, torch.arange, torch.tensor, torch.linspace, torch.zeros, torch.ones):
            return func(*args, **{**(kwargs or {}), "device": device})
        return func(*args, **(kwargs or {}))


def _whole(arch: str, family: str, size: Size | None, *, pretrained: bool) -> nn.Module:
    from torchvision.models import get_model

    options = dict(_OPTIONS.get(family, {}))
    if family in _FIXED_SIZE:
        options |= _size_option(arch, family, size, pretrained=pretrained)
    on_meta = torch.get_default_device().type == "meta"
    try:
        with _Blank() if on_meta else nullcontext():
            model: nn.Module = get_model(arch, weights=None, **options)
    except (ValueError, AssertionError) as error:
        raise OptionError(f"{arch} cannot be built for pictures of size {size}: {error}; 224 always fits") from error
    return model.to("meta") if on_meta else model


def _size_option(arch: str, family: str, size: Size | None, *, pretrained: bool) -> dict[str, Any]:
    size = size or _PRETRAINED_SIZE
    if pretrained and size != _PRETRAINED_SIZE:
        raise OptionError(
            f"the weights of {arch} are for pictures of 224x224, not {size[0]}x{size[1]}; use size=224, or weights=None"
        )
    if family == "maxvit":
        return {"input_size": size}
    if size[0] != size[1]:
        raise OptionError(f"{arch} takes square pictures, not {size[0]}x{size[1]}; use size={min(size)}")
    return {"image_size": size[0]}


def _before_pool(whole: nn.Module) -> tuple[str, ...]:
    """Name the children before the pooling, without auxiliary classifiers."""
    names = [name for name, _ in whole.named_children()]
    return tuple(n for n in names[: names.index("avgpool")] if not n.lower().startswith("aux"))


def _with_channels(body: Body, channels: int, *, pretrained: bool) -> Body:
    path, old = next((name, m) for name, m in body.module.named_modules() if isinstance(m, nn.Conv2d))
    new = _first_conv(old, channels, pretrained=pretrained)
    parent, _, leaf = path.rpartition(".")
    body.module.get_submodule(parent).register_module(leaf, new)
    return replace(body, stages=tuple(new if stage is old else stage for stage in body.stages))


def _first_conv(old: nn.Conv2d, channels: int, *, pretrained: bool) -> nn.Conv2d:
    new = nn.Conv2d(
        channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]  # a pair, which Conv2d stores as a tuple of any length
        stride=old.stride,  # type: ignore[arg-type]
        padding=old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    if pretrained:
        with torch.no_grad():
            new.weight.copy_(fit_channels(old.weight, channels))
            if new.bias is not None and old.bias is not None:
                new.bias.copy_(old.bias)
    else:
        nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    return new
