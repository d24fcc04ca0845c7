"""The cases by name; each is a module with SIDES and `measure(options) -> Report`, imported when it is run."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Final, Protocol, cast

from bench.harness import Options, Report, Side

__all__ = ["CASES", "Case", "load"]

CASES: Final = {
    "overhead": "what the loop costs per step over a raw loop (tiny MLP, one thread, CPU time)",
    "imports": "what imports and the command line's first answer cost",
    "artifact": "reading an exported ResNet-18 with all checks, and predicting one photo",
    "vision": "ResNet-18 from a folder of JPEGs at 128 px, against plain and hand-tuned loops",
    "loader": "ItemLoader with threads, processes and neither, alone and while training",
    "categorify": "vocabularies and codes of a table of 5 million rows and of adult, beside other libraries",
    "ratings": "fitting a factor model of MovieLens' ratings, beside fastai and scikit-surprise",
    "ranking": "NDCG@10 of the full ranking of MovieLens' films, and the time of a fit, beside implicit and fastai",
    "topk": "the ten best of 50,000 items for 20,000 users, and for five",
    "tabular": "an epoch, a prediction and encoding of `adult`, beside fastai and a raw loop",
    "quality": "accuracies that must be reached (slow, runs once)",
    "gpu": "the overhead and vision cases on a CUDA device",
}


class Case(Protocol):
    """Be a module that measures something."""

    SIDES: Sequence[Side]

    def measure(self, options: Options) -> Report:
        """Run the sides and say what they gave."""
        ...


def load(name: str) -> Case:
    """Import a case."""
    return cast(Case, import_module(f"bench.{'gpu' if name == 'gpu' else f'cases.{name}'}"))
