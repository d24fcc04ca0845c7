"""Open a picture, whatever it is stored as, as 8-bit RGB or grey.

What is decided here: EXIF rotation is applied; transparency is laid on white, as a viewer shows it; 16 bits are scaled
to 8 (not cut off); colour profiles are not applied; of an animation the first frame is taken.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import ExifTags, Image

from graftwork.api import ItemError

__all__ = ["IMAGE_SUFFIXES", "open_picture", "to_array", "to_mode"]

# Fixed and sorted: the system's table of mime types differs from machine to machine, and so would the data.
IMAGE_SUFFIXES: Final = (
    *(".avif", ".bmp", ".dib", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
    *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
)
MAX_PIXELS: Final = 178_956_970  # Pillow's own limit for "this is an attack": 0.5 GB as RGB
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ALPHA: Final = ("RGBA", "LA", "PA", "RGBa", "La")
_SIXTEEN: Final = ("I;16", "I;16B", "I;16L", "I;16N")


def open_picture(value: Any, *, channels: int = 3, shrink_to: int | None = None) -> Image.Image:
    """Open a path, bytes, a PIL picture or a uint8 array (H, W) or (H, W, 1|3|4) as RGB (3 channels) or L (1).

    With `shrink_to`, a JPEG may be decoded at a half, a quarter or an eighth of its size, as long as both sides keep
    at least `shrink_to` pixels: several times faster for large photos.

    Raises:
        ItemError: naming the file, and why it cannot be read.
    """
    mode = "L" if channels == 1 else "RGB"
    if isinstance(value, str | os.PathLike):
        path = Path(value)
        return _decoded(path, str(path), mode, shrink_to)
    if isinstance(value, bytes):
        return _decoded(BytesIO(value), f"<{len(value)} bytes>", mode, shrink_to)
    if isinstance(value, Image.Image):
        return to_mode(_turned(_loaded(value, "<picture>")), mode, "<picture>")
    if isinstance(value, np.ndarray):
        return to_mode(_from_array(value), mode, "<array>")
    raise ItemError(f"a picture is a path, bytes, a PIL image or a uint8 array, not {type(value).__name__}")


def _decoded(source: Path | BytesIO, name: str, mode: str, shrink_to: int | None) -> Image.Image:
    reason = _unreadable(source)
    if reason:
        raise ItemError(f"{name}: {reason}")
    try:
        opened = Image.open(source)
    # A decoder fed with foreign bytes may raise anything (OSError, SyntaxError, struct.error, a warning about size …).
    except Exception as error:
        raise ItemError(f"{name}: {_open_failure(source, error)}") from error
    with opened:
        if opened.width * opened.height > MAX_PIXELS:
            raise ItemError(f"{name}: {opened.width} x {opened.height} pixels are more than the limit of {MAX_PIXELS}")
        if opened.format == "JPEG":
            _draft(opened, mode, shrink_to)
        return to_mode(_turned(_loaded(opened, name)), mode, name)


def _unreadable(source: Path | BytesIO) -> str | None:
    if isinstance(source, BytesIO):
        return None if source.getbuffer().nbytes else "there is nothing in it (0 bytes)"
    try:
        status = source.stat()
    except FileNotFoundError:
        return "no such file"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if stat.S_ISDIR(status.st_mode):
        return "is a folder, not a picture"
    return None if status.st_size else "the file is empty (0 bytes)"


def _open_failure(source: Path | BytesIO, error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"too many pixels: {error}"
    if isinstance(error, PermissionError):
        return "permission to read the file is missing"
    try:
        start = source.getvalue()[:8] if isinstance(source, BytesIO) else _start(source)
    except OSError:
        return f"cannot be read: {error}"
    return f"not a picture Pillow can read (it starts with {start!r})"


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(8)


def _draft(opened: Image.Image, mode: str, shrink_to: int | None) -> None:
    size = (shrink_to, shrink_to) if shrink_to is not None else None
    # Asked for grey, libjpeg need not compute the colours at all.
    if size is not None or mode == "L":
        opened.draft(mode, size)


def _loaded(picture: Image.Image, name: str) -> Image.Image:
    try:
        picture.load()
    except Exception as error:  # as above: whatever a decoder raises on broken data
        kind = "truncated or broken picture"
        raise ItemError(f"{name}: {kind} ({error})") from error
    return picture


def _turned(picture: Image.Image) -> Image.Image:
    turn = _TURNS.get(orientation(picture))
    return picture if turn is None else picture.transpose(turn)


def orientation(picture: Image.Image) -> int:
    """Return how the picture is turned, as EXIF counts: 1 is upright, 5 to 8 swap height and width."""
    try:
        return int(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a broken EXIF block says nothing about the pixels, which are complete
        return 1


def to_mode(picture: Image.Image, mode: str, name: str = "<picture>") -> Image.Image:
    """Convert to "RGB" or "L", laying transparency on white and scaling 16 bits to 8.

    Raises:
        ItemError: the pixels have no known range (32-bit integers beyond 16 bits, floats), or no way to RGB.
    """
    if picture.mode in _SIXTEEN or picture.mode == "I":
        picture = _eight_bits(picture, name)
    elif picture.mode == "F":
        raise ItemError(f"{name}: floating-point pixels have no known range; save it with 8 or 16 bits")
    try:
        if picture.mode in _ALPHA or "transparency" in picture.info:
            picture = _on_white(picture)
        return picture if picture.mode == mode else picture.convert(mode)
    except ValueError as error:
        raise ItemError(f"{name}: a picture of mode {picture.mode!r} cannot be converted to {mode}") from error


def _eight_bits(picture: Image.Image, name: str) -> Image.Image:
    values = np.asarray(picture).astype(np.int64)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ItemError(f"{name}: integer pixels from {low} to {high} do not fit 16 bits, so their range is unknown")
    # 65535 / 257 = 255 exactly; adding 128 rounds to the nearest.
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _on_white(picture: Image.Image) -> Image.Image:
    picture = picture.convert("RGBA")
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, picture).convert("RGB")


def _from_array(array: np.ndarray[Any, Any]) -> Image.Image:
    reason = array_reason(array)
    if reason:
        raise ItemError(reason)
    return Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array)


def array_reason(array: np.ndarray[Any, Any]) -> str | None:
    """Return why `array` is no picture, or None."""
    if array.dtype != np.uint8:
        return f"an array of pixels is uint8 (0 to 255), not {array.dtype}"
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        return f"an array of pixels has the shape (H, W) or (H, W, 1|3|4), not {array.shape}"
    return None if array.size else f"an array of pixels of shape {array.shape} is empty"


def to_array(picture: Image.Image) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the pixels as a new uint8 array (H, W, C)."""
    pixels = np.array(picture)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def is_picture_name(path: Path, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> bool:
    """Say whether the name ends like a picture's, or has no ending at all."""
    return not path.suffix or path.suffix.lower() in suffixes
