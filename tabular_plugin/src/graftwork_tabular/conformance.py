"""What graftwork's conformance kit cannot guess: a small table for the tasks."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Final

import numpy as np

from graftwork.testing import Examples, TaskExample

__all__ = ["EXAMPLES"]

_COLOURS: Final = ("red", "green", "blue")


def write_table(folder: Path) -> Path:
    """Write 120 rows of a category and two numbers, one of them missing at times, which decide a class and a number."""
    rng = np.random.default_rng(0)
    path = folder / "table.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["colour", "width", "height", "kind", "price"])
        for number in range(120):
            colour, width, height = number % 3, float(rng.normal()), float(rng.normal())
            price = colour + 2 * width + rng.normal(0, 0.1)
            shown = "" if number % 10 == 4 else f"{height:.3f}"
            rows.writerow([_COLOURS[colour], f"{width:.3f}", shown, "dear" if price > 1 else "cheap", f"{price:.3f}"])
    return path


EXAMPLES: Final = Examples(
    tasks=(
        TaskExample(
            task="tabular/classification",
            write=write_table,
            inputs=lambda source: [str(source)],
            options={"target": "kind"},
        ),
        TaskExample(
            task="tabular/regression",
            write=write_table,
            inputs=lambda source: [str(source)],
            options={"target": "price"},
        ),
    ),
    expected_failures={
        "block-steps[tabular/row]": "a row is packed last, after the procs that are put in between",
    },
)
