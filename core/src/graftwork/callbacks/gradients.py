"""Callbacks between the backward pass and the step: gradients of several batches, and gradients that are too large."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, final

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer

from graftwork.errors import OptionError
from graftwork.events import Callback, TrainState

__all__ = ["GradientAccumulation", "GradientClip"]


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _scale(parameters: list[Tensor], factor: float | Tensor) -> None:
    gradients = [p.grad for p in parameters if p.grad is not None]
    if gradients:
        torch._foreach_mul_(gradients, factor)


@final
class GradientAccumulation(Callback):
    """Take one optimizer step for every `n_acc` batches, as if they had been one.

    The gradient is that of the mean over all their items (by their weights, where they have any), so that batches of
    different sizes count by size. What is left at the end of an epoch, or when training stops, is a step too. Batch
    norm still sees single batches. (fastai's GradientAccumulation counts samples, and `n_acc=32` of them.)
    """

    order = 800  # `_end` events run in reverse: whether there will be a step is known to the others
    claims: ClassVar[str] = "decide which batches make a step"

    def __init__(self, n_acc: int = 4) -> None:
        """Take the number of batches of a step."""
        if n_acc < 1:
            raise OptionError(f"n_acc={n_acc} batches: a step needs at least one")
        self.n_acc = n_acc
        self._optimizer: Optimizer | None = None
        self._flushing = False
        self._begin()

    def _begin(self) -> None:
        self.count = 0
        self._unit: float | Tensor = 1.0
        self._total: float | Tensor = 0.0

    def fit_start(self, state: TrainState) -> None:
        """Begin with nothing gathered."""
        self._optimizer = state.optimizer
        self._begin()

    def batch_start(self, state: TrainState) -> None:
        """Bring what is gathered to the unit of this batch's mean, so that the gradients can be added."""
        if state.batch is None:
            return
        weight = state.batch.weight
        mass: float | Tensor = float(state.batch.counts) if weight is None else weight.sum()
        # A batch whose items all weigh nothing has no gradient, and no unit.
        unit = torch.where(mass > 0, mass, self._unit) if isinstance(mass, Tensor) else mass
        if self.count and (isinstance(unit, Tensor) or unit != self._unit):
            _scale(_parameters(state.optimizer), self._unit / unit)
        self._unit, self._total = unit, self._total + mass
        self.count += 1

    def backward_end(self, state: TrainState) -> None:
        """Wait for more batches, or make the mean of those that are there."""
        last = state.batch_index + 1 >= state.num_batches or state.stopped is not None
        if self.count < self.n_acc and not last and not self._flushing:
            state.skip_step()
            return
        if self.count > 1:
            _scale(_parameters(state.optimizer), self._share())
        self._begin()

    def _share(self) -> float | Tensor:
        share = self._unit / self._total
        # All weights may be 0: then so are the gradients.
        return torch.nan_to_num(share, nan=0.0) if isinstance(share, Tensor) else share

    def phase_end(self, state: TrainState) -> None:
        """Take the step that is owed when an epoch ended sooner than its number of batches said."""
        if state.phase == "train" and self.count and state.flush is not None:
            self._flushing = True
            state.flush()
            self._flushing = False

    def fit_end(self, state: TrainState) -> None:
        """Let go of gradients that an error has left, or the next fit would begin with them."""
        if self.count:
            state.optimizer.zero_grad()
            self._begin()

    def state_dict(self) -> dict[str, Any]:
        """Return the gradients gathered so far, and of how many batches they are."""
        parameters = _parameters(self._optimizer) if self.count and self._optimizer is not None else []
        gradients = {f"gradients/{i}": p.grad for i, p in enumerate(parameters) if p.grad is not None}
        return {"count": self.count, "unit": self._unit, "total": self._total, **gradients}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put the gradients back."""
        self.count, self._unit, self._total = state["count"], state["unit"], state["total"]
        for i, parameter in enumerate([] if self._optimizer is None else _parameters(self._optimizer)):
            if f"gradients/{i}" in state:
                parameter.grad = state[f"gradients/{i}"].to(parameter.device, copy=True)
                self._unit, self._total = _beside(self._unit, parameter), _beside(self._total, parameter)


def _beside(value: float | Tensor, parameter: Tensor) -> float | Tensor:
    return value.to(parameter.device) if isinstance(value, Tensor) else value


@final
class GradientClip(Callback):
    """Shorten gradients before a step: all together to the norm `max_norm`, or each number to `max_value`, or both.

    R. Pascanu et al., "On the difficulty of training recurrent neural networks" (arXiv 1211.5063); fastai's defaults.
    In fp16 they are brought to their true size before. `norm` is the last norm before clipping, on the device.
    """

    order = -500  # `_end` events run in reverse: gradients are as the others left them

    def __init__(self, max_norm: float | None = 1.0, *, norm_type: float = 2.0, max_value: float | None = None) -> None:
        """Take the bounds; `norm_type` may be inf."""
        for name, bound in (("max_norm", max_norm), ("max_value", max_value)):
            if bound is not None and not bound > 0:
                raise OptionError(f"{name}={bound} must be above 0, or None")
        if max_norm is None and max_value is None:
            raise OptionError("max_norm=None, max_value=None: give one of them, or leave GradientClip out")
        self.max_norm, self.norm_type, self.max_value = max_norm, norm_type, max_value
        self.norm: Tensor | None = None
        self._given: list[Tensor] = []

    def fit_start(self, state: TrainState) -> None:
        """Look up the parameters once."""
        self._given = _parameters(state.optimizer)

    def backward_end(self, state: TrainState) -> None:
        """Clip, if a step comes."""
        if state.skipping:
            return
        state.unscale()
        if self.max_value is not None:
            clip_grad_value_(self._given, self.max_value)
        if self.max_norm is not None:
            self.norm = clip_grad_norm_(self._given, self.max_norm, self.norm_type)
