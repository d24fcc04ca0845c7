"""Vocabularies: the special tokens, which words are kept, and what each is called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from graftwork.api import DataError, OptionError

__all__ = [
    "BOS",
    "EOS",
    "FAKE",
    "FLD",
    "MAJ",
    "PAD",
    "REP",
    "SPECIALS",
    "UNK",
    "UP",
    "WREP",
    "check_counts",
    "check_vocab",
    "make_vocab",
]

UNK, PAD, BOS, EOS, FLD = "xxunk", "xxpad", "xxbos", "xxeos", "xxfld"
REP, WREP, UP, MAJ = "xxrep", "xxwrep", "xxup", "xxmaj"
FAKE: Final = "xxfake"
SPECIALS: Final = (UNK, PAD, BOS, EOS, FLD, REP, WREP, UP, MAJ)
"""The first tokens of every vocabulary of words, in fastai's order."""
MULTIPLE: Final = 8


def make_vocab(counts: Mapping[str, int], *, min_freq: int = 3, max_vocab: int = 60_000) -> tuple[str, ...]:
    """Return the special tokens, then the frequent words, most frequent first; words of one count as they first came.

    Filled up with xxfake0, xxfake1, … to a multiple of 8. The special tokens count towards `max_vocab` no more than the
    filling does: at most that many words are kept.
    """
    check_counts(min_freq, max_vocab)
    special = set(SPECIALS)
    kept = [word for word, count in counts.items() if count >= min_freq and word not in special]
    kept.sort(key=lambda word: -counts[word])
    return filled([*SPECIALS, *kept[:max_vocab]])


def filled(words: Sequence[str]) -> tuple[str, ...]:
    """Fill a vocabulary up to a multiple of 8, which matrix products like."""
    return (*words, *(f"{FAKE}{i}" for i in range(-len(words) % MULTIPLE)))


def check_counts(min_freq: int, max_vocab: int) -> None:
    """Refuse numbers by which no word would be kept, or that mean nothing; raise OptionError."""
    if min_freq < 1 or max_vocab < 1:
        raise OptionError(f"min_freq={min_freq} and max_vocab={max_vocab} must be at least 1")


def check_vocab(vocab: Iterable[str], owner: str, *needed: str) -> None:
    """Refuse a vocabulary that lists a token twice, or lacks one that is needed; raise DataError."""
    seen: set[str] = set()
    for word in vocab:
        if word in seen:
            raise DataError(f"{owner}: the vocabulary lists {word!r} twice")
        seen.add(word)
    lacking = [word for word in needed if word not in seen]
    if lacking:
        raise DataError(
            f"{owner}: the vocabulary of {len(seen)} tokens lacks {', '.join(map(repr, lacking))}, for what is unknown "
            "or fills batches up; put them in front, or name others (unk=, pad=)"
        )
