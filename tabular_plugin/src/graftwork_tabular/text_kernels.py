"""The inner loops over text and over sorted keys, compiled by numba on first use and kept in its cache.

Text is read where Arrow keeps it, by address, so that string and large_string columns, slices and chunks need no
copies. Nothing is read beyond a text's end. Many texts are known by their places (2 * n,) uint64: address and length,
in turn. Kernels call what is in this file alone, since numba does not see when another file changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.extending import intrinsic

__all__ = ["check_text", "fetch", "hash_text", "kernel", "locate", "pack_text", "sort_keys", "sort_text"]

P = ParamSpec("P")
R = TypeVar("R")
U64 = np.uint64
ONE, BYTE = U64(1), U64(8)
SEEDS = (U64(0xA0761D6478BD642F), U64(0xE7037ED1A0B428DB), U64(0x8EBC6AF09C88C6E3))
SMALL = 32
IN_CACHE = 1 << 15


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function, keep it on disk, and let other threads run meanwhile."""
    return cast("Callable[P, R]", numba.njit(cache=True, nogil=True)(function))


# -- memory  ------------------------------------------------------------------------------------------------------


def _loader(bits: int) -> Any:
    def load(context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer = builder.inttoptr(arguments[0], ir.IntType(bits).as_pointer())
            found = builder.load(pointer, align=1)
            return found if bits == 64 else builder.zext(found, ir.IntType(64))

        return types.uint64(types.uint64), generate

    return intrinsic(load)


load8, load32, load64 = _loader(8), _loader(32), _loader(64)


def _store64(context: Any, address: Any, word: Any) -> Any:
    """Write a word."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        builder.store(arguments[1], pointer, align=1)
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64), generate


def _fetch(context: Any, address: Any) -> Any:
    """Ask for memory that is read soon."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        insert: Any = cgutils.get_or_insert_function
        byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        form = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
        function = insert(builder.module, form, "llvm.prefetch.p0")
        pointer = builder.inttoptr(arguments[0], byte)
        builder.call(function, [pointer, *(ir.Constant(flag, value) for value in (0, 3, 1))])
        return context.get_dummy_value()

    return types.void(types.uint64), generate


def _swapped(context: Any, word: Any) -> Any:
    """Reverse the bytes of a word."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bswap(arguments[0])

    return types.uint64(types.uint64), generate


def _folded(context: Any, one: Any, other: Any) -> Any:
    """Multiply to 128 bits and xor the halves."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide, word = ir.IntType(128), ir.IntType(64)
        product = builder.mul(*(builder.zext(argument, wide) for argument in arguments))
        upper = builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), word)
        return builder.xor(upper, builder.trunc(product, word))

    return types.uint64(types.uint64, types.uint64), generate


store64: Any = intrinsic(_store64)
fetch: Any = intrinsic(_fetch)
swapped: Any = intrinsic(_swapped)
folded: Any = intrinsic(_folded)


@kernel
def _offset(offsets: Any, wide: Any, row: Any) -> Any:
    """Return where a row of text begins."""
    return load64(offsets + row * BYTE) if wide else load32(offsets + row * U64(4))


@kernel
def _ends(address: Any, length: Any) -> Any:
    """Return two words that say all about a text of up to 16 bytes of known length."""
    if length >= BYTE:
        return load64(address), load64(address + length - BYTE)
    if length >= U64(4):
        return load32(address), load32(address + length - U64(4))
    if length:
        return load8(address) | (load8(address + length - ONE) << BYTE), load8(address + (length >> ONE))
    return U64(0), U64(0)


@kernel
def _same(one: Any, other: Any, length: Any) -> Any:
    """Compare two texts of one length."""
    at = U64(0)
    while at + U64(16) < length:
        if load64(one + at) != load64(other + at):
            return False
        at += BYTE
    first, last = _ends(one + at, length - at)
    begin, end = _ends(other + at, length - at)
    return first == begin and last == end


@kernel
def hash_text(offsets: Any, wide: Any, data: Any, begin: Any, keys: Any) -> None:
    """Hash texts from row `begin` on: three multiplications for 16 bytes and fewer, one more for every 16 beyond."""
    low = _offset(offsets, wide, U64(begin))
    for i in range(len(keys)):
        high = _offset(offsets, wide, U64(begin) + U64(i) + ONE)
        address, length = data + low, high - low
        seed = SEEDS[0] ^ length
        while length > U64(16):
            seed = folded(load64(address) ^ SEEDS[1], load64(address + BYTE) ^ seed)
            address += U64(16)
            length -= U64(16)
        first, last = _ends(address, length)
        keys[i] = folded(SEEDS[1] ^ (high - low), folded(first ^ SEEDS[1], last ^ seed) ^ SEEDS[2])
        low = high


# -- comparing and sorting ------------------------------------------------------------------------------------------


@kernel
def check_text(offsets: Any, wide: Any, data: Any, begin: Any, ids: Any, places: Any) -> Any:
    """Compare each row's text with that of its identity; return how many differ, and set the identity of those to 0.

    `places` (2 * identities,): address and length. An address that is still 0 becomes the row's. Rows of identity 0,
    and beyond all places, have no text to compare.
    """
    wrong, num, size = 0, len(ids), U64(len(places))
    ahead = len(places) > IN_CACHE
    low = _offset(offsets, wide, U64(begin))
    for i in range(num):
        if ahead:
            at = U64(ids[min(i + 32, num - 1)]) << ONE
            if at < size:
                fetch(U64(places.ctypes.data) + at * BYTE)
            at = U64(ids[min(i + 16, num - 1)]) << ONE
            if at < size:
                fetch(places[at])
        high = _offset(offsets, wide, U64(begin) + U64(i) + ONE)
        address, length = data + low, high - low
        low = high
        at = U64(ids[i]) << ONE
        if at == U64(0) or at >= size:
            continue
        if places[at] == U64(0):
            places[at], places[at + ONE] = address, length
        elif places[at + ONE] != length or not _same(address, places[at], length):
            ids[i] = 0
            wrong += 1
    return wrong


@kernel
def _deal(keys: Any, order: Any, keys2: Any, order2: Any, low: Any, high: Any, shift: Any, places: Any) -> None:
    """Copy a range to where its bytes at `shift` belong."""
    for i in range(low, high):
        value = (keys[i] >> shift) & U64(255)
        at = U64(places[value])
        keys2[at], order2[at] = keys[i], order[i]
        places[value] += 1


@kernel
def _sort_by_bytes(keys: Any, order: Any, keys2: Any, order2: Any, low: Any, high: Any) -> None:
    """Sort a range of keys and what goes with them, byte by byte from the last; bytes all alike cost nothing."""
    counts, moved = np.zeros((8, 256), np.int64), 0
    for i in range(low, high):
        for byte in range(8):
            counts[byte, (keys[i] >> U64(8 * byte)) & U64(255)] += 1
    first = keys[low]
    for byte in range(8):
        shift = U64(8 * byte)
        if counts[byte, (first >> shift) & U64(255)] == high - low:
            continue
        place = low
        for value in range(256):
            count = counts[byte, value]
            counts[byte, value] = place
            place += count
        if moved & 1:
            _deal(keys2, order2, keys, order, low, high, shift, counts[byte])
        else:
            _deal(keys, order, keys2, order2, low, high, shift, counts[byte])
        moved += 1
    if moved & 1:
        for i in range(low, high):
            keys[i], order[i] = keys2[i], order2[i]


@kernel
def sort_keys(keys: Any, order: Any) -> None:
    """Sort keys in place, and `order` with them."""
    if len(keys):
        _sort_by_bytes(keys, order, np.empty_like(keys), np.empty_like(order), np.int64(0), len(keys))


@kernel
def _word(address: Any, length: Any, depth: Any) -> Any:
    """Return the eight bytes from `depth` on, the first one uppermost, zeros beyond the end."""
    if depth >= length:
        return U64(0)
    if depth + BYTE <= length:
        return swapped(load64(address + depth))
    rest = length - depth
    if length >= BYTE:
        return swapped(load64(address + length - BYTE)) << ((BYTE - rest) * BYTE)
    found = U64(0)
    for i in range(rest):
        found |= load8(address + depth + U64(i)) << (U64(56) - U64(i) * BYTE)
    return found


@kernel
def _precedes(places: Any, one: Any, other: Any, depth: Any) -> Any:
    """Compare texts by their bytes from `depth` on; one that ends earlier comes first."""
    length, other_length = places[2 * one + 1], places[2 * other + 1]
    while depth < length and depth < other_length:
        word, other_word = _word(places[2 * one], length, depth), _word(places[2 * other], other_length, depth)
        if word != other_word:
            return word < other_word
        depth += BYTE
    return length < other_length


@kernel
def _sort_few(places: Any, order: Any, low: Any, high: Any, depth: Any) -> None:
    """Sort a short range by insertion."""
    for i in range(low + 1, high):
        moved, at = order[i], i
        while at > low and _precedes(places, moved, order[at - 1], depth):
            order[at] = order[at - 1]
            at -= 1
        order[at] = moved


@kernel
def sort_text(places: Any) -> Any:
    """Return the order of distinct texts by their bytes: by eight of them, then ranges that agree by the next eight."""
    num = len(places) >> 1
    order, order2 = np.empty(num, np.int32), np.empty(num, np.int32)
    keys, keys2 = np.empty(num, np.uint64), np.empty(num, np.uint64)
    for i in range(num):
        order[i] = i
    todo, pending = np.empty((num // SMALL + 2, 3), np.int64), 0  # ranges wait that do not overlap and are not small
    if num:
        todo[0, 0], todo[0, 1], todo[0, 2], pending = 0, num, 0, 1
    while pending:
        pending -= 1
        low, high, depth = todo[pending, 0], todo[pending, 1], U64(todo[pending, 2])
        for i in range(low, high):
            fetch(places[2 * order[min(i + 16, high - 1)]] + depth)
            keys[i] = _word(places[2 * order[i]], places[2 * order[i] + 1], depth)
        _sort_by_bytes(keys, order, keys2, order2, low, high)
        begin = low
        for i in range(low + 1, high + 1):
            if i < high and keys[i] == keys[begin]:
                continue
            if i - begin > SMALL:
                todo[pending, 0], todo[pending, 1], todo[pending, 2] = begin, i, np.int64(depth + BYTE)
                pending += 1
            elif i - begin > 1:
                _sort_few(places, order, begin, i, depth + BYTE)
            begin = i
    return order


@kernel
def locate(rows: Any, starts: Any, offsets: Any, wide: Any, data: Any) -> Any:
    """Return addresses and lengths of texts by row; a chunk has its first row and the addresses of row 0 and byte 0."""
    found = np.empty(2 * len(rows), np.uint64)
    width = BYTE if wide else U64(4)
    for i in range(len(rows)):
        if len(starts) == 1:
            fetch(offsets[0] + rows[min(i + 32, len(rows) - 1)] * width)
        low, high = 0, len(starts)
        while high - low > 1:
            middle = (low + high) >> 1
            if starts[middle] <= rows[i]:
                low = middle
            else:
                high = middle
        row = rows[i] - starts[low]
        begin = _offset(offsets[low], wide, row)
        found[2 * i], found[2 * i + 1] = data[low] + begin, _offset(offsets[low], wide, row + ONE) - begin
    return found


@kernel
def pack_text(places: Any, order: Any, offsets: Any) -> Any:
    """Return the bytes of texts in order, one after the other, and fill in where each begins."""
    for i in range(len(order)):
        offsets[i + 1] = offsets[i] + np.int64(places[2 * order[i] + 1])
    data = np.empty(offsets[len(order)] + 8, np.uint8)
    to = U64(data.ctypes.data)
    for i in range(len(order)):
        if i + 16 < len(order):
            fetch(places[2 * order[i + 16]])
        address, length = places[2 * order[i]], places[2 * order[i] + 1]
        end = address + length
        while address + BYTE <= end:
            store64(to, load64(address))
            address += BYTE
            to += BYTE
        rest = end - address
        if rest:
            store64(to, swapped(_word(address, rest, U64(0))))  # zeros beyond the end are overwritten by the next text
            to += rest
    return data
