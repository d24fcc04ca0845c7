"""Resuming: what a run is at one moment, written down, and a learner put back there to go on to the same bits."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor
from torch.optim import Optimizer

import graftwork
from graftwork.callbacks.checkpointer import Captured, checkpoint_files
from graftwork.container import canonical_json, json_value, read_container
from graftwork.dataloader import ColumnLoader, Loader
from graftwork.errors import ArtifactError
from graftwork.events import Callback, TrainState
from graftwork.rows import fields_at
from graftwork.schedule import Schedule
from graftwork.weights import matching, pack, pack_module, unpack

if TYPE_CHECKING:
    from graftwork.learner import Learner

__all__ = ["Place", "Snapshot", "capture", "fingerprint", "last_snapshot", "read_snapshot"]

LOG = logging.getLogger("graftwork")
KIND: Final = "run"
WEIGHTS: Final = "weights.safetensors"
TENSORS: Final = "training.safetensors"
LOOKED_AT: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Say where in a fit a run is: epochs done, the loader's next batch, the number of the loop's last one, steps."""

    epoch: int
    batch: int
    index: int
    step: int

    @property
    def inside(self) -> bool:
        """Whether an epoch has begun."""
        return self.batch > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Hold what a checkpoint of a run says."""

    path: Path
    manifest: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    tensors: Mapping[str, Tensor]

    @property
    def place(self) -> Place:
        """Where in its fit the run was."""
        return Place(**self.manifest["fit"]["place"])

    def group(self, name: str) -> dict[str, Tensor]:
        """Return the tensors whose names begin with `name/`, without it."""
        return {key[len(name) + 1 :]: value for key, value in self.tensors.items() if key.startswith(name + "/")}

    def schedules(self) -> dict[str, Schedule]:
        """Return every parameter group's rates and momenta, for all steps of the fit."""
        lr, mom = self.group("lr"), self.group("mom")
        return {name: Schedule(lr[name].numpy(), mom[name].numpy() if name in mom else None) for name in lr}

    def load_weights(self, learn: Learner) -> None:
        """Copy the weights into the learner's model; raise ArtifactError with what differs if it is another one."""
        state = learn.module.state_dict()
        wrong = _differences(state, self.weights, self.manifest["aliases"])
        if wrong:
            raise ArtifactError(f"{self.path} is of another model than this learner's: {'; '.join(wrong)}")
        for name, value in matching(state, self.weights, self.manifest["aliases"]).items():
            state[name].copy_(value)

    def load_flags(self, learn: Learner, *, at_start: bool) -> None:
        """Let the parameters learn that learned at the fit's start, or at this moment."""
        learns = {name for group in self.manifest["fit"]["learns"] for name in group}
        frozen = set(self.manifest["frozen"])
        for name, parameter in learn.module.named_parameters():
            parameter.requires_grad_(name in learns if at_start else name not in frozen)

    def load_optimizer(self, optimizer: Optimizer) -> None:
        """Put back what the optimizer had gathered."""
        said = self.manifest["optimizer"]
        state: dict[int, dict[str, Any]] = {int(key): dict(values) for key, values in said["state"].items()}
        for key, value in self.group("optimizer").items():
            number, _, name = key.partition("/")
            state.setdefault(int(number), {})[name] = value.clone()
        groups = [{key: _tuple(value) for key, value in group.items()} for group in said["groups"]]
        optimizer.load_state_dict({"state": state, "param_groups": groups})

    def load_callbacks(self, callbacks: Sequence[Callback]) -> None:
        """Put back what callbacks remember; those the run did not have start as they are, which is said."""
        for key, callback in _keyed(callbacks).items():
            if key not in self.manifest["callbacks"]:
                LOG.warning("%s says nothing of the callback %s, which starts anew", self.path, key)
                continue
            callback.load_state_dict({**self.manifest["callbacks"][key], **self.group(f"callback/{key}")})

    def load_random(self, learn: Learner) -> None:
        """Put torch's generators where they were."""
        torch.set_rng_state(self.tensors["random/cpu"].clone())
        if learn.session.device.type == "cuda" and "random/cuda" in self.tensors:
            torch.cuda.set_rng_state(self.tensors["random/cuda"].clone(), learn.session.device)
        if learn.session.scaler is not None and self.manifest["scaler"]:
            learn.session.scaler.load_state_dict(dict(self.manifest["scaler"]))


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) and value and isinstance(value[0], float) else value


def _keyed(callbacks: Sequence[Callback]) -> dict[str, Callback]:
    """Name callbacks by their class, and further ones of it by a number."""
    named: dict[str, Callback] = {}
    for callback in callbacks:
        name, number = type(callback).__name__, 1
        while name in named:
            number += 1
            name = f"{type(callback).__name__}-{number}"
        named[name] = callback
    return named


def _differences(state: Mapping[str, Tensor], weights: Mapping[str, Tensor], aliases: Mapping[str, str]) -> list[str]:
    """Say what a model has and a file has not, or the other way round, or in another shape; at most five of each."""
    there = {**{name: weights[name] for name in weights}, **{name: weights[owner] for name, owner in aliases.items()}}
    missing = [f"the file has no {name!r}" for name in state if name not in there]
    added = [f"the model has no {name!r}" for name in there if name not in state]
    shapes = [
        f"{name!r} is {tuple(there[name].shape)} in the file and {tuple(value.shape)} in the model"
        for name, value in state.items()
        if name in there and there[name].shape != value.shape
    ]
    return missing[:5] + added[:5] + shapes[:5]


def fingerprint(loader: Loader) -> str:
    """Return a hash of a loader's order, its plan, and some of its items spread over all of them."""
    count = loader.num_items
    spread = sorted({i * (count - 1) // max(1, LOOKED_AT - 1) for i in range(min(count, LOOKED_AT))})
    facts = [count, loader.bs, loader.shuffle, loader.seed, loader.drop_last]
    seen = hashlib.sha256(canonical_json({"facts": facts, "plan": loader.plan.to_config()}))
    if isinstance(loader, ColumnLoader):
        at = torch.tensor(spread)
        for column in fields_at(loader, loader.positions[at].tolist()).values():
            seen.update(column.contiguous().cpu().view(torch.uint8).numpy().tobytes())
    else:
        seen.update("\n".join(str(loader.item(position)) for position in spread).encode())
    return seen.hexdigest()[:16]


def capture(
    learn: Learner,
    state: TrainState,
    callbacks: Sequence[Callback],
    schedules: Mapping[str, Schedule],
    *,
    done: bool,
) -> Captured:
    """Write down a run as it is after a step, or after an epoch if it is `done`."""
    weights, aliases = pack_module(learn.module)
    failed = state.error is not None and state.random is not None
    tensors = {"random/cpu": state.random if failed and state.random is not None else torch.get_rng_state()}
    if learn.session.device.type == "cuda":
        tensors["random/cuda"] = torch.cuda.get_rng_state(learn.session.device)
    for name, schedule in schedules.items():
        tensors[f"lr/{name}"] = torch.from_numpy(schedule.lr)
        if schedule.mom is not None:
            tensors[f"mom/{name}"] = torch.from_numpy(schedule.mom)
    said = state.optimizer.state_dict()
    numbers: dict[str, dict[str, Any]] = {}
    for key, values in said["state"].items():
        numbers[str(key)] = {name: v for name, v in values.items() if not isinstance(v, Tensor)}
        tensors.update({f"optimizer/{key}/{name}": v for name, v in values.items() if isinstance(v, Tensor)})
    remembered: dict[str, Any] = {}
    for key, callback in _keyed(callbacks).items():
        kept = callback.state_dict()
        remembered[key] = {name: v for name, v in kept.items() if not isinstance(v, Tensor)}
        tensors.update({f"callback/{key}/{name}": v for name, v in kept.items() if isinstance(v, Tensor)})
    manifest = {
        "kind": KIND,
        "graftwork": graftwork.__version__,
        "model": {"id": learn.model_id, "config": learn.model_config},
        "aliases": aliases,
        "fit": {
            "number": learn.fits_done,
            "epochs": state.num_epochs,
            "first_epoch": state.first_epoch,
            "steps_before": state.steps_before,
            "place": _place(state, done=done),
            "learns": [[_name_of(learn, p) for p in group["params"]] for group in state.optimizer.param_groups],
            "record": {} if done else _finite(state.record),
        },
        "epochs_done": learn.epochs_done,
        "frozen": [name for name, p in learn.module.named_parameters() if not p.requires_grad],
        "optimizer": {"kind": type(state.optimizer).__name__, "state": numbers, "groups": said["param_groups"]},
        "scaler": None if learn.session.scaler is None else learn.session.scaler.state_dict(),
        "callbacks": remembered,
        "data": {"train": learn.fingerprint},
        "bad_items": {str(position): reason for position, reason in learn.data.train.bad_items.items()},
    }
    return json_value(manifest), {WEIGHTS: weights, TENSORS: pack(tensors)}


def _finite(record: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in record.items() if value == value and abs(value) != float("inf")}


def _name_of(learn: Learner, parameter: Tensor) -> str:
    return next(name for name, p in learn.module.named_parameters() if p is parameter)


def _place(state: TrainState, *, done: bool) -> dict[str, int]:
    if done:
        return {"epoch": state.epoch + 1, "batch": 0, "index": -1, "step": state.step}
    return {"epoch": state.epoch, "batch": state.position, "index": state.batch_index, "step": state.step}


def read_snapshot(path: Path) -> Snapshot:
    """Read a checkpoint of a run, its bytes verified; raise ArtifactError for a damaged or another kind of file."""
    container = read_container(path, copy=True)
    manifest = container.manifest
    if manifest.get("kind") != KIND or {WEIGHTS, TENSORS} - set(container.members):
        raise ArtifactError(f"{path} holds a {manifest.get('kind')!r}, not the checkpoint of a run")
    return Snapshot(
        path=path,
        manifest=manifest,
        weights=unpack(container.members[WEIGHTS], what=f"{path}: {WEIGHTS}"),
        tensors=unpack(container.members[TENSORS], what=f"{path}: {TENSORS}"),
    )


def last_snapshot(path: str | Path) -> Snapshot:
    """Read a checkpoint, or the last whole one of a folder; a damaged one is passed over, which is logged.

    Raises:
        ArtifactError: there is none.
    """
    path = Path(path)
    if path.is_file():
        return read_snapshot(path)
    folder = path / "checkpoint" if (path / "checkpoint").is_dir() else path
    damaged = []
    for file in reversed(checkpoint_files(folder)):
        try:
            return read_snapshot(file)
        except ArtifactError as error:
            LOG.warning("%s; the checkpoint before it is used", error)
            damaged.append(file.name)
    found = f"all of them damaged: {', '.join(damaged)}" if damaged else "no step-….graft"
    raise ArtifactError(f"{folder} holds no checkpoint of a run ({found}); start the run again")


def check_data(learn: Learner, found: Snapshot) -> None:
    """Raise ArtifactError if the training split is not the one the run began with."""
    before = found.manifest["data"]["train"]
    if before != learn.fingerprint:
        raise ArtifactError(
            f"{found.path}: the training data are not those the run began with (fingerprint {before}, now "
            f"{learn.fingerprint}): their number, order, batch size, encoding or values have changed; give the run its "
            "data and options back, or start a new one"
        )


def describe(found: Snapshot) -> str:
    """Say in a line where a run will go on."""
    fit = found.manifest["fit"]
    place = found.place
    where = f"epoch {fit['first_epoch'] + place.epoch + 1}" + (f", batch {place.batch}" if place.inside else "")
    return f"going on from {found.path.name}: {where}, step {fit['steps_before'] + place.step}"
