"""What a trunk is worth: a small ResNet trained on clothes (Fashion-MNIST), fine-tuned on few digits (MNIST).

The trunk is exported, and `vision_learner(weights="clothes.graft")` takes it up. Beside it, the same network learns the
same digits from scratch, for as many epochs. Measured is the accuracy on 4,000 of MNIST's test digits, for three draws
of the digits to learn from. Without GRAFTWORK_DATA, and in smoke runs, scikit-learn's small digits stand for both.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any, Final

from bench.harness import Check, Options, Report, Side, Spread, say, wait_until_idle

if TYPE_CHECKING:
    import numpy as np

    from graftwork import DataLoaders, Learner

__all__ = ["SIDES", "measure"]

SIDES: Final[tuple[Side, ...]] = ()
ARCH: Final = "resnet18"
EPOCHS: Final = 6
TRUNK: Final = 20_000
TEST: Final = 4_000
"""Clothes for the trunk and digits to test with, the first ones."""
COUNTS: Final = (100, 50, 25)
SEEDS: Final = (1, 2, 3)
Part = tuple["np.ndarray[Any, Any]", "np.ndarray[Any, Any]"]


def measure(options: Options) -> Report:
    """Train the trunk once, then both ways on every draw of digits."""
    report = Report(case="finetune", smoke=options.smoke)
    wait_until_idle(options.wait_minutes)
    clothes, digits, test = parts(small=options.smoke)
    seeds, counts = (SEEDS[:1], COUNTS[-1:]) if options.smoke else (SEEDS, COUNTS)
    with tempfile.TemporaryDirectory(prefix="bench-finetune-") as folder:
        trunk = Path(folder) / "clothes.graft"
        first = learner(loaders(clothes, seed=0), weights=None).fit_one_cycle(1, 3e-3)
        report.notes.append(
            f"trunk: one epoch of {len(clothes[1]):,} pictures, in {first.history[-1]['seconds']:.0f} s"
        )
        first.export(trunk)
        for count in counts:
            both: dict[str, list[float]] = {"from scratch": [], "fine-tuned": []}
            for seed in seeds:
                data = loaders(drawn(digits, count, seed), seed=seed)
                scratch = learner(data, weights=None, seed=seed).fit_one_cycle(EPOCHS, 3e-3)
                tuned = learner(data, weights=str(trunk), seed=seed).fine_tune(EPOCHS - 1, 4e-3)
                for name, learn in (("from scratch", scratch), ("fine-tuned", tuned)):
                    both[name].append(learn.validate(data.test_dl(items(test), with_labels=True))["accuracy"])
                    say(f"  {count} a class, seed {seed}: {name} {both[name][-1]:.4f}")
            add(report, count, both)
    return report


def add(report: Report, count: int, both: dict[str, list[float]]) -> None:
    """Add what both ways came to, and how much the trunk is worth."""
    for name, values in both.items():
        report.add(f"{count} a class, {name}", values, "share")
    gain = mean(both["fine-tuned"]) - mean(both["from scratch"])
    report.checks.append(Check(what=f"{count} a class: gain", value=gain, target=0.0, better="high"))
    spread = max(Spread.of(values).high - Spread.of(values).low for values in both.values())
    report.checks.append(Check(what=f"{count} a class: spread over seeds (quartiles)", value=spread))


def parts(*, small: bool) -> tuple[Part, Part, Part]:
    """Return pictures and labels: to make the trunk of, to learn from, and to test with."""
    import numpy as np

    data = os.environ.get("GRAFTWORK_DATA")
    if small or not data:
        from sklearn.datasets import load_digits

        found = load_digits()
        pictures = np.kron((found.images * 255 / 16).astype(np.uint8), np.ones((1, 3, 3), np.uint8))
        return (
            (pictures[:400], found.target[:400]),
            (pictures[400:1200], found.target[400:1200]),
            (
                pictures[1200:],
                found.target[1200:],
            ),
        )
    clothes, test = read(data, "fashion_mnist", "train"), read(data, "mnist", "t10k")
    return (clothes[0][:TRUNK], clothes[1][:TRUNK]), read(data, "mnist", "train"), (test[0][:TEST], test[1][:TEST])


def read(data: str, name: str, part: str) -> Part:
    """Read a part of a data set."""
    from graftwork_vision import read_idx

    folder = Path(data) / name
    return read_idx(folder / f"{part}-images-idx3-ubyte.gz"), read_idx(folder / f"{part}-labels-idx1-ubyte.gz")


def drawn(part: Part, count: int, seed: int) -> Part:
    """Draw so many of each class."""
    import numpy as np

    pictures, labels = part
    rng = np.random.default_rng(seed)
    rows = np.concatenate([rng.permutation(np.flatnonzero(labels == label))[:count] for label in np.unique(labels)])
    return pictures[rows], labels[rows]


def items(part: Part) -> list[tuple[Any, int]]:
    """Pair pictures with labels."""
    return [(picture, int(label)) for picture, label in zip(*part, strict=True)]


def loaders(part: Part, *, seed: int) -> DataLoaders:
    """Return loaders that hold nothing out."""
    import numpy as np

    from graftwork import CategoryBlock, DataBlock
    from graftwork_vision import ImageBlock, Normalize

    block = DataBlock(
        blocks=(ImageBlock(channels=1, size=part[0].shape[1:]), CategoryBlock),
        splitter=lambda found: (np.arange(len(found)), np.arange(0)),
        batch_tfms=Normalize(),
    )
    return block.dataloaders(items(part), bs=64, seed=seed, cache="memory")


def learner(data: DataLoaders, *, weights: str | None, seed: int = 0) -> Learner:
    """Return a learner of the small network."""
    from graftwork_vision import vision_learner

    return vision_learner(data, ARCH, weights=weights, seed=seed, progress=False)
