"""What language models are trained with and measured by; all count tokens, not texts."""

from __future__ import annotations

import math
from functools import partial
from typing import final

from torch import Tensor
from torch.nn import functional as F

from graftwork.api import DataError, Loss, MeanMetric, Metric, OptionError, metric_factory
from graftwork_text.blocks import IGNORED

__all__ = ["NextTokenLoss", "bits_per_byte", "perplexity", "token_accuracy"]


@final
class NextTokenLoss(Loss):
    """Cross-entropy of logits (B, L, V) with next tokens (B, L), -100 where none follows; in float32."""

    def forward(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return the mean over tokens."""
        return F.cross_entropy(*_flat(raw, target), ignore_index=IGNORED)

    def per_item(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return the mean over each text's tokens."""
        losses = F.cross_entropy(*_flat(raw, target), ignore_index=IGNORED, reduction="none").view(target.shape)
        return losses.sum(1) / (target != IGNORED).sum(1).clamp(min=1)


def _flat(raw: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    if raw.ndim != 3 or raw.shape[:2] != target.shape:
        raise DataError(
            f"a language model gives logits (B, L, vocabulary) for next tokens (B, L); found {tuple(raw.shape)} and "
            f"{tuple(target.shape)}"
        )
    return raw.flatten(0, 1).float(), target.flatten()


def _surprise(predicted: Tensor, target: Tensor) -> Tensor:
    """Return the negative log-probability of every token that is to be told."""
    known = target != IGNORED
    at = target.clamp(min=0).unsqueeze(1)
    return -predicted.gather(1, at).squeeze(1)[known]


def _told(predicted: Tensor, target: Tensor) -> Tensor:
    known = target != IGNORED
    return (predicted.argmax(1) == target)[known]


def _exp(mean: float) -> float:
    return math.exp(mean) if mean < 700 else math.inf


def _bits(bytes_per_token: float, mean: float) -> float:
    return mean / math.log(2) / bytes_per_token


@metric_factory
def perplexity() -> Metric:
    """Measure the exponential of the mean loss over all tokens."""
    return MeanMetric(_surprise, name="perplexity", higher_is_better=False, finish=_exp)


@metric_factory
def token_accuracy() -> Metric:
    """Measure the share of next tokens that were the likeliest."""
    return MeanMetric(_told, name="accuracy")


@metric_factory
def bits_per_byte(bytes_per_token: float = 1.0) -> Metric:
    """Measure what writing down a byte of the text costs; it compares models of different tokenizers.

    `bytes_per_token` is a property of the text that is measured on: a loader of language models knows it.
    """
    if not bytes_per_token > 0:
        raise OptionError(f"bytes_per_token={bytes_per_token} must be above 0")
    return MeanMetric(_surprise, name="bits_per_byte", higher_is_better=False, finish=partial(_bits, bytes_per_token))
