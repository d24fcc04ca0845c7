"""Callbacks that watch a column of the history, the loss or the clock: stop early, or go on more slowly."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from graftwork.errors import OptionError, unknown
from graftwork.events import Callback, TrainState

__all__ = ["BestValue", "EarlyStopping", "ReduceOnPlateau", "TerminateOnSpike", "TimeLimit"]

LOG = logging.getLogger("graftwork")
SMOOTHING = 0.98
SMALLEST_DEVIATION = 0.01


@final
class BestValue:
    """Remember the best value of one column of the history.

    `higher` None asks the metric itself which way is up; of losses the lower is better.
    """

    def __init__(self, monitor: str, *, higher: bool | None = None, min_delta: float = 0.0) -> None:
        """Watch `monitor`; a value counts as better if it is so by more than `min_delta`."""
        if min_delta < 0:
            raise OptionError(f"min_delta={min_delta} must not be negative; the direction is the metric's, or higher=")
        self.monitor, self.higher, self.min_delta = monitor, higher, min_delta
        self.value: float | None = None

    def better(self, state: TrainState) -> bool:
        """Look at this epoch's value, and say whether it is the best so far; raise UnknownName if there is none."""
        if self.monitor not in state.record:
            raise unknown("column of the history to monitor", self.monitor, set(state.record) - {"epoch", "seconds"})
        value = float(state.record[self.monitor])
        gain = math.inf if self.value is None else (value - self.value) * (1 if self._upwards(state) else -1)
        if math.isnan(value) or not gain > self.min_delta:
            return False
        self.value = value
        return True

    def _upwards(self, state: TrainState) -> bool:
        if self.higher is not None or state.objective is None:
            return bool(self.higher)
        return state.objective.higher_is_better.get(self.monitor, False)


@final
class EarlyStopping(Callback):
    """Stop when `monitor` has not become better for `patience` epochs, as fastai's EarlyStoppingCallback does.

    Every fit starts to count anew, unless `reset_on_fit` is off.
    """

    def __init__(
        self,
        monitor: str = "valid_loss",
        *,
        patience: int = 1,
        min_delta: float = 0.0,
        higher: bool | None = None,
        reset_on_fit: bool = True,
    ) -> None:
        """Watch a column of the history."""
        self.patience, self.reset_on_fit = _at_least_one("patience", patience), reset_on_fit
        self.best = BestValue(monitor, higher=higher, min_delta=min_delta)
        self.waited = 0

    def fit_start(self, state: TrainState) -> None:
        """Start to count."""
        if self.reset_on_fit:
            self.best.value, self.waited = None, 0

    def epoch_end(self, state: TrainState) -> None:
        """Stop if nothing has become better for so long."""
        self.waited = 0 if self.best.better(state) else self.waited + 1
        if self.waited >= self.patience:
            state.stop(f"{self.best.monitor} has been no better than {self.best.value} for {self.waited} epoch(s)")

    def state_dict(self) -> dict[str, Any]:
        """Return the best value and how long ago it was."""
        return {"best": self.best.value, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting."""
        self.best.value, self.waited = state["best"], state["waited"]


@final
class ReduceOnPlateau(Callback):
    """Divide the rates of the schedule by `factor` when `monitor` has not become better for `patience` epochs.

    fastai's ReduceLROnPlateau, with its defaults. The schedule goes on below: what it says is divided, and never
    brought under `min_lr`.
    """

    def __init__(
        self,
        monitor: str = "valid_loss",
        *,
        patience: int = 1,
        factor: float = 10.0,
        min_lr: float = 0.0,
        min_delta: float = 0.0,
        higher: bool | None = None,
    ) -> None:
        """Watch a column of the history; each fit begins with the whole rate."""
        if not factor > 1:
            raise OptionError(f"factor={factor}: the rate is divided by it, so it must be above 1; 10 is common")
        self.patience, self.factor, self.min_lr = _at_least_one("patience", patience), factor, min_lr
        self.best = BestValue(monitor, higher=higher, min_delta=min_delta)
        self.waited, self.scale = 0, 1.0

    def fit_start(self, state: TrainState) -> None:
        """Begin with the schedule as it is."""
        self.best.value, self.waited, self.scale = None, 0, 1.0

    def loss_end(self, state: TrainState) -> None:
        """Bring this step's rates down."""
        if self.scale == 1.0 or state.phase != "train":
            return
        for group in state.optimizer.param_groups:
            group["lr"] = self._reduced(group["lr"])
        state.learning_rate = self._reduced(state.learning_rate)

    def _reduced(self, lr: float) -> float:
        return max(lr * self.scale, min(lr, self.min_lr))

    def epoch_end(self, state: TrainState) -> None:
        """Divide the rates if nothing has become better for so long."""
        self.waited = 0 if self.best.better(state) else self.waited + 1
        if self.waited >= self.patience:
            self.waited, self.scale = 0, self.scale / self.factor
            LOG.info("%s is no better: the schedule's rates are multiplied by %.3g", self.best.monitor, self.scale)

    def state_dict(self) -> dict[str, Any]:
        """Return the best value, how long ago it was, and by how much rates are reduced."""
        return {"best": self.best.value, "waited": self.waited, "scale": self.scale}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting."""
        self.best.value, self.waited, self.scale = state["best"], state["waited"], state["scale"]


@final
class TerminateOnSpike(Callback):
    """Stop when `patience` training losses in a row lie `threshold` deviations above their running mean.

    Mean and deviation are exponential averages (0.98) of the losses that were no spikes; a deviation counts as at least
    1 % of the mean. The first `warmup` losses are only learned from. Losses are read `every` so many steps, all at
    once: that is one wait for the device. (A loss that is no number is found by the Recorder of every learner.)
    """

    def __init__(self, threshold: float = 10.0, *, patience: int = 3, warmup: int = 50, every: int = 16) -> None:
        """Take the bounds; raise OptionError for impossible ones."""
        if not threshold > 0:
            raise OptionError(f"threshold={threshold} deviations must be above 0; 10 is a real spike")
        self.threshold, self.warmup = threshold, _at_least_one("warmup", warmup)
        self.patience, self.every = _at_least_one("patience", patience), _at_least_one("every", every)
        self._begin()

    def _begin(self) -> None:
        self.mean, self.variance, self.seen, self.high = 0.0, 0.0, 0, 0
        self._pending: list[Tensor] = []

    def fit_start(self, state: TrainState) -> None:
        """Learn the losses of this fit."""
        self._begin()

    def batch_end(self, state: TrainState) -> None:
        """Keep the loss, and look at the last ones now and then."""
        if state.phase == "train" and state.loss is not None:
            self._pending.append(state.loss.detach())
            if len(self._pending) >= self.every:
                self._look(state)

    def phase_end(self, state: TrainState) -> None:
        """Look at the rest."""
        if state.phase == "train" and self._pending:
            self._look(state)

    def _look(self, state: TrainState) -> None:
        losses = torch.stack(self._pending).tolist()
        self._pending = []
        for loss in losses:
            self.high = self.high + 1 if self._is_spike(loss) else 0
            if self.high >= self.patience:
                state.stop(f"the loss has risen to {loss:.4g}, from about {self.mean:.4g}, by step {state.step}")
                return

    def _is_spike(self, loss: float) -> bool:
        """Compare a loss with those before it, and learn from it if it is like them."""
        deviation = max(math.sqrt(self.variance), SMALLEST_DEVIATION * abs(self.mean))
        if self.seen >= self.warmup and loss - self.mean > self.threshold * deviation:
            return True
        self.seen += 1
        share = max(1 - SMOOTHING, 1 / self.seen)
        change = loss - self.mean
        self.mean += share * change
        self.variance = (1 - share) * (self.variance + share * change * change)
        return False

    def state_dict(self) -> dict[str, Any]:
        """Return the averages, and the losses that have not been looked at."""
        told = {"mean": self.mean, "variance": self.variance, "seen": self.seen, "high": self.high}
        return {**told, **({"pending": torch.stack(self._pending)} if self._pending else {})}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.mean, self.variance = state["mean"], state["variance"]
        self.seen, self.high = state["seen"], state["high"]
        self._pending = list(state["pending"]) if "pending" in state else []


@final
class TimeLimit(Callback):
    """Stop after so much time: within a step when it is over, which is then the last one; validation still follows.

    The clock runs from the first fit that begins, and all fits of the same callback share it; a resumed run goes on
    with what it had left.
    """

    needs_batches: ClassVar[bool] = False

    def __init__(
        self, *, minutes: float = 0.0, seconds: float = 0.0, clock: Callable[[], float] = perf_counter
    ) -> None:
        """Take the time to train for; `clock` gives seconds."""
        self.seconds, self.clock = 60 * minutes + seconds, clock
        if not self.seconds > 0:
            raise OptionError(f"minutes={minutes}, seconds={seconds}: give a time above 0")
        self._began: float | None = None

    def fit_start(self, state: TrainState) -> None:
        """Start the clock, if it does not run yet."""
        if self._began is None:
            self._began = self.clock()

    @property
    def used(self) -> float:
        """Seconds since the first fit began."""
        return 0.0 if self._began is None else self.clock() - self._began

    def batch_end(self, state: TrainState) -> None:
        """Stop if the time is over."""
        if state.phase == "train":
            self._check(state)

    def epoch_end(self, state: TrainState) -> None:
        """Stop if the time is over, also where an engine trains a whole epoch."""
        self._check(state)

    def _check(self, state: TrainState) -> None:
        if state.stopped is None and self.used >= self.seconds:
            state.stop(f"the time of {self.seconds:g} s is over")

    def state_dict(self) -> dict[str, Any]:
        """Return the seconds used."""
        return {"used": self.used}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the time that is left."""
        self._began = self.clock() - state["used"]


def _at_least_one(name: str, value: int) -> int:
    if value < 1:
        raise OptionError(f"{name}={value} must be at least 1")
    return value
