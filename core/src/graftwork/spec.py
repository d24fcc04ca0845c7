"""The records a plugin hands in: what exists, where it is, and what one must know before importing it.

A record names its component by a string, `"package.module:attr"`, so that registering a thousand costs no import.
This module imports the standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final, Literal, NamedTuple, final

from graftwork.errors import PluginError

__all__ = [
    "API",
    "BaselineSpec",
    "BlockSpec",
    "CallbackSpec",
    "Check",
    "CommandSpec",
    "DatasetSpec",
    "DocLink",
    "ExporterSpec",
    "LossSpec",
    "MetricSpec",
    "ModelSpec",
    "Plugin",
    "Record",
    "SourceSpec",
    "Spec",
    "TargetRule",
    "TaskSpec",
    "TransformSpec",
    "claimed_by",
    "normalise",
    "provider",
    "several",
]

API: Final = (1, 0)
"""The version of the plugin interface this core offers: a minor only adds, a major changes the entry-point group."""

SUMMARY_WIDTH: Final = 72

_NAMESPACE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\Z")
_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*/[A-Za-z0-9][A-Za-z0-9_.-]*\Z")
_TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*\Z")
_MODULE = re.compile(r"[A-Za-z_]\w*\Z")


class TargetRule(NamedTuple):
    """Say what a target must turn out to be, once it is imported.

    `base` is `"module:Class"` and is itself imported only when a target is; empty means any callable.
    """

    form: Literal["class", "instance", "callable"] = "callable"
    base: str = ""


def normalise(dist: str) -> str:
    """Write a distribution's name the one way in which all its spellings are equal."""
    return re.sub(r"[-_.]+", "-", dist).lower()


def claimed_by(dist: str) -> str:
    """Return the only namespace a distribution may claim: its own name without `graftwork-`."""
    return normalise(dist).removeprefix("graftwork-")


def provider(namespace: str, *, said: object = "") -> str:
    """Name the distribution that brings a plugin: the one a file says it was, if such a one may have the namespace."""
    return said if isinstance(said, str) and claimed_by(said) == namespace else f"graftwork-{namespace}"


def several(value: str | tuple[str, ...]) -> tuple[str, ...]:
    """Return what may be written as one name or as a tuple of names as the tuple."""
    return (value,) if isinstance(value, str) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Be the root of everything a registration hook returns: an id, and checks made when it is built."""

    kind: ClassVar[str] = "record"
    lists: ClassVar[tuple[str, ...]] = ()
    either: ClassVar[tuple[str, ...]] = ()
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    id: str

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not _ID.match(self.id):
            bare = str(self.id).rsplit("/", 1)[-1] or "name"
            raise self.fault("the id must read 'namespace/name'", fix=f"id='NAMESPACE/{bare}'")
        for name in self.lists:
            self._check_list(name)
        for name in self.either:
            if not isinstance(getattr(self, name), str):
                self._check_list(name)
        for name, valid in self.choices.items():
            value = getattr(self, name)
            if value not in valid:
                raise self.fault(f"{name}={value!r} is none of {', '.join(valid)}", fix=f"{name}={valid[0]!r}")
        self.check()

    def check(self) -> None:
        """Raise PluginError for what only this kind of record can get wrong."""

    def fault(self, problem: str, *, fix: str) -> PluginError:
        """Build the error for a faulty record, naming it and the line that mends it."""
        return PluginError(f"{self.kind} record {self.id!r}: {problem}; write {fix}")

    def _check_list(self, name: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, tuple) or not all(isinstance(part, str) for part in value):
            # A bare string is the usual slip, and would silently be read as a tuple of letters.
            wanted = (value,) if isinstance(value, str) else ("…",)
            raise self.fault(f"{name} must be a tuple of strings, not {value!r}", fix=f"{name}={wanted!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec(Record):
    """Add what every component has: where it is, one line about it, and what must be installed to import it.

    `requires` names importable top-level modules; they are looked for, not imported, before the target is.
    """

    rule: ClassVar[TargetRule] = TargetRule()
    lists: ClassVar[tuple[str, ...]] = ("requires",)

    target: str
    summary: str
    requires: tuple[str, ...] = ()
    since: str = "0.1"
    deprecated: str = ""
    docs: str = ""

    def check(self) -> None:
        """Raise PluginError for a target, a summary or a requirement of the wrong form."""
        if not isinstance(self.target, str) or not _TARGET.match(self.target):
            raise self.fault(
                f"the target {self.target!r} must read 'package.module:attr'", fix="target='package.module:attr'"
            )
        if not isinstance(self.summary, str) or not self.summary.strip():
            raise self.fault("the summary is empty", fix="one line about it, as lists show it")
        if "\n" in self.summary or len(self.summary) > SUMMARY_WIDTH:
            found = "has several lines" if "\n" in self.summary else f"has {len(self.summary)} characters"
            raise self.fault(
                f"the summary {found}", fix=f"one line of at most {SUMMARY_WIDTH}, and the rest into docs="
            )
        for module in self.requires:
            if not _MODULE.match(module):
                raise self.fault(
                    f"requires {module!r}, which is no top-level module", fix=f"requires=({_top(module)!r},)"
                )


def _top(module: str) -> str:
    """Guess the importable top-level module somebody meant by `module`."""
    return re.split(r"\W", module.strip(), maxsplit=1)[0] or "module"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSpec(Spec):
    """Describe a block; the target is a `Block` class."""

    kind: ClassVar[str] = "block"
    rule: ClassVar[TargetRule] = TargetRule("class", "graftwork.block:Block")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TransformSpec(Spec):
    """Describe a transform; the target is a `Transform` class, `accepts` and `gives` are block ids.

    `gives` is a tuple where what comes out depends on what went in.
    """

    kind: ClassVar[str] = "transform"
    rule: ClassVar[TargetRule] = TargetRule("class", "graftwork.transform:Transform")
    lists: ClassVar[tuple[str, ...]] = ("requires", "accepts")
    either: ClassVar[tuple[str, ...]] = ("gives",)
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"stage": ("item", "batch")}

    accepts: tuple[str, ...]
    gives: str | tuple[str, ...]
    stage: Literal["item", "batch"] = "item"
    random: bool = False
    invertible: bool = False


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSpec(Spec):
    """Describe a source of items; `patterns` are path patterns it reads, `gives` the block ids of its fields."""

    kind: ClassVar[str] = "source"
    lists: ClassVar[tuple[str, ...]] = ("requires", "patterns", "gives")

    patterns: tuple[str, ...]
    gives: tuple[str, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSpec(Spec):
    """Describe a data set that can be fetched or made; `fields` maps field names to block ids."""

    kind: ClassVar[str] = "dataset"

    fields: Mapping[str, str]
    size_mb: float
    licence: str
    sha256: str = ""
    synthetic: bool = False


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec(Spec):
    """Describe a model; the target is a function `(ctx: ModelContext, **config) -> ModelParts | nn.Module`.

    `inputs` and `output` are block ids, several for `output` where the model can be made for any of them. `params_m`
    are millions of parameters, `cost` is whatever else it costs, `pretrained` the names of its weights.
    """

    kind: ClassVar[str] = "model"
    lists: ClassVar[tuple[str, ...]] = ("requires", "inputs", "pretrained")
    either: ClassVar[tuple[str, ...]] = ("output",)
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"role": ("model", "backbone", "head")}

    role: Literal["model", "backbone", "head"] = "model"
    inputs: tuple[str, ...]
    output: str | tuple[str, ...]
    params_m: float | None = None
    pretrained: tuple[str, ...] = ()
    cost: str = ""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LossSpec(Spec):
    """Describe a loss; the target is a `Loss` class, `blocks` the ids of the target blocks it compares with.

    `default=True` is for a block the plugin itself owns: nobody may change what an existing block is trained with.
    """

    kind: ClassVar[str] = "loss"
    rule: ClassVar[TargetRule] = TargetRule("class", "graftwork.loss:Loss")
    lists: ClassVar[tuple[str, ...]] = ("requires", "blocks")

    blocks: tuple[str, ...]
    default: bool = False


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSpec(Spec):
    """Describe a metric; the target is a function `(**config) -> Metric`, `blocks` and `default` are as for losses."""

    kind: ClassVar[str] = "metric"
    lists: ClassVar[tuple[str, ...]] = ("requires", "blocks")

    blocks: tuple[str, ...]
    higher_is_better: bool
    default: bool = False


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackSpec(Spec):
    """Describe a callback; the target is a `Callback` class."""

    kind: ClassVar[str] = "callback"
    rule: ClassVar[TargetRule] = TargetRule("class", "graftwork.events:Callback")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineSpec(Spec):
    """Describe a baseline; the target is a `Baseline` class, `inputs` empty when it looks at the target alone."""

    kind: ClassVar[str] = "baseline"
    rule: ClassVar[TargetRule] = TargetRule("class", "graftwork.baseline:Baseline")
    lists: ClassVar[tuple[str, ...]] = ("requires", "blocks", "inputs")

    blocks: tuple[str, ...]
    inputs: tuple[str, ...] = ()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec(Spec):
    """Describe a task of `graft train`; the target is a `Task` class.

    `inputs` and `targets` are block ids, `defaults` names registry ids by role.
    """

    kind: ClassVar[str] = "task"
    rule: ClassVar[TargetRule] = TargetRule("class", "graftwork.task:Task")
    lists: ClassVar[tuple[str, ...]] = ("requires", "inputs", "targets")

    inputs: tuple[str, ...]
    targets: tuple[str, ...]
    defaults: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ExporterSpec(Spec):
    """Describe an exporter; the target is a function `(artifact, path) -> None`."""

    kind: ClassVar[str] = "exporter"

    format: str
    suffix: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CommandSpec(Spec):
    """Describe a command `graft NAME`; the target is a `click.Command`, imported when the command is typed."""

    kind: ClassVar[str] = "command"
    rule: ClassVar[TargetRule] = TargetRule("instance", "click:Command")

    name: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DocLink(Record):
    """Point to a page about some components; `about` holds their ids."""

    kind: ClassVar[str] = "doc"
    lists: ClassVar[tuple[str, ...]] = ("about",)

    title: str
    url_or_path: str
    about: tuple[str, ...] = ()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Introduce a plugin: its namespace, the interface it was written for, and one line about it.

    `install` is the line that installs it with what it needs; left empty, `pip install` and the distribution's name.
    `extras` says in a few words what each extra of the distribution enables, for `graft plugins doctor`.
    """

    namespace: str
    summary: str
    requires_api: tuple[int, int] = (1, 0)
    docs: str = ""
    install: str = ""
    extras: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.namespace, str) or not _NAMESPACE.match(self.namespace):
            raise PluginError(
                f"plugin namespace {self.namespace!r} must be lower-case words joined by '-'; "
                "write the distribution's name without 'graftwork-'"
            )
        if not _is_version(self.requires_api):
            raise PluginError(
                f"plugin {self.namespace!r}: requires_api={self.requires_api!r} is no pair of numbers; "
                f"write requires_api={API}"
            )


def _is_version(value: object) -> bool:
    """Say whether `value` is a pair (major, minor)."""
    return isinstance(value, tuple) and len(value) == 2 and all(type(part) is int and part >= 0 for part in value)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Report one thing a plugin's `graftwork_doctor` looked at, and the line that mends it."""

    state: Literal["ok", "warn", "fail"]
    message: str
    fix: str = ""
