"""`graft plugins`: what is installed, and what became of it."""

from __future__ import annotations

import importlib
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pluggy

import graftwork.plugins
from graftwork.cli.doctor import command as doctor
from graftwork.cli.group import NearestGroup
from graftwork.cli.text import columns, echo_json
from graftwork.errors import GraftworkError
from graftwork.plugins import PluginInfo, get_host
from graftwork.spec import API

if TYPE_CHECKING:
    from graftwork.testing.verdict import Outcome

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


@command.command("check", short_help="Check a plugin as graftwork's conformance kit does.")
@click.argument("name")
@click.option("--verbose", "-v", is_flag=True, help="List what passed and what did not apply, too.")
@as_json_option
@click.pass_context
def check(ctx: click.Context, name: str, *, verbose: bool, as_json: bool) -> None:
    """Run every check of graftwork.testing on one plugin. The exit status is 1 if it does not conform."""
    from graftwork.testing.battery import check_plugin

    def say(outcome: Outcome) -> None:
        if verbose or outcome.state in ("failed", "unexpected", "expected"):
            text = str(outcome) if outcome.is_fault else f"{outcome.id}: {outcome.problem}".rstrip(": ")
            click.echo(f"{outcome.state:<10}  {text}", err=as_json)

    outcomes = check_plugin(name, each=say)
    counts = Counter(outcome.state for outcome in outcomes)
    click.echo(", ".join(f"{count} {state}" for state, count in counts.items()), err=as_json)
    if as_json:
        echo_json({"plugin": name, "counts": dict(counts), "outcomes": [outcome.to_json() for outcome in outcomes]})
    if any(outcome.is_fault for outcome in outcomes):
        ctx.exit(1)


@command.command("new", short_help="Write a plugin of your own to begin with.")
@click.argument("name")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to make; by default graftwork-NAME.")
def new(name: str, *, out: Path | None) -> None:
    """Write a complete plugin called NAME: it trains, passes its tests and the conformance checks as it is."""
    from graftwork.cli.template import render

    folder = out or Path(f"graftwork-{name}")
    files = render(name, folder, taken={info.name for info in get_host().plugins()})
    click.echo(f"wrote {len(files)} files to {folder}\n\ncd {folder}\npip install -e '.[dev]'\npytest")
    click.echo(f"graft plugins check {name}")


command.add_command(doctor)


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
