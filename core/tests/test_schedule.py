"""Schedules: known values, and suggestions on curves whose best rate is known."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork.errors import OptionError, UnknownName
from graftwork.schedule import (
    anneal,
    combine,
    combine_scheds,
    combined_cos,
    constant,
    discriminative_lrs,
    exponential_sweep,
    flat_cos,
    maker,
    minimum,
    one_cycle,
    sched_const,
    sched_cos,
    sched_exp,
    sched_lin,
    sched_poly,
    sgdr,
    shaped,
    slide,
    steep,
    suggest_lrs,
    tabulate,
    valley,
    warm_up,
    wsd,
)

QUARTERS = [0, 0.25, 0.5, 0.75, 1]
rates = st.floats(1e-6, 10)


@pytest.mark.parametrize(
    ("shape", "values"),
    [
        (sched_lin(0, 2), [0, 0.5, 1, 1.5, 2]),
        (sched_cos(0, 2), [0, 0.29289, 1, 1.70711, 2]),
        (sched_exp(1, 2), [1, 1.18921, 1.41421, 1.68179, 2]),
        (sched_poly(0, 2, power=2), [0, 0.125, 0.5, 1.125, 2]),
        (sched_const(3), [3, 3, 3, 3, 3]),
    ],
    ids=["lin", "cos", "exp", "poly", "const"],
)
def test_golden_shapes(shape, values):
    assert [shape(pct) for pct in QUARTERS] == pytest.approx(values, abs=1e-5)
    assert pickle.loads(pickle.dumps(shape))(0.25) == shape(0.25)


def test_golden_combined_cos():
    shape = combined_cos(0.25, 0.5, 1, 0)
    assert [shape(pct) for pct in (0, 0.1, 0.25, 0.5, 1)] == pytest.approx([0.5, 0.67275, 1, 0.75, 0], abs=1e-5)


def test_golden_one_cycle():
    lr, mom = one_cycle(1e-2, 20)
    assert lr.dtype == mom.dtype == np.float64
    assert len(lr) == len(mom) == 20
    assert lr[0] == pytest.approx(4e-4)
    assert lr.argmax() == 5
    assert lr[5] == pytest.approx(1e-2)
    assert lr[-1] == pytest.approx(1.0936e-4, abs=1e-8)
    assert [mom[0], mom[5], mom[-1]] == pytest.approx([0.95, 0.85, 0.94891], abs=1e-5)


@given(rates, st.integers(1, 60), st.floats(0, 1))
def test_a_cycle_is_two_cosines_at_every_step(lr_max, num_steps, pct_start):
    lr, mom = one_cycle(lr_max, num_steps, div=7, div_final=100, pct_start=pct_start)
    assert lr == pytest.approx(tabulate(combined_cos(pct_start, lr_max / 7, lr_max, lr_max / 100), num_steps))
    assert mom == pytest.approx(tabulate(combined_cos(pct_start, 0.95, 0.85, 0.95), num_steps))


def test_flat_cos_is_flat_and_then_a_cosine():
    lr, mom = flat_cos(1.0, 8)
    assert mom is None
    assert lr[:7].tolist() == [1.0] * 7
    assert lr[7] == pytest.approx(1 + (1e-5 - 1) * 0.5)


def test_constant_and_sweep():
    assert constant(0.1, 3).lr.tolist() == [0.1, 0.1, 0.1]
    lr, mom = exponential_sweep(1e-7, 10, 100)
    assert mom is None
    assert (len(lr), lr[0], lr[-1]) == (100, pytest.approx(1e-7), pytest.approx(10))
    assert np.ptp(lr[1:] / lr[:-1]) < 1e-9


@pytest.mark.parametrize(
    "make",
    [
        lambda: one_cycle(0, 5),
        lambda: one_cycle(1, 0),
        lambda: one_cycle(1, 5, div=0),
        lambda: one_cycle(1, 5, pct_start=1.1),
        lambda: flat_cos(-1, 5),
        lambda: flat_cos(1, 5, pct_start=-0.1),
        lambda: constant(float("nan"), 5),
        lambda: constant(float("inf"), 5),
        lambda: constant(1, 0),
        lambda: exponential_sweep(0, 1, 5),
        lambda: exponential_sweep(1e-3, 1, 1),
        lambda: sched_exp(0, 1),
        lambda: sched_exp(-1, 1),
        lambda: combine_scheds([0.5], [sched_lin(0, 1), sched_lin(1, 0)]),
        lambda: combine_scheds([0.5, 0.4], [sched_lin(0, 1), sched_lin(1, 0)]),
        lambda: combine_scheds([1.5, -0.5], [sched_lin(0, 1), sched_lin(1, 0)]),
        lambda: combine_scheds([], []),
    ],
)
def test_impossible_schedules_are_refused(make):
    with pytest.raises(OptionError):
        make()


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=5), st.floats(0, 1))
def test_combined_shapes_take_turns(weights, pct):
    pcts = (np.array(weights) / sum(weights)).tolist()
    shape = combine_scheds(pcts, [sched_lin(i, i + 1) for i in range(len(pcts))])
    assert shape(0) == 0
    assert shape(1) == pytest.approx(len(pcts))
    bounds = np.concatenate(([0], np.cumsum(pcts)))
    assert shape(pct) == pytest.approx(np.interp(pct, bounds, range(len(bounds))), abs=1e-6)


def test_a_shape_without_time_is_passed_over():
    assert combine_scheds([0, 1], [sched_const(9), sched_lin(0, 1)])(0) == 0
    assert combine_scheds([1, 0], [sched_lin(0, 1), sched_const(9)])(1) == 1


def test_one_rate_for_all_groups_or_geometric_or_a_tenth():
    assert discriminative_lrs(1e-3, 3) == [1e-3] * 3
    assert discriminative_lrs(1, 2) == [1.0, 1.0]
    assert discriminative_lrs(slice(1e-5, 1e-3), 3) == pytest.approx([1e-5, 1e-4, 1e-3])
    assert discriminative_lrs(slice(1e-3), 3) == [1e-4, 1e-4, 1e-3]
    assert discriminative_lrs([1, 2, 3], 3) == [1.0, 2.0, 3.0]


@given(rates, rates, st.integers(1, 8))
def test_a_single_or_the_last_group_gets_the_last_rate(first, last, num_groups):
    for lr in (slice(first, last), slice(last)):
        found = discriminative_lrs(lr, num_groups)
        assert len(found) == num_groups
        assert found[-1] == pytest.approx(last)
    spread = np.array(discriminative_lrs(slice(first, last), num_groups + 2))
    ratios = spread[1:] / spread[:-1]
    assert ratios == pytest.approx(np.full(num_groups + 1, ratios[0]))


@pytest.mark.parametrize(
    "lr", [0, -1.0, slice(None), slice(1, 2, 3), slice(0, 1), slice(1e-3, -1), [1.0, 2.0], float("nan")]
)
def test_impossible_rates_are_refused(lr):
    with pytest.raises(OptionError):
        discriminative_lrs(lr, 3)


LRS = np.geomspace(1e-6, 10, 71)
"""Ten steps a decade: the rate 1e-k is at position 10 * (6 - k)."""


def curve(noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """A plateau to 1e-4, a fall to 1e-2, a floor to 1e-1, and an explosion."""
    places = np.arange(71)
    fall = np.clip((places - 20) / 20, 0, 1)
    rise = np.clip((places - 50) / 10, 0, None) ** 3
    return 2 - 1.5 * fall + rise + 1e-6 * np.abs(places - 45) + noise * np.random.default_rng(seed).normal(size=71)


@pytest.mark.parametrize("noise", [0.0, 0.003])
@pytest.mark.parametrize("seed", range(5))
def test_the_valley_is_in_the_middle_of_the_fall(noise, seed):
    losses = curve(noise, seed)
    if noise == 0.0:
        losses = losses + 1e-4 * np.where(np.arange(71) < 20, np.arange(71) % 2, 0)
    found = valley(LRS, losses)
    assert 2e-4 < found < 5e-3


def test_the_valley_of_a_pure_fall_is_its_middle():
    lrs = np.geomspace(1e-4, 1e-2, 21)
    assert valley(lrs, np.linspace(2, 1, 21)) == pytest.approx(1e-3)


@given(st.lists(st.integers(0, 9), min_size=3, max_size=9))
def test_the_valley_counts_the_longest_falling_subsequence(losses):
    best = [1] * len(losses)
    for i, loss in enumerate(losses):
        best[i] = 1 + max((best[j] for j in range(i) if losses[j] > loss), default=0)
    length, end = max(best), int(np.argmax(best))
    lrs = np.arange(1.0, len(losses) + 1)
    assert valley(lrs, losses) == (None if length == 1 else lrs[end - length // 2])


def test_the_minimum_is_a_tenth_of_the_best_rate():
    losses = curve()
    losses[40] = 0.1
    assert minimum(LRS, losses) == pytest.approx(1e-3)


def test_steep_is_where_the_loss_falls_fastest():
    losses = curve()
    losses[31:] -= 0.2
    assert steep(LRS, losses) == pytest.approx(1e-3)


def test_slide_stops_where_the_loss_is_in_motion():
    found = slide(LRS, curve())
    assert 1e-4 < found < 1e-2
    assert slide(LRS[:10], np.linspace(2, 1, 10)) is None
    assert slide(LRS, np.linspace(2, 1, 71)) == LRS[71 - 16]
    assert slide(LRS, np.linspace(2, 1, 71) ** 2 * 5, distance=2, threshold=0) == LRS[0]


def test_slide_is_its_loop():
    losses = curve(0.01, 3)
    slopes = np.gradient(losses)
    right = len(losses) - 1
    found = LRS[right - 15]
    while right - 15 >= 0 and abs(slopes[right] - slopes[right - 15]) > 0.005:
        found = LRS[right - 15]
        right -= 1
    assert slide(LRS, losses) == found


def test_a_loss_that_never_falls_has_no_valley():
    rising = np.linspace(1, 2, 71)
    assert valley(LRS, rising) is None
    assert steep(LRS, rising) is None
    assert set(suggest_lrs(LRS, rising)) == {"slide", "minimum"}
    assert set(suggest_lrs(LRS, curve())) == {"valley", "slide", "minimum", "steep"}


def test_losses_that_are_no_numbers_are_left_out():
    losses = curve()
    broken = losses.copy()
    broken[60:] = np.nan
    broken[65] = np.inf
    for rule in (valley, minimum, steep, slide):
        assert rule(LRS, broken) == rule(LRS[:60], losses[:60])


@pytest.mark.parametrize(
    ("lrs", "losses"),
    [([1, 2, 3], [1, 2]), ([1, 2], [2, 1]), ([3, 2, 1], [1, 2, 3]), ([0, 1, 2], [1, 2, 3]), ([1, 2, 3], [np.nan] * 3)],
)
def test_what_is_no_sweep_is_refused(lrs, losses):
    for rule in (valley, minimum, steep, slide):
        with pytest.raises(OptionError, match="a sweep"):
            rule(lrs, losses)


# -- makers ----------------------------------------------------------------------------------------------------------


def test_sgdr_starts_anew_and_each_cycle_is_longer():
    lr, mom = sgdr(0.4, 70, n_cycles=3, cycle_mult=2)
    assert mom is None
    assert np.flatnonzero(lr == 0.4).tolist() == [0, 10, 30]
    for start, end in ((0, 10), (10, 30), (30, 70)):
        assert lr[start:end] == pytest.approx(tabulate(sched_cos(0.4, 0), end - start))
    assert np.flatnonzero(sgdr(1, 9, n_cycles=3, cycle_mult=1).lr == 1).tolist() == [0, 3, 6]


def test_wsd_warms_up_stays_and_falls():
    lr, mom = wsd(0.1, 100, pct_warm=0.1, pct_decay=0.25, div=10, div_final=100)
    assert mom is None
    assert lr[:10] == pytest.approx(np.linspace(0.01, 0.1, 10, endpoint=False))
    assert lr[10:75].tolist() == [0.1] * 65
    assert lr[75:] == pytest.approx(0.1 - (0.1 - 0.001) * np.sqrt(np.arange(25) / 25))


@pytest.mark.parametrize("how", ["lin", "cos", "exp", "poly"])
def test_anneal_is_its_shape(how):
    shape = {
        "lin": sched_lin(0.2, 0.002),
        "cos": sched_cos(0.2, 0.002),
        "exp": sched_exp(0.2, 0.002),
        "poly": sched_poly(0.2, 0.002, power=2),
    }[how]
    assert anneal(0.2, 9, how=how, div_final=100).lr == pytest.approx(tabulate(shape, 9))
    assert maker(how)(0.2, 9).lr == pytest.approx(anneal(0.2, 9, how=how).lr)


def test_makers_by_name():
    assert maker("one_cycle")(0.1, 20).lr == pytest.approx(one_cycle(0.1, 20).lr)
    assert maker(flat_cos) is flat_cos
    for name in ("constant", "cos", "exp", "flat_cos", "lin", "one_cycle", "poly", "sgdr", "wsd"):
        lr = maker(name)(0.1, 37).lr
        assert len(lr) == 37
        assert 0 < lr.min() <= lr.max() <= 0.1
    with pytest.raises(UnknownName, match="unknown schedule 'one_cylce'; did you mean 'one_cycle'"):
        maker("one_cylce")
    with pytest.raises(UnknownName, match="unknown way to anneal 'sin'"):
        anneal(0.1, 3, how="sin")


def test_a_warm_up_goes_before_any_schedule():
    lr, mom = warm_up(one_cycle, pct=0.2, div=4)(0.1, 50)
    late, late_mom = one_cycle(0.1, 40)
    assert lr[10:].tolist() == late.tolist()
    assert lr[:10] == pytest.approx(np.linspace(late[0] / 4, late[0], 10, endpoint=False))
    assert mom.tolist() == [late_mom[0]] * 10 + late_mom.tolist()
    assert warm_up(constant, pct=0.9)(0.1, 1).lr.tolist() == [0.1]
    assert warm_up(constant, pct=0)(0.1, 3).lr.tolist() == [0.1] * 3


def test_shapes_make_schedules_in_multiples_of_the_rate():
    make = shaped(combined_cos(0.25, 1 / 25, 1, 1e-5), combined_cos(0.25, 0.95, 0.85, 0.95))
    for found, wanted in zip(make(1e-2, 20), one_cycle(1e-2, 20), strict=True):
        assert found == pytest.approx(wanted)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5), st.integers(1, 200), rates)
def test_combined_schedules_cover_every_step_in_turn(weights, num_steps, lr):
    weights[0] += 0.1
    pcts = (np.array(weights) / sum(weights)).tolist()
    makers = [shaped(sched_const(i + 1)) for i in range(len(pcts))]
    table = combine(pcts, makers)(lr, num_steps).lr / lr
    assert len(table) == num_steps
    assert (np.diff(table) >= 0).all()
    counts = [np.isclose(table, i + 1).sum() for i in range(len(pcts))]
    assert np.abs(counts - np.array(pcts) * num_steps).max() <= 1 + 1e-6


def test_combined_momenta_need_all_or_none():
    assert len(combine([0.5, 0.5], [one_cycle, one_cycle])(0.1, 10).mom) == 10
    with pytest.raises(OptionError, match="some of these schedules move the momentum"):
        combine([0.5, 0.5], [one_cycle, constant])(0.1, 10)


@pytest.mark.parametrize(
    "make",
    [
        lambda: sgdr(0, 5),
        lambda: sgdr(1, 0),
        lambda: sgdr(1, 5, n_cycles=0),
        lambda: sgdr(1, 5, cycle_mult=0),
        lambda: wsd(1, 5, pct_warm=0.6, pct_decay=0.6),
        lambda: wsd(1, 5, pct_warm=-0.1),
        lambda: wsd(1, 5, div=0),
        lambda: anneal(-1, 5),
        lambda: anneal(1, 0),
        lambda: warm_up(constant, pct=1.0),
        lambda: warm_up(constant, div=0),
        lambda: combine([0.5], [constant]),
        lambda: combine([0.5, 0.5], [constant]),
        lambda: combine([1.0], [constant])(1, 0),
        lambda: shaped(sched_const(1))(0, 3),
    ],
)
def test_impossible_makers_are_refused(make):
    with pytest.raises(OptionError):
        make()
