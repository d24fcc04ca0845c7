"""Many texts to words at once: the kernels, and `rules` for what is hard. Both give the same words."""

from __future__ import annotations

import html
from collections.abc import Sequence
from functools import cache
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from graftwork_text.byte_table import Table, intern_keys, new_table
from graftwork_text.chunk_kernels import copy_ids, count_words, expand, scan
from graftwork_text.english import exceptions, joined
from graftwork_text.rules import words_of
from graftwork_text.vocab import SPECIALS
from graftwork_text.word_kernels import CLASSES, UNIT_LENGTHS, UNITS, cut_chunks

__all__ = ["Ends", "Ids", "WordCounts", "WordEncoder", "recode"]

Ids = NDArray[np.int32]
Ends = NDArray[np.int64]

BOS_ID: Final = SPECIALS.index("xxbos")
MOST_CHUNKS: Final = 4_000_000
"""Of more different chunks the table is emptied, so that it does not outgrow memory."""


def _grown(table: Table, words: Sequence[str]) -> tuple[Table, Ids]:
    """Add words; return the table and their numbers."""
    encoded = [word.encode("utf-8", "surrogatepass") for word in words]
    ends = np.cumsum([len(word) for word in encoded]).astype(np.int64)
    *state, numbers = intern_keys(*table, np.frombuffer(b"".join(encoded), np.uint8), ends)
    return Table(*state), numbers


@cache
def _exceptions() -> tuple[Any, ...]:
    """Return the exceptions as kernels read them: a table, which are put together again, the lengths of parts, where
    those of each end, and by first letter and length whether a word may be one.
    """
    known = {word: parts for word, parts in exceptions().items() if word.isascii()}
    table, _ = _grown(new_table(), list(known))
    rejoined = joined()
    joins = np.array([word in rejoined for word in known], np.bool_)
    parts = np.array([len(part) for found in known.values() for part in found], np.int64)
    ends = np.cumsum([0, *(len(found) for found in known.values())]).astype(np.int64)
    likely = np.zeros((256, max(map(len, known)) + 1), np.bool_)
    for word in known:
        likely[ord(word[0]), len(word)] = True
    return table.slots, table.ends, table.keys, joins, parts, ends, likely


@final
class WordEncoder:
    """Number the words of texts; a word keeps its number. The special tokens are 0 … 8, then come those of `vocab`."""

    def __init__(self, vocab: Sequence[str] = SPECIALS) -> None:
        """Know the words of a vocabulary from the start, in its order."""
        self.words, _ = _grown(new_table(), vocab)
        self._forget()

    def _forget(self) -> None:
        """Empty the table of chunks."""
        self.chunks = new_table()
        self.chunk_words = np.empty(0, np.int32)
        self.chunk_ends = np.zeros(1, np.int64)
        self.spoiling = np.zeros(0, np.bool_)

    def __len__(self) -> int:
        """Count the words known so far."""
        return self.words.size

    def encode(self, texts: Sequence[str]) -> tuple[Ids, Ends]:
        """Return the numbers of all words, text after text, and where each text's end."""
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        ends = np.cumsum([len(text) for text in encoded]).astype(np.int64)
        return self.encode_bytes(np.frombuffer(b"".join(encoded), np.uint8), ends)

    def encode_bytes(self, buffer: NDArray[np.uint8], ends: Ends) -> tuple[Ids, Ends]:
        """Return what `encode` does, of texts that lie one after another in UTF-8."""
        if self.chunks.size > MOST_CHUNKS:
            self._forget()
        *state, numbers, chunk_ends, hard = scan(buffer, ends, *self.chunks, CLASSES)
        self.chunks = Table(*state)
        self._cut_new()
        self._add_spoiled(numbers, chunk_ends, hard)
        ids, text_ends = expand(numbers, chunk_ends, self.chunk_words, self.chunk_ends, BOS_ID)
        return self._with_hard(buffer, ends, ids, text_ends, hard) if hard.any() else (ids, text_ends)

    def _cut_new(self) -> None:
        """Cut the chunks that are new."""
        first, last = len(self.spoiling), self.chunks.size
        if first == last:
            return
        *state, words, ends, hard = cut_chunks(
            self.chunks.ends, self.chunks.keys, first, last, self.words, _exceptions(), CLASSES, UNITS, UNIT_LENGTHS
        )  # fmt: skip
        self.words = Table(*state)
        spoiling = np.zeros(last - first, np.bool_)
        if hard.any():
            words, ends = self._cut_hard(first, words, ends, hard, spoiling)
        self.spoiling = np.concatenate([self.spoiling, spoiling])
        self.chunk_ends = np.concatenate([self.chunk_ends, ends + self.chunk_ends[-1]])
        self.chunk_words = np.concatenate([self.chunk_words, words])

    def _chunk(self, number: int) -> str:
        key = self.chunks.keys[self.chunks.ends[number] : self.chunks.ends[number + 1]].tobytes()
        return key.decode("utf-8", "surrogatepass")

    def _cut_hard(self, first: int, words: Ids, ends: Ends, hard: Any, spoiling: Any) -> tuple[Ids, Ends]:
        """Let `rules` cut the chunks that are hard, and put their words in between."""
        places = np.flatnonzero(hard)
        found = []
        for place in places.tolist():
            chunk = self._chunk(first + place)
            spoiling[place] = _spoils(chunk)
            found.append(words_of(chunk)[1:])
        return self._replaced(words, ends, places, found)

    def _replaced(self, ids: Ids, ends: Ends, places: Ends, found: Sequence[Sequence[str]]) -> tuple[Ids, Ends]:
        """Put words in the place of what some parts of a row of ids hold."""
        numbers = self._numbers([word for words in found for word in words])
        lengths, pieces, done, used = np.diff(ends, prepend=0), list[Ids](), 0, 0
        for place, words in zip(places.tolist(), found, strict=True):
            last = int(ends[place])
            pieces += [ids[done : last - int(lengths[place])], numbers[used : used + len(words)]]
            lengths[place], done, used = len(words), last, used + len(words)
        return np.concatenate([*pieces, ids[done:]]), np.cumsum(lengths)

    def _numbers(self, words: Sequence[str]) -> Ids:
        self.words, numbers = _grown(self.words, words)
        return numbers

    def _add_spoiled(self, numbers: Ids, ends: Ends, hard: Any) -> None:
        """Mark the texts as hard of which a chunk cannot be told from its neighbours."""
        if self.spoiling.any():
            places = np.flatnonzero(self.spoiling[numbers])
            hard[np.searchsorted(ends, places, side="right")] = True

    def _with_hard(self, buffer: Any, ends: Ends, ids: Ids, text_ends: Ends, hard: Any) -> tuple[Ids, Ends]:
        """Put the words of hard texts in the place of what the kernels made of them."""
        places = np.flatnonzero(hard)
        found = []
        for text in places.tolist():
            start = int(ends[text - 1]) if text else 0
            found.append(words_of(buffer[start : ends[text]].tobytes().decode("utf-8", "surrogatepass")))
        return self._replaced(ids, text_ends, places, found)

    def adopt(self, other: WordEncoder) -> Ids:
        """Take in another's words; return the number here of each number there."""
        ends = other.words.ends[1 : other.words.size + 1]
        keys = other.words.keys[: ends[-1] if len(ends) else 0]
        *state, numbers = intern_keys(*self.words, keys, ends)
        self.words = Table(*state)
        return np.asarray(numbers, np.int32)

    def word(self, number: int) -> str:
        """Return the word of a number."""
        key = self.words.keys[self.words.ends[number] : self.words.ends[number + 1]].tobytes()
        return key.decode("utf-8", "surrogatepass")


def _spoils(chunk: str) -> bool:
    """Say whether HTML in a chunk becomes what matters to its neighbours: a space, or what gets one before it."""
    fixed = html.unescape(chunk.replace("amp;", "&").replace("nbsp;", " ").replace("#", "&#")).replace("&&", "&")
    return any(c.isspace() for c in fixed) or (fixed[0] != chunk[0] and fixed[0] in "/#\\&" + chunk[1:2])


@final
class WordCounts:
    """Count words by their numbers, and remember which came first."""

    def __init__(self) -> None:
        """Nothing is counted yet."""
        self.counts, self.first, self.seen = np.zeros(0, np.int64), np.zeros(0, np.int64), 0

    def add(self, ids: Ids, known: int) -> None:
        """Count the words of some texts, all below `known`."""
        if known > len(self.counts):
            more = np.zeros(max(known, 2 * len(self.counts)) - len(self.counts), np.int64)
            self.counts, self.first = np.concatenate([self.counts, more]), np.concatenate([self.first, more])
        self.seen = count_words(ids, self.counts, self.first, self.seen)

    def frequent(self, min_freq: int, most: int) -> NDArray[np.int64]:
        """Return the numbers of the frequent words, most frequent first, then as they first came; none special."""
        found = np.flatnonzero(self.counts >= min_freq)
        found = found[found >= len(SPECIALS)]
        return found[np.lexsort((self.first[found], -self.counts[found]))][:most]


def recode(ids: Ids, code: Ids, unknown: int) -> Ids:
    """Return ids in a vocabulary; a number without one becomes the unknown one."""
    codes: Ids = copy_ids(ids, code, unknown)
    return codes
