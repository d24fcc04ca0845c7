"""Recorder: what training has shown so far, over all fits of a learner."""

from __future__ import annotations

import math
from collections.abc import Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graftwork.errors import TrainingError
from graftwork.events import Callback, TrainState
from graftwork.processes import ALONE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Recorder"]

LOOK_SECONDS = 0.25
CHUNK = 64


class Recorder(Callback):
    """Keep every training loss and learning rate, and one line per epoch; stop when the loss is no number.

    Losses stay on the device within a phase, packed together now and then: thousands of small tensors that live on cost
    several µs a step. The last one is looked at four times a second, and all of them at the end of the phase, so that a
    NaN is found soon without a wait in every step.
    """

    order = 1000  # `_end` events run in reverse: what others read at phase_end is there

    def __init__(self) -> None:
        """Start empty."""
        self.losses: list[float] = []
        self.learning_rates: list[float] = []
        self.history: list[dict[str, float]] = []
        self.epoch_ends: list[int] = []
        self._pending: list[Tensor] = []
        self._packed: list[Tensor] = []
        self._sizes: list[float] = []
        self._shares: list[float] = []
        self._counted = 0
        self._next_look = 0.0
        self._epoch_began = 0.0
        self._processes = ALONE

    def fit_start(self, state: TrainState) -> None:
        """Look who trains along."""
        self._processes = state.processes

    def epoch_start(self, state: TrainState) -> None:
        """Take the time."""
        self._epoch_began = perf_counter()

    def phase_start(self, state: TrainState) -> None:
        """Forget losses that an interrupted phase left behind."""
        if state.phase == "train":
            self._begin()

    def _begin(self) -> None:
        self._pending, self._packed, self._sizes, self._shares, self._counted = [], [], [], [], 0

    def batch_end(self, state: TrainState) -> None:
        """Keep the loss, unread."""
        if state.phase != "train" or state.loss is None or state.batch is None:
            return
        loss = state.loss.detach()
        self._pending.append(loss)
        share = state.batch.share
        self._sizes.append(state.batch.counts if share else 0)
        self._shares.append(share)
        self.learning_rates.append(state.learning_rate)
        if len(self._pending) == CHUNK:
            self._pack()
        if perf_counter() > self._next_look:
            self._look(float(loss), state)

    def _pack(self) -> None:
        self._packed.append(torch.stack(self._pending))
        self._pending = []

    def _look(self, loss: float, state: TrainState) -> None:
        if not math.isfinite(loss):
            raise _not_finite(loss, state.step, state)
        self._next_look = perf_counter() + LOOK_SECONDS

    def phase_end(self, state: TrainState) -> None:
        """Read the losses of the phase."""
        if state.phase == "valid":
            loss = state.record["valid_loss"]
            if not math.isfinite(loss):
                raise _not_finite(loss, state.step, state)
            return
        losses, sizes = self._phase(state)
        self.losses += losses.tolist()
        self._counted = len(self._sizes)
        finite = torch.isfinite(losses)
        if not finite.all():
            first = int((~finite).nonzero()[0])
            raise _not_finite(float(losses[first]), state.step - len(losses) + first + 1, state)
        state.record["train_loss"] = float((losses * sizes).sum() / sizes.sum())

    def _phase(self, state: TrainState) -> tuple[Tensor, Tensor]:
        """Return the losses of the training phase and how many items each stands for."""
        if state.losses is not None:
            losses = state.losses.double().cpu()
            self.learning_rates += [state.learning_rate] * len(losses)
            return losses, torch.ones_like(losses)
        if self._pending:
            self._pack()
        return self._everywhere(torch.cat(self._packed), torch.tensor(self._sizes, dtype=torch.float64))

    def _everywhere(self, losses: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean loss over all processes of each step, and how many items it stands for."""
        losses = losses.double().cpu()
        if self._processes.world == 1:
            return losses, sizes
        # A stand-in's loss counts for nothing, even where it is no number.
        shares = torch.tensor(self._shares, dtype=torch.float64)
        total, counted = self._processes.total(torch.stack([torch.where(shares > 0, losses * shares, 0.0), sizes]))
        return total / self._processes.world, counted

    def state_dict(self) -> dict[str, Any]:
        """Return the losses and rates so far, those of the phase that has not ended too, and the history."""
        pending = [*self._packed, torch.stack(self._pending)] if self._pending else self._packed
        phase = torch.cat(pending) if pending else torch.zeros(0)
        sizes = torch.tensor(self._sizes, dtype=torch.int64)
        if self._processes.world > 1:
            whole, counted = self._everywhere(phase, sizes.double())
            phase, sizes = whole.to(phase.dtype), counted.long()
        # What fails in validation goes on at the end of the training phase, which is then told once more.
        read = self.losses[: len(self.losses) - self._counted]
        return {
            "losses": torch.tensor(read, dtype=torch.float64),
            "learning_rates": torch.tensor(self.learning_rates, dtype=torch.float64),
            "phase": phase,
            "sizes": sizes,
            "epoch_ends": list(self.epoch_ends),
            "history": [{name: v if math.isfinite(v) else None for name, v in line.items()} for line in self.history],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.losses, self.learning_rates = state["losses"].tolist(), state["learning_rates"].tolist()
        self._pending, self._packed = [], [state["phase"].clone()] if len(state["phase"]) else []
        # What was recorded is of all processes; it may count in one of them only.
        sizes = state["sizes"] if self._processes.first else torch.zeros_like(state["sizes"])
        self._sizes, self.epoch_ends, self._counted = sizes.tolist(), list(state["epoch_ends"]), 0
        self._shares = [float(self._processes.world * self._processes.first)] * len(sizes)
        self.history = [{n: math.nan if v is None else v for n, v in line.items()} for line in state["history"]]

    def epoch_end(self, state: TrainState) -> None:
        """Add the epoch's line to the history."""
        state.record["seconds"] = perf_counter() - self._epoch_began
        self.history.append(dict(state.record))
        self.epoch_ends.append(len(self.losses))
        self._begin()

    def plot_losses(self) -> Figure:
        """Draw the smoothed training loss over steps, the validation loss after each epoch, and the learning rate."""
        from graftwork.plots import plot_losses

        valid = [line.get("valid_loss") for line in self.history]
        return plot_losses(self.losses, self.epoch_ends, valid, self.learning_rates)

    def plot_metrics(self, baselines: Mapping[str, Mapping[str, float]] | None = None) -> Figure:
        """Draw every metric over the epochs; `baselines`, metrics by a name, are dashed lines."""
        from graftwork.plots import plot_metrics

        return plot_metrics(self.history, baselines or {})


def _not_finite(loss: float, step: int, state: TrainState) -> TrainingError:
    epoch = state.first_epoch + state.epoch + 1
    return TrainingError(
        f"the {state.phase} loss became {loss} in epoch {epoch}, by step {step} of this fit; training stopped. "
        f"The learning rate was {state.learning_rate:.2g}: try a tenth of it, or precision='fp32'"
    )
