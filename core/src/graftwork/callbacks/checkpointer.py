"""Checkpointer: write down now and then all that a run needs to go on to the same bits."""

from __future__ import annotations

import logging
import shutil
import signal
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any, ClassVar

import torch
from torch import Tensor

from graftwork.container import Data, write_container
from graftwork.errors import ArtifactError, OptionError, TrainingError
from graftwork.events import Callback, TrainState
from graftwork.sharding import save_parts
from graftwork.weights import described

__all__ = ["Captured", "Checkpointer", "checkpoint_files", "parts_folder"]

LOG = logging.getLogger("graftwork")
Captured = tuple[Mapping[str, Any], Mapping[str, Data], Mapping[str, Tensor]]
"""A manifest and the members of a checkpoint, and the tensors of which this process holds a part."""
AGREE_STEPS = 16
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def checkpoint_files(folder: Path) -> list[Path]:
    """List a folder's checkpoints of runs, the last one last: of one step, that of the epoch's end."""
    return sorted(folder.glob("step-*.graft"), key=lambda path: (path.stem.removesuffix("-epoch"), len(path.stem)))


def parts_folder(file: Path) -> Path:
    """Return where the parts lie that the processes of a sharded run have written beside a checkpoint."""
    return file.with_suffix(".parts")


class Checkpointer(Callback):
    """Save a run every `every_steps` steps, `every_epochs` epochs and `every_minutes` minutes, and when it is stopped.

    SIGINT and SIGTERM are heard between two steps, or at the end of an epoch where an engine trains: the run is saved,
    then ends as they would have ended it; a second one ends it at once. When a step fails, the one before it is saved;
    batch norm's statistics have then seen the batch that failed. Files are written beside and renamed; the last `keep`
    stay, and the one whose epoch was best by `monitor`, a column of the history (lower is better, unless `higher`).
    If a file cannot be written the older ones stay as they are, which is logged, and training goes on, or with
    `on_error="stop"` ends.
    """

    order = -900  # `_end` events run in reverse: what other callbacks do in a step is in the file
    needs_batches: ClassVar[bool] = False

    def __init__(
        self,
        folder: str | Path,
        *,
        every_steps: int | None = None,
        every_epochs: int | None = 1,
        every_minutes: float | None = None,
        keep: int = 2,
        monitor: str | None = "valid_loss",
        higher: bool = False,
        on_error: str = "continue",
        signals: bool = True,
    ) -> None:
        """Check the options; nothing is written yet."""
        for name, value in (("every_steps", every_steps), ("every_epochs", every_epochs), ("keep", keep)):
            if value is not None and value < 1:
                raise OptionError(f"{name}={value} must be at least 1, or None")
        if every_minutes is not None and every_minutes <= 0:
            raise OptionError(f"every_minutes={every_minutes} must be above 0, or None")
        if on_error not in ("continue", "stop"):
            raise OptionError(f"on_error={on_error!r} is neither 'continue' nor 'stop'")
        self.folder = Path(folder)
        self.every_steps, self.every_epochs, self.every_minutes = every_steps, every_epochs, every_minutes
        self.keep, self.monitor, self.higher, self.on_error, self.signals = keep, monitor, higher, on_error, signals
        self.best: tuple[float, str] | None = None
        self._heard: int | None = None
        self._before: dict[int, Any] = {}
        self._due = float("inf")
        self._late = False
        self._writing: tuple[int, Future[None]] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return which checkpoint was best."""
        return {"best": None if self.best is None else list(self.best)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Remember which checkpoint was best."""
        self.best = None if state["best"] is None else (float(state["best"][0]), str(state["best"][1]))

    def fit_start(self, state: TrainState) -> None:
        """Listen to signals, in the main thread, which alone may."""
        self._heard = None
        self._wait()
        for torn in self.folder.glob(".step-*.part") if state.processes.first else ():
            # What a killed run had begun to write.
            shutil.rmtree(torn) if torn.is_dir() else torn.unlink(missing_ok=True)
        if self.signals and threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._hear) for number in SIGNALS}

    def fit_end(self, state: TrainState) -> None:
        """Give the signals back, when everything is written."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
        self.settle()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._heard is not None:
            raise _ended_by(number)
        self._heard = number

    def _wait(self) -> None:
        self._due = monotonic() + 60 * self.every_minutes if self.every_minutes is not None else float("inf")

    def batch_start(self, state: TrainState) -> None:
        """Keep torch's generator, in case this step fails."""
        state.random = torch.default_generator.get_state()

    def batch_end(self, state: TrainState) -> None:
        """Save if it is time, or if the run is asked to end."""
        if state.processes.world > 1:
            self._agree(state)
        elif self._heard is not None and not _by_engine(state):
            self._obey(state)
        if state.phase != "train":
            return
        if (self.every_steps is not None and state.step % self.every_steps == 0) or monotonic() > self._due:
            self.save(state)

    def _agree(self, state: TrainState) -> None:
        """Save and stop where all processes do: they ask each other every so many steps."""
        due, self._due = monotonic() > self._due, float("inf") if monotonic() > self._due else self._due
        self._late = self._late or due
        if state.phase != "train" or state.step % AGREE_STEPS:
            return
        asked = state.processes.largest(2 * (self._heard or 0) + int(self._late))
        if asked > 1:
            self._heard = asked // 2
            self._obey(state)
        if asked:
            self._late = False
            self.save(state)

    def epoch_end(self, state: TrainState) -> None:
        """Save after so many epochs, and keep the best one."""
        value = state.record.get(self.monitor) if self.monitor is not None else None
        better = value is not None and (
            self.best is None or (value > self.best[0] if self.higher else value < self.best[0])
        )
        if better and value is not None:
            self.best = (value, self._name(state, done=True))
        self._heard = state.processes.largest(self._heard or 0) or None
        ended = self._heard is not None
        if ended or better or (self.every_epochs is not None and (state.epoch + 1) % self.every_epochs == 0):
            self.save(state, done=True)
        if ended:
            self._obey(state, done=True)

    def error(self, state: TrainState) -> None:
        """Save where the last step ended, unless it is the loss that went wrong, or the others are elsewhere."""
        ended = isinstance(state.error, TrainingError | KeyboardInterrupt | SystemExit) or state.processes.world > 1
        if not ended and state.step > 0 and not _by_engine(state):
            self.save(state)

    def _obey(self, state: TrainState, *, done: bool = False) -> None:
        number = self._heard or 0
        if not done:
            self.save(state)
        self.settle()
        kept = checkpoint_files(self.folder)
        where = f"the run is saved in {kept[-1]}" if kept else f"nothing could be saved in {self.folder}"
        LOG.warning("stopped by %s; %s", signal.Signals(number).name, where)
        raise _ended_by(number)

    def _name(self, state: TrainState, *, done: bool) -> str:
        return f"step-{state.steps_before + state.step:09d}{'-epoch' if done else ''}.graft"

    def save(self, state: TrainState, *, done: bool = False) -> None:
        """Copy this moment, `done` with the epoch; the copy is written while training goes on."""
        if state.capture is None:
            return
        self._wait()
        self.settle()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            manifest, members, parts = state.capture(done)
            path = self.folder / self._name(state, done=done)
            if parts:
                files = save_parts(parts_folder(path), parts, state.processes)
                manifest = {**manifest, "parts": {"files": files, "tensors": described(parts)}}
        except (ArtifactError, OSError) as error:
            self._failed(state.step, error)
            return
        if state.processes.first:
            kept = {path.name} | ({self.best[1]} if self.best is not None else set())
            writer = ThreadPoolExecutor(1, "graftwork-checkpoint")
            self._writing = state.step, writer.submit(self._write, path, manifest, members, kept)
            writer.shutdown(wait=False)

    def settle(self) -> None:
        """Wait until what was saved is written; raise, or log, that it could not be."""
        if self._writing is None:
            return
        (step, written), self._writing = self._writing, None
        try:
            written.result()
        except (ArtifactError, OSError) as error:
            self._failed(step, error)

    def _failed(self, step: int, error: Exception) -> None:
        LOG.warning("no checkpoint at step %d: %s; the older ones are as they were", step, error)
        if self.on_error == "stop":
            raise error

    def _write(self, path: Path, manifest: Mapping[str, Any], members: Mapping[str, Data], kept: set[str]) -> None:
        """Write a checkpoint, then remove what need not stay."""
        write_container(path, manifest=manifest, members=members)
        files = checkpoint_files(self.folder)
        older = [file for file in files[: files.index(path)] if file.name not in kept]
        for file in older[: max(0, len(older) - self.keep + 1)]:
            file.unlink(missing_ok=True)
            shutil.rmtree(parts_folder(file), ignore_errors=True)


def _by_engine(state: TrainState) -> bool:
    """Say whether an engine trains: there is no place to go on from within its epochs."""
    return state.losses is not None


def _ended_by(number: int) -> BaseException:
    """Return what a signal would have raised, or how a shell says that it ended a program."""
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
