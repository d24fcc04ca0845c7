"""`graft resume RUN`: go on with a run that was broken off."""

from __future__ import annotations

import json
from pathlib import Path

import click

from graftwork.cli.train import table_of

__all__ = ["command"]


@click.command("resume")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="End with one line of JSON, as train does; progress on stderr.")
def command(*, run: Path, as_json: bool) -> None:
    """Go on with RUN, a folder that `graft train` made, from its last checkpoint to its end.

    All options are those the run was begun with. A run that was killed before its first checkpoint starts anew; one
    that is finished is left as it is.
    """
    from graftwork.job import resume
    from graftwork.processes import started_here

    def say(text: str) -> None:
        click.echo(text, err=as_json)

    report = resume(run, say, to_stderr=as_json)
    if not started_here().first:
        return
    say(table_of(report))
    if as_json:
        click.echo(json.dumps(report.to_json()))
