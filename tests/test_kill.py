"""A run that is killed at any moment goes on to the same bits, and its folder is as if nothing had happened."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

HERE = Path(__file__).parent
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked and killed as POSIX does")


def pictures(root: Path) -> Path:
    rng = np.random.default_rng(0)
    root = root / "photos"
    for shade, name in enumerate(("dark", "light")):
        (root / name).mkdir(parents=True)
        for i in range(20):
            pixels = (60 + 60 * shade + rng.integers(0, 60, (16, 16, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i:02}.png")
    return root


def table(root: Path) -> Path:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"job": rng.choice(["baker", "clerk", "driver"], 200), "age": rng.integers(18, 90, 200)})
    frame["height"] = np.where(rng.random(200) < 0.1, np.nan, rng.normal(170, 10, 200))
    frame["paid"] = np.where((frame["age"] > 50) ^ (frame["job"] == "baker"), "yes", "no")
    frame.to_csv(root / "people.csv", index=False)
    return root / "people.csv"


def ratings(root: Path) -> Path:
    rng = np.random.default_rng(0)
    user, item = np.nonzero(rng.random((40, 60)) < 0.3)
    rating = (3 + rng.choice([-1, 1], 40)[user] * rng.choice([-1, 1], 60)[item] + rng.normal(0, 0.2, len(user))).round()
    frame = pd.DataFrame({"userId": user, "movieId": item, "rating": rating.clip(1, 5)})
    frame["timestamp"] = np.arange(len(frame))
    frame.to_csv(root / "ratings.csv", index=False)
    return root / "ratings.csv"


def reviews(root: Path) -> Path:
    rng = np.random.default_rng(0)
    words = [" ".join(rng.choice([("good", "bad")[i % 2], "film", "plot"], 8)) for i in range(120)]
    frame = pd.DataFrame({"text": words, "label": [("pos", "neg")[i % 2] for i in range(120)]})
    frame.to_csv(root / "reviews.csv", index=False)
    return root / "reviews.csv"


def lines(root: Path) -> Path:
    texts = pd.read_csv(reviews(root))["text"]
    (root / "lines.txt").write_text("\n".join(texts), encoding="utf-8")
    return root / "lines.txt"


def masks(root: Path) -> Path:
    from graftwork_segmentation.conformance import write_squares

    return write_squares(root / "squares", count=16)


SHARE = float(os.environ.get("GRAFTWORK_KILLS", "0.07"))
"""How much of the killing is done, of cases with at least one; all of it, over fifty processes, takes minutes."""
SMALL = {"device": "cpu", "deterministic": True, "checkpoint_every": 3, "seed": 5}
CASES: dict[str, dict[str, Any]] = {
    "vision": {
        "task": "vision/classification",
        "make": pictures,
        "options": {"size": "16", "augment": "flip"},
        "job": {"model": "vision/small-cnn", "epochs": 5, "bs": 8},
        "kills": 16,
    },
    "tabular": {
        "task": "tabular/classification",
        "make": table,
        "options": {"target": "paid", "epochs": 5, "bs": 16},
        "job": {"model": "tabular/mlp"},
        "kills": 14,
    },
    "ratings": {
        "task": "collab/ratings",
        "make": ratings,
        "options": {"engine": "torch", "factors": 8},
        "job": {"epochs": 3, "bs": 64},
        "kills": 8,
    },
    "language": {
        "task": "text/language-model",
        "make": lines,
        "options": {"width": 8, "hidden": 12, "seq_len": 8},
        "job": {"epochs": 3, "bs": 4},
        "kills": 5,
    },
    "texts": {
        "task": "text/classification",
        "make": reviews,
        "options": {},
        "job": {"epochs": 3, "bs": 16},
        "kills": 2,
    },
    "engine": {
        "task": "collab/ratings",
        "make": ratings,
        "options": {"engine": "numba", "factors": 8},
        "job": {"epochs": 6, "bs": 64},
        "kills": 6,
    },
    "als": {
        "task": "collab/ranking",
        "make": ratings,
        "options": {"epochs": "6", "factors": "8"},
        "job": {"model": "collab/als"},
        "kills": 4,
    },
    "ease": {
        "task": "collab/ranking",
        "make": ratings,
        "options": {},
        "job": {"model": "collab/ease"},
        "kills": 2,
    },
}


MASKS: dict[str, Any] = {
    "task": "segmentation/semantic",
    "make": masks,
    "options": {"size": "32", "augment": "flip", "epochs": 2, "bs": 4},
    "job": {},
    "kills": 4,
}


def history(run: Path) -> list[dict[str, str]]:
    with (run / "history.csv").open(encoding="utf-8") as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def test_killed_runs_end_in_the_same_bits(tmp_path: Path) -> None:
    """All in one process, which costs its imports once."""
    cases = {name: case for name, case in CASES.items() if case["kills"] * SHARE >= 1}
    assert "vision" in cases
    kill_and_compare(cases, tmp_path, SHARE)


@pytest.mark.long
def test_killed_runs_on_masks_end_in_the_same_bits(tmp_path: Path) -> None:
    """Masks that follow their pictures, batch norm within a decoder, and runs' folders with pictures of masks."""
    kill_and_compare({"masks": MASKS}, tmp_path, 1)


def kill_and_compare(chosen: dict[str, dict[str, Any]], folder: Path, share: float) -> None:
    """Have runs killed that often, times `share`, and compare them with one that was left alone."""
    cases = {}
    for name, case in chosen.items():
        (folder / name).mkdir()
        source = str(case["make"](folder / name))
        kills = math.ceil(case["kills"] * share)
        cases[name] = {**case, "make": None, "source": source, "job": SMALL | case["job"], "seed": 1, "kills": kills}
    command = [sys.executable, str(HERE / "killing.py"), json.dumps(cases), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=ENV)
    assert done.returncode == 0, done.stderr[-5000:]
    killed = json.loads(done.stdout.splitlines()[-1])
    assert killed.keys() == cases.keys()
    for name, runs in killed.items():
        assert sum(runs.values()) >= cases[name]["kills"]
        for run in runs:
            the_same(folder / name / run, folder / name / "whole")


def the_same(run: Path, whole: Path) -> None:
    assert (run / "model.graft").read_bytes() == (whole / "model.graft").read_bytes(), run
    assert history(run) == history(whole)
    assert {p.name for p in run.iterdir()} == {p.name for p in whole.iterdir()}
    assert not list(run.rglob("*.part"))
