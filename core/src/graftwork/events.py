"""What happens during training, and who is told.

A callback overrides some of eleven methods, each `(self, state) -> None`. At `fit` they are compiled into a table of
bound methods, so that an event nobody listens to costs one empty loop. Events that end in `_end` run in reverse order.

    fit_start
      epoch_start
        phase_start                      "train", then "valid"
          batch_start                    the batch is on the device, after its batch steps (train)
            loss_end                     state.output and state.loss are there          (train and valid)
            backward_end                 gradients are there; the step comes next       (train)
          batch_end
        phase_end                        losses and metrics of the phase have been read
      epoch_end
    fit_end                              always, also after an error
    error                                first of all when something was raised; state.error says what
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor, nn

from graftwork.batch import Batch
from graftwork.errors import OptionError
from graftwork.processes import ALONE, Processes

if TYPE_CHECKING:
    import torch
    from torch.optim import Optimizer

    from graftwork.container import Data
    from graftwork.objective import Objective

__all__ = ["EVENTS", "Callback", "EventTable", "Phase", "TrainState"]

Phase = Literal["train", "valid"]
EVENTS = (
    "fit_start",
    "epoch_start",
    "phase_start",
    "batch_start",
    "loss_end",
    "backward_end",
    "batch_end",
    "phase_end",
    "epoch_end",
    "fit_end",
    "error",
)


@dataclass(slots=True)
class TrainState:
    """Hold what callbacks read and write. Losses and outputs are tensors on the device; reading one waits for it."""

    model: nn.Module
    optimizer: Optimizer
    num_epochs: int
    num_batches: int
    phase: Phase = "train"
    epoch: int = 0
    """Epochs finished in this fit."""
    first_epoch: int = 0
    """Epochs the learner had been trained for before this fit."""
    step: int = 0
    """Optimizer steps of this fit."""
    steps_before: int = 0
    """Optimizer steps the learner had taken before this fit."""
    batch_index: int = 0
    position: int = 0
    """The loader's next batch, in training."""
    batch: Batch | None = None
    output: Any = None
    loss: Tensor | None = None
    losses: Tensor | None = None
    """The losses of a training phase that an engine has run, (S,); None where the loop does."""
    record: dict[str, float] = field(default_factory=dict)
    """The line of this epoch's history so far: train_loss, valid_loss, metrics, seconds."""
    learning_rate: float = 0.0
    """The last parameter group's."""
    stopped: str | None = None
    skipping: bool = False
    error: BaseException | None = None
    random: Tensor | None = None
    """torch's generator before the last batch, if somebody keeps it: what a step that failed began from."""
    capture: Callable[[bool], tuple[Mapping[str, Any], Mapping[str, Data], Mapping[str, Tensor]]] | None = None
    """Return all that is needed to go on from here, as a file holds it, and tensors of which this process holds a part;
    True after the end of an epoch. All processes are to ask."""
    updates: int = 0
    """Steps of this fit in which the optimizer moved the weights: those that were not skipped."""
    objective: Objective | None = None
    scaler: torch.amp.GradScaler | None = None
    """What gradients are scaled by in fp16."""
    flush: Callable[[], None] | None = None
    """Take the step that skipped batches still owe: backward_end is told, then the optimizer steps."""
    unscaled_at: int = -1
    """The step whose gradients have been unscaled."""
    processes: Processes = ALONE
    """Who trains together; what differs between them is to be agreed on before it decides anything."""

    def stop(self, why: str) -> None:
        """End training after this batch; the reason is said."""
        self.stopped = why

    def skip_step(self) -> None:
        """Keep the gradients and take no optimizer step for this batch."""
        self.skipping = True

    def unscale(self) -> None:
        """Bring gradients that fp16 has scaled to their true size; a second call in a step does nothing."""
        if self.scaler is not None and self.unscaled_at != self.step:
            self.scaler.unscale_(self.optimizer)
            self.unscaled_at = self.step


class Callback:
    """Listen to training. Override any of the eleven events; `order` sorts callbacks, small first."""

    order: int = 0
    needs_batches: ClassVar[bool] = True
    """Whether events of single batches are needed where they are listened to: an engine has none."""
    first_only: ClassVar[bool] = False
    """Whether of several processes only the first one needs it: it prints or writes, and changes nothing."""
    claims: ClassVar[str | None] = None
    """What only one callback of a fit can do, in words."""

    def state_dict(self) -> dict[str, Any]:
        """Return what must be in a checkpoint to go on: JSON values and tensors."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""

    def fit_start(self, state: TrainState) -> None:
        """Hear that a fit begins."""

    def epoch_start(self, state: TrainState) -> None:
        """Hear that an epoch begins."""

    def phase_start(self, state: TrainState) -> None:
        """Hear that the training or the validation part of an epoch begins."""

    def batch_start(self, state: TrainState) -> None:
        """Hear that `state.batch` is ready; it may be changed."""

    def loss_end(self, state: TrainState) -> None:
        """Hear that `state.loss` is there; it may be replaced."""

    def backward_end(self, state: TrainState) -> None:
        """Hear that gradients are there; they may be changed, or the step skipped."""

    def batch_end(self, state: TrainState) -> None:
        """Hear that a batch is done."""

    def phase_end(self, state: TrainState) -> None:
        """Hear that the losses and metrics of a phase are in `state.record`."""

    def epoch_end(self, state: TrainState) -> None:
        """Hear that an epoch is done and `state.record` is complete."""

    def fit_end(self, state: TrainState) -> None:
        """Hear that a fit has ended, whether well or not."""

    def error(self, state: TrainState) -> None:
        """Hear that `state.error` was raised; `fit_end` follows, then it is raised on."""


Handler = Callable[[TrainState], None]


@dataclass(frozen=True, slots=True)
class EventTable:
    """Hold, for each event, the bound methods that override it."""

    fit_start: tuple[Handler, ...]
    epoch_start: tuple[Handler, ...]
    phase_start: tuple[Handler, ...]
    batch_start: tuple[Handler, ...]
    loss_end: tuple[Handler, ...]
    backward_end: tuple[Handler, ...]
    batch_end: tuple[Handler, ...]
    phase_end: tuple[Handler, ...]
    epoch_end: tuple[Handler, ...]
    fit_end: tuple[Handler, ...]
    error: tuple[Handler, ...]

    @classmethod
    def compile(cls, callbacks: Iterable[Callback]) -> EventTable:
        """Sort callbacks and collect what they override.

        Raises:
            OptionError: a method that is nearly an event, or two callbacks that claim the same.
        """
        given = list(callbacks)
        for callback in given:
            if not isinstance(callback, Callback):
                raise OptionError(f"{callback!r} among the callbacks is no Callback; pass an instance of a subclass")
            _check_names(callback)
        _check_claims(given)
        ordered = sorted(given, key=lambda callback: callback.order)
        return cls(**{event: _handlers(event, ordered) for event in EVENTS})


def _handlers(event: str, ordered: list[Callback]) -> tuple[Handler, ...]:
    own = vars(Callback)[event]
    found = [getattr(callback, event) for callback in ordered if getattr(type(callback), event) is not own]
    return tuple(reversed(found) if event.endswith("_end") else found)


def _check_claims(given: list[Callback]) -> None:
    holders: dict[str, Callback] = {}
    for callback in given:
        if callback.claims is not None and holders.setdefault(callback.claims, callback) is not callback:
            raise OptionError(
                f"{type(holders[callback.claims]).__name__} and {type(callback).__name__} both want to "
                f"{callback.claims}; give one of them"
            )


def _check_names(callback: Callback) -> None:
    for kind in type(callback).__mro__:
        if kind in (Callback, object):
            continue
        for name, value in vars(kind).items():
            near = None if name in EVENTS or not callable(value) else _meant(name)
            if near:
                raise OptionError(
                    f"{type(callback).__name__}.{name} looks like an event and is none; did you mean {near}? "
                    f"(The events: {', '.join(EVENTS)}. A helper of another kind starts with an underscore.)"
                )


def _meant(name: str) -> str | None:
    """Return the event a method's name is nearly; other libraries' before_x, after_x and on_x count."""
    for prefix, suffix in (("before_", "_start"), ("after_", "_end"), ("on_", "")):
        if name.startswith(prefix):
            return next(iter(get_close_matches(name.removeprefix(prefix) + suffix, EVENTS, 1, cutoff=0.0)))
    return next(iter(get_close_matches(name, EVENTS, 1, cutoff=0.7)), None)
