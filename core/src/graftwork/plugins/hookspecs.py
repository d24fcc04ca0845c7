"""The hooks a plugin may implement: what each is asked, when, and what it answers.

A registration hook takes no argument and returns records, or yields them. It is asked once, when the plugin is loaded;
a plugin loaded later is asked then. It must not import what the records point to.

A run-time hook is asked by a command that needs it. Each plugin is asked by itself: one that raises is reported and
passed over. An implementation may leave out arguments it has no use for, so that a later version may add some.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pluggy import HookspecMarker

from graftwork.spec import (
    BaselineSpec,
    BlockSpec,
    CallbackSpec,
    Check,
    CommandSpec,
    DatasetSpec,
    DocLink,
    ExporterSpec,
    LossSpec,
    MetricSpec,
    ModelSpec,
    SourceSpec,
    TaskSpec,
    TransformSpec,
)

hookspec = HookspecMarker("graftwork")


@hookspec(historic=True)
def graftwork_register_blocks() -> Iterable[BlockSpec]:  # type: ignore[empty-body]
    """Return the blocks: what one field of a sample can be."""


@hookspec(historic=True)
def graftwork_register_transforms() -> Iterable[TransformSpec]:  # type: ignore[empty-body]
    """Return the transforms: ways from one block to another."""


@hookspec(historic=True)
def graftwork_register_sources() -> Iterable[SourceSpec]:  # type: ignore[empty-body]
    """Return the sources: forms in which data lies on a disk."""


@hookspec(historic=True)
def graftwork_register_datasets() -> Iterable[DatasetSpec]:  # type: ignore[empty-body]
    """Return the data sets that `graft data` lists and fetches."""


@hookspec(historic=True)
def graftwork_register_models() -> Iterable[ModelSpec]:  # type: ignore[empty-body]
    """Return the models, backbones and heads a learner can be given by id."""


@hookspec(historic=True)
def graftwork_register_losses() -> Iterable[LossSpec]:  # type: ignore[empty-body]
    """Return the losses."""


@hookspec(historic=True)
def graftwork_register_metrics() -> Iterable[MetricSpec]:  # type: ignore[empty-body]
    """Return the metrics."""


@hookspec(historic=True)
def graftwork_register_callbacks() -> Iterable[CallbackSpec]:  # type: ignore[empty-body]
    """Return the callbacks a user can ask for by id; none is ever added to a run by being registered."""


@hookspec(historic=True)
def graftwork_register_baselines() -> Iterable[BaselineSpec]:  # type: ignore[empty-body]
    """Return the baselines: the simplest things a trained model is reported beside."""


@hookspec(historic=True)
def graftwork_register_tasks() -> Iterable[TaskSpec]:  # type: ignore[empty-body]
    """Return the tasks of `graft train`."""


@hookspec(historic=True)
def graftwork_register_exporters() -> Iterable[ExporterSpec]:  # type: ignore[empty-body]
    """Return the exporters: ways to write a trained model for another program."""


@hookspec(historic=True)
def graftwork_register_commands() -> Iterable[CommandSpec]:  # type: ignore[empty-body]
    """Return the commands that appear beside the core's own under `graft`."""


@hookspec(historic=True)
def graftwork_register_docs() -> Iterable[DocLink]:  # type: ignore[empty-body]
    """Return the pages that explain the components."""


@hookspec(firstresult=True)
def graftwork_resolve_source(location: str, head: bytes) -> str | None:
    """Return the id of the source that reads `location`, or None; `head` holds a file's first bytes.

    The first claim in the order of the namespaces is taken, and the others are named on standard error.
    """


@hookspec
def graftwork_doctor() -> Iterable[Check]:  # type: ignore[empty-body]
    """Return what the plugin finds about its surroundings: libraries, devices, caches."""


@hookspec(firstresult=True)
def graftwork_migrate_config(id: str, config: Mapping[str, Any], version: int) -> Mapping[str, Any] | None:  # noqa: A002
    """Return `config`, saved by an older `version` of the component `id`, as the present one reads it.

    Only the plugin that owns `id` is asked.
    """
