"""Pictures of any size: windows cover them, and a mask has its picture's size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from graftwork.api import ItemError, Learner, OptionError
from graftwork_segmentation import SegmentationDataLoaders, predict_mask
from graftwork_segmentation.windows import places
from graftwork_vision import RandomResizedCrop, Resize


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 80), st.floats(0, 0.9))
def test_windows_cover_everything_and_overlap_enough(length: int, window: int, overlap: float) -> None:
    found = places(length, window, overlap)
    if window >= length:
        assert found == [0]
        return
    assert found[0] == 0
    assert found[-1] == length - window
    steps = np.diff(found)
    assert (steps > 0).all()
    assert steps.max() <= max(1, int(window * (1 - overlap))) + 1


class Bright(nn.Module):
    """Tell each pixel's class from its red alone, so that no window sees anything another does not."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([-x[:, 0], x[:, 0], x[:, 0] * 0 - 9], 1) * self.scale


def halves(height: int, width: int) -> Image.Image:
    """Draw a picture that is dark on the left and light on the right."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[:, width // 2 :] = 255
    return Image.fromarray(pixels)


def bright(source: Path, **options: Any) -> Learner:
    data = SegmentationDataLoaders.from_folder(source, bs=4, workers=0, cache="none", **options)
    return Learner(data, Bright(), progress=False)


@pytest.mark.parametrize(
    "options",
    [
        {"size": 32},
        {"size": (16, 24), "resize": "crop"},
        {"size": (16, 24), "resize": "pad"},
        {"item_tfms": [RandomResizedCrop(32)]},
        {},
    ],
    ids=["squish", "crop", "pad", "random", "as they are"],
)
def test_a_mask_has_its_pictures_size_however_the_data_resizes(source: Path, options: dict[str, Any]) -> None:
    learn = bright(source, **options)
    for size in ((40, 90), (33, 20), (7, 64)):
        said = learn.predict(halves(*size))
        assert said.value.shape == size
        assert said.value.dtype == np.uint8
        wrong = said.value != (np.arange(size[1]) >= size[1] // 2)
        assert wrong.mean() < 0.06, "only the edge between the halves is blurred by scaling"
        assert sum(said.probabilities.values()) == pytest.approx(1)


def test_windows_give_what_the_whole_picture_gives(source: Path) -> None:
    learn, picture = bright(source), halves(50, 70)
    whole = learn.predict(picture)
    for window, overlap in ((16, 0.25), ((20, 33), 0.0), (200, 0.5)):
        said = predict_mask(learn, picture, window=window, overlap=overlap)
        assert (said.value == whole.value).all()
        assert torch.allclose(said.raw, whole.raw, atol=1e-5)


def test_a_network_predicts_as_it_does_in_a_batch(source: Path, learner: Callable[..., Learner]) -> None:
    learn = learner(source, size=32)
    batch = learn.feed.ready(next(iter(learn.data.valid.in_order())))
    with torch.no_grad():
        learn.module.eval()
        raw = learn.feed.forward(batch)
        learn.module.train()
    said = learn.predict(learn.data.valid.item(0).image)
    assert torch.allclose(said.raw, learn.data.plan.target.activate(raw)[0], atol=1e-2)
    assert learn.module.training, "predicting leaves the mode as it was"


def test_values_of_mask_files_come_back(tmp_path: Path) -> None:
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for number in range(4):
        halves(8, 8).save(tmp_path / "images" / f"{number}.png")
        Image.fromarray(np.asarray(halves(8, 8))[..., 0]).save(tmp_path / "labels" / f"{number}.png")
    data = SegmentationDataLoaders.from_folder(tmp_path, bs=2, workers=0)
    assert data.plan.target.values == (0, 255)

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(1.0))

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([-x[:, 0], x[:, 0]], 1) * self.scale

    said = Learner(data, Two(), progress=False).predict(halves(8, 8))
    assert np.unique(said.value).tolist() == [0, 255]


def test_what_cannot_be_predicted_is_said(source: Path, tmp_path: Path) -> None:
    learn = bright(source, item_tfms=[Resize(32)])
    with pytest.raises(ItemError, match=r"absent\.png"):
        learn.predict(tmp_path / "absent.png")
    for options in ({"overlap": 1.0}, {"overlap": -0.1}, {"window": 0}):
        with pytest.raises(OptionError):
            predict_mask(learn, halves(8, 8), **options)
