"""Training that was broken off in the middle of an epoch goes on to the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from graftwork import Checkpointer
from graftwork.api import Callback, Learner, Runtime, TrainState
from graftwork_segmentation import SegmentationDataLoaders, unet_learner
from graftwork_vision import aug_transforms

EPOCHS, STEPS = 2, 3  # of three batches: twelve pictures, of which ten train


class StopAt(Callback):
    """Raise after so many steps."""

    order = -950

    def __init__(self, step: int) -> None:
        self.step = step

    def batch_end(self, state: TrainState) -> None:
        if state.phase == "train" and state.step == self.step:
            raise InterruptedError


def learner(folder: Path, *callbacks: Callback) -> Learner:
    data = SegmentationDataLoaders.from_folder(folder, size=32, bs=4, workers=0, batch_tfms=aug_transforms())
    runtime = Runtime(device="cpu", deterministic=True)
    return unet_learner(data, "shufflenet_v2_x0_5", weights=None, runtime=runtime, callbacks=callbacks, progress=False)


def test_a_run_stopped_within_an_epoch_ends_in_the_same_model(tmp_path: Path, source: Path) -> None:
    step = STEPS + 1
    whole = learner(source).fit_one_cycle(EPOCHS, 0.01)
    assert len(whole.recorder.losses) == EPOCHS * STEPS
    stopped = learner(source, Checkpointer(tmp_path / "kept", every_steps=step), StopAt(step))
    with pytest.raises(InterruptedError):
        stopped.fit_one_cycle(EPOCHS, 0.01)
    again = learner(source).resume(tmp_path / "kept")
    assert again.recorder.losses == whole.recorder.losses
    assert [{k: v for k, v in line.items() if k != "seconds"} for line in again.history] == [
        {k: v for k, v in line.items() if k != "seconds"} for line in whole.history
    ]
    expected, found = whole.module.state_dict(), again.module.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    # It is not so because nothing was learned.
    fresh = learner(source).module.state_dict()
    assert any(not torch.equal(fresh[name], value) for name, value in expected.items())
