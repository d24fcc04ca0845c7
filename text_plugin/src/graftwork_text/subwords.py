"""Tokenizers that rest on the `tokenizers` library: byte-level BPE and unigram pieces, characters, patterns, files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import compress
from pathlib import Path
from typing import Any, Final, Self, final

import numpy as np
from numpy.typing import NDArray

from graftwork.api import DataError, OptionError
from graftwork_text.byte_pairs import BytePairs, byte_pairs
from graftwork_text.tokenizers import Span, Tokenizer
from graftwork_text.vocab import BOS, PAD, SPECIALS, UNK, filled

__all__ = ["PatternTokenizer", "SubwordTokenizer", "from_file"]

ALGORITHMS: Final = ("bpe", "unigram")
UNKNOWN_NAMES: Final = (UNK, "[UNK]", "<unk>", "<|endoftext|>", "</s>")
PAD_NAMES: Final = (PAD, "[PAD]", "<pad>", "<|padding|>", "<|endoftext|>", "</s>")


def _sound(text: str) -> str:
    """Return a text that UTF-8 can hold: half a surrogate pair becomes a question mark, in its place."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="replace").decode()
    return text


@final
class SubwordTokenizer(Tokenizer):
    """Cut into pieces of words: byte-level BPE or unigram, trained on the training split, or read from a file.

    `model` is the JSON of `tokenizers`. Pieces trained here lose nothing: `text` of `tokens` is the text.
    """

    def __init__(self, algorithm: str = "bpe", model: str | None = None) -> None:
        """Raise OptionError for an unknown algorithm, DataError for damaged JSON."""
        if algorithm not in (*ALGORITHMS, "file"):
            raise OptionError(f"algorithm={algorithm!r} is none of {', '.join(ALGORITHMS)}")
        self.algorithm, self.model = algorithm, model
        self.kind = algorithm  # type: ignore[misc]

    @cached_property
    def _inner(self) -> Any:
        import tokenizers

        if self.model is None:
            raise OptionError(f"the tokenizer {self.algorithm} is not trained; call fit(texts) first")
        try:
            return tokenizers.Tokenizer.from_str(self.model)
        except Exception as error:  # the library raises bare Exception
            raise DataError(f"this is no tokenizer.json, or it is damaged: {error}") from error

    @property
    def needs_fit(self) -> bool:
        """Train unless a model was given."""
        return self.model is None

    def fit(self, texts: Iterable[str], *, max_vocab: int = 60_000) -> Self:
        """Train pieces on texts; more than 30,000 are not learned, as in fastai."""
        import tokenizers
        from tokenizers import decoders, models, pre_tokenizers, trainers

        bpe, size = self.algorithm == "bpe", min(max_vocab, 30_000)
        inner = tokenizers.Tokenizer(models.BPE() if bpe else models.Unigram())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        options: dict[str, Any] = {
            "vocab_size": max(size, 300),
            "special_tokens": list(SPECIALS),
            "initial_alphabet": pre_tokenizers.ByteLevel.alphabet(),
            "show_progress": False,
        }
        made = trainers.BpeTrainer(**options) if bpe else trainers.UnigramTrainer(unk_token=UNK, **options)
        inner.train_from_iterator(map(_sound, texts), made)
        return type(self)(self.algorithm, inner.to_str())

    @cached_property
    def _own(self) -> bool:
        """Whether it was trained here: its special tokens are ours."""
        return self._inner.token_to_id(BOS) is not None

    @cached_property
    def _pairs(self) -> BytePairs | None:
        """What does the same faster, for BPE that was trained here."""
        if self.algorithm != "bpe" or not self._own:
            return None
        return byte_pairs(self._inner.get_vocab(with_added_tokens=False), self._inner.token_to_id(BOS))

    @property
    def vocab(self) -> tuple[str, ...] | None:
        """The pieces in the order of their ids, filled up to a multiple of 8."""
        if self.model is None:
            return None
        codes = self._inner.get_vocab(with_added_tokens=True)
        words = [f"xxhole{i}" for i in range(max(codes.values()) + 1)]
        for word, code in codes.items():
            words[code] = word
        if not any(name in codes for name in PAD_NAMES):
            words.append(PAD)
        if not any(name in codes for name in UNKNOWN_NAMES):
            words.append(UNK)
        return filled(words)

    def _named(self, names: Sequence[str]) -> str:
        return next((name for name in names if self._inner.token_to_id(name) is not None), names[0])

    @property
    def unk(self) -> str:
        """The token that stands for what is unknown."""
        return UNK if self.model is None else self._named(UNKNOWN_NAMES)

    @property
    def pad(self) -> str:
        """The token that fills batches up."""
        return PAD if self.model is None else self._named(PAD_NAMES)

    def tokens(self, text: str) -> tuple[str, ...]:
        """Return a text's pieces, after xxbos where they were trained here."""
        found = tuple(self._inner.encode(_sound(text)).tokens)
        return (BOS, *found) if self._own else found

    def spans(self, text: str) -> list[Span]:
        """Return where each piece stands; of a letter cut into bytes, all of it."""
        found = [(int(a), int(b)) for a, b in self._inner.encode(_sound(text)).offsets]
        return [(0, 0), *found] if self._own else found

    def text(self, tokens: Sequence[str]) -> str:
        """Put pieces together again."""
        known = [self._inner.token_to_id(token) for token in tokens if token not in SPECIALS]
        return str(self._inner.decode([code for code in known if code is not None], skip_special_tokens=True))

    def batch_ids(self, texts: Sequence[str], codes: Mapping[str, int], unknown: int) -> list[NDArray[np.int32]]:
        """Return the ids of many texts, in threads."""
        sound = [_sound(text) for text in texts]
        pairs, first = self._pairs, [codes[BOS]] if self._own else []
        plain = [pairs is not None and pairs.plain(text) for text in sound]
        fast = iter(pairs.encode(list(compress(sound, plain))) if pairs else ())
        others = [text for text, is_plain in zip(sound, plain, strict=True) if not is_plain]
        slow = iter(self._inner.encode_batch_fast(others))
        return [
            next(fast) if is_plain else np.array([*first, *next(slow).ids] or [unknown], np.int32) for is_plain in plain
        ]

    def config(self) -> dict[str, Any]:
        """Return the trained model."""
        return {"model": self.model}


def from_file(path: str | Path) -> SubwordTokenizer:
    """Read a tokenizer.json; raise DataError if it is none."""
    try:
        model = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the tokenizer {path} cannot be read: {error}") from error
    made = SubwordTokenizer("file", model)
    try:
        made.tokens("")
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return made


@final
class PatternTokenizer(Tokenizer):
    """Cut by a regular expression, each match a token as it stands; a dot is a character: for proteins, DNA, code."""

    kind = "pattern"

    def __init__(self, pattern: str = r"(?s:.)", *, begin: bool = True) -> None:
        """Raise OptionError for a pattern that is none, or that matches nothing at all."""
        import re

        try:
            self._compiled = re.compile(pattern)
        except re.error as error:
            raise OptionError(f"the pattern {pattern!r} is no regular expression: {error}") from error
        if self._compiled.match(""):
            raise OptionError(f"the pattern {pattern!r} matches nothing at all; a token has a character at least")
        self.pattern, self.begin = pattern, begin

    def _found(self, text: str) -> Iterator[Any]:
        return self._compiled.finditer(text)

    def tokens(self, text: str) -> tuple[str, ...]:
        """Return the matches, after xxbos."""
        return (*((BOS,) if self.begin else ()), *(m.group() for m in self._found(text)))

    def spans(self, text: str) -> list[Span]:
        """Return where each match stands."""
        return [*([(0, 0)] if self.begin else []), *(m.span() for m in self._found(text))]

    def text(self, tokens: Sequence[str]) -> str:
        """Join tokens without anything between them."""
        return "".join(token for token in tokens if token not in SPECIALS)

    def config(self) -> dict[str, Any]:
        """Return the pattern."""
        return {"pattern": self.pattern, "begin": self.begin}
