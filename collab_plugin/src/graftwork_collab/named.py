"""What a trained factor model learned, by name: biases, factors, and which items are alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor
from torch.nn import functional as F

from graftwork.api import OptionError, Plan
from graftwork_collab.blocks import IdCodeBlock, Identify, Label
from graftwork_collab.factor import RatingModel, Side

if TYPE_CHECKING:
    import pandas as pd

    from graftwork import Predictor
    from graftwork.api import Learner

__all__ = ["Factors"]


@final
class Factors:
    """Read the factors of a model by ids or names: `Factors(learner).item_bias(["Heat (1995)"])`.

    It works on a Learner and on a loaded Predictor, and reads what they have now: it keeps no copy.
    """

    def __init__(self, source: Learner | Predictor) -> None:
        """Look into a model; raise OptionError if it has no factors of users and items."""
        from graftwork.api import Learner

        plan: Plan = source.data.plan if isinstance(source, Learner) else source.plan
        if not isinstance(source.module, RatingModel):
            raise OptionError(
                f"a {type(source.module).__name__} has no factors of users and items; use a model of collab_learner"
            )
        self._module = source.module
        self._ids: dict[Side, Identify] = {"user": _identify(plan, 0), "item": _identify(plan, 1)}

    def user_factors(self, users: Sequence[Label] | None = None) -> Tensor:
        """Return the factors of users, (N, factors) on the CPU; of all of them, in the vocabulary's order, without."""
        return self._of(self._factors("user"), "user", users)

    def item_factors(self, items: Sequence[Label] | None = None) -> Tensor:
        """Return the factors of items, (N, factors) on the CPU; of all of them, in the vocabulary's order, without."""
        return self._of(self._factors("item"), "item", items)

    def user_bias(self, users: Sequence[Label] | None = None) -> Tensor:
        """Return how high users rate, (N,): their bias."""
        return self._of(self._bias("user"), "user", users).squeeze(1)

    def item_bias(self, items: Sequence[Label] | None = None) -> Tensor:
        """Return how high items are rated, (N,): their bias."""
        return self._of(self._bias("item"), "item", items).squeeze(1)

    def similar_items(self, item: Label, *, k: int = 10) -> list[tuple[str, float]]:
        """Return the `k` items whose factors have the smallest angle to this one's, by name, with the cosine."""
        code = self._codes("item", [item])
        factors = F.normalize(self.item_factors(), dim=1)
        cosines = factors @ factors[code - 1][0]
        cosines[code - 1] = -torch.inf
        values, found = cosines.topk(min(k, len(cosines) - 1))
        names = self.names("item")
        return [(names[i], value) for i, value in zip(found.tolist(), values.tolist(), strict=True)]

    def names(self, side: Side) -> list[str]:
        """Return what people call the users, or the items, in the vocabulary's order."""
        ids = self._ids[side]
        block = IdCodeBlock(ids.vocab or (), ids.names)
        return [block.label(code) for code in range(1, block.num_codes)]

    def frame(self, side: Side = "item") -> pd.DataFrame:
        """Return ids, names, biases and factors as a frame, highest bias first."""
        import pandas as pd

        factors, (_, bias) = self._of(self._factors(side), side, None), self._module.vectors(side)
        made = pd.DataFrame({"id": self._ids[side].vocab, "name": self.names(side)})
        if bias is not None:
            made["bias"] = bias[1:, 0].detach().cpu().numpy()
        columns = [f"factor{i}" for i in range(factors.shape[1])]
        made = pd.concat([made, pd.DataFrame(factors.numpy(), columns=columns)], axis=1)
        return made.sort_values("bias", ascending=False, ignore_index=True) if "bias" in made else made

    @torch.no_grad()
    def _factors(self, side: Side) -> Tensor:
        return self._module.vectors(side)[0].detach().cpu()

    @torch.no_grad()
    def _bias(self, side: Side) -> Tensor:
        bias = self._module.vectors(side)[1]
        if bias is None:
            raise OptionError(f"this model has no biases of {side}s; the dot product has")
        return bias.detach().cpu()

    def _of(self, rows: Tensor, side: Side, ids: Sequence[Label] | None) -> Tensor:
        return rows[1:].clone() if ids is None else rows[self._codes(side, ids)]

    def _codes(self, side: Side, ids: Sequence[Label]) -> Tensor:
        if isinstance(ids, str | int):
            raise OptionError(f"{side}s come as a list: [{ids!r}]")
        find, transform = self._ids[side].finder(), self._ids[side]
        codes = [find(label) for label in ids]
        for label, code in zip(ids, codes, strict=True):
            if code == 0:
                raise _unknown(side, label, transform)
        return torch.tensor(codes, dtype=torch.int64)


def _unknown(side: Side, label: Label, transform: Identify) -> Exception:
    from graftwork.api import unknown

    known: list[Any] = [*(transform.names or ()), *(transform.vocab or ())]
    return unknown(side, str(label), map(str, known))


def _identify(plan: Plan, place: int) -> Identify:
    steps = [step.transform for step in plan.fields[plan.inputs[place]].item_steps]
    found = [transform for transform in steps if isinstance(transform, Identify)]
    if not found:
        raise OptionError(f"the input {plan.inputs[place]!r} is not encoded by Identify, so there are no names")
    return found[0]
