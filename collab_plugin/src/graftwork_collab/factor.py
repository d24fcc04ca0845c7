"""Models of ratings from two ids: dot product with biases, and an MLP over concatenated embeddings."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, final

import torch
from torch import Tensor, nn

from graftwork.api import ModelContext, ModelParts, OptionError, PlanError
from graftwork_collab.blocks import UNKNOWN, IdCodeBlock

if TYPE_CHECKING:
    from graftwork.api import Engine

__all__ = ["DotBias", "Neural", "RatingRange", "dot_bias", "embedding_width", "neural"]

RatingRange: TypeAlias = "tuple[float, float] | None"
EngineName: TypeAlias = Literal["auto", "torch", "numba"]
Side: TypeAlias = Literal["user", "item"]


def embedding_width(num_ids: int) -> int:
    """Return fastai's width of an embedding of so many ids: 1.6 * n^0.56, at most 600."""
    return min(600, round(1.6 * math.pow(num_ids, 0.56)))


def id_blocks(ctx: ModelContext) -> tuple[IdCodeBlock, IdCodeBlock]:
    """Return the blocks of user and item, the first two inputs; raise PlanError if they are no ids."""
    blocks = list(ctx.inputs.values())[:2]
    if len(blocks) != 2 or not all(isinstance(block, IdCodeBlock) for block in blocks):
        raise PlanError(f"this model needs a user and an item (IdBlock, IdBlock), not {tuple(ctx.inputs.values())}")
    user, item = blocks
    assert isinstance(user, IdCodeBlock)
    assert isinstance(item, IdCodeBlock)
    return user, item


def checked_range(y_range: Sequence[float] | None) -> RatingRange:
    """Return a range of ratings as two floats; raise OptionError if it is none."""
    if y_range is None:
        return None
    if len(y_range) != 2 or not float(y_range[0]) < float(y_range[1]):
        raise OptionError(f"y_range={y_range!r} must be (low, high), such as (0, 5.5)")
    return float(y_range[0]), float(y_range[1])


def table(num_codes: int, width: int) -> nn.Embedding:
    """Return an embedding whose weights are small: a normal distribution of deviation 0.01, cut at two deviations."""
    made = nn.Embedding(num_codes, width)
    nn.init.trunc_normal_(made.weight, std=0.01, a=-0.02, b=0.02)
    return made


class RatingModel(nn.Module, ABC):
    """Predict ratings (B,) from codes of users and items, each int64 (B,).

    Training never sees the unknown user or item (code 0). Whenever the model goes into evaluation mode, their rows
    become the mean of all the others: they are rated as the average user rates, and as the average item is rated.
    """

    def __init__(self, y_range: RatingRange) -> None:
        super().__init__()
        self.y_range = y_range

    def tables(self) -> list[nn.Embedding]:
        """Return the embeddings that have a row for the unknown."""
        return [module for module in self.modules() if isinstance(module, nn.Embedding)]

    @abstractmethod
    def forward(self, user: Tensor, item: Tensor, *features: Tensor) -> Tensor:
        """Return ratings (B,)."""

    def train(self, mode: bool = True) -> Self:
        """Go into training mode, or fill the rows of the unknown and go into evaluation mode."""
        if not mode:
            self.fill_unknown()
        return super().train(mode)

    @torch.no_grad()
    def fill_unknown(self) -> None:
        """Make the rows of the unknown the mean of the others, where there are others."""
        for made in self.tables():
            if len(made.weight) > 1 and not made.weight.is_meta:
                made.weight[UNKNOWN] = made.weight[UNKNOWN + 1 :].mean(0)

    def vectors(self, side: Side) -> tuple[Tensor, Tensor | None]:
        """Return factors (codes, factors) and biases (codes, 1) of all users or items; None where there are none."""
        parts = dict(self.named_children())
        factors, bias = parts[f"{side}_factors"], parts.get(f"{side}_bias")
        assert isinstance(factors, nn.Embedding)
        return factors.weight, bias.weight if isinstance(bias, nn.Embedding) else None

    def in_range(self, score: Tensor) -> Tensor:
        """Bring scores (B,) into the range of ratings."""
        if self.y_range is None:
            return score
        low, high = self.y_range
        rating = score.sigmoid() * (high - low)
        # Each operation takes some µs of a step, forwards and backwards, and ranges often start at 0.
        return rating + low if low else rating


@final
class DotBias(RatingModel):
    """Score a pair by the product of the factors of user and item, plus both biases (fastai's EmbeddingDotBias)."""

    def __init__(self, num_users: int, num_items: int, n_factors: int, y_range: RatingRange) -> None:
        """Make the tables; the numbers count codes, the unknown one among them."""
        super().__init__(y_range)
        self.user_factors, self.item_factors = table(num_users, n_factors), table(num_items, n_factors)
        self.user_bias, self.item_bias = table(num_users, 1), table(num_items, 1)
        # The same modules, where looking them up takes no search through nn.Module's dictionaries.
        self.parts = (self.user_factors, self.item_factors, self.user_bias, self.item_bias)
        self.fill_unknown()

    def forward(self, user: Tensor, item: Tensor, *features: Tensor) -> Tensor:
        """Return ratings (B,)."""
        user_factors, item_factors, user_bias, item_bias = self.parts
        score = (user_factors(user) * item_factors(item)).sum(1, keepdim=True)
        return self.in_range((score + user_bias(user) + item_bias(item)).squeeze(1))


@final
class Neural(RatingModel):
    """Run an MLP over the concatenated embeddings of user and item (fastai's EmbeddingNN)."""

    def __init__(
        self,
        num_users: int,
        num_items: int,
        widths: tuple[int, int],
        layers: Sequence[int],
        ps: float,
        y_range: RatingRange,
    ) -> None:
        """Make tables and layers; `widths` are those of the two embeddings, `ps` is dropped after each layer."""
        super().__init__(y_range)
        self.user_factors, self.item_factors = table(num_users, widths[0]), table(num_items, widths[1])
        self.head = mlp(sum(widths), layers, ps)
        self.fill_unknown()

    def forward(self, user: Tensor, item: Tensor, *features: Tensor) -> Tensor:
        """Return ratings (B,)."""
        x = torch.cat((self.user_factors(user), self.item_factors(item)), 1)
        return self.in_range(self.head(x).squeeze(1))


def mlp(width: int, layers: Sequence[int], ps: float) -> nn.Sequential:
    """Return layers of Linear, ReLU, batch norm and dropout, and a last one with one output."""
    parts: list[nn.Module] = []
    for size in layers:
        parts += [nn.Linear(width, size, bias=False), nn.ReLU(), nn.BatchNorm1d(size), nn.Dropout(ps)]
        width = size
    return nn.Sequential(*parts, nn.Linear(width, 1))


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise OptionError(f"{name}={value} must be at least 1; 50 is common")
    return value


def dot_bias(
    ctx: ModelContext,
    *,
    n_factors: int = 50,
    y_range: Sequence[float] | None = None,
    engine: EngineName = "auto",
) -> ModelParts:
    """Build `collab/dot-bias`.

    `engine` says how it is trained: "numba" by a kernel that works on the rows of each batch only, "torch" by the loop;
    "auto" leaves it to the kernel wherever it can.
    """
    user, item = id_blocks(ctx)
    module = DotBias(user.num_codes, item.num_codes, _positive("n_factors", n_factors), checked_range(y_range))
    config = {"n_factors": n_factors, "y_range": y_range}
    return ModelParts(module=module, config=config, engine=_engine(engine))


def _engine(name: str) -> Engine | None:
    from graftwork.api import unknown
    from graftwork_collab.engine import FactorEngine

    if name not in ("auto", "torch", "numba"):
        raise unknown("engine", name, ("auto", "torch", "numba"))
    return None if name == "torch" else FactorEngine()


def neural(
    ctx: ModelContext,
    *,
    n_factors: int = 50,
    layers: Sequence[int] | None = None,
    ps: float = 0.0,
    y_range: Sequence[float] | None = None,
) -> ModelParts:
    """Build `collab/neural`; `layers` are the sizes of the hidden layers, one of `n_factors` if they are left out."""
    user, item = id_blocks(ctx)
    sizes = [_positive("n_factors", n_factors)] if layers is None else [_positive("layers", size) for size in layers]
    widths = embedding_width(len(user.vocab)), embedding_width(len(item.vocab))
    module = Neural(user.num_codes, item.num_codes, widths, sizes, ps, checked_range(y_range))
    return ModelParts(module=module, config=_config(layers=sizes, ps=ps, y_range=y_range))


def _config(**given: Any) -> dict[str, Any]:
    return given
