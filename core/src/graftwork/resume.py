"""Resuming: what a run is at one moment, written down, and a learner put back there to go on to the same bits."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import graftwork
from graftwork.callbacks.checkpointer import Captured, checkpoint_files, parts_folder
from graftwork.container import NewerFormatError, canonical_json, json_value, read_container
from graftwork.dataloader import ColumnLoader, Loader
from graftwork.errors import ArtifactError
from graftwork.events import Callback, TrainState
from graftwork.processes import Processes
from graftwork.rows import fields_at
from graftwork.schedule import Schedule
from graftwork.sharding import can_save_parts, check_parts, load_parts
from graftwork.weights import DTYPES, is_part, laid_out, matching, module_tensors, pack_parts, unpack, whole

if TYPE_CHECKING:
    from graftwork.learner import Learner

__all__ = ["Place", "Snapshot", "Start", "capture", "fingerprint", "last_snapshot", "read_snapshot"]

LOG = logging.getLogger("graftwork")
KIND: Final = "run"
WEIGHTS: Final = "weights.safetensors"
TENSORS: Final = "training.safetensors"
LAYOUT: Final = 1
"""Of what the manifest and the tensors mean, apart from the file's own format."""
LOOKED_AT: Final = 256
WHOLE_BYTES: Final = 64 * 2**20
"""Columns up to this size are looked at whole: that takes a tenth of a second."""


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
        there: dict[str, Tensor] = {**self.weights, **self._parts("weights")}
        wrong = _differences(state, there, self.manifest["aliases"])
        if wrong:
            theirs, own = self.manifest["model"]["id"], learn.model_id
            which = f"{self.path} is of another model" + (f", {theirs}, not {own}" if theirs != own else "")
            raise ArtifactError(f"{which} than this learner's: {'; '.join(wrong)}")
        if self.manifest.get("parts"):
            into = {f"weights/{name}": state[name].detach() for name in self._parts("weights")}
            load_parts(self.folder, into, learn.session.processes)
            there = dict(self.weights)
            state = {name: state[name] for name in there}
        with torch.no_grad():
            for name, value in matching(state, there, self.manifest["aliases"]).items():
                state[name].copy_(laid_out(value, state[name]))

    def start(self, learn: Learner, callbacks: Sequence[Callback], state: TrainState) -> Start:
        """Return what puts a fit back to where this was taken."""
        return Start(found=self, learn=learn, callbacks=callbacks, state=state)

    @property
    def folder(self) -> Path:
        """Where the parts lie that several processes have written."""
        return parts_folder(self.path)

    def _parts(self, kind: str) -> dict[str, Tensor]:
        """Return what other files hold, by name, as tensors without data."""
        said = self.manifest.get("parts") or {"tensors": {}}
        return {
            name.removeprefix(f"{kind}/"): torch.empty(shape, dtype=DTYPES[dtype], device="meta")
            for name, (dtype, shape) in said["tensors"].items()
            if name.startswith(f"{kind}/")
        }

    def load_flags(self, learn: Learner, *, at_start: bool) -> None:
        """Let the parameters learn that learned at the fit's start, or at this moment."""
        learns = {name for group in self.manifest["fit"]["learns"] for name in group}
        frozen = set(self.manifest["frozen"])
        for name, parameter in learn.module.named_parameters():
            parameter.requires_grad_(name in learns if at_start else name not in frozen)

    def load_optimizer(self, optimizer: Optimizer, processes: Processes) -> None:
        """Put back what the optimizer had gathered."""
        said, parameters = self.manifest["optimizer"], [p for g in optimizer.param_groups for p in g["params"]]
        state: dict[int, dict[str, Any]] = {int(key): dict(values) for key, values in said["state"].items()}
        into = {key: torch.zeros_like(parameters[int(key.partition("/")[0])]) for key in self._parts("optimizer")}
        if into:
            load_parts(self.folder, {f"optimizer/{key}": value for key, value in into.items()}, processes)
        for key, value in {**self.group("optimizer"), **into}.items():
            number, _, name = key.partition("/")
            like = parameters[int(number)] if int(number) < len(parameters) else value
            alike = value.shape == like.shape and not is_part(value)
            state.setdefault(int(number), {})[name] = laid_out(_strided(value, like), like) if alike else value.clone()
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
        """Put torch's generators where they were; a process that was not there before keeps its own."""
        rank = learn.session.processes.rank
        own = f"/{rank}" if rank else ""
        if f"random/cpu{own}" in self.tensors:
            torch.set_rng_state(self.tensors[f"random/cpu{own}"].clone())
        if learn.session.device.type == "cuda" and f"random/cuda{own}" in self.tensors:
            torch.cuda.set_rng_state(self.tensors[f"random/cuda{own}"].clone(), learn.session.device)
        if learn.session.scaler is not None and self.manifest["scaler"]:
            learn.session.scaler.load_state_dict(dict(self.manifest["scaler"]))

    def load_carried(self, learn: Learner) -> None:
        """Let the model go on from what it carried; a process that was not there before begins anew."""
        found = self.group(f"carried/{learn.session.processes.rank}")
        kept: dict[str, dict[int, Tensor]] = {}
        for key, value in found.items():
            name, _, number = key.rpartition("/")
            kept.setdefault(name, {})[int(number)] = value.clone().to(learn.session.device)
        learn.feed.carried[True] = {name: tuple(left[i] for i in sorted(left)) for name, left in kept.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Put a fit back to where a checkpoint found it."""

    found: Snapshot
    learn: Learner
    callbacks: Sequence[Callback]
    state: TrainState

    @property
    def place(self) -> Place:
        """Where in its fit the run was."""
        return self.found.place

    def restore(self) -> None:
        """Put everything back that events before this one may have begun anew; the next thing to happen is a batch."""
        state, found = self.state, self.found
        found.load_optimizer(state.optimizer, state.processes)
        found.load_flags(self.learn, at_start=False)
        found.load_callbacks(self.callbacks)
        state.step, state.position = self.place.step, self.place.batch
        state.stopped = found.manifest["fit"]["stopped"]
        state.record = state.record | dict(found.manifest["fit"]["record"])
        found.load_random(self.learn)
        found.load_carried(self.learn)


def _strided(value: Tensor, like: Tensor) -> Tensor:
    """Copy an optimizer's tensor into its parameter's memory format: fused kernels walk both side by side."""
    if is_part(like):
        return value
    return torch.empty_like(like, dtype=value.dtype, device=value.device, requires_grad=False).copy_(value)


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
    """Return a hash of a loader's order, its plan, and its columns, or some rows of large ones, or some items' names.

    What all names begin with is left out: a data set may have been moved.
    """
    count = loader.num_items
    spread = sorted({i * (count - 1) // max(1, LOOKED_AT - 1) for i in range(min(count, LOOKED_AT))})
    facts = [count, loader.bs, loader.shuffle, loader.seed, loader.drop_last]
    seen = hashlib.sha256(canonical_json({"facts": facts, "plan": loader.plan.to_config()}))
    if isinstance(loader, ColumnLoader):
        size = sum(column.numel() * column.element_size() for column in loader.columns.values())
        at = torch.arange(count) if size <= WHOLE_BYTES else torch.tensor(spread)
        for column in fields_at(loader, loader.positions[at].tolist()).values():
            seen.update(column.contiguous().cpu().view(torch.uint8).numpy().tobytes())
    else:
        names = [str(loader.item(position)) for position in spread]
        first, last = min(names), max(names)
        shared = next((i for i, pair in enumerate(zip(first, last, strict=False)) if len(set(pair)) > 1), 0)
        seen.update("\n".join(name[shared:] for name in names).encode())
    return seen.hexdigest()[:16]


def capture(
    learn: Learner,
    state: TrainState,
    callbacks: Sequence[Callback],
    schedules: Mapping[str, Schedule],
    *,
    done: bool,
) -> Captured:
    """Copy a run as it is after a step, or after an epoch if it is `done`; all processes are to ask."""
    processes = learn.session.processes
    apart = learn.session.sharded and can_save_parts()
    parts = {f"weights/{n}": v.detach() for n, v in learn.module.state_dict().items() if apart and is_part(v)}
    weights, aliases = (_unparted(learn.module), {}) if apart else module_tensors(learn.module)
    tensors: dict[str, Tensor] = {}
    for rank, found in enumerate(processes.exchange(_random(learn, state))):
        tensors |= {f"random/{name}/{rank}" if rank else f"random/{name}": value for name, value in found.items()}
    for rank, found in enumerate(processes.exchange(_carried(learn, state))):
        tensors |= {f"carried/{rank}/{name}": value for name, value in found.items()}
    for name, schedule in schedules.items():
        tensors[f"lr/{name}"] = torch.from_numpy(schedule.lr)
        if schedule.mom is not None:
            tensors[f"mom/{name}"] = torch.from_numpy(schedule.mom)
    said = state.optimizer.state_dict()
    numbers: dict[str, dict[str, Any]] = {}
    for key, values in said["state"].items():
        numbers[str(key)] = {name: v for name, v in values.items() if not isinstance(v, Tensor)}
        for name, v in values.items():
            if apart and isinstance(v, Tensor) and is_part(v):
                parts[f"optimizer/{key}/{name}"] = v
            elif isinstance(v, Tensor):
                tensors[f"optimizer/{key}/{name}"] = whole(v)
    remembered: dict[str, Any] = {}
    for key, callback in _keyed(callbacks).items():
        kept = callback.state_dict()
        remembered[key] = {name: v for name, v in kept.items() if not isinstance(v, Tensor)}
        tensors.update({f"callback/{key}/{name}": whole(v) for name, v in kept.items() if isinstance(v, Tensor)})
    names = {parameter: name for name, parameter in learn.module.named_parameters()}
    manifest = {
        "kind": KIND,
        "layout": LAYOUT,
        "graftwork": graftwork.__version__,
        "model": {"id": learn.model_id, "config": learn.model_config},
        "aliases": aliases,
        "processes": processes.world,
        "fit": {
            "number": learn.fits_done,
            "epochs": state.num_epochs,
            "first_epoch": state.first_epoch,
            "steps_before": state.steps_before,
            "place": _place(state, done=done),
            "learns": [[names[p] for p in group["params"]] for group in state.optimizer.param_groups],
            "record": {} if done else _finite(state.record),
            "stopped": state.stopped,
        },
        "epochs_done": learn.epochs_done,
        "frozen": [name for name, p in learn.module.named_parameters() if not p.requires_grad],
        "optimizer": {"kind": type(state.optimizer).__name__, "state": numbers, "groups": said["param_groups"]},
        "scaler": None if learn.session.scaler is None else learn.session.scaler.state_dict(),
        "callbacks": remembered,
        "data": learn.fingerprints,
        "bad_items": {str(position): reason for position, reason in learn.data.train.bad_items.items()},
    }
    return (
        json_value(manifest),
        {
            WEIGHTS: pack_parts(weights, copy=True),
            TENSORS: pack_parts(tensors, copy=True),
        },
        parts,
    )


def _random(learn: Learner, state: TrainState) -> dict[str, Tensor]:
    """Return this process's generators; of a step that failed, as they were when it began."""
    failed = state.error is not None and state.random is not None
    found = {"cpu": state.random if failed and state.random is not None else torch.get_rng_state()}
    if learn.session.device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(learn.session.device)
    return found


def _carried(learn: Learner, state: TrainState) -> dict[str, Tensor]:
    """Return what this process's model goes on from; of a step that failed, what it had gone on from."""
    failed = state.error is not None and state.random is not None
    carried = learn.feed.carried_before if failed else learn.feed.carried[True]
    return {f"{name}/{i}": tensor for name, left in carried.items() for i, tensor in enumerate(left)}


def _unparted(module: nn.Module) -> dict[str, Tensor]:
    """Return what every process holds whole."""
    return {name: value for name, value in module.state_dict().items() if not is_part(value)}


def _finite(record: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in record.items() if value == value and abs(value) != float("inf")}


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
    if manifest.get("layout") != LAYOUT:
        raise NewerFormatError(
            f"{path} has layout {manifest.get('layout')}, written by graftwork {manifest.get('graftwork')}; this is "
            f"graftwork {graftwork.__version__}, which reads layout {LAYOUT}: go on with the version that began the run"
        )
    if manifest.get("parts"):
        check_parts(parts_folder(path), manifest["parts"]["files"])
    return Snapshot(
        path=path,
        manifest=manifest,
        weights=unpack(container.members[WEIGHTS], what=f"{path}: {WEIGHTS}"),
        tensors=unpack(container.members[TENSORS], what=f"{path}: {TENSORS}"),
    )


def last_snapshot(path: str | Path) -> Snapshot:
    """Read a checkpoint, or the last whole one of a folder; a damaged one is passed over, which is logged.

    Raises:
        ArtifactError: there is none, or the last one is of a later version.
    """
    path = Path(path)
    if path.is_file():
        return read_snapshot(path)
    folder = path / "checkpoint" if (path / "checkpoint").is_dir() else path
    damaged = []
    for file in reversed(checkpoint_files(folder)):
        try:
            return read_snapshot(file)
        except NewerFormatError:
            raise  # it is whole: passing it over would throw work away
        except ArtifactError as error:
            LOG.warning("%s; the checkpoint before it is used", error)
            damaged.append(file.name)
    found = f"all of them damaged: {', '.join(damaged)}" if damaged else "no step-….graft"
    raise ArtifactError(f"{folder} holds no checkpoint of a run ({found}); start the run again")


def check_data(learn: Learner, found: Snapshot) -> None:
    """Raise ArtifactError if the training split is not the one the run began with; log it of the validation split."""
    before, now = found.manifest["data"], learn.fingerprints
    if before["train"] != now["train"]:
        raise ArtifactError(
            f"{found.path}: the training data are not those the run began with (fingerprint {before['train']}, now "
            f"{now['train']}): their number, order, batch size, encoding or values have changed; give the run its "
            "data and options back, or start a new one"
        )
    if before["valid"] != now["valid"]:
        LOG.warning("%s: the validation data are not those the run began with; metrics cannot be compared", found.path)


def describe(found: Snapshot) -> str:
    """Say in a line where a run will go on."""
    fit = found.manifest["fit"]
    place = found.place
    where = f"epoch {fit['first_epoch'] + place.epoch + 1}" + (f", batch {place.batch}" if place.inside else "")
    return f"going on from {found.path.name}: {where}, step {fit['steps_before'] + place.step}"
