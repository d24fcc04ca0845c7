"""What the listings print: aligned columns for people, one line of JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click

from graftwork.page import columns

__all__ = ["columns", "echo_json"]


def echo_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object as one line: with --json, the last of standard output."""
    click.echo(json.dumps(value))
