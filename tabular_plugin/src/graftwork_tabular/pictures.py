"""Pictures of tables: the first rows, predictions beside targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from graftwork import ClassificationInterpretation
from graftwork.api import ClassIndexBlock, ColumnLoader

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from graftwork.api import DataLoaders, Learner, Loader

__all__ = ["draw_rows", "plot_predictions", "run_pictures"]

MAX_COLUMNS = 12
MAX_POINTS = 5000


def draw_rows(rows: Sequence[Mapping[str, Any]], *, title: str = "") -> Figure:
    """Draw rows as a table; of many columns the first ones and the last."""
    names = list(rows[0])
    if len(names) > MAX_COLUMNS:
        names = [*names[: MAX_COLUMNS - 1], names[-1]]
    from graftwork.api import new_figure

    figure = new_figure(width=1.15 * len(names) + 0.5, height=0.27 * len(rows) + 0.9)
    ax = figure.add_subplot()
    ax.set_axis_off()
    ax.set_title(title, fontsize=9)
    cells = [[_cell(row[name]) for name in names] for row in rows]
    table = ax.table(cells, colLabels=[_cell(name) for name in names], loc="center")
    table.auto_set_font_size(False)
    table.set_fontsize(7)
    return figure


def _cell(value: Any) -> str:
    if value is None:
        return "(missing)"
    text = f"{value:.5g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 16 else text[:15] + "…"


def _source_rows(loader: Loader, count: int) -> list[Mapping[str, Any]]:
    positions = loader.positions if isinstance(loader, ColumnLoader) else range(loader.num_items)
    return [loader.item(int(position)) for position in positions[:count]]


def plot_predictions(learner: Learner, loader: Loader) -> Figure:
    """Draw predicted over actual numbers of a loader's rows, one square per output."""
    said = learner.get_preds(loader)
    assert said.targets is not None
    predicted, actual = said.activated.numpy(), said.targets.numpy()
    outputs = 1 if predicted.ndim == 1 else predicted.shape[1]
    from graftwork.api import new_figure

    figure = new_figure(width=3.6 * outputs, height=3.6)
    every = max(1, len(predicted) // MAX_POINTS)
    for i in range(outputs):
        x, y = (values.reshape(len(values), -1)[::every, i] for values in (actual, predicted))
        ax = figure.add_subplot(1, outputs, i + 1)
        ax.scatter(x, y, s=4, alpha=0.4, linewidths=0)
        ends = [float(np.min([x, y])), float(np.max([x, y]))]
        ax.plot(ends, ends, color="0.5", linewidth=0.8)
        ax.set_xlabel("actual", fontsize=8)
        ax.set_ylabel("predicted", fontsize=8)
    return figure


def run_pictures(data: DataLoaders, learner: Learner) -> dict[str, Figure]:
    """Draw what a run folder holds: the first rows, the losses, the errors, and which columns matter."""
    figures = {
        "batch.png": draw_rows(_source_rows(data.train, 9), title="the first rows of the training split"),
        "losses.png": learner.recorder.plot_losses(),
    }
    if data.valid is None:
        return figures
    if isinstance(data.plan.target, ClassIndexBlock):
        found = ClassificationInterpretation.from_learner(learner)
        figures["confusion.png"] = found.plot_confusion_matrix()
        worst = [{"actual": t.actual, "predicted": t.predicted, "loss": t.loss, **t.item} for t in found.top_losses(9)]
        figures["top_losses.png"] = draw_rows(worst, title="the rows with the highest loss")
    else:
        figures["results.png"] = plot_predictions(learner, data.valid)
    return figures
