"""Read a mask, whatever it is stored as, and tell its pixels' classes.

What is decided here: a pixel's value is what the file stores, never scaled; of a palette picture that is the position
in the palette; colours are accepted only where all three channels are equal. Opened, a mask holds each pixel's class
plus one, so that 0, with which a picture is padded, means that nothing is known.
"""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from graftwork.api import ItemError

__all__ = ["LARGEST_VALUE", "Array", "classes_of", "lookup", "mask_values", "to_picture"]

Array = np.ndarray[Any, Any]
LARGEST_VALUE: Final = 65535
_GREY: Final = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N")


def mask_values(value: Any) -> tuple[Array, str]:
    """Return the pixels (H, W) of a path, bytes, a PIL image or an array of integers, and what to call it.

    Raises:
        ItemError: it cannot be read, or its pixels are no integers from 0 to 65535.
    """
    if isinstance(value, np.ndarray):
        return _checked(value, "<array>"), "<array>"
    if isinstance(value, Image.Image):
        return _checked(_pixels(value, "<mask>"), "<mask>"), "<mask>"
    if isinstance(value, bytes):
        return _decoded(BytesIO(value), f"<{len(value)} bytes>")
    if isinstance(value, str | os.PathLike):
        return _decoded(Path(value), str(value))
    raise ItemError(f"a mask is a path, bytes, a PIL image or an array of integers, not {type(value).__name__}")


def _decoded(source: Path | BytesIO, name: str) -> tuple[Array, str]:
    try:
        with Image.open(source) as picture:
            picture.load()
            return _checked(_pixels(picture, name), name), name
    except ItemError:
        raise
    except FileNotFoundError as error:
        raise ItemError(f"{name}: no such file") from error
    except Exception as error:  # whatever a decoder raises on foreign or broken bytes, or on far too many pixels
        raise ItemError(f"{name}: cannot be read as a mask ({error})") from error


def _pixels(picture: Image.Image, name: str) -> Array:
    if picture.mode in _GREY:
        return np.asarray(picture)
    if picture.mode not in ("RGB", "RGBA", "LA"):
        raise ItemError(f"{name}: a mask of mode {picture.mode!r} has no classes; save it as grey, 8 or 16 bits")
    pixels = np.asarray(picture)[..., :1] if picture.mode == "LA" else np.asarray(picture)[..., :3]
    coloured = (pixels != pixels[..., :1]).any(-1)
    if coloured.any():
        row, column = np.argwhere(coloured)[0]
        raise ItemError(
            f"{name}: a mask in colours, such as {tuple(pixels[row, column].tolist())} at row {row}, column {column}; "
            "save it with one channel that holds each pixel's class, grey or with a palette"
        )
    grey: Array = pixels[..., 0]
    return grey


def _checked(values: Array, name: str) -> Array:
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if values.ndim != 2 or values.size == 0:
        raise ItemError(f"{name}: a mask has the shape (height, width), not {values.shape}")
    if values.dtype == bool:
        return values.astype(np.uint8)
    if values.dtype.kind not in "iu":
        raise ItemError(f"{name}: a mask holds integers, not {values.dtype}")
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > LARGEST_VALUE:
        raise ItemError(f"{name}: a mask's values lie between 0 and {LARGEST_VALUE}; found {low} to {high}")
    return values


def lookup(values: tuple[int, ...], ignore_index: int | None) -> Array:
    """Return what each pixel value means, int32 (65536,): its class plus one, 0 for `ignore_index`, -1 for nothing."""
    table = np.full(LARGEST_VALUE + 1, -1, dtype=np.int32)
    table[list(values)] = np.arange(1, len(values) + 1)
    if ignore_index is not None:
        table[ignore_index] = 0
    return table


def classes_of(value: Any, table: Array, num_classes: int) -> Image.Image:
    """Open a mask as a picture of classes plus one (mode L, or I for more than 255), 0 where nothing is known.

    Raises:
        ItemError: naming the file, and the first value that is no class.
    """
    values, name = mask_values(value)
    classes = table[values]
    if int(classes.min()) < 0:
        raise ItemError(_no_class(values, classes, name, table))
    return to_picture(classes, num_classes)


def to_picture(classes: Array, num_classes: int) -> Image.Image:
    """Make a picture of classes plus one."""
    return Image.fromarray(classes.astype(np.uint8 if num_classes < 256 else np.int32))


def _no_class(values: Array, classes: Array, name: str, table: Array) -> str:
    wrong = classes < 0
    row, column = np.argwhere(wrong)[0]
    known = np.flatnonzero(table >= 0).tolist()
    shown = f"{known[0]} to {known[-1]}" if known == list(range(known[0], known[-1] + 1)) else str(known[:12])
    others = sorted(set(values[wrong].tolist()))
    return (
        f"{name}: the mask has the value {values[row, column]} at row {row}, column {column} "
        f"({int(wrong.sum())} pixels in all, of the values {others[:5]}), and the codes stand for {shown}; "
        "add the missing codes, or pass ignore_index= if that value marks pixels without a class"
    )
