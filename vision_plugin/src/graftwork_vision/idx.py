"""Read IDX files, the format of MNIST, plain or gzipped."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Any, Final

import numpy as np

from graftwork.api import DataError

__all__ = ["find_idx", "read_idx"]

_DTYPES: Final = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP: Final = b"\x1f\x8b"
_PARTS: Final = {"train": "train", "valid": "t10k"}
_KINDS: Final = {"images": "images-idx3-ubyte", "labels": "labels-idx1-ubyte"}


def read_idx(path: str | Path) -> np.ndarray[Any, Any]:
    """Read one IDX file as an array of the shape and type its header states.

    Raises:
        DataError: the file is missing, no IDX file, or shorter or longer than its header says.
    """
    path = Path(path)
    data = _content(path)
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in _DTYPES or not data[3]:
        raise DataError(f"{path}: not an IDX file; it starts with {data[:4]!r}, not with two zero bytes and a type")
    dtype, ndim = np.dtype(_DTYPES[data[2]]), data[3]
    start = 4 + 4 * ndim
    if len(data) < start:
        raise DataError(f"{path}: ends within its header, after {len(data)} bytes")
    shape = struct.unpack(f">{ndim}I", data[4:start])
    expected = start + dtype.itemsize * math.prod(shape)
    if len(data) != expected:
        raise DataError(f"{path}: its header {shape} asks for {expected} bytes; the file holds {len(data)}")
    return np.frombuffer(data, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def _content(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if not data.startswith(_GZIP):
        return data
    try:
        return gzip.decompress(data)
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path}: the gzip file is broken ({error})") from error


def find_idx(folder: str | Path) -> dict[str, tuple[Path, Path]]:
    """Find a folder's IDX pairs: {"train": (images, labels), "valid": (images, labels)}; missing parts are left out."""
    folder = Path(folder)
    found = {}
    for part, prefix in _PARTS.items():
        pair = [_existing(folder, f"{prefix}-{kind}") for kind in _KINDS.values()]
        if pair[0] is not None and pair[1] is not None:
            found[part] = (pair[0], pair[1])
    return found


def _existing(folder: Path, stem: str) -> Path | None:
    # Some archives have a dot where the original names have a dash.
    names = (stem, f"{stem}.gz", stem.replace("-idx", ".idx"), stem.replace("-idx", ".idx") + ".gz")
    return next((folder / name for name in names if (folder / name).is_file()), None)
