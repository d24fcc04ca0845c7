"""collab_learner: a Learner of ratings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch.optim import Optimizer

from graftwork.api import Callback, ColumnLoader, DataLoaders, Learner, Loss, Metric, OptionError, Runtime
from graftwork_collab.data import ITEM, USER, RatedLoaders
from graftwork_collab.factor import EngineName, checked_range
from graftwork_collab.towers import Towers

__all__ = ["collab_learner", "give_features", "outside", "rating_range"]

LOG = logging.getLogger("graftwork")
MetricLike: TypeAlias = "Metric | str | Callable[..., Any]"
STRETCH = 0.1


def rating_range(data: DataLoaders) -> tuple[float, float]:
    """Return the range of the training ratings, stretched by a tenth of it on either side.

    A sigmoid never reaches its ends, and comes near them only with large weights: the best rating must lie inside.
    """
    ratings = _ratings(data.train)
    low, high = float(ratings.min()), float(ratings.max())
    more = STRETCH * (high - low) or 0.5
    return low - more, high + more


def outside(data: DataLoaders, y_range: Sequence[float] | None) -> str | None:
    """Say how many training ratings lie outside a range, which a model of that range cannot predict; None if none."""
    if y_range is None:
        return None
    ratings = _ratings(data.train)
    low, high = y_range
    count = int(((ratings < low) | (ratings > high)).sum())
    if not count:
        return None
    return (
        f"{count} of {len(ratings)} training ratings lie outside y_range=({low:g}, {high:g}), "
        f"which no prediction leaves; the ratings go from {float(ratings.min()):g} to {float(ratings.max()):g}"
    )


def _ratings(loader: Any) -> torch.Tensor:
    if not isinstance(loader, ColumnLoader):
        raise OptionError("the range of ratings is read from columns; pass y_range=(low, high)")
    return loader.columns[loader.plan.targets[0]]


def collab_learner(
    data: DataLoaders,
    n_factors: int = 50,
    *,
    use_nn: bool = False,
    y_range: Sequence[float] | Literal["auto"] | None = "auto",
    layers: Sequence[int] | None = None,
    ps: float = 0.0,
    engine: EngineName = "auto",
    loss: Loss | str | None = None,
    metrics: MetricLike | Sequence[MetricLike] | None = None,
    optimizer: str | Callable[..., Optimizer] = "adamw",
    lr: float = 3e-3,
    wd: float = 0.1,
    callbacks: Sequence[Callback] = (),
    runtime: Runtime | None = None,
    seed: int = 42,
    progress: bool = True,
) -> Learner:
    """Return a learner of dot product and biases, or with `use_nn` of an MLP with `layers` and dropout `ps`.

    Data with features of users or items gives two towers, in which they join the factors. Predictions stay within
    `y_range`: "auto" is the range of the training ratings and a little more, None is no bound. Weight decay takes in
    all embeddings, biases too. The `engine` "numba" is a kernel for the CPU, many times faster than the loop ("torch");
    "auto" takes it wherever it can do what is asked for.

    Raises:
        OptionError: an option of the other model, or a range that is none.
    """
    chosen = rating_range(data) if y_range == "auto" else checked_range(y_range)
    if (said := outside(data, chosen) if y_range != "auto" else None) is not None:
        LOG.warning(said)
        data.notes = tuple(dict.fromkeys((*data.notes, said)))
    runtime = runtime or Runtime()
    name, config = _model(data, n_factors, chosen, use_nn=use_nn, layers=layers, ps=ps)
    if name == "collab/dot-bias":
        config["engine"] = _engine(engine, runtime, optimizer, loss)
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
        runtime=runtime,
        seed=seed,
        progress=progress,
    )
    if isinstance(data, RatedLoaders) and isinstance(learner.module, Towers):
        give_features(learner.module, data)
    return learner


def give_features(module: Towers, data: RatedLoaders) -> None:
    """Put the features of a data set into a model of two towers."""
    for field, tower in ((USER, module.user), (ITEM, module.item)):
        made = data.features.get(f"{field}_features")
        tower.set_features(torch.from_numpy(data.seen[field]), None if made is None else made.rows)


def _model(
    data: DataLoaders,
    n_factors: int,
    y_range: tuple[float, float] | None,
    *,
    use_nn: bool,
    layers: Sequence[int] | None,
    ps: float,
) -> tuple[str, dict[str, Any]]:
    config: dict[str, Any] = {"n_factors": n_factors, "y_range": None if y_range is None else list(y_range)}
    described = isinstance(data, RatedLoaders) and bool(data.features)
    if use_nn and described:
        raise OptionError("use_nn=True makes no use of features; leave it out, or the features")
    if use_nn:
        return "collab/neural", config | {"layers": None if layers is None else list(layers), "ps": ps}
    if layers is not None or ps:
        raise OptionError("layers and ps are of the neural model; pass use_nn=True with them, or leave them out")
    return "collab/towers" if described else "collab/dot-bias", config


def _engine(engine: EngineName, runtime: Runtime, optimizer: Any, loss: Any) -> EngineName:
    """Leave "auto" to the kernel only where it can surely do it: nobody is warned of what he did not ask for."""
    if engine != "auto":
        return engine
    on_cpu = runtime.device == "cpu" or (runtime.device == "auto" and not torch.accelerator.is_available())
    plain = optimizer in ("adamw", "adam") and loss in (None, "mse", "core/mse")
    return "auto" if on_cpu and plain else "torch"
