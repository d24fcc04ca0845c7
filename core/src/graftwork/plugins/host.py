"""The plugin host: it loads one plugin at a time, inside a transaction, and says what became of each."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from importlib import import_module
from time import perf_counter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, cast, final

import pluggy

import graftwork
import graftwork.api  # so that no plugin's own time contains it
from graftwork.errors import PluginError, UserError, unknown
from graftwork.plugins import hookspecs
from graftwork.plugins.admission import (
    HEAVY,
    PREFIX,
    Attempt,
    PluginInfo,
    RefusedError,
    Transaction,
    check_hooks,
    describe,
    one_line,
    read_manifest,
)
from graftwork.plugins.discovery import CORE, Blocking, Candidate, find_installed, judge
from graftwork.plugins.registry import Registry, load_target, namespace_of
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
    Record,
    SourceSpec,
    Spec,
    TaskSpec,
    TransformSpec,
)

if TYPE_CHECKING:
    import click
    from torch import nn

    from graftwork.baseline import Baseline
    from graftwork.block import Block
    from graftwork.events import Callback
    from graftwork.loss import Loss
    from graftwork.metric import Metric
    from graftwork.model import ModelParts
    from graftwork.task import Task
    from graftwork.transform import Transform

__all__ = ["FIRST_PARTY", "Host", "get_host"]

Factory = Callable[..., Any]

FIRST_PARTY: Final = ("collab", "segmentation", "tabular", "text", "vision")
_BECAME: Final = MappingProxyType(
    {
        "blocked": "was not loaded",
        "conflict": "has no right to its name",
        "failed": "failed to load",
        "incompatible": "does not fit this graftwork",
    }
)


@final
class Host:
    """Find the installed plugins, load them, and hold what they bring.

    Nothing is loaded before a registry or `plugins()` is first asked. Each plugin is imported by itself; one that
    raises, exits, or registers something unsound leaves no record, is reported in one line, and stops nothing else.
    `find` and `env` stand in for the installed distributions and the environment, in tests.
    """

    def __init__(
        self, *, find: Callable[[], Iterable[Candidate]] = find_installed, env: Mapping[str, str] | None = None
    ) -> None:
        self._find = find
        self._env = env
        self._blocking = Blocking()
        self._infos: list[PluginInfo] = []
        self._lock = threading.RLock()
        self._busy = False
        self._discovered = False
        self._open: Transaction | None = None
        self._registries: dict[str, Registry[Any, Any]] = {}
        self._pm = pluggy.PluginManager("graftwork")
        self._pm.add_hookspecs(hookspecs)

        self.blocks: Registry[BlockSpec, type[Block]] = self._table("blocks", BlockSpec)
        self.transforms: Registry[TransformSpec, type[Transform]] = self._table("transforms", TransformSpec)
        self.sources: Registry[SourceSpec, Factory] = self._table("sources", SourceSpec)
        self.datasets: Registry[DatasetSpec, Factory] = self._table("datasets", DatasetSpec)
        self.models: Registry[ModelSpec, Callable[..., ModelParts | nn.Module]] = self._table("models", ModelSpec)
        self.losses: Registry[LossSpec, type[Loss]] = self._table("losses", LossSpec)
        self.metrics: Registry[MetricSpec, Callable[..., Metric]] = self._table("metrics", MetricSpec)
        self.callbacks: Registry[CallbackSpec, type[Callback]] = self._table("callbacks", CallbackSpec)
        self.baselines: Registry[BaselineSpec, type[Baseline]] = self._table("baselines", BaselineSpec)
        self.tasks: Registry[TaskSpec, type[Task]] = self._table("tasks", TaskSpec)
        self.exporters: Registry[ExporterSpec, Callable[..., None]] = self._table("exporters", ExporterSpec)
        self.commands: Registry[CommandSpec, click.Command] = self._table("commands", CommandSpec)
        self.docs: Registry[DocLink, str] = self._table("docs", DocLink)

    def _table(self, kind: str, spec_type: type[Any]) -> Registry[Any, Any]:
        """Make one registry, and have its hook asked of every plugin that is ever registered."""
        load = partial(load_target, directory=self) if issubclass(spec_type, Spec) else _url
        registry: Registry[Any, Any] = Registry(spec_type, load=load, directory=self)
        self._registries[kind] = registry
        getattr(self._pm.hook, f"{PREFIX}{kind}").call_historic(partial(self._receive, kind, spec_type))
        return registry

    def _receive(self, kind: str, spec_type: type[Record], answer: Any) -> None:
        assert self._open is not None, "a registration hook was asked outside a transaction"
        self._open.receive(kind, spec_type, answer)

    # What is installed

    @property
    def registries(self) -> Mapping[str, Registry[Any, Any]]:
        """Return every registry by its plural name."""
        return dict(self._registries)

    def plugins(self) -> tuple[PluginInfo, ...]:
        """Return what became of every plugin, the core first."""
        self.discover()
        return tuple(sorted(self._infos, key=lambda info: (info.name != CORE, info.name, info.handle)))

    def plugin(self, name: str) -> tuple[PluginInfo, ...]:
        """Return the plugins called `name`, by namespace or distribution. Raises UnknownName.

        There are several only where one of them has no right to the name.
        """
        infos = self.plugins()
        found = tuple(info for info in infos if info.name == name) or tuple(info for info in infos if info.dist == name)
        if not found:
            raise unknown("plugin", name, {info.name for info in infos}, hint="see `graft plugins list`")
        return found

    def block(self, name: str, *, why: str) -> None:
        """Keep one plugin from being imported. Raises OptionError for the core, PluginError once plugins are loaded."""
        if self._discovered:
            raise PluginError(f"{why}: the plugins are already loaded; block {name!r} before anything else")
        self._blocking.deny(name, why=why)

    # Loading

    def discover(self) -> None:
        """Load the core's own components and every installed plugin, once."""
        if self._discovered:
            return
        with self._lock:
            # A plugin that asks for a registry while it is imported sees what has been loaded so far.
            if self._busy or self._discovered:
                return
            self._busy = True
            try:
                self._load_all()
                self._discovered = True
            finally:
                self._busy = False

    def _load_all(self) -> None:
        env = os.environ if self._env is None else self._env
        for problem in self._blocking.read(env):
            _say(problem)
        strict = env.get("GRAFTWORK_STRICT_PLUGINS", "") not in ("", "0")
        candidates = tuple(self._find())
        for problem in self._blocking.unknown_names({candidate.namespace for candidate in candidates}):
            _say(problem)
        core = Candidate(name=CORE, target="graftwork.builtin", dist="graftwork", version=graftwork.__version__)
        # What an interrupted discovery has already loaded stays loaded.
        done = {(info.name, info.dist, info.target) for info in self._infos}
        for candidate, objection in ((core, ""), *judge(candidates)):
            if (candidate.name, candidate.dist, candidate.target) not in done:
                self._admit(candidate, objection, strict=strict or candidate is core)

    def _admit(self, candidate: Candidate, objection: str, *, strict: bool) -> None:
        """Decide about one candidate, importing it only when nothing speaks against it."""
        attempt = Attempt(candidate=candidate, objection=objection)
        blocked = "" if candidate.name == CORE else self._blocking.reason(candidate.namespace)
        if blocked:
            self._infos.append(attempt.settle(blocked=blocked))
            return
        with self._settling(attempt, strict=strict):
            attempt.check_candidate()
            with _timed(attempt):
                self._enrol(attempt, _load_entry(candidate.target))

    def register(self, plugin: Any) -> PluginInfo:
        """Load a plugin that is no installed distribution: a module, a class or an object with PLUGIN and hooks.

        It takes the same way as an installed one: what is wrong with it is in the state that is returned.
        """
        self.discover()
        manifest = read_manifest(plugin)
        name = manifest.namespace if manifest else describe(plugin)
        attempt = Attempt(candidate=Candidate(name=name, target=describe(plugin), dist=""))
        with self._lock:
            # One that failed may be mended and registered again; one that is loaded, or blocked, stays what it is.
            self._infos = [i for i in self._infos if i.name != name or i.dist or i.state == "ok"]
            with self._settling(attempt, strict=False):
                if any(info.name == name and info.state in ("ok", "blocked") for info in self._infos):
                    raise RefusedError("conflict", f"a plugin {name!r} is already loaded, or is blocked")
                with _timed(attempt):
                    self._enrol(attempt, plugin)
            return self._infos[-1]

    @contextmanager
    def _settling(self, attempt: Attempt, *, strict: bool) -> Iterator[None]:
        """Turn whatever goes wrong inside into a state, a reason and one line on standard error."""
        try:
            yield
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            # Not only Exception: sys.exit at import, and panics of compiled libraries, are neither.
            if strict:
                raise
            info = attempt.settle(error)
            self._infos.append(info)
            who = repr(info.name) + ("" if info.rightful else f" of distribution {info.dist!r}")
            _say(f"plugin {who} is not loaded: {one_line(info.reason)}; see `graft plugins show {info.handle}`")
        else:
            self._infos.append(attempt.settle())

    def _enrol(self, attempt: Attempt, plugin: Any) -> None:
        """Check one plugin and enter its records, all or none."""
        attempt.accept(read_manifest(plugin), described=describe(plugin))
        staged = self._ask_all(attempt.candidate.name, plugin)
        for kind, records in staged.items():
            for record in records:
                self._registries[kind].add(record)
        attempt.records = {kind: tuple(record.id for record in records) for kind, records in staged.items() if records}

    def _ask_all(self, namespace: str, plugin: Any) -> Mapping[str, list[Record]]:
        """Register the plugin with pluggy, which asks its registration hooks; take it out again if any is at fault."""
        self._open = Transaction(namespace)
        try:
            with redirect_stdout(sys.stderr):
                self._pm.register(plugin, name=namespace)
            check_hooks(self._pm, plugin, answered=self._open.staged)
            return self._open.staged
        except BaseException:
            if self._pm.has_plugin(namespace):
                self._pm.unregister(name=namespace)
            raise
        finally:
            self._open = None

    # What a registry asks of the host

    def missing(self, kind: str, name: str, ids: Collection[str]) -> UserError:
        """Build the error for a name no plugin registered, saying which plugin would."""
        namespace, slash, _ = name.partition("/")
        # Of several with one name the rightful one comes last, and is the one to speak of.
        infos = sorted(self._infos, key=lambda info: info.rightful)
        absent = {info.name: info for info in infos if info.state != "ok"}
        present = {info.name for info in self._infos if info.state == "ok"}
        if slash and namespace in absent and namespace not in present:
            info = absent[namespace]
            return PluginError(
                f"{kind} {name!r} belongs to plugin {namespace!r}, which {_BECAME[info.state]}: {one_line(info.reason)}"
                + (f"; try: {info.fix}" if info.fix else "")
            )
        return unknown(kind, name, ids, hint=self._hint(namespace if slash else "", present, absent))

    def _hint(self, namespace: str, present: Collection[str], absent: Mapping[str, PluginInfo]) -> str:
        """Say where a name might have come from."""
        if namespace in present:
            return f"see `graft plugins show {namespace}`"
        if namespace in FIRST_PARTY:
            return f"provided by graftwork-{namespace}: pip install graftwork-{namespace}"
        if namespace:
            return f"no installed plugin has the namespace {namespace!r}; see `graft plugins list`"
        return "not loaded: " + ", ".join(f"{info.name} ({info.state})" for info in absent.values()) if absent else ""

    def install_line(self, namespace: str, *, needs: Sequence[str] = ()) -> str:
        """Return the command that installs a plugin, with the extras that are named as what else is needed."""
        for info in self._infos:
            if info.name == namespace and info.state == "ok" and info.plugin:
                extras = ",".join(name for name in needs if name in info.plugin.extras)
                whole = f"{info.dist or namespace}" + (f"[{extras}]" if extras else "")
                return info.plugin.install or f"pip install {whole}"
        return f"pip install graftwork-{namespace}"

    # Run-time hooks: every plugin is asked by itself

    def resolve_source(self, location: str, *, head: bytes = b"", prefer: str = "") -> str | None:
        """Return the id of the source that reads `location`, or None when no plugin claims it.

        The first claim in the order of the namespaces is taken, one of `prefer` before all others.
        """
        self.discover()
        claims = [
            claim
            for name in sorted(self._askable("graftwork_resolve_source"), key=lambda name: (name != prefer, name))
            if (claim := self._ask(name, "graftwork_resolve_source", location=location, head=head)) is not None
        ]
        known = [claim for claim in claims if claim in self.sources]
        for claim in claims:
            if claim not in known:
                _say(f"{location} was claimed for the source {claim!r}, which is not registered; passed over")
        if len(known) > 1:
            _say(f"{location} is claimed by several sources: {', '.join(known)}; taking {known[0]}")
        return known[0] if known else None

    def doctor(self) -> dict[str, tuple[Check, ...]]:
        """Return what each plugin finds about its surroundings, by namespace."""
        self.discover()
        return {name: self._examine(name) for name in sorted(self._askable("graftwork_doctor"))}

    def _examine(self, name: str) -> tuple[Check, ...]:
        try:
            return tuple(self._call(name, "graftwork_doctor", {}) or ())
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return (Check(state="fail", message=f"its doctor raised {type(error).__name__}: {error}"),)

    def migrate_config(self, id: str, config: Mapping[str, Any], version: int) -> Mapping[str, Any]:  # noqa: A002
        """Return a saved config as the present component reads it; only the plugin that owns `id` is asked."""
        self.discover()
        hook = "graftwork_migrate_config"
        if namespace_of(id) not in self._askable(hook):
            return config
        migrated = self._call(namespace_of(id), hook, {"id": id, "config": config, "version": version})
        return config if migrated is None else cast("Mapping[str, Any]", migrated)

    def _askable(self, hook: str) -> set[str]:
        """Name the plugins that implement a run-time hook."""
        return {impl.plugin_name for impl in getattr(self._pm.hook, hook).get_hookimpls()}

    def _ask(self, name: str, hook: str, **arguments: object) -> Any:
        """Ask one plugin; one that raises is reported and counts as not having answered."""
        try:
            return self._call(name, hook, arguments)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            _say(f"plugin {name!r} could not answer {hook}: {one_line(f'{type(error).__name__}: {error}')}")
            return None

    def _call(self, name: str, hook: str, arguments: Mapping[str, object]) -> Any:
        """Call one plugin's implementation with those of the arguments it takes."""
        for impl in getattr(self._pm.hook, hook).get_hookimpls():
            if impl.plugin_name == name:
                return impl.function(*(arguments[argument] for argument in impl.argnames))
        return None


def _url(link: DocLink) -> str:
    return link.url_or_path


def _load_entry(target: str) -> Any:
    """Import an entry module. What it prints goes to standard error: standard output belongs to the command."""
    path, _, attribute = target.partition(":")
    with redirect_stdout(sys.stderr):
        module = import_module(path.strip())
        return getattr(module, attribute.strip()) if attribute else module


@contextmanager
def _timed(attempt: Attempt) -> Iterator[None]:
    """Write down how long a plugin took, and which large libraries came in with it, also when it fails."""
    started, before = perf_counter(), _heavy_modules()
    try:
        yield
    finally:
        attempt.ms = (perf_counter() - started) * 1e3
        attempt.heavy = tuple(sorted(_heavy_modules() - before))


def _heavy_modules() -> set[str]:
    """Name the large libraries imported so far."""
    return {name for name in HEAVY if name in sys.modules}


def _say(line: str) -> None:
    print(f"graft: {line}", file=sys.stderr)


_HOST = Host()


def get_host() -> Host:
    """Return the host of this process. It loads plugins when a registry is first asked."""
    return _HOST
