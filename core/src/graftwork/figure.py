"""Figures that a notebook shows when they are returned. No pyplot: nothing global changes."""

from __future__ import annotations

import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

__all__ = ["new_figure"]


class _Shown(Figure):
    """Show itself in a notebook: IPython knows matplotlib's own figures only where pyplot has been imported."""

    def _repr_png_(self) -> bytes:
        png = io.BytesIO()
        self.savefig(png, format="png", dpi=110)
        return png.getvalue()


def new_figure(*, width: float = 6.4, height: float = 4.0) -> Figure:
    """Return an empty figure, in inches, which lays itself out and which a notebook shows."""
    figure = _Shown(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
