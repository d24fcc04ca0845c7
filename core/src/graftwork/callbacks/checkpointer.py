"""Checkpointer: write down now and then all that a run needs to go on to the same bits."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any, ClassVar

import torch

from graftwork.container import write_container
from graftwork.errors import ArtifactError, OptionError, TrainingError
from graftwork.events import Callback, TrainState

__all__ = ["Captured", "Checkpointer", "checkpoint_files"]

LOG = logging.getLogger("graftwork")
Captured = tuple[Mapping[str, Any], Mapping[str, bytes]]
"""A manifest and the members of a checkpoint."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def checkpoint_files(folder: Path) -> list[Path]:
    """List a folder's checkpoints of runs, the last one last."""
    return sorted(folder.glob("step-*.graft"))


class Checkpointer(Callback):
    """Save a run every `every_steps` steps, `every_epochs` epochs and `every_minutes` minutes, and when it is stopped.

    SIGINT and SIGTERM are heard between two steps: the run is saved, then ends as they would have ended it. When a step
    fails, the one before it is saved; batch norm's statistics have then seen the batch that failed. Files are
    written beside and renamed; the last `keep` stay, and the one whose epoch was best by `monitor`, a column of the
    history (lower is better, unless `higher`). If a file cannot be written the older ones stay as they are, which is
    logged, and training goes on, or with `on_error="stop"` ends.
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
        for torn in self.folder.glob(".step-*.part"):
            torn.unlink(missing_ok=True)  # what a killed run had begun to write
        if self.signals and threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._hear) for number in SIGNALS}

    def fit_end(self, state: TrainState) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._heard = number

    def _wait(self) -> None:
        self._due = monotonic() + 60 * self.every_minutes if self.every_minutes is not None else float("inf")

    def batch_start(self, state: TrainState) -> None:
        """Keep torch's generator, in case this step fails."""
        state.random = torch.get_rng_state()

    def batch_end(self, state: TrainState) -> None:
        """Save if it is time, or if the run is asked to end."""
        if self._heard is not None:
            self._obey(state)
        if state.phase != "train":
            return
        if (self.every_steps is not None and state.step % self.every_steps == 0) or monotonic() > self._due:
            self.save(state)

    def epoch_end(self, state: TrainState) -> None:
        """Save after so many epochs, and keep the best one."""
        value = state.record.get(self.monitor) if self.monitor is not None else None
        better = value is not None and (
            self.best is None or (value > self.best[0] if self.higher else value < self.best[0])
        )
        if better and value is not None:
            self.best = (value, self._name(state, done=True))
        if better or (self.every_epochs is not None and (state.epoch + 1) % self.every_epochs == 0):
            self.save(state, done=True)
        if self._heard is not None:
            self._obey(state)

    def error(self, state: TrainState) -> None:
        """Save where the last step ended, unless it is the loss that went wrong."""
        if not isinstance(state.error, TrainingError | KeyboardInterrupt | SystemExit) and state.step > 0:
            self.save(state)

    def _obey(self, state: TrainState) -> None:
        number, self._heard = self._heard, None
        if state.phase == "train":
            self.save(state)
        LOG.warning("stopped by %s; the run is saved in %s", signal.Signals(number or 0).name, self.folder)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + (number or 0))

    def _name(self, state: TrainState, *, done: bool) -> str:
        return f"step-{state.steps_before + state.step:09d}{'-epoch' if done else ''}.graft"

    def save(self, state: TrainState, *, done: bool = False) -> None:
        """Write a checkpoint of this moment, `done` with the epoch, then remove what need not stay."""
        if state.capture is None:
            return
        self._wait()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            manifest, members = state.capture(done)
            path = write_container(self.folder / self._name(state, done=done), manifest=manifest, members=members)
        except (ArtifactError, OSError) as error:
            LOG.warning("no checkpoint at step %d: %s; the older ones are as they were", state.step, error)
            if self.on_error == "stop":
                raise
            return
        self._clean(path)

    def _clean(self, last: Path) -> None:
        kept = {last.name} | ({self.best[1]} if self.best is not None else set())
        older = [path for path in checkpoint_files(self.folder) if path.name not in kept and path.name < last.name]
        for path in older[: max(0, len(older) - self.keep + 1)]:
            path.unlink(missing_ok=True)
