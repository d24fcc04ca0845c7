"""Fixed-length series for graftwork. Every name is imported on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

__all__ = [
    "Crop",
    "NearestDTW",  # more than the smallest plugin
    "Noise",  # more than the smallest plugin
    "RandomKernels",
    "SeriesBlock",
    "SeriesClassification",
    "SeriesDataLoaders",
    "Standardize",
    "kappa",
    "read_source",
]

if TYPE_CHECKING:
    from graftwork_signals.baselines import RandomKernels
    from graftwork_signals.blocks import SeriesBlock
    from graftwork_signals.data import SeriesDataLoaders
    from graftwork_signals.dtw import NearestDTW  # more than the smallest plugin
    from graftwork_signals.metrics import kappa
    from graftwork_signals.noise import Noise  # more than the smallest plugin
    from graftwork_signals.sources import read_source
    from graftwork_signals.tasks import SeriesClassification
    from graftwork_signals.transforms import Crop, Standardize

_HOMES: Final = {
    "Crop": "transforms",
    "NearestDTW": "dtw",  # more than the smallest plugin
    "Noise": "noise",  # more than the smallest plugin
    "RandomKernels": "baselines",
    "SeriesBlock": "blocks",
    "SeriesClassification": "tasks",
    "SeriesDataLoaders": "data",
    "Standardize": "transforms",
    "kappa": "metrics",
    "read_source": "sources",
}


def __getattr__(name: str) -> object:
    """Import a public name on first use, so that importing the package itself costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
