"""Accuracies that must be reached, on real data: MNIST and `caltech101_sample` below GRAFTWORK_DATA. Slow; runs once.

The trainings run through the command line, as a user's would. A smoke run trains scikit-learn's small digits instead.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from bench.harness import Check, Options, Report, Side, say, wait_until_idle

__all__ = ["SIDES", "measure"]

SIDES: Final[tuple[Side, ...]] = ()
GOLDEN: Final = {"threes": 0.9168, "sevens": 0.9854, "mean": 0.9511}


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """Describe a training by the command line and the accuracy it must reach; None: more than all baselines."""

    name: str
    source: str
    arguments: tuple[str, ...]
    target: float | None


TRAININGS: Final = (
    Training(
        name="LeNet-5, MNIST, 2 epochs",
        source="mnist",
        arguments=("--model", "lenet5", "--epochs", "2"),
        target=0.985,
    ),
    Training(
        name="ResNet-18, MNIST 3/7, 1 epoch of one cycle",
        source="threes and sevens",
        arguments=("--model", "resnet18", "--epochs", "1"),
        target=0.99,
    ),
    Training(
        name="ResNet-18 from scratch, caltech101_sample, 96 px, 10 epochs",
        source="caltech101_sample",
        arguments=("--model", "resnet18", "--size", "96", "--epochs", "10"),
        target=None,
    ),
    Training(
        name="small-cnn, caltech101_sample, 96 px, 10 epochs",
        source="caltech101_sample",
        arguments=("--model", "small-cnn", "--size", "96", "--epochs", "10"),
        target=None,
    ),
)
SMOKED: Final = (Training(name="small-cnn, digits, 1 epoch", source="digits", arguments=("--epochs", "1"), target=0.3),)


def graft_train(source: Path, arguments: Sequence[str], run: Path) -> dict[str, Any]:
    """Train by the command line and return its JSON."""
    command = [sys.executable, "-m", "graftwork", "train", "vision/classification", str(source), *arguments]
    done = subprocess.run([*command, "--out", str(run), "--json"], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"quality: {' '.join(command)} ended with status {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def write_pictures(folder: Path, pictures: Any, labels: Any, part: str) -> None:
    """Write grey pictures as PNG files into a folder per class."""
    from PIL import Image

    for number, (pixels, label) in enumerate(zip(pictures, labels, strict=True)):
        place = folder / part / str(label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number:05}.png", compress_level=1)


def threes_and_sevens(data: Path, folder: Path) -> Path:
    """Write MNIST's threes and sevens: its training part to train on, its test part to validate with."""
    from graftwork_vision import read_idx

    for part, name in (("train", "train"), ("valid", "t10k")):
        pictures = read_idx(data / "mnist" / f"{name}-images-idx3-ubyte.gz")
        labels = read_idx(data / "mnist" / f"{name}-labels-idx1-ubyte.gz")
        wanted = (labels == 3) | (labels == 7)
        write_pictures(folder, pictures[wanted], labels[wanted], part)
    return folder


def digits(folder: Path) -> Path:
    """Write scikit-learn's digits, 8x8 pixels."""
    import numpy as np
    from sklearn.datasets import load_digits

    found = load_digits()
    write_pictures(folder, (found.images * 255 / 16).astype(np.uint8), found.target, "all")
    return folder / "all"


def nearest_mean(folder: Path) -> dict[str, float]:
    """Classify threes and sevens by the nearest mean picture (fastbook's pixel similarity)."""
    from graftwork_vision import ImageDataLoaders, NearestMean

    data = ImageDataLoaders.from_folder(folder, channels=1, normalize="none", cache="memory")
    assert data.valid is not None, "the folder has a split of its own"
    predicted = NearestMean().fit(data).predict(data.valid).argmax(1)
    truth = data.valid.columns["y"]  # type: ignore[attr-defined]  # cache="memory" gives columns
    threes, sevens = (float((predicted == truth)[truth == code].double().mean()) for code in (0, 1))
    return {"threes": threes, "sevens": sevens, "mean": (threes + sevens) / 2}


def measure(options: Options) -> Report:
    """Train everything once."""
    report = Report(case="quality", smoke=options.smoke)
    known = os.environ.get("GRAFTWORK_DATA")
    if known is None and not options.smoke:
        raise RuntimeError("quality needs GRAFTWORK_DATA, a folder with mnist/ and caltech101_sample/")
    with tempfile.TemporaryDirectory(prefix="bench-quality-") as place:
        folder, data = Path(place), Path(known or place)
        made: dict[str, Callable[[], Path]] = {
            "threes and sevens": lambda: threes_and_sevens(data, folder / "mnist37"),
            "digits": lambda: digits(folder / "digits"),
        }
        trainings = SMOKED if options.smoke else TRAININGS
        sources = {t.source: made[t.source]() if t.source in made else data / t.source for t in trainings}
        if not options.smoke:
            _golden(report, nearest_mean(sources["threes and sevens"]))
        for number, training in enumerate(trainings):
            wait_until_idle(options.wait_minutes)
            _train(report, training, sources[training.source], folder / f"run{number}")
    return report


def _golden(report: Report, found: dict[str, float]) -> None:
    for what, value in found.items():
        report.add(f"nearest mean, {what}", [value], "accuracy")
        gap = abs(value - GOLDEN[what])
        report.checks.append(Check(what=f"nearest mean, {what}: from {GOLDEN[what]}", value=gap, target=1e-4))


def _train(report: Report, training: Training, source: Path, run: Path) -> None:
    say(f"  {training.name}")
    begin = perf_counter()
    found = graft_train(source, training.arguments, run)
    seconds = perf_counter() - begin
    reached = found["metrics"]["accuracy"]
    report.add(training.name, [reached], "accuracy")
    baselines = {b["id"]: b["metrics"]["accuracy"] for b in found["baselines"]}
    for name, value in baselines.items():
        report.add(f"  {name}", [value], "accuracy", base=training.name)
    target = max(baselines.values()) if training.target is None else training.target
    report.checks.append(Check(what=training.name, value=reached, target=target, better="high"))
    report.notes.append(f"{training.name}: {seconds:.0f} s in all, {found['seconds']['train']:.0f} s of them training")
