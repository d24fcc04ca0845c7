"""Schedule-free training: a mean of the weights on the way takes the place of a falling learning rate.

A. Defazio et al., arXiv 2405.15682. There are three points: z is stepped, x is the weighted mean of all z, and the
gradient is taken at y, between the two. The model holds y in training and must hold x whenever it is used: the learner
sees to that through `WeightSwitch`, so validation, what is saved after an epoch and what is exported are x.
"""

# ruff: noqa: SLF001 - torch's operations on lists begin with an underscore

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, TypeAlias, final

import torch
from torch import Tensor

from graftwork.errors import OptionError
from graftwork.events import Callback, TrainState
from graftwork.optimizers.base import Bucket, Params, Stepper, check_shares

__all__ = ["ScheduleFree", "ScheduleFreeAdamW", "ScheduleFreeSGD", "WeightSwitch"]

Tensors: TypeAlias = list[Tensor] | tuple[Tensor, ...]


class ScheduleFree(Stepper):
    """Step z, take x along, and keep y in the model; `interpolation` is how far y is on the way from z to x.

    Each step weighs by the square of the largest rate so far, so a warm-up counts little.
    """

    def __init__(self, params: Params, lr: float, weight_decay: float, interpolation: float, **defaults: Any) -> None:
        """Begin where x, y and z are one."""
        if not 0 < interpolation < 1:
            raise OptionError(f"interpolation={interpolation} must lie between 0 and 1")
        own = {"interpolation": interpolation, "at_gradient": True, "largest_lr": 0.0, "weight_sum": 0.0, "share": 1.0}
        super().__init__(params, lr, weight_decay, **own, **defaults)

    def start(self, parameter: Tensor) -> dict[str, Any]:
        """Begin z where the weights are."""
        return {**super().start(parameter), "z": parameter.detach().clone()}

    def step_group(self, group: dict[str, Any]) -> None:
        """Find out how much the new z counts in x, then step."""
        if not group["at_gradient"]:
            raise OptionError("the model holds its mean weights; call the optimizer's to_gradient() before training on")
        group["largest_lr"] = max(group["largest_lr"], group["lr"])
        weight = group["largest_lr"] ** 2
        group["weight_sum"] += weight
        group["share"] = weight / group["weight_sum"] if weight else 0.0
        super().step_group(group)

    def update(self, group: Mapping[str, Any], bucket: Bucket) -> None:
        """Step one list; weight decay is taken at y, as the gradient is."""
        step = self.direction(group, bucket)
        if group["weight_decay"]:
            step = torch._foreach_add(step, bucket.params, alpha=group["weight_decay"])
        z, lr, share = bucket.each("z"), group["lr"], group["share"]
        # x is not kept: what follows is its update, put in terms of y and z.
        torch._foreach_lerp_(bucket.params, z, share)
        torch._foreach_add_(bucket.params, step, alpha=lr * (group["interpolation"] * (1 - share) - 1))
        torch._foreach_add_(z, step, alpha=-lr)

    @abstractmethod
    def direction(self, group: Mapping[str, Any], bucket: Bucket) -> Tensors:
        """Return along what to step, gradients aside from their scale."""

    def to_gradient(self) -> None:
        """Put y into the model, where gradients are taken; nothing happens if it is there."""
        self._go("at_gradient", True)

    def to_mean(self) -> None:
        """Put x into the model, which is what training is for; nothing happens if it is there."""
        self._go("at_gradient", False)

    @torch.no_grad()
    def _go(self, flag: str, wanted: bool) -> None:
        for group in self.param_groups:
            if group[flag] is wanted:
                continue
            group[flag] = wanted
            stepped = [p for p in group["params"] if p in self.state]
            share = 1 - group["interpolation"] if wanted else 1 - 1 / group["interpolation"]
            if stepped:
                torch._foreach_lerp_(stepped, [self.state[p]["z"] for p in stepped], share)


@final
class ScheduleFreeSGD(ScheduleFree):
    """Step along the gradient."""

    def __init__(
        self, params: Params, lr: float = 1.0, *, interpolation: float = 0.9, weight_decay: float = 0.0
    ) -> None:
        """Check the options."""
        super().__init__(params, lr, weight_decay, interpolation)

    def direction(self, group: Mapping[str, Any], bucket: Bucket) -> Tensors:
        """Return the gradients."""
        return bucket.grads


@final
class ScheduleFreeAdamW(ScheduleFree):
    """Step along the gradient over the root of its mean square."""

    zeros = ("exp_avg_sq",)

    def __init__(
        self,
        params: Params,
        lr: float = 2.5e-3,
        *,
        interpolation: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        """Check the options."""
        check_shares(beta2=beta2)
        super().__init__(params, lr, weight_decay, interpolation, beta2=beta2, eps=eps)

    def direction(self, group: Mapping[str, Any], bucket: Bucket) -> Tensors:
        """Return the scaled gradients."""
        beta2, square = group["beta2"], bucket.each("exp_avg_sq")
        torch._foreach_mul_(square, beta2)
        torch._foreach_addcmul_(square, bucket.grads, bucket.grads, 1 - beta2)
        root = torch._foreach_div(square, bucket.corrections(beta2))
        torch._foreach_sqrt_(root)
        torch._foreach_add_(root, group["eps"])
        return torch._foreach_div(bucket.grads, root)


@final
class WeightSwitch(Callback):
    """Have the model hold y while it trains, and x at all other times; what listens to single batches sees y."""

    # Starting events come to it first and ending ones last.
    order = -1_000

    def __init__(self, optimizer: ScheduleFree) -> None:
        """Listen for one optimizer."""
        self.optimizer = optimizer

    def phase_start(self, state: TrainState) -> None:
        """Go to y before the first batch."""
        if state.phase == "train":
            self.optimizer.to_gradient()

    def phase_end(self, state: TrainState) -> None:
        """Go to x after the last batch."""
        if state.phase == "train":
            self.optimizer.to_mean()

    def fit_end(self, state: TrainState) -> None:
        """Go to x if training broke off."""
        self.optimizer.to_mean()
