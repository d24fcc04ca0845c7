from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graftwork.api import new_figure
from graftwork.plots import plot_losses, plot_metrics, plot_sweep, smooth
from graftwork.run import write_picture

PNG = b"\x89PNG\r\n\x1a\n"
HISTORY = [
    {"epoch": 1, "train_loss": 2.0, "valid_loss": 1.5, "accuracy": 0.5, "f1": 0.4, "seconds": 1.0},
    {"epoch": 2, "train_loss": 1.0, "valid_loss": 1.2, "accuracy": 0.7, "f1": float("nan"), "seconds": 1.0},
]


def test_the_learning_rate_has_a_panel_of_its_own() -> None:
    rates = [0.1, 0.2, 0.3, 0.2]
    figure = plot_losses([4.0, 3.0, 2.0, 1.0], [2, 4], [3.5, None], rates)
    losses, below = figure.axes
    assert losses.lines[0].get_ydata().tolist() == [4.0, 3.0, 2.0, 1.0]
    assert losses.lines[2].get_xydata().tolist() == [[2.0, 3.5]]
    assert below.lines[0].get_ydata().tolist() == rates
    assert below.get_xlabel() == "step"
    assert len(plot_losses([1.0], [1], [None]).axes) == 1


def test_metrics_have_a_panel_each_and_a_dashed_line_for_every_baseline() -> None:
    figure = plot_metrics(HISTORY, {"core/majority": {"accuracy": 0.3, "f1": 0.1}, "other": {"accuracy": 0.6}})
    panels = {ax.get_title(): ax for ax in figure.axes if ax.get_visible()}
    assert list(panels) == ["accuracy", "f1"]
    model, *baselines = panels["accuracy"].lines
    assert model.get_xydata().tolist() == [[1.0, 0.5], [2.0, 0.7]]
    assert [(line.get_ydata()[0], line.get_linestyle()) for line in baselines] == [(0.3, "--"), (0.6, "--")]
    assert len(panels["f1"].lines) == 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["this model", "core/majority", "other"]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7])
def test_any_number_of_metrics_can_be_drawn(count: int) -> None:
    history = [{"epoch": 1, "train_loss": 1.0, **{f"m{i}": float(i) for i in range(count)}}]
    figure = plot_metrics(history, {})
    assert sum(ax.get_visible() for ax in figure.axes) == count
    assert figure._repr_png_().startswith(PNG)
    assert plot_metrics([], {})._repr_png_().startswith(PNG)


def test_a_sweep_shows_its_suggestions() -> None:
    (ax,) = plot_sweep([1e-3, 1e-2, 1e-1], [3.0, 2.0, 1.0], {"valley": 1e-2}).axes
    assert ax.get_xscale() == "log"
    assert [line.get_xdata()[0] for line in ax.lines] == [1e-3, 1e-2]


def test_a_figure_shows_itself_and_is_saved(tmp_path: Path) -> None:
    figure = new_figure(width=3, height=2)
    figure.add_subplot().plot([1, 2])
    assert figure._repr_png_().startswith(PNG)
    with Image.open(write_picture(tmp_path / "a.png", figure)) as image:
        assert image.size == (330, 220)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_drawing_imports_no_pyplot() -> None:
    code = (
        "import sys; from graftwork.plots import plot_metrics; plot_metrics([{'epoch': 1, 'a': 1.0}], {})._repr_png_();"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_smoothing_starts_at_the_first_value_and_keeps_a_constant() -> None:
    assert smooth([3.0, 3.0, 3.0]).tolist() == pytest.approx([3.0] * 3)
    assert smooth([1.0, 2.0], beta=0.5).tolist() == pytest.approx([1.0, 5 / 3])
    assert isinstance(smooth([]), np.ndarray)
