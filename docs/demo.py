"""`make demo`: from pictures in folders to predictions, with the commands a user would type.

The pictures are scikit-learn's 1,797 handwritten digits, written as PNG files into a folder per class; a fifth of them
is kept apart and not shown to training.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

HERE = Path("demo_run")
PER_CLASS_HELD_OUT = 36


def main() -> int:
    """Write the pictures, train, evaluate on what was kept apart, and predict five of them."""
    shutil.rmtree(HERE, ignore_errors=True)
    five = write_pictures()
    run = HERE / "run"
    trained = graft("train", "vision/classification", HERE / "digits", "--epochs", 12, "--out", run)
    measured = graft("evaluate", run / "model.graft", HERE / "held_out")
    graft("predict", run / "model.graft", *five)
    graft("show", run / "model.graft", read=False)
    report(trained, measured)
    return 0 if measured["metrics"]["accuracy"] >= 0.97 else 1


def write_pictures() -> list[Path]:
    """Write every digit as a PNG file; return one kept-apart file of each of the first five classes."""
    digits = load_digits()
    seen = dict.fromkeys(range(10), 0)
    order = np.random.default_rng(0).permutation(len(digits.images))
    for i in order:
        label = int(digits.target[i])
        seen[label] += 1
        part = "held_out" if seen[label] <= PER_CLASS_HELD_OUT else "digits"
        folder = HERE / part / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[i] * 255 / 16).round().astype(np.uint8)).save(folder / f"{i:04}.png")
    print(f"wrote {len(order)} pictures: {HERE / 'digits'} to learn from, {HERE / 'held_out'} to measure with")
    return [sorted((HERE / "held_out" / str(label)).iterdir())[0] for label in range(5)]


def graft(*words: object, read: bool = True) -> dict[str, dict[str, float]]:
    """Run a graft command as typed, and again read its JSON line if it has one."""
    arguments = list(map(str, words))
    print(f"\n$ {shlex.join(['graft', *arguments])}", flush=True)
    command = [sys.executable, "-m", "graftwork", *arguments, *["--json"] * read]
    done = subprocess.run(command, stdout=subprocess.PIPE if read else None, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    return json.loads(done.stdout.splitlines()[-1]) if read else {}


def report(trained: dict[str, object], measured: dict[str, dict[str, float]]) -> None:
    """Print the model beside its baselines, and where everything lies."""
    print("\n" + f"{'':<28}{'accuracy':>10}")
    for baseline in trained["baselines"]:
        print(f"{baseline['id']:<28}{baseline['metrics']['accuracy']:>10.4f}   on the validation split")
    print(f"{'this model':<28}{trained['metrics']['accuracy']:>10.4f}   on the validation split")
    print(f"{'this model':<28}{measured['metrics']['accuracy']:>10.4f}   on {measured['rows']} pictures kept apart")
    print(f"\nrun       {trained['run']}\nartifact  {trained['artifact']}")
    for picture in trained["pictures"]:
        print(f"picture   {picture}")


if __name__ == "__main__":
    sys.exit(main())
