"""What our optimizers share: tensors of one device and type are stepped as one list.

State is tensors and numbers, by parameter, and numbers by group, so that `state_dict()` needs no pickle. Nothing in a
step is read from the device. Weight decay is decoupled: weights are multiplied by `1 - lr * weight_decay` first.
"""

# ruff: noqa: SLF001 - torch's operations on lists begin with an underscore

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from graftwork.errors import OptionError

__all__ = ["Bucket", "Stepper", "check_shares", "moments", "norms", "scale_each"]

Params = Iterable[Tensor] | Iterable[dict[str, Any]]


@dataclass(slots=True)
class Bucket:
    """Hold what is stepped together: parameters with a gradient, of one device and type, and their state."""

    params: list[Tensor] = field(default_factory=list)
    grads: list[Tensor] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)

    def each(self, name: str) -> list[Tensor]:
        """Return one state tensor of every parameter."""
        return [state[name] for state in self.states]

    def corrections(self, beta: float) -> list[float]:
        """Return by what a mean that began at 0 falls short, for every parameter."""
        return [1 - beta ** state["step"] for state in self.states]


class Stepper(Optimizer, ABC):
    """Step each group's parameters as lists; a subclass says how, and which state tensors start at zero."""

    zeros: ClassVar[tuple[str, ...]] = ()

    def __init__(self, params: Params, lr: float, weight_decay: float, **defaults: Any) -> None:
        """Check what all have in common."""
        if not lr >= 0 or not weight_decay >= 0:
            raise OptionError(f"lr={lr} and weight_decay={weight_decay} must not be below 0")
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, **defaults})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Take one step along the gradients; a closure is asked once for the loss, which is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self.step_group(group)
        return loss

    def step_group(self, group: dict[str, Any]) -> None:
        """Step one group."""
        for bucket in self._buckets(group["params"]):
            self.update(group, bucket)

    @abstractmethod
    def update(self, group: Mapping[str, Any], bucket: Bucket) -> None:
        """Step one list, in place, weight decay included."""

    def start(self, parameter: Tensor) -> dict[str, Any]:
        """Return the state of a parameter that is stepped for the first time."""
        return {name: torch.zeros_like(parameter) for name in self.zeros}

    def decay(self, group: Mapping[str, Any], bucket: Bucket) -> None:
        """Shrink the weights."""
        if group["weight_decay"]:
            torch._foreach_mul_(bucket.params, 1 - group["lr"] * group["weight_decay"])

    def _buckets(self, params: Iterable[Tensor]) -> Iterator[Bucket]:
        found: dict[tuple[torch.device, torch.dtype], Bucket] = {}
        for parameter in params:
            grad = parameter.grad
            if grad is None:
                continue
            bucket = found.get((parameter.device, parameter.dtype))
            if bucket is None:
                bucket = found[parameter.device, parameter.dtype] = Bucket()
            state = self.state[parameter]
            if not state:
                self._check(parameter, grad)
                state.update(self.start(parameter), step=0)
            state["step"] += 1
            bucket.params.append(parameter)
            bucket.grads.append(grad)
            bucket.states.append(state)
        yield from found.values()

    def _check(self, parameter: Tensor, grad: Tensor) -> None:
        if grad.layout is not torch.strided:
            raise OptionError(f"{type(self).__name__} has no sparse steps; make the embedding dense, or use sparseadam")
        if not parameter.is_floating_point():
            raise OptionError(f"{type(self).__name__} steps real numbers, not {parameter.dtype}; use adamw")


def check_shares(**options: float | tuple[float, float]) -> None:
    """Refuse what does not lie from 0 to just below 1."""
    for name, value in options.items():
        pair = value if isinstance(value, tuple | list) else (value,)
        if not all(0 <= number < 1 for number in pair):
            raise OptionError(f"{name}={value} must lie between 0 and 1, 1 left out")


def moments(group: Mapping[str, Any], bucket: Bucket) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Bring the running means of gradients and of their squares up to date and return them, rid of their start at 0."""
    beta1, beta2 = group["betas"]
    mean, square = bucket.each("exp_avg"), bucket.each("exp_avg_sq")
    torch._foreach_lerp_(mean, bucket.grads, 1 - beta1)
    torch._foreach_mul_(square, beta2)
    torch._foreach_addcmul_(square, bucket.grads, bucket.grads, 1 - beta2)
    return (
        torch._foreach_div(mean, bucket.corrections(beta1)),
        torch._foreach_div(square, bucket.corrections(beta2)),
    )


def norms(tensors: Iterable[Tensor]) -> Tensor:
    """Return the length of every tensor, (n,), on the device."""
    return torch.stack(torch._foreach_norm(list(tensors)))


def scale_each(tensors: Iterable[Tensor], factors: Tensor) -> tuple[Tensor, ...]:
    """Return each tensor times its own factor, which stays on the device."""
    return torch._foreach_mul(list(tensors), list(factors.unbind()))
