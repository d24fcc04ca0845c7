from __future__ import annotations

import csv
import json
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from graftwork import DataBlock, Learner, Profile
from graftwork.callbacks.checkpointer import Checkpointer
from graftwork.engine import Engine, EngineRun
from graftwork.errors import OptionError
from graftwork.events import Callback, TrainState
from graftwork.model import ModelParts
from graftwork.profiler import PARTS, Timing, advice
from graftwork.testing.toy import Item, make_items, recipe

ITEMS = make_items()
SLOW_SECONDS = 0.003


def learner(*callbacks: Callback, block: DataBlock | None = None, engine: Engine | None = None, **data: Any) -> Learner:
    loaders = (block or recipe()).dataloaders(ITEMS, bs=16, workers=0, **data)
    torch.manual_seed(0)
    parts = ModelParts(module=nn.Linear(4, 3), engine=engine)
    return Learner(loaders, parts, progress=False, callbacks=callbacks)


class Sleeps(Callback):
    """Sleep in one event."""

    def __init__(self, seconds: float = SLOW_SECONDS) -> None:
        self.seconds = seconds

    def backward_end(self, state: TrainState) -> None:
        time.sleep(self.seconds)


def slow_number(item: Item) -> Any:
    time.sleep(SLOW_SECONDS)
    return item[0]


def test_the_parts_make_a_step_and_the_files_hold_them(tmp_path: Path) -> None:
    learn = learner()
    began = time.perf_counter()
    with Profile(learn, tmp_path, wait=5, active=10) as profile:
        learn.fit(4)
    seconds = time.perf_counter() - began
    timing = profile.timing
    assert timing is not None
    assert timing.steps == 10
    assert set(timing.milliseconds) == set(PARTS)
    assert all(value >= 0 for value in timing.milliseconds.values())
    assert timing.milliseconds["forward"] > 0
    assert sum(timing.shares.values()) == pytest.approx(1)
    assert 10 * timing.total / 1e3 < seconds
    assert str(profile) == (tmp_path / "profile.txt").read_text(encoding="utf-8").rstrip("\n")
    with (tmp_path / "profile.csv").open(encoding="utf-8") as file:
        rows = {row["part"]: float(row["ms"]) for row in csv.DictReader(file)}
    assert rows == timing.milliseconds
    trace = json.loads((tmp_path / "trace.json").read_text(encoding="utf-8"))
    names = [event.get("name", "") for event in trace["traceEvents"]]
    assert sum(name.startswith("Optimizer.step") for name in names) == 10
    assert {path.name for path in tmp_path.iterdir()} == {"profile.txt", "profile.csv", "trace.json"}


def test_a_slow_loader_is_the_bottleneck_and_that_is_said() -> None:
    block = recipe(getters={"x": slow_number, "y": lambda item: item[1]})
    learn = learner(block=block, cache="none")
    with Profile(learn, active=4, wait=2, trace=False) as profile:
        learn.fit(1)
    assert profile.timing is not None
    assert profile.timing.milliseconds["data"] > 16 * SLOW_SECONDS * 1e3
    assert profile.timing.shares["data"] > 0.8
    assert "the loader is the bottleneck" in str(profile)
    assert "raise --workers (now 0 threads" in str(profile)


def test_a_slow_callback_is_found() -> None:
    learn = learner(Sleeps())
    with Profile(learn, trace=False) as profile:
        learn.fit(3)
    assert profile.timing is not None
    assert profile.timing.milliseconds["callbacks"] > SLOW_SECONDS * 1e3
    assert "leave out those that work in every batch" in str(profile)


def test_validation_and_what_lies_between_epochs_are_not_in_a_step() -> None:
    class Between(Callback):
        def phase_start(self, state: TrainState) -> None:
            time.sleep(0.05 if state.phase == "valid" else 0)

        def epoch_start(self, state: TrainState) -> None:
            time.sleep(0.05)

        def batch_end(self, state: TrainState) -> None:
            time.sleep(0.01 if state.phase == "valid" else 0)

    learn = learner(Between(), cache="memory")
    with Profile(learn, wait=5, active=20, trace=False) as profile:
        learn.fit(4)
    assert profile.timing is not None
    assert profile.timing.steps == 20
    assert profile.timing.total < 2.5


def test_training_is_the_same_and_the_learner_is_as_it_was(tmp_path: Path) -> None:
    plain, profiled = learner(Sleeps(0)).fit(2, 0.1), learner(Sleeps(0))
    feed, callbacks = profiled.feed, list(profiled.callbacks)
    with Profile(profiled, tmp_path):
        profiled.fit(2, 0.1)
    assert profiled.recorder.losses == plain.recorder.losses
    assert profiled.feed is feed
    assert profiled.callbacks == callbacks
    with pytest.raises(ValueError, match="oh"), Profile(profiled, tmp_path / "again"):  # noqa: PT012
        profiled.fit(1)
        raise ValueError("oh")
    assert profiled.feed is feed
    assert profiled.callbacks == callbacks


def test_a_profiled_run_is_resumed_without_a_profile(tmp_path: Path) -> None:
    class Stop(Callback):
        def batch_start(self, state: TrainState) -> None:
            if state.step == 14:
                raise ValueError("power")

    whole, first = learner().fit(2, 0.1), learner(Checkpointer(tmp_path), Stop())
    with pytest.raises(ValueError, match="power"), Profile(first, trace=False):
        first.fit(2, 0.1)
    assert learner().resume(tmp_path).recorder.losses == whole.recorder.losses


def test_windows_are_cut_to_a_short_fit(tmp_path: Path) -> None:
    learn = learner()
    with Profile(learn, tmp_path) as profile:
        learn.fit(1)
    assert profile.timing is not None
    assert profile.timing.steps == 4
    assert (tmp_path / "trace.json").exists()


def test_nothing_measured_is_said() -> None:
    with Profile(learner()) as profile:
        pass
    assert "not one step was measured" in str(profile)
    with pytest.raises(OptionError, match="active=0"):
        Profile(learner(), active=0)


class Waits(Engine):
    required: ClassVar[bool] = True

    def refuses(self, run: EngineRun) -> str | None:
        return None

    def train_epoch(self, run: EngineRun) -> Tensor:
        time.sleep(0.02)
        return torch.ones(1)


def test_an_engine_has_no_parts(tmp_path: Path) -> None:
    learn = learner(engine=Waits())
    with Profile(learn, tmp_path) as profile:
        learn.fit(2)
    assert profile.timing is None
    assert "Waits trains whole epochs" in str(profile)
    assert "(mean of 2)" in str(profile)
    assert {path.name for path in tmp_path.iterdir()} == {"profile.txt"}


def timing(**milliseconds: float) -> Timing:
    return Timing(milliseconds=dict.fromkeys(PARTS, 0.0) | milliseconds, steps=3, synchronised=True)


def test_advice_fits_the_loader_and_the_part() -> None:
    columns, files = learner(cache="memory").data.train, learner(cache="none").data.train
    assert advice(timing(data=62, forward=38), columns).startswith("data takes 62% of a step")
    assert "a larger batch (--bs)" in advice(timing(data=62, forward=38), columns)
    assert "--worker-type process" in advice(timing(data=62, forward=38), files)
    assert advice(timing(data=3, forward=97), files) == "The loader keeps up: data takes 3% of a step."
    assert "cheaper batch transforms" in advice(timing(transforms=5, forward=5), files)
    assert "waited for the device" in str(timing(forward=1))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_on_cuda_parts_wait_for_the_device(tmp_path: Path) -> None:
    data = recipe().dataloaders(ITEMS, bs=16, workers=0)
    learn = Learner(data, nn.Sequential(nn.Linear(4, 4096), *[nn.Linear(4096, 4096)] * 20, nn.Linear(4096, 3)))
    with Profile(learn, tmp_path) as profile:
        learn.fit(6)
    assert profile.timing is not None
    assert profile.timing.synchronised
    assert profile.timing.milliseconds["backward"] > profile.timing.milliseconds["other"]
    assert "gpu" in (tmp_path / "trace.json").read_text(encoding="utf-8").lower()
