"""What metrics are made of: the interface, a running mean, and torchmetrics behind the same interface."""

from __future__ import annotations

import itertools
import logging
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Self, final

import torch
from torch import Tensor

from graftwork.errors import DataError, OptionError

if TYPE_CHECKING:
    import torchmetrics

__all__ = ["MeanMetric", "Metric", "MetricFactory", "TorchMetric", "metric_factory"]

P = ParamSpec("P")
LOG = logging.getLogger(__name__)


class Metric(ABC):
    """Accumulate a figure over batches.

    `predicted` is what the target block's `activate` returns: probabilities (B, C, …), or values (B,) or (B, n).
    `target` is encoded: class codes (B, …) int64, multi-hot floats (B, C), or values.
    """

    name: str
    higher_is_better: bool

    @abstractmethod
    def update(self, predicted: Tensor, target: Tensor) -> None:
        """Take in a batch, without waiting for the device."""

    @abstractmethod
    def merge(self, other: Self) -> None:
        """Take in what another metric of the same kind has seen."""

    @abstractmethod
    def compute(self) -> float:
        """Return the figure; raise DataError if nothing was seen, return NaN where it is not defined."""

    @abstractmethod
    def reset(self) -> None:
        """Forget everything seen."""

    @abstractmethod
    def to(self, device: torch.device | str) -> None:
        """Move what was accumulated."""

    def state_dict(self) -> dict[str, Any]:
        """Return what was accumulated, for another process to merge: JSON values and tensors."""
        raise OptionError(
            f"metric {self.name!r} cannot be merged over processes: {type(self).__name__} has no state_dict() and "
            "load_state_dict(state); add them, or leave the metric out"
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - goes with state_dict, which refuses
        """Take what `state_dict` of another metric of the same kind gave."""


@final
class MetricFactory(Generic[P]):
    """Make metrics: what `accuracy` is, so that `metrics=[accuracy]` and `metrics=[accuracy()]` mean the same."""

    def __init__(self, build: Callable[P, Metric]) -> None:
        self._build = build
        update_wrapper(self, build)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Metric:
        """Return a new metric with nothing seen."""
        return self._build(*args, **kwargs)

    def __reduce__(self) -> str:
        """Be found again by name in another process."""
        return self._build.__qualname__

    def __repr__(self) -> str:
        """Show the name."""
        return f"<metric {self._build.__qualname__}>"


def metric_factory(build: Callable[P, Metric]) -> MetricFactory[P]:
    """Mark a function as one that makes a metric, and is no metric itself."""
    return MetricFactory(build)


class MeanMetric(Metric):
    """Average what `function(predicted, target)` gives for each batch; `finish` is applied to the mean at the end.

    The function returns one value an item (or pixel, or label), each of which counts the same, or one number, the mean
    of the batch, which is weighted by the batch size.
    """

    def __init__(
        self,
        function: Callable[[Tensor, Tensor], Tensor | float],
        *,
        name: str,
        higher_is_better: bool = True,
        finish: Callable[[float], float] | None = None,
    ) -> None:
        self.name, self.higher_is_better = name, higher_is_better
        self._function, self._finish = function, finish
        self._total: Tensor | None = None
        self._count = 0

    def update(self, predicted: Tensor, target: Tensor) -> None:
        """Add up a batch."""
        values = self._function(predicted.detach(), target)
        if not isinstance(values, Tensor):
            values = torch.tensor(float(values), device=predicted.device)
        total, count = values.sum(), values.numel()
        if count == 1:
            count = len(target)
            total = total * count
        # Not in place: the running total may have been made in inference mode and be added to outside of it.
        self._total = _wide(total) if self._total is None else self._total + total
        self._count += count

    def merge(self, other: Self) -> None:
        """Add the other's total."""
        if other._total is not None:
            total = other._total
            self._total = total if self._total is None else self._total + total.to(self._total.device)
            self._count += other._count

    def compute(self) -> float:
        """Return the mean of all values."""
        if self._total is None or self._count == 0:
            raise _nothing_seen(self.name)
        mean = float(self._total) / self._count
        return mean if self._finish is None else self._finish(mean)

    def reset(self) -> None:
        """Set the total to nothing."""
        self._total, self._count = None, 0

    def to(self, device: torch.device | str) -> None:
        """Move the total."""
        if self._total is not None:
            self._total = self._total.to(device)

    def state_dict(self) -> dict[str, Any]:
        """Return total and count."""
        return {"count": self._count} | ({} if self._total is None else {"total": self._total})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take total and count."""
        self._total, self._count = state.get("total"), state["count"]


def _wide(total: Tensor) -> Tensor:
    """Return a total with room for many more: sums of float32 lose the small ones; MPS has no float64."""
    return total.double() if total.is_floating_point() and total.device.type != "mps" else total


def _nothing_seen(name: str) -> DataError:
    """Return the error for a metric computed too early."""
    return DataError(f"metric {name!r} has seen no batch; call update(predicted, target) before compute()")


class TorchMetric(Metric):
    """Put a torchmetrics metric behind the interface; `build(num_outputs)` makes it when the first batch is seen.

    `num_outputs` is the number of classes or columns of `predicted`, 1 for (B,); it must stay the same until `reset`.
    `prepare` makes of a batch what the metric's own `update` takes; `read` returns the figure and a remark, or "".
    """

    def __init__(
        self,
        build: Callable[[int], torchmetrics.Metric],
        *,
        name: str,
        higher_is_better: bool = True,
        prepare: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
        read: Callable[[torchmetrics.Metric], tuple[float, str]] | None = None,
    ) -> None:
        self.name, self.higher_is_better = name, higher_is_better
        self._build, self._prepare, self._read = build, prepare, read
        self._inner: torchmetrics.Metric | None = None
        self._num_outputs = 0
        self._told = False

    def update(self, predicted: Tensor, target: Tensor) -> None:
        """Hand a batch on; raise DataError if the number of outputs changed."""
        num_outputs = predicted.shape[1] if predicted.ndim > 1 else 1
        if self._inner is None:
            self._inner, self._num_outputs = self._build(num_outputs).to(predicted.device), num_outputs
        elif num_outputs != self._num_outputs:
            raise self._other_outputs(num_outputs)
        predicted = predicted.detach()
        self._inner.update(*((predicted, target) if self._prepare is None else self._prepare(predicted, target)))

    def merge(self, other: Self) -> None:
        """Merge the states; raise DataError if the other has seen another number of outputs."""
        if other._inner is None:
            return
        if self._inner is None:
            self._inner, self._num_outputs = deepcopy(other._inner), other._num_outputs
            return
        if other._num_outputs != self._num_outputs:
            raise self._other_outputs(other._num_outputs)
        self._inner.merge_state(deepcopy(other._inner).to(self._inner.device))

    def compute(self) -> float:
        """Return the figure; what is remarkable about it is logged once."""
        if self._inner is None:
            raise _nothing_seen(self.name)
        with warnings.catch_warnings():
            # What torchmetrics warns of has a remark of ours; a warning may not end a training.
            warnings.simplefilter("ignore")
            value, remark = (float(self._inner.compute()), "") if self._read is None else self._read(self._inner)
        if (remark or math.isnan(value)) and not self._told:
            self._told = True
            LOG.warning("metric %r: %s", self.name, remark or "it is not defined for what it has seen")
        return value

    def reset(self) -> None:
        """Forget the state and the number of outputs."""
        self._inner = None

    def to(self, device: torch.device | str) -> None:
        """Move the state."""
        if self._inner is not None:
            self._inner = self._inner.to(device)

    def state_dict(self) -> dict[str, Any]:
        """Return the state, of lists the elements by number."""
        if self._inner is None:
            return {"num_outputs": 0}
        told: dict[str, Any] = {"num_outputs": self._num_outputs, "updates": self._inner.update_count, "lists": []}
        for name, value in self._inner.metric_state.items():
            if isinstance(value, Tensor):
                told[name] = value
                continue
            told["lists"].append(name)
            told |= {f"{name}/{number}": element for number, element in enumerate(value)}
        return told

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take a state."""
        self._num_outputs = state["num_outputs"]
        if not self._num_outputs:
            self._inner = None
            return
        self._inner = self._build(self._num_outputs)
        for name in self._inner.metric_state:
            numbered = (state.get(f"{name}/{number}") for number in itertools.count())
            elements = list(itertools.takewhile(lambda element: element is not None, numbered))
            setattr(self._inner, name, elements if name in state["lists"] else state[name])
        self._inner._update_count = state["updates"]  # noqa: SLF001 - means are weighted by it, and it has no setter

    def _other_outputs(self, num_outputs: int) -> DataError:
        return DataError(
            f"metric {self.name!r} has seen predictions of {self._num_outputs} output(s) and now of {num_outputs}; "
            "call reset() between two models"
        )
