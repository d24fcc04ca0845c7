"""Many texts to token ids at once: in threads, by the word kernels or by the tokenizer's own batches."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from graftwork.api import DataError
from graftwork_text.tokenizers import Tokenizer, WordTokenizer
from graftwork_text.vocab import SPECIALS, UNK, filled
from graftwork_text.words import Ends, Ids, WordCounts, WordEncoder, recode

__all__ = ["Packed", "encode_texts", "fit_words", "packed"]

T = TypeVar("T")
R = TypeVar("R")

SMALL: Final = 2_000_000
"""Characters below which threads cost more than they save."""
BATCH: Final = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """Hold the token ids of texts, one after another, and where each text's end."""

    ids: NDArray[np.int32]
    ends: NDArray[np.int64]

    def __len__(self) -> int:
        """Count the texts."""
        return len(self.ends)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """How many tokens each text has."""
        return np.diff(self.ends, prepend=0)

    def text(self, position: int) -> NDArray[np.int32]:
        """Return a text's ids."""
        return self.ids[self.ends[position - 1] if position else 0 : self.ends[position]]

    def take(self, positions: NDArray[np.int64]) -> Packed:
        """Return some texts, in the order of their positions."""
        lengths = self.lengths[positions]
        ends = np.cumsum(lengths)
        starts = (self.ends - self.lengths)[positions]
        at = np.arange(int(lengths.sum())) + np.repeat(starts - (ends - lengths), lengths)
        return Packed(ids=self.ids[at], ends=ends)

    def cut(self, limit: int | None) -> tuple[Packed, int]:
        """Keep the first tokens of each text, and say how many texts were longer."""
        lengths = self.lengths
        if limit is None or not len(lengths) or lengths.max() <= limit:
            return self, 0
        kept = np.minimum(lengths, limit)
        ends = np.cumsum(kept)
        at = np.arange(int(kept.sum())) + np.repeat(self.ends - lengths - (ends - kept), kept)
        return Packed(ids=self.ids[at], ends=ends), int((lengths > limit).sum())


def packed(parts: Iterable[tuple[Ids, Ends]]) -> Packed:
    """Put parts together."""
    ids, ends, offset = list[Ids](), list[Ends](), 0
    for part_ids, part_ends in parts:
        ids.append(part_ids)
        ends.append(part_ends + offset)
        offset += len(part_ids)
    none = np.zeros(0, np.int32), np.zeros(0, np.int64)
    return Packed(ids=np.concatenate(ids or [none[0]]), ends=np.concatenate(ends or [none[1]]))


def _slices(texts: Sequence[str], workers: int | None) -> list[Sequence[str]]:
    """Divide texts into parts of about the same size, one for each thread."""
    sizes = np.cumsum([len(text) for text in texts])
    count = workers or min(4, os.cpu_count() or 1)
    if not len(texts) or count == 1 or sizes[-1] < SMALL:
        return [texts]
    cuts = np.searchsorted(sizes, sizes[-1] * np.arange(1, count) / count).tolist()
    return [texts[a:b] for a, b in zip([0, *cuts], [*cuts, len(texts)], strict=True)]


def _each(work: Callable[[T], R], parts: Sequence[T]) -> list[R]:
    if len(parts) == 1:
        return [work(parts[0])]
    with ThreadPoolExecutor(len(parts)) as pool:
        return list(pool.map(work, parts))


@dataclass(slots=True)
class _Part:
    encoder: WordEncoder
    ids: Ids
    ends: Ends


def _encoded(texts: Sequence[str]) -> _Part:
    encoder = WordEncoder()
    return _Part(encoder, *encoder.encode(texts))


def fit_words(
    texts: Sequence[str],
    *,
    min_freq: int = 3,
    max_vocab: int = 60_000,
    train: int | None = None,
    workers: int | None = None,
) -> tuple[tuple[str, ...], Packed]:
    """Return the vocabulary of the first `train` texts, and the ids of all of them in it."""
    parts = _each(_encoded, _slices(texts, workers))
    first = parts[0].encoder
    for part in parts[1:]:
        part.ids = first.adopt(part.encoder)[part.ids]
    whole = packed((part.ids, part.ends) for part in parts)
    counts = WordCounts()
    last = len(whole.ids) if train is None else int(whole.ends[train - 1]) if train else 0
    counts.add(whole.ids[:last], len(first))
    kept = counts.frequent(min_freq, max_vocab)
    code = np.full(len(first), SPECIALS.index(UNK), np.int32)
    code[: len(SPECIALS)] = np.arange(len(SPECIALS))
    code[kept] = np.arange(len(kept)) + len(SPECIALS)
    vocab = filled([*SPECIALS, *map(first.word, kept.tolist())])
    return vocab, Packed(ids=code[whole.ids], ends=whole.ends)


def encode_texts(
    tokenizer: Tokenizer, vocab: Sequence[str], texts: Sequence[str], *, unk_id: int = 0, workers: int | None = None
) -> Packed:
    """Return the ids of texts by a tokenizer and its vocabulary; an empty text becomes one unknown token."""
    if isinstance(tokenizer, WordTokenizer):
        identity = np.arange(len(vocab), dtype=np.int32)

        def work(part: Sequence[str]) -> tuple[Ids, Ends]:
            ids, ends = WordEncoder(vocab).encode(part)
            return recode(ids, identity, unk_id), ends

        return packed(_each(work, _slices(texts, workers)))
    return packed(_by_tokenizer(tokenizer, vocab, texts, unk_id))


def _by_tokenizer(
    tokenizer: Tokenizer, vocab: Sequence[str], texts: Sequence[str], unk_id: int
) -> Iterator[tuple[Ids, Ends]]:
    codes = {token: code for code, token in enumerate(vocab)}
    for start in range(0, len(texts), BATCH):
        part = texts[start : start + BATCH]
        rows = tokenizer.batch_ids(part, codes, unk_id)
        lengths = [len(row) for row in rows]
        yield np.concatenate(rows).astype(np.int32), np.cumsum(lengths).astype(np.int64)


def check_texts(texts: Sequence[object]) -> None:
    """Raise DataError for the first value that is no text."""
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(f"text {position} is a {type(text).__name__}, not a string: {text!r}")
