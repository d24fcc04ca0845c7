"""Statistics of parts, merged in any order, are those of the whole to the bit, and they are right."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from graftwork.api import DataError, OptionError
from graftwork_tabular.statistics import Moments, ValueCounts

relaxed = settings(deadline=None)  # the machine may be busy
TINY, HUGE = 5e-324, 1.7976931348623157e308
special = st.sampled_from(
    [0.0, -0.0, TINY, -TINY, HUGE, -HUGE, 2.0**-1022, 1.0, 1 + 2.0**-52, math.nan, math.inf, -math.inf]
)
values = st.lists(st.one_of(st.integers(-3, 3).map(float), st.floats(width=64), special), max_size=25)
Statistic = Moments | ValueCounts


def few() -> ValueCounts:
    """Count with so small a limit that some examples stay exact and others do not."""
    return ValueCounts(limit=6)


MAKERS: dict[str, Callable[[], Statistic]] = {"moments": Moments, "exact counts": ValueCounts, "bucket counts": few}


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    """Compile before hypothesis takes the time."""
    Moments().update(np.ones(1))


maker = pytest.mark.parametrize("make", list(MAKERS.values()), ids=list(MAKERS))


def seen(make: Callable[[], Any], listed: Sequence[float]) -> Any:
    statistic = make()
    statistic.update(np.array(listed, np.float64))
    return statistic


def finite(listed: Sequence[float]) -> list[float]:
    return [value for value in listed if math.isfinite(value)]


class TestBoth:
    @maker
    @relaxed
    @given(values, st.lists(st.integers(0, 25), max_size=4), st.randoms())
    def test_any_parts_in_any_order_are_the_whole(
        self, make: Callable[[], Any], listed: list[float], cuts: list[int], order: Any
    ) -> None:
        whole = seen(make, listed)
        shuffled = list(listed)
        order.shuffle(shuffled)
        bounds = [0, *sorted(cuts), len(listed)]
        parts = [seen(make, shuffled[low:high]) for low, high in itertools.pairwise(bounds)]
        order.shuffle(parts)
        merged = make()
        for part in parts:
            merged.merge(part)
        assert json.dumps(merged.to_config()) == json.dumps(whole.to_config())
        assert merged == whole
        assert hash(merged) == hash(whole)

    @maker
    @relaxed
    @given(values)
    def test_updates_one_by_one_are_the_whole(self, make: Callable[[], Any], listed: list[float]) -> None:
        one_by_one = make()
        for value in listed:
            one_by_one.update(np.array([value]))
        assert one_by_one == seen(make, listed)

    @maker
    @relaxed
    @given(values)
    @example([HUGE, -9.9792015476736e291])
    def test_json_and_back(self, make: Callable[[], Any], listed: list[float]) -> None:
        statistic = seen(make, listed)
        again = type(statistic).from_config(json.loads(json.dumps(statistic.to_config(), allow_nan=False)))
        assert again == statistic
        again.update(np.array([1.0, math.nan]))
        statistic.update(np.array([1.0, math.nan]))
        assert again == statistic

    @maker
    def test_whole_numbers_strided_and_wide_arrays_are_taken(self, make: Callable[[], Any]) -> None:
        table = np.arange(12, dtype=np.int16).reshape(4, 3)
        assert seen(make, [1, 4, 7, 10]) == seen(make, list(table[:, 1]))
        statistic = make()
        statistic.update(table[:, 1])
        assert statistic == seen(make, [1, 4, 7, 10])

    @maker
    def test_a_large_array_is_the_sum_of_its_parts(self, make: Callable[[], Any]) -> None:
        rng = np.random.default_rng(0)
        numbers = rng.normal(size=300_000) * 10.0 ** rng.integers(-5, 5, 300_000)
        parts = make()
        for part in np.split(numbers[::-1], [7, 100_000, 250_000]):
            other = make()
            other.update(part)
            parts.merge(other)
        assert parts == seen(make, numbers)  # type: ignore[arg-type]

    @maker
    def test_a_copy_is_independent(self, make: Callable[[], Any]) -> None:
        first = seen(make, [1.0, 2.0])
        second = copy.deepcopy(first)
        second.update(np.array([3.0]))
        assert (first.n, second.n) == (2, 3)
        assert first != second


class TestMoments:
    @relaxed
    @given(values)
    def test_sums_are_exact(self, listed: list[float]) -> None:
        moments, numbers = seen(Moments, listed), [Fraction(value) for value in finite(listed)]
        assert (moments.n, moments.missing) == (len(numbers), sum(map(math.isnan, listed)))
        assert moments.infinite == sum(map(math.isinf, listed))
        if numbers:
            mean = sum(numbers) / len(numbers)
            variance = sum((number - mean) ** 2 for number in numbers) / len(numbers)
            assert moments.mean == float(mean)
            assert (moments.min, moments.max) == (min(finite(listed)), max(finite(listed)))
            assert_root(moments.std, variance)

    @relaxed
    @given(st.lists(st.floats(-1e6, 1e6).map(lambda x: round(x, 6)), min_size=1, max_size=50))
    def test_numpy_agrees(self, listed: list[float]) -> None:
        moments = seen(Moments, listed)
        scale = max(abs(value) for value in listed)
        assert moments.mean == pytest.approx(np.mean(listed), rel=1e-9, abs=1e-9 * scale)
        assert moments.std == pytest.approx(np.std(listed), rel=1e-9, abs=1e-9 * scale)

    def test_a_small_spread_on_a_large_base_is_not_lost(self) -> None:
        """The squares' sum and the sum's square agree in 30 digits here; doubles have 16."""
        moments = seen(Moments, [1e15 + 1, 1e15 + 2, 1e15 + 3])
        assert moments.mean == 1e15 + 2
        assert moments.std == math.sqrt(2 / 3)

    def test_what_cancels_leaves_what_is_left(self) -> None:
        moments = seen(Moments, [HUGE, 1.0, -HUGE, TINY])
        assert moments.mean == 0.25
        assert seen(Moments, [HUGE, HUGE]).mean == HUGE
        assert seen(Moments, [TINY, -TINY]).std == TINY

    def test_nothing_seen(self) -> None:
        moments = seen(Moments, [math.nan, math.inf])
        assert (moments.n, moments.missing, moments.infinite) == (0, 1, 1)
        assert all(math.isnan(value) for value in (moments.mean, moments.std, moments.min, moments.max))

    def test_a_constant_column_has_no_spread(self) -> None:
        assert seen(Moments, [0.1] * 10).std == 0.0
        assert seen(Moments, [0.1] * 10).mean == 0.1

    @pytest.mark.parametrize(
        "change",
        [{"sum": "x"}, {"sum": 1}, {"bounds": [1]}, {"n": None}, {"squares": "0x"}],
        ids=lambda c: json.dumps(c),
    )
    def test_json_that_is_none(self, change: dict[str, Any]) -> None:
        with pytest.raises(DataError, match="no moments"):
            Moments.from_config({**seen(Moments, [1.0]).to_config(), **change})


def assert_root(found: float, square: Fraction) -> None:
    """Assert that a number is a root, but for one unit in its last place."""
    if square == 0:
        assert found == 0
    elif math.isinf(np.nextafter(found, math.inf)):
        assert found == HUGE
    else:
        low, high = Fraction(float(np.nextafter(found, 0))), Fraction(float(np.nextafter(found, math.inf)))
        assert low**2 <= square <= high**2


class TestValueCounts:
    @relaxed
    @given(values, st.floats(0, 1))
    def test_quantiles_are_numpys_while_exact(self, listed: list[float], q: float) -> None:
        counts, numbers = seen(ValueCounts, listed), finite(listed)
        assert counts.exact
        assert counts.n == len(numbers)
        assert counts.missing == sum(map(math.isnan, listed))
        assert counts.infinite == sum(map(math.isinf, listed))
        if numbers and max(numbers) - min(numbers) < math.inf:
            assert counts.quantile(q) == np.quantile(np.array(numbers) + 0.0, q)
            assert counts.median == np.quantile(np.array(numbers) + 0.0, 0.5)
            assert (counts.min, counts.max) == (min(numbers), max(numbers))

    @relaxed
    @given(values)
    def test_the_mode_is_the_least_of_the_most_frequent(self, listed: list[float]) -> None:
        counts, numbers = seen(ValueCounts, listed), Counter(finite(listed))
        if numbers:
            most = max(numbers.values())
            assert counts.mode == min(value for value, count in numbers.items() if count == most)

    @relaxed
    @given(values, st.floats(0, 1))
    def test_buckets_are_as_near_as_they_say(self, listed: list[float], q: float) -> None:
        counts, numbers = seen(few, listed), sorted(finite(listed))
        if not numbers or numbers[-1] - numbers[0] == math.inf:
            return
        below, share = divmod(q * (len(numbers) - 1), 1)
        low, high = numbers[int(below)], numbers[min(int(below) + 1, len(numbers) - 1)]
        wanted = low + (high - low) * share
        slack = (1e-15 if counts.exact else 2.0**-15) * max(abs(low), abs(high)) + 2.0**-1037
        assert counts.exact == (len({value + 0.0 for value in numbers}) <= 6)
        assert counts.quantile(q) == pytest.approx(wanted, rel=1e-12, abs=slack)
        assert counts.quantile(0) == numbers[0]
        assert counts.quantile(1) == numbers[-1]

    def test_half_of_a_bucket_is_in_its_middle(self) -> None:
        numbers = np.linspace(1, 2, 400_001)
        counts = ValueCounts()
        counts.update(numbers)
        assert not counts.exact
        for q in (0.001, 0.25, 0.5, 0.9999):
            assert counts.quantile(q) == pytest.approx(1 + q, rel=2.0**-18)
            negative = ValueCounts()
            negative.update(-numbers)
            assert negative.quantile(1 - q) == pytest.approx(-counts.quantile(q), rel=1e-15)

    def test_the_limit_is_the_last_exact_size(self) -> None:
        assert seen(lambda: ValueCounts(limit=3), [1, 2, 3, 3]).exact
        assert not seen(lambda: ValueCounts(limit=3), [1, 2, 3, 4]).exact

    def test_a_bucketed_mode_is_within_its_bucket(self) -> None:
        listed = [100.0, 100.001, 100.0015, *range(9)]
        assert seen(few, listed).mode == pytest.approx(100.0, rel=2.0**-15)

    def test_the_golden_median(self) -> None:
        assert seen(ValueCounts, [0, 1, math.nan, 1, 2, 3, 4]).median == 1.5

    def test_halves_of_the_widest_range_do_not_overflow(self) -> None:
        assert seen(ValueCounts, [-HUGE, HUGE]).median == 0.0

    def test_nothing_seen(self) -> None:
        assert math.isnan(seen(ValueCounts, [math.nan]).median)
        assert math.isnan(ValueCounts().mode)

    @pytest.mark.parametrize("q", [-0.1, 1.1, math.nan])
    def test_quantiles_that_do_not_exist(self, q: float) -> None:
        with pytest.raises(OptionError, match=r"must be from 0 to 1"):
            seen(ValueCounts, [1.0]).quantile(q)

    def test_limits_that_do_not_fit(self) -> None:
        with pytest.raises(OptionError, match="limits 6 and 65536"):
            few().merge(ValueCounts())
        with pytest.raises(OptionError, match="limit=0"):
            ValueCounts(limit=0)

    @pytest.mark.parametrize(
        "change",
        [{"values": [2, 1]}, {"values": [1]}, {"counts": ["x", 1]}, {"limit": 0}, {"bounds": None}],
        ids=lambda c: json.dumps(c),
    )
    def test_json_that_is_none(self, change: dict[str, Any]) -> None:
        with pytest.raises(DataError, match="no counts of values"):
            ValueCounts.from_config({**seen(ValueCounts, [1.0, 2.0]).to_config(), **change})
