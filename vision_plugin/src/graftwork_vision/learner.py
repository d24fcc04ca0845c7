"""vision_learner: a Learner of pictures, from the name of an architecture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from torch.optim import Optimizer

from graftwork.api import Callback, DataLoaders, Learner, Loss, Metric, OptionError, Runtime, get_host
from graftwork_vision.archs import BACKBONES, XRESNETS
from graftwork_vision.blocks import ImageTensorBlock

__all__ = ["is_normal", "vision_learner"]

MetricLike: TypeAlias = "Metric | str | Callable[..., Any]"


def vision_learner(
    data: DataLoaders,
    arch: str = "resnet18",
    *,
    weights: str | None = "DEFAULT",
    n_out: int | None = None,
    normalize: bool = True,
    ps: float = 0.5,
    lin_ftrs: Sequence[int] | None = None,
    concat_pool: bool = True,
    bn_final: bool = False,
    loss: Loss | str | None = None,
    metrics: MetricLike | Sequence[MetricLike] | None = None,
    optimizer: str | Callable[..., Optimizer] = "adamw",
    lr: float = 1e-3,
    wd: float = 0.01,
    callbacks: Sequence[Callback] = (),
    runtime: Runtime | None = None,
    seed: int = 42,
    train_norm: bool = True,
    progress: bool = True,
) -> Learner:
    """Return a learner of `arch`, a classifier of torchvision with a new head, or any other registered model.

    "timm/NAME" is a model of timm (`pip install graftwork-vision[timm]`), "xresnet50" one of our own, which has no
    published weights. `weights` are torchvision's ("DEFAULT", "IMAGENET1K_V1", …), downloaded once, the path of a file,
    or None. With weights, the body starts frozen, and with `normalize` pictures that the data does not normalise are
    normalised within the model. `ps`, `lin_ftrs`, `concat_pool` and `bn_final` shape the head. The runtime defaults to
    automatic precision and channels-last memory.

    Raises:
        UserError: the weights cannot be downloaded or read.
        UnknownName: there is no such model.
    """
    name = f"vision/{arch}" if arch in BACKBONES else arch
    head = {"ps": ps, "lin_ftrs": lin_ftrs, "concat_pool": concat_pool, "bn_final": bn_final}
    config: dict[str, Any] = {} if n_out is None else {"n_out": n_out}
    if arch.startswith("timm/"):
        name, config["arch"] = "vision/timm", arch.removeprefix("timm/")
    if weights == "DEFAULT" and name.removeprefix("vision/") in XRESNETS:
        weights = None
    if _is_graft(name):
        config |= head | {"weights": weights, "normalize": weights is not None and normalize and not is_normal(data)}
    else:
        _check_plain(name, weights, head)
    learner = Learner(
        data,
        name,
        model_config=config,
        loss=loss,
        metrics=metrics,
        optimizer=optimizer,
        lr=lr,
        wd=wd,
        callbacks=callbacks,
        runtime=runtime or Runtime(precision="auto", channels_last=True),
        seed=seed,
        train_norm=train_norm,
        progress=progress,
    )
    if config.get("weights") is not None:
        learner.freeze()
    return learner


def _is_graft(name: str) -> bool:
    """Say whether a model is a body with a head that the head's options shape."""
    spec = get_host().models.spec(name)
    return spec.id.startswith("vision/") and spec.id.removeprefix("vision/") in (*BACKBONES, "timm")


_DEFAULT_HEAD: Mapping[str, Any] = {"ps": 0.5, "lin_ftrs": None, "concat_pool": True, "bn_final": False}


def _check_plain(name: str, weights: str | None, head: Mapping[str, Any]) -> None:
    changed = [key for key, value in head.items() if value != _DEFAULT_HEAD[key]]
    if changed:
        raise OptionError(f"{name} has no grafted head, so {', '.join(changed)} cannot be set; leave it out")
    if weights not in (None, "DEFAULT"):
        raise OptionError(f"there are no weights {weights!r} of {name}; use weights=None")


def is_normal(data: DataLoaders) -> bool:
    """Say whether the data normalises its pictures."""
    blocks = [data.plan.fields[name].final for name in data.plan.inputs]
    return all(isinstance(block, ImageTensorBlock) and block.scale == "standard" for block in blocks)
