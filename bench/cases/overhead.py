"""What the loop costs per step: a tiny MLP (10-32-2), batches of 64, one thread, CPU time.

The cost of a step is the slope between a short and a long run, so that what a fit does once cancels out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from bench import peers
from bench.harness import Check, Options, Report, Runner, Side, differences
from bench.tiny import BS, LR, WD, WIDTH, Run, clock, columns, mlp, raw, raw_validation, ready_batches, timed

if TYPE_CHECKING:
    import torch

    from graftwork import DataLoaders, Learner, Loader, Plan

__all__ = ["SIDES", "graftwork", "measure"]

FULL: Final = {"short": 500, "long": 2500, "repeats": 3, "device": "cpu"}
SMOKE: Final = {"short": 20, "long": 60, "repeats": 1, "device": "cpu"}
ROUNDS: Final = 9


def plan() -> Plan:
    """Return the plan of ten numbers and a class, with nothing to do."""
    from graftwork import CategoryBlock, Plan, RegressionBlock

    blocks = {"x": RegressionBlock(WIDTH), "y": CategoryBlock(vocab=("no", "yes"))}
    return Plan.compile(blocks, inputs=["x"], targets=["y"], train=lambda _: ())


def ready_loader(num_batches: int, device: str = "cpu") -> Loader:
    """Return a graftwork loader that gives batches out of a list."""
    import torch

    from graftwork import Batch, Loader

    compiled = plan()
    made = [
        Batch({"x": x, "y": y}, ("x",), ("y",), torch.arange(i * BS, (i + 1) * BS))
        for i, (x, y) in enumerate(ready_batches(num_batches, device))
    ]

    class Ready(Loader):
        plan = compiled

        def at(self, epoch: int, batch: int = 0, part: object = None) -> Iterator[Batch]:
            return iter(made[batch:])

        def item(self, position: int) -> int:
            return position

        def serve(self, device: torch.device) -> None:
            """Do nothing: the batches are where they are needed."""

        def in_order(self) -> Loader:
            return self

    return Ready(num_batches * BS, bs=BS, shuffle=False, seed=0, training=True, drop_last=False)


def column_loader(num_batches: int, device: str) -> Loader:
    """Return a graftwork loader that shuffles columns."""
    from graftwork import ColumnLoader

    x, y = columns(num_batches, device)
    return ColumnLoader({"x": x, "y": y}, plan(), bs=BS, shuffle=True, training=True)


def learner(data: DataLoaders, device: str, metrics: Sequence[Any] | None, *, progress: bool) -> Learner:
    """Return a learner of the same network with the same optimizer, and three metrics unless others are given."""
    from graftwork import Learner, Runtime, accuracy, error_rate, top_k_accuracy

    chosen = [accuracy(), error_rate(), top_k_accuracy(k=2)] if metrics is None else metrics
    runtime = Runtime(device=device)
    return Learner(data, mlp(), metrics=chosen, lr=LR, wd=WD, runtime=runtime, progress=progress)


def graftwork(*, progress: bool = True, one_cycle: bool = False, from_columns: bool = False) -> Run:
    """Return a fit of one epoch, with three metrics on a small validation split."""

    def run(steps: int, device: str) -> tuple[float, float]:
        from graftwork import DataLoaders

        train = column_loader(steps, device) if from_columns else ready_loader(steps, device)
        data = DataLoaders(train=train, valid=ready_loader(4, device))
        learn = learner(data, device, None, progress=progress)
        begin = clock(device)
        learn.fit_one_cycle(1, LR) if one_cycle else learn.fit(1, LR)
        seconds = clock(device) - begin
        assert len(learn.recorder.losses) == steps, "the fit took another number of steps than was asked for"
        return seconds, learn.recorder.losses[-1]

    return run


def busy(steps: int, device: str) -> tuple[float, float]:
    """Fit with checkpoints each 100 steps, whose saving is not counted, five callbacks and a history file.

    On the CPU the time is this thread's own: another one writes the checkpoints, and is waited for.
    """
    import tempfile
    from time import thread_time

    from graftwork import (
        DataLoaders,
        EarlyStopping,
        HistoryFile,
        ReduceOnPlateau,
        SaveBest,
        TerminateOnSpike,
        TimeLimit,
    )
    from graftwork.callbacks.checkpointer import Checkpointer

    def now() -> float:
        return thread_time() if device == "cpu" else clock(device)

    class Timed(Checkpointer):
        saving = 0.0

        def save(self, state: Any, *, done: bool = False) -> None:
            begin = now()
            super().save(state, done=done)
            self.settle()
            self.saving += now() - begin

    with tempfile.TemporaryDirectory() as folder:
        saver = Timed(folder, every_steps=100)
        five = [
            EarlyStopping(patience=9),
            ReduceOnPlateau(patience=9),
            SaveBest(),
            TerminateOnSpike(),
            TimeLimit(minutes=9),
        ]
        data = DataLoaders(train=ready_loader(steps, device), valid=ready_loader(4, device))
        learn = learner(data, device, None, progress=True)
        begin = now()
        learn.fit(1, LR, callbacks=[saver, HistoryFile(f"{folder}/history.csv"), *five])
        seconds = now() - begin - saver.saving
        assert saver.saving > 0
    return seconds, learn.recorder.losses[-1]


def graftwork_validation(metrics: Sequence[str] | None) -> Run:
    """Return a validation with three metrics, or with the named ones."""

    def run(steps: int, device: str) -> tuple[float, float]:
        from graftwork import DataLoaders

        loader = ready_loader(steps, device)
        learn = learner(DataLoaders(train=loader, valid=loader), device, metrics, progress=False)
        begin = clock(device)
        found = learn.validate()
        return clock(device) - begin, found["valid_loss"]

    return run


def raw_beside_imports(settings: dict[str, Any]) -> dict[str, Any]:
    """Run the raw loop after importing all that training imports: that must not make it slower."""
    from importlib import import_module

    for name in ("graftwork.learner", "graftwork_vision.learner", "rich.progress"):
        import_module(name)
    return timed(raw())(settings)


SIDES: Final[tuple[Side, ...]] = (
    Side(name="raw", run=timed(raw()), threads=1),
    Side(name="raw, one group", run=timed(raw(groups=False)), threads=1),
    Side(name="raw, not fused", run=timed(raw(fused=False)), threads=1),
    Side(name="raw beside graftwork", run=raw_beside_imports, threads=1),
    Side(name="graftwork", run=timed(graftwork()), threads=1),
    Side(name="graftwork, bar", run=timed(graftwork()), threads=1, terminal=True),
    Side(name="graftwork, no display", run=timed(graftwork(progress=False)), threads=1),
    Side(name="graftwork, one cycle", run=timed(graftwork(one_cycle=True)), threads=1),
    Side(name="graftwork, 5 callbacks", run=timed(busy), threads=1),
    Side(name="raw, permuted index", run=timed(raw(shuffled=True)), threads=1),
    Side(name="graftwork, columns", run=timed(graftwork(from_columns=True)), threads=1),
    Side(name="raw, validation", run=timed(raw_validation), threads=1),
    Side(name="graftwork, validation", run=timed(graftwork_validation(None)), threads=1),
    Side(name="graftwork, validation, f1", run=timed(graftwork_validation(["f1"])), threads=1),
    *(Side(name=name, run=timed(run), peer=name.split(",")[0], threads=1) for name, run in peers.OVERHEAD.items()),
)
OWN_BASES: Final = {
    "raw": None,
    "raw, permuted index": None,
    "raw, validation": None,
    "graftwork, columns": "raw, permuted index",
    "graftwork, validation": "raw, validation",
    "graftwork, validation, f1": "raw, validation",
}
FIGURES: Final = (
    ("3 metrics, display", "graftwork", "raw", 10.0),
    ("3 metrics, bar on a terminal", "graftwork, bar", "raw", 10.0),
    ("one cycle", "graftwork, one cycle", "raw", None),
    ("5 callbacks, history, checkpoints each 100 steps", "graftwork, 5 callbacks", "raw", 15.0),
    ("column loader", "graftwork, columns", "raw, permuted index", 10.0),
    ("fused AdamW, the default", "raw", "raw, not fused", 0.0),
    ("3 metrics, display", "graftwork", "raw, one group", None),
    ("a raw loop after our imports", "raw beside graftwork", "raw", None),
    ("validation, 3 metrics", "graftwork, validation", "raw, validation", None),
)
SAME: Final = (
    ("raw", "graftwork", "graftwork, bar", "graftwork, no display", "graftwork, 5 callbacks"),
    ("raw, validation", "graftwork, validation"),
)


def measure(options: Options) -> Report:
    """Run all sides in turn and compare them round by round."""
    runner = Runner(case="overhead", options=options)
    settings, rounds = (SMOKE, 1) if options.smoke else (FULL, ROUNDS)
    found = runner(SIDES, settings, rounds=rounds)
    report = Report(case="overhead", smoke=options.smoke, notes=runner.notes)
    return compare(report, found)


def compare(report: Report, found: dict[str, list[dict[str, Any]]]) -> Report:
    """Add lines and figures."""
    for name, results in found.items():
        report.add(name, [r["value"] for r in results], "µs/step", base=OWN_BASES.get(name, "raw"))
    for what, name, base, target in FIGURES:
        if report.has(name, base):
            gap = differences(report.values(name), report.values(base)).median
            report.checks.append(Check(what=f"{what}: over {base}", value=gap, unit="µs/step", target=target))
    for names in SAME:
        losses = [found[name][0]["loss"] for name in names if name in found]
        if len(losses) > 1:
            gap = max(losses) - min(losses)
            what = f"last loss, {names[0]} and {len(losses) - 1} of graftwork: gap"
            report.checks.append(Check(what=what, value=gap, target=0.0))
    if "graftwork, bar" in found:
        draws = min(result["output"].count("train, loss") for result in found["graftwork, bar"])
        report.checks.append(Check(what="times the bar was drawn, at least", value=draws, target=1, better="high"))
    return report
