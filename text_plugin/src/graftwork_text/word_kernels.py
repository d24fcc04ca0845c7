"""The word rules over bytes, in numba: a chunk, which is what stands between two spaces, is cut into words.

A chunk that needs a rule which is not written here is hard, and left to `rules`: what is not ASCII, HTML, addresses.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit

from graftwork_text.byte_table import Array, find_key, hashed, intern, leaf, reserve

__all__ = ["CLASSES", "UNITS", "UNIT_LENGTHS", "cut_chunks", "is_latin_blank"]

SPACE, ELLIPSIS = 32, 0x80
MAX_CHUNK: Final = 400
"""Chunks of more bytes are hard, so that small scratch space does."""
MOST_PARTS: Final = 6
RESERVED: Final = 64
"""For how many chunks room is made at a time."""

# Classes of ASCII characters, as bits.
UPPER, LOWER, DIGIT, PREFIX, SUFFIX, QUOTE, BEFORE_DOT, BLANK, SPECIAL, OPERATOR, RARE = (1 << i for i in range(11))


def _classes() -> Array:
    table = np.zeros(256, np.int32)

    def put(chars: str, bit: int) -> None:
        for c in chars:
            table[ord(c)] |= bit

    lower, digits = "abcdefghijklmnopqrstuvwxyz", "0123456789"
    listed, quotes = ",:;!?()[]{}<>_#*&", "'\"`"
    put(lower.upper(), UPPER)
    put(lower, LOWER)
    put(digits, DIGIT)
    put("%=" + listed + quotes + "$", PREFIX)
    put(listed + quotes, SUFFIX)
    put(quotes + ",", QUOTE)
    put(digits + lower + "%-+|" + listed + quotes, BEFORE_DOT)
    put(" \t\n\v\f\r\x1c\x1d\x1e\x1f", BLANK)
    put("/#\\", SPECIAL)
    put(":<>=/", OPERATOR)
    put("<\\\xc2", RARE)
    table[0xE1:] |= RARE
    table[ELLIPSIS] |= PREFIX | SUFFIX | BEFORE_DOT
    return table


CLASSES: Final = _classes()
_UNITS = sorted(
    [
        "km",
        "m",
        "dm",
        "cm",
        "mm",
        "ha",
        "nm",
        "yd",
        "in",
        "ft",
        "kg",
        "g",
        "mg",
        "t",
        "lb",
        "oz",
        "m/s",
        "km/h",
        "kmh",
        "mph",
        "mb",
        "kb",
        "gb",
        "tb",
        "%",
    ],
    key=len,
)[::-1]
UNITS: Final = np.zeros((len(_UNITS), 4), np.uint8)
UNIT_LENGTHS: Final = np.array([len(unit) for unit in _UNITS], np.int64)
for _row, _unit in enumerate(_UNITS):
    UNITS[_row, : len(_unit)] = np.frombuffer(_unit.encode(), np.uint8)


@leaf
def is_latin_blank(buf: Array, i: int, end: int) -> bool:
    """Say whether U+0085 or U+00A0 is here."""
    return bool(buf[i] == 0xC2 and i + 1 < end and (buf[i + 1] == 0x85 or buf[i + 1] == 0xA0))


# -- from chunks to words --------------------------------------------------------------------------------------------


@leaf
def _is_hard(buf: Array, a: int, b: int) -> bool:
    """Say whether a chunk is for `rules`."""
    if b - a > MAX_CHUNK:
        return True
    for i in range(a, b):
        c = buf[i]
        if c >= 0x80 or c == 38 or c == 0:
            return True
        # What fix_html looks for ends so: amp; nbsp; quot; #39;
        if c == 59 and i - a >= 3 and (buf[i - 1] == 112 or buf[i - 1] == 116 or 48 <= buf[i - 1] <= 57):
            return True
        if c == 60 and i + 4 < b and buf[i + 1] == 117 and buf[i + 2] == 110 and buf[i + 3] == 107:
            return True  # <unk>
    return False


@leaf
def _spread(buf: Array, a: int, b: int, out: Array, classes: Array) -> int:
    """Write a chunk as it is rewritten, with spaces around what stands alone; 0x80 is an ellipsis."""
    n, i = 0, a
    while i < b:
        c, size = buf[i], 1
        if c == 46 and i + 2 < b and buf[i + 1] == 46 and buf[i + 2] == 46:
            out[n], out[n + 1] = SPACE, ELLIPSIS
            n, i = n + 2, i + 3
            continue
        while i + size < b and buf[i + size] == c:
            size += 1
        if c == 46:
            # Fewer than three, or what is left of more: as they are.
            size = 1
        if size >= 3:
            n = _write_repeated(out, n, c, size)
        else:
            for _ in range(size):
                if classes[c] & SPECIAL:
                    out[n], out[n + 1], out[n + 2] = SPACE, c, SPACE
                    n += 3
                else:
                    out[n] = c
                    n += 1
        i += size
    return n


@leaf
def _write_repeated(out: Array, n: int, c: int, size: int) -> int:
    for letter in (32, 120, 120, 114, 101, 112, 32):
        out[n] = letter
        n += 1
    if size >= 100:
        out[n] = 48 + size // 100
        n += 1
    if size >= 10:
        out[n] = 48 + size // 10 % 10
        n += 1
    out[n], out[n + 1], out[n + 2], out[n + 3] = 48 + size % 10, SPACE, c, SPACE
    return n + 4


@leaf
def _case_mark(s: Array, a: int, b: int, classes: Array) -> int:
    """Lower a word in place; return 2 if it was all capitals, 1 if it began with its only one, else 0."""
    if not classes[s[a]] & UPPER:
        for i in range(a, b):
            if classes[s[i]] & UPPER:
                s[i] += 32
        return 0
    lower, upper = False, False
    for i in range(a + 1, b):
        lower = lower or bool(classes[s[i]] & LOWER)
        upper = upper or bool(classes[s[i]] & UPPER)
    for i in range(a, b):
        if classes[s[i]] & UPPER:
            s[i] += 32
    if b - a == 1 or (lower and upper):
        return 0
    return 1 if lower else 2


@leaf
def _prefix(s: Array, a: int, b: int, classes: Array) -> int:
    """Return how much is cut off at the beginning."""
    c = s[a]
    if classes[c] & PREFIX:
        return 1
    if c == 43:
        return 0 if a + 1 < b and classes[s[a + 1]] & DIGIT else 1
    i = a
    while i < b and s[i] == 46:
        i += 1
    return i - a if i - a >= 2 else 0


@leaf
def _suffix(  # noqa: C901 - one pass over the bytes
    s: Array, a: int, b: int, classes: Array, units: Array, unit_lengths: Array
) -> int:
    """Return how much is cut off at the end: the most that can be."""
    if a >= b:
        return 0
    c = s[b - 1]
    if c == 115 and b - a >= 2 and s[b - 2] == 39:
        return 2
    if classes[c] & SUFFIX:
        return 1
    if c == 46:
        i = b
        while i > a and s[i - 1] == 46:
            i -= 1
        if b - i >= 2:
            return b - i
        return 1 if b - a >= 2 and classes[s[b - 2]] & BEFORE_DOT else 0
    if b - a >= 2 and classes[s[b - 2]] & DIGIT and (c == 43 or c == 36):
        return 1
    digits = 0
    for i in range(max(a, b - 5), b):
        digits |= classes[s[i]]
    if not digits & DIGIT:
        return 0
    for unit in range(len(unit_lengths)):
        size = unit_lengths[unit]
        if b - a > size and classes[s[b - size - 1]] & DIGIT:
            j = 0
            while j < size and s[b - size + j] == units[unit, j]:
                j += 1
            if j == size:
                return int(size)
    return 0


@leaf
def _infix(  # noqa: C901 - one pass over the bytes
    s: Array, i: int, a: int, b: int, classes: Array
) -> int:
    """Return the length of what is cut out at i."""
    c = s[i]
    if c == ELLIPSIS:
        return 1
    if c == 46:
        j = i
        while j < b and s[j] == 46:
            j += 1
        if j - i >= 2:
            return j - i
    if i == a or i + 1 >= b:
        return 0
    before, after = classes[s[i - 1]], classes[s[i + 1]]
    if before & DIGIT and (c == 43 or c == 45 or c == 42 or c == 94) and (after & DIGIT or s[i + 1] == 45):
        return 1
    if c == 46:
        return 1 if before & (LOWER | QUOTE) and after & QUOTE else 0
    if c == 44:
        return 1 if before & LOWER and after & LOWER else 0
    if not before & (LOWER | DIGIT):
        return 0
    if classes[c] & OPERATOR or c == 126:
        return 1 if after & LOWER else 0
    if c == 45:
        j = i + 1
        while j < b and j < i + 3 and s[j] == 45:
            j += 1
        return j - i if j < b and classes[s[j]] & LOWER else 0
    return 0


@leaf
def _exception(known: Any, s: Array, a: int, b: int) -> int:
    """Return the number of an exception, or one below 0; most words begin as none of their length does."""
    likely = known[6]
    if b - a >= likely.shape[1] or not likely[s[a], b - a]:
        return -1
    return int(find_key(known[0], known[1], known[2], s, a, b))


@leaf
def _cut(  # noqa: C901 - one pass over the bytes
    s: Array, a: int, b: int, cuts: Array, classes: Array, units: Array, unit_lengths: Array, known: Any
) -> int:
    """Write where the words of s[a:b] begin, lower-case ASCII; return their number, or -1 if it is hard."""
    n, tail = 0, MAX_CHUNK * 6
    # Words after the rest are written from the end of `cuts`, and moved.
    first, last = a, b
    special = _exception(known, s, first, last) >= 0
    while first < last and not special:
        ahead = _prefix(s, first, last, classes)
        if ahead and first + ahead < last and _exception(known, s, first + ahead, last) >= 0:
            cuts[n] = first
            n, first, special = n + 1, first + ahead, True
            break
        behind = _suffix(s, first + ahead, last, classes, units, unit_lengths)
        if behind and last - behind > first and _exception(known, s, first, last - behind) >= 0:
            last, special = last - behind, True
            tail -= 1
            cuts[tail] = last
            break
        if not ahead and not behind:
            break
        if ahead:
            cuts[n] = first
            n, first = n + 1, first + ahead
        if behind:
            last -= behind
            tail -= 1
            cuts[tail] = last
        if first < last:
            special = _exception(known, s, first, last) >= 0
    if special:
        n = _write_parts(known, _exception(known, s, first, last), first, cuts, n)
    elif first < last:
        n = _cut_inner(s, first, last, cuts, n, classes)
        if n < 0:
            return -1
    for j in range(tail, MAX_CHUNK * 6):
        cuts[n] = cuts[j]
        n += 1
    return _rejoin(s, b, cuts, n, known) if n > 1 else n


@leaf
def _cut_inner(s: Array, first: int, last: int, cuts: Array, n: int, classes: Array) -> int:
    dotted, start, i = False, first, first
    for j in range(first, last):
        dotted = dotted or s[j] == 46
    while i < last:
        size = _infix(s, i, first, last, classes)
        if size and dotted:
            return -1  # it may be an address
        if size and i > start:
            cuts[n], cuts[n + 1] = start, i
            n, start = n + 2, i + size
        i += max(size, 1)
    if start < last:
        cuts[n] = start
        n += 1
    return n


@leaf
def _write_parts(known: Any, exception: int, begin: int, cuts: Array, n: int) -> int:
    """Write where the parts of an exception begin."""
    parts, part_ends = known[4], known[5]
    for part in range(part_ends[exception], part_ends[exception + 1]):
        cuts[n] = begin
        n, begin = n + 1, begin + parts[part]
    return n


@leaf
def _rejoin(s: Array, b: int, cuts: Array, n: int, known: Any) -> int:
    """Put together again what is an exception over several words; it is never more parts than it was words."""
    done, i = 0, 0
    while i < n:
        size = 1
        for k in range(min(n - i, MOST_PARTS), 1, -1):
            found = _exception(known, s, cuts[i], b if i + k == n else cuts[i + k])
            if found >= 0 and known[3][found]:
                size = k
                done = _write_parts(known, found, cuts[i], cuts, done)
                break
        if size == 1:
            cuts[done] = cuts[i]
            done += 1
        i += size
    return done


@njit(cache=True, nogil=True)
def cut_chunks(  # noqa: C901 - one pass over the bytes
    chunk_ends: Array,
    chunks: Array,
    first: int,
    last: int,
    words: Any,
    known: Any,
    classes: Array,
    units: Array,
    unit_lengths: Array,
) -> Any:
    """Cut the chunks from `first` to `last` into words.

    Return the words' table and size, the words of all chunks, where each chunk's end, and which chunks are hard.
    """
    slots, hashes, ends, keys, n = words
    out, out_ends = np.empty(4 * (last - first) + 64, np.int32), np.zeros(last - first, np.int64)
    hard = np.zeros(last - first, np.bool_)
    s, cuts, filled = np.empty(MAX_CHUNK * 6, np.uint8), np.empty(MAX_CHUNK * 6, np.int64), 0
    utf8 = np.empty(3 * MAX_CHUNK * 6, np.uint8)
    for chunk in range(first, last):
        a, b = chunk_ends[chunk], chunk_ends[chunk + 1]
        if (chunk - first) % RESERVED == 0:
            more = chunk_ends[min(chunk + RESERVED, last)] - a
            slots, hashes, ends, keys = reserve(slots, hashes, ends, keys, n, 4 * more + 64, 24 * more + 64)
            if filled + 4 * more + 64 > len(out):
                longer = np.empty(2 * len(out) + 4 * more, np.int32)
                longer[:filled] = out[:filled]
                out = longer
        if classes[chunks[a]] & BLANK or is_latin_blank(chunks, a, b):
            size = _write_blank(chunks, a, b, utf8)
            out[filled] = intern(slots, hashes, ends, keys, n, utf8, 0, size, hashed(utf8, 0, size))
            n = max(n, out[filled] + 1)
            filled += 1
        elif _is_hard(chunks, a, b):
            hard[chunk - first] = True
        else:
            size, i, before = _spread(chunks, a, b, s, classes), 0, filled
            while i < size and not hard[chunk - first]:
                if s[i] == SPACE:
                    i += 1
                    continue
                j = i
                while j < size and s[j] != SPACE:
                    j += 1
                mark = _case_mark(s, i, j, classes)
                if mark:
                    out[filled] = 8 if mark == 1 else 7  # xxmaj, xxup
                    filled += 1
                count = _cut(s, i, j, cuts, classes, units, unit_lengths, known)
                if count < 0:
                    hard[chunk - first] = True
                    filled = before
                for k in range(count):
                    long = _write_word(s, cuts[k], j if k + 1 == count else cuts[k + 1], utf8)
                    word = intern(slots, hashes, ends, keys, n, utf8, 0, long, hashed(utf8, 0, long))
                    n = max(n, word + 1)
                    out[filled] = word
                    filled += 1
                i = j
        out_ends[chunk - first] = filled
    return slots, hashes, ends, keys, n, out[:filled].copy(), out_ends, hard


@leaf
def _write_blank(chunks: Array, a: int, b: int, out: Array) -> int:
    """Write white space with ▁ for each blank, in UTF-8."""
    n = 0
    for i in range(a, b):
        if chunks[i] == SPACE:
            out[n], out[n + 1], out[n + 2] = 0xE2, 0x96, 0x81
            n += 3
        else:
            out[n] = chunks[i]
            n += 1
    return n


@leaf
def _write_word(s: Array, a: int, b: int, out: Array) -> int:
    """Write a word in UTF-8."""
    n = 0
    for i in range(a, b):
        if s[i] == ELLIPSIS:
            out[n], out[n + 1], out[n + 2] = 0xE2, 0x80, 0xA6
            n += 3
        else:
            out[n] = s[i]
            n += 1
    return n
