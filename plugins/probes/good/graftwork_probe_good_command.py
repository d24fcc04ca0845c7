"""The good probe's command; imported when it is typed."""

from __future__ import annotations

import click


@click.command()
@click.argument("name")
def greet(name):
    """Say hello."""
    click.echo(f"Hello, {name}")
