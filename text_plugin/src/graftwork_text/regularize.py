"""What is added to a language model's loss to keep its features small and smooth: AR and TAR."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, final

from torch import Tensor

from graftwork.api import OptionError

__all__ = ["ActivationPenalty", "Trained"]


class Trained(NamedTuple):
    """Return what a language model gives in training: logits, and their features before and after dropout."""

    logits: Tensor
    features: Tensor
    dropped: Tensor


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationPenalty:
    """Add `alpha` times the mean square of the dropped features, `beta` times that of their change from the last.

    S. Merity et al., "Revisiting Activation Regularization for Language RNNs" (arXiv 1708.01009); as fastai does it,
    the change is that of the features before dropout.
    """

    alpha: float = 2.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        """Refuse negative weights."""
        if self.alpha < 0 or self.beta < 0:
            raise OptionError(f"alpha={self.alpha} and beta={self.beta} must not be negative; 0 leaves one out")

    def __call__(self, compare: Callable[[Tensor, Tensor], Tensor], raw: Any, target: Tensor) -> Tensor:
        """Return the loss with its penalties; in evaluation a model gives bare logits, and there are none."""
        if not isinstance(raw, Trained):
            return compare(raw, target)
        loss = compare(raw.logits, target)
        return loss + self.of(raw.features, raw.dropped) if self else loss

    def __bool__(self) -> bool:
        """Say whether there is anything to add."""
        return bool(self.alpha or self.beta)

    def of(self, features_BLC: Tensor, dropped_BLC: Tensor) -> Tensor:
        """Return the penalty of features before and after dropout."""
        cost = self.alpha * dropped_BLC.float().square().mean()
        if self.beta and features_BLC.size(1) > 1:
            cost = cost + self.beta * features_BLC.float().diff(dim=1).square().mean()
        return cost
