"""What becomes of one plugin: the checks it must pass, the transaction its records are held in, and the verdict."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Final, Literal, final

import pluggy

from graftwork.errors import PluginError, UserError
from graftwork.plugins import hookspecs
from graftwork.plugins.discovery import GROUP, Candidate
from graftwork.spec import API, LossSpec, MetricSpec, Plugin, Record

__all__ = [
    "HEAVY",
    "PREFIX",
    "SLOW_MS",
    "Attempt",
    "PluginInfo",
    "RefusedError",
    "State",
    "Transaction",
    "check_hooks",
    "describe",
    "one_line",
    "read_manifest",
]

State = Literal["ok", "blocked", "failed", "incompatible", "conflict"]

HEAVY: Final = ("matplotlib", "numba", "numpy", "pandas", "sklearn", "torch", "torchvision")
SLOW_MS: Final = 25.0
PREFIX: Final = "graftwork_register_"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PluginInfo:
    """Say what became of one plugin.

    `ms` is the time its own import and registration took, `heavy` names the large libraries its import brought in;
    both cost every command. `records` holds the ids by kind, and is empty in every state but `ok`. `rightful` is False
    where the name belongs to another distribution.
    """

    name: str
    state: State
    dist: str = ""
    version: str = ""
    target: str = ""
    plugin: Plugin | None = None
    reason: str = ""
    fix: str = ""
    ms: float = 0.0
    heavy: tuple[str, ...] = ()
    records: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    error: BaseException | None = None
    rightful: bool = True

    @property
    def slow(self) -> bool:
        """Say whether loading it takes longer than an entry module may."""
        return self.ms > SLOW_MS

    @property
    def handle(self) -> str:
        """Return the name that tells it from any other: its distribution's where it has no right to its own."""
        return self.name if self.rightful else self.dist


class RefusedError(PluginError):
    """Carry the state a plugin gets, beside the reason and the line that mends it."""

    def __init__(self, state: State, reason: str, *, fix: str = "") -> None:
        super().__init__(reason)
        self.state = state
        self.fix = fix


@final
@dataclass(slots=True, kw_only=True)
class Attempt:
    """Gather what is learnt about a plugin while it is loaded."""

    candidate: Candidate
    objection: str = ""
    plugin: Plugin | None = None
    ms: float = 0.0
    heavy: tuple[str, ...] = ()
    records: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def settle(self, error: BaseException | None = None, *, blocked: str = "") -> PluginInfo:
        """Write down how it ended."""
        state, reason, fix = self._verdict(error)
        return PluginInfo(
            name=self.candidate.name,
            state="blocked" if blocked else state,
            dist=self.candidate.dist,
            version=self.candidate.version,
            target=self.candidate.target,
            plugin=self.plugin,
            reason=blocked or reason,
            fix="leave that out to load it" if blocked else fix,
            ms=self.ms,
            heavy=self.heavy,
            records=self.records,
            error=error,
            rightful=not self.objection,
        )

    def _verdict(self, error: BaseException | None) -> tuple[State, str, str]:
        """Turn an exception into a state, a reason and the line that mends it."""
        if error is None:
            return "ok", "", ""
        dist = self.candidate.dist
        repair = f"pip install --upgrade {dist}, or pip uninstall {dist}" if dist else ""
        if isinstance(error, RefusedError):
            return error.state, str(error), error.fix or repair
        if isinstance(error, UserError):
            return "failed", str(error), repair
        return "failed", f"{type(error).__name__}: {error}".removesuffix(": "), repair

    def check_candidate(self) -> None:
        """Raise RefusedError for one that cannot be read, has no right to its name, or is for another major version."""
        if self.candidate.fault:
            raise RefusedError("failed", self.candidate.fault, fix="reinstall it, or remove what is left of it")
        if self.objection:
            raise RefusedError("conflict", self.objection, fix=f"pip uninstall {self.candidate.dist}")
        if self.candidate.major != API[0]:
            self.refuse_version(str(self.candidate.major), newer=self.candidate.major > API[0])

    def accept(self, manifest: Plugin | None, *, described: str) -> None:
        """Take in the plugin's PLUGIN. Raises RefusedError when it is missing, misnamed or made for another version."""
        if manifest is None:
            raise RefusedError("failed", f"{described} defines no PLUGIN = Plugin(namespace=…, summary=…)")
        self.plugin = manifest
        name = self.candidate.name
        if manifest.namespace != name:
            raise RefusedError(
                "conflict",
                f"PLUGIN names the namespace {manifest.namespace!r}, the entry point {name!r}",
                fix=f"its author must write namespace={name!r}",
            )
        major, minor = manifest.requires_api
        if major != API[0] or minor > API[1]:
            self.refuse_version(f"{major}.{minor}", newer=manifest.requires_api > API)

    def refuse_version(self, asked: str, *, newer: bool) -> None:
        """Raise RefusedError for a plugin made for another version of the interface."""
        raise RefusedError(
            "incompatible",
            f"built for version {asked} of the plugin interface; this graftwork offers {API[0]}.{API[1]} ({GROUP})",
            fix=f"pip install --upgrade {'graftwork' if newer else self.candidate.dist}",
        )


@final
class Transaction:
    """Collect what one plugin registers, so that it is entered as a whole or not at all."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.staged: dict[str, list[Record]] = {}

    def receive(self, kind: str, spec_type: type[Record], answer: object) -> None:
        """Take in what one registration hook returned, reading a generator to its end.

        Raises RefusedError for anything that is no sound record of the plugin's own.
        """
        staged = self.staged.setdefault(kind, [])
        hook = f"{PREFIX}{kind}"
        if not isinstance(answer, Iterable):
            raise RefusedError("failed", f"{hook} returned {answer!r}; write return ({spec_type.__name__}(…),)")
        for record in answer:
            if not isinstance(record, spec_type):
                raise RefusedError("failed", f"{hook} must give {spec_type.__name__} records, and gave {record!r}")
            self._check(record, taken={other.id for other in staged})
            staged.append(record)

    def _check(self, record: Record, *, taken: Collection[str]) -> None:
        namespace, _, name = record.id.partition("/")
        if namespace != self.namespace:
            raise RefusedError(
                "conflict",
                f"{record.kind} {record.id!r} lies in a foreign namespace",
                fix=f"its author must write id='{self.namespace}/{name}'",
            )
        if record.id in taken:
            raise RefusedError("failed", f"{record.kind} {record.id!r} is registered twice")
        # An installed plugin must not change what somebody else's block is trained with or measured by.
        if isinstance(record, LossSpec | MetricSpec) and record.default and not self._owns_one(record.blocks):
            raise RefusedError("conflict", f"{record.kind} {record.id!r} claims to be the default of foreign blocks")

    def _owns_one(self, blocks: tuple[str, ...]) -> bool:
        return any(block.startswith(f"{self.namespace}/") for block in blocks)


def check_hooks(pm: pluggy.PluginManager, plugin: Any, *, answered: Collection[str]) -> None:
    """Raise RefusedError for a hook nobody asks, one that is not marked, a wrapper, and one that returned nothing.

    pluggy passes over all but the third without a word.
    """
    callers = {caller.name: caller for caller in pm.get_hookcallers(plugin) or ()}
    defined = {name for name in dir(plugin) if name.startswith("graftwork_") and _is_function(plugin, name)}
    for name in sorted(callers.keys() | defined):
        _check_known(name)
        if name not in callers:
            raise RefusedError("failed", f"{name} is not marked as a hook; write @hookimpl above it")
        if any(impl.plugin is plugin and (impl.wrapper or impl.hookwrapper) for impl in callers[name].get_hookimpls()):
            raise RefusedError("failed", f"{name} wraps other plugins' answers, which the interface does not offer")
        if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in answered:
            raise RefusedError("failed", f"{name} returned None; return its records, or () if there are none")


def _check_known(name: str) -> None:
    """Raise RefusedError for the name of a hook that does not exist, with the nearest that does."""
    valid = [hook for hook in vars(hookspecs) if hook.startswith("graftwork_")]
    if name not in valid:
        near = get_close_matches(name, valid, n=1, cutoff=0.4)
        meant = f"did you mean {near[0]}?" if near else f"valid: {', '.join(valid)}"
        raise RefusedError("failed", f"there is no hook {name}; {meant}")


def _is_function(plugin: Any, name: str) -> bool:
    """Say whether an attribute is a function, without running a descriptor to find out."""
    value = inspect.getattr_static(plugin, name, None)
    return inspect.isfunction(value) or isinstance(value, staticmethod | classmethod)


def read_manifest(plugin: Any) -> Plugin | None:
    """Return a plugin's PLUGIN, if it has a proper one."""
    found = inspect.getattr_static(plugin, "PLUGIN", None)
    return found if isinstance(found, Plugin) else None


def describe(plugin: Any) -> str:
    """Name a plugin object in words."""
    return plugin.__name__ if inspect.ismodule(plugin) or inspect.isclass(plugin) else type(plugin).__name__


def one_line(text: str, *, width: int = 200) -> str:
    """Fold a message into one line."""
    flat = " ".join(text.split())
    return flat if len(flat) <= width else flat[: width - 1] + "…"
