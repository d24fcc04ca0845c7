"""RankingDataLoaders: interactions to train on, and one row per user to rank the whole catalogue for."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeAlias, TypedDict, Unpack, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graftwork.api import Block, ColumnLoader, DataError, DataLoaders, On, OptionError, Plan, PlanError, Split, unknown
from graftwork_collab.blocks import UNKNOWN, IdBlock, Identify, Label, encode_ids, fit_encode_ids
from graftwork_collab.interactions import Interactions
from graftwork_collab.ranking_blocks import (
    NOBODY,
    IdentifyItems,
    ItemsBlock,
    RankedItemsBlock,
    RankingBlock,
    SampleNegatives,
)
from graftwork_collab.sources import read_events
from graftwork_collab.splits import split_rows
from graftwork_collab.topk import check_k

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from graftwork_collab.events import Events

__all__ = [
    "RankingDataLoaders",
    "RankingOptions",
    "held_out_from",
    "held_out_loader",
    "id_finder",
    "read_interactions",
    "windows",
]

LOG = logging.getLogger("graftwork")
Codes: TypeAlias = NDArray[np.int64]
Source: TypeAlias = "str | Path | pa.Table | pd.DataFrame"

BLOCK_SCORES: Final = 2**25
DEFAULT_NEGATIVES: Final = 256


class RankingOptions(TypedDict, total=False):
    """List the options all sources share.

    `user`, `item`, `weight` and `timestamp` name columns; those left out are found by their names, but a weight is only
    used if it is named: rows that weigh nothing are left out, and of a repeated pair the weights add up. `split` is
    "random" (`valid_pct` of the rows), "leave-last-out" (each user's last one) or "time" (the latest ones). `k` items
    are given in a prediction. `negatives` are drawn for each batch, a share `in_batch` of them from the batch itself.
    `history` is the length of the histories that sequential models read. Not more than `valid_users` users are
    validated, chosen at random if there are more.
    """

    user: str | None
    item: str | None
    weight: str | None
    timestamp: str | None
    split: str | Split
    valid_pct: float
    seed: int
    bs: int
    k: int
    negatives: int
    in_batch: float
    history: int | None
    valid_users: int
    on_bad_item: Literal["skip", "error"]


_DEFAULTS: Final[RankingOptions] = {
    "split": "random",
    "valid_pct": 0.2,
    "seed": 42,
    "bs": 1024,
    "k": 10,
    "negatives": DEFAULT_NEGATIVES,
    "in_batch": 0.5,
    "history": None,
    "valid_users": 20_000,
    "on_bad_item": "skip",
}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """Hold events with their weights, each pair of user and item once."""

    events: Events
    weights: NDArray[np.float32] | None
    notes: tuple[str, ...]
    how: tuple[str, ...] = ()


def read_interactions(source: Source, options: Mapping[str, Any]) -> _Rows:
    """Read who chose what; raise DataError if nothing can be used.

    Rows with a weight of 0 or less are left out and counted, and so are repetitions of a pair.
    """
    weight = options.get("weight")
    events = read_events(
        source,
        user=options.get("user"),
        item=options.get("item"),
        rating=weight,
        timestamp=options.get("timestamp"),
        with_rating=False,
        duplicates="all",
        on_bad_item=options.get("on_bad_item", "skip"),
    )
    notes = list(events.warnings)
    weights = None if weight is None else events.rating
    if weights is not None:
        kept = weights > 0
        if not kept.all():
            notes.append(f"left out {int((~kept).sum())} of {len(kept)} rows with {weight!r} not above 0")
            if not kept.any():
                raise DataError(f"no {weight!r} is above 0, so nobody chose anything; {notes[-1]}")
            events, weights = events.take(np.flatnonzero(kept)), weights[kept]
    return _once(events, weights, notes)


def _once(events: Events, weights: NDArray[np.float64] | None, notes: list[str]) -> _Rows:
    """Keep the last event of each pair, with all their weights."""
    _, codes = fit_encode_ids({"user": events.user, "item": events.item})
    pairs = codes["user"] * (codes["item"].max() + 1) + codes["item"]
    keys = (pairs,) if events.time is None else (events.time, pairs)
    order = np.lexsort(keys)
    last = np.append(pairs[order][1:] != pairs[order][:-1], True)
    repeated = len(pairs) - int(last.sum())
    if repeated:
        how = "they count once" if weights is None else "their weights are added up"
        notes.append(f"{repeated} rows repeat a pair of user and item; {how}")
        if weights is not None:
            ends = np.flatnonzero(last)
            totals = np.add.reduceat(weights[order], np.append(0, ends[:-1] + 1))
            weights = weights.copy()
            weights[order[ends]] = totals
        kept = np.sort(order[last])
        events, weights = events.take(kept), None if weights is None else weights[kept]
    return _Rows(
        events=events, how=events.how, weights=None if weights is None else weights.astype(np.float32),
        notes=tuple(notes),
    )  # fmt: skip


@final
class RankingDataLoaders(DataLoaders):
    """Load interactions for training; for validation one row per user, for whom everything is ranked.

    `interactions` are those of the training split; `num_items` counts its items, `popularity` (item codes,) how often
    each was chosen. A training batch has the fields user (B,), item (B, 1) and y (B,), a validation batch user (U,),
    item (U, 0), which asks for all of them, and y (U, M), what was held out.
    """

    def __init__(
        self,
        *,
        train: ColumnLoader,
        valid: ColumnLoader | None,
        interactions: Interactions,
        notes: Sequence[str] = (),
        how: Sequence[str] = (),
    ) -> None:
        """Put loaders together; `notes` say what was left out or changed, `how` only how the source was read."""
        super().__init__(train=train, valid=valid, test=self._rows, notes=notes)
        self.interactions, self.how = interactions, tuple(how)

    def _rows(self, items: Any, with_labels: bool) -> ColumnLoader:
        """Make a loader of users (ids), or with labels of interactions that are to be found."""
        if with_labels:
            loader, notes = held_out_from(items, self.plan, {})
            for note in notes:
                LOG.warning(note)
            return loader
        return users_loader(items, self.plan)

    @property
    def k(self) -> int:
        """Number of items in a prediction."""
        return ranked(self.plan).k

    @property
    def num_items(self) -> int:
        """Number of items in training."""
        return self.interactions.num_items

    @property
    def popularity(self) -> Tensor:
        """Number of training interactions of each item code, float32."""
        return torch.from_numpy(self.interactions.popularity)

    @property
    def held_out(self) -> tuple[Tensor, Tensor]:
        """The validated users (U,) and their held-out items (U, M), padded with -1, by code."""
        if not isinstance(self.valid, ColumnLoader):
            raise DataError("nothing was held out for validation")
        return self.valid.columns["user"], self.valid.columns["y"]

    @classmethod
    def from_df(cls, df: pd.DataFrame | pa.Table, **options: Unpack[RankingOptions]) -> Self:
        """Make loaders from a frame or an Arrow table; see RankingOptions."""
        return cls.from_source(df, **options)

    @classmethod
    def from_csv(cls, path: str | Path, **options: Unpack[RankingOptions]) -> Self:
        """Make loaders from a text file; its separator, encoding and header are found out."""
        return cls.from_source(path, **options)

    @classmethod
    def from_parquet(cls, path: str | Path, **options: Unpack[RankingOptions]) -> Self:
        """Make loaders from a Parquet file, or a folder of them."""
        return cls.from_source(path, **options)

    @classmethod
    def from_source(cls, source: Source, **options: Unpack[RankingOptions]) -> Self:
        """Make loaders from a frame, an Arrow table, a file, or a folder in MovieLens' format.

        Raises:
            DataError: what cannot be read or split.
            OptionError: a k that is more than there are items, and other options that do not fit.
        """
        given: dict[str, Any] = {**_DEFAULTS, **options}
        _check(given)
        rows = read_interactions(source, given)
        return cls(**_loaders(rows, given))


def _check(options: Mapping[str, Any]) -> None:
    known = RankingOptions.__annotations__
    for name in options:
        if name not in known:
            raise unknown("option of RankingDataLoaders", name, known)
    if options["k"] < 1:
        raise OptionError(f"k={options['k']}: a ranking shows at least one item")
    if options["history"] is not None and options["history"] < 2:
        raise OptionError(f"history={options['history']}: sequential models need at least two items, 50 is common")
    if options["valid_users"] < 1:
        raise OptionError(f"valid_users={options['valid_users']}: validate at least one user")


def _split(rows: _Rows, options: Mapping[str, Any]) -> Split:
    how = options["split"]
    if isinstance(how, Split):
        return how
    _, users = fit_encode_ids({"user": rows.events.user})
    return split_rows(
        how, users=users["user"], times=rows.events.time, valid_pct=options["valid_pct"], seed=options["seed"]
    )


def _loaders(rows: _Rows, options: Mapping[str, Any]) -> dict[str, Any]:
    split, events = _split(rows, options), rows.events
    vocabs, codes = fit_encode_ids({"user": events.user, "item": events.item}, train=split.train)
    times, train = events.time, split.train
    interactions, order = Interactions.sorted(
        codes["user"][train],
        codes["item"][train],
        num_users=len(vocabs["user"]),
        num_items=len(vocabs["item"]),
        times=None if times is None else times[train],
        weights=None if rows.weights is None else rows.weights[train],
    )
    check_k(options["k"], interactions.num_items)
    plan = _plan(vocabs, _names(events, vocabs["item"]), options)
    notes = [*rows.notes, *split.notes]
    if options["history"] is not None and rows.weights is not None:
        notes.append("sequential training looks at the order of items; their weights are not used")
    valid = None
    if len(split.valid):
        valid, said = _held_out(events, codes, split.valid, plan, options)
        notes += said
    loader = _training(interactions, plan, options, positions=train[order])
    return {"train": loader, "valid": valid, "interactions": interactions, "notes": notes, "how": rows.how}


def _names(events: Events, vocab: tuple[Label, ...]) -> tuple[str, ...] | None:
    if not events.titles:
        return None
    return tuple(str(events.titles.get(label, label)) for label in vocab)


def _plan(vocabs: Mapping[str, tuple[Label, ...]], names: tuple[str, ...] | None, options: Mapping[str, Any]) -> Plan:
    """Build the plan: its vocabularies are fitted already."""
    users, items = vocabs["user"], vocabs["item"]
    length = options["history"]
    inputs: dict[str, Block] = {"user": IdBlock(), "item": ItemsBlock()}
    if length is not None:
        inputs["history"] = ItemsBlock(length=length)
    several = tuple(name for name in (*inputs, "y") if name != "user")
    negatives = SampleNegatives(num=options["negatives"], in_batch=options["in_batch"], num_items=len(items))
    return Plan.compile(
        {**inputs, "y": RankingBlock(k=options["k"])},
        inputs=list(inputs),
        targets=["y"],
        item_tfms=[On("user", Identify(vocab=users)), On(several, IdentifyItems(vocab=items, names=names))],
        batch_tfms=[On("item", negatives)],
        train=lambda _: (),
    )


def _training(seen: Interactions, plan: Plan, options: Mapping[str, Any], *, positions: Codes) -> ColumnLoader:
    """Return a loader of interactions, or with histories one of stretches of each user's sequence."""
    if options["history"] is not None:
        columns, weights, rows = windows(seen, options["history"]), None, None
    else:
        columns = {
            "user": torch.from_numpy(seen.users),
            "item": torch.from_numpy(seen.items.astype(np.int64))[:, None],
            "y": torch.zeros(len(seen), dtype=torch.int64),
        }
        weights = None if seen.weights is None else torch.from_numpy(seen.weights)
        rows = torch.from_numpy(positions)
    return ColumnLoader(
        columns, plan, bs=options["bs"], shuffle=True, seed=options["seed"], training=True, positions=rows,
        weights=weights,
    )  # fmt: skip


def windows(seen: Interactions, length: int) -> dict[str, Tensor]:
    """Cut each user's sequence, from its end, into stretches of `length` items and those that come next.

    history (W, length) is padded with 0 in front; item (W, length) are the next ones; y is 0, or -1 where padded.
    """
    steps = np.maximum(np.diff(seen.start) - 1, 0)
    counts = -(-steps // length)
    if counts.sum() == 0:
        raise DataError("no user has two interactions in training, so there is no sequence to learn from")
    users = np.repeat(np.arange(len(counts)), counts)
    number = np.arange(len(users)) - np.repeat(np.cumsum(counts) - counts, counts)
    places = (steps[users] - number * length - length)[:, None] + np.arange(length)
    there = places >= 0
    flat = seen.start[users][:, None] + np.maximum(places, 0)
    return {
        "user": torch.from_numpy(users),
        "item": torch.from_numpy(np.where(there, seen.items[flat + 1], UNKNOWN).astype(np.int64)),
        "history": torch.from_numpy(np.where(there, seen.items[flat], UNKNOWN).astype(np.int64)),
        "y": torch.from_numpy(np.where(there, 0, NOBODY).astype(np.int64)),
    }


# -- what is held out --------------------------------------------------------------------------------------------------


def _held_out(
    events: Events, codes: Mapping[str, Codes], rows: Codes, plan: Plan, options: Mapping[str, Any]
) -> tuple[ColumnLoader, list[str]]:
    """Return a loader of the users with held-out rows, those training does not know among them."""
    _, people = fit_encode_ids({"user": events.user.take(rows)})
    loader, notes = held_out_loader(
        people["user"], codes["user"][rows], codes["item"][rows], plan,
        valid_users=options["valid_users"], seed=options["seed"],
    )  # fmt: skip
    return loader, notes


def held_out_loader(
    people: Codes,
    users: Codes,
    items: Codes,
    plan: Plan,
    *,
    valid_users: int,
    seed: int = 42,
) -> tuple[ColumnLoader, list[str]]:
    """Return a loader with one row for each of `people` (N,) that has rows, and what is to be said about it.

    `users` and `items` (N,) are the codes training knows them by; y is padded to the longest row.
    """
    notes = []
    order = np.argsort(people, kind="stable")
    people, users, items = people[order], users[order], items[order]
    begin = np.flatnonzero(np.append(True, people[1:] != people[:-1]))
    sizes = np.diff(np.append(begin, len(people)))
    if len(begin) > valid_users:
        notes.append(f"{valid_users} of {len(begin)} users with held-out items are validated, chosen at random")
        chosen = np.sort(np.random.default_rng(seed).choice(len(begin), valid_users, replace=False))
        kept = np.repeat(np.isin(np.arange(len(begin)), chosen), sizes)
        people, users, items = people[kept], users[kept], items[kept]
        begin, sizes = np.cumsum(sizes[chosen]) - sizes[chosen], sizes[chosen]
    strangers, unseen = int((users[begin] == UNKNOWN).sum()), int((items == UNKNOWN).sum())
    if strangers:
        notes.append(f"{strangers} of {len(begin)} validated users do not occur in training; they get popular items")
    if unseen:
        notes.append(f"{unseen} of {len(items)} held-out items do not occur in training; they count, and are not found")
    held_out = torch.full((len(begin), int(sizes.max())), NOBODY, dtype=torch.int64)
    within = np.arange(len(items)) - np.repeat(begin, sizes)
    held_out[np.repeat(np.arange(len(begin)), sizes), within] = torch.from_numpy(items)
    columns = {**_asked(torch.from_numpy(users[begin]), _history(plan)), "y": held_out}
    return ColumnLoader(columns, plan, bs=_rows_at_once(plan, held_out.shape[1])), notes


def held_out_from(source: Source, plan: Plan, options: Mapping[str, Any]) -> tuple[ColumnLoader, list[str]]:
    """Return a loader of all of a source's interactions as held-out items, encoded by a trained plan."""
    rows = read_interactions(source, {**_DEFAULTS, **options})
    find_user, find_item = id_finder(plan, "user", Identify), id_finder(plan, "item", IdentifyItems)
    users, items = encode_ids(rows.events.user, find_user), encode_ids(rows.events.item, find_item)
    _, people = fit_encode_ids({"user": rows.events.user})
    loader, notes = held_out_loader(people["user"], users, items, plan, valid_users=len(rows.events))
    return loader, [*rows.notes, *notes]


def users_loader(users: Sequence[Label], plan: Plan) -> ColumnLoader:
    """Return a loader of users by their ids, for whom everything is ranked; raise DataError if there are none."""
    if isinstance(users, str) or len(users) == 0:
        raise DataError(f"users to rank items for come as a list of ids, not as {users!r}")
    find = id_finder(plan, "user", Identify).finder()
    codes = torch.tensor([find(user) for user in users], dtype=torch.int64)
    columns = _asked(codes, _history(plan))
    return ColumnLoader(columns, plan, bs=_rows_at_once(plan, 1), item=lambda position: users[position])


def _asked(users: Tensor, history: int | None) -> dict[str, Tensor]:
    """Return the inputs that ask for all items, by user, with the history seen in training."""
    columns = {"user": users, "item": torch.zeros((len(users), 0), dtype=torch.int64)}
    if history is not None:
        columns["history"] = torch.full((len(users), history), NOBODY, dtype=torch.int64)
    return columns


def _rows_at_once(plan: Plan, held_out: int) -> int:
    """Return how many users' scores, and comparisons with held-out items, fit into memory."""
    block = ranked(plan)
    return max(1, min(BLOCK_SCORES // block.num_outputs, BLOCK_SCORES // (block.depth * max(1, held_out)), 4096))


def _history(plan: Plan) -> int | None:
    """Return the length of the histories a plan has, None if it has none."""
    block = plan.fields["history"].raw if "history" in plan.fields else None
    return block.length if isinstance(block, ItemsBlock) else None


def ranked(plan: Plan) -> RankedItemsBlock:
    """Return the target of a ranking."""
    block = plan.target
    if not isinstance(block, RankedItemsBlock):
        raise PlanError(f"this data has the target {block!r}, which is no ranking")
    return block


def id_finder(plan: Plan, field: str, kind: type[Identify] | type[IdentifyItems]) -> Identify:
    """Return the transform that encodes one id of a field."""
    found = next(s.transform for s in plan.fields[field].item_steps if isinstance(s.transform, kind))
    return Identify(vocab=found.vocab, names=found.names)
