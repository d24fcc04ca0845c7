"""The objective: what the targets' blocks, losses and metrics make of a model's raw output."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graftwork.errors import OptionError, PlanError
from graftwork.loss import Loss
from graftwork.metric import Metric, as_metric
from graftwork.plan import Plan
from graftwork.processes import Processes

__all__ = ["MetricLike", "Objective", "TrainLoss"]

Compare = Callable[[Tensor, Tensor], Tensor]
TrainLoss = Callable[[Compare, Any, Tensor], Tensor]
"""A model's own use of a loss in training: `(loss, raw, target) -> scalar`. It may call `loss` with every item's rows
repeated, item by item, as an ensemble does that shows each member the same items."""
LossLike = Loss | str
MetricLike = Metric | str | Callable[..., Any]


class Objective:
    """Hold loss and metrics by target. A model with several targets returns a sequence of outputs, in their order.

    `loss` is a name, a Loss, or a mapping from target to either; the loss of several targets is their sum. What is left
    out comes from the targets' blocks.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        loss: LossLike | Mapping[str, LossLike] | None = None,
        metrics: MetricLike | Sequence[MetricLike] | Mapping[str, Sequence[MetricLike]] | None = None,
    ) -> None:
        """Resolve names; raise OptionError or UnknownName for what does not fit."""
        if not plan.targets:
            raise PlanError("this data has no target, so there is nothing to learn; give the DataBlock a target block")
        self.blocks = {name: plan.target_block(name) for name in plan.targets}
        self.single = plan.targets[0] if len(plan.targets) == 1 else None
        losses = _by_target(loss, self.blocks, "loss")
        self.losses = {name: _as_loss(losses.get(name, block.loss_id)) for name, block in self.blocks.items()}
        chosen = _by_target(metrics, self.blocks, "metrics")
        self.metrics = {
            name: [as_metric(m) for m in _listed(chosen.get(name, block.metric_ids))]
            for name, block in self.blocks.items()
        }
        self.loss_module = nn.ModuleDict(self.losses)
        self.train_loss: TrainLoss | None = None

    def __call__(self, raw: Any, fields: Mapping[str, Tensor]) -> Tensor:
        """Return the loss, a scalar mean over the batch."""
        if self.single is not None:
            loss: Tensor = self.losses[self.single](raw, fields[self.single])
            return loss
        outputs = zip(self.losses.items(), self._outputs(raw), strict=True)
        return torch.stack([loss(out, fields[name]) for (name, loss), out in outputs]).sum()

    def training(self, raw: Any, fields: Mapping[str, Tensor], weight: Tensor | None = None) -> Tensor:
        """Return the loss of a training step, in which items may have weights (B,): then their weighted mean."""
        if weight is None and self.train_loss is None:
            return self(raw, fields)
        outputs = zip(self.losses.items(), self._outputs(raw), strict=True)
        return torch.stack([self._trained(loss, weight, out, fields[name]) for (name, loss), out in outputs]).sum()

    def _trained(self, loss: Loss, weight: Tensor | None, raw: Any, target: Tensor) -> Tensor:
        compare = loss if weight is None else _Weighted(loss, weight)
        return compare(raw, target) if self.train_loss is None else self.train_loss(compare, raw, target)

    def per_item(self, raw: Any, fields: Mapping[str, Tensor]) -> Tensor:
        """Return one loss per item, (B,)."""
        outputs = zip(self.losses.items(), self._outputs(raw), strict=True)
        return torch.stack([loss.per_item(out, fields[name]) for (name, loss), out in outputs]).sum(0)

    def activate(self, raw: Any) -> dict[str, Tensor]:
        """Return probabilities or values by target."""
        return {n: b.activate(out) for (n, b), out in zip(self.blocks.items(), self._outputs(raw), strict=True)}

    def update(self, raw: Any, fields: Mapping[str, Tensor]) -> None:
        """Let the metrics see a batch."""
        for name, activated in self.activate(raw).items():
            self.measure(name, activated, fields[name])

    def measure(self, name: str, activated: Tensor, target: Tensor) -> None:
        """Let one target's metrics see what was predicted, as `activate` gives it, beside what is so."""
        block = self.blocks[name]
        predicted, actual = block.measured(activated), block.measured(target)
        for metric in self.metrics[name]:
            metric.update(predicted, actual)

    def reset(self, device: torch.device) -> None:
        """Empty the metrics and move them to `device`."""
        for metric in self._all():
            metric.reset()
            metric.to(device)

    def merge(self, processes: Processes) -> None:
        """Let every metric have seen what all processes showed theirs."""
        if processes.world == 1:
            return
        for metric in self._all():
            states = processes.exchange(metric.state_dict())
            metric.reset()
            for state in states:
                other = copy.deepcopy(metric)
                other.reset()
                other.load_state_dict(state)
                metric.merge(other)

    def compute(self) -> dict[str, float]:
        """Read the metrics; with several targets their names start with the target's."""
        return {self._name(target, m): float(m.compute()) for target, ms in self.metrics.items() for m in ms}

    @property
    def higher_is_better(self) -> dict[str, bool]:
        """Say of each metric which way is up."""
        return {self._name(target, m): m.higher_is_better for target, ms in self.metrics.items() for m in ms}

    def _all(self) -> list[Metric]:
        return [metric for metrics in self.metrics.values() for metric in metrics]

    def _name(self, target: str, metric: Metric) -> str:
        return metric.name if self.single is not None else f"{target}_{metric.name}"

    def _outputs(self, raw: Any) -> Sequence[Tensor]:
        if self.single is not None:
            return (raw,)
        if isinstance(raw, Tensor) or len(raw) != len(self.blocks):
            raise PlanError(f"the model must return one output for each of the targets {tuple(self.blocks)}")
        return list(raw)


class _Weighted:
    """Compare as a loss does, with a weight an item (B,); rows may repeat each item the same number of times."""

    def __init__(self, loss: Loss, weight: Tensor) -> None:
        self.loss, self.weight = loss, weight

    def __call__(self, raw: Tensor, target: Tensor) -> Tensor:
        losses = self.loss.per_item(raw, target)
        weight = self.weight.repeat_interleave(len(losses) // len(self.weight))
        # A batch of items that do not count costs nothing.
        return (losses * weight).sum() / weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)


def _by_target(given: Any, blocks: Mapping[str, Any], what: str) -> dict[str, Any]:
    if given is None:
        return {}
    if isinstance(given, Mapping):
        for name in given:
            if name not in blocks:
                raise OptionError(f"{what} names the target {name!r}, but the targets are {tuple(blocks)}")
        return dict(given)
    if len(blocks) > 1:
        raise OptionError(f"with several targets {tuple(blocks)}, give {what} as a mapping from target")
    return dict.fromkeys(blocks, given)


def _listed(given: Any) -> Sequence[MetricLike]:
    return given if isinstance(given, Sequence) and not isinstance(given, str) else [given]


def _as_loss(given: LossLike) -> Loss:
    if isinstance(given, str):
        from graftwork.plugins import get_host

        loss: Loss = get_host().losses.get(given)()
        return loss
    if not isinstance(given, Loss):
        raise OptionError(f"loss={given!r} is neither a name nor a graftwork Loss; wrap a function by subclassing Loss")
    return given
