"""Interactions: who chose what, encoded, sorted by user and time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from graftwork_collab.topk import Seen

__all__ = ["Interactions"]

Codes: TypeAlias = NDArray[np.int64]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Interactions:
    """Hold training interactions, those of user u at `start[u]:start[u + 1]`, the oldest first.

    Codes count from 1; 0 is unknown and has none. `items` are int32, `weights` float32 or None.
    """

    start: Codes
    items: NDArray[np.int32]
    weights: NDArray[np.float32] | None
    num_items: int

    @classmethod
    def sorted(
        cls,
        users: Codes,
        items: Codes,
        *,
        num_users: int,
        num_items: int,
        times: NDArray[Any] | None = None,
        weights: NDArray[np.float32] | None = None,
    ) -> tuple[Interactions, Codes]:
        """Sort rows by user and time (by place where times are equal or there are none); return also their order."""
        order = np.argsort(users, kind="stable") if times is None else np.lexsort((times, users))
        start = np.zeros(num_users + 2, dtype=np.int64)
        np.cumsum(np.bincount(users, minlength=num_users + 1), out=start[1:])
        return cls(
            start=start,
            items=items[order].astype(np.int32),
            weights=None if weights is None else weights[order],
            num_items=num_items,
        ), order

    def __len__(self) -> int:
        """Count the interactions."""
        return len(self.items)

    @property
    def num_users(self) -> int:
        """Number of known users."""
        return len(self.start) - 2

    @property
    def users(self) -> Codes:
        """The user of each interaction."""
        return np.repeat(np.arange(len(self.start) - 1), np.diff(self.start))

    @property
    def popularity(self) -> NDArray[np.float32]:
        """Number of interactions of each item code."""
        return np.bincount(self.items, minlength=self.num_items + 1).astype(np.float32)

    @property
    def seen(self) -> Seen:
        """The same without weights."""
        return Seen(start=self.start, codes=self.items)
