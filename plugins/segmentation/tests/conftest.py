"""Fixtures: a folder of pictures with masks, and a small learner on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from graftwork.api import Learner
from graftwork_segmentation import SegmentationDataLoaders, unet_learner
from graftwork_segmentation.conformance import write_squares

SMALL = {"widths": (16, 8, 8, 8)}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Let tests share a machine: two teams of threads on the same cores wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Twelve pictures of 32x32 with masks of three classes."""
    return write_squares(tmp_path / "source", count=12)


@pytest.fixture
def learner() -> Callable[..., Learner]:
    """Make an untrained learner of a folder's pictures; options are those of the data."""

    def make(folder: Path, **options: object) -> Learner:
        data = SegmentationDataLoaders.from_folder(folder, bs=4, workers=0, **options)
        return unet_learner(data, weights=None, options=SMALL, progress=False)

    return make
