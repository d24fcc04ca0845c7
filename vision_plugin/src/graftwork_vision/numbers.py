"""Numbers to predict from a picture, scaled so that a network's first guess is not far off."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from torch import Tensor

from graftwork.api import Block, BlockError, BlockSteps, Bound, DataError, OptionError, RegressionBlock, Transform

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["NumbersBlock", "ScaleNumbers", "ScaledNumbersBlock"]


@dataclass(frozen=True)
class NumbersBlock(Block):
    """Hold `n_out` numbers to predict, in their own units; in a batch they are scaled by the training split's."""

    id: ClassVar[str] = "vision/numbers"
    n_out: int = 1

    def __post_init__(self) -> None:
        """Refuse fewer than one number."""
        RegressionBlock(self.n_out)

    def check(self, value: Any) -> str | None:
        """Return why `value` is not `n_out` finite numbers, or None."""
        return RegressionBlock(self.n_out).check(value)

    def mock(self, rng: np.random.Generator) -> Any:
        """Invent numbers far from zero."""
        return [100 + 20 * number for number in rng.normal(size=self.n_out).tolist()]

    def collate(self, values: Sequence[Any]) -> Tensor:
        """Refuse: numbers are scaled before they are batched."""
        raise BlockError(f"{self.id} holds numbers in their own units; scale them first (ScaleNumbers)")

    def uncollate(self, column: Tensor) -> list[Any]:
        """Refuse: numbers are scaled before they are batched."""
        raise BlockError(f"{self.id} holds numbers in their own units")

    def show(self, value: Any, ax: Axes) -> None:
        """Add the numbers to the title."""
        RegressionBlock(self.n_out).show(value, ax)

    def steps(self) -> BlockSteps:
        """Scale by what the training split shows."""
        return BlockSteps(closing=(ScaleNumbers(),))


@dataclass(frozen=True)
class ScaledNumbersBlock(RegressionBlock):
    """Hold numbers brought to mean 0 and deviation 1: losses are of these, metrics and predictions of the measured.

    float32 (B,) or (B, n_out); `mean` and `std` have `n_out` numbers.
    """

    id: ClassVar[str] = "vision/scaled-numbers"
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


@dataclass(frozen=True)
class ScaleNumbers(Transform):
    """Bring numbers to mean 0 and deviation 1 of the training split; one that never changes is only shifted."""

    id: ClassVar[str] = "vision/scale-numbers"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def accepts(self, block: Block) -> bool:
        """Work on numbers in their own units."""
        return isinstance(block, NumbersBlock)

    @property
    def needs_fit(self) -> bool:
        """Fit where nothing has been learned."""
        return self.mean is None

    def fit(self, values: Iterable[Any], block: Block) -> Self:
        """Take mean and deviation, in float64; raise DataError naming a value that is no finite number."""
        assert isinstance(block, NumbersBlock)
        rows = [row for value in values for row in [np.asarray(value, np.float64).reshape(-1)]]
        if not rows or any(len(row) != block.n_out or not np.isfinite(row).all() for row in rows):
            raise DataError(f"{block.id}: the training split needs rows of {block.n_out} finite numbers")
        column = np.stack(rows)
        std = column.std(0)
        return replace(self, mean=tuple(column.mean(0).tolist()), std=tuple(np.where(std > 0, std, 1.0).tolist()))

    def out_block(self, block: Block) -> Block:
        """Give scaled numbers."""
        assert isinstance(block, NumbersBlock)
        return ScaledNumbersBlock(block.n_out, self.mean or (0.0,) * block.n_out, self.std or (1.0,) * block.n_out)

    def bind(self, block: Block) -> Bound:
        """Scale one value, or a row of them."""
        assert isinstance(block, NumbersBlock)
        mean, std = np.asarray(self.mean or 0.0), np.asarray(self.std or 1.0)

        def encode(value: Any, _: Any) -> Any:
            reason = block.check(value)
            if reason:
                raise BlockError(reason)
            scaled = ((np.asarray(value, np.float64).reshape(-1) - mean) / std).tolist()
            return scaled[0] if block.n_out == 1 else scaled

        def decode(value: Any) -> Any:
            return (np.asarray(value, np.float64).reshape(-1) * std + mean).tolist()

        return Bound(encode, decode)
