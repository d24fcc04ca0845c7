"""`graft models`, `graft blocks` and their like: what is installed of each kind, searched by blocks and by words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import click

from graftwork.cli.text import echo_json
from graftwork.errors import unknown
from graftwork.plugins.catalog import FILTERS, installed

__all__ = ["baselines", "blocks", "callbacks", "losses", "metrics", "models", "sources", "tasks", "transforms"]

_ABOUT: Final = "Every WORD must occur in the id or the summary."
_MEANT: Final = (
    " A block is given by its id or short name, and stands for all that transforms make of it; of several all must fit."
)


def _command(kind: str, help_text: str) -> click.Command:
    """Make the command of one kind, with the options by which it can be searched."""
    options: list[click.Parameter] = [
        click.Option([f"--{name}"], multiple=True, metavar="BLOCK", help=text)
        for name, text in (("input", "Only what takes this block."), ("target", "Only what is for this target."))
        if name in FILTERS[kind]
    ]
    return click.Command(
        kind,
        params=[
            click.Argument(["words"], nargs=-1, metavar="[WORD]..."),
            *options,
            click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON object."),
        ],
        callback=_lister(kind),
        help=f"{help_text} {_ABOUT}{_MEANT if options else ''}",
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def _lister(kind: str) -> Callable[..., None]:
    def show(*, words: tuple[str, ...], as_json: bool, **blocks: tuple[str, ...]) -> None:
        found = installed(kind, *words, **blocks)  # type: ignore[arg-type]
        if as_json:
            echo_json({kind: found.to_json()})
        else:
            click.echo(found.table() if found else _nothing(kind, words, blocks))

    return show


def _nothing(kind: str, words: tuple[str, ...], blocks: dict[str, tuple[str, ...]]) -> str:
    """Say why the list is empty, and what would fill it."""
    everything = installed(kind)
    if not everything:
        return f"No {kind}: no loaded plugin brings any. Install one, as in: pip install graftwork-vision"
    asked = [*words, *(f"--{option} {name}" for option, names in blocks.items() for name in names)]
    shown = f"No {kind} fit {' '.join(asked)}; `graft {kind}` lists all {len(everything)}"
    known = {entry.spec.id for entry in everything}
    near = str(unknown(kind, words[0], known)).partition("; ")[2] if len(asked) == len(words) == 1 else ""
    return f"{shown}; {near}" if near.startswith("did you mean") else shown


baselines = _command("baselines", "List the baselines a trained model is reported beside.")
blocks = _command("blocks", "List the blocks: what one field of a sample can be, and what transforms make of it.")
callbacks = _command("callbacks", "List the callbacks.")
losses = _command("losses", "List the losses, with the target blocks they are for.")
metrics = _command("metrics", "List the metrics, with the target blocks they are for.")
models = _command("models", "List the models, with the blocks they take and predict, and what they cost.")
sources = _command("sources", "List the forms in which data can lie on a disk.")
tasks = _command("tasks", "List the tasks that can be trained, with the blocks they read and predict.")
transforms = _command("transforms", "List the transforms, from block to block.")
