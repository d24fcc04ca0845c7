"""What a segmentation must beat: the most frequent class at each position, and a linear model of a pixel's colour."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterator
from typing import Final, Self

import torch
from torch import Tensor

from graftwork.api import Baseline, DataError, DataLoaders, Loader, Objective, OptionError, PlanError
from graftwork_segmentation.blocks import MaskTensorBlock

__all__ = ["ColourLogistic", "MostFrequent"]

MAX_PIXELS: Final = 40_000


class _PixelBaseline(Baseline):
    """Predict batch by batch, so that no more than one is in memory."""

    def measure(self, loader: Loader, objective: Objective) -> dict[str, float]:
        """Return the objective's metrics."""
        objective.reset(torch.device("cpu"))
        name = loader.plan.targets[0]
        for pictures, target in _batches(loader):
            objective.measure(name, self.chances(pictures), target)
        return objective.compute()

    def predict(self, loader: Loader) -> Tensor:
        """Return probabilities (N, C, H, W)."""
        return torch.cat([self.chances(pictures) for pictures, _ in _batches(loader, labelled=False)])

    @abstractmethod
    def chances(self, pictures: Tensor) -> Tensor:
        """Return probabilities (B, C, H, W) for pictures as bytes (B, channels, H, W)."""


class MostFrequent(_PixelBaseline):
    """Predict how often each class occurs at each position in training."""

    name = "position"

    def __init__(self) -> None:
        """Know nothing yet."""
        self.shares: Tensor | None = None

    def fit(self, data: DataLoaders) -> Self:
        """Count; raise DataError if masks differ in size."""
        num_classes, counts = _block(data.train).num_outputs, None
        for _, target in _batches(data.train):
            codes = torch.nn.functional.one_hot(target.clamp(min=0), num_classes) * (target >= 0)[..., None]
            own = codes.sum(0).movedim(-1, 0)
            counts = own if counts is None else counts + _fitting(own, counts)
        if counts is None:
            raise DataError(f"none of the {data.train.num_items} training items can be read")
        # One of each class keeps positions that training never labelled defined.
        everywhere = counts.sum((1, 2), keepdim=True) / counts.sum().clamp(min=1)
        smoothed = counts + everywhere
        self.shares = (smoothed / smoothed.sum(0).clamp(min=1e-12)).float()
        return self

    def chances(self, pictures: Tensor) -> Tensor:
        """Return the shares for every picture."""
        if self.shares is None:
            raise _not_fitted(self.name)
        if pictures.shape[2:] != self.shares.shape[1:]:
            raise _sizes(pictures.shape[2:], self.shares.shape[1:])
        return self.shares.expand(len(pictures), *self.shares.shape)


class ColourLogistic(_PixelBaseline):
    """Predict each pixel by logistic regression on its colour (scikit-learn, on at most 40,000 pixels of training).

    With `position` its place in the picture is looked at too.
    """

    name = "colour-logistic"

    def __init__(self, *, position: bool = False) -> None:
        """Know nothing yet."""
        self.position = position
        self.weight, self.bias = torch.empty(0), torch.empty(0)

    def fit(self, data: DataLoaders) -> Self:
        """Fit on pixels drawn from every training picture alike."""
        from sklearn.linear_model import LogisticRegression

        features, codes = self._sample(data.train)
        num_classes, found = _block(data.train).num_outputs, codes.unique()
        self.weight = torch.zeros(num_classes, features.shape[1])
        self.bias = torch.full((num_classes,), -torch.inf)
        if len(found) < 2:
            self.bias[found] = 0.0
            return self
        model = LogisticRegression(C=10.0, max_iter=100, tol=1e-3)
        with warnings.catch_warnings():
            # A baseline that is not fully converged is still one; the limit keeps it quick.
            warnings.simplefilter("ignore")
            model.fit(features.numpy(), codes.numpy())
        weight, bias = (torch.from_numpy(part).float() for part in (model.coef_, model.intercept_))
        both = len(weight) == 1  # of two classes scikit-learn keeps one row
        self.weight[found] = torch.cat([-weight, weight]) / 2 if both else weight
        self.bias[found] = torch.cat([-bias, bias]) / 2 if both else bias
        return self

    def _sample(self, loader: Loader) -> tuple[Tensor, Tensor]:
        each = max(1, MAX_PIXELS // max(1, loader.num_items))
        generator = torch.Generator().manual_seed(0)
        rows: list[tuple[Tensor, Tensor]] = []
        for pictures, target in _batches(loader):
            features, codes = self._features(pictures).flatten(2), target.flatten(1)
            place = torch.randint(codes.shape[1], (len(codes), each), generator=generator)
            drawn = codes.gather(1, place)
            wide = place[:, None].expand(-1, features.shape[1], -1)
            rows.append((features.gather(2, wide).movedim(1, 2)[drawn >= 0], drawn[drawn >= 0]))
        if not rows or not sum(len(codes) for _, codes in rows):
            raise DataError("no pixel of the training split has a class")
        return torch.cat([features for features, _ in rows]), torch.cat([codes for _, codes in rows])

    def _features(self, pictures: Tensor) -> Tensor:
        """Return colours, their squares, and perhaps row and column, all from 0 to 1: (B, features, H, W)."""
        colour = pictures.float() / 255 if pictures.dtype == torch.uint8 else pictures.float()
        parts = [colour, colour.square()]
        if self.position:
            height, width = colour.shape[2:]
            rows = torch.linspace(0, 1, height)[:, None].expand(height, width)
            columns = torch.linspace(0, 1, width).expand(height, width)
            place = torch.stack([rows, columns, rows.square(), columns.square()])
            parts.append(place.expand(len(colour), *place.shape))
        return torch.cat(parts, 1)

    def chances(self, pictures: Tensor) -> Tensor:
        """Return probabilities."""
        if not len(self.weight):
            raise _not_fitted(self.name)
        logits = torch.einsum("kf,bfhw->bkhw", self.weight, self._features(pictures))
        return (logits + self.bias[:, None, None]).softmax(1)


def _block(loader: Loader) -> MaskTensorBlock:
    block = loader.plan.target
    if not isinstance(block, MaskTensorBlock) or len(loader.plan.inputs) != 1:
        raise PlanError(f"this baseline needs one picture and one mask, not {loader.plan.inputs} and {block!r}")
    return block


def _batches(loader: Loader, *, labelled: bool = True) -> Iterator[tuple[Tensor, Tensor]]:
    """Iterate (pictures, masks) of a loader in its items' own order, as they are before batch transforms."""
    _block(loader)
    plan, ordered = loader.plan, loader.in_order()
    for batch in ordered:
        pictures = batch.fields[plan.inputs[0]].cpu()
        yield pictures, batch.fields[plan.targets[0]].cpu() if labelled else torch.empty(0)
    loader.bad_items.update(ordered.bad_items)


def _fitting(counts: Tensor, before: Tensor) -> Tensor:
    if counts.shape != before.shape:
        raise _sizes(counts.shape[1:], before.shape[1:])
    return counts


def _sizes(one: torch.Size, other: torch.Size) -> DataError:
    return DataError(
        f"positions can be compared in pictures of one size only, and there are {tuple(one)} and {tuple(other)}; "
        "give them one with item_tfms=[Resize(…)]"
    )


def _not_fitted(name: str) -> OptionError:
    return OptionError(f"the baseline {name!r} has not been fitted; call fit(data) first")
