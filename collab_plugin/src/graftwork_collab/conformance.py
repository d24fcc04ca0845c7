"""What graftwork's conformance kit cannot guess: small ratings for the tasks."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Final

import numpy as np
import torch

from graftwork.testing import Examples, TaskExample

__all__ = ["EXAMPLES"]


def write_ratings(folder: Path) -> Path:
    """Write about 500 ratings of 30 items by 30 users: kind users, good items."""
    rng = np.random.default_rng(0)
    kind, good = rng.normal(0, 0.6, 30), rng.normal(0, 0.8, 30)
    path = folder / "ratings.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["userId", "movieId", "rating", "timestamp"])
        for user, item in np.argwhere(rng.random((30, 30)) < 0.55).tolist():
            rating = round(2 * float(np.clip(3 + kind[user] + good[item] + rng.normal(0, 0.2), 0.5, 5))) / 2
            rows.writerow([user + 1, item * 10 + 5, rating, 1_000_000_000 + int(rng.integers(10**6))])
    return path


def write_movielens(folder: Path) -> Path:
    """Write the ratings as MovieLens comes, with genres of the items."""
    write_ratings(folder)
    with (folder / "movies.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["movieId", "title", "genres"])
        rows.writerows([i * 10 + 5, f"Film {i} (19{i:02d})", "Drama|Comedy" if i % 3 else "Crime"] for i in range(30))
    return folder


EXAMPLES: Final = Examples(
    tasks=(
        TaskExample(task="collab/ratings", write=write_ratings, inputs=lambda source: ["1,15", "2,25"]),
        TaskExample(task="collab/ranking", write=write_ratings, inputs=lambda source: ["1", "2"]),
        TaskExample(task="collab/ratings", write=write_movielens, job={"model": "collab/towers"}),
        TaskExample(task="collab/ranking", write=write_ratings, job={"model": "collab/sasrec"}),
    ),
    metrics={"collab/coverage": {"num_items": 30}, "collab/mean_popularity": {"popularity": torch.arange(31.0)}},
    expected_failures={
        "block-show[collab/packed-features]": "codes tell nobody anything, so nothing is drawn",
        "block-target[collab/ranked-items]": "a ranking is activated to the codes of its first items, whole numbers",
        "block-steps[collab/items]": "RankingDataLoaders hands in the step, with the vocabulary of both item fields",
        "block-steps[collab/ranking]": "RankingDataLoaders hands in the step, with the vocabulary of both item fields",
        "metric-direction[collab/coverage]": "it tells how much of the catalogue is shown, whatever users like",
    },
)
