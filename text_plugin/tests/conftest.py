"""What all tests of texts share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Let tests share a machine: two teams of threads on the same cores wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def imdb() -> Path:
    """Find the reviews below GRAFTWORK_DATA; skip where they are not."""
    path = Path(os.environ.get("GRAFTWORK_DATA", "nowhere")) / "imdb" / "reviews.csv.gz"
    if not path.is_file():
        pytest.skip("GRAFTWORK_DATA does not lead to the reviews")
    return path
