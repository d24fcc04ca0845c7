"""Splits of ratings: at random, each user's last out, by time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.api import DataError, OptionError, RandomSplitter, UnknownName
from graftwork_collab.splits import leave_last_out, split_rows, split_time

EVENTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), min_size=2, max_size=60)


class TestLeaveLastOut:
    """The last rating of each user is held out."""

    @given(EVENTS, st.integers(1, 3))
    @settings(deadline=None)
    def test_as_said_one_user_after_another(self, events, n):
        users, times = (np.array(column) for column in zip(*events, strict=True))
        left: list[int] = []
        for user in set(users.tolist()):
            own = sorted(np.flatnonzero(users == user).tolist(), key=lambda row: (times[row], row))
            left += own[-n:] if len(own) > n else []
        if not left:
            with pytest.raises(DataError, match="none of the"):
                leave_last_out(users, times, n=n)
            return
        split = leave_last_out(users, times, n=n)
        assert split.valid.tolist() == sorted(left)
        assert sorted([*split.train, *split.valid]) == list(range(len(events)))

    def test_users_with_one_rating_stay_in_training_and_are_counted(self):
        split = leave_last_out(np.array([7, 8, 8, 9, 8]), np.array([1, 3, 1, 1, 2]))
        assert split.valid.tolist() == [1]
        assert split.notes == ("2 of 3 users have one rating, which stays in training",)

    def test_without_times_the_last_row_is_left_out_and_that_is_said(self):
        split = leave_last_out(np.array([1, 2, 1, 2, 1]))
        assert split.valid.tolist() == [3, 4]
        assert "stands last in the source" in split.notes[0]

    def test_nobody_has_two(self):
        with pytest.raises(DataError, match=r"none of the 3 users has more than 1 row\(s\).*use split='random'"):
            leave_last_out(np.array([1, 2, 3]), np.array([1, 2, 3]))

    def test_at_least_one(self):
        with pytest.raises(OptionError, match="at least one row"):
            leave_last_out(np.array([1, 1]), n=0)


class TestTime:
    """The latest share is held out."""

    @given(st.lists(st.integers(0, 20), min_size=2, max_size=80), st.floats(0.05, 0.95))
    @settings(deadline=None)
    def test_nothing_in_training_is_as_late_as_anything_held_out(self, times, pct):
        times = np.array(times)
        if len(np.unique(times)) < 2:
            with pytest.raises(DataError, match="no latest part"):
                split_time(times, valid_pct=pct)
            return
        split = split_time(times, valid_pct=pct)
        assert times[split.train].max() < times[split.valid].min()
        sizes = [int((times >= cut).sum()) for cut in np.unique(times)[1:]]
        assert abs(len(split.valid) - len(times) * pct) == min(abs(size - len(times) * pct) for size in sizes)

    def test_a_share_is_one(self):
        with pytest.raises(OptionError, match="between 0 and 1"):
            split_time(np.arange(5), valid_pct=1.0)


class TestByName:
    """split_rows."""

    def test_random_is_fastais(self):
        split = split_rows("random", users=np.zeros(10), times=None, valid_pct=0.2, seed=42)
        wanted = RandomSplitter(0.2, seed=42)(range(10))
        assert split.valid.tolist() == wanted.valid.tolist() == [2, 6]
        assert split.train.tolist() == wanted.train.tolist()

    def test_time_needs_times(self):
        with pytest.raises(DataError, match=r"split='time' needs a column of times.*timestamp="):
            split_rows("time", users=np.zeros(4), times=None)
        assert split_rows("time", users=np.zeros(4), times=np.arange(4), valid_pct=0.25).valid.tolist() == [3]

    def test_an_unknown_name(self):
        with pytest.raises(UnknownName, match=r"unknown split 'leave-one-out'.*'leave-last-out'"):
            split_rows("leave-one-out", users=np.zeros(4), times=None)
