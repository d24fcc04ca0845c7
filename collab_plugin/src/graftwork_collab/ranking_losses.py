"""Losses of rankings: among a few candidates in training, over the whole catalogue in validation.

In training `raw` (…, 1 + K) holds the score of the chosen item and those of K others, and `target` (…) is 0, or -1 in
places that do not count. In validation `raw` (U, codes) holds all scores, -inf for items that cannot be recommended,
and `target` (U, M) the held-out item codes, padded with -1.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from graftwork.api import DataError, Loss

__all__ = ["BPR", "FullSquaredError", "PairBCE", "SampledSoftmax"]


class _RankingLoss(Loss):
    """Tell training from validation by the shapes.

    In validation the loss is the cross-entropy of the softmax over the catalogue, a mean over each user's held-out
    items, whatever was used in training: so that losses of different trainings compare. Items that cannot be
    recommended do not count.
    """

    @abstractmethod
    def _among(self, chosen: Tensor, others: Tensor) -> Tensor:
        """Return losses (…,) for the chosen items' scores (…,) and the others' (…, K); -inf there does not count."""

    def _full(self, raw: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        found = raw.float().log_softmax(1).gather(1, target.clamp(min=0).long())
        counted = (target > 0) & found.isfinite()
        losses = torch.where(counted, -found, 0).sum(1) / counted.sum(1).clamp(min=1)
        return losses, counted.any(1)

    def _losses(self, raw: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return losses and whether they count, (B,) or (B, n)."""
        if raw.shape[:-1] == target.shape:
            scores = raw.float()
            counted = target >= 0
            return torch.where(counted, self._among(scores[..., 0], scores[..., 1:]), 0), counted
        if raw.ndim == 2 and target.ndim == 2 and len(raw) == len(target):
            return self._full(raw, target)
        raise DataError(
            f"a ranking loss compares scores of candidates (…, 1 + K) with places (…), or all scores (U, items) with "
            f"held-out items (U, M); found {tuple(raw.shape)} and {tuple(target.shape)}"
        )

    def forward(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return the mean over all that counts, a scalar."""
        losses, counted = self._losses(raw, target)
        return losses.sum() / counted.sum().clamp(min=1)

    def per_item(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return the mean of each row, (B,); 0 where nothing counts."""
        losses, counted = self._losses(raw, target)
        return losses if losses.ndim == 1 else losses.sum(1) / counted.sum(1).clamp(min=1)


@final
class SampledSoftmax(_RankingLoss):
    """Cross-entropy of the chosen item among the candidates (Jean et al., arXiv 1412.2007).

    How often candidates are drawn is corrected for by the model, which knows.
    """

    def _among(self, chosen: Tensor, others: Tensor) -> Tensor:
        return torch.cat([chosen.unsqueeze(-1), others], -1).logsumexp(-1) - chosen


@final
class BPR(_RankingLoss):
    """Bayesian personalised ranking: -log sigmoid(chosen - other), a mean over others (arXiv 1205.2618)."""

    def _among(self, chosen: Tensor, others: Tensor) -> Tensor:
        return F.softplus(others - chosen.unsqueeze(-1)).mean(-1)


@final
class PairBCE(_RankingLoss):
    """Binary cross-entropy of the chosen item as 1 and the others as 0, the latter a mean (as in arXiv 1808.09781)."""

    def _among(self, chosen: Tensor, others: Tensor) -> Tensor:
        return F.softplus(-chosen) + F.softplus(others).mean(-1)


@final
class FullSquaredError(Loss):
    """Mean squared error of all scores that count with 1 for held-out items and 0 for the rest, in validation.

    For models that are fitted by least squares or not at all: their training does not follow it.
    """

    def forward(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return the mean over users, a scalar."""
        return self.per_item(raw, target).mean()

    def per_item(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return the mean over each user's items, (U,)."""
        if raw.ndim != 2 or target.ndim != 2 or len(raw) != len(target):
            raise DataError(
                f"this loss compares all scores (U, items) with held-out items (U, M), not {tuple(raw.shape)} with "
                f"{tuple(target.shape)}; a model that learns from candidates needs another: loss='collab/bpr'"
            )
        counted = raw.isfinite()
        scores = torch.where(counted, raw.float(), 0)
        wanted = torch.zeros_like(scores).scatter_(1, target.clamp(min=0).long(), 1)
        wanted[:, 0] = 0
        squared = torch.where(counted, (wanted - scores).square(), 0).sum(1)
        return squared / counted.sum(1).clamp(min=1)
