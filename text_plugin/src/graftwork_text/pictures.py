"""Pictures of what a model of texts has learned, and its worst errors as text one can read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graftwork import ClassificationInterpretation, Interpretation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from graftwork.api import DataLoaders, Learner

__all__ = ["class_pictures", "top_losses"]


def top_losses(learner: Learner, k: int = 5, *, width: int = 100, length: int = 600) -> str:
    """Return the validation texts that are told worst, with what was said and what is so."""
    from textwrap import fill

    data = learner.data
    if data.valid is None:
        return "nothing was held out"
    parts = []
    for record in Interpretation.from_learner(learner).top_losses(k):
        sure = "" if record.probability is None else f" ({record.probability:.0%})"
        text = str(data.valid.item(record.index))
        text = text if len(text) <= length else text[:length] + "…"
        parts.append(f"loss {record.loss:.2f}: said {record.predicted}{sure}, is {record.actual}\n{fill(text, width)}")
    return "\n\n".join(parts)


def class_pictures(data: DataLoaders, learner: Learner) -> dict[str, Figure]:
    """Draw the losses, and how classes are confused."""
    figures = {"losses.png": learner.recorder.plot_losses()}
    if data.valid is not None:
        matrix = ClassificationInterpretation.from_learner(learner).plot_confusion_matrix()
        figures["confusion.png"] = matrix
    return figures
