"""From texts to chunks and from chunks to token ids, in numba.

A chunk is what stands between two spaces, or white space that counts. A text that needs a rule which is not written
here is hard, and left to `rules`: white space beyond Latin-1's, backslashes, words said three times.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from graftwork_text.byte_table import Array, hashed, intern, leaf, reserve
from graftwork_text.word_kernels import BLANK, DIGIT, LOWER, RARE, SPACE, SPECIAL, UPPER, is_latin_blank

__all__ = ["copy_ids", "count_words", "expand", "scan"]


# -- from texts to chunks --------------------------------------------------------------------------------------------


@leaf
def _is_break(buf: Array, i: int, end: int) -> bool:
    """Say whether `<br />` is here."""
    return (
        i + 6 <= end and buf[i] == 60 and buf[i + 1] == 98 and buf[i + 2] == 114 and buf[i + 3] == 32
        and buf[i + 4] == 47 and buf[i + 5] == 62
    )  # fmt: skip


@leaf
def _hard_character(buf: Array, i: int, end: int) -> bool:
    """Say whether a byte makes its whole text hard: white space beyond ASCII's usual, a backslash."""
    c = buf[i]
    if c < 0x80:
        return bool(c == 92)
    after = buf[i + 1] if i + 1 < end else 0
    if c == 0xE1:
        return bool(after == 0x9A)
    if c == 0xE2:
        return bool(after == 0x80 or after == 0x81) and bool(_is_wide_space(buf[i + 2] if i + 2 < end else 0, after))
    return bool(c == 0xE3 and after == 0x80 and i + 2 < end and buf[i + 2] == 0x80)


@leaf
def _is_wide_space(last: int, middle: int) -> bool:
    if middle == 0x81:
        return last == 0x9F
    return 0x80 <= last <= 0x8A or last == 0xA8 or last == 0xA9 or last == 0xAF


@leaf
def _starts_apart(buf: Array, a: int, b: int, classes: Array) -> bool:
    """Say whether rewriting puts a space before a chunk."""
    if classes[buf[a]] & SPECIAL:
        return True
    size = 1 if buf[a] < 0xC0 else 2 if buf[a] < 0xE0 else 3 if buf[a] < 0xF0 else 4
    if a + 3 * size > b:
        return False
    same = True
    for j in range(size):
        same = same and buf[a + j] == buf[a + size + j] and buf[a + j] == buf[a + 2 * size + j]
    return same


@leaf
def _word_end(buf: Array, a: int, b: int, classes: Array) -> int:
    """Return where the letters, digits and underscores at the beginning of a chunk end; beyond ASCII all are."""
    i = a
    while i < b and (classes[buf[i]] & (UPPER | LOWER | DIGIT) or buf[i] == 95 or buf[i] >= 0x80):
        i += 1
    return i


@leaf
def _joins_words(buf: Array, a: int, b: int) -> bool:
    """Say whether a chunk is @.@ or @-@, which joins the words around it."""
    return bool(b - a == 3 and buf[a] == 64 and buf[a + 2] == 64)


@njit(cache=True, nogil=True)
def scan(  # noqa: C901 - one pass over the bytes
    buf: Array, text_ends: Array, slots: Array, hashes: Array, ends: Array, keys: Array, n: int, classes: Array
) -> Any:
    """Number the chunks of texts that lie one after another; white space that counts is a chunk as well.

    Return the table's arrays and its size, the chunks' numbers, where each text's end, and which texts are hard.
    """
    out = np.empty(max(16, len(buf) // 3), np.int32)
    out_ends = np.zeros(len(text_ends), np.int64)
    hard = np.zeros(len(text_ends), np.bool_)
    blank = np.empty(64, np.uint8)
    filled, i = 0, 0
    for text in range(len(text_ends)):
        end = text_ends[text]
        length = end - i
        if filled + length + 8 > len(out):
            longer = np.empty(max(len(out) * 3 // 2, filled + length + 8), np.int32)
            longer[:filled] = out[:filled]
            out = longer
        slots, hashes, ends, keys = reserve(slots, hashes, ends, keys, n, length + 2, 2 * length + 64)
        first = filled
        a1, b1, a2, b2 = 0, 0, 0, 0  # the two chunks before
        w = 0
        while i < end and not hard[text]:
            # White space, written as it counts.
            w, last = 0, np.uint8(0)
            while i < end:
                if not classes[buf[i]] & BLANK and not (
                    classes[buf[i]] & RARE and (_is_break(buf, i, end) or is_latin_blank(buf, i, end))
                ):
                    break
                c = buf[i] if buf[i] != 60 else np.uint8(10)
                if c == 0xC2 and w < 60:
                    blank[w] = c
                    w, i, c = w + 1, i + 1, buf[i + 1]
                i += 6 if buf[i] == 60 else 1
                if c == SPACE and last == SPACE:
                    continue
                if w >= 60:
                    hard[text] = True
                    w = 0
                blank[w] = c
                w, last = w + 1, c
            if i >= end:
                break
            a, h = i, np.uint64(14695981039346656037)
            while i < end:
                c = buf[i]
                kind = classes[c]
                if kind & (BLANK | RARE):
                    if kind & BLANK or (c == 60 and _is_break(buf, i, end)) or is_latin_blank(buf, i, end):
                        break
                    if c != 60 and _hard_character(buf, i, end):
                        hard[text] = True
                h = (h ^ np.uint64(c)) * np.uint64(1099511628211)
                i += 1
            h = h ^ (h >> np.uint64(29))
            if _joins_words(buf, a, i):
                hard[text] = True
            if a2 < b2 and buf[a] == buf[a1] and _said_thrice(buf, a2, b2, a1, b1, a, i, classes):
                hard[text] = True
            if b1 - a1 > 2 and buf[b1 - 1] == buf[b1 - 2] and _repeats_on(buf, a1, b1, a, classes):
                hard[text] = True
            skip = 1 if w and blank[0] == SPACE else 0
            if first < filled and w > skip:
                if blank[w - 1] != SPACE and _starts_apart(buf, a, i, classes):
                    blank[w] = SPACE
                    w += 1
                found = intern(slots, hashes, ends, keys, n, blank, skip, w, hashed(blank, skip, w))
                n = max(n, found + 1)
                out[filled] = found
                filled += 1
            found = intern(slots, hashes, ends, keys, n, buf, a, i, h)
            n = max(n, found + 1)
            out[filled] = found
            filled += 1
            a2, b2, a1, b1 = a1, b1, a, i
        if hard[text]:
            filled = first
        i = end
        out_ends[text] = filled
    return slots, hashes, ends, keys, n, out[:filled].copy(), out_ends, hard


@leaf
def _said_thrice(buf: Array, a2: int, b2: int, a1: int, b1: int, a: int, b: int, classes: Array) -> bool:
    """Say whether a word may be there three times: twice alone, then at the beginning of a chunk."""
    size = b1 - a1
    if (
        b - a < size
        or b2 - a2 < size
        or not (_word_end(buf, a1, b1, classes) == b1 or (size == 5 and buf[a1] == 60 and buf[b1 - 1] == 62))
    ):
        return False
    for j in range(size):
        if buf[a1 + j] != buf[a + j] or buf[a1 + j] != buf[b2 - size + j]:
            return False
    # xxrep and an ellipsis put spaces where there were none.
    alone = b2 - a2 == size or _thrice(buf, b2 - size - 3, a2, b2)
    return alone and (_word_end(buf, a, b, classes) <= a + size or _thrice(buf, a + size, a, b))


@leaf
def _thrice(buf: Array, i: int, a: int, b: int) -> bool:
    """Say whether one byte is there three times, or something beyond ASCII, of which we are not sure."""
    if i < a or i + 3 > b:
        return False
    return bool((buf[i] == buf[i + 1] and buf[i] == buf[i + 2]) or buf[i] >= 0x80)


@leaf
def _repeats_on(buf: Array, a1: int, b1: int, a: int, classes: Array) -> bool:
    """Say whether what `xxrep` leaves of a chunk, a number and a character, may be said again by it or the next."""
    last, size = buf[b1 - 1], 1
    while b1 - size > a1 and buf[b1 - size - 1] == last:
        size += 1
    if size < 3 or not (classes[last] & (UPPER | LOWER | DIGIT) or last == 95):
        return False
    return bool(buf[a] == last or size == last - 48)


@njit(cache=True, nogil=True)
def expand(chunks: Array, ends: Array, words: Array, word_ends: Array, bos: int) -> Any:
    """Return the words of texts whose chunks are given, each after `bos`, and where each text's end."""
    total, first = len(ends), 0
    for i in range(len(chunks)):
        total += word_ends[chunks[i] + 1] - word_ends[chunks[i]]
    out, out_ends, n = np.empty(total, np.int32), np.empty(len(ends), np.int64), 0
    for text in range(len(ends)):
        out[n] = bos
        n += 1
        for i in range(first, ends[text]):
            for j in range(word_ends[chunks[i]], word_ends[chunks[i] + 1]):
                out[n] = words[j]
                n += 1
        first = ends[text]
        out_ends[text] = n
    return out, out_ends


@leaf
def count_words(ids: Array, counts: Array, first: Array, before: int) -> int:
    """Count words, and note where each was met first; return the number of words seen."""
    for i in range(len(ids)):
        word = ids[i]
        if counts[word] == 0:
            first[word] = before + i
        counts[word] += 1
    return before + len(ids)


@njit(cache=True, nogil=True)
def copy_ids(ids: Array, code: Array, unknown: int) -> Array:
    """Return the codes of words; of those beyond the end of `code`, the unknown one."""
    out = np.empty(len(ids), np.int32)
    for i in range(len(ids)):
        out[i] = code[ids[i]] if ids[i] < len(code) else unknown
    return out
