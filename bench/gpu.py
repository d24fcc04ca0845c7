"""The overhead, augment and vision cases on a CUDA device: wall time, read when the device is done with it all."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from typing import Final

from bench import peers
from bench.cases import augment, overhead, vision
from bench.harness import Options, Report, Runner, Side
from bench.photos import photo_folder, split
from bench.tiny import raw, timed

__all__ = ["SIDES", "measure"]

STEPS: Final = {**overhead.FULL, "device": "cuda"}
BATCHES: Final = {**augment.FULL, "batch": 256, "warm": 5, "batches": 40, "device": "cuda"}
PHOTOS: Final = {"warm": 10, "batches": 30, "device": "cuda", "threads": 4}
ROUNDS: Final = 7

OVERHEAD: Final[tuple[Side, ...]] = (
    Side(name="raw", run=timed(raw())),
    Side(name="raw, one group", run=timed(raw(groups=False))),
    Side(name="raw, not fused", run=timed(raw(fused=False))),
    Side(name="graftwork", run=timed(overhead.graftwork())),
    Side(name="raw, permuted index", run=timed(raw(shuffled=True))),
    Side(name="graftwork, columns", run=timed(overhead.graftwork(from_columns=True))),
    *(Side(name=name, run=timed(run), peer=name.split(",")[0]) for name, run in peers.OVERHEAD.items()),
)
VISION: Final[tuple[Side, ...]] = (
    Side(name="plain loop, photos", run=vision.by_hand(vision.plain_batches, tuned=False)),
    Side(name="hand-tuned, photos", run=vision.by_hand(vision.tuned_batches, tuned=True)),
    Side(name="graftwork, photos", run=partial(vision.graftwork, workers=PHOTOS["threads"])),
)
SIDES: Final = OVERHEAD + augment.SIDES + VISION


def measure(options: Options) -> Report:
    """Run the three cases; raise RuntimeError where there is no CUDA device."""
    if not available():
        raise RuntimeError(
            "gpu: there is no CUDA device here (or no torch that can use one); the other cases need none"
        )
    runner = Runner(case="gpu", options=options)
    report = Report(case="gpu", smoke=options.smoke, notes=runner.notes)
    steps = {**STEPS, **(overhead.SMOKE if options.smoke else {}), "device": "cuda"}
    overhead.compare(report, runner(OVERHEAD, steps, rounds=1 if options.smoke else ROUNDS))
    batches = {**BATCHES, **(augment.SMOKE if options.smoke else {}), "device": "cuda"}
    found = runner(augment.SIDES, batches, rounds=1 if options.smoke else ROUNDS)
    augment.compare(report, found, peers=3.0, copies=2.0)
    with photo_folder(smoke=options.smoke) as folder:
        classes = len(set(split(folder)[0][1]))
        settings = {**PHOTOS, **(vision.SMOKE if options.smoke else {}), "device": "cuda"}
        found = runner(
            VISION, {**settings, "folder": str(folder), "classes": classes}, rounds=1 if options.smoke else ROUNDS
        )
    for name, results in found.items():
        base = None if name.startswith("hand") else "hand-tuned, photos"
        report.add(name, [r["value"] for r in results], "images/s", base=base)
    return report


def available() -> bool:
    """Say whether torch finds a CUDA device."""
    if find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()
