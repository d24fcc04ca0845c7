"""`graft train TASK SOURCE`: one sub-command per task, with the task's own options beside the common ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from graftwork.cli.options import options_of
from graftwork.plugins import get_host
from graftwork.task import JobOptions

__all__ = ["command", "table_of"]


class _Tasks(click.Group):
    """Know the tasks of all plugins; import one only when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return get_host().tasks.ids()

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        return _task_command(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if not args[0].startswith("-"):
            get_host().tasks.spec(args[0])  # an unknown name is answered with the nearest ones
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        host = get_host()
        rows = [(name, host.tasks.spec(name).summary) for name in host.tasks.ids()]
        with formatter.section("Tasks"):
            formatter.write_dl(rows or [("(none)", "install a plugin, for example: pip install graftwork-vision")])


def _task_command(name: str) -> click.Command:
    host = get_host()
    spec, task = host.tasks.spec(name), host.tasks.get(name)
    own = options_of(task.Options)
    taken = {p.name for p in own}
    common = [o for o in options_of(JobOptions) if o.name not in taken]
    source = click.Argument(["source"], type=click.Path(path_type=Path))
    out = click.Option(["--out"], type=click.Path(path_type=Path), help="Run folder to make; by default runs/TASK-N.")
    as_json = click.Option(["--json", "as_json"], is_flag=True, help="End with one line of JSON; progress on stderr.")
    return click.Command(
        spec.id,
        params=[source, *own, *common, out, as_json],
        callback=lambda **given: _train(task, **given),
        help=spec.summary,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def _train(task: Any, *, source: Path, out: Path | None, as_json: bool, **given: Any) -> None:
    from graftwork.job import train
    from graftwork.processes import started_here

    own = {f.name for f in fields(task.Options)}
    job = JobOptions(**{k: v for k, v in given.items() if k not in own})
    made = task(task.Options(**{k: v for k, v in given.items() if k in own}))

    def say(text: str) -> None:
        click.echo(text, err=as_json)

    report = train(made, source, job, out, say, to_stderr=as_json)
    if not started_here().first:
        return
    say(table_of(report))
    if as_json:
        click.echo(json.dumps(report.to_json()))


def table_of(report: Any) -> str:
    """Tabulate the model beside the baselines, and say where everything lies."""
    names = [n for n in report.metrics if n != "valid_loss"]
    rows = [(b["id"], b["metrics"]) for b in report.baselines] + [("this model", report.metrics)]
    width = max(len(r[0]) for r in rows) + 2
    lines = ["", " " * width + "".join(f"{n:>{max(12, len(n) + 2)}}" for n in names)]
    lines += [f"{label:<{width}}" + "".join(_cell(m, n) for n in names) for label, m in rows]
    lines += ["", f"run       {report.run}", f"artifact  {report.artifact}"]
    lines += [f"picture   {path}" for path in report.pictures]
    lines += [f"report    {Path(report.run) / 'report.html'}"]
    lines += [f"warning   {text}" for text in report.warnings]
    return "\n".join(lines)


command = _Tasks(
    "train", help="Train a task's model on a source, beside its baselines.", subcommand_metavar="TASK SOURCE [OPTIONS]"
)


def _cell(metrics: Mapping[str, float], name: str) -> str:
    """Write a figure below its name; a baseline need not have all of them."""
    width = max(12, len(name) + 2)
    return f"{metrics[name]:>{width}.4f}" if name in metrics else f"{'-':>{width}}"
