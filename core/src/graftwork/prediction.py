"""What a model says: about a whole split (Predictions), about one thing (Prediction)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from graftwork.errors import PlanError

__all__ = ["Prediction", "Predictions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """Hold what a model says about the items of a loader, on the CPU, in the order of `index`.

    `by_target` and `targets_by_name` hold one tensor per target: (N, classes) probabilities or (N,), (N, n) values;
    and encoded targets, which are absent where the loader has none. `losses` is (N,).
    """

    by_target: Mapping[str, Tensor]
    targets_by_name: Mapping[str, Tensor]
    index: Tensor
    losses: Tensor | None = None

    @property
    def activated(self) -> Tensor:
        """The probabilities or values of the only target."""
        if len(self.by_target) != 1:
            raise PlanError(f"there are several targets {tuple(self.by_target)}; take one from by_target")
        return next(iter(self.by_target.values()))

    @property
    def targets(self) -> Tensor | None:
        """The encoded values of the only target, or None."""
        if len(self.by_target) != 1:
            raise PlanError(f"there are several targets {tuple(self.by_target)}; take one from targets_by_name")
        return next(iter(self.targets_by_name.values()), None)

    def __len__(self) -> int:
        """Count the items."""
        return len(self.index)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Hold what a model says about one thing: the value in the target's own terms, and named probabilities.

    With several targets, `value`, `probabilities` and `raw` are mappings from target.
    """

    value: Any
    probabilities: Mapping[str, Any] | None
    raw: Any
