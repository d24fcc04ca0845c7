"""The training loop: one optimizer step after another, nothing read from the device, every event told."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from graftwork.batch import Batch
from graftwork.dataloader import Loader
from graftwork.engine import Engine, EngineRun
from graftwork.errors import DataError
from graftwork.events import EventTable, TrainState
from graftwork.model import Carrying
from graftwork.objective import Objective
from graftwork.plan import Plan
from graftwork.prediction import Predictions
from graftwork.processes import Processes
from graftwork.runtime import Session
from graftwork.seeds import derive_seed

__all__ = ["Feed", "Loop", "collect", "each_batch", "evaluate", "share_bad_items"]

AGREE_STEPS = 16
Carried = dict[str, tuple[Tensor, ...]]


class Feed:
    """Bring batches to the device and through the plan's batch steps, and run the model on them."""

    def __init__(self, module: nn.Module, session: Session, plan: Plan, *, seed: int) -> None:
        """Hold what every phase needs."""
        self.module, self.session, self.plan, self.seed = module, session, plan, seed
        self.processes = session.processes
        self.random = any(step.random for step in plan.batch_steps)
        # Asked in every step, so found out once.
        self.moves = session.device.type != "cpu"
        self.plain = session.precision == "fp32" and not session.shapes
        self.carriers = {name: part for name, part in module.named_modules() if isinstance(part, Carrying)}
        # One for training and one for evaluation, so that validating in between disturbs nothing.
        self.carried: dict[bool, Carried] = {True: {}, False: {}}
        self.carried_before: Carried = {}

    def ahead(self, batches: Iterable[Batch]) -> Iterable[Batch]:
        """Return the batches, on cuda each copied there while the one before is worked on."""
        return self._copied(batches) if self.session.device.type == "cuda" else batches

    def _copied(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        copying, waiting = torch.cuda.Stream(self.session.device), deque[tuple[Batch, torch.cuda.Event]]()
        for loaded in batches:
            with torch.cuda.stream(copying):
                waiting.append((self.session.place(loaded), copying.record_event()))
            if len(waiting) > 1:
                yield self._arrived(*waiting.popleft())
        while waiting:
            yield self._arrived(*waiting.popleft())

    def _arrived(self, batch: Batch, copied: torch.cuda.Event) -> Batch:
        """Let the stream that computes wait for a copy, and keep its memory until that stream is done with it."""
        working = torch.cuda.current_stream(self.session.device)
        working.wait_event(copied)
        for column in (*batch.fields.values(), *(() if batch.weight is None else (batch.weight,))):
            column.record_stream(working)
        return batch

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
        place = (epoch, number, self.processes.rank) if self.processes.rank else (epoch, number)
        return torch.Generator(self.session.device).manual_seed(derive_seed(self.seed, "batch", *place))

    def forward(self, batch: Batch) -> Any:
        """Return the model's raw output."""
        if self.carriers:
            return self._carrying(batch)
        return self._forward(batch)

    def _carrying(self, batch: Batch) -> Any:
        """Let the model go on from the batch before, if this one follows it, and keep what it leaves."""
        training = self.module.training
        before = self.carried[training] if batch.follows else {}
        for name, part in self.carriers.items():
            part.hand_over(before.get(name, ()))
        if training:
            self.carried_before = before
        output = self._forward(batch)
        self.carried[training] = {name: part.hand_back() for name, part in self.carriers.items()}
        return output

    def _forward(self, batch: Batch) -> Any:
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
        self.alone = feed.processes.world == 1
        self.agree_steps = AGREE_STEPS
        state.processes = feed.processes
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
        feed.session.enter_training()
        if entered is not None:
            entered()
        state.batch_index = start - 1
        for state.batch_index, loaded in enumerate(feed.ahead(batches), start):
            state.batch = batch = ready(loaded, epoch, loaded.number)
            if not batch.certain:
                self._compare(batch)
            for handler in on_batch_start:
                handler(state)
            set_hyper(state.step)
            state.output = output = forward(batch)
            state.loss = objective.training(output, batch.fields, batch.weight)
            for handler in on_loss_end:
                handler(state)
            backward(state.loss if batch.share == 1.0 else state.loss * batch.share)
            for handler in on_backward_end:
                handler(state)
            update()
            state.step += 1
            state.position, state.random = loaded.number + 1, None
            for handler in on_batch_end:
                handler(state)
            if state.stopped is not None if self.alone else self.stops(every=self.agree_steps):
                break
        feed.session.leave_training()
        if state.batch_index < 0:
            raise DataError("not one batch could be loaded: every item of the training split is bad")
        self._leave()

    def stops(self, *, every: int = 1) -> bool:
        """Say whether somebody has said stop, in whichever process; only each so many steps they ask each other."""
        state = self.state
        if state.step % every:
            return False
        said = bool(state.processes.largest(int(state.stopped is not None)))
        if said and state.stopped is None:
            state.stop("another process said so")
        return said

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

    def _compare(self, batch: Batch) -> None:
        """Find out what a part counts for, from how many items all processes have of this batch."""
        mine = batch.size if batch.share else 0
        there = float(self.feed.processes.total(torch.tensor(float(mine))))
        batch.share = self.feed.processes.part.share(mine, there)

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
    """Return valid_loss, weighted by what batches count, and the metrics; the module's mode is as it was afterwards.

    Raises:
        DataError: no batch could be loaded.
    """
    was_training = feed.module.training
    feed.module.eval()
    objective.reset(feed.session.device)
    total, count = torch.zeros((), device=feed.session.device), 0.0
    for loaded in feed.ahead(loader.at(0, part=feed.processes.part)):
        batch = feed.ready(loaded)
        output = feed.forward(batch)
        if not batch.share:
            continue
        loss = objective(output, batch.fields)
        objective.update(output, batch.fields)
        total += loss.detach() * batch.counts
        count += batch.counts
        if told is not None:
            told(batch, output, loss)
    feed.module.train(was_training)
    everywhere = feed.processes.total(torch.stack([total.double(), torch.tensor(count).to(total.device)]))
    share_bad_items(feed.processes, loader)
    objective.merge(feed.processes)
    if not everywhere[1]:
        raise DataError("not one batch could be loaded: every item of the validation split is bad")
    return {"valid_loss": float(everywhere[0] / everywhere[1]), **objective.compute()}


def share_bad_items(processes: Processes, loader: Loader) -> None:
    """Let every process know of all items that could not be read."""
    if processes.world > 1:
        said = {str(position): reason for position, reason in loader.bad_items.items()}
        for other in processes.exchange(said):
            loader.bad_items.update({int(position): reason for position, reason in other.items()})


def each_batch(feed: Feed, objective: Objective, loader: Loader, epoch: int | None = None) -> Iterator[Predictions]:
    """Give what the model says batch by batch, on the device, in the loader's order and the targets' own units.

    With an epoch, random steps draw for it.
    """
    was_training = feed.module.training
    feed.module.eval()
    try:
        for loaded in feed.ahead(loader.at(epoch or 0, part=feed.processes.part)):
            with torch.inference_mode():
                batch = feed.ready(loaded, epoch, loaded.number)
                output = feed.forward(batch)
                said = _predictions(objective, batch, output) if batch.share else None
            if said is not None:
                yield said
    finally:
        feed.module.train(was_training)


def _predictions(objective: Objective, batch: Batch, output: Any) -> Predictions:
    blocks = objective.blocks
    targets = {n: blocks[n].measured(batch.fields[n]) for n in batch.targets if n in batch.fields}
    return Predictions(
        by_target={n: blocks[n].measured(column) for n, column in objective.activate(output).items()},
        targets_by_name=targets,
        index=batch.index,
        losses=objective.per_item(output, batch.fields) if len(targets) == len(batch.targets) else None,
    )


@torch.inference_mode()
def collect(feed: Feed, objective: Objective, loader: Loader, epoch: int | None = None) -> Predictions:
    """Return what `each_batch` gives for every item of a loader, in the data set's order."""
    parts = [_columns(said) for said in each_batch(feed, objective, loader, epoch)]
    share_bad_items(feed.processes, loader)
    if feed.processes.world > 1:
        mine = {name: torch.cat([part[name] for part in parts]) for name in parts[0]} if parts else {}
        parts = [other for other in feed.processes.exchange(mine) if other]
    if not parts:
        raise DataError("not one batch could be loaded: every item is bad")
    return _joined(parts)


def _columns(said: Predictions) -> dict[str, Tensor]:
    columns = {f"p:{name}": column for name, column in said.by_target.items()}
    columns |= {f"t:{name}": column for name, column in said.targets_by_name.items()}
    columns |= {} if said.losses is None else {"loss": said.losses}
    return {name: column.cpu() for name, column in columns.items()} | {"index": said.index}


def _joined(parts: Sequence[dict[str, Tensor]]) -> Predictions:
    order = torch.cat([part["index"] for part in parts]).argsort()
    columns = {name: torch.cat([part[name] for part in parts])[order].clone() for name in parts[0]}
    return Predictions(
        by_target={name[2:]: column for name, column in columns.items() if name.startswith("p:")},
        targets_by_name={name[2:]: column for name, column in columns.items() if name.startswith("t:")},
        index=columns["index"],
        losses=columns.get("loss"),
    )
