"""GradualUnfreezing: let one parameter group after another learn."""

from __future__ import annotations

import logging
from typing import ClassVar, final

from torch import Tensor

from graftwork.errors import FreezeError, OptionError
from graftwork.events import Callback, TrainState
from graftwork.model import norm_modules

__all__ = ["GradualUnfreezing"]

LOG = logging.getLogger("graftwork")


@final
class GradualUnfreezing(Callback):
    """Train the last parameter group alone, and let one more learn every `every` epochs.

    J. Howard and S. Ruder's gradual unfreezing (ULMFiT, arXiv 1801.06146), in one fit with one optimizer: call
    `unfreeze()` before, and `fit` with `slice` rates if earlier groups are to be slower. Normalisation layers learn
    from the start, unless `train_norm` is off. Frozen parameters get no gradient and no decay. Afterwards all learn.
    """

    needs_batches: ClassVar[bool] = False

    def __init__(self, every: int = 1, *, train_norm: bool = True) -> None:
        """Take the number of epochs between two groups."""
        if every < 1:
            raise OptionError(f"every={every} epochs must be at least 1")
        self.every, self.train_norm = every, train_norm
        self._groups: dict[str, list[Tensor]] = {}

    def fit_start(self, state: TrainState) -> None:
        """Look up the groups that learn; raise FreezeError if there is only one."""
        self._groups = {}
        spared = {id(p) for m in norm_modules(state.model) for p in m.parameters()} if self.train_norm else set()
        for group in state.optimizer.param_groups:
            held = self._groups.setdefault(group["name"], [])
            held += [p for p in group["params"] if id(p) not in spared]
        if len(self._groups) < 2:
            raise FreezeError(
                f"only the parameter groups {list(self._groups)} learn, so nothing can be unfrozen gradually; "
                "call unfreeze() first, or give the model's builder more groups (ModelParts)"
            )

    def epoch_start(self, state: TrainState) -> None:
        """Freeze all groups but so many of the last."""
        names = list(self._groups)
        first = max(0, len(names) - 1 - state.epoch // self.every)
        for place, name in enumerate(names):
            for parameter in self._groups[name]:
                parameter.requires_grad_(place >= first)
        if state.epoch % self.every == 0:
            LOG.info("from epoch %d on, of %s learn %s", state.epoch + 1, names, names[first:])

    def fit_end(self, state: TrainState) -> None:
        """Let all groups learn again."""
        for parameters in self._groups.values():
            for parameter in parameters:
                parameter.requires_grad_(True)
        self._groups = {}
