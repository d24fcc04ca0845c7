"""`graft pictures`: find broken pictures, make folders of smaller ones, fetch lists of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click

__all__ = ["pictures"]


@click.group()
def pictures() -> None:
    """Prepare folders of pictures."""


@pictures.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--delete", is_flag=True, help="Delete the pictures that cannot be read.")
def verify(folder: Path, delete: bool) -> None:
    """Decode every picture below FOLDER and list those that cannot be read."""
    from graftwork_vision.folders import verify_images
    from graftwork_vision.sources import get_image_files

    files = get_image_files(folder)
    broken = verify_images(files)
    for path, reason in broken.items():
        click.echo(f"{path}: {reason}")
        if delete:
            path.unlink()
    click.echo(f"{len(files)} pictures, {len(broken)} cannot be read{' and were deleted' if delete and broken else ''}")


@pictures.command()
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("dest", type=click.Path(file_okay=False, path_type=Path))
@click.option("--max-size", type=click.IntRange(min=1), required=True, help="Pixels of the longer side.")
def resize(source: Path, dest: Path, max_size: int) -> None:
    """Copy the pictures of SOURCE to DEST, their longer side shrunk; go on where a copy was begun."""
    from graftwork_vision.folders import resize_images

    click.echo(str(resize_images(source, max_size=max_size, dest=dest)))


@pictures.command()
@click.argument("addresses", type=click.File(encoding="utf-8"))
@click.argument("dest", type=click.Path(file_okay=False, path_type=Path))
@click.option("--max-pics", type=click.IntRange(min=1), default=1000, show_default=True)
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), default=4.0, show_default=True)
def download(addresses: Iterable[str], dest: Path, max_pics: int, timeout: float) -> None:
    """Fetch the pictures whose addresses the file ADDRESSES holds, one a line; go on where that was begun."""
    from graftwork_vision.folders import download_images

    urls = [line.strip() for line in addresses if line.strip()]
    click.echo(str(download_images(dest, urls, max_pics=max_pics, timeout=timeout)))
