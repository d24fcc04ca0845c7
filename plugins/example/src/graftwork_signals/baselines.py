"""The baseline: ridge regression on random convolutions (ROCKET; Dempster, Petitjean and Webb, arXiv 1910.13051)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from graftwork.api import Baseline, ClassIndexBlock, DataLoaders, Loader, OptionError, PlanError
from graftwork_signals.blocks import Array

__all__ = ["RandomKernels", "fitted", "num_classes", "read_all"]

NUM_KERNELS: Final = 1000
WIDTHS: Final = (7, 9, 11)
ALPHAS: Final = np.logspace(-3, 3, 10)


def read_all(loader: Loader) -> tuple[Tensor, Tensor]:
    """Return all series (N, channels, length) and codes (N,) of a loader, in order and without anything random."""
    plan, ordered = loader.plan, loader.in_order()
    batches = [plan.encode_batch(batch.fields) for batch in ordered]
    loader.bad_items.update(ordered.bad_items)
    names = (plan.inputs[0], plan.targets[0])
    x, y = (torch.cat([batch[name].cpu() for batch in batches]) for name in names)
    return x, y


def num_classes(loader: Loader) -> int:
    """Return the classes of the target; raise PlanError if it has none."""
    block = loader.plan.target
    if not isinstance(block, ClassIndexBlock):
        raise PlanError(f"this baseline tells classes, and the target is {block!r}")
    return block.num_outputs


def fitted(part: Any, name: str) -> Any:
    """Return what `fit` has learned; raise OptionError if it was not called."""
    if part is None:
        raise OptionError(f"the baseline {name!r} has not been fitted; call fit(data) first")
    return part


class RandomKernels(Baseline):
    """Convolve with kernels nobody trained; take each one's largest answer, and how often it is above zero."""

    name = "random-kernels"

    def __init__(self, *, seed: int = 0) -> None:
        """Draw the kernels from `seed`."""
        self.seed = seed
        self.model: Any = None
        self.classes = 0

    def fit(self, data: DataLoaders) -> Self:
        """Fit a ridge classifier, its strength chosen by leaving one out in closed form."""
        from sklearn.linear_model import RidgeClassifierCV
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        self.classes = num_classes(data.train)
        x, y = read_all(data.train)
        model = make_pipeline(StandardScaler(), RidgeClassifierCV(alphas=ALPHAS))
        self.model = model.fit(self._features(x), y.numpy())
        return self

    def predict(self, loader: Loader) -> Tensor:
        """Return the softmax of the scores, (N, classes)."""
        model = fitted(self.model, self.name)
        x, _ = read_all(loader)
        scores = model.decision_function(self._features(x))
        scores = np.stack([-scores, scores], 1) if scores.ndim == 1 else scores
        # A class of the vocabulary that training lacks is never said.
        whole = np.full((len(x), self.classes), -np.inf, dtype=np.float32)
        whole[:, model.classes_] = scores
        return torch.from_numpy(whole).softmax(1)

    def _features(self, x: Tensor) -> Array:
        parts = [_convolved(x, *kernels) for kernels in _kernels(x.shape[1], x.shape[2], self.seed)]
        return torch.cat(parts, 1).numpy()


def _kernels(channels: int, length: int, seed: int) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Iterate (weights (K, channels, width), biases (K,), dilation), grouped by width and dilation."""
    rng = np.random.default_rng(seed)
    for width in WIDTHS:
        steps = 2 ** np.arange(max(1, int(math.log2(max(2, (length - 1) / (width - 1)))) + 1))
        share = -(-NUM_KERNELS // (len(WIDTHS) * len(steps)))
        for step in steps.tolist():
            weights = rng.standard_normal((share, channels, width))
            weights -= weights.mean(2, keepdims=True)
            # Each kernel looks at some of the channels; at least at one.
            looked_at = rng.random((share, channels, 1)) < rng.random((share, 1, 1))
            looked_at[np.arange(share), rng.integers(channels, size=share)] = True
            biases = rng.uniform(-1, 1, share)
            yield torch.from_numpy(weights * looked_at).float(), torch.from_numpy(biases).float(), step


def _convolved(x: Tensor, weights: Tensor, biases: Tensor, dilation: int) -> Tensor:
    """Return each kernel's largest answer and its share of positive ones, (N, 2 * K)."""
    padding = (weights.shape[2] - 1) * dilation // 2
    parts = [F.conv1d(rows, weights, biases, padding=padding, dilation=dilation) for rows in x.split(64)]
    return torch.cat([torch.cat([part.amax(2), (part > 0).float().mean(2)], 1) for part in parts])
