"""Figures that a notebook shows when they are returned. No pyplot: nothing global changes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

__all__ = ["add_legend", "new_figure"]

MOST_NAMED: Final = 20
MAX_LETTERS: Final = 18
LINE, LETTER, BESIDES = 0.19, 0.075, 0.45
"""Inches that a line of a legend is high, a letter wide, and a name's colour with the room around it wide."""


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


def add_legend(figure: Figure, colours: Sequence[tuple[str, str]], *, most: int = MOST_NAMED) -> None:
    """Write names beside their colours ("#rrggbb") below a figure, which grows by as much; of none, do nothing.

    Of more than `most` the first are named, and how many others there are is said.
    """
    if not colours:
        return
    shown, more = colours[:most], len(colours) - most
    names = [name if len(name) <= MAX_LETTERS else f"{name[: MAX_LETTERS - 1]}…" for name, _ in shown]
    patches = [Patch(facecolor=colour, edgecolor="none") for _, colour in shown]
    if more > 0:
        names.append(f"and {more} more")
        patches.append(Patch(facecolor="none", edgecolor="none"))
    width, height = figure.get_size_inches()
    columns = max(1, min(len(names), int(width / (BESIDES + LETTER * max(map(len, names))))))
    figure.set_size_inches(width, height + LINE * -(-len(names) // columns))
    figure.legend(
        patches, names, loc="outside lower center", ncols=columns, fontsize=8, frameon=False,
        handlelength=1.2, handleheight=0.9, columnspacing=1.0, labelspacing=0.3, borderaxespad=0.2,
    )  # fmt: skip
