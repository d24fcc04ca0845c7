"""Recommender: the best items for users, for people with a history, or beside an item."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graftwork.api import Learner, OptionError, unknown
from graftwork_collab.blocks import UNKNOWN, Identify, Label
from graftwork_collab.ranker import Ranker
from graftwork_collab.ranking_blocks import IdentifyItems
from graftwork_collab.ranking_data import id_finder
from graftwork_collab.topk import Seen, TopK, check_k

if TYPE_CHECKING:
    import pandas as pd

    from graftwork import Predictor

__all__ = ["Recommendations", "Recommender"]

LOG = logging.getLogger("graftwork")
Codes: TypeAlias = NDArray[np.int64]
SHOWN = 3


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendations:
    """Hold the best items of each row, best first.

    `asked` are the users, or the items to which others are similar, or numbers of histories. `codes` int64 and
    `scores` (rows, k) are on the CPU; where there are no more items, the code is -1 and the score -inf. `fallback` says
    for which rows popular items are given, since nothing is known of them.
    """

    asked: tuple[Label, ...]
    codes: Tensor
    scores: Tensor
    vocab: tuple[Label, ...]
    names: tuple[str, ...] | None = None
    fallback: NDArray[np.bool_]

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.asked)

    @property
    def items(self) -> list[list[Label]]:
        """The items' ids, a list for each row."""
        return [[self.vocab[code - 1] for code in row if code > UNKNOWN] for row in self.codes.tolist()]

    @property
    def titles(self) -> list[list[str]]:
        """What people call the items, a list for each row."""
        names = self.names or tuple(map(str, self.vocab))
        return [[names[code - 1] for code in row if code > UNKNOWN] for row in self.codes.tolist()]

    def frame(self) -> pd.DataFrame:
        """Return one line for each recommendation: asked, place (from 1), item, title, score."""
        import pandas as pd

        rows, places = np.nonzero(self.codes.numpy() > UNKNOWN)
        codes = self.codes.numpy()[rows, places] - 1
        names = self.names or tuple(map(str, self.vocab))
        return pd.DataFrame(
            {
                "asked": [self.asked[row] for row in rows],
                "place": places + 1,
                "item": [self.vocab[code] for code in codes],
                "title": [names[code] for code in codes],
                "score": self.scores.numpy()[rows, places],
            }
        )


@final
class Recommender:
    """Recommend with a trained ranker: `Recommender(learner)`, or `Recommender(load_learner("model.graft"))`.

    All users can be asked about at once: scores are computed and selected from block by block.
    """

    def __init__(self, source: Learner | Predictor) -> None:
        """Look into a learner or a loaded model; raise OptionError if it does not rank items."""
        if not isinstance(source.module, Ranker):
            raise OptionError(
                f"a {type(source.module).__name__} does not rank items; train one with ranking_learner(data)"
            )
        self.module: Ranker = source.module
        plan = source.data.plan if isinstance(source, Learner) else source.plan
        self._users, self._items = id_finder(plan, "user", Identify), id_finder(plan, "item", IdentifyItems)
        self._find_user, self._find_item = self._users.finder(), self._items.finder()

    @property
    def users(self) -> tuple[Label, ...]:
        """The users training has seen, sorted."""
        return self._users.vocab or ()

    @property
    def names(self) -> tuple[str, ...]:
        """What people call the items, in the order of their codes."""
        return self._items.names or tuple(map(str, self._items.vocab or ()))

    @property
    def num_items(self) -> int:
        """Number of items that can be recommended."""
        return len(self._items.vocab or ())

    def recommend(
        self, users: Sequence[Label] | None = None, k: int = 10, *, exclude_seen: bool = True
    ) -> Recommendations:
        """Return the k best items for users, by default for all that training has seen, in the vocabulary's order.

        Users nobody knows get the most popular items, which is said. With `exclude_seen` nobody is recommended what
        they had in training.

        Raises:
            OptionError: k is not between 1 and the number of items.
        """
        check_k(k, self.num_items)
        if users is None:
            asked = self.users
            codes = np.arange(1, len(asked) + 1)
        else:
            asked = tuple(_listed(users, "users"))
            codes = np.array([self._find_user(label) for label in asked], dtype=np.int64)
        fallback = codes == UNKNOWN
        _say(asked, fallback, "of the users asked about do not occur in training")
        found = self._best(codes, k, exclude_seen=exclude_seen)
        return self._recommendations(asked, self._popular(found, fallback), fallback)

    def recommend_for(
        self, histories: Sequence[Sequence[Label]], k: int = 10, *, exclude_seen: bool = True
    ) -> Recommendations:
        """Return the k best items for people of whom only their items are known, the oldest first (fold-in).

        Items nobody knows are left out, which is said; a person of whose items none is known gets popular ones.
        """
        check_k(k, self.num_items)
        seen = self._seen(histories)
        fallback = np.diff(seen.start) == 0
        asked = tuple(range(len(fallback)))
        _say(asked, fallback, "of the histories hold no item that occurs in training")
        with _evaluating(self.module), torch.no_grad():
            known = self.module.represent_new(seen)
            found = _on_cpu(self.module.rank(known, k, seen if exclude_seen else None))
        return self._recommendations(asked, self._popular(found, fallback), fallback)

    def similar_items(self, items: Sequence[Label], k: int = 10) -> Recommendations:
        """Return the k items most like each of `items`; raise UnknownName for an item training has not seen."""
        check_k(k, self.num_items)
        asked = tuple(_listed(items, "items"))
        codes = [self._find_item(label) for label in asked]
        for label, code in zip(asked, codes, strict=True):
            if code == UNKNOWN:
                known = [*map(str, self._items.vocab or ()), *(self._items.names or ())]
                raise unknown("item", str(label), known)
        with _evaluating(self.module), torch.no_grad():
            found = _on_cpu(self.module.similar(torch.tensor(codes, device=self._device()), k))
        return self._recommendations(asked, found, np.zeros(len(asked), dtype=bool))

    def _best(self, users: Codes, k: int, *, exclude_seen: bool) -> TopK:
        parts, size = [], self.module.rows_at_once
        with _evaluating(self.module), torch.no_grad():
            for low in range(0, max(1, len(users)), size):
                part = torch.from_numpy(users[low : low + size]).to(self._device())
                seen = self.module.seen_by(part) if exclude_seen else None
                parts.append(_on_cpu(self.module.rank(self.module.represent(part), k, seen)))
        return TopK(scores=torch.cat([p.scores for p in parts]), codes=torch.cat([p.codes for p in parts]))

    def _device(self) -> torch.device:
        return self.module.popularity.device

    def _popular(self, found: TopK, fallback: NDArray[np.bool_]) -> TopK:
        """Put the most popular items into the rows of which nothing is known; their score is the popularity."""
        if not fallback.any():
            return found
        best = self.module.popularity.cpu()[1:].sort(descending=True, stable=True)
        rows, k = torch.from_numpy(np.flatnonzero(fallback)), found.codes.shape[1]
        found.codes[rows], found.scores[rows] = best.indices[:k] + 1, best.values[:k]
        return found

    def _seen(self, histories: Sequence[Sequence[Label]]) -> Seen:
        codes, start, unseen = [], [0], 0
        for history in histories:
            found = [self._find_item(label) for label in _listed(history, "items of a history")]
            unseen += found.count(UNKNOWN)
            # Of an item that occurs twice the last place counts.
            own = list(dict.fromkeys(reversed([code for code in found if code != UNKNOWN])))[::-1]
            codes += own
            start.append(len(codes))
        if unseen:
            LOG.warning("%d items of the histories do not occur in training; they are left out", unseen)
        return Seen(start=np.array(start, dtype=np.int64), codes=np.array(codes, dtype=np.int32))

    def _recommendations(self, asked: tuple[Label, ...], found: TopK, fallback: NDArray[np.bool_]) -> Recommendations:
        return Recommendations(
            asked=asked,
            codes=found.codes,
            scores=found.scores,
            vocab=self._items.vocab or (),
            names=self._items.names,
            fallback=fallback,
        )


def _on_cpu(found: TopK) -> TopK:
    return TopK(scores=found.scores.cpu(), codes=found.codes.cpu())


def _listed(values: Sequence[Label], what: str) -> Sequence[Label]:
    if isinstance(values, str | int):
        raise OptionError(f"{what} come as a list: [{values!r}]")
    return values


def _say(asked: Sequence[Label], fallback: NDArray[np.bool_], what: str) -> None:
    if fallback.any():
        first = ", ".join(repr(asked[row]) for row in np.flatnonzero(fallback)[:SHOWN])
        LOG.warning("%d of %d %s (%s); they get popular items", fallback.sum(), len(fallback), what, first)


@contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)
