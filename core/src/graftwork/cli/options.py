"""Command-line options from the typed fields of a dataclass."""

from __future__ import annotations

import types
from dataclasses import Field, fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import click

__all__ = ["options_of"]


def options_of(record: type) -> list[click.Option]:
    """Return one option per field: its name with dashes, its type, its default, and its help."""
    hints = get_type_hints(record)
    return [_option(f, hints[f.name]) for f in fields(record)]


def _option(f: Field[Any], hint: Any) -> click.Option:
    kind, many = _click_type(hint)
    name = "--" + f.name.replace("_", "-")
    if kind is click.BOOL:
        return click.Option([f"{name}/--no-{name[2:]}", f.name], default=f.default, help=f.metadata["help"])
    shown = f.default is not None
    return click.Option(
        [name, f.name], type=kind, default=f.default, help=f.metadata["help"], show_default=shown, multiple=many
    )


def _click_type(hint: Any) -> tuple[Any, bool]:
    """Return click's type for a field's; an optional field is one that may be left out."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _click_type(next(arg for arg in args if arg is not type(None)))
    if origin is Literal:
        return click.Choice(list(args)), False
    if origin is tuple:
        return _click_type(args[0])[0], True
    return {int: click.INT, float: click.FLOAT, bool: click.BOOL, str: click.STRING}[hint], False
