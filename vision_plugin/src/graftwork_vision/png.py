"""PNGs of several bands of 16 bits, of which Pillow keeps 8 and torchvision's decoder is to be removed.

What is read is what the standard says of such files (W3C, Portable Network Graphics, third edition): five filters of
rows, and pixels in order or interlaced (Adam7).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any, Final, ParamSpec, TypeVar, cast

import numba
import numpy as np

from graftwork.api import ItemError

__all__ = ["sixteen_bit_png"]

P = ParamSpec("P")
R = TypeVar("R")
Array = np.ndarray[Any, Any]

BANDS: Final = {2: 3, 4: 2, 6: 4}
"""How many values a pixel has by the header's colour type: RGB, grey with transparency, RGB with transparency."""
IN_ORDER: Final = ((0, 0, 1, 1),)
INTERLACED: Final = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""The passes over a picture: the first column and row, and the steps between columns and between rows."""
SUB, UP, MEAN, PAETH = 1, 2, 3, 4


def sixteen_bit_png(data: bytes, name: str) -> Array:
    """Return the values of a PNG, uint16 (H, W, 2|3|4), of a file whose header says 16 bits and several bands.

    Raises:
        ItemError: the file is truncated or broken.
    """
    try:
        width, height, _, colour, _, _, interlaced = struct.unpack(">IIBBBBB", data[16:29])
        bands, passes = BANDS[colour], INTERLACED if interlaced else IN_ORDER
        result = np.empty((height, width, bands), np.uint16)
        parts = [part for x, y, across, down in passes if (part := result[y::down, x::across]).size]
        lengths = [len(part) * (1 + part.shape[1] * bands * 2) for part in parts]
        # No more than the picture needs: a few bytes may stand for any number.
        lines = zlib.decompressobj().decompress(_content(data), sum(lengths))
        start = 0
        for part, length in zip(parts, lengths, strict=True):
            rows = np.frombuffer(lines, np.uint8, length, start).reshape(len(part), -1)
            if rows[:, 0].max() > PAETH:
                raise ValueError(f"a row has the filter {rows[:, 0].max()}, and there are 0 to {PAETH}")
            part[...] = _unfiltered(rows, 2 * bands).view(">u2").reshape(part.shape)
            start += length
    except (struct.error, zlib.error, ValueError) as error:
        raise ItemError(f"{name}: truncated or broken picture ({error})") from error
    return result


def _content(data: bytes) -> bytes:
    """Put the parts of the compressed pixels together."""
    found, at = [], 8
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        if kind == b"IEND":
            break
        if kind == b"IDAT":
            if zlib.crc32(kind + body) != struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0]:
                raise ValueError("a checksum does not fit")
            found.append(body)
        at += 12 + length
    return b"".join(found)


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function, keep it on disk, and let other threads run meanwhile."""
    return cast("Callable[P, R]", numba.njit(cache=True, nogil=True)(function))


@kernel
def _unfiltered(rows: Any, step: Any) -> Any:
    """Undo the filters of rows (H, 1 + bytes), each of which begins with its filter's number; `step` bytes a pixel."""
    height, count = rows.shape[0], rows.shape[1] - 1
    result = np.zeros((height, count), np.uint8)
    for i in range(height):
        kind = rows[i, 0]
        for j in range(count):
            left = np.int32(result[i, j - step]) if j >= step else np.int32(0)
            above = np.int32(result[i - 1, j]) if i else np.int32(0)
            corner = np.int32(result[i - 1, j - step]) if i and j >= step else np.int32(0)
            guess = np.int32(0)
            if kind == SUB:
                guess = left
            elif kind == UP:
                guess = above
            elif kind == MEAN:
                guess = (left + above) // 2
            elif kind == PAETH:
                by_left, by_above = abs(above - corner), abs(left - corner)
                by_corner = abs(left + above - 2 * corner)
                if by_left <= by_above and by_left <= by_corner:
                    guess = left
                else:
                    guess = above if by_above <= by_corner else corner
            result[i, j] = np.uint8((np.int32(rows[i, j + 1]) + guess) & 255)
    return result
