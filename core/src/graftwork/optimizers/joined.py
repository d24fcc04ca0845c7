"""Optimizers made of optimizers: their groups and their state are one, so that they are saved and scheduled as one."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.optim import Optimizer

from graftwork.errors import OptionError

__all__ = ["Joined", "Lookahead"]


class Joined(Optimizer, ABC):
    """Share groups and state with the optimizers it is made of."""

    parts: tuple[Optimizer, ...] = ()

    def __init__(self, parts: Sequence[Optimizer], defaults: dict[str, Any]) -> None:
        """Take over the groups of the parts; no part may have been stepped yet."""
        super().__init__([group for part in parts for group in part.param_groups], defaults)
        self.parts = tuple(parts)
        self.share_state()

    def share_state(self) -> None:
        """Give the parts the groups and the state that are here."""
        first = 0
        for part in self.parts:
            last = first + len(part.param_groups)
            part.state, part.param_groups = self.state, self.param_groups[first:last]
            first = last
            if isinstance(part, Joined):
                part.share_state()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refuse a group that comes later: which part is to step it?"""
        if self.parts:
            raise OptionError(f"{type(self).__name__} takes no more groups; make a new one over all parameters")
        super().add_param_group(param_group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put state and groups back, in the parts too."""
        super().load_state_dict(state_dict)
        self.share_state()

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Step every part."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss


@final
class Lookahead(Joined):
    """Let slow weights follow: every `sync_period` steps they go `slow_step` of the way, and the fast ones begin there.

    M. R. Zhang et al., arXiv 1907.08610. Between two such steps the model has its fast weights, in validation too.
    """

    def __init__(self, fast: Optimizer, *, sync_period: int = 6, slow_step: float = 0.5) -> None:
        """Wrap an optimizer that has not been stepped yet."""
        if sync_period < 1 or not 0 < slow_step <= 1:
            raise OptionError(f"sync_period={sync_period} must be 1 or more, slow_step={slow_step} above 0, at most 1")
        super().__init__([fast], {"sync_period": sync_period, "slow_step": slow_step, "fast_steps": 0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Take a fast step, and a slow one if it is time."""
        # Kept aside until the fast step is done: an optimizer knows a new parameter by its empty state.
        new = [(p, p.clone()) for group in self.param_groups for p in group["params"] if self._is_new(p)]
        loss = super().step(closure)
        for parameter, slow in new:
            self.state[parameter]["slow"] = slow
        for group in self.param_groups:
            group["fast_steps"] += 1
            if group["fast_steps"] % group["sync_period"] == 0:
                self._follow(group)
        return loss

    def _is_new(self, parameter: Tensor) -> bool:
        return parameter.grad is not None and "slow" not in self.state.get(parameter, ())

    def _follow(self, group: dict[str, Any]) -> None:
        fast = [p for p in group["params"] if "slow" in self.state.get(p, ())]
        if fast:
            slow = [self.state[p]["slow"] for p in fast]
            torch._foreach_lerp_(slow, fast, group["slow_step"])
            torch._foreach_copy_(fast, slow)
