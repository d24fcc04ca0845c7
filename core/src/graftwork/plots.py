"""Pictures of training: losses, and the learning-rate sweep. No pyplot: nothing global changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["one_axes", "plot_losses", "plot_sweep", "smooth"]


def one_axes(*, width: float = 6.4, height: float = 4.0) -> tuple[Figure, Axes]:
    """Return a figure with one pair of axes, in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def smooth(values: Sequence[float], beta: float = 0.98) -> np.ndarray[Any, Any]:
    """Return the exponential moving average, corrected for its start at zero (as Adam corrects its moments)."""
    averages, average = np.empty(len(values)), 0.0
    for i, value in enumerate(values):
        average = beta * average + (1 - beta) * value
        averages[i] = average / (1 - beta ** (i + 1))
    return averages


def plot_losses(losses: Sequence[float], epoch_ends: Sequence[int], valid: Sequence[float | None]) -> Figure:
    """Draw the smoothed training loss over steps, and the validation loss where each epoch ends."""
    figure, ax = one_axes()
    steps = np.arange(1, len(losses) + 1)
    ax.plot(steps, losses, color="C0", alpha=0.25, linewidth=0.8)
    # Over a twentieth of the steps, at most the fifty of fastai's 0.98.
    beta = 1 - 1 / min(50.0, max(1.0, len(losses) / 20))
    ax.plot(steps, smooth(losses, beta), color="C0", label="training (smoothed)")
    points = [(end, loss) for end, loss in zip(epoch_ends, valid, strict=True) if loss is not None]
    if points:
        ax.plot(*zip(*points, strict=True), "o-", color="C1", label="validation")
    ax.set_xlabel("step")
    ax.set_ylabel("loss")
    ax.legend(frameon=False)
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
