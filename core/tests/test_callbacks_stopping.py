from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import nn

from graftwork.callbacks.stopping import BestValue, EarlyStopping, ReduceOnPlateau, TerminateOnSpike, TimeLimit
from graftwork.datablock import DataLoaders
from graftwork.errors import OptionError, UnknownName
from graftwork.events import Callback, TrainState
from graftwork.learner import Learner
from graftwork.testing.toy import mlp


def learner(data: DataLoaders, **options: Any) -> Learner:
    torch.manual_seed(0)
    return Learner(data, mlp(), progress=False, **options)


class Say(Callback):
    """Put values into the epochs' records."""

    order = 500

    def __init__(self, name: str, *values: float) -> None:
        self.name, self.values = name, values

    def epoch_end(self, state: TrainState) -> None:
        state.record[self.name] = self.values[state.epoch]


def state(**record: float) -> TrainState:
    module = nn.Linear(1, 1)
    made = TrainState(model=module, optimizer=torch.optim.SGD(module.parameters(), lr=1), num_epochs=1, num_batches=1)
    made.record = record
    return made


def test_early_stopping_waits_for_its_patience(data: DataLoaders) -> None:
    stop = EarlyStopping("told", patience=2)
    learn = learner(data).fit(6, callbacks=[Say("told", 3, 2, 2.5, 1.9, 1.95, 1.9), stop])
    assert len(learn.history) == 6
    assert stop.best.value == 1.9
    learn = learner(data).fit(6, callbacks=[Say("told", 3, 2, 2.5, 2, 1, 1), EarlyStopping("told", patience=2)])
    assert len(learn.history) == 4


def test_early_stopping_takes_no_gain_below_min_delta(data: DataLoaders) -> None:
    stop = EarlyStopping("told", patience=2, min_delta=0.5)
    assert len(learner(data).fit(5, callbacks=[Say("told", 3, 2.8, 2.6, 1, 1), stop]).history) == 3


def test_the_reason_is_in_the_state(data: DataLoaders) -> None:
    said: list[str | None] = []

    class Ear(Callback):
        def fit_end(self, state: TrainState) -> None:
            said.append(state.stopped)

    learner(data).fit(3, callbacks=[Say("told", 1, 2, 3), EarlyStopping("told"), Ear()])
    assert said == ["told has been no better than 1 for 1 epoch(s)"] or said == [
        "told has been no better than 1.0 for 1 epoch(s)"
    ]


def test_of_metrics_the_direction_is_the_metrics_own(data: DataLoaders) -> None:
    stop = EarlyStopping("accuracy", patience=2)
    learn = learner(data).fit_one_cycle(4, 0.02, callbacks=[stop])
    assert stop.best.value == max(line["accuracy"] for line in learn.history)
    low = EarlyStopping("accuracy", patience=9, higher=False)
    learn = learner(data).fit_one_cycle(4, 0.02, callbacks=[low])
    assert low.best.value == min(line["accuracy"] for line in learn.history)


def test_a_column_that_is_not_there_is_named_with_the_nearest(data: DataLoaders) -> None:
    with pytest.raises(UnknownName, match=r"monitor 'valid_los'; did you mean 'valid_loss'"):
        learner(data).fit(1, callbacks=[EarlyStopping("valid_los")])


def test_a_value_that_is_no_number_is_never_best() -> None:
    best = BestValue("x")
    assert not best.better(state(x=float("nan")))
    assert best.better(state(x=2.0))
    assert not best.better(state(x=float("nan")))
    assert best.value == 2.0


def test_each_fit_counts_anew_unless_told_otherwise(data: DataLoaders) -> None:
    for reset, epochs in ((True, 2), (False, 1)):
        stop = EarlyStopping("told", patience=1, reset_on_fit=reset)
        learn = learner(data)
        learn.fit(1, callbacks=[Say("told", 1), stop])
        before = len(learn.history)
        learn.fit(3, callbacks=[Say("told", 5, 6, 7), stop])
        assert len(learn.history) - before == epochs


def test_reduce_on_plateau_divides_the_schedule(data: DataLoaders, caplog: pytest.LogCaptureFixture) -> None:
    rates: list[float] = []

    class Watch(Callback):
        order = -700

        def backward_end(self, state: TrainState) -> None:
            rates.append(state.optimizer.param_groups[0]["lr"])

    reduce = ReduceOnPlateau("told", patience=2, factor=10, min_lr=2e-4)
    with caplog.at_level(logging.INFO, "graftwork"):
        learn = learner(data).fit(6, 0.01, callbacks=[Say("told", 1, 1, 1, 1, 1, 1), reduce, Watch()])
    assert rates[::10] == pytest.approx([0.01, 0.01, 0.01, 1e-3, 1e-3, 2e-4])
    assert learn.recorder.learning_rates == pytest.approx(rates)
    assert "multiplied by 0.1" in caplog.text


def test_reduce_on_plateau_leaves_rates_below_the_least_one_alone() -> None:
    reduce = ReduceOnPlateau(min_lr=1e-3)
    reduce.scale = 0.1
    assert reduce._reduced(1e-4) == 1e-4
    assert reduce._reduced(1e-2) == pytest.approx(1e-3)
    assert reduce._reduced(1.0) == pytest.approx(0.1)


class Spoil(Callback):
    """Make the weights large after some steps, so that the loss is large but a number."""

    order = -10

    def __init__(self, step: int, factor: float = 100.0) -> None:
        self.step, self.factor = step, factor

    def batch_end(self, state: TrainState) -> None:
        if state.phase == "train" and state.step == self.step:
            with torch.no_grad():
                list(state.model.parameters())[-2].mul_(self.factor)


def test_a_spike_that_stays_stops_training_and_an_even_loss_does_not(data: DataLoaders) -> None:
    spike = TerminateOnSpike(threshold=10, patience=3, warmup=20, every=4)
    learn = learner(data).fit(6, 1e-4, callbacks=[spike, Spoil(30)])
    assert 33 <= len(learn.recorder.losses) <= 40
    calm = TerminateOnSpike(threshold=10, patience=3, warmup=20, every=4)
    assert len(learner(data).fit(6, 1e-4, callbacks=[calm]).recorder.losses) == 60


def test_one_high_loss_is_no_spike() -> None:
    spike, now = TerminateOnSpike(5, patience=2, warmup=3, every=1), state()
    for loss in (1.0, 1.1, 0.9, 50.0, 1.0, 60.0, 1.0):
        now.loss = torch.tensor(loss)
        spike.batch_end(now)
    assert now.stopped is None
    assert spike.mean == pytest.approx(1.0, abs=0.05)
    for loss in (60.0, 70.0):
        now.loss = torch.tensor(loss)
        spike.batch_end(now)
    assert now.stopped is not None
    assert "risen to 70, from about 1" in now.stopped


def test_losses_are_read_only_now_and_then() -> None:
    spike, now = TerminateOnSpike(5, patience=1, warmup=1, every=4), state()
    for loss in (1.0, 1.0, 90.0):
        now.loss = torch.tensor(loss)
        spike.batch_end(now)
    assert now.stopped is None
    spike.phase_end(now)
    assert now.stopped is not None


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def test_the_time_limit_ends_a_fit_within_an_epoch_and_validates(data: DataLoaders) -> None:
    learn = learner(data).fit(5, callbacks=[TimeLimit(seconds=13, clock=Clock())])
    assert len(learn.recorder.losses) == 12
    assert len(learn.history) == 2
    assert "valid_loss" in learn.history[-1]


def test_all_fits_share_the_time(data: DataLoaders) -> None:
    limit = TimeLimit(seconds=13, clock=Clock())
    learn = learner(data).fit(5, callbacks=[limit]).fit(5, callbacks=[limit])
    assert len(learn.recorder.losses) == 13


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: EarlyStopping(patience=0),
        lambda: EarlyStopping(min_delta=-0.1),
        lambda: ReduceOnPlateau(factor=1),
        lambda: ReduceOnPlateau(patience=0),
        lambda: TerminateOnSpike(0),
        lambda: TerminateOnSpike(every=0),
        lambda: TimeLimit(),
    ],
    ids=["patience", "min-delta", "factor", "plateau-patience", "threshold", "every", "time"],
)
def test_impossible_options_are_refused(wrong: Any) -> None:
    with pytest.raises(OptionError):
        wrong()
