"""Monte Carlo dropout: how much predictions move when dropout stays on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from graftwork.dataloader import Loader
from graftwork.errors import DataError, OptionError
from graftwork.loop import collect
from graftwork.prediction import Predictions
from graftwork.runtime import seeded
from graftwork.seeds import derive_seed

if TYPE_CHECKING:
    from graftwork.learner import Learner

__all__ = ["DropoutPredictions", "mc_dropout"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DropoutPredictions:
    """Hold the mean of many passes, and the standard deviation between them, by target, in the shape of the mean.

    `mean.losses` are means of the passes' losses.
    """

    mean: Predictions
    std: Mapping[str, Tensor]
    samples: int


def mc_dropout(learner: Learner, loader: Loader | None = None, *, samples: int = 20) -> DropoutPredictions:
    """Predict `samples` times with dropout on, all else as in evaluation; the learner stays as it is.

    Y. Gal and Z. Ghahramani, "Dropout as a Bayesian Approximation" (arXiv 1506.02142). What is drawn depends on the
    learner's seed alone. Dropout means torch's dropout layers; dropout inside of attention is not among them.

    Raises:
        OptionError: fewer than two samples, or no dropout in the model.
        DataError: nothing was held out and no loader given.
    """
    if samples < 2:
        raise OptionError(f"samples={samples}: a deviation needs at least 2")
    loader = learner.data.valid if loader is None else loader
    if loader is None:
        raise DataError("nothing was held out for validation; pass a loader, for example data.test_dl(items)")
    total: dict[str, Tensor] = {}
    squares: dict[str, Tensor] = {}
    losses: list[Tensor] = []
    for sample in range(samples):
        seed = derive_seed(learner.seed, "mc_dropout", sample)
        with _dropping(learner.module), seeded(seed, learner.session.device):
            found = collect(learner.feed, learner.objective, loader)
        for name, column in found.by_target.items():
            values = column.double()
            total[name] = total.get(name, 0) + values
            squares[name] = squares.get(name, 0) + values.square()
        losses += [] if found.losses is None else [found.losses]
    mean = {name: column / samples for name, column in total.items()}
    spread = {n: (squares[n] / samples - m.square()).clamp(min=0).sqrt().float() for n, m in mean.items()}
    return DropoutPredictions(
        mean=Predictions(
            by_target={name: column.to(found.by_target[name].dtype) for name, column in mean.items()},
            targets_by_name=found.targets_by_name,
            index=found.index,
            losses=torch.stack(losses).mean(0) if losses else None,
        ),
        std=spread,
        samples=samples,
    )


@contextmanager
def _dropping(model: nn.Module) -> Iterator[None]:
    """Have dropout layers drop whatever the model's mode is."""
    kind = nn.modules.dropout._DropoutNd  # noqa: SLF001 - the only common base
    layers = [m for m in model.modules() if isinstance(m, kind) and m.p > 0]
    if not layers:
        raise OptionError(f"{type(model).__name__} has no dropout layer with p > 0, so its predictions would not vary")
    before = [layer.training for layer in layers]
    # The model is put into eval mode later than this, so each layer is turned on as it is reached.
    hooks = [layer.register_forward_pre_hook(_turn_on) for layer in layers]
    try:
        yield
    finally:
        for layer, training, hook in zip(layers, before, hooks, strict=True):
            hook.remove()
            layer.train(training)


def _turn_on(layer: nn.Module, inputs: object) -> None:
    layer.train()
