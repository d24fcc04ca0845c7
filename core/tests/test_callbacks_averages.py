from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from graftwork.callbacks.averages import EMA, SWA
from graftwork.callbacks.best import SaveBest
from graftwork.callbacks.gradients import GradientAccumulation
from graftwork.datablock import DataLoaders
from graftwork.errors import OptionError
from graftwork.events import Callback, TrainState
from graftwork.learner import Learner
from graftwork.testing.toy import mlp

Weights = dict[str, torch.Tensor]


def learner(data: DataLoaders, **options: Any) -> Learner:
    torch.manual_seed(0)
    return Learner(data, mlp(), progress=False, **options)


def weights(module: torch.nn.Module) -> Weights:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def close(left: Weights, right: Weights) -> bool:
    return all(torch.allclose(left[name], right[name], atol=1e-6) for name in left)


class Watch(Callback):
    """Keep the weights after every step, and those each epoch is validated with."""

    order = -2000

    def __init__(self) -> None:
        self.steps: list[Weights] = []
        self.validated: list[Weights] = []
        self.epochs: list[Weights] = []

    def batch_end(self, state: TrainState) -> None:
        if state.phase == "train":
            self.steps.append(weights(state.model))

    def phase_end(self, state: TrainState) -> None:
        if state.phase == "valid":
            self.validated.append(weights(state.model))

    def epoch_end(self, state: TrainState) -> None:
        self.epochs.append(weights(state.model))


def by_hand(start: Weights, steps: list[Weights], decay: float) -> Weights:
    average = start
    for step in steps:
        average = {
            name: decay * old + (1 - decay) * step[name] if old.is_floating_point() else step[name]
            for name, old in average.items()
        }
    return average


def test_ema_is_the_average_by_hand_buffers_too_and_is_what_is_validated_and_kept(data: DataLoaders) -> None:
    watch, learn = Watch(), learner(data)
    start = weights(learn.module)
    learn.fit(2, 0.01, callbacks=[EMA(0.8, warmup=False), watch])
    for epoch in (1, 2):
        assert close(watch.validated[epoch - 1], by_hand(start, watch.steps[: 10 * epoch], 0.8))
    assert close(weights(learn.module), watch.validated[-1])
    assert not close(watch.validated[-1], watch.steps[-1])
    assert learn.validate()["valid_loss"] == pytest.approx(learn.history[-1]["valid_loss"], rel=1e-6)
    assert "1.running_mean" in watch.validated[0]


def test_training_itself_is_what_it_would_be_without(data: DataLoaders) -> None:
    watch = Watch()
    learner(data).fit(2, 0.01, callbacks=[EMA(0.8), watch])
    plain = learner(data).fit(2, 0.01)
    assert all(torch.equal(watch.steps[-1][n], t) for n, t in plain.module.state_dict().items())
    assert all(torch.equal(watch.epochs[-1][n], t) for n, t in plain.module.state_dict().items())


def test_the_trained_weights_are_kept_if_asked_for(data: DataLoaders) -> None:
    ema, watch = EMA(0.8, keep="trained"), Watch()
    learn = learner(data).fit(2, 0.01, callbacks=[ema, watch])
    assert close(weights(learn.module), watch.steps[-1])
    assert close(ema.average, watch.validated[-1])


def test_warm_up_forgets_the_beginning(data: DataLoaders) -> None:
    watch, learn = Watch(), learner(data)
    start = weights(learn.module)
    learn.fit(1, 0.01, callbacks=[EMA(0.9999), watch])
    average = start
    for n, step in enumerate(watch.steps, 1):
        average = by_hand(average, [step], min(0.9999, (1 + n) / (10 + n)))
    assert close(watch.validated[0], average)


def test_ema_averages_after_steps_and_not_after_batches(data: DataLoaders) -> None:
    ema = EMA(0.8)
    learner(data).fit(1, 0.01, callbacks=[GradientAccumulation(4), ema])
    assert ema.count == 3


def test_swa_is_the_mean_of_the_last_epochs(data: DataLoaders) -> None:
    watch, swa = Watch(), SWA(0.5)
    learn = learner(data).fit(4, 0.01, callbacks=[swa, watch])
    ends = [watch.steps[i] for i in (29, 39)]
    mean = {name: (ends[0][name] + ends[1][name]) / 2 for name in ends[0] if ends[0][name].is_floating_point()}
    assert swa.count == 2
    assert close(watch.validated[1], watch.steps[19])
    assert close(watch.validated[2], watch.steps[29])
    assert close(mean, watch.validated[3])
    assert close(mean, weights(learn.module))


def test_swa_that_never_began_is_said(data: DataLoaders, caplog: pytest.LogCaptureFixture) -> None:
    class Stop(Callback):
        def epoch_end(self, state: TrainState) -> None:
            state.stop("enough")

    watch = Watch()
    with caplog.at_level(logging.WARNING, "graftwork"):
        learn = learner(data).fit(4, 0.01, callbacks=[SWA(0.5), Stop(), watch])
    assert "SWA has averaged nothing" in caplog.text
    assert close(weights(learn.module), watch.steps[-1])


def test_without_validation_averages_are_taken_all_the_same(data: DataLoaders) -> None:
    for average, count in ((EMA(0.9), 20), (SWA(0.5), 1)):
        watch = Watch()
        learn = learner(DataLoaders(train=data.train)).fit(2, 0.01, callbacks=[average, watch])
        assert average.count == count
        assert close(weights(learn.module), watch.steps[-1]) == isinstance(average, SWA)


def test_an_error_in_validation_leaves_the_trained_weights(data: DataLoaders) -> None:
    class Fail(Callback):
        def batch_end(self, state: TrainState) -> None:
            if state.phase == "valid":
                raise KeyError("broken")

    watch, learn = Watch(), learner(data)
    with pytest.raises(KeyError):
        learn.fit(1, 0.01, callbacks=[EMA(0.8), Fail(), watch])
    assert close(weights(learn.module), watch.steps[-1])


class Told(Callback):
    """Say how good an epoch's validation was."""

    order = 500

    def __init__(self, *values: float) -> None:
        self.values = values

    def phase_end(self, state: TrainState) -> None:
        if state.phase == "valid":
            state.record["told"] = self.values[state.epoch]


def test_the_best_weights_are_put_back(data: DataLoaders, caplog: pytest.LogCaptureFixture) -> None:
    watch, best = Watch(), SaveBest("told")
    with caplog.at_level(logging.INFO, "graftwork"):
        learn = learner(data).fit(3, 0.01, callbacks=[Told(3, 1, 2), best, watch])
    assert best.epoch == 2
    assert close(weights(learn.module), watch.steps[19])
    assert not close(weights(learn.module), watch.steps[29])
    assert "the weights are those of epoch 2, told 1" in caplog.text
    kept = learner(data).fit(3, 0.01, callbacks=[Told(3, 1, 2), SaveBest("told", restore=False)])
    assert close(weights(kept.module), watch.steps[29])


def test_the_best_weights_are_the_averaged_ones_where_these_were_validated(data: DataLoaders) -> None:
    for order in (1, -1):
        watch = Watch()
        both = [EMA(0.8), SaveBest("told")][::order]
        learn = learner(data).fit(3, 0.01, callbacks=[Told(3, 1, 2), *both, watch])
        assert close(weights(learn.module), watch.validated[1])
        assert not close(weights(learn.module), watch.steps[19])


def test_the_best_weights_survive_an_error(data: DataLoaders) -> None:
    class Fail(Callback):
        def epoch_start(self, state: TrainState) -> None:
            if state.epoch == 2:
                raise KeyError("broken")

    watch, learn = Watch(), learner(data)
    with pytest.raises(KeyError):
        learn.fit(3, 0.01, callbacks=[Told(1, 2, 3), SaveBest("told"), Fail(), watch])
    assert close(weights(learn.module), watch.steps[9])


def test_without_validation_the_training_loss_can_be_watched(data: DataLoaders) -> None:
    best = SaveBest("train_loss")
    learn = learner(DataLoaders(train=data.train)).fit(2, 0.01, callbacks=[best])
    assert best.best.value == min(line["train_loss"] for line in learn.history)


def test_the_best_epoch_can_be_a_file_too(data: DataLoaders, tmp_path: Path) -> None:
    watch = Watch()

    def write(module: nn.Module, *, epoch: int, record: Mapping[str, float]) -> None:
        assert record["told"] == {1: 3, 2: 1}[epoch]
        save_file(module.state_dict(), tmp_path / "best.safetensors")

    best = SaveBest("told", write=write)
    learner(data).fit(3, 0.01, callbacks=[Told(3, 1, 2), best, watch])
    found = load_file(tmp_path / "best.safetensors")
    assert all(torch.equal(found[n], t) for n, t in watch.steps[19].items())


@pytest.mark.parametrize(
    "wrong",
    [lambda: EMA(1.0), lambda: EMA(-0.1), lambda: SWA(1), lambda: EMA(keep="both")],  # type: ignore[arg-type]
    ids=["decay", "negative", "start", "keep"],
)
def test_impossible_options_are_refused(wrong: Any) -> None:
    with pytest.raises(OptionError):
        wrong()
