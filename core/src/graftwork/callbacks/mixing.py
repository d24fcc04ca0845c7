"""Mixing items of a batch in pairs: MixUp blends them, CutMix puts a box of one into the other."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, final

import numpy as np
import torch
from torch import Tensor

from graftwork.errors import DataError, OptionError, unknown
from graftwork.events import Callback, TrainState
from graftwork.seeds import derive_rng

__all__ = ["CutMix", "MixUp", "PairMixing"]


class PairMixing(Callback):
    """Mix each item of a training batch with another one, and their losses in the same proportion.

    The loss is `share * loss(output, own target) + (1 - share) * loss(output, the other's target)`, whatever the
    objective: any target, several of them, weights. `fields` are the inputs that are mixed, by default all of
    floating-point numbers (codes stored as such, as a table's categories are, cannot be mixed: name other fields). One
    share is drawn for a batch, from a beta distribution; partners are a random distance apart, so that nobody is
    mixed with itself. Draws are a pure function of (seed, epoch, batch). The recorded training loss is the mixed one.
    """

    order = 900  # `_end` events run in reverse: others find the mixed loss
    claims: ClassVar[str] = "mix the items of a batch"

    def __init__(self, alpha: float, *, p: float, fields: Sequence[str] | None, seed: int) -> None:
        """Take the beta distribution's parameter, and the share `p` of batches that are mixed."""
        if not alpha > 0 or not 0 < p <= 1:
            raise OptionError(f"alpha={alpha} must be above 0, and p={p} a share of batches above 0 and at most 1")
        self.alpha, self.p, self.seed = alpha, p, seed
        self.fields = None if fields is None else tuple(fields)
        self._share: float | None = None
        self._distance = 0

    @abstractmethod
    def _mix(
        self, columns: Mapping[str, Tensor], share: float, distance: int, rng: np.random.Generator
    ) -> tuple[dict[str, Tensor], float]:
        """Return the mixed columns, and the share of the own item that is in them."""

    def batch_start(self, state: TrainState) -> None:
        """Mix the inputs."""
        self._share = None
        batch = state.batch
        if batch is None or batch.size < 2:
            return
        place = (state.first_epoch + state.epoch, batch.number)
        rng = derive_rng(self.seed, type(self).__name__, *place)
        if rng.random() >= self.p:
            return
        self._distance = int(rng.integers(1, batch.size))
        columns = {name: batch.fields[name] for name in self._chosen(batch.fields, batch.inputs)}
        mixed, self._share = self._mix(columns, float(rng.beta(self.alpha, self.alpha)), self._distance, rng)
        batch.fields = {**batch.fields, **mixed}

    def _chosen(self, fields: Mapping[str, Tensor], inputs: Sequence[str]) -> Sequence[str]:
        for name in self.fields or ():
            if name not in inputs:
                raise unknown("input field to mix", name, inputs)
        chosen = [n for n in inputs if fields[n].is_floating_point()] if self.fields is None else self.fields
        if not chosen or not all(fields[name].is_floating_point() for name in chosen):
            kinds = {name: str(fields[name].dtype) for name in inputs}
            raise DataError(f"{type(self).__name__} mixes inputs of floating-point numbers; the inputs are {kinds}")
        return chosen

    def loss_end(self, state: TrainState) -> None:
        """Mix the losses."""
        batch, share = state.batch, self._share
        if share is None or state.phase != "train" or batch is None or state.loss is None or state.objective is None:
            return
        others = {name: _other(batch.fields[name], self._distance) for name in batch.targets}
        weight = None if batch.weight is None else _other(batch.weight, self._distance)
        theirs = state.objective.training(state.output, {**batch.fields, **others}, weight)
        state.loss = share * state.loss + (1 - share) * theirs


def _other(column: Tensor, distance: int) -> Tensor:
    """Return each item's partner; no index travels to the device."""
    return column.roll(distance, 0)


@final
class MixUp(PairMixing):
    """Blend inputs: `share * own + (1 - share) * other`.

    H. Zhang et al., "mixup: Beyond Empirical Risk Minimization" (arXiv 1710.09412), which draws one share a batch;
    fastai's alpha.
    """

    def __init__(
        self, alpha: float = 0.4, *, p: float = 1.0, fields: Sequence[str] | None = None, seed: int = 42
    ) -> None:
        """Take the beta distribution's parameter: small ones leave most pairs nearly alone."""
        super().__init__(alpha, p=p, fields=fields, seed=seed)

    def _mix(
        self, columns: Mapping[str, Tensor], share: float, distance: int, rng: np.random.Generator
    ) -> tuple[dict[str, Tensor], float]:
        return {name: torch.lerp(_other(c, distance), c, share) for name, c in columns.items()}, share


@final
class CutMix(PairMixing):
    """Put a box of the other's input into the own one; the share is what of the own one is left.

    S. Yun et al. (arXiv 1905.04899); fastai's alpha. Boxes are cut from all dimensions but item and channel, so inputs
    are (B, C, …): pictures, sounds, volumes. All mixed fields must be of one size there. Targets belong to whole items:
    masks would have to be cut as well, and are not.
    """

    def __init__(
        self, alpha: float = 1.0, *, p: float = 1.0, fields: Sequence[str] | None = None, seed: int = 42
    ) -> None:
        """Take the beta distribution's parameter: with 1 all sizes of boxes are equally likely."""
        super().__init__(alpha, p=p, fields=fields, seed=seed)

    def _mix(
        self, columns: Mapping[str, Tensor], share: float, distance: int, rng: np.random.Generator
    ) -> tuple[dict[str, Tensor], float]:
        shapes = {name: tuple(c.shape) for name, c in columns.items()}
        sizes = {shape[2:] for shape in shapes.values()}
        if len(sizes) != 1 or not next(iter(sizes)):
            raise DataError(f"CutMix cuts inputs (B, C, …) of one size; the fields are {shapes}; name some in fields=")
        box, left = _box(next(iter(sizes)), share, rng)
        mixed = {}
        for name, column in columns.items():
            mixed[name] = column.clone()
            mixed[name][box] = _other(column, distance)[box]
        return mixed, left


def _box(size: Sequence[int], share: float, rng: np.random.Generator) -> tuple[tuple[slice, ...], float]:
    """Draw a box of `1 - share` of the whole around a random point, cut at the borders; return it and what is left."""
    side = (1 - share) ** (1 / len(size))
    centres = [int(rng.integers(length)) for length in size]
    halves = [int(side * length / 2) for length in size]
    ends = [(max(0, c - h), min(n, c + h)) for c, h, n in zip(centres, halves, size, strict=True)]
    cut = float(np.prod([(high - low) / n for (low, high), n in zip(ends, size, strict=True)]))
    return (slice(None), slice(None), *(slice(low, high) for low, high in ends)), 1 - cut
