from __future__ import annotations

import json
import logging
import math
import struct
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest
import torch
from torch import Tensor, nn

from graftwork import Learner, MLflow, TensorBoard, Tracker, WandB
from graftwork.callbacks.checkpointer import Checkpointer
from graftwork.callbacks.tracking import LONGEST, flat
from graftwork.engine import Engine, EngineRun
from graftwork.errors import OptionError
from graftwork.events import Callback, TrainState
from graftwork.model import ModelParts
from graftwork.testing.toy import make_items, recipe

ITEMS = make_items()


class Notes(Tracker):
    """Keep in memory what a tracker is told."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.told: list[tuple[str, Any]] = []
        self.fails_at: str | None = None

    @classmethod
    def of_run(cls, folder: Path, config: Mapping[str, Any]) -> Self:
        return cls(config=config)

    def _note(self, what: str, value: Any) -> None:
        if what == self.fails_at:
            raise ConnectionError("the server is gone")
        self.told.append((what, value))

    def _open(self, run_id: str | None) -> str:
        self._note("open", run_id)
        return "one"

    def _configure(self, values: Mapping[str, Any]) -> None:
        self._note("config", dict(values))

    def _log(self, values: Mapping[str, float], step: int) -> None:
        self._note("log", (step, dict(values)))

    def _show(self, name: str, pixels: Any, step: int) -> None:
        self._note("show", (name, pixels.shape))

    def _close(self, status: str, why: str) -> None:
        self._note("close", (status, why))

    def all(self, what: str) -> list[Any]:
        return [value for kind, value in self.told if kind == what]

    def values(self, name: str) -> list[tuple[int, float]]:
        return [(step, values[name]) for step, values in self.all("log") if name in values]


def learner(*callbacks: Callback, engine: Engine | None = None) -> Learner:
    data = recipe().dataloaders(ITEMS, bs=16, workers=0, cache="memory")
    torch.manual_seed(0)
    return Learner(data, ModelParts(module=nn.Linear(4, 3), engine=engine), progress=False, callbacks=callbacks)


class StopAt(Callback):
    order = -950  # after the checkpointer

    def __init__(self, step: int, error: BaseException | None = None) -> None:
        self.step, self.error_to_raise = step, error

    def batch_end(self, state: TrainState) -> None:
        if state.phase == "train" and state.step == self.step:
            if self.error_to_raise is not None:
                raise self.error_to_raise
            state.stop("enough")


# -- what every tracker is told ----------------------------------------------------------------------------------------


def test_every_nth_loss_and_rate_and_every_epoch_are_told() -> None:
    notes = Notes(every=3)
    learn = learner(notes).fit_one_cycle(2, 0.1)
    losses = list(enumerate(learn.recorder.losses, 1))
    assert len(losses) == 20
    assert notes.values("train/loss") == losses[::3]
    assert notes.values("train/lr") == list(enumerate(learn.recorder.learning_rates, 1))[::3]
    assert notes.values("epoch/valid_loss") == [(10 * line["epoch"], line["valid_loss"]) for line in learn.history]
    assert notes.values("epoch/accuracy") == [(10 * line["epoch"], line["accuracy"]) for line in learn.history]
    assert [kind for kind, _ in notes.told][:2] == ["open", "config"]
    assert notes.told[-1] == ("close", ("finished", ""))


def test_losses_are_read_together_and_not_in_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graftwork.callbacks.tracking.READ_SECONDS", 1000.0)

    class Sizes(Notes):
        def _read(self, pending: Any) -> None:
            self._note("read", len(pending))
            super()._read(pending)

    sizes = Sizes(every=1)
    learner(sizes).fit(2)
    # The first step is read alone, as it opens the run.
    assert sizes.all("read") == [1, 9, 10]


def test_two_fits_are_one_run_and_the_configuration_is_told_once() -> None:
    notes = Notes(every=4, config={"seed": 3, "job": {"bs": 16, "model": None}})
    learner(notes).fit(1).fit(1)
    assert notes.all("open") == [None, "one"]
    assert len(notes.all("config")) == 1
    config = notes.all("config")[0]
    assert (config["seed"], config["job/bs"], config["parameters"]) == (3, 16, 15)
    assert "job/model" not in config
    assert [step for step, _ in notes.values("train/loss")] == [1, 5, 9, 13, 17]
    assert [value for _, value in notes.values("epoch/number")] == [1, 2]


def test_how_it_ended_is_told() -> None:
    for stop, status, why in (
        (StopAt(4), "stopped", "enough"),
        (StopAt(4, ValueError("bad")), "failed", "ValueError: bad"),
        (StopAt(1, KeyboardInterrupt()), "stopped", "KeyboardInterrupt"),
    ):
        notes = Notes()
        try:
            learner(notes, stop).fit(1)
        except (ValueError, KeyboardInterrupt):
            assert stop.error_to_raise is not None
        assert notes.told[-1] == ("close", (status, why))
        assert notes.status == status


def test_figures_come_after_training() -> None:
    notes = Notes()
    learn = learner(notes).fit(1)
    notes.add_figures({"losses.png": learn.recorder.plot_losses()})
    (name, shape) = notes.all("show")[0]
    assert name == "losses.png"
    assert (len(shape), shape[-1]) == (3, 3)
    assert notes.all("close") == [("finished", "")] * 2


def test_figures_without_a_fit_are_not_added_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    notes = Notes()
    with caplog.at_level(logging.WARNING, "graftwork"):
        notes.add_figures({})
    assert notes.told == []
    assert "no run to add figures to" in caplog.text


@pytest.mark.parametrize("step", [4, 7, 10, 11, 19])
def test_a_resumed_run_goes_on_in_its_run(step: int, tmp_path: Path) -> None:
    whole = Notes(every=3)
    learner(whole).fit(2, 0.1)
    first = Notes(every=3)
    with pytest.raises(ValueError, match="power"):
        learner(first, Checkpointer(tmp_path, every_steps=1), StopAt(step, ValueError("power"))).fit(2, 0.1)
    second = Notes(every=3)
    learner(second, Checkpointer(tmp_path)).resume(tmp_path)
    assert second.all("open") == ["one"]
    assert second.all("config") == []
    for name in ("train/loss", "train/lr", "epoch/accuracy"):
        assert first.values(name) + second.values(name) == whole.values(name)


class Counts(Engine):
    """Return five losses an epoch."""

    required: ClassVar[bool] = True

    def refuses(self, run: EngineRun) -> str | None:
        return None

    def train_epoch(self, run: EngineRun) -> Tensor:
        return torch.arange(5.0) + 10 * run.epoch


def test_an_engine_keeps_training_and_its_losses_are_told() -> None:
    notes = Notes(every=2)
    learner(notes, engine=Counts()).fit(2)
    assert notes.values("train/loss") == [(2, 0.0), (6, 2.0), (10, 4.0), (12, 10.0), (16, 12.0), (20, 14.0)]


# -- when it goes wrong ------------------------------------------------------------------------------------------------


def test_a_run_that_cannot_be_opened_stops_training() -> None:
    notes = Notes()
    notes.fails_at = "open"
    learn = learner(notes)
    with pytest.raises(OptionError, match="could not open a run: the server is gone"):
        learn.fit(1)
    assert learn.epochs_done == 0


def test_a_run_that_is_lost_is_said_once_and_training_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    notes = Notes(every=1)
    notes.fails_at = "log"
    with caplog.at_level(logging.WARNING, "graftwork"):
        learn = learner(notes).fit(3)
    assert learn.epochs_done == 3
    assert len(caplog.records) == 1
    assert "the server is gone; training goes on without it" in caplog.text
    assert notes.lost is not None


def test_what_ended_training_is_raised_even_if_the_tracker_fails_too() -> None:
    class Fails(Callback):
        def batch_start(self, state: TrainState) -> None:
            raise ValueError("first")

    notes = Notes()
    notes.fails_at = "open"
    with pytest.raises(ValueError, match="first"):
        learner(notes, Fails()).fit(1)


@pytest.mark.parametrize(
    ("module", "make", "extra"),
    [("tensorboard", TensorBoard, "tensorboard"), ("mlflow", MLflow, "mlflow"), ("wandb", WandB, "wandb")],
    ids=["tensorboard", "mlflow", "wandb"],
)
def test_a_missing_package_is_named_with_the_line_that_installs_it(
    module: str, make: Callable[[], Tracker], extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(OptionError, match=rf"pip install 'graftwork\[{extra}\]'"):
        make()


def test_an_impossible_interval_is_refused() -> None:
    with pytest.raises(OptionError, match="every=0"):
        Notes(every=0)


def test_configurations_are_flat_and_short() -> None:
    given = {"a": {"b": {"c": {"d": 1}}}, "e": [1, 2], "f": None, "g": True, "h": "x" * 1000, "i": [], "j": 0}
    told = flat(given)
    assert told == {"a/b/c": "{'d': 1}", "e": "[1, 2]", "g": True, "h": told["h"], "j": 0}
    assert len(told["h"]) == LONGEST


# -- the real ones -----------------------------------------------------------------------------------------------------


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    return [(event.step, event.value) for event in found.Scalars(name)]


def rounded(values: list[tuple[int, float]]) -> list[tuple[int, float]]:
    return [(step, float(torch.tensor(value, dtype=torch.float32))) for step, value in values]


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = TensorBoard(tmp_path / "board", every=3, config={"note": "a|b <i>"})
    learn = learner(board).fit(2, 0.1)
    board.add_figures({"losses.png": learn.recorder.plot_losses()})
    assert scalars(tmp_path / "board", "train/loss") == rounded(list(enumerate(learn.recorder.losses, 1))[::3])
    assert [step for step, _ in scalars(tmp_path / "board", "epoch/accuracy")] == [10, 20]
    found = EventAccumulator(str(tmp_path / "board"))
    found.Reload()
    assert found.Images("losses.png")[0].width > 200
    text = found.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| note | a&#124;b <i> |" in text
    assert "| parameters | 15 |" in text
    assert found.Tensors("status/text_summary")[-1].tensor_proto.string_val[0] == b"finished"


@pytest.mark.parametrize("step", [7, 13])
def test_tensorboard_forgets_the_steps_that_a_resumed_run_takes_again(step: int, tmp_path: Path) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "board"
    learner(TensorBoard(whole, every=1)).fit(2, 0.1)
    with pytest.raises(ValueError, match="power"):
        learner(
            TensorBoard(folder, every=1), Checkpointer(tmp_path, every_steps=5), StopAt(step, ValueError("power"))
        ).fit(2, 0.1)
    max(tmp_path.glob("step-*.graft")).unlink()  # the one of the exception; as if the machine had lost power
    learner(TensorBoard(folder, every=1), Checkpointer(tmp_path)).resume(tmp_path)
    for name in ("train/loss", "train/lr", "epoch/accuracy", "epoch/valid_loss"):
        told = scalars(folder, name)
        # Where validation is run once more its line is told once more, at the same step.
        assert [*dict.fromkeys(told)] == scalars(whole, name)
        assert len(told) == len(scalars(whole, name)) or name.startswith("epoch/")


def test_tensorboard_does_not_mix_two_runs(tmp_path: Path) -> None:
    learner(TensorBoard(tmp_path)).fit(1)
    with pytest.raises(OptionError, match="holds another run"):
        learner(TensorBoard(tmp_path)).fit(1)
    learner(TensorBoard(tmp_path, every=5, anew=True)).fit(1)
    assert [step for step, _ in scalars(tmp_path, "train/loss")] == [1, 6]


def test_a_number_that_is_none_is_kept(tmp_path: Path) -> None:
    class NoNumber(Callback):
        order = 900

        def epoch_end(self, state: TrainState) -> None:
            state.record["odd"] = math.nan

    learner(NoNumber(), TensorBoard(tmp_path)).fit(1)
    assert math.isnan(scalars(tmp_path, "epoch/odd")[0][1])


def wandb_bytes(path: Path) -> bytes:
    """Join what an offline run's file holds: records in blocks of 32 KiB, as LevelDB's log has them."""
    data, at, found = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, _ = struct.unpack_from("<IHB", data, at)
        found += data[at + 7 : at + 7 + length]
        at += 7 + length
    return found


def test_wandb_offline_keeps_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="pip install 'graftwork[wandb]'")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "settings"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    tracker = WandB("toy", mode="offline", folder=tmp_path, every=3, config={"seed": 3})
    learn = learner(tracker).fit(1, 0.1).fit(1, 0.1)
    assert tracker.lost is None
    assert (tracker.step, tracker.epoch, tracker.status) == (20, 2, "finished")
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert [file.name for file in files] == [f"run-{tracker.run_id}.wandb"] * 2
    losses = {json.dumps(loss).encode() for loss in learn.recorder.losses[::3]}
    until = time.monotonic() + 20  # a process of wandb's own writes, and on a busy machine may be at it still
    while left := {loss for loss in losses if loss not in b"".join(map(wandb_bytes, files))}:
        assert time.monotonic() < until, left
        time.sleep(0.2)


@pytest.fixture
def mlflow_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")  # read when it is imported
    for name in ("mlflow", "sqlalchemy", "alembic"):
        pytest.importorskip(name, reason="pip install 'graftwork[mlflow]'")
    import mlflow

    monkeypatch.chdir(tmp_path)  # where it puts artifacts
    return mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'runs.db'}")


def test_mlflow_keeps_one_run_over_fits_failures_and_resuming(mlflow_client: Any, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'runs.db'}"

    def tracker() -> MLflow:
        return MLflow("toy", tracking_uri=uri, run_name="first", every=1, config={"seed": 3})

    first = tracker()
    with pytest.raises(ValueError, match="power"):
        learner(first, Checkpointer(tmp_path, every_steps=5), StopAt(13, ValueError("power"))).fit(2, 0.1)
    run = mlflow_client.get_run(first.run_id)
    assert (run.info.status, run.data.tags["why"]) == ("FAILED", "ValueError: power")
    max(tmp_path.glob("step-*.graft")).unlink()
    second = tracker()
    learn = learner(second, Checkpointer(tmp_path)).resume(tmp_path)
    second.add_figures({"losses.png": learn.recorder.plot_losses()})
    assert (second.run_id, second.lost) == (first.run_id, None)
    run = mlflow_client.get_run(first.run_id)
    assert (run.info.status, run.info.run_name, run.data.params["seed"]) == ("FINISHED", "first", "3")
    told = mlflow_client.get_metric_history(first.run_id, "train/loss")
    assert [(m.step, m.value) for m in told] == list(enumerate(learn.recorder.losses, 1))
    assert [m.value for m in mlflow_client.get_metric_history(first.run_id, "epoch/number")] == [1, 2]
    assert [file.path for file in mlflow_client.list_artifacts(first.run_id)] == ["losses.png"]
