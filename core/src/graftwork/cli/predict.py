"""`graft predict ARTIFACT INPUT...`: what a trained model says about new things."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import click

__all__ = ["command"]

SHOWN = 3


@click.command("predict", help="Say what a trained model makes of each INPUT (for pictures: paths of files).")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.argument("inputs", nargs=-1, required=True)
@click.option("--device", default="auto", show_default=True, help="Device: auto, cpu, cuda, cuda:1, mps.")
@click.option("--on-bad-item", type=click.Choice(["skip", "error"]), default="skip", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for predictions that are files, such as masks.")
@click.option("--json", "as_json", is_flag=True, help="End with one line of JSON.")
def command(
    artifact: Path,
    inputs: tuple[str, ...],
    device: str,
    on_bad_item: Literal["skip", "error"],
    out: Path | None,
    as_json: bool,
) -> None:
    """Load, predict, print."""
    from graftwork.job import predict

    rows, failures = predict(artifact, inputs, device=device, on_bad_item=on_bad_item, out=out)
    for row in rows:
        likely = sorted(row.get("probabilities", {}).items(), key=lambda item: -item[1])[:SHOWN]
        chances = "  ".join(f"{name} {p:.3f}" for name, p in likely)
        click.echo(f"{row['input']}  →  {row['prediction']}   {chances}".rstrip(), err=as_json)
    for failure in failures:
        click.echo(f"warning: left out {failure}", err=True)
    if as_json:
        click.echo(json.dumps({"predictions": rows, "warnings": failures}))
