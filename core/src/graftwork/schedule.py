"""Schedules: how learning rate and momentum go over training, and which rate to take.

A shape is a function of the share of training done, from 0 to 1. A schedule is computed once for all steps: step
number i of n stands at the share i / n, so that the last step stands one short of the end. What makes a schedule of a
learning rate and a number of steps is a maker: `one_cycle`, `wsd`, `combine([0.1, 0.9], [a, b])`, or your own function.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from math import cos, pi
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from graftwork.errors import OptionError, unknown

__all__ = [
    "Schedule",
    "ScheduleMaker",
    "Shape",
    "anneal",
    "combine",
    "combine_scheds",
    "combined_cos",
    "constant",
    "discriminative_lrs",
    "exponential_sweep",
    "flat_cos",
    "maker",
    "minimum",
    "one_cycle",
    "sched_const",
    "sched_cos",
    "sched_exp",
    "sched_lin",
    "sched_poly",
    "sgdr",
    "shaped",
    "slide",
    "steep",
    "suggest_lrs",
    "tabulate",
    "valley",
    "warm_up",
    "wsd",
]

Floats: TypeAlias = NDArray[np.float64]
Shape: TypeAlias = Callable[[float], float]
MOMENTA = (0.95, 0.85, 0.95)


class Schedule(NamedTuple):
    """Hold a learning rate for each step and, where the schedule moves it, a momentum (float64)."""

    lr: Floats
    mom: Floats | None = None


ScheduleMaker: TypeAlias = Callable[[float, int], Schedule]
"""Make a schedule of a learning rate and a number of steps."""


# -- shapes ----------------------------------------------------------------------------------------------------------


def sched_const(value: float) -> Shape:
    """Stay at a value."""
    return partial(_lin, value, value)


def sched_lin(start: float, end: float) -> Shape:
    """Go along a line."""
    return partial(_lin, start, end)


def sched_cos(start: float, end: float) -> Shape:
    """Go along half a cosine, flat at both ends."""
    return partial(_cos, start, end)


def sched_exp(start: float, end: float) -> Shape:
    """Multiply by the same factor in equal times; raise OptionError unless both are above 0, or both below."""
    if not start * end > 0:
        raise OptionError(f"sched_exp({start}, {end}): an exponential neither reaches nor crosses 0")
    return partial(_exp, start, end)


def sched_poly(start: float, end: float, *, power: float) -> Shape:
    """Go along a power of the share done."""
    return partial(_poly, start, end, power)


def _lin(start: float, end: float, pct: float) -> float:
    return start + (end - start) * pct


def _cos(start: float, end: float, pct: float) -> float:
    return start + (end - start) * (1 - cos(pi * pct)) / 2


def _exp(start: float, end: float, pct: float) -> float:
    return float(start * (end / start) ** pct)


def _poly(start: float, end: float, power: float, pct: float) -> float:
    return float(start + (end - start) * pct**power)


def combine_scheds(pcts: Sequence[float], shapes: Sequence[Shape]) -> Shape:
    """Go through several shapes one after another, each for its share of the time.

    Raises:
        OptionError: the shares do not add up to 1, one is negative, or there are more or fewer than shapes.
    """
    _check_shares(pcts, len(shapes))
    # A shape without any time is never asked; its neighbours meet there.
    timed = [(pct, shape) for pct, shape in zip(pcts, shapes, strict=True) if pct > 0]
    starts = [0.0, *np.cumsum([pct for pct, _ in timed]).tolist()[:-1]]
    return partial(_combined, starts, [pct for pct, _ in timed], [shape for _, shape in timed])


def _check_shares(pcts: Sequence[float], number: int) -> None:
    if len(pcts) != number or min(pcts, default=-1) < 0 or abs(sum(pcts) - 1) > 1e-6:
        raise OptionError(f"{number} parts need as many shares, none negative, that add up to 1; found {list(pcts)}")


def _combined(starts: list[float], lengths: list[float], shapes: list[Shape], pct: float) -> float:
    part = max(i for i, start in enumerate(starts) if start <= max(pct, 0.0))
    return shapes[part](min((pct - starts[part]) / lengths[part], 1.0))


def combined_cos(pct: float, start: float, middle: float, end: float) -> Shape:
    """Go along a cosine from start to middle for a share of the time, and along another one to the end."""
    return combine_scheds([pct, 1 - pct], [sched_cos(start, middle), sched_cos(middle, end)])


def tabulate(shape: Shape, num_steps: int) -> Floats:
    """Return the shape's value at every step; raise OptionError for less than one step."""
    return np.array([shape(pct) for pct in _shares(num_steps).tolist()], dtype=np.float64)


def _shares(num_steps: int) -> Floats:
    if num_steps < 1:
        raise OptionError(f"a schedule of {num_steps} steps has nothing to say; train for one at least")
    return np.arange(num_steps, dtype=np.float64) / num_steps


def _two_cosines(pct: float, start: float, middle: float, end: float, num_steps: int) -> Floats:
    """Return `combined_cos` at every step, all at once: a long training has millions of steps and several groups."""
    shares = _shares(num_steps)
    first = shares < pct
    done = np.where(first, shares / max(pct, 1e-300), (shares - pct) / max(1 - pct, 1e-300))
    origin, goal = np.where(first, start, middle), np.where(first, middle, end)
    table: Floats = origin + (goal - origin) * (1 - np.cos(np.pi * done)) / 2
    return table


# -- schedules -------------------------------------------------------------------------------------------------------


def constant(lr: float, num_steps: int) -> Schedule:
    """Keep the learning rate."""
    return Schedule(np.full_like(_shares(num_steps), _positive("lr", lr)))


def one_cycle(
    lr_max: float,
    num_steps: int,
    *,
    div: float = 25.0,
    div_final: float = 1e5,
    pct_start: float = 0.25,
    moms: tuple[float, float, float] = MOMENTA,
) -> Schedule:
    """Go along a cosine from lr_max / div up to lr_max, then down to lr_max / div_final; momentum mirrors it.

    L. N. Smith, "Super-convergence" (arXiv 1708.07120), in fastai's form.
    """
    _check_share(pct_start)
    lr_max = _positive("lr_max", lr_max)
    low, last = lr_max / _positive("div", div), lr_max / _positive("div_final", div_final)
    return Schedule(_two_cosines(pct_start, low, lr_max, last, num_steps), _two_cosines(pct_start, *moms, num_steps))


def flat_cos(lr: float, num_steps: int, *, div_final: float = 1e5, pct_start: float = 0.75) -> Schedule:
    """Keep the learning rate for a share of the steps, then go down along a cosine to lr / div_final."""
    _check_share(pct_start)
    last = _positive("lr", lr) / _positive("div_final", div_final)
    return Schedule(_two_cosines(pct_start, lr, lr, last, num_steps))


def anneal(lr: float, num_steps: int, *, how: str = "cos", div_final: float = 1e5, power: float = 2.0) -> Schedule:
    """Go from lr down to lr / div_final: "lin", "cos", "exp" or "poly", whose power is `power`."""
    start, end = _positive("lr", lr), lr / _positive("div_final", div_final)
    ways: Mapping[str, Callable[[float, float], Shape]] = {
        "lin": sched_lin,
        "cos": sched_cos,
        "exp": sched_exp,
        "poly": partial(sched_poly, power=power),
    }
    if how not in ways:
        raise unknown("way to anneal", how, ways)
    return Schedule(tabulate(ways[how](start, end), num_steps))


def sgdr(lr_max: float, num_steps: int, *, n_cycles: int = 3, cycle_mult: int = 2) -> Schedule:
    """Go along cosines from lr_max to 0, each `cycle_mult` times as long as the one before.

    I. Loshchilov and F. Hutter, arXiv 1608.03983.
    """
    if n_cycles < 1 or cycle_mult < 1:
        raise OptionError(f"n_cycles={n_cycles} and cycle_mult={cycle_mult} must be 1 or more")
    falling = partial(_two_cosines, 0.0, 0.0, _positive("lr_max", lr_max), 0.0)
    lengths = _parts([cycle_mult**i for i in range(n_cycles)], num_steps)
    return Schedule(np.concatenate([falling(length) for length in lengths if length]))


def wsd(
    lr: float,
    num_steps: int,
    *,
    pct_warm: float = 0.05,
    pct_decay: float = 0.2,
    div: float = 25.0,
    div_final: float = 1e5,
) -> Schedule:
    """Warm up along a line from lr / div, stay at lr, and fall to lr / div_final as 1 - sqrt falls.

    S. Hu et al., arXiv 2404.06395; the fall: A. Hägele et al., arXiv 2405.18392. The stable part may be cut or made
    longer at will, which a cosine may not.
    """
    if not (pct_warm >= 0 and pct_decay >= 0 and pct_warm + pct_decay <= 1):
        raise OptionError(f"pct_warm={pct_warm} and pct_decay={pct_decay} must be shares that add up to 1 at most")
    falling = partial(anneal, how="poly", power=0.5, div_final=div_final)
    rising = shaped(sched_lin(1 / _positive("div", div), 1))
    return combine([pct_warm, 1 - pct_warm - pct_decay, pct_decay], [rising, constant, falling])(lr, num_steps)


def exponential_sweep(start: float, end: float, num_steps: int) -> Schedule:
    """Multiply the learning rate by the same factor at each step; the last step is at `end`."""
    if num_steps < 2:
        raise OptionError(f"a sweep of {num_steps} step(s) has no two ends; take 100")
    return Schedule(np.geomspace(_positive("start", start), _positive("end", end), num_steps))


# -- makers ----------------------------------------------------------------------------------------------------------


def shaped(lr: Shape, mom: Shape | None = None) -> ScheduleMaker:
    """Make schedules of shapes: `lr` in multiples of the learning rate, `mom` as it is."""

    def make(rate: float, num_steps: int) -> Schedule:
        rates = _positive("lr", rate) * tabulate(lr, num_steps)
        return Schedule(rates, None if mom is None else tabulate(mom, num_steps))

    return make


def combine(pcts: Sequence[float], makers: Sequence[ScheduleMaker]) -> ScheduleMaker:
    """Go through several schedules of the same rate one after another, each for its share of the steps.

    Raises:
        OptionError: shares that do not add up to 1, and, when a schedule is made: some move the momentum, some do not.
    """
    _check_shares(pcts, len(makers))

    def make(lr: float, num_steps: int) -> Schedule:
        lengths = _parts(pcts, num_steps)
        return _chained(part(lr, length) for part, length in zip(makers, lengths, strict=True) if length)

    return make


def warm_up(make: ScheduleMaker, *, pct: float = 0.05, div: float = 25.0) -> ScheduleMaker:
    """Go along a line up to where a schedule begins, for a share of the steps; the schedule has the others."""
    _positive("div", div)
    if not 0 <= pct < 1:
        raise OptionError(f"pct={pct} must lie between 0 and 1, 1 left out")

    def make_warm(lr: float, num_steps: int) -> Schedule:
        # One step has to be left for the schedule.
        ramp = min(_parts([pct, 1 - pct], num_steps)[0], num_steps - 1)
        rates, mom = make(lr, num_steps - ramp)
        if not ramp:
            return Schedule(rates, mom)
        rising = tabulate(sched_lin(rates[0] / div, rates[0]), ramp)
        return _chained([Schedule(rising, None if mom is None else np.full(ramp, mom[0])), Schedule(rates, mom)])

    return make_warm


def maker(schedule: str | ScheduleMaker) -> ScheduleMaker:
    """Return a maker by its name; a maker is returned as it is. Raise UnknownName, with the nearest names."""
    if not isinstance(schedule, str):
        return schedule
    if schedule not in _MAKERS:
        raise unknown("schedule", schedule, _MAKERS)
    return _MAKERS[schedule]


_MAKERS: Final[Mapping[str, ScheduleMaker]] = {
    "constant": constant,
    "cos": anneal,
    "exp": partial(anneal, how="exp"),
    "flat_cos": flat_cos,
    "lin": partial(anneal, how="lin"),
    "one_cycle": one_cycle,
    "poly": partial(anneal, how="poly"),
    "sgdr": sgdr,
    "wsd": wsd,
}


def _parts(weights: Sequence[float], num_steps: int) -> list[int]:
    """Part the steps in proportion to the weights, each bound rounded to the nearest step."""
    _shares(num_steps)
    bounds = np.cumsum(weights) / sum(weights) * num_steps
    return [int(length) for length in np.diff(np.floor(bounds + 0.5), prepend=0)]


def _chained(schedules: Iterable[Schedule]) -> Schedule:
    found = list(schedules)
    moms = [schedule.mom for schedule in found if schedule.mom is not None]
    if moms and len(moms) < len(found):
        raise OptionError("some of these schedules move the momentum and some do not; give shaped() a momentum too")
    return Schedule(np.concatenate([schedule.lr for schedule in found]), np.concatenate(moms) if moms else None)


def _positive(name: str, value: float) -> float:
    if not 0 < value < float("inf"):
        raise OptionError(f"{name}={value} must be a number above 0")
    return value


def _check_share(pct_start: float) -> None:
    if not 0 <= pct_start <= 1:
        raise OptionError(f"pct_start={pct_start} must lie between 0 and 1")


def discriminative_lrs(lr: float | slice | Sequence[float], num_groups: int) -> list[float]:
    """Return one learning rate for each parameter group, from input to output.

    A number is the same for all; `slice(a, b)` goes from a to b by the same factor from group to group; `slice(b)` is b
    for the last group and b / 10 for the others (J. Howard and S. Ruder, arXiv 1801.06146, for the idea).

    Raises:
        OptionError: a rate that is not above 0, a slice with a step or no end, or another number of rates than groups.
    """
    if isinstance(lr, slice):
        return _spread(lr, num_groups)
    rates = [float(lr)] * num_groups if isinstance(lr, int | float) else [float(rate) for rate in lr]
    if len(rates) != num_groups:
        raise OptionError(
            f"{len(rates)} learning rates for {num_groups} parameter groups; give one, or slice(first, last)"
        )
    return [_positive("lr", rate) for rate in rates]


def _spread(lr: slice, num_groups: int) -> list[float]:
    if lr.stop is None or lr.step is not None:
        raise OptionError(f"{lr}: write slice(last) or slice(first, last), two learning rates")
    last = _positive("lr", float(lr.stop))
    if lr.start is None:
        return [last / 10] * (num_groups - 1) + [last]
    first = _positive("lr", float(lr.start))
    return [last] if num_groups == 1 else np.geomspace(first, last, num_groups).tolist()


# -- suggestions after a sweep ---------------------------------------------------------------------------------------


def suggest_lrs(lrs: ArrayLike, losses: ArrayLike) -> dict[str, float]:
    """Return every suggestion there is, by name: valley, slide, minimum, steep."""
    found = {rule.__name__: rule(lrs, losses) for rule in (valley, slide, minimum, steep)}
    return {name: lr for name, lr in found.items() if lr is not None}


def valley(lrs: ArrayLike, losses: ArrayLike) -> float | None:
    """Suggest the middle of the longest descent; None if the loss never falls.

    The descent is the longest falling subsequence. Its length is counted back from its end, as if it had no gaps: so
    what little fell by chance on the plateau before does not draw the suggestion down.
    """
    rates, values = _curve(lrs, losses)
    end, length = _longest_fall(values)
    return float(rates[end - length // 2]) if length > 1 else None


def _longest_fall(values: Floats) -> tuple[int, int]:
    """Return where the longest falling subsequence ends (the earliest end of several) and its length.

    Patience sorting: `tops[k]` is the negative of the largest value at which a fall of k + 1 values can end so far.
    """
    tops: list[float] = []
    end = 0
    for position, value in enumerate(-values):
        place = bisect_left(tops, value)
        if place == len(tops):
            end = position
        tops[place : place + 1] = [float(value)]
    return end, len(tops)


def slide(lrs: ArrayLike, losses: ArrayLike, *, distance: int = 15, threshold: float = 0.005) -> float | None:
    """Suggest the rate from which on the loss is in motion; None if the sweep is shorter than the comparison.

    Coming from the end, the slope of the loss is compared with the one `distance` steps before; the suggestion is the
    last rate reached while they differ by more than the threshold.
    """
    rates, values = _curve(lrs, losses)
    slopes = np.gradient(values)
    if len(slopes) <= distance:
        return None
    calm = np.abs(slopes[distance:] - slopes[:-distance]) <= threshold
    return float(rates[: len(calm)][_end_of_calm(calm)])


def _end_of_calm(calm: NDArray[np.bool_]) -> int:
    """Return the position after the last calm one, or the last position of all."""
    places = np.flatnonzero(calm)
    return min(int(places[-1]) + 1, len(calm) - 1) if len(places) else 0


def minimum(lrs: ArrayLike, losses: ArrayLike) -> float | None:
    """Suggest a tenth of the rate at which the loss is lowest."""
    rates, values = _curve(lrs, losses)
    return float(rates[values.argmin()]) / 10


def steep(lrs: ArrayLike, losses: ArrayLike) -> float | None:
    """Suggest the rate at which the loss falls fastest, over the logarithm of the rate; None if it never falls."""
    rates, values = _curve(lrs, losses)
    slopes = np.diff(values) / np.diff(np.log(rates))
    return float(rates[slopes.argmin()]) if slopes.min() < 0 else None


def _curve(lrs: ArrayLike, losses: ArrayLike) -> tuple[Floats, Floats]:
    """Return the points whose loss is a number; raise OptionError for what is no curve."""
    rates, values = np.asarray(lrs, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    if rates.shape != values.shape or rates.ndim != 1:
        raise OptionError(
            f"a sweep has one loss for each learning rate; found {rates.shape} rates, {values.shape} losses"
        )
    known = np.isfinite(values)
    rates, values = rates[known], values[known]
    if len(rates) < 3 or rates[0] <= 0 or (np.diff(rates) <= 0).any():
        raise OptionError(f"a sweep needs 3 rising learning rates with finite losses; found {len(rates)}")
    return rates, values
