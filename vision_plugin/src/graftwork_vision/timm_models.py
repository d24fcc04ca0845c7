"""Models of timm, by name: their bodies below a head of ours. timm is imported when one is built (the extra `timm`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from graftwork.api import ModelContext, ModelParts, OptionError, UserError, unknown
from graftwork_vision.backbones import Body
from graftwork_vision.models import Stats, graft, picture_block
from graftwork_vision.weights import fit_channels, is_path, load_body, read_weights

__all__ = ["timm_model"]

Size = tuple[int, int]
_CONTAINERS = ("stages", "blocks", "layers", "features")


def timm_model(
    ctx: ModelContext,
    *,
    arch: str,
    weights: str | None = None,
    n_out: int | None = None,
    ps: float = 0.5,
    lin_ftrs: Sequence[int] | None = None,
    concat_pool: bool = True,
    bn_final: bool = False,
    normalize: bool = False,
) -> ModelParts:
    """Graft a new head on the body of timm's model `arch`: `vision_learner(data, "timm/convnext_atto")`.

    `weights` are "DEFAULT", which timm downloads, or the path of a file. Models without a feature map, as vision
    transformers, keep timm's own pooling. `normalize=True` puts the normalisation their weights expect into the model.

    Raises:
        UnknownName: timm has no such model.
        UserError: the weights cannot be downloaded.
    """
    block = picture_block(ctx.inputs, f"timm/{arch}")
    options = _options(arch, block.size)
    whole = _whole(arch, block.channels, weights, options)
    body = _body(whole, _probe(arch, block.channels, block.size, options))
    if weights is not None and is_path(weights):
        load_body(whole, _fitted(read_weights(weights), whole, block.channels), name=arch)
    head = {"ps": ps, "lin_ftrs": lin_ftrs, "concat_pool": concat_pool, "bn_final": bn_final}
    stats = _stats(arch) if normalize else None
    return graft(ctx, body, head=head, n_out=n_out, normalize=stats, config={"arch": arch})


def _options(arch: str, size: Size | None) -> dict[str, Any]:
    """Return what a model must be told at the beginning: no classifier, and the pictures' size if it has only one."""
    import timm

    if not timm.is_model(arch):
        raise unknown("model of timm", arch, timm.list_models())
    config = timm.get_pretrained_cfg(arch)
    fixed = config is not None and config.fixed_input_size and size is not None
    return {"num_classes": 0, **({"img_size": size} if fixed else {})}


def _whole(arch: str, channels: int, weights: str | None, options: Mapping[str, Any]) -> nn.Module:
    import timm

    fetched = weights is not None and not is_path(weights)
    if fetched and weights != "DEFAULT":
        raise unknown(f"weights of timm's {arch}", str(weights), ("DEFAULT",), hint="or give the path of a file")
    try:
        model: nn.Module = timm.create_model(arch, pretrained=fetched, in_chans=channels, **options)
    except (AssertionError, ValueError, TypeError) as error:
        raise OptionError(f"timm's {arch} cannot be built for this data: {error}") from error
    except Exception as error:
        if not fetched:
            raise
        raise UserError(
            f"the weights of timm's {arch} could not be downloaded ({type(error).__name__}: {error}); pass "
            "weights=None to train from scratch, or the path of a file fetched elsewhere"
        ) from error
    return model


class _Probe(NamedTuple):
    """Say what a model makes of one picture: the shape of its features, how wide they are pooled, what comes after."""

    shape: torch.Size
    pooled: int
    behind: tuple[str, ...]


def _probe(arch: str, channels: int, size: Size | None, options: Mapping[str, Any]) -> _Probe:
    """Look at a model without memory, computing nothing."""
    import timm

    entered = set[str]()
    with torch.device("meta"):
        model: Any = timm.create_model(arch, pretrained=False, in_chans=channels, **options).eval()
        picture = torch.empty(1, channels, *(size or (224, 224)))
        pooled = int(model(picture).shape[1])
        for name, child in model.named_children():
            for part in child.modules():  # lists are never called themselves
                part.register_forward_pre_hook(lambda *_, name=name: entered.add(name))
        shape = model.forward_features(picture).shape
    return _Probe(shape, pooled, tuple(name for name, _ in model.named_children() if name not in entered))


class FeatureMap(nn.Module):
    """Give a timm model's last feature map, (B, C, H, W)."""

    def __init__(self, model: nn.Module, *, channels_last: bool) -> None:
        """Keep the model; `channels_last` says that it gives (B, H, W, C)."""
        super().__init__()
        self.model, self.channels_last = model, channels_last

    def forward(self, x: Tensor) -> Tensor:
        """Compute the features alone."""
        features: Tensor = self.model.forward_features(x)  # type: ignore[operator]  # every timm model has it
        return features.permute(0, 3, 1, 2).contiguous() if self.channels_last else features


def _body(whole: nn.Module, probe: _Probe) -> Body:
    width = int(whole.num_features)  # type: ignore[arg-type]  # a number, in every timm model
    if len(probe.shape) != 4 or width not in (probe.shape[1], probe.shape[3]):
        return Body(module=whole, stages=(whole,), num_lower=0, num_features=probe.pooled, pooled=True)
    for name in probe.behind:
        whole.register_module(name, nn.Identity())
    module = FeatureMap(whole, channels_last=probe.shape[1] != width)
    stages = _stages(whole)
    return Body(module=module, stages=stages, num_lower=len(stages) // 2, num_features=width)


def _stages(whole: nn.Module) -> tuple[nn.Module, ...]:
    """Return the stages in order; only one, if there are parameters beside them."""
    stages: list[nn.Module] = []
    for name, child in whole.named_children():
        stages += child.children() if name in _CONTAINERS else [child]
    held = sum(p.numel() for stage in stages for p in stage.parameters())
    return tuple(stages) if held == sum(p.numel() for p in whole.parameters()) else (whole,)


def _fitted(state: Mapping[str, Tensor], whole: nn.Module, channels: int) -> dict[str, Tensor]:
    """Fit the first convolution of a file's weights to the pictures' channels; a graftwork model's names are timm's."""
    state = {name.removeprefix("body.").removeprefix("model."): v for name, v in state.items()}
    fitted = dict(state)
    first = next((f"{name}.weight" for name, part in whole.named_modules() if isinstance(part, nn.Conv2d)), "")
    if first in state:
        fitted[first] = fit_channels(state[first], channels)
    return fitted


def _stats(arch: str) -> Stats:
    import timm

    config = timm.get_pretrained_cfg(arch)
    assert config is not None
    return tuple(config.mean), tuple(config.std)
