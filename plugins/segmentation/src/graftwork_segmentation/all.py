"""Every public name of this package, of vision and of the core: `from graftwork_segmentation.all import *`."""

from __future__ import annotations

import graftwork
import graftwork_segmentation
import graftwork_vision

__all__ = sorted({*graftwork.__all__, *graftwork_vision.__all__, *graftwork_segmentation.__all__})


def __getattr__(name: str) -> object:
    """Hand a public name over from where it is."""
    for package in (graftwork_segmentation, graftwork_vision):
        if name in package.__all__:
            return getattr(package, name)
    return getattr(graftwork, name)
