"""Pictures of training: losses, and the learning-rate sweep. No pyplot: nothing global changes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["one_axes", "plot_losses", "plot_metrics", "plot_sweep", "smooth"]

NO_METRICS = ("epoch", "train_loss", "valid_loss", "seconds")


def one_axes(*, width: float = 6.4, height: float = 4.0) -> tuple[Figure, Axes]:
    """Return a figure with one pair of axes, in inches."""
    from graftwork.figure import new_figure

    figure = new_figure(width=width, height=height)
    return figure, figure.add_subplot()


def smooth(values: Sequence[float], beta: float = 0.98) -> np.ndarray[Any, Any]:
    """Return the exponential moving average, corrected for its start at zero (as Adam corrects its moments)."""
    averages, average = np.empty(len(values)), 0.0
    for i, value in enumerate(values):
        average = beta * average + (1 - beta) * value
        averages[i] = average / (1 - beta ** (i + 1))
    return averages


def plot_losses(
    losses: Sequence[float],
    epoch_ends: Sequence[int],
    valid: Sequence[float | None],
    learning_rates: Sequence[float] = (),
) -> Figure:
    """Draw the smoothed training loss over steps, the validation loss where each epoch ends, and the rates below."""
    from matplotlib.ticker import MaxNLocator

    from graftwork.figure import new_figure

    figure = new_figure(height=5.0 if learning_rates else 4.0)
    ratios = [3, 1] if learning_rates else [1]
    ax, *below = figure.subplots(len(ratios), sharex=True, height_ratios=ratios, squeeze=False)[:, 0]
    steps = np.arange(1, len(losses) + 1)
    ax.plot(steps, losses, color="C0", alpha=0.25, linewidth=0.8)
    # Over a twentieth of the steps, at most the fifty of fastai's 0.98.
    beta = 1 - 1 / min(50.0, max(1.0, len(losses) / 20))
    ax.plot(steps, smooth(losses, beta), color="C0", label="training (smoothed)")
    points = [(end, loss) for end, loss in zip(epoch_ends, valid, strict=True) if loss is not None]
    if points:
        ax.plot(*zip(*points, strict=True), "o-", color="C1", label="validation")
    ax.set_ylabel("loss")
    ax.legend(frameon=False)
    for lower in below:
        lower.plot(np.arange(1, len(learning_rates) + 1), learning_rates, color="C2")
        lower.set_ylabel("learning rate")
        lower.set_ylim(bottom=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    [ax, *below][-1].set_xlabel("step")
    return figure


def plot_metrics(history: Sequence[Mapping[str, float]], baselines: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw every metric over the epochs in a panel of its own, and what each baseline reaches as a dashed line."""
    from matplotlib.ticker import MaxNLocator

    from graftwork.figure import new_figure

    names = [name for name in history[-1] if name not in NO_METRICS] if history else []
    columns = min(3, max(1, len(names)))
    rows = max(1, math.ceil(len(names) / columns))
    figure = new_figure(width=max(6.4, 4.2 * columns), height=3.6 * rows)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax in panels:
        ax.set_visible(False)
    epochs = [line["epoch"] for line in history]
    for name, ax in zip(names, panels, strict=False):
        ax.set_visible(True)
        ax.plot(epochs, [line.get(name, math.nan) for line in history], "o-", color="C0", label="this model")
        for i, (label, metrics) in enumerate(baselines.items()):
            if name in metrics:
                ax.axhline(metrics[name], color=f"C{1 + i % 9}", linestyle="--", linewidth=1.2, label=label)
        ax.set_title(name, fontsize=10)
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if names:
        shown = panels[0].get_legend_handles_labels()
        figure.legend(*shown, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def plot_sweep(rates: Sequence[float], losses: Sequence[float], suggestions: Mapping[str, float]) -> Figure:
    """Draw the smoothed loss over the learning rate, and the suggested rates."""
    figure, ax = one_axes()
    ax.plot(rates, losses, color="C0")
    for i, (name, rate) in enumerate(suggestions.items()):
        ax.axvline(rate, color=f"C{i + 1}", linestyle="--", label=f"{name}: {rate:.2e}")
    ax.set_xscale("log")
    ax.set_xlabel("learning rate")
    ax.set_ylabel("loss (smoothed)")
    if suggestions:
        ax.legend(frameon=False)
    return figure
