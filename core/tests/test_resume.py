from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from graftwork.callbacks.checkpointer import Checkpointer, checkpoint_files
from graftwork.dataloader import ItemLoader
from graftwork.errors import ArtifactError, OptionError
from graftwork.events import Callback, TrainState
from graftwork.learner import Learner
from graftwork.model import ModelParts
from graftwork.resume import fingerprint
from graftwork.testing.toy import make_items, recipe

ITEMS = make_items()


class StoppedError(Exception):
    """End a run."""


class StopAt(Callback):
    """Raise after so many steps of a fit."""

    order = -950  # after the checkpointer

    def __init__(self, step: int, error: BaseException | None = None, fit: int = 0) -> None:
        self.step, self.error, self.fit, self.fits = step, error or StoppedError(), fit, -1

    def fit_start(self, state: TrainState) -> None:
        self.fits += 1

    def batch_end(self, state: TrainState) -> None:
        if state.phase == "train" and self.fits == self.fit and state.step == self.step:
            raise self.error


class Counts(Callback):
    """Count steps, over checkpoints too."""

    def __init__(self) -> None:
        self.count, self.noise = 0, torch.zeros(2)

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "noise": self.noise}

    def load_state_dict(self, state: Any) -> None:
        self.count, self.noise = state["count"], state["noise"].clone()

    def batch_end(self, state: TrainState) -> None:
        if state.phase == "train":
            self.count += 1
            self.noise = self.noise + torch.rand(2)


def learner(*callbacks: Callback, **options: Any) -> Learner:
    data = recipe().dataloaders(ITEMS, bs=16, cache=options.pop("cache", "memory"), workers=options.pop("workers", 0))
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(16) if options.pop("norm", True) else nn.Identity()
    body = nn.Sequential(nn.Linear(4, 16), norm, nn.ReLU(), nn.Dropout(0.3))
    head = nn.Linear(16, options.pop("classes", 3))
    parts = ModelParts(module=nn.Sequential(body, head), groups={"body": (body,), "head": (head,)})
    return Learner(data, parts, progress=False, callbacks=callbacks, **options)


def same(left: Learner, right: Learner) -> None:
    for name, value in left.module.state_dict().items():
        assert torch.equal(value, right.module.state_dict()[name]), name
    assert left.recorder.losses == right.recorder.losses
    assert left.recorder.learning_rates == right.recorder.learning_rates
    assert _without_time(left) == _without_time(right)
    assert left.epochs_done == right.epochs_done
    assert left.fits_done == right.fits_done


def _without_time(learn: Learner) -> list[dict[str, float]]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in learn.history]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "rmsprop"])
@pytest.mark.parametrize("step", [1, 7, 10, 11, 20, 29])
def test_a_run_stopped_anywhere_ends_in_the_same_bits(tmp_path: Path, step: int, optimizer: str) -> None:
    whole = learner(Counts(), optimizer=optimizer).fit_one_cycle(3, 0.02)
    assert len(whole.data.train) == 10
    stopped = learner(Counts(), Checkpointer(tmp_path, every_steps=1), StopAt(step), optimizer=optimizer)
    with pytest.raises(StoppedError):
        stopped.fit_one_cycle(3, 0.02)
    counts = Counts()
    again = learner(counts, Checkpointer(tmp_path, every_steps=1), optimizer=optimizer).resume(tmp_path)
    same(again, whole)
    assert counts.count == 30


@pytest.mark.parametrize("cache", ["memory", "none"])
@pytest.mark.parametrize("step", [6, 13])
def test_between_two_checkpoints_steps_are_done_again(tmp_path: Path, step: int, cache: str) -> None:
    whole = learner(cache=cache).fit(2, 0.01)
    with pytest.raises(StoppedError):
        learner(Checkpointer(tmp_path, every_steps=4), StopAt(step, StoppedError()), cache=cache, workers=2).fit(
            2, 0.01
        )
    for late in checkpoint_files(tmp_path)[-1:]:
        late.unlink()  # the one of the exception; as if the machine had lost power
    same(learner(cache=cache).resume(tmp_path), whole)


@pytest.mark.parametrize(("fit", "step"), [(0, 4), (0, 10), (1, 3), (1, 15)])
def test_a_recipe_of_several_fits_goes_on(tmp_path: Path, fit: int, step: int) -> None:
    whole = learner().fine_tune(2, 0.02)
    with pytest.raises(StoppedError):
        learner(Checkpointer(tmp_path, every_steps=1, keep=3), StopAt(step, fit=fit)).fine_tune(2, 0.02)
    again = learner(Checkpointer(tmp_path)).replay(tmp_path).fine_tune(2, 0.02)
    same(again, whole)
    assert [p.requires_grad for p in again.module.parameters()] == [p.requires_grad for p in whole.module.parameters()]


def test_a_finished_fit_is_not_trained_again(tmp_path: Path) -> None:
    whole = learner(Checkpointer(tmp_path)).fit(2)
    same(learner(Checkpointer(tmp_path)).resume(tmp_path), whole)


def test_stopped_many_times(tmp_path: Path) -> None:
    whole = learner().fit_one_cycle(3, 0.02)
    with pytest.raises(StoppedError):
        learner(Checkpointer(tmp_path, every_steps=1), StopAt(2)).fit_one_cycle(3, 0.02)
    for step in (5, 6, 17, 28):
        with pytest.raises(StoppedError):
            learner(Checkpointer(tmp_path, every_steps=1), StopAt(step)).resume(tmp_path)
    same(learner().resume(tmp_path), whole)


def test_a_failed_step_is_taken_again(tmp_path: Path) -> None:
    class Fails(Callback):
        def loss_end(self, state: TrainState) -> None:
            if state.phase == "train" and state.step == 14:
                raise StoppedError

    whole = learner(norm=False).fit(2)
    with pytest.raises(StoppedError):
        learner(Checkpointer(tmp_path, every_epochs=None), Fails(), norm=False).fit(2)
    assert checkpoint_files(tmp_path)[-1].name == "step-000000014.graft"
    same(learner(norm=False).resume(tmp_path), whole)


def test_a_signal_saves_and_ends_the_run(tmp_path: Path) -> None:
    import os
    import signal

    class Sends(Callback):
        def backward_end(self, state: TrainState) -> None:
            if state.step == 6:
                os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    whole = learner().fit(2)
    with pytest.raises(SystemExit) as ended:
        learner(Checkpointer(tmp_path), Sends()).fit(2)
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert [p.name for p in checkpoint_files(tmp_path)] == ["step-000000007.graft"]
    same(learner().resume(tmp_path), whole)


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("harm", [damage, cut])
def test_a_damaged_checkpoint_is_passed_over(
    tmp_path: Path, harm: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    whole = learner(Checkpointer(tmp_path, every_steps=1, every_epochs=None, monitor=None, keep=5)).fit(1)
    files = checkpoint_files(tmp_path)
    assert len(files) == 5
    harm(files[-1])
    with caplog.at_level(logging.WARNING, "graftwork"):
        same(learner().resume(tmp_path), whole)
    assert files[-1].name in caplog.text
    for file in files[:-1]:
        harm(file)
    with pytest.raises(ArtifactError, match="all of them damaged"):
        learner().resume(tmp_path)


def test_the_last_ones_and_the_best_are_kept(tmp_path: Path) -> None:
    class Worse(Callback):
        order = -1

        def epoch_end(self, state: TrainState) -> None:
            state.record["valid_loss"] = [0.5, 0.1, 0.3, 0.4, 0.6][state.epoch]

    learner(Worse(), Checkpointer(tmp_path, keep=2)).fit(5)
    assert [p.name for p in checkpoint_files(tmp_path)] == [
        "step-000000020-epoch.graft",
        "step-000000040-epoch.graft",
        "step-000000050-epoch.graft",
    ]


def test_another_model_is_refused_with_what_differs(tmp_path: Path) -> None:
    learner(Checkpointer(tmp_path)).fit(1)
    with pytest.raises(ArtifactError, match=r"'1\.weight' is \(3, 16\) in the file and \(5, 16\) in the model"):
        learner(classes=5).resume(tmp_path)


def test_other_data_are_refused(tmp_path: Path) -> None:
    learner(Checkpointer(tmp_path)).fit(1)
    other = learner()
    other.data = recipe().dataloaders(make_items(seed=9), bs=16, cache="memory")
    with pytest.raises(ArtifactError, match="training data are not those the run began with"):
        other.resume(tmp_path)


def test_a_folder_without_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="holds no checkpoint of a run"):
        learner().resume(tmp_path)


@pytest.mark.parametrize("on_error", ["continue", "stop"])
def test_a_file_that_cannot_be_written(tmp_path: Path, on_error: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "checkpoint").write_text("in the way")
    learn = learner(Checkpointer(tmp_path / "checkpoint", on_error=on_error))
    if on_error == "stop":
        with pytest.raises(OSError, match="checkpoint"):
            learn.fit(1)
    else:
        learn.fit(1)
        assert len(learn.history) == 1
        assert "no checkpoint at step 10" in caplog.text


@pytest.mark.parametrize(
    "options",
    [{"every_steps": 0}, {"keep": 0}, {"every_minutes": 0.0}, {"on_error": "perhaps"}],
    ids=lambda o: next(iter(o)),
)
def test_impossible_options(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        Checkpointer(tmp_path, **options)


class Signals(Callback):
    """Send a signal when so many steps have been taken, in training or in the validation after them."""

    def __init__(self, number: int, step: int, phase: str, times: int = 1) -> None:
        self.number, self.step, self.phase, self.times = number, step, phase, times

    def loss_end(self, state: TrainState) -> None:
        import os

        if state.phase == self.phase and state.step == self.step:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("optimizer", ["adamw", "schedulefree(adamw)"])
@pytest.mark.parametrize(("phase", "step"), [("train", 0), ("train", 9), ("train", 13), ("valid", 10)])
def test_a_signal_is_heard_in_training_and_validation(tmp_path: Path, phase: str, step: int, optimizer: str) -> None:
    import signal

    whole = learner(optimizer=optimizer, norm=False).fit(2)
    callbacks = (Checkpointer(tmp_path, every_epochs=None, monitor=None), Signals(signal.SIGINT, step, phase))
    with pytest.raises(KeyboardInterrupt):
        learner(*callbacks, optimizer=optimizer, norm=False).fit(2)
    assert len(checkpoint_files(tmp_path)) == 1
    same(learner(optimizer=optimizer, norm=False).resume(tmp_path), whole)


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    import signal

    with pytest.raises(KeyboardInterrupt):
        learner(Checkpointer(tmp_path), Signals(signal.SIGINT, 6, "train", times=2)).fit(2)
    assert not checkpoint_files(tmp_path)


def test_of_one_step_the_end_of_the_epoch_is_the_last(tmp_path: Path) -> None:
    learner(Checkpointer(tmp_path, every_steps=1, monitor=None)).fit(2)
    names = [path.name for path in checkpoint_files(tmp_path)]
    assert names == ["step-000000020.graft", "step-000000020-epoch.graft"]
    validated = learner().resume(tmp_path)
    assert validated.epochs_done == 2


@pytest.mark.parametrize("stop", [4, 10, 14])
def test_a_fit_that_was_stopped_stays_stopped(tmp_path: Path, stop: int) -> None:
    class Enough(Callback):
        def batch_end(self, state: TrainState) -> None:
            if state.phase == "train" and state.step == stop:
                state.stop("enough")

    whole = learner(Enough()).fit(3)
    learner(Enough(), Checkpointer(tmp_path, every_steps=1)).fit(3)
    for path in checkpoint_files(tmp_path):
        same(learner().resume(path), whole)


@pytest.mark.parametrize("on_error", ["continue", "stop"])
def test_a_full_disk_leaves_the_older_checkpoints_as_they_are(
    tmp_path: Path, on_error: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno
    import os

    real, calls = os.fsync, [0]

    def full(handle: int) -> None:
        calls[0] += 1
        if calls[0] > 2:  # the first checkpoint and its folder
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    learn = learner(Checkpointer(tmp_path, every_steps=4, monitor=None, on_error=on_error))
    if on_error == "stop":
        with pytest.raises(ArtifactError, match="No space left on device"):
            learn.fit(1)
    else:
        learn.fit(1)
        assert len(learn.history) == 1
        assert "no checkpoint at step 8" in caplog.text
    assert "No space left on device; nothing was changed there; the older ones are as they were" in caplog.text
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000004.graft"]
    same(learner().resume(tmp_path), learner().fit(1))


def test_a_changed_validation_split_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    learner(Checkpointer(tmp_path)).fit(1)
    other = learner()
    other.data.valid = recipe().dataloaders(make_items(seed=9), bs=16, cache="memory").valid
    other.resume(tmp_path)
    assert "the validation data are not those the run began with" in caplog.text


@pytest.mark.parametrize("number", [0, 199])
def test_any_changed_value_changes_the_fingerprint(number: int) -> None:
    items = make_items()
    position = int(recipe().datasets(items).split.train[number * 149 // 199])
    numbers, label = items[position]
    items[position] = ([numbers[0] + 1e-3, *numbers[1:]], label)
    assert _print(items) != _print(ITEMS)


def _print(items: Any) -> str:
    return fingerprint(recipe().dataloaders(items, bs=16, cache="memory", workers=0).train)


def test_a_data_set_may_be_moved_but_not_changed() -> None:
    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

        def __str__(self) -> str:
            return self.name

    def of(names: list[str]) -> str:
        data = recipe().datasets(ITEMS).train
        loader = ItemLoader(data, workers=0)
        loader.item = lambda position: Named(names[position])  # type: ignore[method-assign]
        return fingerprint(loader)

    names = [f"a/{i}.png" for i in range(len(ITEMS))]
    assert of([f"here/{name}" for name in names]) == of([f"elsewhere/{name}" for name in names])
    assert of([f"here/{name}" for name in names]) != of([f"here/{name}" for name in [*names[:-1], "a/new.png"]][::-1])
