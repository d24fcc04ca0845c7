"""Losses: what the raw outputs of a model cost. All are computed in float32, whatever precision the model runs in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graftwork.errors import DataError, OptionError

__all__ = ["L1", "MSE", "BCEWithLogits", "CrossEntropy", "Focal", "LabelSmoothing", "Loss"]


class Loss(nn.Module, ABC):
    """Compare raw outputs, before activation, with encoded targets; the first dimension of both counts items (B)."""

    @abstractmethod
    def forward(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss, a scalar."""

    @abstractmethod
    def per_item(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return one loss an item, (B,)."""


def _item_means(losses: Tensor) -> Tensor:
    return losses if losses.ndim == 1 else losses.flatten(1).mean(1)


def match_shapes(raw: Tensor, target: Tensor) -> Tensor:
    """Return `raw` in the target's shape if they differ by dimensions of size 1 only: (B, 1) and (B,) hold the same.

    Raises:
        DataError: any other difference; nothing is broadcast.
    """
    if raw.shape == target.shape:
        return raw
    if [n for n in raw.shape[1:] if n != 1] == [n for n in target.shape[1:] if n != 1] and len(raw) == len(target):
        return raw.reshape(target.shape)
    raise DataError(
        f"the model's output {tuple(raw.shape)} and the target {tuple(target.shape)} must have the same shape; "
        "give the model one output for each number of the target"
    )


class _ClassLoss(Loss):
    """Compare (B, C, …) outputs with (B, …) int64 class codes; codes equal to `ignore_index` count for nothing."""

    ignore_index = -100

    @abstractmethod
    def _losses(self, raw: Tensor, target: Tensor, reduction: str) -> Tensor:
        """Return the mean, or with reduction "none" the losses in the target's shape."""

    def forward(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return the mean over all codes; with class weights, the weighted mean."""
        try:
            return self._losses(raw.float(), target, "mean")
        except (IndexError, RuntimeError, ValueError) as error:
            self._explain(raw, target, error)

    def per_item(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return the mean over each item's codes, times their class weights if there are any."""
        try:
            losses = self._losses(raw.float(), target, "none")
        except (IndexError, RuntimeError, ValueError) as error:
            self._explain(raw, target, error)
        if losses.ndim == 1:
            return losses
        counted = (target != self.ignore_index).flatten(1).sum(1).clamp(min=1)
        return losses.flatten(1).sum(1) / counted

    def _explain(self, raw: Tensor, target: Tensor, error: Exception) -> NoReturn:
        """Say what would fit. Looking only after a failure keeps checks out of the training step."""
        fits = raw.ndim > 1 and raw.shape[:1] + raw.shape[2:] == target.shape and target.dtype == torch.int64
        if isinstance(error, IndexError) and fits:
            raise DataError(f"class codes must lie between 0 and {raw.shape[1] - 1}: {error}") from error
        if fits:
            raise error
        raise DataError(
            f"{type(self).__name__} compares outputs (B, classes, …) with class codes (B, …) of int64; found outputs "
            f"{tuple(raw.shape)} and targets {tuple(target.shape)} of {str(target.dtype).removeprefix('torch.')}"
        ) from error


class CrossEntropy(_ClassLoss):
    """Cross-entropy of logits (B, C, …) with class codes (B, …); `weight` has one number a class."""

    weight: Tensor | None

    def __init__(self, *, weight: Sequence[float] | Tensor | None = None, ignore_index: int = -100) -> None:
        super().__init__()
        self.register_buffer("weight", _row(weight))
        self.ignore_index = ignore_index

    def _losses(self, raw: Tensor, target: Tensor, reduction: str) -> Tensor:
        return F.cross_entropy(raw, target, self.weight, ignore_index=self.ignore_index, reduction=reduction)


class LabelSmoothing(_ClassLoss):
    """Cross-entropy in which every class gets `eps / C` of the target (Szegedy et al., arXiv 1512.00567)."""

    def __init__(self, eps: float = 0.1, *, ignore_index: int = -100) -> None:
        super().__init__()
        if not 0 <= eps < 1:
            raise OptionError(f"eps={eps} must lie between 0 and 1; 0.1 is common")
        self.eps, self.ignore_index = eps, ignore_index

    def _losses(self, raw: Tensor, target: Tensor, reduction: str) -> Tensor:
        return F.cross_entropy(
            raw, target, ignore_index=self.ignore_index, reduction=reduction, label_smoothing=self.eps
        )


class Focal(_ClassLoss):
    """Cross-entropy times `(1 - p) ** gamma`, p being the target's probability (Lin et al., arXiv 1708.02002)."""

    def __init__(self, gamma: float = 2.0, *, ignore_index: int = -100) -> None:
        super().__init__()
        if gamma < 0:
            raise OptionError(f"gamma={gamma} must not be negative; 2 is common, 0 is plain cross-entropy")
        self.gamma, self.ignore_index = gamma, ignore_index

    def _losses(self, raw: Tensor, target: Tensor, reduction: str) -> Tensor:
        if target.is_floating_point():
            raise ValueError("a soft target has no one probability")
        entropy = F.cross_entropy(raw, target, ignore_index=self.ignore_index, reduction="none")
        # 1 - exp(-x) loses all digits for a small x; and at 0 a power below 1 has no finite slope.
        losses = torch.expm1(-entropy).neg().clamp(min=1e-12) ** self.gamma * entropy
        return losses if reduction == "none" else losses.sum() / (target != self.ignore_index).sum()


class BCEWithLogits(Loss):
    """Binary cross-entropy of logits with zeros and ones of the same shape, (B, C, …) or (B,).

    `pos_weight` has one number a class (the last dimension) by which its ones count more.
    """

    pos_weight: Tensor | None

    def __init__(self, *, pos_weight: Sequence[float] | Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("pos_weight", _row(pos_weight))

    def forward(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return the mean over items and classes."""
        raw = match_shapes(raw, target).float()
        return F.binary_cross_entropy_with_logits(raw, target.float(), pos_weight=self.pos_weight)

    def per_item(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return the mean over each item's classes."""
        raw = match_shapes(raw, target).float()
        return _item_means(
            F.binary_cross_entropy_with_logits(raw, target.float(), pos_weight=self.pos_weight, reduction="none")
        )


class MSE(Loss):
    """Mean squared error of values of the same shape, (B,) or (B, n, …)."""

    def forward(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return the mean over all values."""
        return F.mse_loss(match_shapes(raw, target).float(), target.float())

    def per_item(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return the mean over each item's values."""
        return _item_means((match_shapes(raw, target).float() - target.float()).square())


class L1(Loss):
    """Mean absolute error of values of the same shape, (B,) or (B, n, …)."""

    def forward(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return the mean over all values."""
        return F.l1_loss(match_shapes(raw, target).float(), target.float())

    def per_item(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return the mean over each item's values."""
        return _item_means((match_shapes(raw, target).float() - target.float()).abs())


def _row(weights: Sequence[float] | Tensor | None) -> Tensor | None:
    return None if weights is None else torch.as_tensor(weights, dtype=torch.float32)
