"""Every public name of this package and of the core, for notebooks: `from graftwork_text.all import *`."""

from __future__ import annotations

import graftwork
import graftwork_text

__all__ = sorted({*graftwork.__all__, *graftwork_text.__all__})


def __getattr__(name: str) -> object:
    """Hand a public name over from where it is."""
    return getattr(graftwork_text if name in graftwork_text.__all__ else graftwork, name)
