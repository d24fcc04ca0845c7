"""Saving a run: all that a ResNet-18 trained by AdamW needs to go on, 140 MB, beside writing as many bytes.

All measures take turns in one process, and flush to the disk. A save stops training while it copies; the copy is then
hashed, written and renamed by a thread, beside training, which here waits for it only where that is measured.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from bench.cases.artifact import milliseconds
from bench.harness import Check, Options, Report, Runner, Side, alternate, ratios
from bench.photos import loaders, photo_folder

__all__ = ["SIDES", "measure"]

FULL: Final = {"saves": 15, "arch": "resnet18"}
SMOKE: Final = {"saves": 2, "arch": "small-cnn"}
PLAIN, SAVED, WHOLE, HASHED = "write and flush", "training stands still", "until the file is whole", "sha256 alone"


def side(settings: dict[str, Any]) -> dict[str, Any]:
    """Train for one epoch with a Checkpointer that only this measures, then save again and again."""
    from graftwork.api import Callback, TrainState
    from graftwork.callbacks.checkpointer import Checkpointer
    from graftwork_vision import vision_learner

    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-checkpoint-", dir=settings["disk"]) as place:
        folder = Path(place)
        saver = Checkpointer(folder / "run", every_epochs=None, monitor=None, keep=1, signals=False)

        def plain(data: bytes) -> None:
            with (folder / "plain").open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())

        class Measure(Callback):
            """Measure after the third step."""

            def _after_the_last(self, timer: Callable[[], float]) -> Callable[[], float]:
                def run() -> float:
                    saver.settle()
                    return timer()

                return run

            def batch_end(self, state: TrainState) -> None:
                """Save again and again, then stop."""
                if state.phase != "train" or state.step < 3:
                    return
                saver.save(state)
                saver.settle()
                data = next((folder / "run").glob("*.graft")).read_bytes()
                jobs = {
                    PLAIN: lambda: plain(data),
                    SAVED: lambda: saver.save(state),
                    WHOLE: lambda: (saver.save(state), saver.settle()),
                    HASHED: lambda: hashlib.sha256(data).hexdigest(),
                }
                timers = {n: self._after_the_last(milliseconds(j)) for n, j in jobs.items()}
                times.update(alternate(timers, settings["saves"], warm_up=2))
                times["bytes"] = [len(data)]
                state.stop("measured")

        learn = vision_learner(loaders(Path(settings["folder"])), settings["arch"], weights=None, progress=False)
        learn.fit(1, callbacks=[Measure()])
    return {"value": times[SAVED][0], "times": times}


SIDES: Final = (Side(name="checkpoint", run=side),)


def measure(options: Options) -> Report:
    """Run the one process and compare."""
    runner = Runner(case="checkpoint", options=options)
    report = Report(case="checkpoint", smoke=options.smoke, notes=runner.notes)
    with photo_folder(smoke=options.smoke) as folder:
        settings = {**(SMOKE if options.smoke else FULL), "folder": str(folder), "disk": str(Path.cwd())}
        times = runner(SIDES, settings, rounds=1)["checkpoint"][0]["times"]
    for name in (PLAIN, SAVED, WHOLE, HASHED):
        report.add(name, times[name], "ms", base=None if name == PLAIN else PLAIN)
    report.notes.append(f"the file has {times['bytes'][0] / 1e6:.1f} MB")
    ratio = ratios(report.values(SAVED), report.values(PLAIN)).median
    report.checks.append(Check(what="training stands still / write and flush", value=ratio, target=1.5))
    whole = ratios(report.values(WHOLE), report.values(PLAIN)).median
    report.checks.append(Check(what="until the file is whole / write and flush", value=whole, target=None))
    return report
