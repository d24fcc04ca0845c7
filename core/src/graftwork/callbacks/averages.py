"""Averaged weights: exponential (EMA), or the mean over the last epochs (SWA)."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn

from graftwork.errors import OptionError
from graftwork.events import Callback, TrainState

__all__ = ["EMA", "SWA", "AveragedWeights"]

LOG = logging.getLogger("graftwork")
Keep = Literal["average", "trained"]
PREFIX = "average/"


class AveragedWeights(Callback):
    """Keep an average of the weights beside them, validate with it, and end with it.

    Buffers of floating-point numbers (batch norm's statistics) are averaged as parameters are; of others the last
    values are taken. While an epoch is validated the model holds the average: SaveBest keeps that. The fit ends with
    the average, so that it is what is exported, or with the trained weights if `keep="trained"`; after an error always
    with the trained ones. `average` is the average, by name. Each fit begins a new one.
    """

    order = 600
    claims: ClassVar[str] = "validate with weights of its own"

    def __init__(self, *, keep: Keep = "average") -> None:
        """Say which weights the fit ends with."""
        if keep not in ("average", "trained"):
            raise OptionError(f"keep={keep!r} is neither 'average' nor 'trained'")
        self.keep: Keep = keep
        self.average: dict[str, Tensor] = {}
        self.count = 0
        self._live: dict[str, Tensor] = {}
        self._groups: list[tuple[list[Tensor], list[Tensor]]] = []
        self._swapped = False

    @abstractmethod
    def _due(self, state: TrainState) -> bool:
        """Say whether the weights of this moment, before validation or after a batch, go into the average."""

    @abstractmethod
    def _share(self) -> float:
        """Return how much the weights of this moment count beside the average."""

    @torch.no_grad()
    def fit_start(self, state: TrainState) -> None:
        """Begin with the weights as they are."""
        self._live = _tensors(state.model)
        self.average = {name: tensor.detach().clone() for name, tensor in self._live.items()}
        self.count, self._swapped = 0, False
        self._group()

    def _group(self) -> None:
        """Sort tensors by device and type, for one operation a kind."""
        kinds: dict[tuple[torch.device, torch.dtype], tuple[list[Tensor], list[Tensor]]] = {}
        for name, live in self._live.items():
            averages, lives = kinds.setdefault((live.device, live.dtype), ([], []))
            averages.append(self.average[name])
            lives.append(live)
        self._groups = list(kinds.values())

    @torch.no_grad()
    def _mix(self) -> None:
        """Take the weights of this moment into the average."""
        self.count += 1
        share = self._share()
        for averages, lives in self._groups:
            if averages[0].is_floating_point():
                torch._foreach_lerp_(averages, lives, share)
            else:
                torch._foreach_copy_(averages, lives)

    def phase_start(self, state: TrainState) -> None:
        """Validate with the average, if there is one."""
        if state.phase == "valid":
            if self._due(state):
                self._mix()
            if self.count:
                self._swap()

    def epoch_end(self, state: TrainState) -> None:
        """Put the trained weights back before anything of the next epoch."""
        if self._swapped:
            self._swap()
        elif self._due(state):
            self._mix()

    def fit_end(self, state: TrainState) -> None:
        """End with the weights that were asked for."""
        final = self.keep == "average" and state.error is None and self.count > 0
        if self._swapped != final:
            self._swap()
        if self.count == 0 and state.error is None:
            LOG.warning("%s has averaged nothing: the fit ended before it began", type(self).__name__)
        if final:  # the average stays, as `average`, and the trained weights are let go
            self.average = {name: tensor.detach().clone() for name, tensor in self._live.items()}
        self._live, self._groups, self._swapped = {}, [], False

    @torch.no_grad()
    def _swap(self) -> None:
        for name, live in self._live.items():
            trained = live.detach().clone()
            live.copy_(self.average[name])
            self.average[name].copy_(trained)
        self._swapped = not self._swapped

    def state_dict(self) -> dict[str, Any]:
        """Return the average, or the trained weights while the model holds the average."""
        told = {PREFIX + name: tensor for name, tensor in self.average.items()}
        return {"count": self.count, "swapped": self._swapped, **told}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with an average, the model holding the trained weights."""
        for name, tensor in self.average.items():
            tensor.copy_(state[PREFIX + name])
        self.count, self._swapped = state["count"], state["swapped"]
        if self._swapped:
            self._swap()


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name, each once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


@final
class EMA(AveragedWeights):
    """Average the weights exponentially after every step: `average = decay * average + (1 - decay) * weights`.

    B. Polyak's averaging as TensorFlow and timm use it; `warmup` lets the decay grow as (1 + n) / (10 + n), so that the
    initial weights are soon forgotten.
    """

    def __init__(self, decay: float = 0.999, *, warmup: bool = True, keep: Keep = "average") -> None:
        """Take the decay, between 0 and 1."""
        super().__init__(keep=keep)
        if not 0 <= decay < 1:
            raise OptionError(f"decay={decay} must lie between 0 and 1; 0.999 is common, 0.9999 for long runs")
        self.decay, self.warmup = decay, warmup
        self._seen = 0

    def fit_start(self, state: TrainState) -> None:
        """Begin with the weights as they are."""
        super().fit_start(state)
        self._seen = state.updates

    def batch_end(self, state: TrainState) -> None:
        """Average, if the weights have moved."""
        if state.phase == "train" and self._due(state):
            self._mix()

    def _due(self, state: TrainState) -> bool:
        moved, self._seen = state.updates != self._seen, state.updates
        return moved

    def _share(self) -> float:
        return 1 - (min(self.decay, (1 + self.count) / (10 + self.count)) if self.warmup else self.decay)


@final
class SWA(AveragedWeights):
    """Average the weights that epochs end with, from a share `start` of the fit on.

    P. Izmailov et al., "Averaging Weights Leads to Wider Optima" (arXiv 1803.05407), who start at 75 % and keep the
    rate high from there on: `fit` does. Batch norm's statistics are averaged as well, not measured anew.
    """

    needs_batches: ClassVar[bool] = False

    def __init__(self, start: float = 0.75, *, keep: Keep = "average") -> None:
        """Take the share of the fit after which averaging begins."""
        super().__init__(keep=keep)
        if not 0 <= start < 1:
            raise OptionError(f"start={start} is a share of the fit's epochs: at least 0 and below 1")
        self.start = start
        self._last = -1

    def fit_start(self, state: TrainState) -> None:
        """Begin with nothing averaged."""
        super().fit_start(state)
        self._last = -1

    def _due(self, state: TrainState) -> bool:
        due = state.epoch != self._last and state.epoch + 1 > self.start * state.num_epochs
        self._last = state.epoch
        return due

    def _share(self) -> float:
        return 1 / self.count

    def state_dict(self) -> dict[str, Any]:
        """Return the average, and which epoch was the last in it."""
        return {**super().state_dict(), "last": self._last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with an average; an epoch that is validated once more is not taken twice."""
        super().load_state_dict(state)
        self._last = state["last"]
