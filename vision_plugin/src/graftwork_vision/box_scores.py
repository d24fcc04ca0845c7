"""How good predicted boxes are: overlap, average precision as COCO computes it, and the loss of a set of boxes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from graftwork.api import DataError, Loss, Metric, metric_factory
from graftwork_vision.boxes import EMPTY

__all__ = ["BoxMap", "BoxSetLoss", "box_map", "box_map_50", "overlaps"]

OVERLAPS: Final = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
NUM_RECALLS: Final = 101
MAX_DETECTIONS: Final = 100
CORNERS_WEIGHT: Final = 5.0
OVERLAP_WEIGHT: Final = 2.0


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]).clamp(min=0) * (boxes[..., 3] - boxes[..., 1]).clamp(min=0)


def _both(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the areas of intersections and unions, (…, N, M)."""
    low = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    high = torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    return shared, _areas(a)[..., :, None] + _areas(b)[..., None, :] - shared


def overlaps(a: Tensor, b: Tensor) -> Tensor:
    """Return the intersection over union of boxes (…, N, 4) with boxes (…, M, 4), xyxy: (…, N, M)."""
    shared, union = _both(a, b)
    return shared / union.clamp(min=1e-12)


class BoxMap(Metric):
    """Average precision of boxes, a mean over classes and over `thresholds` of the overlap, as COCO defines it.

    101 recalls are read off the falling envelope of precision; of every picture the 100 surest predictions count. Boxes
    of any size count. Classes without a box in the targets are left out; without any it is NaN. Every prediction is
    kept until `reset`: a class, a score and a bit for each threshold.
    """

    higher_is_better = True

    def __init__(self, thresholds: tuple[float, ...] = OVERLAPS, *, name: str = "box_map") -> None:
        """Set the overlaps from which a prediction is right."""
        self.name, self.thresholds = name, thresholds
        self.reset()

    def update(self, predicted: Tensor, target: Tensor) -> None:
        """Match predictions (B, N, 6) with targets (B, M, 6): boxes, label, score."""
        self._seen = True
        scores, order = predicted[..., 5].sort(dim=1, descending=True, stable=True)
        order, scores = order[:, :MAX_DETECTIONS], scores[:, :MAX_DETECTIONS]
        found = predicted.gather(1, order[..., None].expand(-1, -1, 6))
        right = _matches(found, target, self.thresholds)
        kept = found[..., 4] != EMPTY
        self._rows.append(torch.cat([found[..., 4][kept][:, None], scores[kept][:, None], right[kept]], 1))
        self._truths.append(target[..., 4][target[..., 4] != EMPTY])

    def merge(self, other: Self) -> None:
        """Add the other's rows."""
        self._rows += [rows.to(self._rows[0].device) if self._rows else rows for rows in other._rows]
        self._truths += [truths.to(self._truths[0].device) if self._truths else truths for truths in other._truths]
        self._seen = self._seen or other._seen

    def per_class(self) -> dict[int, float]:
        """Return the average precision of every class in the targets, by its code."""
        if not self._seen:
            raise DataError(f"metric {self.name!r} has seen no batch; call update(predicted, target) before compute()")
        rows, truths = torch.cat(self._rows).double().cpu(), torch.cat(self._truths).cpu()
        codes, counts = truths.unique(return_counts=True)
        pairs = zip(codes.tolist(), counts.tolist(), strict=True)
        return {int(code): _average_precision(rows[rows[:, 0] == code], count) for code, count in pairs}

    def compute(self) -> float:
        """Return the mean over classes."""
        found = self.per_class()
        return sum(found.values()) / len(found) if found else math.nan

    def reset(self) -> None:
        """Forget everything seen."""
        self._rows: list[Tensor] = []
        self._truths: list[Tensor] = []
        self._seen = False

    def to(self, device: torch.device | str) -> None:
        """Move what was kept."""
        self._rows = [rows.to(device) for rows in self._rows]
        self._truths = [truths.to(device) for truths in self._truths]

    def state_dict(self) -> dict[str, Any]:
        """Return what was kept."""
        return {"rows": torch.cat(self._rows), "truths": torch.cat(self._truths)} if self._seen else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what another one kept."""
        self.reset()
        if "rows" in state:
            self._rows, self._truths, self._seen = [state["rows"]], [state["truths"]], True


def _matches(found: Tensor, target: Tensor, thresholds: tuple[float, ...]) -> Tensor:
    """Say of predictions (B, N, 6), the surest first, at which thresholds each is right: (B, N, T) of 0 and 1.

    One after the other takes the free target of its class that it overlaps most, if it does so enough.
    """
    limits = found.new_tensor(thresholds)
    shared = overlaps(found[..., :4], target[..., :4])
    same = (found[..., 4, None] == target[..., None, :, 4]) & (found[..., 4, None] != EMPTY)
    shared = torch.where(same, shared, -1.0)
    free = torch.ones(len(found), len(limits), target.shape[1], dtype=torch.bool, device=found.device)
    right = found.new_zeros(len(found), found.shape[1], len(limits))
    for i in range(found.shape[1]):
        best, where = torch.where(free, shared[:, i, None, :], -1.0).max(2)
        hit = best >= limits
        right[:, i] = hit.to(right.dtype)
        free.scatter_(2, where[..., None], free.gather(2, where[..., None]) & ~hit[..., None])
    return right


def _average_precision(rows: Tensor, count: int) -> float:
    """Return the mean over thresholds for one class: rows of (class, score, right…), `count` true boxes."""
    if not len(rows):
        return 0.0
    right = rows[rows[:, 1].argsort(descending=True, stable=True), 2:]
    hits = right.cumsum(0)
    precision = hits / torch.arange(1, len(right) + 1, dtype=torch.float64)[:, None]
    envelope = precision.flip(0).cummax(0).values.flip(0)
    wanted = torch.from_numpy(np.linspace(0.0, 1.0, NUM_RECALLS))
    places = torch.searchsorted((hits / count).T.contiguous(), wanted.expand(right.shape[1], -1).contiguous())
    padded = F.pad(envelope, (0, 0, 0, 1))
    return float(padded.gather(0, places.T).mean())


@metric_factory
def box_map() -> Metric:
    """Measure COCO's mean average precision of boxes, over overlaps from 0.5 to 0.95."""
    return BoxMap()


@metric_factory
def box_map_50() -> Metric:
    """Measure the mean average precision of boxes that overlap by at least a half."""
    return BoxMap((0.5,), name="box_map_50")


class BoxSetLoss(Loss):
    """Compare candidates with the true boxes, each matched with the one that suits it best (DETR, arXiv 2005.12872).

    The loss of a picture is binary cross-entropy of all candidates' classes, and for matched ones five times the L1
    distance of corners (1 being a side of the picture) and twice 1 - GIoU, all divided by the number of true boxes.
    """

    def forward(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return the mean over pictures."""
        return self.per_item(raw, target).mean()

    def per_item(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return one loss a picture, (B,)."""
        width = raw.float().reshape(len(raw), target.shape[1], -1)
        if width.shape[2] < 5:
            raise DataError(f"outputs {tuple(raw.shape)} for {target.shape[1]} candidates have no class")
        return torch.stack([_of_picture(rows, true) for rows, true in zip(width, target, strict=True)])


def _of_picture(rows: Tensor, target: Tensor) -> Tensor:
    from scipy.optimize import linear_sum_assignment

    true = target[target[:, 4] >= 0]
    corners, logits = rows[:, :4], rows[:, 4:]
    wanted = torch.zeros_like(logits)
    if not len(true):
        return F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
    labels = true[:, 4].long()
    with torch.no_grad():
        cost = -logits.sigmoid()[:, labels] + CORNERS_WEIGHT * torch.cdist(corners, true[:, :4], p=1) / 2
        cost -= OVERLAP_WEIGHT * _generalized(corners, true[:, :4])
        chosen, matched = linear_sum_assignment(cost.nan_to_num(nan=1e6, posinf=1e6, neginf=-1e6).cpu().numpy())
    mine, theirs = corners[torch.from_numpy(chosen)], true[torch.from_numpy(matched)]
    wanted[torch.from_numpy(chosen), labels[torch.from_numpy(matched)]] = 1
    classes = F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
    distance = (mine - theirs[:, :4]).abs().sum() / 2
    apart = (1 - _generalized(mine[:, None], theirs[:, None, :4])).sum()
    return (classes + CORNERS_WEIGHT * distance + OVERLAP_WEIGHT * apart) / len(true)


def _generalized(a: Tensor, b: Tensor) -> Tensor:
    """Return the generalised overlap (Rezatofighi et al., arXiv 1902.09630) of boxes, (…, N, M)."""
    shared, union = _both(a, b)
    low = torch.minimum(a[..., :, None, :2], b[..., None, :, :2])
    high = torch.maximum(a[..., :, None, 2:], b[..., None, :, 2:])
    hull = (high - low).clamp(min=0).prod(-1)
    return shared / union.clamp(min=1e-12) - (hull - union) / hull.clamp(min=1e-12)
