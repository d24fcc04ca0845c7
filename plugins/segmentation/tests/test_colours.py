"""Legends of masks: the classes that occur, in the colours they are drawn in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from PIL import Image

from graftwork.api import Learner, add_legend, new_figure
from graftwork_segmentation import MaskTensorBlock, SegmentationDataLoaders, SegmentationInterpretation
from graftwork_segmentation.blocks import VOID
from graftwork_segmentation.colours import colours


def named(figure: Figure) -> dict[str, str]:
    """Return what a figure's legend says: names and colours."""
    if not figure.legends:
        return {}
    (legend,) = figure.legends
    patches = zip(legend.get_texts(), legend.get_patches(), strict=True)
    return {text.get_text(): to_hex(patch.get_facecolor()) for text, patch in patches}


def test_show_batch_names_the_classes_that_occur_and_no_others(source: Path) -> None:
    for path in (source / "labels").iterdir():
        mask = np.zeros((32, 32), np.uint8)
        mask[:4] = 2
        Image.fromarray(mask).save(path)
    data = SegmentationDataLoaders.from_folder(source, size=32, bs=4, workers=0)
    figure = data.show_batch()
    assert list(named(figure)) == ["background", "disc"]  # there is no square; the largest comes first
    # The legend lies below the pictures, on room of its own.
    figure.canvas.draw()
    top = figure.legends[0].get_window_extent().y1
    assert all(ax.get_window_extent().y0 > top for ax in figure.axes)


def test_results_and_triptychs_name_targets_and_predictions(source: Path, learner: Callable[..., Learner]) -> None:
    learn = learner(source, size=32, ignore="background")
    looked = SegmentationInterpretation.from_learner(learn)
    for figure in (learn.show_results(max_n=2), looked.plot_top_losses(2)):
        assert {"square", "disc"} >= set(named(figure)) > set()
    assert named(learn.data.show_batch()).keys() == {"square", "disc"}


def test_a_mask_is_painted_in_the_colours_of_its_legend() -> None:
    block = MaskTensorBlock(tuple(map(str, range(70))))
    mask = torch.tensor([[0, 25, 25], [59, 25, VOID]])
    ax = new_figure().add_subplot()
    block.show(mask, ax)
    painted = np.asarray(ax.images[0].get_array())
    legend = dict(block.legend([mask]))
    assert list(legend) == ["25", "0", "59"]
    for row, column in ((0, 0), (0, 1), (1, 0)):
        assert to_rgb(legend[str(int(mask[row, column]))]) == pytest.approx(painted[row, column, :3], abs=1 / 255)
        assert 0 < painted[row, column, 3] < 1
    assert painted[1, 2, 3] == 0
    assert len(np.unique(colours(), axis=0)) == 60
    assert block.legend([torch.full((2, 2), VOID)]) == []


def test_twenty_names_are_written_and_the_others_counted() -> None:
    figure = new_figure()
    height = figure.get_size_inches()[1]
    add_legend(figure, [(f"class {i}", "#336699") for i in range(23)])
    names = list(named(figure))
    assert names == [*(f"class {i}" for i in range(20)), "and 3 more"]
    assert figure.get_size_inches()[1] > height
    figure = new_figure()
    add_legend(figure, [("a name that nobody would want to read", "#336699")])
    assert list(named(figure)) == ["a name that nobod…"]
    add_legend(empty := new_figure(), [])
    assert not empty.legends
    assert empty.get_size_inches()[1] == height
