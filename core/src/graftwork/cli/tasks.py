"""`graft tasks`: what can be trained."""

from __future__ import annotations

import click

from graftwork.cli.text import columns, echo_json
from graftwork.plugins import get_host
from graftwork.spec import TaskSpec

__all__ = ["command"]


@click.command("tasks")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(*, as_json: bool) -> None:
    """List the tasks that can be trained, with the blocks they read and predict."""
    specs = get_host().tasks.find()
    if as_json:
        echo_json({"tasks": [_as_dict(spec) for spec in specs]})
    elif specs:
        click.echo(columns(("TASK", "FROM", "TO", "SUMMARY"), [_row(spec) for spec in specs]))
    else:
        click.echo("No tasks: no loaded plugin brings any. Install one, as in: pip install graftwork-vision")


def _row(spec: TaskSpec) -> tuple[str, str, str, str]:
    note = f" (deprecated: {spec.deprecated})" if spec.deprecated else ""
    return spec.id, " + ".join(spec.inputs), " + ".join(spec.targets), spec.summary + note


def _as_dict(spec: TaskSpec) -> dict[str, object]:
    return {
        "id": spec.id,
        "summary": spec.summary,
        "inputs": spec.inputs,
        "targets": spec.targets,
        "defaults": dict(spec.defaults),
        "requires": spec.requires,
        "deprecated": spec.deprecated,
        "docs": spec.docs,
    }
