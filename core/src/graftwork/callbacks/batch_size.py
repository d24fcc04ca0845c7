"""The batch-size finder: how many items at once a model can learn from here, and how many are fastest."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from time import perf_counter
from typing import TYPE_CHECKING

import torch

from graftwork.batch import Batch
from graftwork.dataloader import ColumnLoader, Loader
from graftwork.errors import OptionError
from graftwork.events import EventTable, TrainState
from graftwork.loop import Feed, Loop
from graftwork.runtime import seeded
from graftwork.seeds import derive_seed

if TYPE_CHECKING:
    from graftwork.learner import Learner

__all__ = ["BatchSizes", "find_batch_size"]

NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSizes:
    """Hold the sizes that fitted, the items learned from in a second with each, and why no larger one was tried."""

    sizes: list[int]
    items_per_second: list[float]
    ended: str

    @property
    def largest(self) -> int:
        """The largest size that fitted."""
        return self.sizes[-1]

    @property
    def fastest(self) -> int:
        """The size with the most items in a second."""
        return self.sizes[max(range(len(self.sizes)), key=self.items_per_second.__getitem__)]


def find_batch_size(learner: Learner, *, start: int = 8, most: int | None = None, steps: int = 3) -> BatchSizes:
    """Double the batch size until memory is full, taking `steps` real steps with each on a copy of the model.

    It leaves no trace, and ends at `most` items or a whole epoch in one batch. Each size is timed without its first
    step, with one wait for the device, loading included. On the CPU the system may end a program that asks for too
    much memory before it can be told: give `most` there. Other memory use (a longer fit, other processes) needs
    room too: take a smaller size than `largest`.

    Raises:
        OptionError: impossible bounds, or not even `start` items fit.
    """
    if start < 1 or steps < 2 or (most is not None and most < start):
        raise OptionError(f"start={start} must be at least 1, most={most} no less, and steps={steps} at least 2")
    end = min(learner.data.train.num_items, most or learner.data.train.num_items)
    sizes: list[int] = []
    rates: list[float] = []
    for bs in (start * 2**i for i in count()):
        if bs > end:
            return _found(learner, sizes, rates, f"{bs} would be more than {end}", start)
        seconds = _seconds(learner, bs, steps)
        if seconds is None:
            return _found(learner, sizes, rates, f"{bs} do not fit into memory", start)
        sizes.append(bs)
        rates.append(bs * (steps - 1) / seconds)
    raise AssertionError("unreachable")


def _found(learner: Learner, sizes: list[int], rates: list[float], ended: str, start: int) -> BatchSizes:
    if not sizes:
        raise OptionError(f"start={start}: {ended} on {learner.session.device}; start with fewer")
    return BatchSizes(sizes=sizes, items_per_second=rates, ended=ended)


def _seconds(learner: Learner, bs: int, steps: int) -> float | None:
    """Return how long all steps but the first take, or None if there is no memory for them."""
    try:
        return _timed(learner, bs, steps)
    except (RuntimeError, MemoryError) as error:
        # torch has a class of its own only for accelerators.
        full = isinstance(error, MemoryError) or any(words in str(error).lower() for words in NO_MEMORY)
        if not full:
            raise
    # Outside of the except block, which would hold on to the tensors of the frames that failed.
    gc.collect()
    if learner.session.device.type == "cuda":
        torch.cuda.empty_cache()
    return None


def _timed(learner: Learner, bs: int, steps: int) -> float:
    parts = copy.deepcopy(learner.parts)
    session = learner.runtime.start(parts.module, products=parts.products)
    optimizer = learner.make_optimizer(learner.lr, parts=parts)
    state = TrainState(model=parts.module, optimizer=optimizer, num_epochs=1, num_batches=steps)
    feed = Feed(parts.module, session, learner.data.plan, seed=learner.seed)
    loop = Loop(feed, learner.objective, optimizer, EventTable.compile(()), state, _keep)
    batches = islice(_forever(_resized(learner.data.train, bs)), steps)
    with seeded(derive_seed(learner.seed, "batch_size"), session.device):
        loop.train(islice(batches, 1), 0)
        _wait(session.device)
        began = perf_counter()
        loop.train(batches, 0)
        _wait(session.device)
    return max(perf_counter() - began, 1e-9)


def _keep(step: int) -> None:
    """Leave rates as they are."""


def _forever(loader: Loader) -> Iterator[Batch]:
    for epoch in count():
        yield from loader.at(epoch)


def _resized(loader: Loader, bs: int) -> Loader:
    """Return the loader with another batch size; the original stays as it is."""
    other = copy.copy(loader)
    other.bs, other.drop_last = bs, loader.num_items >= bs
    if isinstance(other, ColumnLoader):
        other.chunk = max(1, other.chunk // bs) * bs
    return other


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
