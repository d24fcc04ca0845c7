"""The artifact: one file with all that a trained model needs to predict, and no code.

The manifest names registry ids and JSON configs, never import paths. Reading verifies every byte, then that every id is
registered, and only then builds anything; the weights are mapped from the file, not copied.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from torch import Tensor, nn

import graftwork
from graftwork.container import json_value, read_container, read_manifest, write_container
from graftwork.errors import ArtifactError, OptionError, UserError
from graftwork.loss import Loss
from graftwork.model import ModelParts, model_context
from graftwork.plan import Plan
from graftwork.plugins import Host, get_host
from graftwork.predictor import Predictor
from graftwork.runtime import Precision, Runtime
from graftwork.spec import provider
from graftwork.weights import blank_build, pack_module, unpack

if TYPE_CHECKING:
    from graftwork.learner import Learner

__all__ = ["export", "load_learner", "read_manifest", "save_artifact"]

KIND: Final = "learner"
WEIGHTS: Final = "weights.safetensors"

_ID: Final = re.compile(r"([a-z0-9]+(?:-[a-z0-9]+)*)/[A-Za-z0-9][A-Za-z0-9_.-]*")


def save_artifact(
    path: str | Path,
    *,
    module: nn.Module,
    plan: Plan,
    model_id: str,
    model_config: Mapping[str, Any],
    losses: Mapping[str, Mapping[str, Any]] | None = None,
    task: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    seed: int | None = None,
    rows: Mapping[str, int] | None = None,
    extra: Mapping[str, Any] | None = None,
    packed: tuple[bytes, dict[str, str]] | None = None,
) -> Path:
    """Write a trained model to one file, having made sure that it can be read again; same inputs, same bytes.

    `task` and each of `losses` (by target) are `{"id": …, "config": {…}}`; `extra` is any JSON; `packed` is what
    `pack_module` makes of the module, where that has been called already.

    Raises:
        ArtifactError: something is not registered or not JSON, or `model_id` and its config do not make this module.
    """
    path = Path(path)
    weights, aliases = packed or pack_module(module)
    manifest = {
        "kind": KIND,
        "graftwork": graftwork.__version__,
        "task": task,
        "plan": plan.to_config(),
        "model": {"id": model_id, "config": dict(model_config)},
        "losses": dict(losses or {}),
        "metrics": {name: value if math.isfinite(value) else None for name, value in (metrics or {}).items()},
        "seed": seed,
        "rows": dict(rows or {}),
        "aliases": aliases,
        "parameters": sum(p.numel() for p in module.parameters()),
        "extra": dict(extra or {}),
    }
    manifest = json_value(manifest)
    with _explained(path, "cannot be written"):
        manifest["plugins"] = _plugins(manifest)
        _check_readable(manifest, plan, weights)
    return write_container(path, manifest=manifest, members={WEIGHTS: weights})


def export(learn: Learner, path: Path, *, task: Mapping[str, Any] | None = None) -> Path:
    """Write a learner's model, with the metrics of its last epoch."""
    if learn.model_id is None:
        raise OptionError(
            "only a model given by its name can be exported, since a file holds names and no code; "
            "register the model's builder in a plugin and pass its id: Learner(data, 'namespace/name')"
        )
    processes = learn.session.processes
    packed = pack_module(learn.module) if processes.first or learn.session.sharded else None
    if not processes.first:
        processes.wait()
        return path
    last = learn.history[-1] if learn.history else {}
    valid = learn.data.valid
    written = save_artifact(
        path,
        packed=packed,
        module=learn.module,
        plan=learn.data.plan,
        model_id=learn.model_id,
        model_config=learn.model_config,
        losses={name: ref for name, loss in learn.objective.losses.items() if (ref := _loss_ref(loss)) is not None},
        task=task,
        metrics={name: float(value) for name, value in last.items() if name not in ("epoch", "seconds")},
        seed=learn.seed,
        rows={"train": learn.data.train.num_items, "valid": 0 if valid is None else valid.num_items},
        extra={"epochs": learn.epochs_done},
    )
    processes.wait()
    return written


def load_learner(
    path: str | Path, *, device: str = "cpu", precision: Precision = "fp32", copy: bool = False
) -> Predictor:
    """Read an artifact back as something that predicts, without the training data or program.

    The weights stay mapped to the file, privately: training them does not write to it. Replace the file as graftwork
    does, by renaming; for a file that another program overwrites in place, pass `copy=True`.

    Raises:
        ArtifactError: the file is damaged, forged, too new, or needs a plugin that is not installed.
    """
    path = Path(path)
    container = read_container(path, copy=copy)
    manifest = container.manifest
    if manifest.get("kind") != KIND or WEIGHTS not in container.members:
        raise ArtifactError(f"{path} holds a {manifest.get('kind')!r}, not an exported model; give a model.graft")
    with _explained(path, "cannot be loaded"):
        _check_ids(manifest)
        plan = _plan(manifest["plan"])
        module = _module(manifest, plan, unpack(container.members[WEIGHTS], what=WEIGHTS))
        losses = _losses(manifest["losses"])
    # On the CPU weights stay as they lie in the file: turning them round would cost more than it gains one item.
    layout = False if device == "cpu" else None
    runtime = Runtime(device=device, precision=precision, channels_last=layout, strategy="alone")
    return Predictor(module, plan, manifest=manifest, runtime=runtime, losses=losses)


@contextmanager
def _explained(path: Path, what: str) -> Iterator[None]:
    """Turn whatever a component raises about its config into a refusal that names the file."""
    try:
        yield
    except UserError as error:
        raise ArtifactError(f"{path} {what}: {error}") from error
    except Exception as error:
        raise ArtifactError(
            f"{path} {what}: {type(error).__name__}: {error}; a component does not read its config in the manifest "
            "(`graft show` prints it), which another version of its plugin may have written"
        ) from error


def _plan(config: Mapping[str, Any]) -> Plan:
    host = get_host()
    return Plan.from_config(config, block=host.blocks.get, transform=host.transforms.get)


def _module(manifest: Mapping[str, Any], plan: Plan, tensors: Mapping[str, Tensor]) -> nn.Module:
    builder, context = get_host().models.get(manifest["model"]["id"]), model_context(plan)

    def build() -> nn.Module:
        built = builder(context, **manifest["model"]["config"])
        return built.module if isinstance(built, ModelParts) else built

    return blank_build(build, tensors, manifest["aliases"])


def _loss_ref(loss: Loss) -> dict[str, Any] | None:
    """Return a loss's id and options; None if it is not registered, or does not keep its options under their names."""
    target = f"{type(loss).__module__}:{type(loss).__qualname__}"
    spec = next(iter(get_host().losses.find(target=target)), None)
    kept = {**vars(loss), **vars(loss)["_buffers"]}
    parameters = signature(type(loss)).parameters.values()
    options = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if spec is None or not kept.keys() >= set(options):
        return None
    config = {name: kept[name].tolist() if isinstance(kept[name], Tensor) else kept[name] for name in options}
    return {"id": spec.id, "config": config}


def _losses(refs: Mapping[str, Mapping[str, Any]]) -> dict[str, Loss]:
    return {target: get_host().losses.get(ref["id"])(**ref["config"]) for target, ref in refs.items()}


def _check_readable(manifest: Mapping[str, Any], plan: Plan, weights: bytes) -> None:
    """Build from the manifest what is about to be written, so that a file which cannot be read is not made."""
    _check_ids(manifest)
    again = _plan(manifest["plan"])
    for name, field in plan.fields.items():
        if (field.raw, field.final) != (again.fields[name].raw, again.fields[name].final):
            raise ArtifactError(
                f"field {name!r} is {field.final!r}, and read again it would be {again.fields[name].final!r}"
            )
    for field in plan.fields.values():
        for step in (*field.item_steps, *field.batch_steps):
            if get_host().transforms.get(step.transform.id) is not type(step.transform):
                raise ArtifactError(
                    f"{step.transform!r} is not what is registered as {step.transform.id!r}; register it"
                )
    _losses(manifest["losses"])
    _module(manifest, again, unpack(memoryview(bytearray(weights)), what=WEIGHTS))


# --- ids -------------------------------------------------------------------------------------------------------------


def _ids(manifest: Mapping[str, Any], host: Host) -> Iterator[tuple[Any, str]]:
    """Yield every id in a manifest with the registry it must be in."""
    plan = manifest["plan"]
    yield host.models, manifest["model"]["id"]
    for ref in plan["fields"].values():
        yield host.blocks, ref["id"]
    for step in (*plan["item"], *plan["batch"]):
        for ref in step.values():
            yield host.transforms, ref["id"]
    for ref in manifest["losses"].values():
        yield host.losses, ref["id"]
    if manifest["task"] is not None:
        yield host.tasks, manifest["task"]["id"]


def _check_ids(manifest: Mapping[str, Any]) -> None:
    """Raise unless every id is registered; what is missing is named with the command that installs it."""
    host = get_host()
    absent = defaultdict(set)
    known = {info.name for info in host.plugins()}
    for _, name in _ids(manifest, host):
        match = _ID.fullmatch(name) if isinstance(name, str) else None
        if match is None:
            raise ArtifactError(f"its manifest names {name!r}, which is no id of the form 'namespace/name'")
        if match[1] not in known:
            absent[match[1]].add(name)
    if absent:
        needed = ", ".join(sorted(name for names in absent.values() for name in names))
        said = {name: info["distribution"] for name, info in manifest.get("plugins", {}).items()}
        packages = " ".join(provider(namespace, said=said.get(namespace)) for namespace in sorted(absent))
        raise ArtifactError(f"it needs {needed}, of plugins that are not installed: pip install {packages}")
    for registry, name in _ids(manifest, host):
        registry.spec(name)


def _plugins(manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Say which plugins the manifest's ids belong to, and in which versions they are installed."""
    host = get_host()
    wanted = {name.partition("/")[0] for _, name in _ids(manifest, host)}
    return {
        info.name: {"distribution": info.dist, "version": info.version, "api": list(info.plugin.requires_api)}
        for info in host.plugins()
        if info.name in wanted and info.state == "ok" and info.plugin is not None
    }
