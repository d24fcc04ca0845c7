"""The steps from a text to token ids: cut, look up, and for a language model move one on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor

from graftwork.api import Block, BlockError, Bound, Plan, PlanError, Transform
from graftwork_text.blocks import IGNORED, NextTokenBlock, TextBlock, TokensBlock, WordsBlock
from graftwork_text.tokenizers import Tokenizer, as_tokenizer
from graftwork_text.vocab import PAD, UNK, check_vocab, make_vocab

__all__ = ["NextToken", "Numericalize", "Tokenize", "text_field", "text_steps"]


@final
@dataclass(frozen=True, repr=False)
class Tokenize(Transform):
    """Cut a text into tokens by a tokenizer, its name or its JSON; it is trained on the training split if need be."""

    id: ClassVar[str] = "text/tokenize"
    tokenizer: str = "words"
    max_vocab: int = 60_000

    def __repr__(self) -> str:
        """Name the tokenizer; its JSON may be long."""
        return f"Tokenize({self.made})"

    @property
    def made(self) -> Tokenizer:
        """The tokenizer itself."""
        return as_tokenizer(self.tokenizer)

    def accepts(self, block: Block) -> bool:
        """Work on texts."""
        return isinstance(block, TextBlock)

    @property
    def needs_fit(self) -> bool:
        """Train a tokenizer that learns its pieces."""
        return self.made.needs_fit

    def fit(self, values: Iterable[Any], block: Block) -> Self:
        """Train the tokenizer on texts."""
        return replace(self, tokenizer=self.made.fit(values, max_vocab=self.max_vocab).to_json())

    def out_block(self, block: Block) -> Block:
        """Give tokens."""
        return WordsBlock()

    def bind(self, block: Block) -> Bound:
        """Cut texts; raise BlockError for what is none."""
        cut = self.made.tokens

        def encode(value: Any, _: Any) -> tuple[str, ...]:
            reason = block.check(value)
            if reason is not None:
                raise BlockError(reason)
            return cut(value)

        return Bound(encode)


@final
@dataclass(frozen=True, repr=False)
class Numericalize(Transform):
    """Look tokens up in a vocabulary, fitted on the training split if not given; unknown ones are xxunk.

    A text of more than `max_length` tokens keeps the first ones; one of none becomes a single xxunk.
    """

    id: ClassVar[str] = "text/numericalize"
    vocab: tuple[str, ...] | None = None
    min_freq: int = 3
    max_vocab: int = 60_000
    max_length: int | None = None
    unk: str = UNK
    pad: str = PAD

    def __post_init__(self) -> None:
        """Refuse a vocabulary that is none."""
        if self.vocab is not None:
            check_vocab(self.vocab, self.id, self.unk, self.pad)

    def __repr__(self) -> str:
        """Count the vocabulary."""
        return f"Numericalize({'not fitted' if self.vocab is None else f'{len(self.vocab)} tokens'})"

    def accepts(self, block: Block) -> bool:
        """Work on tokens."""
        return isinstance(block, WordsBlock)

    @property
    def needs_fit(self) -> bool:
        """Fit where no vocabulary was given."""
        return self.vocab is None

    def fit(self, values: Iterable[Any], block: Block) -> Self:
        """Count tokens, and keep the frequent ones."""
        counts: Counter[str] = Counter()
        for words in values:
            counts.update(words)
        return replace(self, vocab=make_vocab(counts, min_freq=self.min_freq, max_vocab=self.max_vocab))

    @property
    def pad_id(self) -> int:
        """What fills batches up."""
        return (self.vocab or ()).index(self.pad)

    @property
    def unk_id(self) -> int:
        """What unknown tokens become."""
        return (self.vocab or ()).index(self.unk)

    def out_block(self, block: Block) -> Block:
        """Give token ids."""
        return TokensBlock(vocab_size=len(self.vocab or ()), pad_id=self.pad_id, max_length=self.max_length)

    def bind(self, block: Block) -> Bound:
        """Look up by value."""
        vocab, unknown, limit = self.vocab or (), self.unk_id, self.max_length
        codes = {word: i for i, word in enumerate(vocab)}

        def encode(words: Any, _: Any) -> Tensor:
            return torch.tensor([codes.get(word, unknown) for word in words[:limit]] or [unknown], dtype=torch.int64)

        return Bound(encode, lambda ids: tuple(vocab[i] for i in ids.tolist()))


@final
@dataclass(frozen=True)
class NextToken(Transform):
    """Give for each token the one that follows it; nothing follows the last (-100)."""

    id: ClassVar[str] = "text/next-token"

    def accepts(self, block: Block) -> bool:
        """Work on token ids."""
        return isinstance(block, TokensBlock)

    def out_block(self, block: Block) -> Block:
        """Give next tokens."""
        if not isinstance(block, TokensBlock):
            raise PlanError(f"{self.id} works on token ids, not on {block!r}")
        return NextTokenBlock(vocab_size=block.vocab_size)

    def bind(self, block: Block) -> Bound:
        """Shift by one. What a model tells of next tokens decodes to these tokens."""
        return Bound(lambda ids, _: torch.cat([ids[1:], ids.new_full((1,), IGNORED)]))


def text_field(plan: Plan) -> str:
    """Return the name of the only text among the inputs; raise PlanError if there is none, or several."""
    names = [name for name in plan.inputs if isinstance(plan.fields[name].raw, TextBlock)]
    if len(names) != 1:
        raise PlanError(f"one of the inputs {plan.inputs} must be a text, and {len(names)} are")
    return names[0]


def text_steps(plan: Plan) -> tuple[Tokenize, Numericalize]:
    """Return the fitted steps of the only text among the inputs, which hold tokenizer and vocabulary."""
    found = [step.transform for step in plan.fields[text_field(plan)].item_steps]
    words = next((step for step in found if isinstance(step, Tokenize)), None)
    ids = next((step for step in found if isinstance(step, Numericalize)), None)
    if words is None or ids is None or ids.vocab is None:
        raise PlanError(f"the text must be cut and looked up (Tokenize, Numericalize); its steps are {found}")
    return words, ids
