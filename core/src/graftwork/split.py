"""Split items into a training and a validation part: a pure function of the items and a seed.

Nothing here reads or moves a global random state. Wherever a share of the items is asked for, `valid_pct` of n items is
the whole number of them below `valid_pct * n`, but at least one, and at least one stays for training.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from heapq import heapify, heapreplace
from pathlib import Path, PurePath
from typing import Any, TypeAlias, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from graftwork.errors import DataError, OptionError
from graftwork.items import Key, Label, as_rows, paths_of, values_of

__all__ = [
    "ColSplitter",
    "EndSplitter",
    "FileSplitter",
    "FuncSplitter",
    "GrandparentSplitter",
    "GroupSplitter",
    "IndexSplitter",
    "RandomSplitter",
    "Split",
    "Splitter",
    "StratifiedSplitter",
    "TimeSplitter",
    "k_folds",
]

Positions: TypeAlias = NDArray[np.int64]


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Split:
    """Hold the positions (int64) of the items on each side; `notes` say what the splitter did that was not asked for.

    Raises:
        DataError: positions that are no whole numbers, negative, or on both sides or twice on one.
    """

    train: Positions
    valid: Positions
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "train", _positions(self.train))
        object.__setattr__(self, "valid", _positions(self.valid))
        both = np.sort(np.concatenate((self.train, self.valid)))
        if both.size and both[0] < 0:
            raise DataError(f"a split counts positions from 0; found {both[0]}")
        if (twice := both[1:][both[1:] == both[:-1]]).size:
            places = ", ".join(map(str, np.unique(twice)[:5]))
            raise DataError(f"a split puts each item on one side, once; these positions occur twice: {places}")


def _positions(given: ArrayLike) -> Positions:
    array = np.asarray(given)
    if array.size == 0:
        return np.empty(0, dtype=np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        fix = "np.flatnonzero(mask) gives the positions of a mask" if array.dtype.kind == "b" else "give whole numbers"
        raise DataError(f"positions are a flat list of whole numbers, not {array.dtype} {array.shape}; {fix}")
    return array.astype(np.int64)


class Splitter(ABC):
    """Split items; a subclass says how in `divide`, and calling it checks what `divide` returned."""

    __slots__ = ()

    def __call__(self, items: Any, *, label: Label | None = None) -> Split:
        """Return the split; `items` are a sequence or a DataFrame, `label` gives the label of one item (of one row).

        Raises:
            DataError: no items, nothing on one side, or a position that no item has.
        """
        split = self.divide(items, label)
        _check(split, len(items), self)
        return split

    @abstractmethod
    def divide(self, items: Any, label: Label | None) -> Split:
        """Return the positions on each side; items that belong to neither are in neither."""


def _check(split: Split, num_items: int, by: object) -> None:
    for side, positions in (("training", split.train), ("validation", split.valid)):
        if len(positions) == 0:
            raise DataError(f"{by!r} puts none of the {num_items} items into the {side} split")
        if (last := int(positions.max())) >= num_items:
            raise DataError(f"{by!r} names position {last}, but there are {num_items} items: 0 to {num_items - 1}")


def _share(num_items: int, pct: float) -> int:
    """Return how many of the items go to validation, between 1 and one less than all."""
    if num_items < 2:
        raise DataError(f"{num_items} item(s) cannot be split into two parts; at least 2 are needed")
    # 0.29 * 100 is 28.999…: what rounding lost is given back before the fraction is cut off.
    return min(max(int(num_items * pct + 1e-9), 1), num_items - 1)


def _check_pct(pct: float) -> None:
    if not 0 < pct < 1:
        hint = f"; for {pct:g} % write {pct / 100:g}" if 1 < pct < 100 else ""
        raise OptionError(f"valid_pct={pct!r} must lie between 0 and 1, both excluded{hint}")


def _from_mask(valid: NDArray[np.bool_], *, notes: tuple[str, ...] = ()) -> Split:
    return Split(train=np.flatnonzero(~valid), valid=np.flatnonzero(valid), notes=notes)


def _shuffled(rng: np.random.Generator, valid: NDArray[np.bool_], *, notes: tuple[str, ...] = ()) -> Split:
    """Mix both sides, so that the first batch of an ordered source does not show one class only."""
    order = rng.permutation(len(valid))
    return Split(train=order[~valid[order]], valid=order[valid[order]], notes=notes)


def _codes(values: Iterable[Any], what: str) -> Positions:
    """Number the distinct values in the order in which they first occur; missing values (None, NaN) are one value."""
    seen: dict[Hashable, int] = {}
    try:
        codes = [seen.setdefault(None if value != value else value, len(seen)) for value in values]
    except (TypeError, ValueError) as error:
        raise DataError(f"every item needs one {what}, a text or a number: {error}") from error
    return np.array(codes, dtype=np.int64)


@final
@dataclass(frozen=True, slots=True)
class RandomSplitter(Splitter):
    """Draw the validation items at random; the same seed gives fastai's own split of as many items."""

    valid_pct: float = 0.2
    _: KW_ONLY
    seed: int = 42

    def __post_init__(self) -> None:
        _check_pct(self.valid_pct)

    def divide(self, items: Any, label: Label | None) -> Split:
        """Shuffle the positions; the first of them are for validation."""
        import torch

        num_valid = _share(len(items), self.valid_pct)
        order = torch.randperm(len(items), generator=torch.Generator().manual_seed(self.seed)).numpy()
        return Split(train=order[num_valid:], valid=order[:num_valid])


@final
@dataclass(frozen=True, slots=True)
class StratifiedSplitter(Splitter):
    """Draw the same share of every class at random; labels come from `label`, here or in the call.

    Every class gives the whole number below `valid_pct` of its items; what is still missing for `valid_pct` of all
    comes one item each from the classes with the largest rest: none is more than one item off its exact share. A class
    of one item stays in training, and the split's notes count those.

    Raises:
        DataError: no label is known, an item has several, or no class has two items.
    """

    valid_pct: float = 0.2
    _: KW_ONLY
    seed: int = 42
    label: Key | None = None

    def __post_init__(self) -> None:
        _check_pct(self.valid_pct)

    def divide(self, items: Any, label: Label | None) -> Split:
        """Draw from each class."""
        key = self.label if self.label is not None else label
        if key is None:
            raise DataError("StratifiedSplitter needs the items' labels: StratifiedSplitter(label=parent_label)")
        codes = _codes(values_of(items, key), "label")
        sizes = np.bincount(codes)
        quotas = _quotas(sizes, _share(len(codes), self.valid_pct), self.valid_pct)
        if not quotas.any():
            raise DataError(f"none of the {len(sizes)} classes has two items to divide; use RandomSplitter")
        rng = np.random.default_rng(self.seed)
        alone = int((sizes == 1).sum())
        notes = (f"{alone} of {len(sizes)} classes have one item, which stays in training",) if alone else ()
        return _shuffled(rng, _rank_in_class(codes, rng) < quotas[codes], notes=notes)


def _quotas(sizes: Positions, total: int, pct: float) -> Positions:
    """Share out `total` over the classes by largest remainder, leaving each class one item for training."""
    exact = sizes * pct
    quotas: Positions = np.floor(exact + 1e-9).astype(np.int64)
    for code in np.argsort(quotas - exact, kind="stable"):
        if quotas.sum() >= total:
            break
        quotas[code] += quotas[code] + 1 < sizes[code]
    return quotas


def _by_class(codes: Positions, rng: np.random.Generator) -> Positions:
    """Return the positions class by class, each class in a random order."""
    order = rng.permutation(len(codes))
    return order[np.argsort(codes[order], kind="stable")]


def _rank_in_class(codes: Positions, rng: np.random.Generator) -> Positions:
    """Return each item's place in a random order of its class, counted from 0."""
    by_class = _by_class(codes, rng)
    starts = np.concatenate(([0], np.cumsum(np.bincount(codes))[:-1]))
    ranks = np.empty(len(codes), dtype=np.int64)
    ranks[by_class] = np.arange(len(codes)) - starts[codes[by_class]]
    return ranks


@final
@dataclass(frozen=True, slots=True)
class GrandparentSplitter(Splitter):
    """Split by the name of the folder above the folder an item lies in: `train/cat/1.jpg`; several names a side work.

    Items below neither are in neither part, and the split's notes count them.
    """

    train_name: str | Sequence[str] = "train"
    valid_name: str | Sequence[str] = "valid"

    def divide(self, items: Any, label: Label | None) -> Split:
        """Compare the name of every item's grandparent."""
        names = [path.parent.parent.name for path in paths_of(items)]
        counts = Counter(names)
        train = self._below("train", self.train_name, names, counts)
        valid = self._below("valid", self.valid_name, names, counts)
        left = len(names) - len(train) - len(valid)
        notes = (f"{left} items lie below neither side's folders ({_tally(counts)})",) if left > 0 else ()
        return Split(train=train, valid=valid, notes=notes)

    def _below(self, side: str, wanted: str | Sequence[str], names: list[str], counts: Counter[str]) -> Positions:
        several = (wanted,) if isinstance(wanted, str) else wanted
        if not any(name in counts for name in several):
            asked = " or ".join(map(repr, several))
            fix = f"name the folder with GrandparentSplitter({side}_name=…)"
            raise DataError(f"no item lies two folders below {asked}; found {_tally(counts)}; {fix}")
        return np.flatnonzero([name in several for name in names])


def _tally(counts: Counter[str]) -> str:
    return ", ".join(f"{name!r}: {number}" for name, number in counts.most_common(6))


@final
@dataclass(frozen=True, slots=True)
class ColSplitter(Splitter):
    """Split by a column that is true for validation; with `on`, by a column that has that value, or one of those.

    Raises:
        DataError: without `on`, a value that is neither true nor false (missing, or text).
    """

    col: str = "is_valid"
    _: KW_ONLY
    on: Any = None

    def divide(self, items: Any, label: Label | None) -> Split:
        """Read the column."""
        values = values_of(items, self.col)
        if self.on is not None:
            wanted = self.on if isinstance(self.on, Collection) and not isinstance(self.on, str) else (self.on,)
            return _from_mask(np.array([value in wanted for value in values], dtype=bool))
        odd = [value for value in values if not (isinstance(value, bool | np.bool_ | int | float) and value in (0, 1))]
        if odd:
            raise DataError(
                f"column {self.col!r} must say true or false for every item; {len(odd)} do not, such as {odd[0]!r}; "
                f"for a column of names write ColSplitter({self.col!r}, on='valid')"
            )
        return _from_mask(np.array(values, dtype=bool))


@final
@dataclass(frozen=True, slots=True, eq=False)
class IndexSplitter(Splitter):
    """Take the items at these positions for validation and all others for training."""

    valid_idx: ArrayLike

    def __post_init__(self) -> None:
        object.__setattr__(self, "valid_idx", _positions(self.valid_idx))

    def divide(self, items: Any, label: Label | None) -> Split:
        """Return the positions; those for training in order."""
        valid = _positions(self.valid_idx)
        return Split(train=np.setdiff1d(np.arange(len(items)), valid), valid=valid)


@final
@dataclass(frozen=True, slots=True)
class FuncSplitter(Splitter):
    """Take the items for validation of which a function is true."""

    func: Callable[[Any], object]

    def divide(self, items: Any, label: Label | None) -> Split:
        """Ask the function about every item."""
        return _from_mask(np.array([bool(self.func(item)) for item in as_rows(items)], dtype=bool))


@final
@dataclass(frozen=True, slots=True)
class EndSplitter(Splitter):
    """Take the last items for validation, or the first with `valid_last=False`: for items that are in an order."""

    valid_pct: float = 0.2
    _: KW_ONLY
    valid_last: bool = True

    def __post_init__(self) -> None:
        _check_pct(self.valid_pct)

    def divide(self, items: Any, label: Label | None) -> Split:
        """Cut once."""
        places = np.arange(len(items)) if self.valid_last else np.arange(len(items))[::-1]
        cut = len(items) - _share(len(items), self.valid_pct)
        return Split(train=np.sort(places[:cut]), valid=np.sort(places[cut:]))


@final
@dataclass(frozen=True, slots=True)
class FileSplitter(Splitter):
    """Take the items for validation that a text file lists, one a line.

    A line is a file's name, or the end of its path (`cat/1.jpg`) where names repeat. Lines that no item fits are
    counted in the split's notes.

    Raises:
        DataError: no such file.
    """

    path: str | PurePath

    def divide(self, items: Any, label: Label | None) -> Split:
        """Look every item up in the list."""
        listed = self._lines()
        depths = sorted({line.count("/") + 1 for line in listed})
        ends = [["/".join(path.parts[-depth:]) for depth in depths] for path in paths_of(items)]
        found = {end for several in ends for end in several if end in listed}
        missing = sorted(listed - found)
        notes = (f"{len(missing)} lines of {str(self.path)!r} fit no item, such as {missing[0]!r}",) if missing else ()
        return _from_mask(
            np.array([any(end in listed for end in several) for several in ends], dtype=bool), notes=notes
        )

    def _lines(self) -> set[str]:
        try:
            text = Path(self.path).read_text(encoding="utf-8-sig")
        except OSError as error:
            raise DataError(
                f"the list of validation files {str(self.path)!r} cannot be read: {error.strerror}"
            ) from error
        return {line.strip().replace("\\", "/").removeprefix("./") for line in text.splitlines() if line.strip()}


@final
@dataclass(frozen=True, slots=True)
class GroupSplitter(Splitter):
    """Keep all items of a group (a patient, a user, a film) on one side; `group` is a function or a column.

    The groups are put in a random order, and as many of the first go to validation as bring the number of items nearest
    to `valid_pct` of them.

    Raises:
        DataError: fewer than two groups.
    """

    group: Key
    _: KW_ONLY
    valid_pct: float = 0.2
    seed: int = 42

    def __post_init__(self) -> None:
        _check_pct(self.valid_pct)

    def divide(self, items: Any, label: Label | None) -> Split:
        """Draw whole groups."""
        codes = _codes(values_of(items, self.group), "group")
        sizes = np.bincount(codes)
        if len(sizes) < 2:
            raise DataError(
                f"GroupSplitter found {len(sizes)} group(s) among {len(codes)} items; at least 2 are needed"
            )
        rng = np.random.default_rng(self.seed)
        order = rng.permutation(len(sizes))
        reached = np.cumsum(sizes[order])[:-1]
        num_groups = int(np.argmin(np.abs(reached - len(codes) * self.valid_pct))) + 1
        return _shuffled(rng, np.isin(codes, order[:num_groups]))


@final
@dataclass(frozen=True, slots=True)
class TimeSplitter(Splitter):
    """Take the newest items for validation; `time` is a function or a column giving numbers or times.

    The cut is at `cutoff`, the first time of validation, or where the number of items is nearest to `valid_pct` of them
    (0.2 if neither is given). Items of the same time stay together. Text is read as an ISO 8601 time, UTC unless it
    says otherwise.

    Raises:
        OptionError: both `valid_pct` and `cutoff`.
        DataError: a missing or unreadable time, or one time for all items.
    """

    time: Key
    _: KW_ONLY
    valid_pct: float | None = None
    cutoff: Any = None

    def __post_init__(self) -> None:
        if self.valid_pct is not None:
            _check_pct(self.valid_pct)
        if self.valid_pct is not None and self.cutoff is not None:
            raise OptionError("TimeSplitter takes valid_pct or cutoff, not both; leave one out")

    def divide(self, items: Any, label: Label | None) -> Split:
        """Cut between two times."""
        times = _times(values_of(items, self.time))
        cutoff = self._cut(times) if self.cutoff is None else _times([self.cutoff])[0]
        if (times.dtype.kind == "M") != isinstance(cutoff, np.datetime64):
            raise OptionError(f"cutoff={self.cutoff!r} cannot be compared with times such as {times[0]!r}")
        return _from_mask(times >= cutoff)

    def _cut(self, times: NDArray[Any]) -> Any:
        distinct, counts = np.unique(times, return_counts=True)
        if len(distinct) < 2:
            raise DataError(f"{len(times)} items share {len(distinct)} time(s): there is no newest part to take")
        excess = len(times) - np.cumsum(counts)[:-1] - len(times) * (0.2 if self.valid_pct is None else self.valid_pct)
        return distinct[1:][np.argmin(np.abs(excess))]


def _times(values: Sequence[Any]) -> NDArray[Any]:
    """Return numbers as they are and everything else as UTC times; raise DataError for a missing or unreadable one."""
    array = np.asarray(values)
    if array.dtype.kind not in "iuf":
        import pandas as pd

        try:
            array = pd.to_datetime(pd.Series(values), utc=True, format="ISO8601").to_numpy(dtype="datetime64[ns]")
        except (TypeError, ValueError) as error:
            raise DataError(f"the times are neither numbers nor ISO 8601 times: {error}") from error
    if missing := int((array != array).sum()):
        raise DataError(f"{missing} of {len(array)} items have no time")
    return array


def k_folds(
    items: Any, k: int = 5, *, seed: int = 42, label: Key | None = None, group: Key | None = None
) -> Iterator[Split]:
    """Yield k splits; every item is in the validation part of exactly one.

    With `label`, every class is spread over the folds as evenly as its number allows; the folds' sizes then, as
    without, differ by one item at most. With `group`, no group is torn: the largest groups are dealt out first, each to
    the fold that is smallest so far.

    Raises:
        OptionError: k is less than 2 or more than the items (or groups), or both `label` and `group` are given.
    """
    if label is not None and group is not None:
        raise OptionError("k_folds keeps groups whole or spreads labels, not both; leave one out")
    key = label if group is None else group
    codes = np.zeros(len(items), dtype=np.int64) if key is None else _codes(values_of(items, key), "label or group")
    num_units = len(items) if group is None else int(codes.max(initial=-1)) + 1
    if not 2 <= k <= num_units:
        raise OptionError(
            f"k={k} must lie between 2 and the {num_units} {'items' if group is None else 'groups'} there are"
        )
    rng = np.random.default_rng(seed)
    folds = _deal(codes, k, rng) if group is None else _deal_groups(np.bincount(codes), k, rng)[codes]
    return (_shuffled(np.random.default_rng([seed, fold]), folds == fold) for fold in range(k))


def _deal(codes: Positions, k: int, rng: np.random.Generator) -> Positions:
    """Return each item's fold: the classes one after another, dealt round."""
    folds = np.empty(len(codes), dtype=np.int64)
    folds[_by_class(codes, rng)] = np.arange(len(codes)) % k
    return folds


def _deal_groups(sizes: Positions, k: int, rng: np.random.Generator) -> Positions:
    """Return each group's fold."""
    order = rng.permutation(len(sizes))
    heap = [(0, fold) for fold in range(k)]
    heapify(heap)
    folds = np.empty(len(sizes), dtype=np.int64)
    for group in order[np.argsort(-sizes[order], kind="stable")]:
        filled, folds[group] = heap[0]
        heapreplace(heap, (filled + int(sizes[group]), int(folds[group])))
    return folds
