"""An exported ResNet-18 (45 MB): reading it with all checks, and predicting one photo at 128 px from its file.

All measures take turns in one process, which has read and predicted before: files are in the page cache.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from bench.harness import Check, Options, Report, Runner, Side, alternate, differences, ratios
from bench.photos import SIZE, loaders, photo_folder, read_square, split, statistics_of_imagenet

if TYPE_CHECKING:
    from torch import Tensor, nn

    from graftwork.predictor import Predictor

__all__ = ["SIDES", "measure"]

FULL: Final = {"loads": 40, "predictions": 150}
SMOKE: Final = {"loads": 2, "predictions": 3}
LOADS: Final = ("sha256 of the bytes", "load_learner", "safetensors", "torch.load, weights only")
PREDICTIONS: Final = ("forward", "by hand", "Predictor.predict")


def export(folder: Path, to: Path) -> Path:
    """Export an untrained ResNet-18; its batch norms have seen a few batches."""
    from graftwork_vision import vision_learner

    learn = vision_learner(loaders(folder), "resnet18", weights=None, progress=False)
    learn.module.train()
    for number, batch in enumerate(learn.data.train.at(0)):
        learn.feed.forward(learn.feed.ready(batch))
        if number == 2:
            break
    return learn.export(to / "model.graft")


def milliseconds(job: Callable[[], object]) -> Callable[[], float]:
    """Return a measure of a job."""

    def measure_once() -> float:
        begin = perf_counter()
        job()
        return (perf_counter() - begin) * 1000

    return measure_once


def side(settings: dict[str, Any]) -> dict[str, Any]:
    """Measure everything in this process."""
    import safetensors.torch
    import torch

    from graftwork import load_learner

    folder = Path(settings["folder"])
    photo = split(folder)[1][0][0]
    with tempfile.TemporaryDirectory(prefix="bench-artifact-") as place:
        path = export(folder, Path(place))
        begin = perf_counter()
        predictor = load_learner(path)
        first = (perf_counter() - begin) * 1000
        data = path.read_bytes()
        weights, pickled = Path(place) / "weights.safetensors", Path(place) / "weights.pt"
        state = {name: tensor.clone() for name, tensor in predictor.module.state_dict().items()}
        safetensors.torch.save_file(state, weights)
        torch.save(state, pickled)
        jobs: dict[str, Callable[[], object]] = {
            "sha256 of the bytes": lambda: hashlib.sha256(data).hexdigest(),
            "load_learner": lambda: load_learner(path),
            "safetensors": lambda: safetensors.torch.load_file(weights),
            "torch.load, weights only": lambda: torch.load(pickled, weights_only=True),
        }
        times = alternate({n: milliseconds(j) for n, j in jobs.items()}, settings["loads"], warm_up=2)
        predicting, gap = prediction(predictor, photo)
        times |= alternate({n: milliseconds(j) for n, j in predicting.items()}, settings["predictions"], warm_up=3)
    return {"value": first, "times": times, "bytes": len(data), "gap": gap}


def prediction(predictor: Predictor, photo: Path) -> tuple[dict[str, Callable[[], object]], float]:
    """Return the three ways to predict, and by how much the probabilities of the last two differ at most."""
    import torch

    module, (mean, std) = predictor.module, statistics_of_imagenet()
    pixels = prepared(photo, mean, std)

    def forward() -> Tensor:
        with torch.inference_mode():
            found: Tensor = module(pixels)
            return found

    jobs: dict[str, Callable[[], object]] = {
        "forward": forward,
        "by hand": lambda: by_hand(module, photo, mean, std),
        "Predictor.predict": lambda: predictor.predict(photo),
    }
    theirs = predictor.predict(photo).probabilities
    ours = by_hand(module, photo, mean, std)
    assert theirs is not None, "a classifier gives probabilities"
    return jobs, max(abs(a - b) for a, b in zip(theirs.values(), ours, strict=True))


def prepared(photo: Path, mean: Tensor, std: Tensor) -> Tensor:
    """Read a photo into a batch of one."""
    return read_square(photo).permute(2, 0, 1)[None].float().div_(255).sub_(mean).div_(std)


def by_hand(module: nn.Module, photo: Path, mean: Tensor, std: Tensor) -> list[float]:
    """Go from the file to probabilities."""
    import torch

    with torch.inference_mode():
        found: list[float] = module(prepared(photo, mean, std)).softmax(1)[0].tolist()
    return found


SIDES: Final = (Side(name="artifact", run=side),)


def measure(options: Options) -> Report:
    """Run the one process and compare."""
    runner = Runner(case="artifact", options=options)
    report = Report(case="artifact", smoke=options.smoke, notes=runner.notes)
    with photo_folder(smoke=options.smoke) as folder:
        settings = {**(SMOKE if options.smoke else FULL), "folder": str(folder)}
        found = runner(SIDES, settings, rounds=1)["artifact"][0]
    for names, base in ((LOADS, LOADS[0]), (PREDICTIONS, "by hand")):
        for name in names:
            report.add(name, found["times"][name], "ms", base=None if name == base else base)
    report.notes.append(f"the file has {found['bytes'] / 1e6:.1f} MB; the first load took {found['value']:.0f} ms")
    report.notes.append(f"one photo of {SIZE} px; probabilities by hand and by predict differ by {found['gap']:.1g}")
    beyond = differences(report.values("load_learner"), report.values("sha256 of the bytes")).median
    report.checks.append(Check(what="load_learner beyond sha256 of the bytes", value=beyond, unit="ms", target=10.0))
    ratio = ratios(report.values("Predictor.predict"), report.values("by hand")).median
    report.checks.append(Check(what="Predictor.predict / by hand", value=ratio, target=1.1))
    report.checks.append(Check(what="probabilities: largest difference", value=found["gap"], target=1e-5))
    return report
