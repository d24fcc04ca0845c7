"""Tables of components: searchable without importing them, imported when asked for."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, Generic, Protocol, TypeVar, final

from graftwork.deprecations import GraftworkDeprecation
from graftwork.errors import PluginError, UnknownName, UserError, unknown
from graftwork.plugins.discovery import CORE
from graftwork.spec import Record, Spec, TargetRule

__all__ = ["Directory", "Registry", "load_target"]

S = TypeVar("S", bound=Record)
T = TypeVar("T")


class Directory(Protocol):
    """Say what a registry needs of the host that fills it."""

    def discover(self) -> None:
        """Load the plugins, unless that is done."""

    def missing(self, kind: str, name: str, ids: Collection[str]) -> UserError:
        """Build the error for a name that no record has."""

    def install_line(self, namespace: str, *, needs: Sequence[str] = ()) -> str:
        """Return the command that installs a plugin, with the extras that are named as what else is needed."""


@final
class Registry(Generic[S, T]):
    """Hold the records of one kind and load what they point to.

    A name is a full id, `"vision/resnet18"`, or its last part where only one plugin has it. What the core calls by a
    short name keeps it whatever is installed. Nothing is ever overwritten.
    """

    def __init__(self, spec_type: type[S], *, load: Callable[[S], T], directory: Directory) -> None:
        self.spec_type = spec_type
        self._load = load
        self._directory = directory
        self._specs: dict[str, S] = {}
        self._loaded: dict[str, T] = {}

    def get(self, name: str) -> T:
        """Return the component itself, imported on first use.

        Raises UnknownName, or PluginError when its plugin is not loaded, its requirements are not installed, or it
        cannot be imported.
        """
        full = self.resolve(name)
        if full not in self._loaded:
            # Two threads may both load it: the import system's own locks make that one import, and the first one
            # stored is what both return. A lock held here while importing could deadlock with those.
            self._loaded.setdefault(full, self._load(self._specs[full]))
        return self._loaded[full]

    def spec(self, name: str) -> S:
        """Return the record, importing nothing. Raises UnknownName, or PluginError when its plugin is not loaded."""
        return self._specs[self.resolve(name)]

    def ids(self) -> list[str]:
        """List the ids, sorted."""
        self._directory.discover()
        return sorted(self._specs)

    def owner(self, name: str) -> str:
        """Return the namespace of the plugin that brought the component."""
        return namespace_of(self.resolve(name))

    def resolve(self, name: str) -> str:
        """Return the full id that `name` stands for; what is saved to a file holds full ids only."""
        self._directory.discover()
        if name in self._specs:
            return name
        same = [full for full in sorted(self._specs) if full.rpartition("/")[2] == name]
        own = [full for full in same if namespace_of(full) == CORE]
        if len(own or same) == 1:
            return (own or same)[0]
        if same:
            kind = self.spec_type.kind
            raise UnknownName(f"{kind} {name!r} is ambiguous: {' and '.join(map(repr, same))}; write the full id")
        raise self._directory.missing(self.spec_type.kind, name, self._specs)

    def find(self, **columns: object) -> list[S]:
        """List the records whose fields have these values, sorted by id.

        A field that holds several values is matched by one of them, or by a tuple of some of them.
        Raises UnknownName for a field these records do not have.
        """
        known = [column.name for column in fields(self.spec_type)]
        for column in columns:
            if column not in known:
                raise unknown(f"field of a {self.spec_type.kind}", column, known)
        return [spec for full in self.ids() if _matches(spec := self._specs[full], columns)]

    def add(self, spec: S) -> None:
        """Enter one record; the host alone calls this, once a plugin's records are all known to be sound."""
        if spec.id in self._specs:
            raise PluginError(f"{spec.kind} {spec.id!r} is already registered; choose another id")
        self._specs[spec.id] = spec

    def __contains__(self, name: object) -> bool:
        self._directory.discover()
        return name in self._specs

    def __len__(self) -> int:
        self._directory.discover()
        return len(self._specs)


def namespace_of(full: str) -> str:
    """Return the part of an id that names its plugin."""
    return full.partition("/")[0]


def _matches(spec: Record, columns: dict[str, object]) -> bool:
    """Say whether every asked-for column of `spec` has, or holds, the value asked for."""
    for column, wanted in columns.items():
        found = getattr(spec, column)
        if isinstance(found, tuple):
            if not set(found).issuperset(wanted if isinstance(wanted, tuple) else (wanted,)):
                return False
        elif found != wanted:
            return False
    return True


def load_target(spec: Spec, *, directory: Directory) -> Any:
    """Import what a record points to, once its requirements are there, and check what it is.

    Raises PluginError, whatever the import raises: a component that cannot be had is the plugin's fault, and is named.
    """
    _check_requirements(spec, directory)
    if spec.deprecated:
        message = f"{spec.kind} {spec.id!r} is deprecated: {spec.deprecated}"
        warnings.warn(message, GraftworkDeprecation, stacklevel=3)
    try:
        component = _import(spec.target)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise _broken(spec, f"cannot be imported: {type(error).__name__}: {error}") from error
    _check_rule(spec, component)
    return component


def _check_requirements(spec: Spec, directory: Directory) -> None:
    """Raise PluginError when a module the component needs is not installed."""
    absent = [name for name in spec.requires if name not in sys.modules and importlib.util.find_spec(name) is None]
    if absent:
        are = "is" if len(absent) == 1 else "are"
        raise PluginError(
            f"{spec.kind} {spec.id!r} needs {' and '.join(map(repr, absent))}, which {are} not installed; "
            f"try: {directory.install_line(namespace_of(spec.id), needs=absent)}"
        )


def _import(target: str) -> Any:
    """Import `"package.module:attr"`. Raises AttributeError naming the nearest attribute the module has."""
    path, _, attribute = target.partition(":")
    module = importlib.import_module(path)
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        near = get_close_matches(attribute, dir(module), n=1)
        raise AttributeError(f"{error}{f'; did you mean {near[0]!r}?' if near else ''}") from None


def _check_rule(spec: Spec, component: object) -> None:
    """Raise PluginError when the target is not the kind of thing its record says."""
    rule = type(spec).rule
    if rule.form == "callable":
        if not callable(component):
            raise _broken(spec, f"is {component!r}, which cannot be called")
        return
    if not _obeys(rule, component):
        article = "a subclass of" if rule.form == "class" else "a"
        raise _broken(spec, f"is {component!r}, which is not {article} {rule.base.partition(':')[2]}")


def _obeys(rule: TargetRule, component: object) -> bool:
    """Say whether the component is, or is a subclass of, the rule's base, which is imported here."""
    module, _, name = rule.base.partition(":")
    base: type = getattr(importlib.import_module(module), name)
    if rule.form == "class":
        return isinstance(component, type) and issubclass(component, base)
    return isinstance(component, base)


def _broken(spec: Spec, problem: str) -> PluginError:
    """Build the error for a record whose target is not what it says."""
    plugin = namespace_of(spec.id)
    return PluginError(
        f"{spec.kind} {spec.id!r} of plugin {plugin!r}: its target {spec.target!r} {problem}; "
        f"see `graft plugins show {plugin}`"
    )
