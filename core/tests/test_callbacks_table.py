"""What every callback of the core must do, over a table of settings: train, resume to the same bits, leave no trace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from graftwork import (
    EMA,
    SWA,
    ActivationStats,
    EarlyStopping,
    GradientAccumulation,
    GradientClip,
    GradualUnfreezing,
    HistoryFile,
    MixUp,
    ReduceOnPlateau,
    SaveBest,
    TensorBoard,
    TerminateOnSpike,
    TimeLimit,
)
from graftwork.callbacks.checkpointer import Checkpointer
from graftwork.errors import OptionError
from graftwork.events import Callback, EventTable, TrainState
from graftwork.learner import Learner
from graftwork.model import ModelParts
from graftwork.plugins import get_host
from graftwork.testing.toy import make_items, recipe

ITEMS = make_items()
SETTINGS: dict[str, Callable[[Path], Callback]] = {
    "activation-stats": lambda folder: ActivationStats(every=2),
    "early-stopping": lambda folder: EarlyStopping(patience=3),
    "ema": lambda folder: EMA(0.9),
    "gradient-accumulation": lambda folder: GradientAccumulation(3),
    "gradient-clip": lambda folder: GradientClip(0.1),
    "gradual-unfreezing": lambda folder: GradualUnfreezing(2),
    "history-file": lambda folder: HistoryFile(folder / "history.csv"),
    "mixup": lambda folder: MixUp(),
    "reduce-on-plateau": lambda folder: ReduceOnPlateau(min_delta=1.0),
    "save-best": lambda folder: SaveBest(),
    "swa": lambda folder: SWA(0.3),
    "tensorboard": lambda folder: TensorBoard(folder / "tensorboard", every=2),
    "terminate-on-spike": lambda folder: TerminateOnSpike(),
    "time-limit": lambda folder: TimeLimit(minutes=5),
}
every_one = pytest.mark.parametrize("name", SETTINGS)


class StoppedError(Exception):
    """End a run."""


class StopAt(Callback):
    order = -950  # after the checkpointer

    def __init__(self, step: int, phase: str = "train") -> None:
        self.step, self.phase = step, phase

    def batch_end(self, state: TrainState) -> None:
        if state.phase == self.phase and state.step == self.step:
            raise StoppedError


def learner(*callbacks: Callback) -> Learner:
    data = recipe().dataloaders(ITEMS, bs=16, workers=0, cache="memory")
    torch.manual_seed(0)
    body, head = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2)), nn.Linear(8, 3)
    parts = ModelParts(module=nn.Sequential(body, head), groups={"body": (body,), "head": (head,)})
    return Learner(data, parts, progress=False, callbacks=callbacks)


def weights(learn: Learner) -> list[torch.Tensor]:
    return [t.clone() for t in learn.module.state_dict().values()]


def assert_same(left: Learner, right: Learner) -> None:
    assert all(torch.equal(a, b) for a, b in zip(weights(left), weights(right), strict=True))
    assert left.recorder.losses == right.recorder.losses
    assert [r["valid_loss"] for r in left.history] == [r["valid_loss"] for r in right.history]


def test_the_table_has_every_callback_but_one_for_pictures_and_two_for_servers() -> None:
    elsewhere = {"core/cutmix", "core/mlflow", "core/wandb"}
    assert {f"core/{name}" for name in SETTINGS} | elsewhere == set(get_host().callbacks.ids())


@every_one
def test_a_registered_name_is_its_class(name: str, tmp_path: Path) -> None:
    assert get_host().callbacks.get(f"core/{name}") is type(SETTINGS[name](tmp_path))


@every_one
@pytest.mark.parametrize(("step", "phase"), [(4, "train"), (10, "train"), (15, "train"), (20, "valid")])
def test_a_run_stopped_and_resumed_ends_in_the_same_bits(name: str, step: int, phase: str, tmp_path: Path) -> None:
    whole = learner(SETTINGS[name](tmp_path / "whole")).fit(3, 0.02)
    stopped = learner(SETTINGS[name](tmp_path), Checkpointer(tmp_path, every_steps=5), StopAt(step, phase))
    with pytest.raises(StoppedError):
        stopped.fit(3, 0.02)
    again = learner(SETTINGS[name](tmp_path), Checkpointer(tmp_path, every_steps=5)).resume(tmp_path)
    assert_same(again, whole)


@every_one
def test_nothing_is_left_on_the_model(name: str, tmp_path: Path) -> None:
    learn = learner(SETTINGS[name](tmp_path)).fit(1)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in learn.module.modules())
    assert all(p.requires_grad and p.grad is None for p in learn.module.parameters())


@every_one
def test_two_fits_with_one_callback_go_on(name: str, tmp_path: Path) -> None:
    learn = learner(SETTINGS[name](tmp_path)).fit(1).fit(1)
    assert [line["epoch"] for line in learn.history] == [1, 2]


@pytest.mark.parametrize(
    ("left", "right", "what"),
    [
        (EMA(), SWA(), "EMA and SWA both want to validate with weights"),
        (MixUp(), MixUp(0.1), "MixUp and MixUp both want to mix"),
        (GradientAccumulation(2), GradientAccumulation(3), "decide which batches make a step"),
    ],
    ids=["averages", "mixing", "accumulation"],
)
def test_two_that_exclude_each_other_are_refused(left: Callback, right: Callback, what: str) -> None:
    with pytest.raises(OptionError, match=what):
        EventTable.compile([left, right])
    assert EventTable.compile([left, Callback()])


def test_many_together_train(tmp_path: Path) -> None:
    both = [SETTINGS[name](tmp_path) for name in SETTINGS if name not in ("swa", "gradual-unfreezing")]
    learn = learner(*both).fit_one_cycle(3, 0.02)
    assert len(learn.history) == 3
