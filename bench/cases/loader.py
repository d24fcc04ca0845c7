"""ItemLoader on a folder of JPEGs at 128 px: no workers, threads, processes; loading alone, and while training.

This is where the default number of workers is measured: one thread per core, at most four.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench.cases import vision
from bench.harness import Check, Options, Report, Runner, Side, Spread, ratios
from bench.photos import loaders, photo_folder, split

if TYPE_CHECKING:
    from graftwork import Batch, Loader

__all__ = ["SIDES", "measure"]

FULL: Final = {"warm": 6, "batches": 80, "device": "cpu"}
TRAINING: Final = {"warm": 6, "batches": 24, "device": "cpu"}
SMOKE: Final = {"warm": 1, "batches": 2, "device": "cpu"}
KINDS: Final = {
    "none": (0, "thread"),
    **{f"{n} thread{'s' * (n > 1)}": (n, "thread") for n in (1, 2, 4)},
    **{f"{n} process{'es' * (n > 1)}": (n, "process") for n in (1, 2, 4)},
}
DEFAULT: Final = "the default"
ROUNDS: Final = 5


def forever(loader: Loader) -> Iterator[Batch]:
    """Iterate epoch after epoch."""
    epoch = 0
    while True:
        yield from loader.at(epoch)
        epoch += 1


def alone(settings: dict[str, Any], *, workers: int | None, worker_type: str) -> dict[str, Any]:
    """Only load."""
    window = vision.Window(settings)
    loader = loaders(Path(settings["folder"]), workers=workers, worker_type=worker_type).train
    for batch in forever(loader):
        if len(batch.index) == loader.bs and window.add():
            break
    return {"value": window.rate, "batches": window.done}


def _sides() -> Iterator[Side]:
    for name, (workers, kind) in {**KINDS, DEFAULT: (None, "thread")}.items():
        yield Side(name=name, run=partial(alone, workers=workers, worker_type=kind))
        yield Side(name=f"{name}, training", run=partial(vision.graftwork, workers=workers, worker_type=kind))


SIDES: Final = tuple(_sides())
SMOKED: Final = ("none", "2 threads", "2 processes", "2 threads, training")


def measure(options: Options) -> Report:
    """Run every kind of worker in turn."""
    runner = Runner(case="loader", options=options)
    report = Report(case="loader", smoke=options.smoke, notes=runner.notes)
    with photo_folder(smoke=options.smoke) as folder:
        classes = len(set(split(folder)[0][1]))
        for training, settings in ((False, FULL), (True, TRAINING)):
            sides = [side for side in SIDES if side.name.endswith("training") is training]
            if options.smoke:
                sides, settings = [side for side in sides if side.name in SMOKED], SMOKE
            whole = {**settings, "folder": str(folder), "classes": classes}
            base = "none, training" if training else "none"
            for name, results in runner(sides, whole, rounds=1 if options.smoke else ROUNDS).items():
                report.add(name, [r["value"] for r in results], "images/s", base=None if name == base else base)
            _judge(report, "training" if training else "alone", [s.name for s in sides if report.has(s.name)])
    return report


def _judge(report: Report, what: str, names: list[str]) -> None:
    """Say which kind is fastest, and how the default compares with it."""
    default = DEFAULT if what == "alone" else f"{DEFAULT}, training"
    others = [name for name in names if name != default]
    if not others:
        return
    best = max(others, key=lambda name: Spread.of(report.values(name)).median)
    report.notes.append(f"{what}: the fastest is {best}")
    if default in names:
        share = ratios(report.values(default), report.values(best)).median
        report.checks.append(Check(what=f"{what}: the default / {best}", value=share, target=0.95, better="high"))
