"""Groups of commands that name the nearest one, and import none to list them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import click

from graftwork.errors import unknown

__all__ = ["Entry", "LazyGroup", "NearestGroup"]


class NearestGroup(click.Group):
    """Refuse an unknown command with the nearest that exists."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is meant. Raises UsageError for one that does not exist."""
        name = args[0]
        if not (ctx.resilient_parsing or name.startswith("-")) and self.get_command(ctx, name) is None:
            ctx.fail(str(unknown("command", name, self.list_commands(ctx))))
        return super().resolve_command(ctx, args)


class Entry(NamedTuple):
    """Say where a command is, `"module:attr"`, and what lists show of it."""

    target: str
    summary: str


class LazyGroup(NearestGroup):
    """List commands by their static summaries; import a command when it is run."""

    def __init__(self, *, entries: Mapping[str, Entry], **settings: object) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]
        self.entries = entries

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands, in the order in which they are given."""
        return [*self.entries, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in self.entries:
            return super().get_command(ctx, cmd_name)
        from importlib import import_module

        module, _, attribute = self.entries[cmd_name].target.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands. click's own would import every one of them."""
        self.format_entries("Commands", self.entries, formatter)

    def format_entries(self, title: str, entries: Mapping[str, Entry], formatter: click.HelpFormatter) -> None:
        """Write one list of commands under its title."""
        if entries:
            with formatter.section(title):
                formatter.write_dl([(name, entry.summary) for name, entry in entries.items()])
