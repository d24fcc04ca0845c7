"""SaveBest: keep the weights of the best epoch, and end with them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from torch import Tensor

from graftwork.callbacks.stopping import BestValue
from graftwork.events import Callback, TrainState

__all__ = ["SaveBest"]

LOG = logging.getLogger("graftwork")
PREFIX = "weights/"


@final
class SaveBest(Callback):
    """Keep the weights of the epoch that was best by `monitor`, and end with them (fastai's SaveModelCallback).

    They are the weights that were validated, averaged ones where an average was; they are kept in the computer's
    memory, not the accelerator's. `write` is called for each best epoch as well, for example to export it. Also a fit
    that broke off ends with the best weights so far. `restore=False` keeps them and leaves the model alone.
    """

    order = -100  # ends are told in reverse: after averages have been put back for good

    def __init__(
        self,
        monitor: str = "valid_loss",
        *,
        min_delta: float = 0.0,
        higher: bool | None = None,
        restore: bool = True,
        reset_on_fit: bool = True,
        write: Callable[..., object] | None = None,
    ) -> None:
        """Watch a column of the history; `write(module, *, epoch, record)` keeps a best epoch elsewhere too."""
        self.best = BestValue(monitor, higher=higher, min_delta=min_delta)
        self.restore, self.reset_on_fit, self.write = restore, reset_on_fit, write
        self.epoch: int | None = None
        self.weights: dict[str, Tensor] = {}
        self._validated = False

    def fit_start(self, state: TrainState) -> None:
        """Forget the fit before."""
        if self.reset_on_fit:
            self.best.value, self.epoch, self.weights = None, None, {}

    def phase_start(self, state: TrainState) -> None:
        """See whether there is validation."""
        self._validated = state.phase == "valid"

    def phase_end(self, state: TrainState) -> None:
        """Look at the epoch while the weights are those that were validated."""
        if state.phase == "valid":
            self._look(state)

    def epoch_end(self, state: TrainState) -> None:
        """Look at an epoch that had no validation."""
        if not self._validated:
            self._look(state)

    def _look(self, state: TrainState) -> None:
        if not self.best.better(state):
            return
        self.epoch = int(state.record["epoch"])
        self.weights = {n: t.detach().to("cpu", copy=True) for n, t in state.model.state_dict().items()}
        if self.write is not None:
            self.write(state.model, epoch=self.epoch, record=dict(state.record))

    @torch.no_grad()
    def fit_end(self, state: TrainState) -> None:
        """Put the best weights back."""
        if not self.restore or not self.weights:
            return
        for name, tensor in state.model.state_dict().items():
            tensor.copy_(self.weights[name])
        LOG.info("the weights are those of epoch %s, %s %.6g", self.epoch, self.best.monitor, self.best.value)

    def state_dict(self) -> dict[str, Any]:
        """Return the best value and its weights."""
        return {
            "best": self.best.value,
            "epoch": self.epoch,
            **{PREFIX + name: tensor for name, tensor in self.weights.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Remember the best weights so far."""
        self.best.value, self.epoch = state["best"], state["epoch"]
        self.weights = {n.removeprefix(PREFIX): t.clone() for n, t in state.items() if n.startswith(PREFIX)}
