"""Look at what a segmentation gets wrong: figures of every class, and the pictures with the highest loss.

Nothing is kept of a picture but its loss: predictions are counted batch by batch, and those to be drawn are made anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import torch
from torch import Tensor

from graftwork.api import Batch, DataError, Learner, Loader, PlanError, add_legend, evaluating, fields_at, new_figure
from graftwork_segmentation.blocks import MaskTensorBlock
from graftwork_segmentation.metrics import Counts, confusion

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["ClassFigures", "SegmentationInterpretation"]

MAX_NUMBERED: Final = 20
PANEL: Final = 2.6


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassFigures:
    """Hold one class's figures, NaN where nobody has it; `share` is its share of the pixels."""

    iou: float
    dice: float
    share: float


def _joined(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Add tables up, and put losses and positions one after the other; nothing of nothing."""
    if not parts:
        return {}
    return {
        "table": torch.stack([part["table"] for part in parts]).sum(0),
        "losses": torch.cat([part["losses"] for part in parts]),
        "index": torch.cat([part["index"] for part in parts]),
    }


class SegmentationInterpretation:
    """Hold what a model's predictions on a loader's items count up to, and every item's loss."""

    def __init__(self, learn: Learner, loader: Loader, *, table: Tensor, losses: Tensor, index: Tensor) -> None:
        """Take what was counted; `from_learner` counts."""
        block = loader.plan.target
        if not isinstance(block, MaskTensorBlock):
            raise PlanError(f"this needs masks, and the target is {block!r}; use Interpretation")
        self.learn, self.loader, self.block = learn, loader, block
        self.table, self.losses, self.index = table, losses, index

    @classmethod
    def from_learner(cls, learn: Learner, loader: Loader | None = None) -> Self:
        """Predict a loader's items, by default those of the validation split."""
        loader = learn.data.valid if loader is None else loader
        if loader is None:
            raise DataError("nothing was held out for validation; pass a loader with targets")
        loader, counted = loader.in_order(), dict[str, Tensor]()
        for said in learn.iter_preds(loader):
            if said.targets is None or said.losses is None:
                raise DataError("these items have no masks, so there is nothing to compare predictions with")
            table = confusion(said.activated, said.targets)
            part = {"table": table.cpu(), "losses": said.losses.cpu(), "index": said.index}
            counted = _joined([counted, part]) if counted else part
        processes = learn.feed.processes
        if processes.world > 1:
            counted = _joined([other for other in processes.exchange(counted) if other])
        if not counted:
            raise DataError("not one batch could be loaded: every item is bad")
        return cls(learn, loader, **counted)

    def __len__(self) -> int:
        """Count the items."""
        return len(self.losses)

    def confusion_matrix(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Count pixels, (classes, classes): rows are actual, columns predicted, in the codes' order."""
        return self.table.numpy()

    def classes(self) -> dict[str, ClassFigures]:
        """Return every class's figures, but the void one's."""
        counts = Counts(self.table)
        shares = counts.actual / counts.actual.sum().clamp(min=1)
        rows = zip(self.block.codes, counts.iou.tolist(), counts.dice.tolist(), shares.tolist(), strict=True)
        found = [(name, ClassFigures(iou=iou, dice=dice, share=share)) for name, iou, dice, share in rows]
        return {name: figures for code, (name, figures) in enumerate(found) if code != self.block.void}

    def top_losses(self, k: int = 9, *, largest: bool = True) -> list[tuple[Any, float]]:
        """List the `k` items with the largest, or smallest, loss."""
        return [(self.loader.item(int(self.index[row])), float(self.losses[row])) for row in self._order(k, largest)]

    def _order(self, k: int, largest: bool) -> list[int]:
        order: list[int] = self.losses.argsort(descending=largest, stable=True)[:k].tolist()
        return order

    def plot_top_losses(self, k: int = 4, *, largest: bool = True) -> Figure:
        """Draw the `k` items with the largest, or smallest, loss: the picture, its mask and the prediction."""
        rows = self._order(k, largest)
        figure = new_figure(width=3 * PANEL, height=max(1, len(rows)) * (PANEL * self._shape + 0.35))
        masks: list[Tensor] = []
        for number, row in enumerate(rows):
            panels = [figure.add_subplot(len(rows), 3, 3 * number + i + 1) for i in range(3)]
            masks += self._triptych(panels, row)
        add_legend(figure, self.block.legend(masks))
        return figure

    @property
    def _shape(self) -> float:
        size = self.block.size
        return 1.0 if size is None else min(2.0, size[0] / size[1])

    @torch.inference_mode()
    def _triptych(self, panels: list[Axes], row: int) -> list[Tensor]:
        """Draw a picture, its mask and the prediction; return both masks."""
        plan, position = self.loader.plan, int(self.index[row])
        fields = fields_at(self.loader, [position])
        batch = self.learn.feed.ready(Batch(fields, plan.inputs, plan.targets, torch.tensor([position])))
        for panel in panels:
            for name in plan.inputs:
                values, block = plan.decode_batch(name, batch.fields[name])
                block.show(values[0], panel)
        masks = [batch.fields[plan.targets[0]][0], self.block.predict(self._activated(batch))[0]]
        for mask, panel in zip(masks, panels[1:], strict=True):
            self.block.show(mask, panel)
        name = str(self.loader.item(position)).replace("\\", "/").rpartition("/")[2]
        for panel, title in zip(
            panels, (name[-28:], "mask", f"prediction, loss {float(self.losses[row]):.2f}"), strict=True
        ):
            panel.set_title(title, fontsize=8)
        return masks

    def _activated(self, batch: Batch) -> Tensor:
        with evaluating(self.learn.module):
            return self.block.activate(self.learn.feed.forward(batch))

    def plot_classes(self) -> Figure:
        """Draw intersection over union of every class, the best first, with its share of the pixels beside it."""
        found = [(name, figures) for name, figures in self.classes().items() if figures.iou == figures.iou]
        found.sort(key=lambda pair: pair[1].iou)
        figure = new_figure(width=6.4, height=1.2 + 0.28 * len(found))
        ax = figure.add_subplot()
        bars = ax.barh([name for name, _ in found], [figures.iou for _, figures in found], color="C0")
        ax.bar_label(bars, [f"{f.iou:.3f}  ({100 * f.share:.1f} % of pixels)" for _, f in found], padding=3, fontsize=8)
        ax.set_xlim(0, 1.3)  # room for the labels
        ax.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1])
        ax.set_xlabel("intersection over union")
        return figure

    def plot_confusion_matrix(self) -> Figure:
        """Draw which classes are taken for which, as shares of the pixels of the actual class."""
        kept = [code for code in range(len(self.block.codes)) if code != self.block.void]
        counts = self.confusion_matrix()[np.ix_(kept, kept)].astype(float)
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        names = [self.block.codes[code] for code in kept]
        side = float(np.clip(0.45 * len(names), 2.4, 12))
        figure = new_figure(width=side + 2.2, height=side + 1.4)
        ax = figure.add_subplot()
        image = ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        figure.colorbar(image, ax=ax, shrink=0.6).set_label("share of the actual class", fontsize=8)
        ax.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
        ax.set_yticks(range(len(names)), names, fontsize=8)
        ax.set_xlabel("predicted")
        ax.set_ylabel("actual")
        if len(names) <= MAX_NUMBERED:
            for (row, column), share in np.ndenumerate(shares):
                if share >= 0.005:
                    color = "white" if share > 0.5 else "black"
                    ax.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=7, color=color)
        return figure
