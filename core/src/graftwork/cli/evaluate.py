"""`graft evaluate ARTIFACT SOURCE`: measure a trained model on labelled data."""

from __future__ import annotations

import json
from pathlib import Path

import click

__all__ = ["command"]


@click.command("evaluate", help="Measure a trained model on a source with labels; all of its items are used.")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--bs", default=64, show_default=True, help="Items in a batch.")
@click.option("--device", default="auto", show_default=True, help="Device: auto, cpu, cuda, cuda:1, mps.")
@click.option("--precision", default="fp32", show_default=True, help="Number format: fp32, bf16, fp16, auto.")
@click.option("--workers", type=int, default=None, help="Loader threads; by default one per core, at most four.")
@click.option("--on-bad-item", type=click.Choice(["skip", "error"]), default="skip", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="End with one line of JSON.")
def command(
    artifact: Path,
    source: Path,
    bs: int,
    device: str,
    precision: str,
    workers: int | None,
    on_bad_item: str,
    as_json: bool,
) -> None:
    """Load, measure, print."""
    from graftwork.job import evaluate
    from graftwork.task import JobOptions

    job = JobOptions(bs=bs, device=device, precision=precision, workers=workers, on_bad_item=on_bad_item)  # type: ignore[arg-type]
    result = evaluate(artifact, source, job)
    click.echo(f"{result['rows']} items", err=as_json)
    for name, value in result["metrics"].items():
        click.echo(f"{name:<20}{value:.4f}", err=as_json)
    for warning in result["warnings"]:
        click.echo(f"warning: {warning}", err=True)
    if as_json:
        click.echo(json.dumps(result))
