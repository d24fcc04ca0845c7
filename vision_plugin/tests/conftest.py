"""Fixtures: pictures made here, in every form they come in, and the real data where it lies."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

Photo = Callable[..., Image.Image]


def gradient(height: int = 24, width: int = 32, seed: int = 0) -> Image.Image:
    """Make a smooth picture that JPEG keeps well: no two corners are alike."""
    down, right = np.mgrid[0:height, 0:width]
    red = 255 * right / max(width - 1, 1)
    green = 255 * down / max(height - 1, 1)
    blue = np.full_like(red, (40 * seed) % 256)
    return Image.fromarray(np.stack([red, green, blue], 2).astype(np.uint8))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Let tests share a machine: two teams of threads on the same cores wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture
def photo() -> Photo:
    return gradient


def class_folders(root: Path, classes: dict[str, int], *, size: tuple[int, int] = (16, 16)) -> Path:
    """Write a folder per class of pictures that a model can tell apart: each class has its own brightness."""
    rng = np.random.default_rng(0)
    for shade, (name, count) in enumerate(classes.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            noise = rng.integers(0, 40, (*size, 3))
            pixels = np.clip(60 + 100 * shade + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{name}_{i}.png")
    return root


@pytest.fixture
def make_classes() -> Callable[..., Path]:
    return class_folders


@pytest.fixture
def two_classes(tmp_path: Path) -> Path:
    """Folders `dark` and `light` of ten pictures each."""
    return class_folders(tmp_path / "pictures", {"dark": 10, "light": 10})


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the shared data sets, named by GRAFTWORK_DATA."""
    folder = os.environ.get("GRAFTWORK_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("GRAFTWORK_DATA names no folder with the shared data sets; generated data is tested beside this")
    return Path(folder)
