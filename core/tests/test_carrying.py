"""What a model carries from batch to batch: kept by who runs it, in checkpoints too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from graftwork.batch import WHOLE, Batch, Part
from graftwork.callbacks.checkpointer import Checkpointer
from graftwork.dataloader import ColumnLoader
from graftwork.events import Callback, TrainState
from graftwork.learner import Learner
from graftwork.model import Carrying
from graftwork.testing.toy import make_items, recipe


class Stream(ColumnLoader):
    """Give batches that follow one another."""

    def at(self, epoch: int, batch: int = 0, part: Part = WHOLE) -> Iterator[Batch]:
        for loaded in super().at(epoch, batch, part):
            yield replace(loaded, follows=loaded.number > 0)


class Running(Carrying):
    """Add up what it has seen, row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 3)
        self.began: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        taken = self.take()
        self.began.append(float(taken[0].detach().abs().sum()) if taken else 0.0)
        mine = self.body(x).tanh()
        total = mine + 0.5 * taken[0] if taken else mine
        self.leave(total)
        out: Tensor = self.head(total)
        return out


def learner(*callbacks: Callback) -> Learner:
    data = recipe().dataloaders(make_items(), bs=10, cache="memory")
    made = data.train
    assert isinstance(made, ColumnLoader)
    data.train = Stream(made.columns, made.plan, bs=10, training=True)
    valid = data.valid
    assert isinstance(valid, ColumnLoader)
    data.valid = Stream(valid.columns, valid.plan, bs=10)
    torch.manual_seed(3)
    return Learner(data, Running(), progress=False, callbacks=callbacks)


def began(learn: Learner) -> list[float]:
    assert isinstance(learn.module, Running)
    return learn.module.began


def test_a_stream_begins_anew_with_each_pass_and_goes_on_within() -> None:
    learn = learner().fit(2, 0.01)
    empty = [not amount for amount in began(learn)]
    assert empty == ([True] + [False] * 14 + [True] + [False] * 4) * 2


def test_called_by_itself_a_model_always_begins_anew() -> None:
    learn = learner().fit(1, 0.01)
    x = torch.ones(10, 4)
    assert torch.equal(learn.module(x), learn.module(x))
    assert learn.validate() == learn.validate()
    first = learn.predict([0.1, 0.2, 0.3, 0.4]).raw
    learn.validate()
    assert torch.equal(learn.predict([0.1, 0.2, 0.3, 0.4]).raw, first)


class LooksAway(Callback):
    """Validate in the middle of training."""

    learn: Learner

    def batch_end(self, state: TrainState) -> None:
        if state.phase == "train" and state.step == 7:
            self.learn.validate()
            self.learn.predict([0.0, 0.0, 0.0, 1.0])


def test_validating_in_between_disturbs_nothing() -> None:
    looking = LooksAway()
    other = learner(looking)
    looking.learn = other
    assert other.fit(1, 0.01).recorder.losses == learner().fit(1, 0.01).recorder.losses


class StopAt(Callback):
    """Fail between two steps, or within one."""

    order = -950

    def __init__(self, step: int, *, within: bool) -> None:
        self.step, self.within = step, within

    def loss_end(self, state: TrainState) -> None:
        if self.within and state.phase == "train" and state.step == self.step:
            raise InterruptedError

    def batch_end(self, state: TrainState) -> None:
        if not self.within and state.phase == "train" and state.step == self.step:
            raise InterruptedError


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("step", [1, 8, 15, 22])
def test_a_run_stopped_anywhere_goes_on_to_the_same_bits(tmp_path: Path, step: int, within: bool) -> None:
    whole = learner().fit(2, 0.02)
    with pytest.raises(InterruptedError):
        learner(Checkpointer(tmp_path, every_steps=1), StopAt(step, within=within)).fit(2, 0.02)
    again = learner(Checkpointer(tmp_path, every_steps=100)).resume(tmp_path)
    for name, value in whole.module.state_dict().items():
        assert torch.equal(value, again.module.state_dict()[name]), name
    assert again.recorder.losses == whole.recorder.losses
