"""Every public name of this package and of the core, for notebooks: `from graftwork_tabular.all import *`."""

from __future__ import annotations

import graftwork
import graftwork_tabular

__all__ = sorted({*graftwork.__all__, *graftwork_tabular.__all__})


def __getattr__(name: str) -> object:
    """Hand a public name over from where it is."""
    return getattr(graftwork_tabular if name in graftwork_tabular.__all__ else graftwork, name)
