"""The training loop: one optimizer step after another, nothing read from the device, every event told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from graftwork.dataloader import Batch, Loader
from graftwork.engine import Engine, EngineRun
from graftwork.errors import DataError
from graftwork.events import EventTable, TrainState
from graftwork.objective import Objective
from graftwork.plan import Plan
from graftwork.prediction import Predictions
from graftwork.runtime import Session
from graftwork.seeds import derive_seed

__all__ = ["Feed", "Loop", "collect", "evaluate"]


class Feed:
    """Bring batches to the device and through the plan's batch steps, and run the model on them."""

    def __init__(self, module: nn.Module, session: Session, plan: Plan, *, seed: int) -> None:
        """Hold what every phase needs."""
        self.module, self.session, self.plan, self.seed = module, session, plan, seed
        self.random = any(step.draw for step in plan.batch_steps)
        # Asked in every step, so found out once.
        self.moves = session.device.type != "cpu"
        self.plain = session.precision == "fp32" and not session.shapes

    def ready(self, batch: Batch, epoch: int | None = None, number: int = 0) -> Batch:
        """Return the batch on the device after its batch steps; with an epoch, random steps draw for it."""
        if self.moves:
            batch = self.session.place(batch)
        if self.plan.batch_steps:
            batch.fields = self.plan.encode_batch(batch.fields, self._generator(epoch, number))
        return batch

    def _generator(self, epoch: int | None, number: int) -> torch.Generator | None:
        if epoch is None or not self.random:
            return None
        return torch.Generator(self.session.device).manual_seed(derive_seed(self.seed, "batch", epoch, number))

    def forward(self, batch: Batch) -> Any:
        """Return the model's raw output."""
        inputs = map(batch.fields.__getitem__, batch.inputs)
        if self.plain:
            return self.session.forward(*inputs)
        with self.session.autocast():
            return self.session.forward(*self.session.shape(inputs))


class Loop:
    """Train over batches and validate, telling the events in `table`."""

    def __init__(
        self,
        feed: Feed,
        objective: Objective,
        optimizer: Optimizer,
        table: EventTable,
        state: TrainState,
        set_hyper: Callable[[int], None],
    ) -> None:
        """Hold the parts; `set_hyper(step)` writes learning rates and momenta into the optimizer."""
        self.feed, self.objective, self.optimizer = feed, objective, optimizer
        self.table, self.state, self.set_hyper = table, state, set_hyper
        state.objective, state.scaler, state.flush = objective, feed.session.scaler, self._flush

    def train(
        self, batches: Iterable[Batch], epoch: int, *, start: int = 0, entered: Callable[[], None] | None = None
    ) -> None:
        """Take one optimizer step per batch, until there are no more or somebody says stop.

        Batches are numbered from `start`; `entered` is called when phase_start has been told.
        """
        feed, objective, state, set_hyper = self.feed, self.objective, self.state, self.set_hyper
        on_batch_start, on_loss_end = self.table.batch_start, self.table.loss_end
        on_backward_end, on_batch_end = self.table.backward_end, self.table.batch_end
        ready, forward, backward, update = feed.ready, feed.forward, self._backward, self._update
        feed.module.train()
        state.losses = None
        self._enter("train")
        if entered is not None:
            entered()
        state.batch_index = start - 1
        for state.batch_index, loaded in enumerate(batches, start):
            state.batch = batch = ready(loaded, epoch, loaded.number)
            for handler in on_batch_start:
                handler(state)
            set_hyper(state.step)
            state.output = output = forward(batch)
            state.loss = objective.training(output, batch.fields, batch.weight)
            for handler in on_loss_end:
                handler(state)
            backward(state.loss)
            for handler in on_backward_end:
                handler(state)
            update()
            state.step += 1
            state.position, state.random = loaded.number + 1, None
            for handler in on_batch_end:
                handler(state)
            if state.stopped is not None:
                break
        if state.batch_index < 0:
            raise DataError("not one batch could be loaded: every item of the training split is bad")
        self._leave()

    def train_by(self, engine: Engine, run: EngineRun, epoch: int) -> None:
        """Let an engine train for an epoch."""
        state = self.state
        self.feed.module.train()
        self._enter("train")
        run.epoch, run.first_step = epoch, state.step
        state.losses = engine.train_epoch(run).detach()
        state.step += len(run.loader)
        self.set_hyper(state.step - 1)
        self._leave()

    def _backward(self, loss: Tensor) -> None:
        scaler = self.feed.session.scaler
        (loss if scaler is None else scaler.scale(loss)).backward()

    def _update(self) -> None:
        """Step and clear the gradients, unless a callback said to skip."""
        if self.state.skipping:
            self.state.skipping = False
            return
        scaler = self.feed.session.scaler
        if scaler is None:
            self.optimizer.step()
        else:
            scaler.step(self.optimizer)
            scaler.update()
        self.state.updates += 1
        # What zero_grad() does, without its entry in the profiler: several µs a step.
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def _flush(self) -> None:
        for handler in self.table.backward_end:
            handler(self.state)
        self._update()

    def validate(self, loader: Loader) -> None:
        """Run a loader through the model in eval mode; losses and metrics go into the record."""
        state = self.state
        self._enter("valid")

        def told(batch: Batch, output: Any, loss: Tensor) -> None:
            state.batch, state.output, state.loss = batch, output, loss
            for handler in self.table.loss_end:
                handler(state)
            for handler in self.table.batch_end:
                handler(state)

        state.record.update(evaluate(self.feed, self.objective, loader, told))
        self._leave()

    def _enter(self, phase: Any) -> None:
        self.state.phase = phase
        for handler in self.table.phase_start:
            handler(self.state)

    def _leave(self) -> None:
        for handler in self.table.phase_end:
            handler(self.state)


@torch.no_grad()
def evaluate(
    feed: Feed,
    objective: Objective,
    loader: Loader,
    told: Callable[[Batch, Any, Tensor], None] | None = None,
) -> dict[str, float]:
    """Return valid_loss (weighted by items) and the metrics; the module's mode is as it was afterwards.

    Raises:
        DataError: no batch could be loaded.
    """
    was_training = feed.module.training
    feed.module.eval()
    objective.reset(feed.session.device)
    total, count = torch.zeros((), device=feed.session.device), 0
    for loaded in loader.at(0):
        batch = feed.ready(loaded)
        output = feed.forward(batch)
        loss = objective(output, batch.fields)
        objective.update(output, batch.fields)
        total += loss.detach() * batch.size
        count += batch.size
        if told is not None:
            told(batch, output, loss)
    feed.module.train(was_training)
    if count == 0:
        raise DataError("not one batch could be loaded: every item of the validation split is bad")
    return {"valid_loss": float(total) / count, **objective.compute()}


@torch.inference_mode()
def collect(feed: Feed, objective: Objective, loader: Loader) -> Predictions:
    """Return what the model says about every item of a loader, in the data set's order, in the targets' own units."""
    was_training = feed.module.training
    feed.module.eval()
    parts: list[dict[str, Tensor]] = []
    for loaded in loader.at(0):
        batch = feed.ready(loaded)
        output = feed.forward(batch)
        blocks = objective.blocks
        row = {f"p:{name}": blocks[name].measured(column) for name, column in objective.activate(output).items()}
        row |= {f"t:{n}": blocks[n].measured(batch.fields[n]) for n in batch.targets if n in batch.fields}
        if all(name in batch.fields for name in batch.targets):
            row["loss"] = objective.per_item(output, batch.fields)
        parts.append({name: column.cpu() for name, column in row.items()} | {"index": batch.index})
    feed.module.train(was_training)
    if not parts:
        raise DataError("not one batch could be loaded: every item is bad")
    return _joined(parts)


def _joined(parts: Sequence[dict[str, Tensor]]) -> Predictions:
    order = torch.cat([part["index"] for part in parts]).argsort()
    columns = {name: torch.cat([part[name] for part in parts])[order].clone() for name in parts[0]}
    return Predictions(
        by_target={name[2:]: column for name, column in columns.items() if name.startswith("p:")},
        targets_by_name={name[2:]: column for name, column in columns.items() if name.startswith("t:")},
        index=columns["index"],
        losses=columns.get("loss"),
    )
