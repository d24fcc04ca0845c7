"""The same bits from the same seed: whoever loads the pictures, and wherever training was broken off."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from graftwork import Checkpointer
from graftwork.api import Callback, Learner, Runtime, TrainState
from graftwork_vision import Flip, ImageDataLoaders, RandomResizedCrop, vision_learner

fork = pytest.mark.skipif(sys.platform != "linux", reason="forked workers are for Linux")


def learner(folder: Path, workers: int = 0, worker_type: str = "thread", *callbacks: Callback) -> Learner:
    data = ImageDataLoaders.from_folder(
        folder, bs=4, item_tfms=RandomResizedCrop(16), batch_tfms=Flip(), workers=workers,
        worker_type=worker_type,
    )  # fmt: skip
    runtime = Runtime(device="cpu", deterministic=True)
    return vision_learner(data, "small-cnn", weights=None, runtime=runtime, progress=False, callbacks=callbacks)


def losses(learn: Learner) -> list[float]:
    with warnings.catch_warnings():
        # Later Pythons say that forking is a risk where threads run, as pytest's do; torch, that there are few cores.
        warnings.simplefilter("ignore")
        return learn.fit_one_cycle(2, 0.01).recorder.losses


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """Train without workers; there are eight steps."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("pictures")
    for shade, name in enumerate(("dark", "light")):
        (folder / name).mkdir()
        for i in range(10):
            pixels = rng.integers(0, 90, (24, 20, 3)) + 9 * i + 70 * shade
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder, losses(learner(folder))


@pytest.mark.parametrize(
    ("workers", "worker_type"),
    [
        (0, "thread"),
        (2, "thread"),
        (4, "thread"),
        pytest.param(2, "fork", marks=fork),
        pytest.param(4, "fork", marks=fork),
        pytest.param(2, "process", marks=pytest.mark.slow),
    ],
)
def test_losses_do_not_depend_on_who_loads(workers: int, worker_type: str, expected: tuple[Path, list[float]]) -> None:
    folder, whole = expected
    assert len(whole) == 8
    assert losses(learner(folder, workers, worker_type)) == whole


class StopAt(Callback):
    """Raise after so many steps."""

    order = -950

    def __init__(self, step: int) -> None:
        self.step = step

    def batch_end(self, state: TrainState) -> None:
        if state.phase == "train" and state.step == self.step:
            raise InterruptedError


@pytest.mark.parametrize("step", [1, 5])
def test_channels_last_training_goes_on_to_the_same_bits(
    step: int, tmp_path: Path, expected: tuple[Path, list[float]]
) -> None:
    """Fused AdamW walks weights and moments side by side in memory, so both must come back in one format."""
    folder, whole = expected
    stopped = learner(folder, 0, "thread", Checkpointer(tmp_path, every_steps=1), StopAt(step))
    with pytest.raises(InterruptedError):
        stopped.fit_one_cycle(2, 0.01)
    again = learner(folder).resume(tmp_path)
    assert any(p.is_contiguous(memory_format=torch.channels_last) for p in again.module.parameters() if p.ndim == 4)
    assert again.recorder.losses == whole
