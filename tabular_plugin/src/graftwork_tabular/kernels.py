"""The inner loops over keys, compiled by numba on first use and kept in its cache; other threads run meanwhile.

Hash tables are (2 * slots,) uint64, a power of two of slots: a key, then its identity from 1, or 0 where a slot is
free. A loop stops when something is full and is called again when that has grown: numba would count references in every
turn of a loop that replaces its arrays.

numba sees when the file of a kernel changes, not when another does: kernels call what is in their own file, or `fetch`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from graftwork_tabular.text_kernels import fetch, kernel

__all__ = ["add_powers", "find", "group", "insert", "look_up", "merge", "rename", "scatter", "tally", "translate"]

U64 = np.uint64
ONE, BYTE, WORD = U64(1), U64(8), U64(64)
SPREAD = U64(0x9E3779B97F4A7C15)
ROW_MASK = U64(0xFFFF)
MISSING_PART = U64(255)
IN_CACHE = 1 << 16


# -- hash tables -----------------------------------------------------------------------------------------------------


@kernel
def _shift(table: Any) -> Any:
    """Return by how much a spread key is shifted to give a slot."""
    shift, slots = WORD, U64(len(table) >> 1)
    while slots > ONE:
        slots >>= ONE
        shift -= ONE
    return shift


@kernel
def _grown(table: Any, skip: Any) -> Any:
    """Return a table of twice the slots with the same entries."""
    found = np.zeros(len(table) * 2, np.uint64)
    shift, last = _shift(found), U64(len(found) - 2)
    for at in range(0, len(table), 2):
        if table[at + 1]:
            place = (((table[at] * SPREAD) << skip) >> shift) << ONE
            while found[place + ONE]:
                place = (place + U64(2)) & last
            found[place], found[place + ONE] = table[at], table[at + 1]
    return found


@kernel
def _longer(array: Any) -> Any:
    found = np.zeros(len(array) * 2, array.dtype)
    for i in range(len(array)):  # numba takes seconds to compile an assignment to a slice
        found[i] = array[i]
    return found


@kernel
def _copied(array: Any) -> Any:
    found = np.empty(len(array), array.dtype)
    for i in range(len(array)):
        found[i] = array[i]
    return found


@kernel
def insert(keys: Any, missing: Any, train: Any, known: Any, counts: Any, table: Any, ids: Any) -> Any:
    """Give every key an identity, new ones in order of appearance; 0 for missing.

    By identity: `known` (uint64), the key, and `counts` (int64), how often it occurs in training; known[0] is how many
    there are. `known`, `counts` and `table` are returned, larger where they had to grow.
    """
    done = np.int64(0)
    while True:
        done = _insert(keys, missing, train, known, counts, table, ids, done)
        if done == len(keys):
            return known, counts, table
        if U64(len(known)) <= known[0] + ONE:
            known, counts = _longer(known), _longer(counts)
        if U64(len(table) >> 2) <= known[0]:
            table = _grown(table, U64(0))


@kernel
def _insert(keys: Any, missing: Any, train: Any, known: Any, counts: Any, table: Any, ids: Any, begin: Any) -> Any:
    """Insert from row `begin` on until something is full; return how far it went."""
    shift, last = _shift(table), U64(len(table) - 2)
    full = U64(min(len(known) - 1, len(table) >> 2))
    for i in range(begin, len(keys)):
        if len(missing) and missing[i]:
            ids[i] = 0
            continue
        place = ((keys[i] * SPREAD) >> shift) << ONE
        while table[place + ONE] and table[place] != keys[i]:
            place = (place + U64(2)) & last
        found = table[place + ONE]
        if not found:
            if known[0] >= full:
                return i
            found = known[0] + ONE
            known[0], known[found] = found, keys[i]
            table[place], table[place + ONE] = keys[i], found
        ids[i] = found
        if len(train) == 0 or train[i]:
            counts[found] += 1
    return len(keys)


@kernel
def find(keys: Any, missing: Any, table: Any, missing_code: Any, codes: Any) -> None:
    """Look keys up; 0 for those that are not there."""
    shift, last, ahead = _shift(table), U64(len(table) - 2), len(table) > IN_CACHE
    for i in range(len(keys)):
        if ahead:
            fetch(U64(table.ctypes.data) + ((keys[min(i + 16, len(keys) - 1)] * SPREAD) >> shift) * U64(16))
        if len(missing) and missing[i]:
            codes[i] = missing_code
            continue
        place = ((keys[i] * SPREAD) >> shift) << ONE
        while table[place + ONE] and table[place] != keys[i]:
            place = (place + U64(2)) & last
        codes[i] = table[place + ONE]


@kernel
def translate(codes: Any, table: Any) -> None:
    """Replace codes by what a table says."""
    for i in range(len(codes)):
        codes[i] = table[U64(codes[i])]


@kernel
def tally(keys: Any, missing: Any, train: Any, low: Any, counts: Any) -> None:
    """Count keys of a narrow range in training, from `low` on."""
    for i in range(len(keys)):
        if (len(missing) == 0 or not missing[i]) and (len(train) == 0 or train[i]):
            counts[keys[i] - U64(low)] += 1


@kernel
def look_up(keys: Any, missing: Any, low: Any, table: Any, missing_code: Any, codes: Any) -> None:
    """Look keys up in a table of all keys of a narrow range, from `low` on; 0 beyond it."""
    for i in range(len(keys)):
        place = keys[i] - U64(low)
        if len(missing) and missing[i]:
            codes[i] = missing_code
        else:
            codes[i] = table[place] if place < U64(len(table)) else 0


# -- partitions: tables that fit the cache ---------------------------------------------------------------------------


@kernel
def scatter(keys: Any, missing: Any, train: Any, bits: Any, packed: Any, parts: Any, entries: Any, bounds: Any) -> None:
    """Order a block of up to 2**16 keys by partition: first those of training rows, then the others.

    The partition is the upper `bits` of the spread key (of the key itself if `packed`, for hashes). Entries are keys;
    packed, the other upper bits of the hash and the row in the block. `bounds` (2 * 2**bits + 1,): where parts begin.
    """
    half, shift = U64(1) << U64(bits), WORD - U64(bits)
    for i in range(len(keys)):
        if len(missing) and missing[i]:
            parts[i] = MISSING_PART
            continue
        part = (keys[i] if packed else keys[i] * SPREAD) >> shift
        parts[i] = part
        if len(train) and not train[i]:
            part += half
        bounds[part + ONE] += 1
    for part in range(len(bounds) - 1):
        bounds[part + 1] += bounds[part]
    cursor = _copied(bounds)
    for i in range(len(keys)):
        if parts[i] == MISSING_PART:
            continue
        part = U64(parts[i])
        if len(train) and not train[i]:
            part += half
        entries[cursor[part]] = ((keys[i] << U64(bits)) & ~ROW_MASK) | U64(i) if packed else keys[i]
        cursor[part] += 1


@kernel
def group(entries: Any, starts: Any, bounds: Any, packed: Any, firsts: Any) -> Any:
    """Replace every entry by its key's identity within its partition: from 1 for keys of training, else 0.

    Blocks begin at `starts`, their parts at `bounds` within. Returned: keys and counts of all identities, partition by
    partition, and in `firsts` where each partition's begin. Packed: instead of a key, the row where it first appears.
    """
    num_parts, bits = bounds.shape[1] >> 1, U64(0)
    while (1 << bits) < num_parts:
        bits += ONE
    table = np.zeros(2 << 13, np.uint64)
    keys, counts = np.zeros(1 << 14, np.uint64), np.zeros(1 << 14, np.int64)
    for part in range(num_parts):
        firsts[part + 1] = firsts[part]
        for i in range(len(table)):
            table[i] = 0
        keys, counts, table = _learn_all(entries, starts, bounds, packed, bits, table, keys, counts, firsts, part)
        for block in range(len(starts)):
            at, end = bounds[block, part + num_parts], bounds[block, part + num_parts + 1]
            _recognise(entries, starts[block] + at, starts[block] + end, packed, bits, table)
    return keys[: firsts[num_parts]], counts[: firsts[num_parts]]


@kernel
def _learn_all(
    entries: Any, starts: Any, bounds: Any, packed: Any, bits: Any,
    table: Any, keys: Any, counts: Any, firsts: Any, part: Any,
) -> Any:  # fmt: skip
    """Count a partition's entries of training in all blocks, in memory that grows."""
    for block in range(len(starts)):
        at, end = starts[block] + bounds[block, part], starts[block] + bounds[block, part + 1]
        while True:
            at = _learn(entries, at, end, starts[block], packed, bits, table, keys, counts, firsts, part)
            if at == end:
                break
            if firsts[part + 1] == len(keys):
                keys, counts = _longer(keys), _longer(counts)
            if (firsts[part + 1] - firsts[part]) * 4 >= len(table):
                table = _grown(table, bits)
    return keys, counts, table


@kernel
def _learn(
    entries: Any, at: Any, end: Any, row: Any, packed: Any, bits: Any,
    table: Any, keys: Any, counts: Any, firsts: Any, part: Any,
) -> Any:  # fmt: skip
    """Count entries, giving new keys identities, until something is full; return how far it went."""
    shift, last, mask = _shift(table), U64(len(table) - 2), ~ROW_MASK if packed else ~U64(0)
    first, num = firsts[part], firsts[part + 1]
    full = min(len(keys), first + (len(table) >> 2))
    while at < end:
        key = entries[at] & mask
        place = (((key * SPREAD) << bits) >> shift) << ONE
        while table[place + ONE] and table[place] != key:
            place = (place + U64(2)) & last
        found = table[place + ONE]
        if not found:
            if num >= full:
                break
            keys[num] = U64(row) + (entries[at] & ROW_MASK) if packed else key
            num += 1
            found = U64(num - first)
            table[place], table[place + ONE] = key, found
        counts[U64(first) + found - ONE] += 1
        entries[at] = found
        at += 1
    firsts[part + 1] = num
    return at


@kernel
def _recognise(entries: Any, at: Any, end: Any, packed: Any, bits: Any, table: Any) -> None:
    """Replace entries by identities, 0 for those that training has not."""
    shift, last, mask = _shift(table), U64(len(table) - 2), ~ROW_MASK if packed else ~U64(0)
    for i in range(at, end):
        key = entries[i] & mask
        place = (((key * SPREAD) << bits) >> shift) << ONE
        while table[place + ONE] and table[place] != key:
            place = (place + U64(2)) & last
        entries[i] = table[place + ONE]


@kernel
def rename(entries: Any, starts: Any, bounds: Any, firsts: Any, ranks: Any) -> None:
    """Replace identities within partitions by ranks among all, 0 by 0."""
    num_parts = bounds.shape[1] >> 1
    for column in range(2 * num_parts):
        first = U64(firsts[column % num_parts])
        for block in range(len(starts)):
            for i in range(starts[block] + bounds[block, column], starts[block] + bounds[block, column + 1]):
                if entries[i]:
                    entries[i] = ranks[first + entries[i] - ONE]


@kernel
def merge(entries: Any, parts: Any, train: Any, bounds: Any, missing_code: Any, codes: Any) -> None:
    """Bring the codes of a block's entries back into the order of its rows."""
    half, cursor = U64(len(bounds) >> 1), _copied(bounds)
    for i in range(0, len(entries), 8):  # the block comes into the cache in one sweep, not from 128 places at once
        fetch(U64(entries.ctypes.data) + U64(i) * BYTE)
    for i in range(len(codes)):
        part = U64(parts[i])
        if part == MISSING_PART:
            codes[i] = missing_code
            continue
        if len(train) and not train[i]:
            part += half
        at = U64(cursor[part])
        codes[i] = np.int32(entries[at])
        cursor[part] += 1


# -- sums ------------------------------------------------------------------------------------------------------------


@kernel
def add_powers(bits: Any, sums: Any, seen: Any) -> None:
    """Add finite doubles (as bits) and their squares to whole-number sums, eight in a row for each exponent.

    A double is m * 2**k with a whole m below 2**53. `sums` (2048 * 8,) int64: high part h and low part l (27 bits) of m
    with its sign, then words of 32 bits, upper and lower, of h * h, h * l, l * l. `seen` int64: NaNs, infinities.
    """
    half, word = U64(27), U64(32)
    low_half, low_word = U64((1 << 27) - 1), U64((1 << 32) - 1)
    for i in range(len(bits)):
        exponent = (bits[i] >> U64(52)) & U64(0x7FF)
        mantissa = bits[i] & U64((1 << 52) - 1)
        if exponent == U64(0x7FF):
            seen[0 if mantissa else 1] += 1
            continue
        if exponent == U64(0):
            exponent = ONE  # subnormal: no hidden bit, and the exponent of the smallest normal
        else:
            mantissa |= U64(1 << 52)
        high, low = mantissa >> half, mantissa & low_half
        row = exponent * BYTE
        sign = np.int64(1) - np.int64(bits[i] >> U64(63)) * np.int64(2)
        sums[row] += np.int64(high) * sign
        sums[row + ONE] += np.int64(low) * sign
        outer, cross, inner = high * high, high * low, low * low
        sums[row + U64(2)] += np.int64(outer >> word)
        sums[row + U64(3)] += np.int64(outer & low_word)
        sums[row + U64(4)] += np.int64(cross >> word)
        sums[row + U64(5)] += np.int64(cross & low_word)
        sums[row + U64(6)] += np.int64(inner >> word)
        sums[row + U64(7)] += np.int64(inner & low_word)
