"""Colours of classes: masks over their pictures, and what the colours mean."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["colours", "legend", "overlay"]

Array = np.ndarray[Any, Any]
MAPS: Final = ("tab20", "tab20b", "tab20c")
ALPHA: Final = 0.55


@cache
def colours() -> Array:
    """Return the colours of classes, float (60, 3) from 0 to 1; of more classes they repeat."""
    from matplotlib import colormaps

    found: Array = np.concatenate([colormaps[name](np.arange(20))[:, :3] for name in MAPS])
    return found


def overlay(shifted: Array, ax: Axes) -> None:
    """Draw classes plus one (H, W) half transparent, 0 not at all."""
    table = colours()
    painted = np.empty((*shifted.shape, 4), np.float32)
    painted[..., :3] = table[(shifted - 1) % len(table)]
    painted[..., 3] = np.where(shifted > 0, ALPHA, 0)
    ax.imshow(painted, interpolation="nearest")
    ax.axis("off")


def legend(shifted: Sequence[Array], codes: Sequence[str]) -> list[tuple[str, str]]:
    """Name the classes that masks of classes plus one have, those of most pixels first, with their colours."""
    counts = np.zeros(len(codes) + 1, np.int64)
    for mask in shifted:
        counts += np.bincount(mask.ravel(), minlength=len(counts))[: len(counts)]
    order = [code for code in np.argsort(-counts[1:], kind="stable").tolist() if counts[code + 1]]
    return [(codes[code], _hex(code)) for code in order]


def _hex(code: int) -> str:
    from matplotlib.colors import to_hex

    table = colours()
    return to_hex(table[code % len(table)])
