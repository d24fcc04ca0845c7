"""A classifier over all of a text: read chunk by chunk, then the last, the largest and the mean features."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, Final, NamedTuple, final

import torch
from torch import Tensor, nn

from graftwork.api import ModelParts, OptionError
from graftwork_text.language import Encoder, State, products_pay, share
from graftwork_text.regularize import ActivationPenalty

__all__ = ["ChunkedClassifier", "Scored", "classifier_parts", "text_lengths", "with_penalty"]

HIDDEN_P: Final = 0.1


def text_lengths(tokens_BL: Tensor, pad_id: int) -> Tensor:
    """Return where the padding on the right begins, (B,); a text of nothing but padding counts as one token."""
    places = torch.arange(1, tokens_BL.size(1) + 1, device=tokens_BL.device)
    return ((tokens_BL != pad_id) * places).amax(1).clamp(min=1)


class Pool(NamedTuple):
    """Gather the last, the largest and the sum of the features of each text, chunk by chunk: each (B, C)."""

    last: Tensor
    largest: Tensor
    total: Tensor

    def add(self, features_BLC: Tensor, start: int, lengths_B: Tensor) -> Pool:
        """Take in a chunk that begins at token `start`."""
        features = features_BLC.float()
        there = torch.arange(start, start + features.size(1), device=features.device) < lengths_B[:, None]
        at = (lengths_B - 1 - start).clamp(0, features.size(1) - 1)
        ends = (lengths_B > start) & (lengths_B <= start + features.size(1))
        last = features[torch.arange(len(features), device=features.device), at]
        absent = ~there.unsqueeze(-1)
        return Pool(
            torch.where(ends[:, None], last, self.last),
            torch.maximum(self.largest, features.masked_fill(absent, float("-inf")).amax(1)),
            self.total + features.masked_fill(absent, 0.0).sum(1),
        )

    def joined(self, lengths_B: Tensor) -> Tensor:
        """Return last, largest and mean, (B, 3 C)."""
        return torch.cat([self.last, self.largest, self.total / lengths_B[:, None]], 1)


class Scored(NamedTuple):
    """Return what a classifier gives in training: logits, and what its features cost (AR and TAR)."""

    logits: Tensor
    penalty: Tensor


def with_penalty(compare: Callable[[Tensor, Tensor], Tensor], raw: Any, target: Tensor) -> Tensor:
    """Return a classifier's training loss."""
    return compare(raw.logits, target) + raw.penalty if isinstance(raw, Scored) else compare(raw, target)


@final
class ChunkedClassifier(nn.Module):
    """Classify texts (B, L) of any length; rows are filled up on the right.

    The encoder reads `seq_len` tokens at a time and carries its state on; gradients end where a chunk begins, and only
    the chunks of the last `max_len` tokens of a batch have any (fastai's SentenceEncoder, ULMFiT's BPT3C). `alpha` and
    `beta` are as for a language model, over the features that have gradients.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_outputs: int,
        *,
        pad_id: int,
        seq_len: int,
        max_len: int,
        lin_ftrs: Sequence[int],
        output_p: float,
        alpha: float = 0.0,
        beta: float = 0.0,
    ) -> None:
        """Raise OptionError for lengths below 1."""
        super().__init__()
        if seq_len < 1 or max_len < seq_len:
            raise OptionError(f"seq_len={seq_len} must be at least 1, and max_len={max_len} no less")
        if min((*lin_ftrs, num_outputs)) < 1:
            raise OptionError(f"lin_ftrs={tuple(lin_ftrs)} must be widths of at least 1")
        self.encoder, self.pad_id, self.seq_len, self.max_len = encoder, pad_id, seq_len, max_len
        self.costs = ActivationPenalty(alpha=alpha, beta=beta)
        self.head = _head([3 * encoder.width, *lin_ftrs, num_outputs], share("output_p", output_p))

    def forward(self, tokens_BL: Tensor) -> Tensor | Scored:
        """Return logits (B, outputs); in training with what the features cost."""
        pooled, penalty = self._read(self.encoder, tokens_BL, text_lengths(tokens_BL, self.pad_id))
        logits: Tensor = self.head(pooled)
        return logits if penalty is None else Scored(logits, penalty)

    def from_vectors(self, vectors_BLE: Tensor, lengths_B: Tensor) -> Tensor:
        """Return logits of texts whose tokens' vectors are given; gradients reach all of them, for attribution."""
        pooled, _ = self._read(self.encoder.from_vectors, vectors_BLE, lengths_B, whole=True)
        logits: Tensor = self.head(pooled)
        return logits

    def _read(
        self, read: Reader, x_BL: Tensor, lengths_B: Tensor, *, whole: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        size, width = len(x_BL), self.encoder.width
        zeros = torch.zeros(size, width, device=x_BL.device)
        pool = Pool(zeros, torch.full_like(zeros, float("-inf")), zeros)
        state: State = ()
        penalties: list[Tensor] = []
        for start in range(0, x_BL.size(1), self.seq_len):
            learns = whole or start + self.seq_len > x_BL.size(1) - self.max_len
            with nullcontext() if learns else torch.no_grad():
                features, state = read(
                    x_BL[:, start : start + self.seq_len], state if whole else tuple(t.detach() for t in state)
                )
                pool = pool.add(features, start, lengths_B)
            if learns and self.training and self.costs:
                penalties.append(self.costs.of(features, features))
        return pool.joined(lengths_B), torch.stack(penalties).mean() if penalties else None


Reader = Callable[[Tensor, State], tuple[Tensor, State]]


def _head(widths: Sequence[int], output_p: float) -> nn.Sequential:
    """Return batch norm, dropout and a linear layer for each step, with ReLU in between."""
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(itertools.pairwise(widths)):
        if number:
            layers.append(nn.ReLU())
        layers += [nn.BatchNorm1d(before), nn.Dropout(HIDDEN_P if number else output_p), nn.Linear(before, after)]
    return nn.Sequential(*layers)


def classifier_parts(module: ChunkedClassifier) -> ModelParts:
    """Return a classifier with its groups: the encoder's from words on, then the head."""
    return ModelParts(
        module=module,
        groups={**module.encoder.blocks(), "head": [module.head]},
        train_loss=with_penalty,
        products=products_pay(module),
    )
