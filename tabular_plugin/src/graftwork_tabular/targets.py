"""Numbers as targets, scaled so that a network's first guess is not far off."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from graftwork.api import Block, Bound, OptionError, RegressionBlock, Transform
from graftwork_tabular.statistics import Moments

__all__ = ["ScaleTarget", "ScaledNumbersBlock"]


@dataclass(frozen=True)
class ScaledNumbersBlock(RegressionBlock):
    """Hold one number, or `n_out`, brought to mean 0 and deviation 1: losses are of these, metrics of the measured.

    float32 (B,) or (B, n_out); `mean` and `std` have `n_out` numbers.
    """

    id: ClassVar[str] = "tabular/scaled-numbers"
    scaled: ClassVar[bool] = True
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        """Refuse statistics of another number of outputs."""
        super().__post_init__()
        if not len(self.mean) == len(self.std) == self.n_out or min(self.std) <= 0:
            raise OptionError(f"{self.id}: {self.n_out} outputs need as many means and deviations above 0")

    def measured(self, column: Tensor) -> Tensor:
        """Return the numbers in their own units."""
        mean, std = column.new_tensor(self.mean), column.new_tensor(self.std)
        return column * std[0] + mean[0] if self.n_out == 1 else column * std + mean

    def scale(self, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Scale float64 values (N, n_out)."""
        scaled: np.ndarray[Any, Any] = (values - np.asarray(self.mean)) / np.asarray(self.std)
        return scaled


@dataclass(frozen=True)
class ScaleTarget(Transform):
    """Bring target numbers to mean 0 and standard deviation 1 of the training split."""

    id: ClassVar[str] = "tabular/scale-target"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def accepts(self, block: Block) -> bool:
        """Work on numbers in their own units."""
        return isinstance(block, RegressionBlock) and not block.scaled

    @property
    def needs_fit(self) -> bool:
        """Fit where nothing has been learned."""
        return self.mean is None

    def fit(self, values: Iterable[Any], block: Block) -> Self:
        """Sum exactly."""
        assert isinstance(block, RegressionBlock)
        return self.fit_columns(np.asarray(list(values), np.float64).reshape(-1, block.n_out))

    def fit_columns(self, values: np.ndarray[Any, Any]) -> Self:
        """Learn from float64 values (N, n_out)."""
        moments = [Moments() for _ in range(values.shape[1])]
        for column, state in zip(values.T, moments, strict=True):
            state.update(np.ascontiguousarray(column))
        return replace(
            self, mean=tuple(float(m.mean) for m in moments), std=tuple(float(m.std) or 1.0 for m in moments)
        )

    def out_block(self, block: Block) -> Block:
        """Give scaled numbers."""
        assert isinstance(block, RegressionBlock)
        return ScaledNumbersBlock(block.n_out, mean=self.mean or (0.0,), std=self.std or (1.0,))

    def bind(self, block: Block) -> Bound:
        """Scale one value, or a row of them."""
        scaled = self.out_block(block)
        assert isinstance(scaled, ScaledNumbersBlock)
        mean, std = np.asarray(scaled.mean), np.asarray(scaled.std)

        def encode(value: Any, _: Any) -> Any:
            values = scaled.scale(np.asarray(value, np.float64).reshape(-1))
            return float(values[0]) if scaled.n_out == 1 else values.tolist()

        def decode(value: Any) -> Any:
            values = np.asarray(value, np.float64).reshape(-1) * std + mean
            return float(values[0]) if scaled.n_out == 1 else values.tolist()

        return Bound(encode, decode)


def scaled_column(block: ScaledNumbersBlock, values: np.ndarray[Any, Any]) -> Tensor:
    """Return float64 values (N, n_out) scaled, as a batch holds them."""
    scaled = torch.from_numpy(block.scale(values).astype(np.float32))
    return scaled[:, 0] if block.n_out == 1 else scaled
