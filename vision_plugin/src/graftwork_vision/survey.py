"""Look at some pictures of a source, to choose what the user left open."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

import numpy as np
from PIL import Image

from graftwork_vision.pictures import orientation
from graftwork_vision.sources import Samples

__all__ = ["Survey", "survey"]

MAX_LOOKS: Final = 256
_GREY_MODES: Final = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N")
_LYING: Final = (5, 6, 7, 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """Say what the pictures looked at have in common: (height, width) or None, and whether all are grey."""

    size: tuple[int, int] | None
    grey: bool


def survey(samples: Samples, *, looks: int = MAX_LOOKS) -> Survey:
    """Look at up to `looks` pictures, evenly spread, by their headers; those that cannot be opened say nothing."""
    count = len(samples.items)
    positions = np.unique(np.linspace(0, count - 1, min(looks, count)).astype(int))
    seen = [s for p in positions if (s := _seen(samples.get_x(samples.items[int(p)]))) is not None]
    sizes = {size for size, _ in seen}
    return Survey(size=next(iter(sizes)) if len(sizes) == 1 else None, grey=bool(seen) and all(g for _, g in seen))


def _seen(value: Any) -> tuple[tuple[int, int], bool] | None:
    if isinstance(value, np.ndarray):
        return (value.shape[0], value.shape[1]), value.ndim == 2 or value.shape[2] == 1
    if isinstance(value, Image.Image):
        return _of(value)
    try:
        with Image.open(BytesIO(value) if isinstance(value, bytes) else value) as picture:
            return _of(picture)
    except Exception:  # whatever a decoder raises on broken data; the loader will say so, naming the file
        return None


def _of(picture: Image.Image) -> tuple[tuple[int, int], bool]:
    size = (picture.height, picture.width)
    return (size[::-1] if orientation(picture) in _LYING else size), picture.mode in _GREY_MODES
