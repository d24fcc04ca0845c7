"""DataBlock: a recipe from a source to batches, and what it makes: Datasets and DataLoaders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from graftwork.batch import Batch
from graftwork.block import Block
from graftwork.dataloader import ColumnLoader, ItemLoader, Loader, OnBadItem, WorkerType, default_workers
from graftwork.errors import DataError, GraftworkError, ItemError, OptionError
from graftwork.items import as_rows
from graftwork.plan import Plan
from graftwork.split import RandomSplitter, Split, Splitter
from graftwork.transform import On, Transform, brief

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["DataBlock", "DataLoaders", "Dataset", "Datasets"]

Getter = Callable[[Any], Any]
Cache = Literal["none", "memory", "auto"]
CACHE_BYTES = 2**30


@dataclass(frozen=True, slots=True)
class Take:
    """Get the value at one position of an item that is a tuple."""

    position: int

    def __call__(self, item: Any) -> Any:
        """Return the value."""
        return item[self.position]


def itself(item: Any) -> Any:
    """Return the item."""
    return item


def read(getters: Mapping[str, Getter], name: str, item: Any) -> Any:
    """Get a field's value from an item; raise DataError naming the item if the getter has a bug."""
    try:
        return getters[name](item)
    except GraftworkError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"item {brief(item)}: the getter of field {name!r} failed with {reason}") from error


@dataclass(frozen=True, slots=True)
class Dataset:
    """Be some of a source's items, with the getters that make samples of them."""

    items: Sequence[Any]
    positions: np.ndarray[Any, Any]
    getters: Mapping[str, Getter]
    plan: Plan

    def __len__(self) -> int:
        """Count the items."""
        return len(self.positions)

    def item(self, position: int) -> Any:
        """Return the source's item."""
        return self.items[int(self.positions[position])]

    def value(self, name: str, position: int) -> Any:
        """Return a field's raw value."""
        return read(self.getters, name, self.item(position))

    def raw(self, position: int) -> dict[str, Any]:
        """Return a sample's raw values by field."""
        return {name: self.value(name, position) for name in self.getters}

    def __getitem__(self, position: int) -> dict[str, Any]:
        """Return a sample after the item steps, nothing random."""
        return self.plan.encode(self.raw(position))


@dataclass(frozen=True, slots=True)
class Datasets:
    """Be the items of a source, split, with a fitted plan."""

    items: Sequence[Any]
    split: Split
    getters: Mapping[str, Getter]
    plan: Plan

    @property
    def train(self) -> Dataset:
        """The training split."""
        return Dataset(self.items, self.split.train, self.getters, self.plan)

    @property
    def valid(self) -> Dataset:
        """The validation split."""
        return Dataset(self.items, self.split.valid, self.getters, self.plan)

    def test(self, items: Sequence[Any], *, with_labels: bool = False) -> Dataset:
        """Return new items as a data set, without their targets unless asked for."""
        names = self.getters if with_labels else self.plan.inputs
        getters = {name: self.getters[name] for name in names}
        return Dataset(items, np.arange(len(items)), getters, self.plan)

    def dataloaders(
        self,
        *,
        bs: int = 64,
        valid_bs: int | None = None,
        seed: int = 42,
        shuffle: bool = True,
        drop_last: bool = False,
        workers: int | None = None,
        worker_type: WorkerType = "thread",
        on_bad_item: OnBadItem = "skip",
        cache: Cache = "none",
    ) -> DataLoaders:
        """Return loaders of both splits.

        `workers` defaults to one thread per core, at most four. `cache="memory"` runs the item steps once and keeps
        the tensors, which random item transforms forbid; "auto" does so where it is possible within 1 GB.
        """
        workers = default_workers() if workers is None else workers

        def items(data: Dataset, size: int, *, training: bool) -> ItemLoader:
            return ItemLoader(
                data,
                bs=size,
                seed=seed,
                shuffle=training and shuffle,
                training=training,
                drop_last=training and drop_last,
                workers=workers,
                worker_type=worker_type,
                on_bad_item=on_bad_item,
            )

        train: Loader = items(self.train, bs, training=True)
        valid: Loader | None = items(self.valid, valid_bs or bs, training=False) if len(self.split.valid) else None
        if self._cached(cache):
            train = _in_memory(train)
            valid = None if valid is None else _in_memory(valid)

        def test(new: Sequence[Any], with_labels: bool) -> Loader:
            return items(self.test(new, with_labels=with_labels), valid_bs or bs, training=False)

        return DataLoaders(train=train, valid=valid, test=test, notes=self.split.notes)

    def _cached(self, cache: Cache) -> bool:
        if cache == "memory" and self.plan.random_items:
            steps = ", ".join(step.name for step in self.plan.item_steps if step.random)
            raise OptionError(
                f"cache='memory' needs item transforms that are not random, and {steps} is; use cache='none'"
            )
        if cache != "auto":
            return cache == "memory"
        return not self.plan.random_items and self._bytes() <= CACHE_BYTES

    def _bytes(self) -> int:
        """Estimate the memory of all samples from the first one that can be read."""
        data = self.train
        for position in range(len(data)):
            try:
                fields = self.plan.collate([data[position]])
            except ItemError:
                continue
            return sum(c.numel() * c.element_size() for c in fields.values()) * len(self.items)
        return CACHE_BYTES + 1


def _in_memory(loader: Loader) -> ColumnLoader:
    """Read a split once and keep its tensors."""
    if not isinstance(loader, ItemLoader):
        raise TypeError(f"only items can be cached, not {loader!r}")
    whole = loader.in_order()
    batches = list(whole)
    if not batches:
        raise _all_bad(whole)
    columns = {name: torch.cat([b.fields[name] for b in batches]) for name in batches[0].fields}
    cached = ColumnLoader(
        columns,
        loader.plan,
        bs=loader.bs,
        shuffle=loader.shuffle,
        seed=loader.seed,
        training=loader.training,
        drop_last=loader.drop_last,
        positions=torch.cat([b.index for b in batches]),
        item=loader.item,
    )
    cached.bad_items = whole.bad_items
    return cached


def _all_bad(loader: Loader) -> DataError:
    first = next(iter(loader.bad_items.values()), "no item was read")
    return DataError(f"none of the {loader.num_items} items can be read; the first one: {first}")


class DataLoaders:
    """Hold the loaders of a training and a validation split; `valid` is None where nothing was held out."""

    def __init__(
        self,
        *,
        train: Loader,
        valid: Loader | None = None,
        test: Callable[[Sequence[Any], bool], Loader] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        """Put loaders together; `test(items, with_labels)` makes one of new items, `notes` say what was left out."""
        self.train, self.valid = train, valid
        self._test, self.notes = test, tuple(notes)

    @property
    def plan(self) -> Plan:
        """The plan both splits share, fitted on the training split."""
        return self.train.plan

    def test_dl(self, items: Sequence[Any], *, with_labels: bool = False) -> Loader:
        """Return a loader of new items, read as the validation split is."""
        if self._test is None:
            raise DataError("these loaders were put together by hand; pass test= to have test_dl")
        return self._test(items, with_labels)

    @property
    def bad_items(self) -> list[str]:
        """Say which items were left out so far, and why."""
        return _reasons(self.train) + ([] if self.valid is None else _reasons(self.valid))

    def serve(self, device: torch.device) -> None:
        """Prepare the loaders for a model on `device`."""
        for loader in (self.train, self.valid):
            if loader is not None:
                loader.serve(device)

    def one_batch(self) -> Batch:
        """Return the first training batch of epoch 0, before batch transforms; raise DataError if there is none."""
        for batch in self.train.at(0):
            return batch
        raise _all_bad(self.train)

    def show_batch(self, *, max_n: int = 9, split: Literal["train", "valid"] = "train") -> Figure:
        """Draw up to `max_n` samples as the model sees them, augmented if they are training samples."""
        from graftwork.show import show_samples

        loader = self.train if split == "train" else self.valid
        if loader is None:
            raise DataError("there is no validation split to show")
        return show_samples(loader, max_n=max_n)

    def show_augmented(self, position: int = 0, *, max_n: int = 9) -> Figure:
        """Draw the training sample at a position as `max_n` epochs may see it, random steps drawn anew each time."""
        from graftwork.show import show_variants

        return show_variants(self.train, position, max_n=max_n)


def _reasons(loader: Loader) -> list[str]:
    return [f"{loader.item(position)}: {reason}" for position, reason in sorted(loader.bad_items.items())]


BlockLike = Block | type[Block]


@dataclass(frozen=True, kw_only=True)
class DataBlock:
    """Say once how a source becomes batches.

    `blocks=(ImageBlock, CategoryBlock)` is short for `{"x": ImageBlock(), "y": CategoryBlock()}`. The last block is the
    target unless `n_inp` says otherwise; several inputs are named x1, x2, … and several targets y1, y2, …. `get_x` and
    `get_y` take an item and give the value (a sequence of them for several fields); `getters` names them by field.
    Without `get_items` the source is itself the sequence of items, or a DataFrame, whose rows become mappings.
    """

    blocks: Sequence[BlockLike] | Mapping[str, BlockLike]
    get_items: Callable[[Any], Any] | None = None
    get_x: Getter | Sequence[Getter] | None = None
    get_y: Getter | Sequence[Getter] | None = None
    getters: Mapping[str, Getter] = field(default_factory=dict)
    splitter: Splitter | Callable[[Any], Any] = field(default_factory=RandomSplitter)
    item_tfms: Sequence[Transform | On] | Transform | On = ()
    batch_tfms: Sequence[Transform | On] | Transform | On = ()
    n_inp: int | None = None

    def __post_init__(self) -> None:
        """Check the parts against each other before any data is seen."""
        total = len(self.blocks)
        if total < 1 or not 1 <= self._n_inp <= total:
            raise OptionError(f"n_inp={self.n_inp} does not fit {total} block(s)")
        for name in self.getters:
            if name not in self.fields:
                raise OptionError(f"getters name the field {name!r}, but the fields are {', '.join(self.fields)}")
        self._getters_of("x", self.inputs, self.get_x)
        self._getters_of("y", self.targets, self.get_y)

    @property
    def _n_inp(self) -> int:
        return max(1, len(self.blocks) - 1) if self.n_inp is None else self.n_inp

    @property
    def fields(self) -> dict[str, Block]:
        """The raw block of every field."""
        if isinstance(self.blocks, Mapping):
            return {name: _block(b) for name, b in self.blocks.items()}
        n_inp, total = self._n_inp, len(self.blocks)
        names = _names("x", n_inp) + _names("y", total - n_inp)
        return {name: _block(b) for name, b in zip(names, self.blocks, strict=True)}

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the model's inputs."""
        return tuple(self.fields)[: self._n_inp]

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of the targets."""
        return tuple(self.fields)[self._n_inp :]

    def _getters_of(
        self, kind: str, names: tuple[str, ...], given: Getter | Sequence[Getter] | None
    ) -> dict[str, Getter]:
        if given is None:
            return {}
        several = tuple(given) if isinstance(given, Sequence) else (given,)
        if len(several) != len(names):
            raise OptionError(f"get_{kind} gives {len(several)} getter(s) for the {len(names)} field(s) {names}")
        return dict(zip(names, several, strict=True))

    def _all_getters(self) -> dict[str, Getter]:
        given = {
            **self._getters_of("x", self.inputs, self.get_x),
            **self._getters_of("y", self.targets, self.get_y),
            **self.getters,
        }
        if not given:
            return (
                {n: Take(i) for i, n in enumerate(self.fields)}
                if len(self.fields) > 1
                else dict.fromkeys(self.fields, itself)
            )
        missing = [name for name in self.fields if name not in given]
        if missing == [self.inputs[0]] and len(self.inputs) == 1:
            given[missing[0]] = itself
        elif missing:
            raise OptionError(f"no getter for the field(s) {', '.join(missing)}; pass get_x=, get_y= or getters=")
        return {name: given[name] for name in self.fields}

    def items(self, source: Any) -> Any:
        """Return the source's items; raise DataError if there are none."""
        items = source if self.get_items is None else self.get_items(source)
        if len(items) == 0:
            raise DataError(f"{brief(source)} gives no items")
        return items

    def datasets(self, source: Any, *, on_bad_item: OnBadItem = "skip") -> Datasets:
        """Get the items, split them and fit the plan on the training split.

        Raises:
            DataError: no items, an empty training split, a label that occurs only in the validation split.
            PlanError: blocks and transforms do not fit each other.
        """
        getters = self._all_getters()
        found = self.items(source)
        split = self._split(found, getters)
        items = as_rows(found)

        def skip(error: Exception) -> None:
            # The loader will meet this item again, and count it.
            if on_bad_item == "error":
                raise error

        def train(name: str) -> Iterator[Any]:
            return (read(getters, name, items[int(i)]) for i in split.train)

        plan = Plan.compile(
            self.fields,
            inputs=self.inputs,
            targets=self.targets,
            item_tfms=_several(self.item_tfms),
            batch_tfms=_several(self.batch_tfms),
            train=train,
            skip=skip,
        )
        datasets = Datasets(items, split, getters, plan)
        _check_targets(datasets)
        return datasets

    def _split(self, items: Any, getters: Mapping[str, Getter]) -> Split:
        if isinstance(self.splitter, Splitter):
            label = getters[self.targets[0]] if self.targets else None
            split = self.splitter(items, label=label)
        else:
            given = self.splitter(items)
            split = given if isinstance(given, Split) else Split(train=np.asarray(given[0]), valid=np.asarray(given[1]))
        if len(split.train) == 0:
            raise DataError(f"{brief(self.splitter)} leaves nothing to train on out of {len(items)} items")
        return split

    def dataloaders(self, source: Any, *, bs: int = 64, on_bad_item: OnBadItem = "skip", **options: Any) -> DataLoaders:
        """Return the loaders of `datasets(source)`; options as for `Datasets.dataloaders`."""
        return self.datasets(source, on_bad_item=on_bad_item).dataloaders(bs=bs, on_bad_item=on_bad_item, **options)

    def summary(self, source: Any, *, bs: int = 4) -> None:
        """Walk one sample and one batch step by step and print what comes out, up to the step that fails."""
        from graftwork.show import walk

        print(walk(self, source, bs=bs))


def _block(given: BlockLike) -> Block:
    block = given() if isinstance(given, type) else given
    if not isinstance(block, Block):
        raise OptionError(f"{given!r} among the blocks is no Block")
    return block


def _names(letter: str, count: int) -> list[str]:
    return [letter] if count == 1 else [f"{letter}{i}" for i in range(1, count + 1)]


def _several(tfms: Sequence[Transform | On] | Transform | On) -> Sequence[Transform | On]:
    return (tfms,) if isinstance(tfms, Transform | On) else tfms


def _check_targets(datasets: Datasets) -> None:
    """Encode the validation targets once, so that a label training never saw is found before training."""
    plan, valid = datasets.plan, datasets.valid
    strict = [n for n in plan.targets if any(s.transform.refuses_unseen for s in plan.fields[n].item_steps)]
    for name in strict:
        first: dict[str, list[str]] = {}
        for position in range(len(valid)):
            try:
                plan.encode({name: valid.value(name, position)})
            except ItemError as error:
                first.setdefault(str(error.__cause__ or error), []).append(str(valid.item(position)))
        if first:
            lines = [f"{len(items)} item(s), the first {brief(items[0])}: {reason}" for reason, items in first.items()]
            more = f" (and {len(lines) - 3} more)" if len(lines) > 3 else ""
            raise DataError(
                f"the target {name!r} of the validation split cannot be encoded: {'; '.join(lines[:3])}{more}. "
                "Move such items to the training split or leave them out, or split with StratifiedSplitter"
            )
