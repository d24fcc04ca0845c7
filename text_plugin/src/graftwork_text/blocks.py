"""Blocks of text: as the source gives it, as words, as token ids, and as the token that comes next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
import torch
from torch import Tensor

from graftwork.api import Block, BlockError, BlockSteps, OptionError, TargetBlock
from graftwork_text.vocab import PAD, UNK, check_counts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from graftwork_text.tokenizers import Tokenizer

__all__ = ["IGNORED", "NextTextBlock", "NextTokenBlock", "TextBlock", "TokensBlock", "WordsBlock", "pad"]

IGNORED = -100
"""What a target holds where there is nothing to tell: the losses' and metrics' own sign for it."""
_MOCKED = ("so", "good", "a", "film", "was", "never", "seen", "BEFORE", "Twice", "!")


def pad(values: Sequence[Any], fill: int) -> Tensor:
    """Return sequences as one int64 tensor (B, L), filled up on the right."""
    rows = [torch.as_tensor(value, dtype=torch.int64) for value in values]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=float(fill)).long()


def _words_shown(words: Sequence[str], limit: int = 300) -> str:
    text = " ".join(words)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _titled(ax: Axes, text: str) -> None:
    old = ax.get_title()
    ax.set_title(f"{old}\n{text}" if old else text, fontsize=9)


def _written(ax: Axes, text: str) -> None:
    from textwrap import fill

    ax.text(0.01, 0.98, fill(text.replace("$", r"\$"), 60), va="top", fontsize=8, wrap=True)
    ax.axis("off")


@dataclass(frozen=True)
class TextBlock(Block):
    """Hold a text. It becomes token ids by a tokenizer and a vocabulary fitted on the training split.

    `tokenizer` is a name ("words"), a Tokenizer, or the JSON of one. Words rarer than `min_freq` in training are
    unknown, at most `max_vocab` are kept; texts of more than `max_length` tokens are cut off, which is counted. A given
    `vocab` is taken as it is; `unk` and `pad` are among its words.
    """

    id: ClassVar[str] = "text/text"
    tokenizer: str | Tokenizer = "words"
    min_freq: int = 3
    max_vocab: int = 60_000
    max_length: int | None = None
    vocab: tuple[str, ...] | None = None
    unk: str = UNK
    pad: str = PAD

    def __post_init__(self) -> None:
        """Refuse impossible numbers; keep the tokenizer as its JSON, which travels."""
        from graftwork_text.tokenizers import as_tokenizer

        if not isinstance(self.tokenizer, str) or self.tokenizer.startswith("{"):
            object.__setattr__(self, "tokenizer", as_tokenizer(self.tokenizer).to_json())
        check_counts(self.min_freq, self.max_vocab)
        if self.max_length is not None and self.max_length < 1:
            raise OptionError(f"{self.id}: max_length={self.max_length} must be at least 1, or None for no limit")

    def check(self, value: Any) -> str | None:
        """Return why `value` is no text, or None."""
        if value is None or (isinstance(value, float) and value != value):
            return "the text is missing"
        return None if isinstance(value, str) else f"a text is a string, not {type(value).__name__}"

    def mock(self, rng: np.random.Generator) -> str:
        """Invent a text."""
        return " ".join(_MOCKED[i] for i in rng.integers(0, len(_MOCKED), int(rng.integers(1, 12))))

    def collate(self, values: Sequence[Any]) -> Tensor:
        """Refuse: texts are encoded before they are batched."""
        raise BlockError(
            f"{self.id} holds texts, which have no tensor form; encode them first (Tokenize, Numericalize)"
        )

    def uncollate(self, column: Tensor) -> list[Any]:
        """Refuse: texts are encoded before they are batched."""
        raise BlockError(f"{self.id} holds texts, which have no tensor form")

    def show(self, value: Any, ax: Axes) -> None:
        """Write the text's beginning on the axes."""
        _written(ax, _words_shown([value]))

    def steps(self) -> BlockSteps:
        """Cut into tokens, then look them up."""
        from graftwork_text.transforms import Numericalize, Tokenize

        words = Tokenize(tokenizer=str(self.tokenizer), max_vocab=self.max_vocab)
        ids = Numericalize(
            vocab=self.vocab, min_freq=self.min_freq, max_vocab=self.max_vocab, max_length=self.max_length,
            unk=self.unk, pad=self.pad,
        )  # fmt: skip
        return BlockSteps(closing=(words, ids))


@final
@dataclass(frozen=True)
class NextTextBlock(TextBlock):
    """Hold a text of which a model tells each next token from those before: the target of a language model."""

    id: ClassVar[str] = "text/next-text"

    def steps(self) -> BlockSteps:
        """Cut, look up, and move one token on."""
        from graftwork_text.transforms import NextToken

        return BlockSteps(closing=(*super().steps().closing, NextToken()))


@final
@dataclass(frozen=True)
class WordsBlock(Block):
    """Hold a text as the tuple of its tokens, strings."""

    id: ClassVar[str] = "text/words"

    def check(self, value: Any) -> str | None:
        """Return why `value` is no sequence of tokens, or None."""
        if isinstance(value, str) or not isinstance(value, Sequence):
            return f"tokens come as a sequence of strings, not as {type(value).__name__}"
        wrong = next((word for word in value if not isinstance(word, str)), None)
        return None if wrong is None else f"a token is a string, not {type(wrong).__name__}"

    def mock(self, rng: np.random.Generator) -> tuple[str, ...]:
        """Invent some tokens."""
        return tuple(_MOCKED[i] for i in rng.integers(0, len(_MOCKED), int(rng.integers(1, 12))))

    def collate(self, values: Sequence[Any]) -> Tensor:
        """Refuse: tokens are looked up before they are batched."""
        raise BlockError(f"{self.id} holds strings, which have no tensor form; look them up first (Numericalize)")

    def uncollate(self, column: Tensor) -> list[Any]:
        """Refuse: tokens are looked up before they are batched."""
        raise BlockError(f"{self.id} holds strings, which have no tensor form")

    def show(self, value: Any, ax: Axes) -> None:
        """Write the first tokens on the axes."""
        _written(ax, _words_shown(value))

    def steps(self) -> BlockSteps:
        """Look tokens up, where somebody cut the text by a Tokenize of their own."""
        from graftwork_text.transforms import Numericalize

        return BlockSteps(closing=(Numericalize(),))


@final
@dataclass(frozen=True)
class TokensBlock(Block):
    """Hold token ids below `vocab_size`, at least one; int64 (B, L) in a batch, filled on the right with `pad_id`.

    L is that of the longest text of the batch, never more than `max_length`.
    """

    id: ClassVar[str] = "text/tokens"
    vocab_size: int
    pad_id: int = 1
    max_length: int | None = None

    def __post_init__(self) -> None:
        """Refuse an empty vocabulary and a padding outside of it."""
        if not 0 <= self.pad_id < self.vocab_size:
            raise OptionError(f"{self.id}: pad_id={self.pad_id} is not in a vocabulary of {self.vocab_size}")

    def check(self, value: Any) -> str | None:
        """Return why `value` holds no token ids, or None."""
        if not isinstance(value, Tensor) or value.ndim != 1 or value.dtype != torch.int64:
            return f"token ids are an int64 tensor of one dimension, not {_kind(value)}"
        if not len(value):
            return "there is no token"
        if self.max_length is not None and len(value) > self.max_length:
            return f"{len(value)} tokens are more than max_length={self.max_length}"
        low, high = int(value.min()), int(value.max())
        return (
            None if low >= 0 and high < self.vocab_size else f"ids {low} … {high} are not in 0 … {self.vocab_size - 1}"
        )

    def mock(self, rng: np.random.Generator) -> Tensor:
        """Invent ids, none of them padding if there are others."""
        length = int(rng.integers(1, min(12, self.max_length or 12) + 1))
        others = [i for i in range(min(self.vocab_size, 1000)) if i != self.pad_id] or [self.pad_id]
        return torch.tensor([others[i] for i in rng.integers(0, len(others), length)], dtype=torch.int64)

    def collate(self, values: Sequence[Any]) -> Tensor:
        """Stack to int64 (B, L)."""
        return pad(values, self.pad_id)

    def uncollate(self, column: Tensor) -> list[Any]:
        """Return one tensor a text, without the padding at its end."""
        return [row[: _length(row, self.pad_id)] for row in column.cpu()]

    def show(self, value: Any, ax: Axes) -> None:
        """Write the first ids on the axes."""
        _written(ax, _words_shown([str(i) for i in value.tolist()]))


def _kind(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _length(row: Tensor, fill: int) -> int:
    """Return where the padding begins; a text of nothing but padding keeps one token."""
    kept = (row != fill).nonzero()
    return int(kept[-1]) + 1 if len(kept) else 1


@final
@dataclass(frozen=True)
class NextTokenBlock(TargetBlock):
    """Hold the token that follows each token of a text; int64 (B, L), -100 where none does.

    Models give logits (B, L, vocab_size). Activated they are log-probabilities (B, vocab_size, L): classes come second,
    as metrics want them.
    """

    id: ClassVar[str] = "text/next-token"
    vocab_size: int

    @property
    def num_outputs(self) -> int:
        """One logit per token of the vocabulary."""
        return self.vocab_size

    @property
    def loss_id(self) -> str:
        """Cross-entropy over tokens."""
        return "text/next-token"

    @property
    def metric_ids(self) -> tuple[str, ...]:
        """Perplexity and accuracy, over tokens."""
        return ("text/perplexity", "text/token-accuracy")

    @property
    def baseline_ids(self) -> tuple[str, ...]:
        """An interpolated n-gram model."""
        return ("text/n-gram",)

    def check(self, value: Any) -> str | None:
        """Return why `value` is no row of next tokens, or None."""
        if not isinstance(value, Tensor) or value.ndim != 1 or value.dtype != torch.int64 or not len(value):
            return f"next tokens are an int64 tensor of one dimension, not {_kind(value)}"
        known = value[value != IGNORED]
        bad = known[(known < 0) | (known >= self.vocab_size)]
        return f"id {int(bad[0])} is not in 0 … {self.vocab_size - 1}" if len(bad) else None

    def mock(self, rng: np.random.Generator) -> Tensor:
        """Invent next tokens."""
        return torch.from_numpy(rng.integers(0, self.vocab_size, int(rng.integers(1, 12))))

    def collate(self, values: Sequence[Any]) -> Tensor:
        """Stack to int64 (B, L)."""
        return pad(values, IGNORED)

    def uncollate(self, column: Tensor) -> list[Any]:
        """Return one tensor a text, without what is ignored at its end."""
        return [row[: _length(row, IGNORED)] for row in column.cpu()]

    def show(self, value: Any, ax: Axes) -> None:
        """Add the first ids to the title."""
        _titled(ax, _words_shown([str(i) for i in value.tolist()], 80))

    def activate(self, raw: Tensor) -> Tensor:
        """Return log-probabilities (B, vocab_size, L)."""
        return raw.float().log_softmax(-1).transpose(1, 2)

    def predict(self, activated: Tensor) -> Tensor:
        """Take the likeliest next token after each token."""
        return activated.argmax(1)
