"""From ratings to DataLoaders: ids are encoded once, and a batch is one index operation."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, final

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from graftwork.api import Block, ColumnLoader, DataError, DataLoaders, On, OptionError, Plan, RegressionBlock, Split
from graftwork_collab.blocks import UNKNOWN, IdBlock, Identify, Label, encode_ids, fit_encode_ids
from graftwork_collab.events import Events
from graftwork_collab.features import Features, fit_features, id_column_of, same_kind
from graftwork_collab.sources import movielens_features, read_events, read_raw
from graftwork_collab.splits import SplitName, split_rows

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ITEM", "RATING", "USER", "CollabDataLoaders", "CollabOptions", "RatedLoaders", "id_plan", "ratings_loader"]

LOG = logging.getLogger("graftwork")
USER, ITEM, RATING = "user", "item", "rating"
VALID_BS = 4096
"""Validation needs no gradients, so its batches may be large; they do not change its result."""

Codes = NDArray[np.int64]
Mask = NDArray[np.bool_]


class CollabOptions(TypedDict, total=False):
    """List what every recipe takes.

    Columns not named are found by their usual names, else they are the first three: user, item, rating. `split` is
    "random" (a share `valid_pct`, drawn with `seed`), "time" (the latest share) or "leave-last-out" (each user's last
    rating); `valid_pct=0` holds nothing out. Rows that cannot be used are left out, or with `on_bad_item="error"` the
    first one raises; of several ratings of one pair the last one counts, or with `duplicates="all"` each of them.
    `user_features` and `item_features` are tables (frames, files) of what is known of users and items, a row each, the
    id in the column that is called as in the ratings, or in the first.
    """

    user_name: str | None
    item_name: str | None
    rating_name: str | None
    timestamp_name: str | None
    valid_pct: float
    seed: int
    split: SplitName
    bs: int
    valid_bs: int | None
    duplicates: Literal["last", "all"]
    on_bad_item: Literal["skip", "error"]
    user_features: Any
    item_features: Any


@final
class RatedLoaders(DataLoaders):
    """Hold loaders of ratings, and the encoded features of users and items where there are any.

    `seen` says, by code, of whom there are training ratings.
    """

    def __init__(self, *, features: Mapping[str, Features], seen: Mapping[str, Mask], **loaders: Any) -> None:
        """Put loaders and features together."""
        super().__init__(**loaders)
        self.features, self.seen = dict(features), dict(seen)


@final
class CollabDataLoaders:
    """Make DataLoaders of ratings. Every recipe takes the options of `CollabOptions`."""

    @classmethod
    def from_df(cls, ratings: pd.DataFrame | Any, **options: Unpack[CollabOptions]) -> DataLoaders:
        """Take a frame, an Arrow table, or a sequence of mappings."""
        return _loaders(ratings, **options)

    @classmethod
    def from_csv(cls, csv: str | Path, **options: Unpack[CollabOptions]) -> DataLoaders:
        """Read a CSV in any of its dialects; without a header it holds user, item, rating and timestamp."""
        return _loaders(Path(csv), **options)

    @classmethod
    def from_parquet(cls, path: str | Path, **options: Unpack[CollabOptions]) -> DataLoaders:
        """Read a Parquet file, or a folder of them."""
        return _loaders(Path(path), **options)

    @classmethod
    def from_events(
        cls,
        events: Events,
        *,
        valid_pct: float = 0.2,
        seed: int = 42,
        split: SplitName = "random",
        bs: int = 64,
        valid_bs: int | None = None,
        user_features: Any = None,
        item_features: Any = None,
    ) -> DataLoaders:
        """Take what `read_events` returned."""
        features = {USER: user_features, ITEM: item_features}
        return _from_events(events, features, valid_pct=valid_pct, seed=seed, split=split, bs=bs, valid_bs=valid_bs)

    @classmethod
    def from_movielens(
        cls, folder: str | Path, *, features: bool = False, **options: Unpack[CollabOptions]
    ) -> DataLoaders:
        """Read a folder as MovieLens comes; items then also answer to their titles.

        With `features`, a film's year and genres are its features.
        """
        if features:
            options = {**options, "item_features": movielens_features(folder)}
        return _loaders(Path(folder), **options)


def _loaders(
    source: Any,
    *,
    user_name: str | None = None,
    item_name: str | None = None,
    rating_name: str | None = None,
    timestamp_name: str | None = None,
    valid_pct: float = 0.2,
    seed: int = 42,
    split: SplitName = "random",
    bs: int = 64,
    valid_bs: int | None = None,
    duplicates: Literal["last", "all"] = "last",
    on_bad_item: Literal["skip", "error"] = "skip",
    user_features: Any = None,
    item_features: Any = None,
) -> DataLoaders:
    if on_bad_item not in ("skip", "error"):
        raise OptionError(f"on_bad_item={on_bad_item!r} is neither 'skip' nor 'error'")
    events = read_events(
        source,
        user=user_name,
        item=item_name,
        rating=rating_name,
        timestamp=timestamp_name,
        duplicates=duplicates,
        on_bad_item=on_bad_item,
    )
    features = {USER: user_features, ITEM: item_features}
    return _from_events(events, features, valid_pct=valid_pct, seed=seed, split=split, bs=bs, valid_bs=valid_bs)


def _from_events(
    events: Events,
    tables: Mapping[str, Any],
    *,
    valid_pct: float,
    seed: int,
    split: SplitName,
    bs: int,
    valid_bs: int | None,
) -> RatedLoaders:
    if events.rating is None:
        raise DataError("these events have no ratings; name their column, or rank with a model of implicit feedback")
    parts = _split(events, split, valid_pct, seed)
    sides = {
        field: _encoded(field, ids, tables[field], events.columns[field], parts.train)
        for field, ids in _by_field(events).items()
    }
    codes = {field: side.codes for field, side in sides.items()}
    features = {f"{field}_features": side.features for field, side in sides.items() if side.features is not None}
    plan = id_plan(
        {field: side.vocab for field, side in sides.items()},
        events.titles,
        target=RegressionBlock(),
        features=features,
    )

    def loader(positions: Codes, size: int, *, training: bool) -> ColumnLoader:
        return _column_loader(plan, events, codes, positions, bs=size, seed=seed, training=training)

    def test(new: Any, with_labels: bool) -> ColumnLoader:
        return ratings_loader(plan, new, columns=events.columns, with_labels=with_labels, bs=valid_bs or VALID_BS)

    said = [note for made in features.values() for note in made.notes]
    return RatedLoaders(
        features=features,
        seen={field: side.seen for field, side in sides.items()},
        train=loader(parts.train, bs, training=True),
        valid=loader(parts.valid, valid_bs or max(bs, VALID_BS), training=False) if len(parts.valid) else None,
        test=test,
        notes=(*events.notes, *parts.notes, *said, *_unseen(sides, parts.valid)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """Hold the encoded users, or items: the vocabulary, a code for each rating, whom training sees, and features."""

    vocab: tuple[Label, ...]
    codes: Codes
    seen: Mask
    features: Features | None


def _encoded(field: str, ids: pa.ChunkedArray, source: Any, column: str, train: Codes) -> _Side:
    """Encode ids; who has features has a code too, also without a training rating."""
    if source is None:
        vocabs, codes = fit_encode_ids({field: ids}, train=train)
        return _Side(
            vocab=vocabs[field], codes=codes[field], seen=_seen(len(vocabs[field]), codes[field]), features=None
        )
    table = read_raw(source).table
    id_column = id_column_of(table, column, field)
    table = table.filter(table.column(id_column).is_valid())
    described = same_kind(table.column(id_column), ids, field)
    count = len(described)
    vocabs, both = fit_encode_ids(
        {field: pa.chunked_array([*described.chunks, *ids.chunks])}, train=np.r_[np.arange(count), train + count]
    )
    rated = both[field][count:]
    seen = _seen(len(vocabs[field]), rated[train])
    made = fit_features(table, id_column=id_column, codes=both[field][:count], seen=seen, what=field)
    return _Side(vocab=vocabs[field], codes=rated, seen=seen, features=made)


def _seen(num_ids: int, codes: Codes) -> Mask:
    """Say of which codes there are training ratings; never of the unknown."""
    seen = np.zeros(num_ids + 1, dtype=np.bool_)
    seen[codes] = True
    seen[UNKNOWN] = False
    return seen


def _split(events: Events, how: str, valid_pct: float, seed: int) -> Split:
    if valid_pct == 0:
        return Split(train=np.arange(len(events)), valid=np.zeros(0, dtype=np.int64))
    users = fit_encode_ids({USER: events.user})[1][USER] if how == "leave-last-out" else np.arange(len(events))
    return split_rows(how, users=users, times=events.time, valid_pct=valid_pct, seed=seed)


def _unseen(sides: Mapping[str, _Side], valid: Codes) -> list[str]:
    """Say how many validation ratings are of users and items without a training rating."""
    notes = []
    for field, side in sides.items():
        count = int((~side.seen[side.codes[valid]]).sum())
        instead = "they count as unknown" if side.features is None else "their features stand in for them"
        if count:
            notes.append(
                f"{count} of {len(valid)} validation ratings are of {field}s that training does not see; {instead}"
            )
    return notes


def id_plan(
    vocabs: Mapping[str, Sequence[Any]],
    titles: Mapping[Any, str],
    *,
    target: RegressionBlock | None = None,
    features: Mapping[str, Features] | None = None,
) -> Plan:
    """Return the plan of user and item in fitted vocabularies, of features, and of a rating if there is a target.

    `titles` names items, where it knows them; the others are called by their id.
    """
    given = features or {}
    names = tuple(titles.get(label, str(label)) for label in vocabs[ITEM]) if titles else None
    steps: list[On] = [
        On(USER, Identify(vocab=tuple(vocabs[USER]))),
        On(ITEM, Identify(vocab=tuple(vocabs[ITEM]), names=names)),
    ]
    steps += [On(name, made.transform) for name, made in given.items()]
    blocks: dict[str, Block] = {USER: IdBlock(), ITEM: IdBlock(), **{name: made.block for name, made in given.items()}}
    return Plan.compile(
        blocks if target is None else {**blocks, RATING: target},
        inputs=tuple(blocks),
        targets=() if target is None else (RATING,),
        item_tfms=steps,
        train=lambda _: (),
    )


def _column_loader(
    plan: Plan,
    events: Events,
    codes: Mapping[str, Codes],
    positions: Codes,
    *,
    bs: int,
    seed: int = 42,
    training: bool = False,
) -> ColumnLoader:
    columns = {name: torch.from_numpy(column[positions]) for name, column in codes.items()}
    # Features are looked up by code: a column of nothing says so.
    columns |= {name: torch.empty(len(positions), 0) for name in plan.inputs if name not in columns}
    if events.rating is not None:
        columns[RATING] = torch.from_numpy(events.rating[positions].astype(np.float32))

    def item(position: int) -> str:
        names = (events.user[position].as_py(), events.item[position].as_py())
        return f"row {events.rows[position] + 1}: user {names[0]!r}, item {names[1]!r}"

    return ColumnLoader(
        columns,
        plan,
        bs=bs,
        shuffle=training,
        training=training,
        seed=seed,
        positions=torch.from_numpy(positions),
        item=item,
    )


def ratings_loader(
    plan: Plan,
    source: Any,
    *,
    columns: Mapping[str, str] | None = None,
    with_labels: bool = True,
    on_bad_item: Literal["skip", "error"] = "error",
    bs: int = VALID_BS,
) -> ColumnLoader:
    """Return a loader of new pairs, one for each row of a source, in its order; `columns` names them by role.

    A source is what `read_events` reads, or a sequence of (user, item) pairs. Ids training did not see are unknown.

    Raises:
        DataError: a row without user or item, or, with labels, without a rating, unless those are to be skipped.
    """
    names = dict(columns or {})
    events = read_events(
        _as_rows(source, names),
        user=names.get(USER),
        item=names.get(ITEM),
        rating=names.get(RATING) if with_labels else None,
        with_rating=with_labels,
        duplicates="all",
        on_bad_item=on_bad_item,
    )
    for note in events.warnings:
        LOG.warning(note)
    codes = {name: encode_ids(column, _identify(plan, name)) for name, column in _by_field(events).items()}
    return _column_loader(plan, events, codes, np.arange(len(events)), bs=bs)


def _by_field(events: Events) -> dict[str, Any]:
    return {USER: events.user, ITEM: events.item}


def _as_rows(source: Any, names: Mapping[str, str]) -> Any:
    """Turn (user, item) or (user, item, rating) tuples into mappings; leave everything else as it is."""
    if isinstance(source, str | Path) or not isinstance(source, Sequence):
        return source
    if len(source) == 0:
        raise DataError("there are no pairs to load: the list is empty")
    if not all(isinstance(row, tuple | list) and len(row) in (2, 3) for row in source):
        return source
    keys = [names.get(field, field) for field in (USER, ITEM, RATING)]
    return [dict(zip(keys, row, strict=False)) for row in source]


def _identify(plan: Plan, name: str) -> Identify:
    """Return the fitted transform of a field."""
    steps = [step.transform for step in plan.fields[name].item_steps if isinstance(step.transform, Identify)]
    if not steps:
        raise DataError(f"field {name!r} of this model is not encoded by Identify, so new ids cannot be looked up")
    return steps[0]
