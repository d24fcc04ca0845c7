"""Losses of pixels: logits (B, C, H, W) against classes (B, H, W); pixels of `ignore_index` count for nothing.

An item whose pixels all count for nothing costs nothing. Losses of regions (Dice, Tversky, Lovász) are of each picture
by itself, over the classes that occur in it.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F

from graftwork.api import DataError, Loss, OptionError
from graftwork_segmentation.blocks import VOID

__all__ = ["Combined", "CrossEntropyDice", "DiceLoss", "LovaszSoftmax", "PixelCrossEntropy", "PixelFocal", "Tversky"]

EPS = 1e-6


class _PixelLoss(Loss):
    """Sum up costs of pixels; a subclass says what one costs."""

    weight: Tensor | None

    def __init__(self, *, weight: tuple[float, ...] | Tensor | None = None, ignore_index: int = VOID) -> None:
        super().__init__()
        self.register_buffer("weight", None if weight is None else torch.as_tensor(weight, dtype=torch.float32))
        self.ignore_index = ignore_index

    @abstractmethod
    def costs(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return the cost of every pixel (B, H, W), 0 where it is to be ignored."""

    def counts(self, target: Tensor) -> Tensor:
        """Return what every pixel counts for (B, H, W)."""
        known = target != self.ignore_index
        return known.float() if self.weight is None else self.weight[torch.where(known, target, 0)] * known

    def forward(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return the mean over the pixels of the batch; with class weights, the weighted mean."""
        _check(raw, target, self)
        return self.costs(raw.float(), target).sum() / self.counts(target).sum().clamp(min=EPS)

    def per_item(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return the mean over each picture's pixels."""
        _check(raw, target, self)
        costs, counts = self.costs(raw.float(), target), self.counts(target)
        return costs.flatten(1).sum(1) / counts.flatten(1).sum(1).clamp(min=EPS)


class PixelCrossEntropy(_PixelLoss):
    """Cross-entropy; `weight` has one number a class."""

    def costs(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropy of every pixel."""
        return F.cross_entropy(raw, target, self.weight, ignore_index=self.ignore_index, reduction="none")


class PixelFocal(_PixelLoss):
    """Cross-entropy times `(1 - p) ** gamma`, p being the class's probability (Lin et al., arXiv 1708.02002)."""

    def __init__(self, gamma: float = 2.0, *, ignore_index: int = VOID) -> None:
        super().__init__(ignore_index=ignore_index)
        if gamma < 0:
            raise OptionError(f"gamma={gamma} must not be negative; 2 is common, 0 is plain cross-entropy")
        self.gamma = gamma

    def costs(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return the weighted cross-entropy of every pixel."""
        entropy = F.cross_entropy(raw, target, ignore_index=self.ignore_index, reduction="none")
        # At 0 a power below 1 has no finite slope.
        return torch.expm1(-entropy).neg().clamp(min=1e-12) ** self.gamma * entropy


class _RegionLoss(Loss):
    """Compare regions, picture by picture."""

    def __init__(self, *, ignore_index: int = VOID) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return the mean over the pictures."""
        return self.per_item(raw, target).mean()

    def per_item(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return the mean over the classes that occur in each picture."""
        _check(raw, target, self)
        known = target != self.ignore_index
        # Sums over regions are float32 whatever the outputs are: bfloat16 counts no further than 256.
        chances = raw.float().softmax(1).flatten(2) * known.flatten(1)[:, None]
        codes, counted = torch.where(known, target, 0).flatten(1)[:, None], known.flatten(1)[:, None].float()
        actual = torch.zeros_like(chances).scatter_(1, codes, counted)
        occurs = (actual.sum(2) > 0).float()
        return (self.regions(chances, actual) * occurs).sum(1) / occurs.sum(1).clamp(min=1)

    @abstractmethod
    def regions(self, chances: Tensor, actual: Tensor) -> Tensor:
        """Return the cost of every class (B, C), from probabilities and zeros and ones (B, C, pixels)."""


class Tversky(_RegionLoss):
    """One minus the Tversky index, in which a pixel too many costs `alpha` and one missed `beta` (arXiv 1706.05721)."""

    def __init__(self, alpha: float = 0.3, beta: float = 0.7, *, ignore_index: int = VOID) -> None:
        super().__init__(ignore_index=ignore_index)
        if alpha < 0 or beta < 0 or alpha + beta == 0:
            raise OptionError(f"alpha={alpha} and beta={beta} must not be negative, nor both 0")
        self.alpha, self.beta = alpha, beta

    def regions(self, chances: Tensor, actual: Tensor) -> Tensor:
        """Compare soft counts."""
        both = (chances * actual).sum(2)
        extra, missed = chances.sum(2) - both, actual.sum(2) - both
        return 1 - both / (both + self.alpha * extra + self.beta * missed).clamp(min=EPS)


class DiceLoss(Tversky):
    """One minus the soft Dice coefficient (Milletari et al., arXiv 1606.04797)."""

    def __init__(self, *, ignore_index: int = VOID) -> None:
        super().__init__(0.5, 0.5, ignore_index=ignore_index)


class LovaszSoftmax(_RegionLoss):
    """Extend one minus the intersection over union to probabilities (Berman et al., arXiv 1705.08790)."""

    def regions(self, chances: Tensor, actual: Tensor) -> Tensor:
        """Weigh sorted errors by what each adds to the Jaccard loss."""
        errors, order = (actual - chances).abs().sort(2, descending=True)
        actual = actual.gather(2, order)
        total, met = actual.sum(2, keepdim=True), actual.cumsum(2)
        jaccard = 1 - (total - met) / (total + (1 - actual).cumsum(2)).clamp(min=EPS)
        steps = torch.cat([jaccard[..., :1], jaccard[..., 1:] - jaccard[..., :-1]], 2)
        return (errors * steps).sum(2)


class Combined(Loss):
    """Add cross-entropy, which knows every pixel, and `share` of a loss of regions, in which small classes count."""

    def __init__(
        self,
        regions: Loss | None = None,
        share: float = 1.0,
        *,
        weight: tuple[float, ...] | Tensor | None = None,
        ignore_index: int = VOID,
    ) -> None:
        """Take the loss of regions, by default Dice; `weight` is for the cross-entropy, one number a class."""
        super().__init__()
        if not 0 <= share < math.inf:
            raise OptionError(f"share={share} must be a number that is not negative; 0 leaves the cross-entropy alone")
        self.pixels = PixelCrossEntropy(weight=weight, ignore_index=ignore_index)
        self.regions, self.share = regions or DiceLoss(ignore_index=ignore_index), share

    def forward(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return the sum of both means."""
        total: Tensor = self.pixels(raw, target) + self.share * self.regions(raw, target)
        return total

    def per_item(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return the sum of both for each picture."""
        return self.pixels.per_item(raw, target) + self.share * self.regions.per_item(raw, target)


class CrossEntropyDice(Combined):
    """Add cross-entropy and `share` of the Dice loss: what a mask is trained by unless a loss is named.

    Cross-entropy judges every known pixel alike, so classes of few pixels hardly count in it; Dice counts every class
    of a picture alike. A class that a picture does not have is no part of its Dice, neither as right nor as wrong; that
    it is predicted all the same costs cross-entropy, and Dice of the classes whose pixels it takes.
    """

    def __init__(
        self,
        share: float = 1.0,
        *,
        weight: tuple[float, ...] | Tensor | None = None,
        ignore_index: int = VOID,
    ) -> None:
        """Take what Dice counts for; `weight` is for the cross-entropy, one number a class."""
        super().__init__(DiceLoss(ignore_index=ignore_index), share, weight=weight, ignore_index=ignore_index)


def _check(raw: Tensor, target: Tensor, loss: Loss) -> None:
    """Say what would fit; shapes are known without waiting for the device."""
    if raw.ndim < 3 or raw.shape[:1] + raw.shape[2:] != target.shape or target.dtype != torch.int64:
        raise DataError(
            f"{type(loss).__name__} compares outputs (B, classes, H, W) with classes (B, H, W) of int64; found "
            f"{tuple(raw.shape)} and {tuple(target.shape)} of {str(target.dtype).removeprefix('torch.')}"
        )
