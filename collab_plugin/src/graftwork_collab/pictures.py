"""Pictures of a model of ratings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from graftwork.api import DataLoaders, Learner, Predictions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_ratings", "rating_pictures"]

MAX_BOXES = 12


def rating_pictures(data: DataLoaders, learner: Learner) -> dict[str, Figure]:
    """Return the pictures of a run by file name: the losses, and predictions beside the ratings."""
    pictures = {"losses.png": learner.recorder.plot_losses()}
    if data.valid is not None:
        pictures["ratings.png"] = plot_ratings(learner.get_preds())
    return pictures


def plot_ratings(predictions: Predictions) -> Figure:
    """Draw, for each rating (or range of ratings), how the predictions are spread; on the line they would be right."""
    from graftwork.api import new_figure

    figure = new_figure(width=7, height=4.5)
    axes = figure.add_subplot()
    predicted, rated = predictions.activated.numpy(), predictions.targets
    actual = predicted if rated is None else rated.numpy()
    centres, groups = _grouped(actual, predicted)
    step = float(np.diff(centres).min()) if len(centres) > 1 else 1.0
    axes.boxplot(groups, positions=centres, widths=0.6 * step, showfliers=False, manage_ticks=False)
    axes.plot([centres[0], centres[-1]], [centres[0], centres[-1]], linewidth=1, linestyle="--", color="grey")
    axes.set_xlabel("rating")
    axes.set_ylabel("prediction")
    axes.set_title(f"{len(actual)} ratings held out")
    return figure


def _grouped(actual: np.ndarray, predicted: np.ndarray) -> tuple[list[float], list[np.ndarray]]:
    """Return the values of the ratings, or the middles of equal ranges of them, and the predictions of each."""
    values = np.unique(actual)
    if len(values) <= MAX_BOXES:
        return values.tolist(), [predicted[actual == value] for value in values]
    edges = np.linspace(actual.min(), actual.max(), MAX_BOXES + 1)
    place = np.clip(np.digitize(actual, edges) - 1, 0, MAX_BOXES - 1)
    found = [i for i in range(MAX_BOXES) if (place == i).any()]
    return [float((edges[i] + edges[i + 1]) / 2) for i in found], [predicted[place == i] for i in found]
