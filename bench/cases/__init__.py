"""The cases by name; each is a module with SIDES and `measure(options) -> Report`, imported when it is run."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Final, Protocol, cast

from bench.harness import Options, Report, Side

__all__ = ["CASES", "Case", "load"]

CASES: Final = {
    "overhead": "what the loop costs per step over a raw loop (tiny MLP, one thread, CPU time)",
    "processes": "two processes that train together, beside a hand-written DistributedDataParallel loop",
    "imports": "what imports and the command line's first answer cost",
    "artifact": "reading an exported ResNet-18 with all checks, and predicting one photo",
    "checkpoint": "saving all that a run of ResNet-18 needs to go on, beside writing as many bytes",
    "vision": "ResNet-18 from a folder of JPEGs at 128 px, against plain and hand-tuned loops",
    "segmentation": "training steps of U-Nets at 128x96, beside segmentation_models_pytorch and fastai",
    "augment": "bytes to augmented, normalised floats, beside fastai, kornia and torchvision",
    "loader": "ItemLoader with threads, processes and neither, alone and while training",
    "decode": "from a folder of JPEGs to batches at 160 px, beside fastai, cv2, torchvision.io and Pillow",
    "categorify": "vocabularies and codes of a table of 5 million rows and of adult, beside other libraries",
    "ratings": "fitting a factor model of MovieLens' ratings, beside fastai and scikit-surprise",
    "ranking": "NDCG@10 of the full ranking of MovieLens' films, and the time of a fit, beside implicit and fastai",
    "topk": "the ten best of 50,000 items for 20,000 users, and for five",
    "tabular": "an epoch, a prediction and encoding of `adult`, beside fastai and a raw loop",
    "text": "texts to ids and padded batches, beside fastai, tokenizers and tiktoken; memory for a file of 1 GB",
    "language": "a training step of AWD-LSTM beside a raw loop, and what a generated token costs early and late",
    "finetune": "accuracy of few digits with and without a trunk that has learned clothes, three seeds",
    "quality": "accuracies that must be reached (slow, runs once)",
    "gpu": "the overhead, augment and vision cases on a CUDA device",
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
