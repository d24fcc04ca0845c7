"""ProgressDisplay: a bar while batches run, and a line per epoch that stays."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, ClassVar, TextIO

from graftwork.events import Callback, TrainState

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["ProgressDisplay", "epoch_header", "epoch_line"]

REFRESH_SECONDS = 0.2
WIDTH = 11


def epoch_header(record: dict[str, float]) -> str:
    """Return the column names of an epoch's line."""
    names = [name for name in record if name not in ("epoch", "seconds")]
    return "".join(f"{name:>{max(WIDTH, len(name) + 2)}}" for name in ["epoch", *names, "time"])


def epoch_line(record: dict[str, float]) -> str:
    """Return an epoch's line: its number, losses, metrics, and minutes:seconds."""
    names = [name for name in record if name not in ("epoch", "seconds")]
    cells = [f"{int(record['epoch']):>{WIDTH}}"]
    cells += [f"{record[name]:>{max(WIDTH, len(name) + 2)}.5g}" for name in names]
    minutes, seconds = divmod(record["seconds"], 60)
    return "".join(cells) + f"{f'{int(minutes)}:{seconds:04.1f}':>{WIDTH}}"


class ProgressDisplay(Callback):
    """Print a line per epoch, and in a terminal show a bar that is drawn anew five times a second at most."""

    first_only: ClassVar[bool] = True
    order = -1000  # `_end` events run in reverse: the last to hear of an epoch's end, when its record is complete

    def __init__(self, stream: TextIO | None = None) -> None:
        """Print to `stream`, by default standard output."""
        self.stream = stream
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._next = 0.0
        self._header = ""

    def fit_start(self, state: TrainState) -> None:
        """Open the bar where there is a terminal to draw it on."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(file=self.stream, soft_wrap=True, highlight=False)
        self._console = console
        self._header = ""
        if console.is_terminal and not console.is_dumb_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=console, transient=True, auto_refresh=False)
            self._bar.start()

    def phase_start(self, state: TrainState) -> None:
        """Show which phase runs."""
        if self._bar is not None:
            if self._task is not None:
                self._bar.remove_task(self._task)
            total = state.num_batches if state.phase == "train" else None
            epoch = f"epoch {state.epoch + 1}/{state.num_epochs}, {state.phase}"
            self._task = self._bar.add_task(epoch, total=total)

    def batch_end(self, state: TrainState) -> None:
        """Draw, if it is time; only then the loss is read from the device."""
        if self._bar is None or perf_counter() < self._next:
            return
        self._draw(state)
        self._next = perf_counter() + REFRESH_SECONDS

    def _draw(self, state: TrainState) -> None:
        if self._bar is None or self._task is None or state.loss is None:
            return
        what = f"epoch {state.epoch + 1}/{state.num_epochs}, {state.phase}, loss {float(state.loss):.4g}"
        self._bar.update(self._task, completed=state.batch_index + 1, description=what)
        self._bar.refresh()

    def epoch_end(self, state: TrainState) -> None:
        """Print the epoch's line, with the column names above the first one."""
        header = epoch_header(state.record)
        if header != self._header:
            self._console.print(header, markup=False)
            self._header = header
        self._console.print(epoch_line(state.record), markup=False)

    def fit_end(self, state: TrainState) -> None:
        """Take the bar away, and say why training stopped early, if it did."""
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = None
        if state.stopped is not None:
            self._console.print(f"stopped: {state.stopped}", markup=False)
