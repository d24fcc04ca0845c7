"""Less than all the data: partial epochs, a dry run, and one batch again and again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor

from graftwork.batch import WHOLE, Batch, Part
from graftwork.datablock import DataLoaders
from graftwork.dataloader import Loader
from graftwork.errors import OptionError
from graftwork.plan import Plan

__all__ = ["LimitedLoader", "OneBatchLoader", "fast_dev_run", "limited", "overfit_one_batch"]


class _Wrapped(Loader):
    """Stand for another loader, whose items these are."""

    def __init__(self, loader: Loader, *, num_items: int, bs: int) -> None:
        super().__init__(
            num_items,
            bs=bs,
            shuffle=loader.shuffle,
            seed=loader.seed,
            training=loader.training,
            drop_last=loader.drop_last,
        )
        self.loader, self.sampling, self.bad_items = loader, loader.sampling, loader.bad_items

    @property
    def plan(self) -> Plan:
        """The loader's plan."""
        return self.loader.plan

    def item(self, position: int) -> Any:
        """Return the source's item."""
        return self.loader.item(position)

    def serve(self, device: torch.device) -> None:
        """Prepare the loader."""
        self.loader.serve(device)


@final
class LimitedLoader(_Wrapped):
    """Give the first `batches` batches of each epoch: of other items each time, where epochs are shuffled."""

    def __init__(self, loader: Loader, batches: int) -> None:
        """Limit a loader."""
        if batches < 1:
            raise OptionError(f"batches={batches}: an epoch needs at least one")
        self.batches = min(batches, len(loader))
        super().__init__(loader, num_items=min(loader.num_items, self.batches * loader.bs), bs=loader.bs)

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return self.batches

    def order(self, epoch: int) -> Tensor:
        """Return the positions of an epoch."""
        return self.loader.order(epoch)[: self.batches * self.bs]

    def at(self, epoch: int, batch: int = 0, part: Part = WHOLE) -> Iterator[Batch]:
        """Iterate the batches of an epoch, from number `batch` on."""
        if batch >= self.batches:
            return
        for loaded in self.loader.at(epoch, batch, part):
            if loaded.number < self.batches:
                yield loaded
            if loaded.number >= self.batches - 1:
                return

    def in_order(self) -> Loader:
        """Return a loader of the first items in their own order; of all of them, if each epoch draws others."""
        ordered = self.loader.in_order()
        return ordered if self.shuffle else LimitedLoader(ordered, self.batches)


@final
class OneBatchLoader(_Wrapped):
    """Give the first batch of epoch 0 `repeats` times an epoch; random item transforms have drawn once for all."""

    def __init__(self, loader: Loader, repeats: int = 1) -> None:
        """Load the batch."""
        if repeats < 1:
            raise OptionError(f"repeats={repeats}: an epoch needs at least one batch")
        self.batch = next(iter(loader.at(0)))
        self.repeats = repeats
        super().__init__(loader, num_items=self.batch.size, bs=self.batch.size)

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return self.repeats

    def order(self, epoch: int) -> Tensor:
        """Return the positions of an epoch."""
        return self.batch.index.repeat(self.repeats)

    def at(self, epoch: int, batch: int = 0, part: Part = WHOLE) -> Iterator[Batch]:
        """Iterate the one batch, from its repetition number `batch` on."""
        for number in range(batch, self.repeats):
            mine = self.batch.of(part)
            yield replace(mine, fields=dict(mine.fields), number=number)

    def in_order(self) -> OneBatchLoader:
        """Return a loader that gives the batch once."""
        once = OneBatchLoader(self.loader)
        once.batch = self.batch
        return once


def limited(data: DataLoaders, *, train: float | None = None, valid: float | None = None) -> DataLoaders:
    """Return the data with partial epochs: a number of batches (an integer) or a share of them (0.1) of a split.

    Learning-rate schedules are as long as what is left: `limited(data, train=0.1)` is fastai's ShortEpochCallback with
    a schedule that knows of it. `notes` say what is left out.
    """
    loaders = {"train": (data.train, train), "valid": (data.valid, valid)}
    made, notes = {}, list(data.notes)
    for split, (loader, limit) in loaders.items():
        made[split] = loader
        if loader is None or limit is None:
            continue
        made[split] = found = LimitedLoader(loader, _count(limit, len(loader), split))
        notes.append(f"{split}: {len(found)} of {len(loader)} batches in each epoch")
    return _with(data, made["train"] or data.train, made["valid"], notes)


def _count(limit: float, batches: int, split: str) -> int:
    if isinstance(limit, int) and not isinstance(limit, bool) and limit >= 1:
        return limit
    if isinstance(limit, float) and 0 < limit <= 1:
        return max(1, round(limit * batches))
    raise OptionError(f"{split}={limit!r} is neither a number of batches (1, 2, …) nor a share of them (0.1)")


def _with(data: DataLoaders, train: Loader, valid: Loader | None, notes: list[str]) -> DataLoaders:
    def test(items: Any, with_labels: bool) -> Loader:
        return data.test_dl(items, with_labels=with_labels)

    return DataLoaders(train=train, valid=valid, test=test, notes=notes)


def fast_dev_run(data: DataLoaders, batches: int = 2) -> DataLoaders:
    """Return the data with so few batches that one epoch, `fit(1)`, shows in seconds whether everything runs."""
    return limited(data, train=batches, valid=batches)


def overfit_one_batch(data: DataLoaders, *, steps: int = 100) -> DataLoaders:
    """Return data of one training batch, `steps` times an epoch, and the same to validate on.

    A model that can learn drives its loss to nearly zero; one that cannot has a bug. Random batch transforms
    still draw.
    """
    train = OneBatchLoader(data.train, steps)
    note = f"train and valid: the same {train.num_items} items in every batch"
    return _with(data, train, train.in_order(), [*data.notes, note])
