"""`graft plugins`: what is installed, and what became of it."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Iterator
from pathlib import Path

import click
import pluggy

import graftwork.plugins
from graftwork.cli.group import NearestGroup
from graftwork.cli.text import columns, echo_json
from graftwork.errors import GraftworkError
from graftwork.plugins import PluginInfo, get_host
from graftwork.spec import API

__all__ = ["command"]

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group("plugins", cls=NearestGroup, no_args_is_help=True)
def command() -> None:
    """List the plugins, and say what became of each."""


@command.command("list", short_help="List the plugins with their states.")
@as_json_option
@click.option("--timing", is_flag=True, help="Show what loading each cost, the dearest first.")
def list_plugins(*, as_json: bool, timing: bool) -> None:
    """List every installed plugin with its state: ok, blocked, failed, incompatible or conflict."""
    infos = get_host().plugins()
    if timing:
        infos = tuple(sorted(infos, key=lambda info: -info.ms))
    if as_json:
        echo_json({"api": _version(API), "plugins": [_as_dict(info) for info in infos]})
        return
    header = ["PLUGIN", "STATE", "VERSION", "API", "COMPONENTS", *(["MS"] if timing else []), "NOTE"]
    click.echo(columns(header, [_row(info, timing=timing) for info in infos]))


@command.command("show", short_help="Show what one plugin brings, or why it is not loaded.")
@click.argument("name")
@as_json_option
def show_plugin(name: str, *, as_json: bool) -> None:
    """Show one plugin: what it brings or, where it is not loaded, why and what mends it."""
    infos = get_host().plugin(name)
    if as_json:
        echo_json({"api": _version(API), "plugins": [_as_dict(info, trace=True) for info in infos]})
        return
    click.echo("\n\n".join("\n".join(_describe(info)) for info in infos))


def _row(info: PluginInfo, *, timing: bool) -> list[str]:
    count = sum(map(len, info.records.values()))
    cells = [info.handle, info.state, info.version or "-", _api(info) or "-", str(count) if count else "-"]
    return [*cells, *([f"{info.ms:.1f}"] if timing else []), _shorten(_note(info))]


def _note(info: PluginInfo) -> str:
    """Say in a few words what is the matter with a plugin, or that nothing is."""
    if info.state != "ok":
        return " ".join(info.reason.split())
    return "; ".join(_costs(info))


def _costs(info: PluginInfo) -> Iterator[str]:
    """Say what loading a plugin costs every command, where that is more than it should."""
    if info.heavy:
        yield f"imports {', '.join(info.heavy)} when loaded"
    if info.slow:
        yield f"slow to load: {info.ms:.0f} ms"


def _shorten(text: str, *, width: int = 100) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _describe(info: PluginInfo) -> Iterator[str]:
    """Write one plugin out, line by line."""
    facts = {
        "plugin": info.name,
        "state": info.state,
        "summary": info.plugin.summary if info.plugin else "",
        "distribution": f"{info.dist} {info.version}".strip(),
        "module": info.target,
        "api": _api(info),
        "docs": info.plugin.docs if info.plugin else "",
        "loaded in": f"{info.ms:.1f} ms" if info.ms else "",
        "costs": "; ".join(_costs(info)),
        "reason": info.reason,
        "to mend it": info.fix,
    }
    yield from (f"{name + ':':<14}{value}" for name, value in facts.items() if value)
    for kind, ids in info.records.items():
        yield f"\n{kind}:"
        registry = get_host().registries[kind]
        rows = [(full, _line(registry.spec(full))) for full in ids]
        yield from (f"  {full:<32}  {line}".rstrip() for full, line in rows)
    if trace := _trace(info):
        yield f"\n{trace}"


def _line(spec: object) -> str:
    """Return the one line about a record that lists show."""
    from graftwork.spec import DocLink, Spec

    if isinstance(spec, Spec):
        return spec.summary + (f" (deprecated: {spec.deprecated})" if spec.deprecated else "")
    return f"{spec.title}: {spec.url_or_path}" if isinstance(spec, DocLink) else ""


def _trace(info: PluginInfo) -> str:
    """Return the traceback of what a plugin raised, without the host's and the import system's own frames."""
    if info.error is None or isinstance(info.error, GraftworkError):
        return ""
    trace = traceback.TracebackException.from_exception(info.error)
    own = [frame for frame in trace.stack if not _is_machinery(frame.filename)]
    trace.stack = traceback.StackSummary.from_list(own)
    return "".join(trace.format()).rstrip()


def _is_machinery(filename: str) -> bool:
    machinery = (Path(graftwork.plugins.__file__).parent, Path(importlib.__file__).parent, Path(pluggy.__file__).parent)
    return filename.startswith("<frozen") or Path(filename).parent in machinery


def _api(info: PluginInfo) -> str:
    return _version(info.plugin.requires_api) if info.plugin else ""


def _version(pair: tuple[int, int]) -> str:
    return f"{pair[0]}.{pair[1]}"


def _as_dict(info: PluginInfo, *, trace: bool = False) -> dict[str, object]:
    """Write one plugin as JSON values."""
    return {
        "name": info.name,
        "state": info.state,
        "summary": info.plugin.summary if info.plugin else "",
        "distribution": info.dist,
        "version": info.version,
        "module": info.target,
        "api": _api(info),
        "reason": info.reason,
        "fix": info.fix,
        "ms": round(info.ms, 2),
        "slow": info.slow,
        "heavy": info.heavy,
        "components": info.records,
        **({"traceback": _trace(info)} if trace else {}),
    }
