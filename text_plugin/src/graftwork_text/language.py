"""What all networks for text share: an encoder of tokens, and a language model that can be asked token by token."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

from graftwork.api import Carrying, ModelContext, OptionError, PlanError
from graftwork_text.blocks import NextTokenBlock, TokensBlock

__all__ = [
    "Encoder",
    "LanguageModel",
    "State",
    "join",
    "products_pay",
    "select",
    "share",
    "tokens_block",
    "vocabulary_target",
]

PARAMETERS_WORTH_BF16: Final = 500_000
State = tuple[Tensor, ...]
"""What a model goes on from; the batch is the first dimension of every tensor."""


def select(state: State, rows: Tensor) -> State:
    """Return the state of some rows, which may repeat."""
    return tuple(tensor.index_select(0, rows.to(tensor.device)) for tensor in state)


def join(states: Sequence[State]) -> State:
    """Return the state of all rows."""
    return tuple(torch.cat(tensors) for tensors in zip(*states, strict=True))


def products_pay(module: nn.Module) -> bool:
    """Say whether a model is large enough that narrow numbers save more than turning numbers narrow costs."""
    return sum(parameter.numel() for parameter in module.parameters()) >= PARAMETERS_WORTH_BF16


def share(name: str, value: float) -> float:
    """Return a share from 0 up to 1; raise OptionError for another number."""
    if not 0 <= value < 1:
        raise OptionError(f"{name}={value} is no share from 0 up to 1")
    return float(value)


def tokens_block(ctx: ModelContext) -> TokensBlock:
    """Return the only input, which must be token ids; raise PlanError otherwise."""
    blocks = list(ctx.inputs.values())
    if len(blocks) != 1 or not isinstance(blocks[0], TokensBlock):
        raise PlanError(
            f"this model reads one text as token ids, and the inputs are {blocks}; "
            "give the DataBlock a TextBlock, or use TextDataLoaders"
        )
    return blocks[0]


def vocabulary_target(ctx: ModelContext) -> TokensBlock:
    """Return the input of a language model; raise PlanError if the target is not the next token of the same words."""
    tokens, targets = tokens_block(ctx), list(ctx.targets.values())
    if len(targets) != 1 or not isinstance(targets[0], NextTokenBlock):
        raise PlanError(f"a language model tells the next token, and the targets are {targets}; use is_lm=True")
    if targets[0].vocab_size != tokens.vocab_size:
        raise PlanError(f"{tokens.vocab_size} tokens go in and {targets[0].vocab_size} come out; they must be the same")
    return tokens


class Encoder(nn.Module, ABC):
    """Turn token ids into features: what language models and classifiers have in common, and an encoder file holds."""

    width: int
    """Number of features of a token."""
    window: int
    """Tokens to be read at a time."""
    embedding: nn.Embedding

    @abstractmethod
    def forward(self, tokens_BL: Tensor, state: State = ()) -> tuple[Tensor, State]:
        """Return features (B, L, width) and what the next tokens of the same texts go on from."""

    @abstractmethod
    def from_vectors(self, vectors_BLE: Tensor, state: State = ()) -> tuple[Tensor, State]:
        """Do the same from the tokens' vectors, as `embedding` gives them."""

    @abstractmethod
    def blocks(self) -> dict[str, list[nn.Module]]:
        """Return the parts by name, from input to output, for freezing and discriminative rates; words first."""


class LanguageModel(Carrying, ABC):
    """Tell the next token at every place: ids (B, L) to logits (B, L, V); or token by token, as generation needs it."""

    encoder: Encoder
    pad_id: int

    @property
    def vocab_size(self) -> int:
        """Number of tokens there are."""
        return self.encoder.embedding.num_embeddings

    @abstractmethod
    def begin(self, tokens_BL: Tensor) -> tuple[Tensor, State]:
        """Read the beginnings of texts; return logits of what comes next, (B, V), and what to go on from."""

    @abstractmethod
    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one more token of each text; `state` is used up. The cost does not grow with what was read before."""

    @property
    @abstractmethod
    def context(self) -> int | None:
        """Number of tokens it can see at once; None if there is no limit."""
