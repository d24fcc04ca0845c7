"""What a classifier of pictures must beat: the nearest mean picture, and a linear model of small grey pixels."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, Final, Self

import numpy as np
import torch
from torch import Tensor

from graftwork.api import Baseline, ClassIndexBlock, DataError, DataLoaders, Loader, OptionError, Plan, PlanError
from graftwork_vision.blocks import ImageTensorBlock

__all__ = ["GreyLogistic", "NearestMean"]

MEAN_SIDE: Final = 64
GREY_SIDE: Final = 16
MAX_ROWS: Final = 10_000


class NearestMean(Baseline):
    """Predict the class whose mean picture is nearest in mean absolute difference (fastbook's pixel similarity).

    Pictures above 64 pixels a side are averaged down to that, so that a thousand classes fit in memory. Probabilities
    are the softmax of minus the distance, in percent of the range of a pixel.
    """

    name = "nearest-mean"

    def __init__(self) -> None:
        """Know nothing yet."""
        self.means: Tensor | None = None

    def fit(self, data: DataLoaders) -> Self:
        """Average the training pictures of each class, in float64; raise DataError if they differ in size."""
        num_classes = _classes(data.plan)
        sums, counts = None, torch.zeros(num_classes, dtype=torch.float64)
        for x, y in _pictures(data.train):
            pixels = _at_most(x, MEAN_SIDE).double().flatten(1)
            sums = torch.zeros(num_classes, pixels.shape[1], dtype=torch.float64) if sums is None else sums
            sums.index_add_(0, y, pixels)
            counts += torch.bincount(y, minlength=num_classes)
        if sums is None:
            raise _none_read(data)
        # A class of the vocabulary that training lacks has no mean, and is infinitely far away.
        self.means = (sums / counts[:, None]).float()
        return self

    def predict(self, loader: Loader) -> Tensor:
        """Return probabilities (N, classes)."""
        if self.means is None:
            raise _not_fitted(self.name)
        distances = [self._distances(x, self.means) for x, _ in _pictures(loader, labelled=False)]
        return (-torch.cat(distances) * (100 / 255)).softmax(1).float()

    def _distances(self, x: Tensor, means: Tensor) -> Tensor:
        pixels = _at_most(x, MEAN_SIDE).flatten(1)
        summed = torch.cdist(pixels, means, p=1).double()
        return (summed / pixels.shape[1]).nan_to_num(nan=torch.inf)


class GreyLogistic(Baseline):
    """Predict by logistic regression on grey pictures of at most 16x16 pixels (scikit-learn, at most 10,000 rows)."""

    name = "grey-logistic"

    def __init__(self) -> None:
        """Know nothing yet."""
        self.model: Any = None
        self.num_classes = 0

    def fit(self, data: DataLoaders) -> Self:
        """Fit on the training split, or a fixed random part of it."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        self.num_classes = _classes(data.plan)
        rows = [(_small(x), y) for x, y in _pictures(data.train)]
        if not rows:
            raise _none_read(data)
        x, y = np.concatenate([r[0] for r in rows]), np.concatenate([r[1].numpy() for r in rows])
        kept = np.sort(np.random.default_rng(0).permutation(len(y))[:MAX_ROWS])
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=200, tol=1e-3))
        with warnings.catch_warnings():
            # A baseline that is not fully converged is still one; the limit keeps it quick.
            warnings.simplefilter("ignore")
            self.model = model.fit(x[kept], y[kept])
        return self

    def predict(self, loader: Loader) -> Tensor:
        """Return probabilities (N, classes)."""
        if self.model is None:
            raise _not_fitted(self.name)
        found = [self.model.predict_proba(_small(x)) for x, _ in _pictures(loader, labelled=False)]
        predicted = np.concatenate(found)
        whole = np.zeros((len(predicted), self.num_classes), dtype=np.float32)
        whole[:, self.model.classes_] = predicted
        return torch.from_numpy(whole)


def _small(x: Tensor) -> np.ndarray[Any, Any]:
    """Average colours and neighbouring pixels: (B, at most 256), 0 to 1."""
    return _at_most(x.float().mean(1, keepdim=True) / 255, GREY_SIDE).flatten(1).numpy()


def _at_most(x: Tensor, side: int) -> Tensor:
    """Average neighbouring pixels until neither side is above `side`."""
    height, width = min(side, x.shape[2]), min(side, x.shape[3])
    small: Tensor = x.float()
    return small if x.shape[2:] == (height, width) else torch.nn.functional.adaptive_avg_pool2d(small, (height, width))


def _pictures(loader: Loader, *, labelled: bool = True) -> Iterator[tuple[Tensor, Tensor]]:
    """Iterate (pictures as bytes, labels) of a loader in its items' own order, nothing random."""
    plan, ordered = loader.plan, loader.in_order()
    (name,) = plan.inputs
    for batch in ordered:
        yield batch.fields[name].cpu(), batch.fields[plan.targets[0]].cpu() if labelled else torch.empty(0)
    loader.bad_items.update(ordered.bad_items)


def _classes(plan: Plan) -> int:
    block = plan.target
    inputs = [plan.fields[name].item for name in plan.inputs]
    if not isinstance(block, ClassIndexBlock) or len(inputs) != 1 or not isinstance(inputs[0], ImageTensorBlock):
        raise PlanError(f"this baseline needs one picture and one class, not {inputs} and {block!r}")
    return block.num_outputs


def _none_read(data: DataLoaders) -> DataError:
    return DataError(f"none of the {data.train.num_items} training pictures can be read")


def _not_fitted(name: str) -> OptionError:
    return OptionError(f"the baseline {name!r} has not been fitted; call fit(data) first")
