"""Split ratings or events: at random, each user's last ones out, or by time. All of it is vectorised."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from graftwork.api import DataError, OptionError, RandomSplitter, Split, unknown

__all__ = ["SplitName", "leave_last_out", "split_rows", "split_time"]

SplitName = Literal["random", "time", "leave-last-out"]
Codes: TypeAlias = NDArray[np.int64]
Times: TypeAlias = NDArray[Any]

_NAMES = ("random", "time", "leave-last-out")


def split_rows(
    how: str,
    *,
    users: Codes,
    times: Times | None,
    valid_pct: float = 0.2,
    seed: int = 42,
) -> Split:
    """Split rows by the name of a way to do so; `users` (N,) are any codes, `times` (N,) any ordered numbers.

    Raises:
        UnknownName: there is no such way.
        DataError: a split by time of rows without times, or nothing on one side.
    """
    if how == "random":
        return RandomSplitter(valid_pct, seed=seed)(users)
    if how == "leave-last-out":
        return leave_last_out(users, times)
    if how == "time":
        if times is None:
            raise DataError(
                "split='time' needs a column of times, and there is none; "
                "name it with timestamp=, or use split='random'"
            )
        return split_time(times, valid_pct=valid_pct)
    raise unknown("split", how, _NAMES)


def leave_last_out(users: Codes, times: Times | None = None, *, n: int = 1) -> Split:
    """Take each user's last `n` rows for validation: by time, and by place where times are equal or there are none.

    Users with `n` rows or fewer stay in training whole; the notes count them.
    """
    if n < 1:
        raise OptionError(f"n={n}: leave at least one row of each user out")
    order = np.argsort(users, kind="stable") if times is None else np.lexsort((times, users))
    by_user = users[order]
    starts = np.flatnonzero(np.r_[True, by_user[1:] != by_user[:-1]]) if len(by_user) else np.zeros(0, dtype=np.int64)
    sizes = np.diff(np.r_[starts, len(by_user)])
    from_end = np.repeat(starts + sizes, sizes) - np.arange(len(by_user))
    valid = (from_end <= n) & np.repeat(sizes > n, sizes)
    few = int((sizes <= n).sum())
    if few == len(sizes):
        raise DataError(
            f"none of the {len(sizes)} users has more than {n} row(s), so none can be left out; use split='random'"
        )
    return Split(train=np.sort(order[~valid]), valid=np.sort(order[valid]), notes=_notes(few, len(sizes), n, times))


def _notes(few: int, num_users: int, n: int, times: Times | None) -> tuple[str, ...]:
    notes = []
    if few:
        rows = "one rating, which stays" if n == 1 else f"{n} ratings or fewer, which stay"
        notes.append(f"{few} of {num_users} users have {rows} in training")
    if times is None:
        notes.append("there is no column of times: the last rating of a user is the one that stands last in the source")
    return tuple(notes)


def split_time(times: Times, *, valid_pct: float = 0.2) -> Split:
    """Take the latest share of the rows for validation; rows of one time stay together."""
    if not 0 < valid_pct < 1:
        raise OptionError(f"valid_pct={valid_pct} must lie between 0 and 1, both excluded")
    distinct, counts = np.unique(times, return_counts=True)
    if len(distinct) < 2:
        raise DataError(f"the {len(times)} rows share {len(distinct)} time(s): there is no latest part; use 'random'")
    after = len(times) - np.cumsum(counts)[:-1]
    cutoff = distinct[1:][np.argmin(np.abs(after - len(times) * valid_pct))]
    latest = times >= cutoff
    return Split(train=np.flatnonzero(~latest), valid=np.flatnonzero(latest))
