"""Look at what a classifier gets wrong: confusion matrix, report per class, the items with the highest loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import torch

from graftwork.block import Block, ClassIndexBlock, TargetBlock
from graftwork.dataloader import Loader
from graftwork.errors import DataError, OptionError, PlanError
from graftwork.prediction import Predictions
from graftwork.rows import fields_at
from graftwork.show import decoded_samples

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from graftwork.datablock import DataLoaders
    from graftwork.learner import Learner

__all__ = ["ClassReport", "ClassificationInterpretation", "Interpretation", "Report", "TopLoss", "run_pictures"]

MAX_LABELLED: Final = 60
"""Classes beyond which a matrix carries no names: they could not be read."""
MAX_NUMBERED: Final = 40
"""Classes beyond which a matrix carries no numbers."""
_HEADING: Final = "predicted / actual\nloss · probability of the prediction"
MAX_NAME: Final = 18
"""Letters of a class's name in pictures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopLoss:
    """Hold one item with its loss; `probability` is the predicted class's."""

    index: int
    item: Any
    loss: float
    predicted: Any
    actual: Any
    probability: float | None


class Interpretation:
    """Hold what a model says about a loader's items, and how wrong it is on each."""

    def __init__(self, predictions: Predictions, loader: Loader) -> None:
        """Take predictions made on `loader`; raise DataError if it has no targets, PlanError if it has several."""
        block = loader.plan.target
        if predictions.targets is None or predictions.losses is None:
            raise DataError("these items have no targets, so there is nothing to compare predictions with")
        self.predictions, self.loader, self.block = predictions, loader, block
        self.activated, self.targets, self.losses = predictions.activated, predictions.targets, predictions.losses

    @classmethod
    def from_learner(cls, learn: Learner, loader: Loader | None = None) -> Self:
        """Predict a loader's items, by default those of the validation split."""
        loader = learn.data.valid if loader is None else loader
        if loader is None:
            raise DataError("nothing was held out for validation; pass a loader with targets")
        loader = loader.in_order()
        return cls(learn.get_preds(loader), loader)

    def __len__(self) -> int:
        """Count the items."""
        return len(self.predictions)

    def top_losses(self, k: int | None = None, *, largest: bool = True) -> list[TopLoss]:
        """Return the `k` items with the largest, or smallest, loss; all of them by default."""
        order = self.losses.argsort(descending=largest, stable=True)[:k].tolist()
        if not order:
            return []
        predicted = self._decoded(self.block.predict(self.activated[order]))
        actual = self._decoded(self.targets[order])
        return [self._record(row, *values) for row, *values in zip(order, predicted, actual, strict=True)]

    def _decoded(self, column: torch.Tensor) -> list[Any]:
        if self.block.scaled:
            return self.block.uncollate(column)  # predictions are in the target's own units already
        values, _ = self.loader.plan.decode_batch(self.loader.plan.targets[0], column)
        return values

    def _record(self, row: int, predicted: Any, actual: Any) -> TopLoss:
        index = int(self.predictions.index[row])
        return TopLoss(
            index=index,
            item=self.loader.item(index),
            loss=float(self.losses[row]),
            predicted=predicted,
            actual=actual,
            probability=_probability(self.block, self.activated[row]),
        )

    def plot_top_losses(self, k: int = 9, *, largest: bool = True) -> Figure:
        """Draw the inputs of the `k` items with the largest, or smallest, loss.

        A target that lies in the input is drawn on it, and the prediction too.
        """
        from graftwork.show import grid

        top, within = self.top_losses(k, largest=largest), self._within()
        figure, axes = grid(len(top), size=2.4)
        heading = "the target, then the prediction\nloss" if within else _HEADING
        figure.suptitle(heading, fontsize=10)
        for ax, record, sample in zip(axes, top, self.inputs([record.index for record in top]), strict=True):
            for value, block in sample.values():
                block.show(value, ax)
            if within is not None:
                within.show(record.actual, ax)
                within.show(record.predicted, ax)
                ax.set_title(f"{record.loss:.3g}", fontsize=9)
                continue
            right = record.predicted == record.actual
            ax.set_title(_caption(record, ax.get_title()), fontsize=9, color="black" if right else "firebrick")
        return figure

    def _within(self) -> Block | None:
        """Return the block that decoded values are of, if they lie in the input."""
        plan, name = self.loader.plan, self.loader.plan.targets[0]
        return plan.decode_batch(name, self.targets[:1])[1] if name in plan.probes else None

    def inputs(self, positions: Sequence[int]) -> list[dict[str, Any]]:
        """Return the inputs at the loader's positions, read again: {field: (value, block)}, as far as they decode."""
        plan = self.loader.plan
        fields = {name: c for name, c in fields_at(self.loader, positions).items() if name in plan.inputs}
        return list(decoded_samples(plan, plan.encode_batch(fields)))


def _probability(block: TargetBlock, row: torch.Tensor) -> float | None:
    return float(row.max()) if isinstance(block, ClassIndexBlock) else None


def _caption(record: TopLoss, own: str) -> str:
    verdict = f"{_short(record.predicted)} / {_short(record.actual)}"
    figures = f"{record.loss:.2f}" + ("" if record.probability is None else f" · {record.probability:.2f}")
    return "\n".join(filter(None, (own, verdict, figures)))


def _short(value: object) -> str:
    """Keep both ends of a long name: what tells names apart often stands at the end."""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    half = MAX_NAME // 2
    return text if len(text) <= MAX_NAME else f"{text[: half - 1]}…{text[-half:]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassReport:
    """Hold one class's figures; one that cannot be computed, since its divisor is 0, is 0."""

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Hold the figures of every class, their mean, and their mean weighted by support; `str` gives a table."""

    classes: dict[str, ClassReport]
    macro: ClassReport
    weighted: ClassReport
    accuracy: float

    def __str__(self) -> str:
        """Lay the figures out."""
        rows = [*self.classes.items(), ("mean", self.macro), ("weighted mean", self.weighted)]
        width = max(len(name) for name, _ in rows)
        lines = [f"{'':<{width}}  precision  recall      f1  support"]
        lines += [f"{n:<{width}}  {r.precision:>9.4f}  {r.recall:.4f}  {r.f1:.4f}  {r.support:>7,}" for n, r in rows]
        return "\n".join([*lines, f"accuracy {self.accuracy:.4f}"])


class ClassificationInterpretation(Interpretation):
    """Interpret a classifier of one label per item."""

    def __init__(self, predictions: Predictions, loader: Loader) -> None:
        """Take predictions made on `loader`; raise PlanError if the target is not one class per item."""
        super().__init__(predictions, loader)
        if not isinstance(self.block, ClassIndexBlock) or self.targets.ndim != 1:
            raise PlanError(f"this needs one class per item, and the target is {self.block!r}; use Interpretation")
        self.vocab = tuple(map(str, self.block.vocab))
        self.predicted = self.block.predict(self.activated)

    def confusion_matrix(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Count items, (classes, classes): rows are actual, columns predicted, in the vocabulary's order."""
        size = len(self.vocab)
        cells = torch.bincount(self.targets * size + self.predicted, minlength=size * size)
        return cells.reshape(size, size).numpy()

    def most_confused(self, min_val: int = 1) -> list[tuple[str, str, int]]:
        """List (actual, predicted, count) where they differ at least `min_val` times, the most frequent first."""
        if min_val < 1:
            raise OptionError(f"min_val={min_val}: a confusion happens at least once")
        counts = self.confusion_matrix()
        np.fill_diagonal(counts, 0)
        order = np.argsort(-counts, axis=None, kind="stable")
        pairs = (np.unravel_index(cell, counts.shape) for cell in order)
        return [(self.vocab[a], self.vocab[p], int(counts[a, p])) for a, p in pairs if counts[a, p] >= min_val]

    def report(self) -> Report:
        """Return precision, recall, f1 and support of every class."""
        counts = self.confusion_matrix()
        right, support, claimed = counts.diagonal(), counts.sum(1), counts.sum(0)
        figures = np.stack([_ratio(right, claimed), _ratio(right, support), _ratio(2 * right, claimed + support)], 1)
        rows = [_class_report(row, n) for row, n in zip(figures, support, strict=True)]
        total = int(support.sum())
        return Report(
            classes=dict(zip(self.vocab, rows, strict=True)),
            macro=_class_report(figures.mean(0), total),
            weighted=_class_report(np.average(figures, axis=0, weights=support), total),
            accuracy=float(right.sum() / total),
        )

    def plot_confusion_matrix(self, *, normalize: bool = False) -> Figure:
        """Draw the matrix; with `normalize` each row as shares of its class."""
        counts = self.confusion_matrix()
        shares = _ratio(counts, counts.sum(1, keepdims=True))
        return _plot_matrix(shares if normalize else counts, shares, self.vocab)


def _ratio(part: np.ndarray[Any, Any], whole: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Divide, giving 0 where the divisor is 0."""
    ratio = np.zeros(np.broadcast(part, whole).shape)
    np.divide(part, whole, out=ratio, where=whole != 0)
    return ratio


def _class_report(row: np.ndarray[Any, Any], support: int) -> ClassReport:
    return ClassReport(precision=float(row[0]), recall=float(row[1]), f1=float(row[2]), support=int(support))


# --- the picture of a matrix ------------------------------------------------------------------------------------------


def _plot_matrix(values: np.ndarray[Any, Any], shares: np.ndarray[Any, Any], names: Sequence[str]) -> Figure:
    """Draw `values` as numbers on cells coloured by each row's shares, so that a rare class is as visible as any."""
    from matplotlib.colors import PowerNorm

    from graftwork.plots import one_axes

    size = len(names)
    side = float(np.clip(size * 0.42, 2.2, 12.0))
    margin = 0.9 + min(max(map(len, names)), MAX_NAME) * 0.075
    figure, ax = one_axes(width=side + margin + 0.9, height=side + margin)
    # The root makes few confusions visible beside a full diagonal.
    image = ax.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1))
    colorbar = figure.colorbar(image, ax=ax, shrink=0.6, aspect=25, pad=0.02, ticks=[0, 0.01, 0.05, 0.2, 0.5, 1])
    colorbar.set_label("share of the actual class", fontsize=8)
    colorbar.ax.set_yticklabels(["0", "1 %", "5 %", "20 %", "50 %", "100 %"], fontsize=7)
    _label_axes(ax, names)
    if size <= MAX_NUMBERED:
        _write_cells(ax, values, shares)
    return figure


def _label_axes(ax: Axes, names: Sequence[str]) -> None:
    size, note = len(names), "" if len(names) <= MAX_LABELLED else " (position in the vocabulary)"
    ax.set_xlabel("predicted" + note)
    ax.set_ylabel("actual" + note)
    if size <= MAX_LABELLED:
        shown = [_short(name) for name in names]
        upright = sum(map(len, shown)) > 4 * size
        font = float(np.clip(10.5 - size * 0.06, 6, 9))
        ax.set_xticks(range(size), shown, rotation=90 if upright else 0, fontsize=font)
        ax.set_yticks(range(size), shown, fontsize=font)
    ax.set_xticks(np.arange(size + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(size + 1) - 0.5, minor=True)
    ax.grid(which="minor", color="white", linewidth=1.0 if size <= MAX_NUMBERED else 0.3)
    ax.tick_params(which="both", length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _write_cells(ax: Axes, values: np.ndarray[Any, Any], shares: np.ndarray[Any, Any]) -> None:
    """Write the numbers that are not 0."""
    font = float(np.clip(12 - len(values) * 0.15, 6.5, 10))
    for (row, column), value in np.ndenumerate(values):
        if value:
            text = f"{value:.2f}" if isinstance(value, float) else str(value)
            color = "white" if shares[row, column] > 0.4 else "black"
            ax.text(column, row, text, ha="center", va="center", color=color, fontsize=font)


def run_pictures(data: DataLoaders, learner: Learner) -> dict[str, Figure]:
    """Draw the data, the losses, results and, for classes, the confusion matrix, by file name.

    For classes, and for what lies in the input, the top losses too.
    """
    figures = {"batch.png": data.show_batch(), "losses.png": learner.recorder.plot_losses()}
    if data.valid is not None:
        figures["results.png"] = learner.show_results()
        if len(data.plan.targets) == 1 and isinstance(data.plan.target, ClassIndexBlock):
            interpretation = ClassificationInterpretation.from_learner(learner)
            figures["confusion.png"] = interpretation.plot_confusion_matrix()
            figures["top_losses.png"] = interpretation.plot_top_losses(9)
        elif len(data.plan.targets) == 1 and data.plan.probes:
            figures["top_losses.png"] = Interpretation.from_learner(learner).plot_top_losses(9)
    return figures
