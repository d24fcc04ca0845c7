"""Trackers: tell a program that keeps runs what is asked, how training goes and how it ends."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from graftwork.errors import OptionError, UserError
from graftwork.events import Callback, TrainState

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

__all__ = ["Status", "Tracker", "flat", "imported"]

LOG = logging.getLogger("graftwork")
READ_SECONDS = 5.0
LONGEST = 250
Status = Literal["finished", "failed", "stopped"]


class Tracker(Callback, ABC):
    """Track a learner's fits as one run: its configuration once, every `every`-th step, epochs, figures, the end.

    Losses stay on the device and are read together, at most every five seconds. A run is opened at its first step and
    closed with its fit; the next fit, or a resumed one, goes on in it. If it cannot be opened, training stops; if it
    is lost later, that is logged once, kept in `lost`, and training goes on. Of several processes the first one tracks:
    its own losses, and epochs of all.
    """

    order = -700  # `_end` events run in reverse: records are complete, and a checkpoint comes after
    needs_batches: ClassVar[bool] = False
    first_only: ClassVar[bool] = True

    def __init__(self, *, every: int = 10, config: Mapping[str, Any] | None = None) -> None:
        """Take how seldom steps are told, and what to write down beside what training says by itself."""
        if every < 1:
            raise OptionError(f"every={every} steps: give 1 or more")
        self.every, self.config = every, dict(config or {})
        self.run_id: str | None = None
        self.step, self.epoch = 0, 0
        """The last step and the last epoch that the run holds."""
        self.status: Status = "finished"
        self.lost: str | None = None
        self._why = ""
        self._is_open = False
        self._facts: dict[str, Any] = {}
        self._pending: list[tuple[int, Tensor, float]] = []
        self._due = 0.0

    # -- what a tracker does in its own way ---------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def of_run(cls, folder: Path, config: Mapping[str, Any]) -> Self:
        """Return the tracker of a job that has a run folder."""

    @abstractmethod
    def _open(self, run_id: str | None) -> str:
        """Begin a run, or go on with one, and return its id.

        `step` and `epoch` are the last that it should hold. What is later is taken back, or, where that cannot be done,
        `step` and `epoch` are raised to what it holds.
        """

    @abstractmethod
    def _configure(self, values: Mapping[str, Any]) -> None:
        """Write down the configuration, names with slashes to plain values."""

    @abstractmethod
    def _log(self, values: Mapping[str, float], step: int) -> None:
        """Write numbers down."""

    @abstractmethod
    def _show(self, name: str, pixels: np.ndarray[Any, np.dtype[np.uint8]], step: int) -> None:
        """Keep a picture, (height, width, 3)."""

    @abstractmethod
    def _close(self, status: Status, why: str) -> None:
        """Say how training ended, and let go of the run."""

    # -- events -------------------------------------------------------------------------------------------------

    def fit_start(self, state: TrainState) -> None:
        """Note what is about to be trained; the run is opened later, when a resumed one is known."""
        group = state.optimizer.param_groups[-1]
        self._pending = []
        self._facts = {
            "model": type(state.model).__name__,
            "parameters": sum(p.numel() for p in state.model.parameters()),
            "optimizer": type(state.optimizer).__name__,
            "lr": float(group["lr"]),
            "weight_decay": float(group.get("weight_decay", 0.0)),
            "epochs": state.num_epochs,
            "batches": state.num_batches,
        }

    def batch_end(self, state: TrainState) -> None:
        """Keep the loss, unread."""
        if state.phase != "train" or state.loss is None:
            return
        step = state.steps_before + state.step
        if (step - 1) % self.every == 0:
            self._pending.append((step, state.loss.detach(), state.learning_rate))
            if monotonic() > self._due:
                self._flush()

    def phase_end(self, state: TrainState) -> None:
        """Tell the losses of the phase; an engine's have been kept by the loop."""
        if state.phase != "train":
            return
        if state.losses is not None:
            count, end = len(state.losses), state.steps_before + state.step
            steps = [end - (count - 1 - i) * state.num_batches // count for i in range(count)]
            told = [i for i in range(count) if i % self.every == 0 or i == count - 1]
            self._pending += [(steps[i], state.losses[i], state.learning_rate) for i in told]
        self._flush()

    def epoch_end(self, state: TrainState) -> None:
        """Tell the epoch's line."""
        number, step = int(state.record["epoch"]), state.steps_before + state.step
        values = {f"epoch/{name}": float(value) for name, value in state.record.items() if name != "epoch"}

        def tell() -> None:
            if number > self.epoch:
                self._log({**values, "epoch/number": number}, step)
                self.step, self.epoch = max(self.step, step), number

        self._send(tell)

    def fit_end(self, state: TrainState) -> None:
        """Say how it ended; also a fit that failed in its first step is a run."""
        self.status, self._why = _ending(state)
        try:
            self._flush()
            self._let_go()
        except UserError:
            if state.error is None:
                raise
            LOG.warning("%s", self.lost)  # what ended training is raised on

    def add_figures(self, figures: Mapping[str, Figure]) -> None:
        """Add pictures to the run, by name, after training; without a fit there is no run, which is logged."""
        if not self._facts:
            LOG.warning("%s has heard of no fit, so there is no run to add figures to", type(self).__name__)
            return
        for name, figure in figures.items():
            pixels = _pixels(figure)
            self._send(lambda name=name, pixels=pixels: self._show(name, pixels, self.step))  # type: ignore[misc]
        self._let_go()

    def state_dict(self) -> dict[str, Any]:
        """Return which run it is and its last step; what has not been told is told first."""
        self._flush()
        return {"run": self.run_id, "step": self.step, "epoch": self.epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on in the run that `state_dict` named."""
        self._pending, self._is_open = [], False
        self.run_id, self.step, self.epoch = state["run"], state["step"], state["epoch"]

    # -- telling ------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        pending, self._pending = self._pending, []
        self._due = monotonic() + READ_SECONDS
        if pending:
            self._send(lambda: self._read(pending))

    def _read(self, pending: Sequence[tuple[int, Tensor, float]]) -> None:
        """Read losses and tell them, but those that the run has from before it was resumed."""
        losses = torch.stack([loss for _, loss, _ in pending]).double().tolist()
        for (step, _, rate), loss in zip(pending, losses, strict=True):
            if step > self.step:
                self._log({"train/loss": loss, "train/lr": rate}, step)
                self.step = step

    def _let_go(self) -> None:
        self._send(lambda: self._close(self.status, self._why))
        self._is_open = False

    def _send(self, action: Callable[[], None]) -> None:
        if self.lost is not None:
            return
        if not self._is_open:
            self._begin()
        try:
            action()
        except Exception as error:
            self.lost = f"{type(self).__name__} lost its run {self.run_id} at step {self.step}: {error}"
            LOG.warning("%s; training goes on without it", self.lost)

    def _begin(self) -> None:
        fresh = self.run_id is None
        try:
            self.run_id = self._open(self.run_id)
            self._is_open = True
            if fresh:
                self._configure(flat({**self._facts, **self.config}))
        except Exception as error:
            self.lost = f"{type(self).__name__} could not open a run: {error}"
            raise error if isinstance(error, UserError) else OptionError(self.lost) from error


def _ending(state: TrainState) -> tuple[Status, str]:
    if isinstance(state.error, KeyboardInterrupt | SystemExit):
        return "stopped", type(state.error).__name__
    if state.error is not None:
        return "failed", f"{type(state.error).__name__}: {state.error}"
    return ("finished", "") if state.stopped is None else ("stopped", state.stopped)


def _pixels(figure: Figure) -> np.ndarray[Any, np.dtype[np.uint8]]:
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def flat(values: Mapping[str, Any], *, depth: int = 3, prefix: str = "") -> dict[str, Any]:
    """Return mappings in mappings as one, names joined by slashes, without what is empty.

    What is deeper than `depth` is text; long texts are cut, since servers refuse them.
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and depth > 1:
            found |= flat(value, depth=depth - 1, prefix=f"{prefix}{name}/")
        elif value is not None and value not in ((), [], {}):
            found[f"{prefix}{name}"] = value if isinstance(value, bool | int | float) else _cut(str(value))
    return found


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def imported(module: str, extra: str) -> Any:
    """Import a module of an extra; raise OptionError with the line that installs it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise OptionError(f"{extra} is not installed ({error}): pip install 'graftwork[{extra}]'") from error
