"""Predict new things with a trained model: one at a time without a loader, or many in batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Self

import torch
from torch import Tensor, nn

from graftwork.batch import Batch
from graftwork.block import TargetBlock
from graftwork.dataloader import ItemLoader, Loader, OnBadItem, default_workers
from graftwork.errors import ItemError, OptionError, unknown
from graftwork.loop import Feed, collect, evaluate
from graftwork.loss import Loss
from graftwork.objective import MetricLike, Objective
from graftwork.plan import Plan
from graftwork.prediction import Prediction, Predictions
from graftwork.runtime import Precision, Runtime
from graftwork.transform import brief

__all__ = ["BadItem", "Predictor", "evaluating", "predict_many", "predict_one"]

_FIRST: Final = torch.zeros(1, dtype=torch.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class BadItem:
    """Stand in a list of predictions for an item that could not be read."""

    item: Any
    reason: str


class Predictor:
    """Hold a trained model with all it needs to predict: neither the training data nor the training program.

    `load_learner` makes one from a file. `manifest` is what the file says of itself.
    """

    def __init__(
        self,
        module: nn.Module,
        plan: Plan,
        *,
        manifest: Mapping[str, Any],
        runtime: Runtime,
        losses: Mapping[str, Loss] | None = None,
    ) -> None:
        """Put a model into evaluation mode, on the runtime's device; `losses` by target, else the target's own."""
        self.module, self.plan, self.manifest, self.losses = module.eval(), plan, manifest, dict(losses or {})
        self.feed = Feed(module, runtime.start(module), plan, seed=0)

    def __repr__(self) -> str:
        """Name the model, what goes in and what comes out."""
        model = self.manifest.get("model", {}).get("id", type(self.module).__name__)
        flow = f"{', '.join(self.plan.inputs)} → {', '.join(self.plan.targets)}"
        return f"Predictor({model}: {flow}; {self.feed.session.describe()})"

    def to(self, device: str = "cpu", *, precision: Precision = "fp32") -> Self:
        """Move the model, in place; raise OptionError for a device that is not there."""
        session = Runtime(device=device, precision=precision, strategy="alone").start(self.module)
        self.feed = Feed(self.module, session, self.plan, seed=0)
        return self

    def predict(self, x: Any) -> Prediction:
        """Return what the model says about one thing: an input's raw value, or a mapping of several inputs' values.

        Raises ItemError, naming field and step, for what cannot be read.
        """
        return predict_one(self.feed, x)

    def predict_batch(
        self,
        items: Sequence[Any],
        *,
        bs: int = 64,
        workers: int | None = None,
        on_bad_item: OnBadItem = "skip",
    ) -> list[Prediction | BadItem]:
        """Return one prediction per item, in order; a BadItem stands where one could not be read.

        With `on_bad_item="error"` the first of those raises ItemError.
        """
        return predict_many(self.feed, items, bs=bs, workers=workers, on_bad_item=on_bad_item)

    def get_preds(self, loader: Loader) -> Predictions:
        """Return predictions for every item of a loader, in the order of its items."""
        return collect(self.feed, self._objective(None), loader)

    def validate(self, loader: Loader, *, metrics: Sequence[MetricLike] | None = None) -> dict[str, float]:
        """Return valid_loss and metrics on a loader with targets; the metrics default to the target's own."""
        return evaluate(self.feed, self._objective(metrics), loader)

    def _objective(self, metrics: Sequence[MetricLike] | None) -> Objective:
        objective = Objective(self.plan, loss=self.losses, metrics=metrics)
        objective.loss_module.to(self.feed.session.device)
        return objective


def predict_one(feed: Feed, x: Any) -> Prediction:
    """Return what a model says about one thing, without a loader; the module's mode is left as it was."""
    plan = feed.plan
    block = answering(plan)
    if block is not None:
        with evaluating(feed.module):
            return block.answer(feed, input_values(plan, x))
    sample = plan.encode(input_values(plan, x) | plan.probes)
    batch = Batch(plan.collate([sample]), plan.inputs, (), _FIRST)
    with evaluating(feed.module), torch.inference_mode():
        batch = feed.ready(batch)
        raw = feed.forward(batch)
    return _read(plan, raw, batch)[0]


def predict_many(
    feed: Feed, items: Sequence[Any], *, bs: int = 64, workers: int | None = None, on_bad_item: OnBadItem = "skip"
) -> list[Prediction | BadItem]:
    """Return what a model says about each item, in order; see `Predictor.predict_batch`."""
    if len(items) == 0:
        return []
    if answering(feed.plan) is not None:
        return [_alone(feed, item, on_bad_item) for item in items]
    workers = default_workers() if workers is None else workers
    loader = ItemLoader(_Given(items, feed.plan), bs=bs, workers=workers, on_bad_item=on_bad_item)
    found: dict[int, Prediction] = {}
    with evaluating(feed.module):
        for batch in loader:
            with torch.inference_mode():
                batch = feed.ready(batch)
                raw = feed.forward(batch)
            found.update(zip(batch.index.tolist(), _read(feed.plan, raw, batch), strict=True))
    bad = {i: BadItem(item=items[i], reason=reason) for i, reason in loader.bad_items.items()}
    return [found[i] if i in found else bad[i] for i in range(len(items))]


def answering(plan: Plan) -> TargetBlock | None:
    """Return the only target's block if it makes single predictions itself, of the only input."""
    block = plan.target if len(plan.targets) == len(plan.inputs) == 1 else None
    return block if block is not None and block.answers else None


def _alone(feed: Feed, item: Any, on_bad_item: OnBadItem) -> Prediction | BadItem:
    try:
        return predict_one(feed, item)
    except ItemError as error:
        if on_bad_item == "error":
            raise
        return BadItem(item=item, reason=str(error))


@dataclass(frozen=True, slots=True)
class _Given:
    """Be a loader's source: things to predict."""

    items: Sequence[Any]
    plan: Plan

    def __len__(self) -> int:
        return len(self.items)

    def raw(self, position: int) -> dict[str, Any]:
        return input_values(self.plan, self.items[position]) | self.plan.probes

    def item(self, position: int) -> Any:
        return self.items[position]


def input_values(plan: Plan, x: Any) -> dict[str, Any]:
    """Return the inputs' raw values by field; raise OptionError unless `x` gives exactly those.

    A plan with one input takes its bare value; with several, a mapping from field. Optional inputs may be left out.
    """
    optional = {name: None for name in plan.inputs if plan.fields[name].raw.optional}
    needed = [name for name in plan.inputs if name not in optional]
    named = isinstance(x, Mapping) and set(needed) <= set(x) <= set(plan.inputs)
    if len(needed) == 1 and not named:
        return {needed[0]: x, **optional}
    if not isinstance(x, Mapping):
        raise OptionError(
            f"the model has the inputs {plan.inputs}, and {brief(x)} is one value; "
            f"pass a mapping: {{{', '.join(f'{name!r}: …' for name in plan.inputs)}}}"
        )
    for name in x:
        if name not in plan.inputs:
            raise unknown("input", str(name), plan.inputs)
    missing = [name for name in needed if name not in x]
    if missing:
        raise OptionError(f"the input {missing[0]!r} is missing; the model has the inputs {plan.inputs}")
    return optional | dict(x)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode for a while; afterwards each part is in the mode it was."""
    training = [part for part in module.modules() if part.training]
    if training:
        module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _read(plan: Plan, output: Any, batch: Batch) -> list[Prediction]:
    """Turn raw output into predictions, one per row."""
    outputs = [output] if len(plan.targets) == 1 else list(output)
    probes = {name: batch.fields[name].cpu().clone() for name in plan.targets if name in batch.fields}
    columns = {n: _column(plan, n, raw, probes.get(n)) for n, raw in zip(plan.targets, outputs, strict=True)}
    if len(columns) == 1:
        return [Prediction(value=v, probabilities=p, raw=r) for v, p, r in next(iter(columns.values()))]
    rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    return [
        Prediction(
            value={name: value for name, (value, _, _) in row.items()},
            probabilities={name: probabilities for name, (_, probabilities, _) in row.items()},
            raw={name: raw for name, (_, _, raw) in row.items()},
        )
        for row in rows
    ]


def _column(
    plan: Plan, name: str, raw: Tensor, probe: Tensor | None
) -> list[tuple[Any, dict[str, float] | None, Tensor]]:
    """Return (value, probabilities, raw) of one target for every row."""
    block = plan.target_block(name)
    raw = raw.float().cpu().clone()  # out of inference mode, so that a caller may compute with it as with any tensor
    activated = block.activate(raw)
    values, reached = plan.decode_batch(name, block.predict(activated))
    if probe is not None:
        values = [
            reached.locate(value, at) for value, at in zip(values, plan.decode_batch(name, probe)[0], strict=True)
        ]
    return [(value, block.probabilities(row), r) for value, row, r in zip(values, activated, raw, strict=True)]
