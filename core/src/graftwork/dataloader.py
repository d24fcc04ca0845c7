"""Loaders: an order that is a pure function of (seed, epoch), and batches from items or from columns.

`ItemLoader` runs the plan's item steps on one sample at a time, in threads or worker processes. `ColumnLoader` holds a
whole split as tensors, and a batch is a slice of one index operation over many batches. Both yield batches as they are
before the batch transforms, which run on the device.
"""

from __future__ import annotations

import itertools
import os
import sys
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_all_start_methods
from multiprocessing.reduction import ForkingPickler
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from graftwork.batch import WHOLE, Batch, Part
from graftwork.errors import DataError, ItemError, OptionError
from graftwork.plan import Plan
from graftwork.seeds import derive_rng, derive_seed

__all__ = ["ColumnLoader", "ItemLoader", "ItemSource", "Loader", "OnBadItem", "WorkerType", "default_workers"]

OnBadItem = Literal["skip", "error"]
WorkerType = Literal["thread", "process", "fork"]
WORKER_TYPES = ("thread", "process", "fork")

CHUNK_BYTES = 32 * 2**20
PREFETCH = 2


def default_workers() -> int:
    """Return one thread per usable core, at most four; measured on two cores in docs/performance.md."""
    return min(4, len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1)


class Loader(ABC):
    """Give batches of one split. `at(epoch, batch)` starts anywhere without reading what lies before."""

    def __init__(self, num_items: int, *, bs: int, shuffle: bool, seed: int, training: bool, drop_last: bool) -> None:
        """Set what every loader has; `training` turns random item transforms on."""
        if bs < 1:
            raise OptionError(f"bs={bs}: a batch holds at least one item")
        if num_items < 1:
            raise DataError("there is nothing to load: the data set is empty")
        self.num_items, self.bs, self.shuffle, self.seed = num_items, bs, shuffle, seed
        self.training, self.drop_last = training, drop_last
        self.sampling: Tensor | None = None
        self.bad_items: dict[int, str] = {}

    @property
    @abstractmethod
    def plan(self) -> Plan:
        """The plan whose batch steps come next."""

    @abstractmethod
    def at(self, epoch: int, batch: int = 0, part: Part = WHOLE) -> Iterator[Batch]:
        """Iterate the batches of an epoch, from number `batch` on, or this process's part of each.

        Every process gets the same number of batches: where there is nothing for it, a stand-in whose share is 0.
        """

    @abstractmethod
    def item(self, position: int) -> Any:
        """Return the source's item at a position that a batch's index names."""

    def serve(self, device: torch.device) -> None:  # noqa: B027 - most loaders have nothing to prepare
        """Prepare for a model on `device`; by default there is nothing to prepare."""

    @abstractmethod
    def in_order(self) -> Loader:
        """Return a loader of the same items in their own order, nothing random, nothing left out."""

    def __iter__(self) -> Iterator[Batch]:
        """Iterate epoch 0."""
        return self.at(0)

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return len(range(0, self._used(), self.bs))

    def _used(self) -> int:
        """Count the items of an epoch: in training a lone last item is left out, since batch norm cannot use it."""
        rest = self.num_items % self.bs
        if self.num_items > self.bs and rest and (self.drop_last or (self.training and rest == 1)):
            return self.num_items - rest
        return self.num_items

    def order(self, epoch: int) -> Tensor:
        """Return the positions of an epoch, int64: a pure function of (seed, epoch).

        With `sampling`, a number an item, an epoch draws as many items as there are, with replacement, each with a
        probability in proportion to its number.
        """
        if not self.shuffle:
            return torch.arange(self._used())
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
        if self.sampling is not None:
            return _draw(self.sampling, self._used(), generator)
        return torch.randperm(self.num_items, generator=generator)[: self._used()]


def _draw(shares: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw positions with replacement; by the cumulated shares, since torch.multinomial stops at 2**24 of them."""
    ends = shares.double().cumsum(0)
    return torch.searchsorted(ends, torch.rand(count, generator=generator, dtype=torch.float64) * ends[-1], right=True)


def _checked(numbers: Tensor | None, num_items: int, what: str) -> Tensor | None:
    """Refuse weights that are not one number of at least 0 an item."""
    if numbers is None:
        return None
    numbers = numbers.float()
    if numbers.shape != (num_items,) or not bool(torch.isfinite(numbers).all()) or float(numbers.min()) < 0:
        raise DataError(f"{what} must be one finite number of at least 0 an item, {num_items} of them")
    if float(numbers.max()) == 0:
        raise DataError(f"{what} are all 0, so that no item counts")
    return numbers


class ItemSource(Protocol):
    """Give raw samples by position."""

    @property
    def plan(self) -> Plan:
        """The plan whose item steps make samples of raw values."""
        ...

    def __len__(self) -> int:
        """Count the items."""
        ...

    def raw(self, position: int) -> dict[str, Any]:
        """Return a sample's raw values by field."""
        ...

    def item(self, position: int) -> Any:
        """Return the source's item."""
        ...


@dataclass(slots=True)
class _Loaded:
    """Carry a batch, or None, from a worker, with what went wrong on the way."""

    batch: Batch | None
    bad: dict[int, str]
    error: str | None = None


class ItemLoader(Loader):
    """Load items one by one in `workers` threads or processes, `prefetch` batches ahead.

    Threads are right where the work releases the GIL, as decoding pictures does; processes where it does not. They stay
    for all epochs. "process" spawns them, which takes seconds. "fork" copies this process at once, lambdas and all;
    but a lock that another thread holds at that moment stays locked in the copy, so that a worker may wait for ever:
    not after CUDA or numba's threads have been used, and not on macOS. Batches are the same whoever loads them. With
    `on_bad_item="skip"` items that cannot be read are left out and listed in `bad_items`; with "error" the first one
    raises ItemError. `augment` turns random item transforms on, by default in training.
    """

    def __init__(
        self,
        source: ItemSource,
        *,
        bs: int = 64,
        shuffle: bool = False,
        seed: int = 42,
        training: bool = False,
        augment: bool | None = None,
        drop_last: bool = False,
        workers: int = 2,
        worker_type: WorkerType = "thread",
        on_bad_item: OnBadItem = "skip",
        pin: bool = False,
    ) -> None:
        """Check the options; nothing is read yet."""
        super().__init__(len(source), bs=bs, shuffle=shuffle, seed=seed, training=training, drop_last=drop_last)
        if workers < 0:
            raise OptionError(f"workers={workers}: use 0 for none, or a number of {worker_type}s")
        if worker_type not in WORKER_TYPES:
            raise OptionError(f"worker_type={worker_type!r} is neither 'thread' nor 'process' nor 'fork'")
        if worker_type == "fork" and "fork" not in get_all_start_methods():
            raise OptionError("worker_type='fork': this system cannot fork; use 'thread' or 'process'")
        if on_bad_item not in ("skip", "error"):
            raise OptionError(f"on_bad_item={on_bad_item!r} is neither 'skip' nor 'error'")
        self.source, self.workers, self.worker_type = source, workers, worker_type
        self.on_bad_item, self.pin = on_bad_item, pin
        self.augment = training if augment is None else augment
        self._processes: _Processes | None = None

    @property
    def plan(self) -> Plan:
        """The source's plan."""
        return self.source.plan

    def item(self, position: int) -> Any:
        """Return the source's item."""
        return self.source.item(position)

    def serve(self, device: torch.device) -> None:
        """Keep batches in page-locked memory if they go to a cuda device, so that copies overlap with work."""
        self.pin = device.type == "cuda"

    def in_order(self) -> ItemLoader:
        """Return a loader of the same items in their own order, nothing random, nothing left out."""
        return ItemLoader(
            self.source,
            bs=self.bs,
            seed=self.seed,
            workers=self.workers,
            worker_type=self.worker_type,
            on_bad_item=self.on_bad_item,
            pin=self.pin,
        )

    def at(self, epoch: int, batch: int = 0, part: Part = WHOLE) -> Iterator[Batch]:
        """Iterate the batches of an epoch, from number `batch` on; a batch whose items are all bad is left out."""
        whole = list(self.order(epoch).split(self.bs))[batch:]
        # A part may be empty, and its stand-in is the first item.
        groups = [part.of(group) if len(part.of(group)) else group[:1] for group in whole]
        for number, loaded in enumerate(self._loaded(epoch, groups), batch):
            if loaded.error is not None:
                raise ItemError(loaded.error)
            self.bad_items.update(loaded.bad)
            found = loaded.batch if loaded.batch is not None or part.world == 1 else self._readable(epoch)
            if found is not None:
                found.number = number
                if part.world > 1:
                    group = whole[number - batch]
                    mine = min(found.size, len(part.of(group))) if loaded.batch is not None else 0
                    found.share, found.certain = part.share(mine, len(group)), False
                yield found.pin() if self.pin and self.worker_type != "thread" else found

    def sample(self, position: int, epoch: int = 0) -> dict[str, Any]:
        """Return one encoded sample as an epoch sees it; raise ItemError if it cannot be read."""
        task = _Task(self.source, self.seed, self.augment, "error", pin=False)
        return self.source.plan.encode(self.source.raw(position), task.rng(epoch, position))

    def _readable(self, epoch: int) -> Batch:
        """Return a batch of one item that can be read, to stand for a part whose items are all bad."""
        task = _Task(self.source, self.seed, self.augment, "skip", pin=False)
        for position in self.order(epoch).split(1):
            if (found := task(epoch, position).batch) is not None:
                return found
        raise DataError("not one batch could be loaded: every item is bad")

    def _loaded(self, epoch: int, groups: Sequence[Tensor]) -> Iterator[_Loaded]:
        # A worker process cannot pin for another one; `at` does it then.
        pin = self.pin and self.worker_type == "thread"
        task = _Task(self.source, self.seed, self.augment, self.on_bad_item, pin)
        if self.workers == 0:
            return (task(epoch, group) for group in groups)
        if self.worker_type == "thread":
            return _in_threads(task, epoch, groups, self.workers)
        self._processes = self._processes or _Processes(task, self.workers, fork=self.worker_type == "fork")
        return self._processes.run(epoch, groups)


@dataclass(frozen=True, slots=True)
class _Task:
    """Load one group of positions; sent to worker processes once."""

    source: ItemSource
    seed: int
    augment: bool
    on_bad_item: OnBadItem
    pin: bool

    def __call__(self, epoch: int, positions: Tensor) -> _Loaded:
        plan, bad = self.source.plan, dict[int, str]()
        samples, kept = [], []
        for position in positions.tolist():
            try:
                samples.append(plan.encode(self.source.raw(position), self.rng(epoch, position)))
                kept.append(position)
            except ItemError as error:
                if self.on_bad_item == "error":
                    return _Loaded(None, bad, self._named(position, error))
                bad[position] = str(error)
            except Exception as error:
                # Not a bad item but a bug in a getter or a transform: never skipped.
                return _Loaded(None, bad, self._named(position, error))
        if not samples:
            return _Loaded(None, bad)
        try:
            fields = plan.collate(samples)
        except Exception as error:
            return _Loaded(None, bad, f"{error} (items {self._names(kept)})")
        batch = Batch(fields, plan.inputs, plan.targets, torch.tensor(kept))
        return _Loaded(batch.pin() if self.pin else batch, bad)

    def rng(self, epoch: int, position: int) -> np.random.Generator | None:
        if not (self.augment and self.source.plan.random_items):
            return None
        return derive_rng(self.seed, "item", epoch, position)

    def _named(self, position: int, error: Exception) -> str:
        reason = str(error) if isinstance(error, ItemError) else f"{type(error).__name__}: {error}"
        return f"item {position} ({self.source.item(position)}): {reason}"

    def _names(self, positions: Sequence[int]) -> str:
        names = ", ".join(str(self.source.item(p)) for p in positions[:3])
        return names + (", …" if len(positions) > 3 else "")


def _in_threads(task: _Task, epoch: int, groups: Sequence[Tensor], workers: int) -> Iterator[_Loaded]:
    pool = ThreadPoolExecutor(workers, thread_name_prefix="graftwork-loader")
    waiting: deque[Future[_Loaded]] = deque()
    try:
        for group in groups:
            waiting.append(pool.submit(task, epoch, group))
            if len(waiting) >= workers + PREFETCH:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class _Processes:
    """Keep workers over the epochs: torch's DataLoader, whose keys are (epoch, positions)."""

    def __init__(self, task: _Task, workers: int, *, fork: bool) -> None:
        self.keys: list[tuple[int, Tensor]] = []
        if not fork:
            _check_travels(task)
        self.loader: torch.utils.data.DataLoader[_Loaded] = torch.utils.data.DataLoader(
            _Keyed(task),
            batch_size=None,
            sampler=self.keys,
            num_workers=workers,
            collate_fn=_as_is,  # type: ignore[arg-type]  # with batch_size=None it gets the item, not a list
            multiprocessing_context="fork" if fork else "spawn",
            prefetch_factor=PREFETCH,
            persistent_workers=True,
            # Else it draws a seed from torch's global generator, and dropout would depend on who loads.
            generator=torch.Generator().manual_seed(task.seed),
        )
        # Held from elsewhere too, it is never collected as part of a cycle, where its queues would be closed before the
        # workers are told to end, and each be waited for in vain for five seconds.
        weakref.finalize(self, _let_go, self.loader)

    def run(self, epoch: int, groups: Sequence[Tensor]) -> Iterator[_Loaded]:
        self.keys[:] = [(epoch, group) for group in groups]
        yield from self.loader


def _check_travels(task: _Task) -> None:
    """Raise OptionError if the data cannot be sent to a spawned process."""
    try:
        ForkingPickler.dumps(task)
    except Exception as error:
        raise OptionError(
            f"the data cannot be sent to worker processes ({error}); "
            "use named functions instead of lambdas, or worker_type='thread'"
        ) from error


def _let_go(loader: object) -> None:
    """Do nothing: that this was called ends the last reference."""


def _as_is(loaded: _Loaded) -> _Loaded:
    return loaded


@dataclass(frozen=True, slots=True)
class _Keyed(torch.utils.data.Dataset[_Loaded]):
    """Let torch's DataLoader ask for a group of positions by its key."""

    task: _Task

    def __getitem__(self, key: tuple[int, Tensor]) -> _Loaded:
        return self.task(*key)


class ColumnLoader(Loader):
    """Hold a whole split as tensors, on any device; no Python runs per row.

    `columns` maps each field to a tensor whose first dimension is the item. One index operation fetches as many
    batches as fit 32 MB, and the batches are views of it. `positions` names the items in the data set they came from,
    if that is not 0, 1, 2, …. `weights` weigh items in the training loss; `sampling` says how often each is drawn.
    """

    def __init__(
        self,
        columns: Mapping[str, Tensor],
        plan: Plan,
        *,
        bs: int = 64,
        shuffle: bool = False,
        seed: int = 42,
        training: bool = False,
        drop_last: bool = False,
        positions: Tensor | None = None,
        item: Callable[[int], Any] | None = None,
        weights: Tensor | None = None,
        sampling: Tensor | None = None,
    ) -> None:
        """Check that the columns are one length, and weights (N,) and sampling shares (N,) numbers of at least 0."""
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) != 1:
            raise DataError(f"the columns of a data set must be of one length, not {lengths or 'none at all'}")
        num_items = next(iter(lengths.values()))
        super().__init__(num_items, bs=bs, shuffle=shuffle, seed=seed, training=training, drop_last=drop_last)
        self.columns, self._plan = dict(columns), plan
        self.positions = torch.arange(num_items) if positions is None else positions
        self._item = item
        self.weights = _checked(weights, num_items, "weights")
        self.sampling = _checked(sampling, num_items, "sampling shares")
        if sampling is not None and not shuffle:
            raise OptionError("sampling draws the order of a training split; it needs shuffle=True")
        row_bytes = sum(c.element_size() * (c.numel() // num_items) for c in columns.values())
        self.chunk = max(1, CHUNK_BYTES // max(1, row_bytes * bs)) * bs

    @property
    def plan(self) -> Plan:
        """The plan whose item steps the columns have been through."""
        return self._plan

    def item(self, position: int) -> Any:
        """Return the source's item, or its position if the source has none."""
        return position if self._item is None else self._item(position)

    def in_order(self) -> ColumnLoader:
        """Return a loader of the same items in their own order, nothing left out."""
        loader = ColumnLoader(
            self.columns, self._plan, bs=self.bs, seed=self.seed, positions=self.positions, item=self._item
        )
        loader.bad_items = self.bad_items
        return loader

    def serve(self, device: torch.device) -> None:
        """Move the columns to a cuda device if they take at most a quarter of its free memory."""
        if device.type == "cuda":
            needed = sum(c.numel() * c.element_size() for c in self.columns.values())
            if needed <= torch.cuda.mem_get_info(device)[0] // 4:
                self.to(device)

    def to(self, device: torch.device) -> ColumnLoader:
        """Move the columns to `device`, once for all epochs."""
        self.columns = {name: column.to(device) for name, column in self.columns.items()}
        self.weights = None if self.weights is None else self.weights.to(device)
        return self

    def at(self, epoch: int, batch: int = 0, part: Part = WHOLE) -> Iterator[Batch]:
        """Iterate the batches of an epoch, from number `batch` on."""
        if part.world > 1:
            yield from self._parts(self.order(epoch), batch, part)
            return
        order = self.order(epoch)
        inputs, targets, bs = self._plan.inputs, self._plan.targets, self.bs
        for start in range(batch * bs, len(order), self.chunk):
            rows = order[start : start + self.chunk]
            splits = [self._fetch(column, rows).split(bs) for column in self.columns.values()]
            index = self.positions[rows].split(bs)
            names = tuple(self.columns)
            weights = itertools.repeat(None) if self.weights is None else self._fetch(self.weights, rows).split(bs)
            numbers = itertools.count(start // bs)
            for number, weight, columns in zip(numbers, weights, zip(index, *splits, strict=True), strict=False):
                yield Batch(dict(zip(names, columns[1:], strict=True)), inputs, targets, columns[0], weight, number)

    def _parts(self, order: Tensor, batch: int, part: Part) -> Iterator[Batch]:
        """Iterate one process's part of each batch."""
        for number, group in enumerate(order.split(self.bs)[batch:], batch):
            mine = part.of(group)
            rows = mine if len(mine) else group[:1]
            fields = {name: self._fetch(column, rows) for name, column in self.columns.items()}
            weight = None if self.weights is None else self._fetch(self.weights, rows)
            share = part.share(*(self._counted(positions) for positions in (mine, group)))
            yield Batch(
                fields, self._plan.inputs, self._plan.targets, self.positions[rows], weight, number=number, share=share
            )

    def _counted(self, positions: Tensor) -> float:
        """Return how much items count in the loss, together."""
        if self.weights is None:
            return float(len(positions))
        return float(self.weights[positions.to(self.weights.device)].sum())

    def _fetch(self, column: Tensor, rows: Tensor) -> Tensor:
        if not self.shuffle:
            return column[rows[0] : rows[-1] + 1]
        return column.index_select(0, rows.to(column.device))
