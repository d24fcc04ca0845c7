"""The command `graft`: it finds the command that is meant, and turns errors into a message and an exit status."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Sequence
from types import MappingProxyType
from typing import Final

import click

from graftwork import __version__
from graftwork.cli.group import Entry, LazyGroup
from graftwork.errors import GraftworkError, UserError

__all__ = ["main", "root"]

COMMANDS: Final = MappingProxyType(
    {
        "tasks": Entry("graftwork.cli.catalog:tasks", "List the tasks that can be trained"),
        "train": Entry("graftwork.cli.train:command", "Train a model for a task, and report it beside its baseline"),
        "resume": Entry("graftwork.cli.resume:command", "Go on with a run that was broken off"),
        "evaluate": Entry("graftwork.cli.evaluate:command", "Measure a trained model on labelled data"),
        "predict": Entry("graftwork.cli.predict:command", "Use a trained model on new inputs"),
        "show": Entry("graftwork.cli.show:command", "Say what is in a trained model's file"),
        "models": Entry("graftwork.cli.catalog:models", "List the models, by the blocks they take and predict"),
        "blocks": Entry("graftwork.cli.catalog:blocks", "List the blocks: what a field of a sample can be"),
        "transforms": Entry("graftwork.cli.catalog:transforms", "List the transforms, from block to block"),
        "metrics": Entry("graftwork.cli.catalog:metrics", "List the metrics, by the targets they are for"),
        "losses": Entry("graftwork.cli.catalog:losses", "List the losses, by the targets they are for"),
        "baselines": Entry("graftwork.cli.catalog:baselines", "List the baselines models are reported beside"),
        "callbacks": Entry("graftwork.cli.catalog:callbacks", "List the callbacks"),
        "sources": Entry("graftwork.cli.catalog:sources", "List the forms in which data can lie on a disk"),
        "plugins": Entry("graftwork.cli.plugins:command", "List the plugins, and say what became of each"),
    }
)


class Root(LazyGroup):
    """Add the commands of plugins to the core's own.

    The core's names stay the core's. A name that a plugin shares with the core or with another plugin is typed as the
    full id, `graft NAMESPACE/NAME`, which works for every one.
    """

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command, of the core or of a plugin."""
        if command := super().get_command(ctx, cmd_name):
            return command
        from graftwork.plugins import get_host

        commands = get_host().commands
        full = {name: spec_id for name, spec_id, _ in _plugin_commands()}.get(cmd_name, cmd_name)
        if full not in commands:
            return None
        found: click.Command = commands.get(full)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is meant. Raises UsageError for a short name that several plugins use."""
        if (name := args[0]) not in COMMANDS:
            from graftwork.plugins import get_host

            same = [spec.id for spec in get_host().commands.find(name=name)]
            if len(same) > 1:
                ctx.fail(f"command {name!r} is ambiguous: {' and '.join(map(repr, same))}; write the full id")
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the core's commands, then the plugins'."""
        return [*super().list_commands(ctx), *(name for name, _, _ in _plugin_commands())]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the core's commands and, apart from them, the plugins'."""
        super().format_commands(ctx, formatter)
        entries = {name: Entry("", summary) for name, _, summary in _plugin_commands()}
        self.format_entries("Commands of plugins", entries, formatter)


def _plugin_commands() -> list[tuple[str, str, str]]:
    """Return name, id and summary of every plugin's command; the name is the id where the short one is taken."""
    from graftwork.plugins import get_host

    specs = get_host().commands.find()
    names = [spec.name for spec in specs]
    return [
        (spec.name if spec.name not in COMMANDS and names.count(spec.name) == 1 else spec.id, spec.id, spec.summary)
        for spec in specs
    ]


def _block(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> None:
    """Block the plugins named by `-p no:NAME`, before any is imported."""
    for value in values:
        prefix, _, name = value.partition(":")
        if prefix != "no" or not name:
            raise click.BadParameter(f"{value!r} must read no:NAME, as in -p no:text", ctx, parameter)
        from graftwork.plugins import get_host

        get_host().block(name, why=f"-p {value}")


root = Root(
    name="graft",
    entries=COMMANDS,
    help="Train, compare, save and use models. What can be trained comes with plugins.",
    epilog="`graft COMMAND --help` explains a command.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    params=[
        click.Option(
            ["-p", "blocked"],
            metavar="no:NAME",
            multiple=True,
            is_eager=True,
            expose_value=False,
            callback=_block,
            help="Leave a plugin out; may be given several times.",
        ),
    ],
)
click.version_option(__version__, prog_name="graft")(root)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 2 the user's mistake, 1 anything else."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name the terminal cannot write must not end the command that lists it.
            stream.reconfigure(errors="backslashreplace")
    try:
        status = root.main(args=None if argv is None else list(argv), prog_name="graft", standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("Aborted", err=True)
        return 130
    except Exception as error:
        return _report(error)
    return status if isinstance(status, int) else 0


def _report(error: Exception) -> int:
    """Print what went wrong, a traceback only where it is of use, and return the exit status."""
    if isinstance(error, click.ClickException):
        error.show()
        return 2
    expected = isinstance(error, GraftworkError)
    if not expected or os.environ.get("GRAFTWORK_DEBUG", "") not in ("", "0"):
        traceback.print_exception(error)
    message = str(error) if expected else f"{type(error).__name__} was not expected here; please report the lines above"
    rank = os.environ.get("RANK", "0") if int(os.environ.get("WORLD_SIZE", "1")) > 1 else "0"
    click.echo(f"Error: {message}" if rank == "0" else f"Error in process {rank}: {message}", err=True)
    return 2 if isinstance(error, UserError) else 1
