"""Two towers: what is known of a user and of an item joins their embeddings, and stands in where there are none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self, final

import torch
from torch import Tensor, nn

from graftwork.api import ModelContext, ModelParts, OptionError, PlanError
from graftwork_collab.blocks import UNKNOWN
from graftwork_collab.factor import RatingModel, RatingRange, Side, checked_range, embedding_width, id_blocks, table
from graftwork_collab.features import PackedFeaturesBlock

__all__ = ["Tower", "Towers", "towers"]

USER_FEATURES, ITEM_FEATURES = "user_features", "item_features"
MAX_WIDTH = 32


@final
class Tower(nn.Module):
    """Make factors and bias of codes (B,): an embedding of the id, plus what a small net makes of the features.

    `rows` (codes, columns) are the features, `seen` (codes,) says whose embedding training has moved. In evaluation,
    an embedding that it has not is the mean of those it has, and the features of the unknown are the usual ones.
    """

    rows: Tensor
    seen: Tensor
    usual: Tensor

    def __init__(self, num_codes: int, n_factors: int, features: PackedFeaturesBlock | None, hidden: int) -> None:
        """Make the parts; features come in by `set_features`."""
        super().__init__()
        self.factors, self.bias = table(num_codes, n_factors), table(num_codes, 1)
        self.features = features
        self.register_buffer("seen", torch.zeros(num_codes, dtype=torch.bool))
        if features is None:
            return
        widths = [min(MAX_WIDTH, embedding_width(size - 1)) for size in features.sizes]
        self.categories = nn.ModuleList(table(size, width) for size, width in zip(features.sizes, widths, strict=True))
        last = nn.Linear(hidden, n_factors + 1)
        self.net = nn.Sequential(nn.Linear(sum(widths) + features.num_numbers, hidden), nn.ReLU(), last)
        nn.init.normal_(last.weight, std=0.01)
        self.register_buffer("rows", torch.zeros(num_codes, features.width))
        self.register_buffer("usual", torch.zeros(n_factors + 1))

    @torch.no_grad()
    def set_features(self, seen: Tensor, rows: Tensor | None) -> None:
        """Take in who has ratings, (codes,), and the features of all, (codes, columns)."""
        self.seen.copy_(seen)
        if rows is not None:
            self.rows.copy_(rows)

    def forward(self, code: Tensor, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return factors (B, factors) and biases (B, 1); `given` features (B, columns) replace the id's if not nan."""
        factors, bias = self.factors(code), self.bias(code)
        if self.features is None:
            return factors, bias
        rows, known = self.rows[code], code != UNKNOWN
        if given is not None and given.shape[1]:
            here = ~given[:, 0].isnan()
            rows, known = torch.where(here[:, None], given, rows), known | here
        made = torch.where(known[:, None], self.made(rows), self.usual)
        return factors + made[:, :-1], bias + made[:, -1:]

    def made(self, rows: Tensor) -> Tensor:
        """Return what features (B, columns) add to factors and bias, (B, factors + 1)."""
        number = len(self.categories)
        parts = [embed(rows[:, i].long()) for i, embed in enumerate(self.categories)]
        made: Tensor = self.net(torch.cat([*parts, rows[:, number:]], 1))
        return made

    @torch.no_grad()
    def fill_unseen(self) -> None:
        """Make embeddings that training has not moved the mean of those it has, and find the usual features."""
        if self.seen.is_meta or not bool(self.seen.any()):
            return
        for part in (self.factors, self.bias):
            part.weight[~self.seen] = part.weight[self.seen].mean(0)
        if self.features is not None:
            self.usual.copy_(self.made(self.rows[self.seen]).mean(0))


@final
class Towers(RatingModel):
    """Score a pair by the product of what the two towers make of them, plus both biases."""

    def __init__(self, user: Tower, item: Tower, given: Sequence[str], y_range: RatingRange) -> None:
        """Hold the towers; `given` names the inputs that follow user and item."""
        super().__init__(y_range)
        self.user, self.item = user, item
        self.given = tuple(given)

    def train(self, mode: bool = True) -> Self:
        """Go into a mode; raise OptionError for training without the features."""
        if mode and not bool(self.user.seen.any()):
            raise OptionError("this model has been given no features; collab_learner does that: collab_learner(data)")
        return super().train(mode)

    def fill_unknown(self) -> None:
        """Fill in whom training did not see, in both towers."""
        self.user.fill_unseen()
        self.item.fill_unseen()

    def forward(self, user: Tensor, item: Tensor, *features: Tensor) -> Tensor:
        """Return ratings (B,)."""
        given: Mapping[str, Tensor] = dict(zip(self.given, features, strict=False))
        p, user_bias = self.user(user, given.get(USER_FEATURES))
        q, item_bias = self.item(item, given.get(ITEM_FEATURES))
        return self.in_range(((p * q).sum(1, keepdim=True) + user_bias + item_bias).squeeze(1))

    def vectors(self, side: Side) -> tuple[Tensor, Tensor | None]:
        """Return factors and biases of all codes, features included."""
        tower = self.user if side == "user" else self.item
        found: tuple[Tensor, Tensor] = tower(torch.arange(len(tower.seen), device=tower.seen.device))
        return found


def towers(
    ctx: ModelContext,
    *,
    n_factors: int = 50,
    hidden: int = 64,
    y_range: Sequence[float] | None = None,
) -> ModelParts:
    """Build `collab/towers`; `hidden` is the size of the layer between features and factors.

    X. Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations" (RecSys 2019), for the
    two towers; here they end in factors that also have a part of their own for each id.
    """
    user, item = id_blocks(ctx)
    blocks: dict[str, Any] = dict(list(ctx.inputs.items())[2:])
    strange = [name for name, block in blocks.items() if not isinstance(block, PackedFeaturesBlock)]
    if strange or not blocks:
        raise PlanError(
            f"this model needs features of users or items beside the ids, not the inputs {tuple(ctx.inputs)}"
        )
    if n_factors < 1 or hidden < 1:
        raise OptionError(f"n_factors={n_factors} and hidden={hidden} must be at least 1")
    made = [
        Tower(block.num_codes, n_factors, blocks.get(name), hidden)
        for block, name in ((user, USER_FEATURES), (item, ITEM_FEATURES))
    ]
    config = {"n_factors": n_factors, "hidden": hidden, "y_range": y_range}
    return ModelParts(module=Towers(made[0], made[1], tuple(blocks), checked_range(y_range)), config=config)
