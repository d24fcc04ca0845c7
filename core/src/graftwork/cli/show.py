"""`graft show FILE`: what is in a trained model's file. It needs no plugin, and neither torch nor numpy."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from graftwork.cli.text import columns, echo_json
from graftwork.container import read_container
from graftwork.spec import provider

__all__ = ["command"]

WIDTH = 88
LABEL = 12


@click.command("show")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with the whole manifest.")
def command(*, file: Path, as_json: bool) -> None:
    """Verify every byte of FILE, a model.graft or a checkpoint, and say what it holds."""
    manifest = read_container(file).manifest
    size = file.stat().st_size
    if as_json:
        echo_json({"file": str(file), "bytes": size, "manifest": manifest})
        return
    click.echo("\n".join(_describe(file, size, manifest)))


def _describe(file: Path, size: int, manifest: Mapping[str, Any]) -> Iterator[str]:
    writer = f"written by graftwork {_text(manifest.get('graftwork'))}, format {manifest['format']}"
    yield _line("file", f"{file}, {_bytes(size)}, {writer}; every byte verified")
    yield _line("kind", _text(manifest.get("kind")))
    yield from _about(manifest)
    figures = [*_items(manifest, "metrics"), *_items(manifest, "record")]
    yield from _table(("METRIC", "VALUE"), [(n, _figure(v)) for n, v in figures if n != "epoch"])
    yield from _table(("FIELD", "STAGE", "COMPONENT", "OPTIONS"), list(_steps(_mapping(manifest.get("plan")))))
    yield from _table(("PLUGIN", "WRITTEN WITH", "HERE"), [_plugin(n, p) for n, p in _items(manifest, "plugins")])
    members = [(n, _bytes(m["size"]), m["sha256"]) for n, m in manifest["members"].items()]
    yield from _table(("MEMBER", "SIZE", "SHA-256"), members)


def _about(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Write the lines that are there: model, task, losses, rows, and what else the file says of itself."""
    for name in ("task", "model"):
        if manifest.get(name) is not None:
            yield _line(name, _component(manifest[name]))
    for target, loss in _items(manifest, "losses"):
        yield _line(f"loss of {target}", _component(loss))
    if "parameters" in manifest:
        yield _line("parameters", _figure(manifest["parameters"]))
    facts = [f"{name} {_figure(count)} items" for name, count in _items(manifest, "rows")]
    facts += [f"{name} {_text(manifest[name])}" for name in ("seed", "epoch") if manifest.get(name) is not None]
    facts += [f"{name} {_text(value)}" for name, value in _items(manifest, "extra")]
    if facts:
        yield _line("training", "; ".join(facts))


def _steps(plan: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Yield a row for each field's block and for each of its steps."""
    for name, block in _items(plan, "fields"):
        role = "target" if name in _list(plan.get("targets")) else "input"
        yield (name, role, *_parts(block))
        for stage in ("item", "batch"):
            for step in map(_mapping, _list(plan.get(stage))):
                if name in step:
                    yield ("", stage, *_parts(step[name]))


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    if rows:
        yield "\n" + columns(header, [[_clean(cell) for cell in row] for row in rows])


def _plugin(name: str, info: object) -> tuple[str, str, str]:
    """Say which version wrote the file and which is installed; only the distribution's metadata is read."""
    found = _mapping(info)
    try:
        here = metadata.version(str(found.get("distribution")))
    except (metadata.PackageNotFoundError, ValueError):
        here = f"not installed: pip install {provider(name, said=found.get('distribution'))}"
    return name, f"{_text(found.get('distribution'))} {_text(found.get('version'))}", here


def _parts(component: object) -> tuple[str, str]:
    found = _mapping(component)
    config = found.get("config")
    return _text(found.get("id")), _brief(config) if config else ""


def _component(component: object) -> str:
    return "  ".join(_parts(component)).rstrip()


def _brief(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"


def _items(manifest: Mapping[str, Any], name: str) -> list[tuple[str, Any]]:
    return list(_mapping(manifest.get(name)).items())


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _figure(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else _text(value)


def _bytes(size: object) -> str:
    if not isinstance(size, int):
        return _text(size)
    return f"{size / 1e6:,.1f} MB" if size >= 100_000 else f"{size:,} bytes"


def _text(value: object) -> str:
    return value if isinstance(value, str) else "-" if value is None else _brief(value)


def _line(label: str, text: str) -> str:
    return f"{_clean(label):<{LABEL}}{_clean(text)}"


def _clean(text: str) -> str:
    """Write out what a terminal would obey: the text comes from a file that anybody may have written."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
