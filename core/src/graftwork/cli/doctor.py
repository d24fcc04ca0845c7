"""`graft plugins doctor`: what is the matter here, and what is here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import click

from graftwork.cli.text import columns, echo_json

if TYPE_CHECKING:
    from graftwork.doctor import Diagnosis, Finding

__all__ = ["command"]


@click.command("doctor", short_help="Look at versions, devices, plugins and extras; problems first.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def command(ctx: click.Context, *, as_json: bool) -> None:
    """Look at versions, devices, plugins and extras, problems first. The exit status is 1 if anything failed."""
    from graftwork.doctor import diagnose

    found = diagnose()
    if as_json:
        echo_json(found.to_json())
    else:
        click.echo("\n".join(_describe(found)))
    if not found.is_well:
        ctx.exit(1)


def _describe(found: Diagnosis) -> Iterator[str]:
    yield from _problems(found.problems)
    yield from _facts("VERSIONS", found.versions.items())
    yield from _facts("DEVICES", found.devices.items())
    for title, topic in (("PLUGINS", "plugin"), ("WHAT THEY SAY", "said")):
        fine = [f for f in found.findings if f.topic == topic and f.check.state == "ok"]
        yield from _facts(title, ((f.about, f.check.message) for f in fine))
    if found.extras:
        rows = [(f"{e.distribution}[{e.name}]", e.state, e.enables) for e in found.extras]
        yield "\n" + columns(("EXTRA", "STATE", "ENABLES"), rows)
        yield from (f"to have it: {e.install}" for e in found.extras if e.state != "present")


def _problems(problems: tuple[Finding, ...]) -> Iterator[str]:
    if not problems:
        yield "Nothing is the matter."
    for problem in problems:
        yield f"{problem.check.state}: {_name(problem)}: {problem.check.message}"
        if problem.check.fix:
            yield f"      to mend it: {problem.check.fix}"


def _name(problem: Finding) -> str:
    return f"plugin {problem.about}" if problem.topic in ("plugin", "said") else problem.about


def _facts(title: str, facts: Iterable[tuple[str, str]]) -> Iterator[str]:
    rows = list(facts)
    if rows:
        width = max(len(name) for name, _ in rows)
        yield f"\n{title}"
        yield from (f"  {name:<{width}}  {text}" for name, text in rows)
