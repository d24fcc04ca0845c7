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

__all__ = ["IMAGE_SUFFIXES", "MAX_PIXELS", "full_size", "jpeg_pixels", "open_picture", "to_array", "to_mode"]

# Fixed and sorted: the system's table of mime types differs from machine to machine, and so would the data.
IMAGE_SUFFIXES: Final = (
    *(".avif", ".bmp", ".dib", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
    *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
)
MAX_PIXELS: Final = 178_956_970  # Pillow's own limit for "this is an attack": 0.5 GB as RGB
_FULL_SIZE: Final = "graftwork_full_size"
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LYING: Final = (5, 6, 7, 8)
_ALPHA: Final = ("RGBA", "LA", "PA", "RGBa", "La")
_JPEG: Final = b"\xff\xd8\xff"
_READ: Final = 65_536
_EXIF_WITHIN: Final = 65_536
"""EXIF comes first among a JPEG's segments, or behind one that holds a few bytes."""
_SIXTEEN: Final = ("I;16", "I;16B", "I;16L", "I;16N")


def open_picture(
    value: Any, *, channels: int = 3, shrink_to: int | None = None, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Open a path, bytes, a PIL picture or a uint8 array (H, W) or (H, W, 1|3|4) as RGB (3 channels) or L (1).

    With `shrink_to`, a JPEG may be decoded at a half, a quarter or an eighth of its size, as long as both sides keep
    at least `shrink_to` pixels: several times faster for large photos. A file of more than `max_pixels` is refused
    before it is decoded.

    Raises:
        ItemError: naming the file, and why it cannot be read.
    """
    mode = "L" if channels == 1 else "RGB"
    if isinstance(value, str | os.PathLike):
        path = Path(value)
        return _decoded(path, str(path), mode, shrink_to, max_pixels)
    if isinstance(value, bytes):
        return _decoded(BytesIO(value), f"<{len(value)} bytes>", mode, shrink_to, max_pixels)
    if isinstance(value, Image.Image):
        return to_mode(_turned(_loaded(value, "<picture>")), mode, "<picture>")
    if isinstance(value, np.ndarray):
        return to_mode(_from_array(value), mode, "<array>")
    raise ItemError(f"a picture is a path, bytes, a PIL image or a uint8 array, not {type(value).__name__}")


def _decoded(source: Path | BytesIO, name: str, mode: str, shrink_to: int | None, max_pixels: int) -> Image.Image:
    quick = _plain_jpeg(source, mode, shrink_to, max_pixels)
    return _by_pillow(source, name, mode, shrink_to, max_pixels) if quick is None else quick


def jpeg_pixels(
    value: Any, *, channels: int = 3, shrink_to: int | None = None, max_pixels: int = MAX_PIXELS
) -> np.ndarray[Any, Any] | None:
    """Return a whole JPEG, grey or in colour, as `open_picture` does, but as an array (H, W, C); None for others."""
    if not isinstance(value, str | os.PathLike | bytes):
        return None
    mode = "L" if channels == 1 else "RGB"
    found = _decoded_jpeg(BytesIO(value) if isinstance(value, bytes) else value, mode, shrink_to, max_pixels)
    if found is None:
        return None
    pixels, _, lies = found
    return pixels if lies not in _TURNS else to_array(_upright(pixels, lies))


def _plain_jpeg(source: Path | BytesIO, mode: str, shrink_to: int | None, max_pixels: int) -> Image.Image | None:
    found = _decoded_jpeg(source, mode, shrink_to, max_pixels)
    if found is None:
        return None
    pixels, whole, lies = found
    return _of_size(_upright(pixels, lies), whole, pixels.shape[:2], lies)


def _upright(pixels: np.ndarray[Any, Any], lies: int) -> Image.Image:
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    return picture if lies not in _TURNS else picture.transpose(_TURNS[lies])


def _decoded_jpeg(
    source: str | os.PathLike[str] | BytesIO, mode: str, shrink_to: int | None, max_pixels: int
) -> tuple[np.ndarray[Any, Any], tuple[int, int], int] | None:
    """Decode a whole JPEG, grey or in colour, by libjpeg-turbo directly; None for anything else.

    Returned are the pixels, (height, width) in the file, and how it is turned. The pixels are Pillow's, in three
    quarters of its time, during which other threads run.
    """
    import simplejpeg

    data = _jpeg_bytes(source)
    if data is None:
        return None
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        if space not in ("YCbCr", "Gray") or height * width > max_pixels:
            return None
        share = _share((height, width), shrink_to)
        least = {"min_height": -(-height // share), "min_width": -(-width // share)}
        pixels = simplejpeg.decode_jpeg(data, "GRAY" if mode == "L" else "RGB", **least)
    except ValueError:  # broken, or bent: Pillow reads more than the strict decoder, and says what is wrong
        return None
    return pixels, (height, width), _orientation_of_jpeg(data)


def _orientation_of_jpeg(data: bytes) -> int:
    """Return how a JPEG is turned; Pillow is asked only where there is EXIF to say so."""
    if data.find(b"Exif\0\0", 0, _EXIF_WITHIN) < 0:
        return 1
    with Image.open(BytesIO(data)) as opened:
        return orientation(opened)


def _jpeg_bytes(source: str | os.PathLike[str] | BytesIO) -> bytes | None:
    """Return the content of a JPEG, of which nothing else has been read; None for other files, or none."""
    if isinstance(source, BytesIO):
        data = source.getvalue()
        return data if data.startswith(_JPEG) else None
    try:
        return _jpeg_of_file(source)
    except OSError:  # whoever opens it next will say so
        return None


def _jpeg_of_file(path: str | os.PathLike[str]) -> bytes | None:
    # A file object asks the system six times more, and at each other threads fight for the interpreter.
    file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        data = os.read(file, _READ)
        if not data.startswith(_JPEG):
            return None
        if len(data) < _READ:
            return data
        parts = [data]
        while parts[-1]:
            parts.append(os.read(file, 16 * _READ))
        return b"".join(parts)
    finally:
        os.close(file)


def _share(size: tuple[int, int], shrink_to: int | None) -> int:
    """Return by how much a JPEG may shrink (1, 2, 4, 8) so that both sides keep `shrink_to` pixels."""
    room = 1 if shrink_to is None else min(side // shrink_to for side in size)
    return next((share for share in (8, 4, 2) if share <= room), 1)


def _by_pillow(source: Path | BytesIO, name: str, mode: str, shrink_to: int | None, max_pixels: int) -> Image.Image:
    with opened_file(source, name, max_pixels=max_pixels) as opened:
        whole = opened.size[::-1]
        if opened.format == "JPEG":
            _draft(opened, mode, shrink_to)
        shrunk = opened.size[::-1]
        picture = to_mode(_turned(_loaded(opened, name)), mode, name)
    return _of_size(picture, whole, shrunk, orientation(opened))


def _of_size(picture: Image.Image, whole: tuple[int, int], decoded: tuple[int, int], lies: int) -> Image.Image:
    """Have a picture know how large it is in its file, both (height, width) before it was turned."""
    if decoded != whole:
        picture.info[_FULL_SIZE] = whole[::-1] if lies in _LYING else whole
    return picture


def full_size(picture: Image.Image) -> tuple[int, int]:
    """Return (height, width) of an opened picture as it is in its file, where it was decoded smaller."""
    known: tuple[int, int] = picture.info.get(_FULL_SIZE, (picture.height, picture.width))
    return known


class TooLargeError(ItemError):
    """Say that a picture has more pixels than may be opened."""


def opened_file(source: Path | BytesIO, name: str, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read a picture's header; raise ItemError naming the file if it is none, or has more than `max_pixels`."""
    reason = _unreadable(source)
    if reason:
        raise ItemError(f"{name}: {reason}")
    try:
        opened = _headed(source)
    # A decoder fed with foreign bytes may raise anything (OSError, SyntaxError, struct.error …).
    except Exception as error:
        raise ItemError(f"{name}: {_open_failure(source, error)}") from error
    if opened.width * opened.height > max_pixels:
        opened.close()
        raise TooLargeError(
            f"{name}: {opened.width} x {opened.height} pixels are more than the limit of {max_pixels:,}; if the file "
            "is to be trusted, allow more with max_pixels"
        )
    return opened


def _headed(source: Path | BytesIO) -> Image.Image:
    try:
        return Image.open(source)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        pass
    # Pillow's limit is one for the whole process; what made it stop is opened without it, and has ours.
    file = source.open("rb") if isinstance(source, Path) else source
    file.seek(0)
    start = file.read(16)
    for factory, accept in (Image.OPEN[kind] for kind in Image.ID):
        if accept is None or accept(start) is True:
            file.seek(0)
            return factory(file, str(source) if isinstance(source, Path) else "")
    raise OSError("no decoder for it")


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
