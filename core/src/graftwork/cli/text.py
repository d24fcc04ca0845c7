"""What the listings print: aligned columns for people, one line of JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

__all__ = ["columns", "echo_json"]


def columns(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out rows under a header, each column as wide as its widest cell and the last as wide as it likes."""
    table = [header, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join(lines)


def echo_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object as one line: with --json, the last of standard output."""
    click.echo(json.dumps(value))
