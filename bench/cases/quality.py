"""Accuracies that must be reached, with the public commands where there are any. Slow; each side runs once.

The data are real and are found through GRAFTWORK_DATA; without it this case cannot be run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench.harness import Check, Options, Report, Runner, Side

if TYPE_CHECKING:
    import numpy as np

    from graftwork import DataLoaders

__all__ = ["SIDES", "measure"]

TARGETS: Final = {
    "nearest mean, MNIST 3 / 7, threes": 0.9168,
    "nearest mean, MNIST 3 / 7, sevens": 0.9854,
    "nearest mean, MNIST 3 / 7, mean": 0.9511,
    "LeNet-5, all of MNIST, 2 epochs": 0.985,
    "ResNet-18 from scratch, MNIST 3 / 7, 1 epoch": 0.99,
}
EXACT: Final = 1e-4


def data_folder() -> Path:
    """Return the folder of real data; raise RuntimeError if there is none."""
    folder = os.environ.get("GRAFTWORK_DATA")
    if not folder:
        raise RuntimeError(
            "quality needs real data: set GRAFTWORK_DATA to the folder that holds mnist/ and caltech101_sample/"
        )
    return Path(folder)


def three_or_seven(settings: dict[str, Any]) -> DataLoaders:
    """Return MNIST's threes and sevens: the train part to learn from, the test part to validate on."""
    import numpy as np

    from graftwork import IndexSplitter
    from graftwork_vision import read_idx
    from graftwork_vision.data import image_data_block

    mnist = data_folder() / "mnist"
    parts = []
    for part in ("train", "t10k"):
        pictures = read_idx(mnist / f"{part}-images-idx3-ubyte.gz")
        labels = read_idx(mnist / f"{part}-labels-idx1-ubyte.gz")
        kept = np.isin(labels, (3, 7))
        parts.append((pictures[kept][: settings["limit"]], labels[kept][: settings["limit"]]))
    items = [
        (picture, int(label)) for pictures, labels in parts for picture, label in zip(pictures, labels, strict=True)
    ]
    valid = range(len(parts[0][0]), len(items))
    recipe = image_data_block(
        get_x=first, get_y=second, splitter=IndexSplitter(valid), channels=1, native_size=(28, 28), normalize="fit"
    )
    return recipe.dataloaders(items, bs=64, cache="memory")


def first(item: tuple[np.ndarray[Any, Any], int]) -> np.ndarray[Any, Any]:
    """Get the picture."""
    return item[0]


def second(item: tuple[np.ndarray[Any, Any], int]) -> int:
    """Get the digit."""
    return item[1]


def nearest_mean(settings: dict[str, Any]) -> dict[str, Any]:
    """Fit fastbook's pixel similarity (chapter 4)."""
    import torch

    from graftwork import get_host

    data = three_or_seven(settings)
    assert data.valid is not None
    said = get_host().baselines.get("vision/nearest-mean")().fit(data).predict(data.valid).argmax(1)
    target = torch.cat([batch.y for batch in data.valid])
    threes, sevens = (float((said[target == c] == c).float().mean()) for c in (0, 1))
    return {"value": (threes + sevens) / 2, "threes": threes, "sevens": sevens}


def resnet(settings: dict[str, Any]) -> dict[str, Any]:
    """Train ResNet-18 from scratch for one epoch of one cycle."""
    from graftwork_vision import vision_learner

    learn = vision_learner(three_or_seven(settings), "resnet18", weights=None, progress=False)
    return {"value": learn.fit_one_cycle(1, 5e-3).history[-1]["accuracy"]}


def command(*words: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Make a side of `graft train vision/classification`; the first word is the data set's name."""

    def side(settings: dict[str, Any]) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            out = ["--out", str(Path(folder) / "run"), "--json"]
            given = [str(data_folder() / words[0]), *words[1:], *(["--epochs", "1"] if settings["smoke"] else [])]
            line = [sys.executable, "-m", "graftwork", "train", "vision/classification", *given, *out]
            done = subprocess.run(line, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(done.stderr[-2000:])
            report = json.loads(done.stdout.strip().splitlines()[-1])
        baselines = {b["id"]: b["metrics"]["accuracy"] for b in report["baselines"]}
        return {"value": report["metrics"]["accuracy"], "baselines": baselines, "seconds": report["seconds"]["train"]}

    return side


CALTECH: Final = ("caltech101_sample", "--size", "96", "--bs", "32")
SIDES: Final[Sequence[Side]] = (
    Side(name="nearest mean, MNIST 3 / 7", run=nearest_mean),
    Side(name="LeNet-5, all of MNIST, 2 epochs", run=command("mnist", "--model", "vision/lenet5", "--epochs", "2")),
    Side(name="ResNet-18 from scratch, MNIST 3 / 7, 1 epoch", run=resnet),
    Side(
        name="ResNet-18 from scratch, caltech101_sample, 8 epochs",
        run=command(*CALTECH, "--model", "resnet18", "--epochs", "8"),
    ),
    Side(
        name="small CNN from scratch, caltech101_sample, 8 epochs",
        run=command(*CALTECH, "--model", "vision/small-cnn", "--epochs", "8"),
    ),
)


def measure(options: Options) -> Report:
    """Run each side once."""
    data_folder()
    runner = Runner(case="quality", options=options)
    settings = {"smoke": options.smoke, "limit": 500 if options.smoke else 100_000}
    sides = SIDES[:1] if options.smoke else SIDES
    found = {name: values[0] for name, values in runner(sides, settings, rounds=1).items()}
    report = Report(case="quality", smoke=options.smoke, notes=runner.notes)
    for name, side in found.items():
        report.add(name, [side["value"]], "accuracy")
        for baseline, accuracy in side.get("baselines", {}).items():
            report.add(f"  its baseline {baseline}", [accuracy], "accuracy")
        if name in TARGETS:
            report.checks.append(Check(what=name, value=side["value"], target=TARGETS[name], better="high"))
    for part in ("threes", "sevens"):
        name = f"nearest mean, MNIST 3 / 7, {part}"
        if "nearest mean, MNIST 3 / 7" in found and not options.smoke:
            off = abs(found["nearest mean, MNIST 3 / 7"][part] - TARGETS[name])
            report.checks.append(Check(what=f"{name}: off {TARGETS[name]} by", value=off, target=EXACT))
    return report
