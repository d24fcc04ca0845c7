"""Fixtures: ratings made here, as a frame and as MovieLens writes them, and the real data where it lies."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

NUM_USERS, NUM_ITEMS = 40, 60


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Let tests share a machine: two teams of threads on the same cores wait for each other."""
    torch.set_num_threads(1)


def made_ratings(num_users: int = NUM_USERS, num_items: int = NUM_ITEMS, share: float = 0.5) -> pd.DataFrame:
    """Invent ratings from 0.5 to 5 in half steps: kind users, good items, and one taste that divides both."""
    rng = np.random.default_rng(0)
    kind, good = rng.normal(0, 0.6, num_users), rng.normal(0, 0.8, num_items)
    taste = np.outer(rng.choice([-1, 1], num_users), rng.choice([-1, 1], num_items)) * 0.8
    user, item = np.nonzero(rng.random((num_users, num_items)) < share)
    score = 3 + kind[user] + good[item] + taste[user, item] + rng.normal(0, 0.2, len(user))
    rating = (np.round(score * 2) / 2).clip(0.5, 5)
    when = 1_000_000_000 + rng.permutation(len(user)) * 60
    frame = pd.DataFrame({"userId": user + 1, "movieId": item * 10 + 5, "rating": rating, "timestamp": when})
    return frame.sample(frac=1, random_state=0, ignore_index=True)


@pytest.fixture(scope="session")
def ratings() -> pd.DataFrame:
    """Give about 1,200 ratings of 40 users (1 … 40) and 60 items (5, 15, …, 595)."""
    return made_ratings()


@pytest.fixture
def movielens(tmp_path: Path, ratings: pd.DataFrame) -> Path:
    """Lay ratings out as ml-latest-small has them; two films share a title."""
    folder = tmp_path / "ml"
    folder.mkdir()
    ratings.to_csv(folder / "ratings.csv", index=False)
    ids = sorted(ratings.movieId.unique())
    titles = [f"Film, The {i} (19{i % 100:02d})" for i in ids]
    titles[1] = titles[0]
    pd.DataFrame({"movieId": ids, "title": titles, "genres": "Drama|Comedy"}).to_csv(folder / "movies.csv", index=False)
    return folder


@pytest.fixture(scope="session")
def real_movielens() -> Path:
    """Find ml-latest-small below GRAFTWORK_DATA; skip where it is not."""
    folder = Path(os.environ.get("GRAFTWORK_DATA", "nowhere")) / "movielens"
    if not folder.is_dir():
        pytest.skip("GRAFTWORK_DATA does not lead to MovieLens")
    return folder
