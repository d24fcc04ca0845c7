"""Tokenizers: from a text to tokens and back, each with its place in the text; all of them are JSON."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final, Self, final

import numpy as np
from numpy.typing import NDArray

from graftwork.api import OptionError, unknown
from graftwork_text.rules import spans_of, untokenize, words_of
from graftwork_text.vocab import PAD, UNK

__all__ = ["Span", "Tokenizer", "WordTokenizer", "as_tokenizer", "tokenizer_named"]

Span = tuple[int, int]
"""Where a token lies in its text, from this character up to that one; empty for what stands for nothing in it."""


class Tokenizer(ABC):
    """Cut texts into tokens, strings. `kind` is its name in JSON."""

    kind: ClassVar[str]

    @abstractmethod
    def tokens(self, text: str) -> tuple[str, ...]:
        """Return a text's tokens."""

    @abstractmethod
    def spans(self, text: str) -> list[Span]:
        """Return where each of `tokens` lies in the text, in characters."""

    @abstractmethod
    def text(self, tokens: Sequence[str]) -> str:
        """Put tokens together again, as people write; exact where the tokenizer loses nothing."""

    def batch_ids(self, texts: Sequence[str], codes: Mapping[str, int], unknown: int) -> list[NDArray[np.int32]]:
        """Return the ids of many texts, none of them empty, in a vocabulary whose codes are given."""
        rows = [[codes.get(token, unknown) for token in self.tokens(text)] or [unknown] for text in texts]
        return [np.array(row, np.int32) for row in rows]

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Return the options as JSON values."""

    def to_json(self) -> str:
        """Return all there is to know."""
        return json.dumps({"kind": self.kind, **self.config()}, ensure_ascii=False)

    @property
    def vocab(self) -> tuple[str, ...] | None:
        """The tokens there are, in the order of their ids; None where any word may be one."""
        return None

    @property
    def unk(self) -> str:
        """The token that stands for what is unknown."""
        return UNK

    @property
    def pad(self) -> str:
        """The token that fills batches up."""
        return PAD

    @property
    def needs_fit(self) -> bool:
        """Say whether it must be trained first."""
        return False

    def fit(self, texts: Iterable[str], *, max_vocab: int = 60_000) -> Self:
        """Return a copy trained on texts."""
        return self

    def __repr__(self) -> str:
        """Name the kind."""
        return self.kind


@final
class WordTokenizer(Tokenizer):
    """Cut into words by fastai's rules: xxbos, xxmaj, xxup, xxrep, xxwrep, and spaCy's way with English."""

    kind = "words"

    def tokens(self, text: str) -> tuple[str, ...]:
        """Return words and marks, all in lower case."""
        return tuple(words_of(text))

    def spans(self, text: str) -> list[Span]:
        """Return where each word stands; a mark has an empty span."""
        return spans_of(text)

    def text(self, tokens: Sequence[str]) -> str:
        """Undo the marks, and join words as one writes them."""
        return untokenize(tokens)

    def config(self) -> dict[str, Any]:
        """Return nothing: there are no options."""
        return {}


KINDS: Final = ("words", "bpe", "unigram", "file", "pattern", "characters", "torchtext")


def as_tokenizer(given: str | Tokenizer) -> Tokenizer:
    """Return a tokenizer from its name or its JSON.

    Raises:
        OptionError: JSON that is damaged.
        UnknownName: no such tokenizer, with the nearest names.
    """
    if isinstance(given, Tokenizer):
        return given
    config: Any = {"kind": given}
    if given.startswith("{"):
        try:
            config = json.loads(given)
        except json.JSONDecodeError as error:
            raise OptionError(f"the tokenizer's JSON is damaged: {error}") from error
    return _made(str(config.pop("kind", "")), config)


def _made(kind: str, config: dict[str, Any]) -> Tokenizer:
    if kind == "words":
        return WordTokenizer()
    if kind in ("bpe", "unigram", "file"):
        from graftwork_text.subwords import SubwordTokenizer

        return SubwordTokenizer(kind, **config)
    if kind in ("pattern", "characters"):
        from graftwork_text.subwords import PatternTokenizer

        return PatternTokenizer(**config)
    if kind == "torchtext":
        from graftwork_text.torchtext_bridge import TorchtextTokenizer

        return TorchtextTokenizer(**config)
    raise unknown("tokenizer", kind, KINDS)


def tokenizer_named(name: str) -> str | Tokenizer:
    """Return what `--tokenizer` means: a kind, or the tokenizer.json at a path."""
    if not name.endswith(".json"):
        return name
    from graftwork_text.subwords import from_file

    return from_file(name)
