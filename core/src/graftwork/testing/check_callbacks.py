"""Checks of callbacks: valid events, a state that fits into a checkpoint, and a run to its end."""

from __future__ import annotations

import json
from contextlib import chdir
from copy import deepcopy
from typing import Any, Final

import torch
from torch import Tensor, nn

from graftwork.errors import OptionError
from graftwork.events import Callback, EventTable, TrainState
from graftwork.learner import Learner
from graftwork.model import ModelParts
from graftwork.runtime import Runtime
from graftwork.spec import CallbackSpec
from graftwork.testing.compare import same
from graftwork.testing.kit import Kit
from graftwork.testing.toy import make_items, recipe
from graftwork.testing.verdict import Check, FlawError

__all__ = ["CHECKS"]


def _made(kit: Kit, spec: CallbackSpec) -> Callback:
    example = kit.examples.callbacks.get(spec.id)
    made: Callback = kit.load(spec)() if example is None else example()
    return made


def _events(kit: Kit, spec: CallbackSpec) -> None:
    try:
        EventTable.compile([_made(kit, spec)])
    except OptionError as error:
        raise FlawError(str(error), fix="name methods after events, or begin them with an underscore") from error


def _run(kit: Kit, spec: CallbackSpec) -> None:
    # Those that write files do so where nobody looks.
    with chdir(kit.folder):
        _run_twice(kit, spec)


def _run_twice(kit: Kit, spec: CallbackSpec) -> None:
    callback, probe = _made(kit, spec), _Probe()
    probe.watched = callback
    _fitted(callback, probe)
    _check_plain(probe.found)
    again = _Probe()
    again.watched, again.given = _made(kit, spec), probe.found
    _fitted(again.watched, again)
    # A clock goes on meanwhile.
    if not same(again.after, probe.found, tolerance=0.01):
        raise FlawError("state_dict gives something else after load_state_dict", fix="put all of it back")


class _Probe(Callback):
    """Take a callback's state in the second epoch, and put one back in the first, as resuming does."""

    order = 10_000

    def __init__(self) -> None:
        self.watched = Callback()
        self.given: dict[str, Any] | None = None
        self.found: dict[str, Any] = {}
        self.after: dict[str, Any] = {}

    def batch_start(self, state: TrainState) -> None:
        if state.phase == "train" and state.step == 0 and self.given is not None:
            self.watched.load_state_dict(self.given)
            self.after = deepcopy(self.watched.state_dict())

    def batch_end(self, state: TrainState) -> None:
        if state.phase == "train" and state.epoch == 1 and not self.found:
            self.found = deepcopy(self.watched.state_dict())


def _fitted(callback: Callback, probe: _Probe) -> None:
    """Train the toy model with a callback for two epochs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body, head = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU()), nn.Linear(16, 3)
    parts = ModelParts(module=nn.Sequential(body, head), groups={"body": [body], "head": [head]})
    data = recipe().dataloaders(make_items(64), bs=16, workers=0)
    learn = Learner(data, parts, callbacks=[callback, probe], runtime=Runtime(device="cpu"), progress=False)
    learn.freeze()
    learn.fit(2)


def _check_plain(value: Any) -> None:
    """Refuse what is neither JSON nor a tensor."""
    if isinstance(value, Tensor):
        return
    if isinstance(value, dict):
        for part in value.values():
            _check_plain(part)
    elif isinstance(value, list | tuple):
        for part in value:
            _check_plain(part)
    else:
        try:
            json.dumps(value)
        except TypeError as error:
            raise FlawError(f"its state holds a {type(value).__name__}", fix="hold JSON values and tensors") from error


CHECKS: Final = (
    Check(id="callback-events", kind="callbacks", reason="a mistyped event is never heard", run=_events),
    Check(id="callback-run", kind="callbacks", reason="a run is resumed from callbacks' states, too", run=_run),
)
