"""unet_learner: a Learner of masks, from the name of an architecture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from torch.optim import Optimizer

from graftwork.api import Callback, DataLoaders, Learner, Loss, Metric, Runtime
from graftwork_vision import is_normal

__all__ = ["unet_learner"]

MetricLike: TypeAlias = "Metric | str | Callable[..., Any]"


def unet_learner(
    data: DataLoaders,
    arch: str = "resnet18",
    *,
    decoder: str = "segmentation/unet",
    weights: str | None = "DEFAULT",
    normalize: bool = True,
    options: Mapping[str, Any] | None = None,
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
    """Return a learner of a decoder on the body of `arch`, any convolutional classifier of the vision plugin.

    `decoder` is the name of a model: "unet" (the default), "dynamic_unet" (fastai's), "deeplabv3", "fpn"; `options` are
    its own. `weights` are the body's: torchvision's ("DEFAULT", …), downloaded once, the path of a file, or None. With
    weights the body starts frozen, and with `normalize` pictures that the data does not normalise are normalised within
    the model. `loss` is a name or a Loss, by default "segmentation/cross_entropy_dice". The runtime defaults to
    automatic precision and channels-last memory.

    Raises:
        UserError: the weights cannot be downloaded or read.
        UnknownName: there is no such decoder or body.
    """
    inside = normalize and weights is not None and not is_normal(data)
    learner = Learner(
        data,
        decoder,
        model_config={"arch": arch, "weights": weights, "normalize": inside, **(options or {})},
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
    if weights is not None:
        learner.freeze()
    return learner
