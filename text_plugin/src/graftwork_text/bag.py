"""The default classifier: which words and word pairs a text has, weighed by how rare they are, and one linear layer.

That is logistic regression on TF-IDF with hashed pairs, trained as any network is: seconds on a CPU, no vocabulary of
pairs. See Joulin et al., arXiv 1607.01759, for the bag, and Salton & Buckley 1988 for weights.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graftwork.api import ModelContext, ModelParts, OptionError
from graftwork_text.language import tokens_block

__all__ = ["Bag", "bag"]

_MIX, _SPREAD = 0x1E3779B97F4A7C15, 0x5851F42D4C957F2D
"""Odd numbers that spread pairs over the buckets; products wrap around, as int64 does."""


@final
class Bag(nn.Module):
    """Give logits (B, classes) for token ids (B, L).

    How many texts have a word or pair is counted in training; rare ones weigh more (log of the inverse share).
    """

    seen: Tensor
    texts: Tensor

    def __init__(self, vocab_size: int, num_outputs: int, *, pad_id: int, pair_bits: int, dropout: float) -> None:
        """Begin at 0, so that nothing is believed of what was never seen."""
        super().__init__()
        self.vocab_size, self.pad_id, self.pair_bits, self.dropout = vocab_size, pad_id, pair_bits, dropout
        size = vocab_size + (1 << pair_bits if pair_bits else 0)
        self.weight = nn.Parameter(torch.zeros(size, num_outputs))
        self.bias = nn.Parameter(torch.zeros(num_outputs))
        self.register_buffer("seen", torch.zeros(size))
        self.register_buffer("texts", torch.zeros(()))

    def grams(self, x_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Return the numbers of words and pairs (B, G), sorted, and which are first of their kind and no padding."""
        real = x_BL != self.pad_id
        found = torch.where(real, x_BL, self.pad_id)
        if self.pair_bits and x_BL.shape[1] > 1:
            mixed = (x_BL[:, :-1] * _MIX + x_BL[:, 1:]) * _SPREAD
            pairs = ((mixed >> 32) & ((1 << self.pair_bits) - 1)) + self.vocab_size
            found = torch.cat([found, torch.where(real[:, 1:] & real[:, :-1], pairs, self.pad_id)], 1)
        found = found.sort(1).values
        first = found != self.pad_id
        first[:, 1:] &= found[:, 1:] != found[:, :-1]
        return found, first

    def forward(self, x_BL: Tensor) -> Tensor:
        """Return logits."""
        with torch.no_grad():
            found, first = self.grams(x_BL)
            row, at = first.nonzero(as_tuple=True)
            gram = found[row, at]
            if self.training:
                self.texts += len(x_BL)
                self.seen.index_add_(0, gram, self.seen.new_ones(len(gram)))
            share = torch.log((1 + self.texts) / (1 + self.seen[gram])) + 1
            if self.training and self.dropout:
                share = F.dropout(share, self.dropout)
            length = share.new_zeros(len(x_BL)).index_add_(0, row, share.square()).sqrt_()
            share /= length.clamp_(min=1e-6)[row]
        rows = F.embedding(gram, self.weight) * share.unsqueeze(1)
        return torch.zeros_like(self.bias).expand(len(x_BL), -1).index_add(0, row, rows.to(self.bias.dtype)) + self.bias


def bag(ctx: ModelContext, *, pair_bits: int = 18, dropout: float = 0.0) -> ModelParts:
    """Build the bag; word pairs share 2 ** pair_bits rows, 0 leaves them out."""
    if not 0 <= pair_bits <= 26:
        raise OptionError(f"pair_bits={pair_bits} must lie between 0 and 26")
    block = tokens_block(ctx)
    module = Bag(block.vocab_size, ctx.num_outputs, pad_id=block.pad_id, pair_bits=pair_bits, dropout=dropout)
    return ModelParts(module=module)
