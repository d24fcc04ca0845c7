"""Engines: ways to train a model for an epoch other than the loop's one optimizer step per batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from graftwork.dataloader import Loader
from graftwork.events import Callback, EventTable, TrainState
from graftwork.objective import Objective
from graftwork.schedule import Schedule

__all__ = ["Engine", "EngineRun", "listeners"]


@dataclass(slots=True, kw_only=True)
class EngineRun:
    """Say what an engine is to train, with what, and where in the fit it is.

    `epoch` is the loader's epoch, `first_step` the number of this fit's steps before it; `schedules` hold a rate and a
    momentum for every step of the fit, by parameter group. The optimizer says weight decay, betas and eps; it is not
    stepped.
    """

    module: nn.Module
    loader: Loader
    optimizer: Optimizer
    schedules: Mapping[str, Schedule]
    objective: Objective
    state: TrainState
    device: torch.device
    seed: int
    epoch: int = 0
    first_step: int = 0


class Engine(ABC):
    """Train a model in place, an epoch at a time: by a kernel of its own, or by a closed form.

    A model's builder hands it over in its ModelParts. Batches and their events do not exist for it; epochs, schedules,
    validation, history, freezing and export are the learner's as ever. Where it refuses, the loop trains instead,
    which is said, unless the engine is `required`.
    """

    required: ClassVar[bool] = False
    """True if there is no gradient to follow, so that the loop cannot stand in."""

    @abstractmethod
    def refuses(self, run: EngineRun) -> str | None:
        """Return why this cannot be trained here (another device, optimizer, loss, frozen groups), or None."""

    @abstractmethod
    def train_epoch(self, run: EngineRun) -> Tensor:
        """Train for one epoch and return the losses on the way, at least one: (S,)."""


def listeners(callbacks: Sequence[Callback]) -> str | None:
    """Name callbacks that listen to single batches, which an engine does not have."""
    for callback in callbacks:
        table = EventTable.compile([callback])
        if not callback.needs_batches:
            continue
        if table.batch_start or table.loss_end or table.backward_end or table.batch_end:
            return f"the callback {type(callback).__name__} listens to single batches"
    return None
