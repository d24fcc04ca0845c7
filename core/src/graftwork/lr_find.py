"""The learning-rate range test (L. N. Smith, arXiv 1506.01186), on a copy: it leaves no trace."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from graftwork.batch import Batch, Part
from graftwork.dataloader import Loader
from graftwork.errors import OptionError
from graftwork.events import Callback, EventTable, TrainState
from graftwork.loop import Feed, Loop
from graftwork.optim import hyper_setter
from graftwork.runtime import seeded
from graftwork.schedule import exponential_sweep, suggest_lrs
from graftwork.seeds import derive_seed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from graftwork.learner import Learner

__all__ = ["Sweep", "sweep"]

BETA = 0.98
DIVERGED = 4.0
FEWEST_POINTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Hold the learning rates tried, the smoothed losses, and suggested rates by name."""

    lrs: list[float]
    losses: list[float]
    suggestions: dict[str, float] = field(default_factory=dict)

    @property
    def valley(self) -> float:
        """The middle of the longest descent, the suggestion to start with; raise OptionError if the loss never fell."""
        if "valley" not in self.suggestions:
            raise OptionError(
                f"the loss did not fall at any of the {len(self.lrs)} learning rates tried; "
                "sweep further (start_lr=, num_steps=), or look at the data"
            )
        return self.suggestions["valley"]

    def plot(self) -> Figure:
        """Draw loss over learning rate, and the suggestions."""
        from graftwork.plots import plot_sweep

        return plot_sweep(self.lrs, self.losses, self.suggestions)


class _Watch(Callback):
    """Keep the smoothed loss of every step, and stop when it has diverged."""

    def __init__(self, *, stop_diverging: bool) -> None:
        self.stop_diverging = stop_diverging
        self.lrs: list[float] = []
        self.losses: list[float] = []
        self._average = 0.0

    def batch_end(self, state: TrainState) -> None:
        loss = math.inf if state.loss is None else float(state.loss.detach())
        if state.processes.world > 1 and state.batch is not None:
            loss = float(state.processes.total(torch.tensor(loss * state.batch.share))) / state.processes.world
        self._average = BETA * self._average + (1 - BETA) * loss
        smoothed = self._average / (1 - BETA ** (len(self.losses) + 1))
        if not math.isfinite(smoothed):
            state.stop("the loss is no longer a number")
            return
        self.lrs.append(state.learning_rate)
        self.losses.append(smoothed)
        if self.stop_diverging and smoothed > DIVERGED * min(self.losses):
            state.stop("the loss has diverged")


def _forever(loader: Loader, part: Part) -> Iterator[Batch]:
    for epoch in itertools.count():
        yield from loader.at(epoch, part=part)


def sweep(learner: Learner, *, start_lr: float, end_lr: float, num_steps: int, stop_diverging: bool) -> Sweep:
    """Train a copy of the learner's model while the rate grows; raise OptionError for an impossible range."""
    if not 0 < start_lr < end_lr or num_steps < 2:
        raise OptionError(
            f"lr_find goes from start_lr={start_lr} up to end_lr={end_lr} in num_steps={num_steps} >= 2 steps"
        )
    if learner.parts.engine is not None and learner.parts.engine.required:
        raise OptionError(f"{learner.model_id} is not trained by gradients, so it has no learning rate to find")
    if learner.session.sharded:
        raise OptionError(
            "lr_find works on a copy of the model, which sharded weights do not have; find the rate in one process"
        )
    parts = copy.deepcopy(learner.parts)
    session = learner.runtime.start(parts.module, products=parts.products)
    feed = Feed(parts.module, session, learner.data.plan, seed=learner.seed)
    optimizer = learner.make_optimizer(start_lr, parts=parts)
    state = TrainState(model=parts.module, optimizer=optimizer, num_epochs=1, num_batches=num_steps)
    watch = _Watch(stop_diverging=stop_diverging)
    schedule = exponential_sweep(start_lr, end_lr, num_steps)
    schedules = dict.fromkeys(parts.parameter_groups(), schedule)
    table = EventTable.compile([watch])
    loop = Loop(feed, learner.objective, optimizer, table, state, hyper_setter(optimizer, schedules, state))
    loop.agree_steps = 1  # all processes see the same losses
    with seeded(derive_seed(learner.seed, "lr_find"), session.device):
        loop.train(itertools.islice(_forever(learner.data.train, session.processes.part), num_steps), 0)
    suggestions = suggest_lrs(watch.lrs, watch.losses) if len(watch.losses) >= FEWEST_POINTS else {}
    return Sweep(lrs=watch.lrs, losses=watch.losses, suggestions=suggestions)
