"""Profile: where the time of a training step goes, measured while it trains, and a trace to look at."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, final

import torch

from graftwork.batch import Batch
from graftwork.container import replacing
from graftwork.dataloader import ItemLoader, Loader, default_workers
from graftwork.errors import OptionError
from graftwork.events import Callback, TrainState
from graftwork.loop import Feed

if TYPE_CHECKING:
    from graftwork.learner import Learner

__all__ = ["Profile", "Timing"]

PARTS: Final = {
    "data": "waiting for the loader",
    "transforms": "copy to the device, batch transforms",
    "forward": "the model",
    "loss": "the loss",
    "backward": "the backward pass",
    "optimizer": "the optimizer's step, clearing gradients",
    "callbacks": "callbacks, the progress display among them",
    "other": "learning rates, and what lies between",
}
MUCH: Final = 0.3
"""The share of a step from which a part that does not learn is worth a word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Hold the mean milliseconds of every part of a step, over `steps` steps."""

    milliseconds: dict[str, float]
    steps: int
    synchronised: bool = False
    """Whether each part waited for the device to finish."""

    @property
    def total(self) -> float:
        """Milliseconds of a step."""
        return sum(self.milliseconds.values())

    @property
    def shares(self) -> dict[str, float]:
        """Every part's share of a step."""
        return {name: value / self.total for name, value in self.milliseconds.items()}

    def __str__(self) -> str:
        """Lay the parts out."""
        lines = [f"{'part':<12}{'ms':>10}{'share':>9}"]
        lines += [
            f"{name:<12}{self.milliseconds[name]:>10.3f}{share:>8.1%}   {PARTS[name]}"
            for name, share in self.shares.items()
        ]
        lines += [f"{'a step':<12}{self.total:>10.3f}{'':>8}    mean of {self.steps} step{'s' * (self.steps > 1)}"]
        if self.synchronised:
            lines.append("Each part waited for the device; without a profile they overlap, and a step is shorter.")
        return "\n".join(lines)

    def to_csv(self) -> str:
        """Return the table as CSV: part, ms, share."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("part", "ms", "share"))
        writer.writerows((name, self.milliseconds[name], share) for name, share in self.shares.items())
        return text.getvalue()


@final
class Profile:
    """Measure the fits of a learner within a `with` block; `str` gives the table and what to do about it.

    After `wait` steps, `active` steps are timed, and as many after them are traced by torch's profiler (its own cost is
    not in the table). In a short fit all three are cut to fit. With a `folder`, `profile.txt`, `profile.csv` and
    `trace.json` (for chrome://tracing or ui.perfetto.dev) are written there. On cuda each timed part waits for the
    device. Outside the block the loop is as it ever was. An engine has no steps, so only its epochs are timed.
    """

    def __init__(
        self, learn: Learner, folder: str | Path | None = None, *, wait: int = 10, active: int = 20, trace: bool = True
    ) -> None:
        """Take a learner and how many steps to pass over, and to measure."""
        if wait < 0 or active < 1:
            raise OptionError(f"wait={wait}, active={active}: pass over 0 steps or more, and measure 1 or more")
        self.learn, self.folder = learn, None if folder is None else Path(folder)
        self.timing: Timing | None = None
        self._clock = _Clock(device=learn.session.device, wait=wait, active=active, trace=trace)
        self._feed = learn.feed
        self._callbacks: list[Callback] = [ProfileBefore(self._clock), ProfileAfter(self._clock)]

    def __enter__(self) -> Self:
        """Begin to listen."""
        self._feed = self.learn.feed
        self.learn.feed = _TimedFeed(self._feed, self._clock)
        self.learn.callbacks += self._callbacks
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the learner as it was, and write the files."""
        self.learn.feed = self._feed
        self.learn.callbacks = [c for c in self.learn.callbacks if c not in self._callbacks]
        self._clock.stop_trace()
        self.timing = self._clock.timing()
        if self.folder is not None and self.learn.session.processes.first:
            self._write(self.folder)

    def _write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / "profile.txt") as file:
            file.write(f"{self}\n".encode())
        if self.timing is not None:
            with replacing(folder / "profile.csv") as file:
                file.write(self.timing.to_csv().encode())
        if self._clock.tracer is not None:
            beside = folder / ".trace.json.part"
            self._clock.tracer.export_chrome_trace(str(beside))
            beside.replace(folder / "trace.json")

    def __str__(self) -> str:
        """Return the table and the advice."""
        if self.timing is not None:
            return f"{self.timing}\n\n{advice(self.timing, self.learn.data.train)}"
        if self._clock.epochs:
            mean = sum(self._clock.epochs) / len(self._clock.epochs)
            engine = type(self.learn.parts.engine).__name__
            return (
                f"{engine} trains whole epochs, {1e3 * mean:.1f} ms each (mean of {len(self._clock.epochs)}); "
                "it has no batches, so there are no parts of a step to tell apart"
            )
        return f"not one step was measured: the fit ended after {self._clock.count} steps"


def advice(timing: Timing, loader: Loader) -> str:
    """Say what of a step is not learning, and what to do about it."""
    shares, said = timing.shares, []
    if shares["data"] >= MUCH:
        said.append(f"data takes {shares['data']:.0%} of a step: the loader is the bottleneck. {_faster(loader)}")
    if shares["transforms"] >= MUCH:
        said.append(
            f"Copy and batch transforms take {shares['transforms']:.0%} of a step: use fewer or cheaper batch "
            "transforms, or smaller pictures."
        )
    if shares["callbacks"] >= MUCH:
        said.append(f"Callbacks take {shares['callbacks']:.0%} of a step: leave out those that work in every batch.")
    kept = f"The loader keeps up: data takes {shares['data']:.0%} of a step."
    return "\n".join(said) if said else kept


def _faster(loader: Loader) -> str:
    if not isinstance(loader, ItemLoader):
        return "Its columns are in memory already: a larger batch (--bs) has fewer steps."
    cores = default_workers()
    kind = "threads" if loader.worker_type == "thread" else "processes"
    more = [f"raise --workers (now {loader.workers} {kind}; {cores} are the default here)"]
    more += ["try --worker-type process where a transform is pure Python"] * (loader.worker_type == "thread")
    more += ["store items as small as they are used (pictures resized once)", 'keep them in memory (cache="memory")']
    return f"To do: {', or '.join(more)}."


# -- the clock, and who tells it ---------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class _Clock:
    """Add up the time between marks, in the steps that count."""

    device: torch.device
    wait: int
    active: int
    trace: bool
    spent: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    steps: int = 0
    count: int = 0
    epochs: list[float] = field(default_factory=list)
    last: float = 0.0
    running: bool = False
    """Whether a training phase is going on, in a step that is timed."""
    tracer: Any = None
    tracing: bool = False

    @property
    def due(self) -> bool:
        """Whether steps are timed now."""
        return self.wait <= self.count < self.wait + self.active

    def fit(self, steps: int) -> None:
        """Cut the windows to a fit that is shorter than they are."""
        windows = 2 if self.trace else 1
        if self.count == 0 and steps < self.wait + windows * self.active:
            self.wait = min(self.wait, steps // 5)
            self.active = max(1, (steps - self.wait) // windows)

    def now(self) -> float:
        """Return the time, on cuda when the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return perf_counter()

    def go(self) -> None:
        """Start to count."""
        self.running = self.due
        self.last = self.now() if self.running else perf_counter()

    def mark(self, part: str) -> None:
        """Put down the time since the last mark to a part."""
        if self.running:
            now = self.now()
            self.spent[part] += now - self.last
            self.last = now

    def step(self) -> None:
        """Count a step, and begin or end a window."""
        self.steps += self.running
        self.count += 1
        if self.running != self.due:
            self.go()
        if self.trace and self.tracer is None and self.count == self.wait + self.active:
            self._start_trace()
        elif self.tracing and self.count >= self.wait + 2 * self.active:
            self.stop_trace()

    def _start_trace(self) -> None:
        kinds = [torch.profiler.ProfilerActivity.CPU]
        if self.device.type == "cuda":
            kinds.append(torch.profiler.ProfilerActivity.CUDA)
        self.tracer = torch.profiler.profile(activities=kinds)
        self.tracer.start()
        self.tracing = True

    def stop_trace(self) -> None:
        """End the trace, if there is one."""
        if self.tracing:
            self.tracer.stop()
            self.tracing = False

    def timing(self) -> Timing | None:
        """Return the means, or None if no step was timed."""
        if not self.steps:
            return None
        means = {name: 1e3 * spent / self.steps for name, spent in self.spent.items()}
        return Timing(milliseconds=means, steps=self.steps, synchronised=self.device.type == "cuda")


class _TimedFeed(Feed):
    """Tell the clock when a batch has come, when it is ready, and when the model has run."""

    def __init__(self, feed: Feed, clock: _Clock) -> None:
        super().__init__(feed.module, feed.session, feed.plan, seed=feed.seed)
        self.clock = clock

    def ready(self, batch: Batch, epoch: int | None = None, number: int = 0) -> Batch:
        self.clock.mark("data")
        batch = super().ready(batch, epoch, number)
        self.clock.mark("transforms")
        return batch

    def forward(self, batch: Batch) -> Any:
        self.clock.mark("other")
        output = super().forward(batch)
        self.clock.mark("forward")
        return output


class ProfileBefore(Callback):
    """Come first where events are told in order, last where they are told in reverse: what passed were callbacks."""

    order = -1_000_000
    needs_batches: ClassVar[bool] = False

    def __init__(self, clock: _Clock) -> None:
        """Take the clock."""
        self.clock = clock

    def loss_end(self, state: TrainState) -> None:
        """Count callbacks."""
        self.clock.mark("callbacks")

    def backward_end(self, state: TrainState) -> None:
        """Count callbacks."""
        self.clock.mark("callbacks")

    def batch_end(self, state: TrainState) -> None:
        """Count callbacks, and the step."""
        if state.phase == "train":
            self.clock.mark("callbacks")
            self.clock.step()


class ProfileAfter(Callback):
    """Come last where events are told in order, first where they are told in reverse: what passed was the step."""

    order = 1_000_000
    needs_batches: ClassVar[bool] = False

    def __init__(self, clock: _Clock) -> None:
        """Take the clock."""
        self.clock = clock

    def fit_start(self, state: TrainState) -> None:
        """Cut the windows to the fit."""
        self.clock.fit(state.num_epochs * state.num_batches)

    def phase_start(self, state: TrainState) -> None:
        """Begin to count where steps are to be timed."""
        if state.phase == "train":
            self.clock.go()

    def batch_start(self, state: TrainState) -> None:
        """Count callbacks."""
        self.clock.mark("callbacks")

    def loss_end(self, state: TrainState) -> None:
        """Count the loss."""
        self.clock.mark("loss")

    def backward_end(self, state: TrainState) -> None:
        """Count the backward pass."""
        self.clock.mark("backward")

    def batch_end(self, state: TrainState) -> None:
        """Count the optimizer."""
        self.clock.mark("optimizer")

    def phase_end(self, state: TrainState) -> None:
        """Stop counting; an engine's epoch is over."""
        if state.phase == "train":
            if state.losses is not None:
                self.clock.epochs.append(perf_counter() - self.clock.last)
            self.clock.running = False

    def fit_end(self, state: TrainState) -> None:
        """Stop, also after an error."""
        self.clock.running = False
