"""Folders of pictures before they are data: fetch them, find the broken ones, make them smaller."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from io import BytesIO
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from PIL import Image, ImageOps

from graftwork.api import DataError, ItemError, OptionError
from graftwork_vision.pictures import IMAGE_SUFFIXES, open_picture
from graftwork_vision.sources import get_image_files

__all__ = ["FilesReport", "download_images", "resize_images", "verify_images"]

T = TypeVar("T")
_AGENT: Final = {"User-Agent": "graftwork-vision"}
_CHUNK: Final = 2**16
_FORMATS: Final = {"JPEG": ".jpg", "PNG": ".png", "GIF": ".gif", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif"}
_QUALITY: Final = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesReport:
    """Say what became of files: those written, how many were there already, and why others failed."""

    written: tuple[Path, ...]
    already: int = 0
    failed: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Count, and name the first failures."""
        lines = [f"{len(self.written)} written, {self.already} there already, {len(self.failed)} failed"]
        lines += [f"  {name}: {reason}" for name, reason in list(self.failed.items())[:10]]
        return "\n".join(lines + (["  …"] if len(self.failed) > 10 else []))


def verify_images(files: Sequence[str | Path], *, workers: int = 4, progress: bool = True) -> dict[Path, str]:
    """Decode pictures whole and return those that cannot be read, with why: `verify_images(get_image_files(path))`."""

    def look(file: str | Path) -> str | None:
        try:
            open_picture(file)
        except ItemError as error:
            return str(error).removeprefix(f"{file}: ")
        return None

    reasons = _each(look, files, workers, "looking" if progress else None)
    return {Path(file): reason for file, reason in zip(files, reasons, strict=True) if reason is not None}


def resize_images(
    source: str | Path,
    *,
    max_size: int,
    dest: str | Path,
    recurse: bool = True,
    resume: bool = True,
    workers: int = 4,
    progress: bool = True,
) -> FilesReport:
    """Copy a folder of pictures, their longer side shrunk to `max_size` pixels; smaller ones are copied as they are.

    Folders, names and formats stay, so that labels do; EXIF rotation is applied. With `resume` files that are there
    already are left. Training on the copy saves decoding large photos anew in every epoch.
    """
    source, dest = Path(source), Path(dest)
    if max_size < 1:
        raise OptionError(f"max_size={max_size} must be at least 1 pixel")
    if dest.resolve() == source.resolve():
        raise OptionError(f"dest is the source, {source}; give another folder, since nothing is overwritten")
    files = [f for f in get_image_files(source, recurse=recurse) if dest.resolve() not in f.resolve().parents]
    targets = [dest / file.relative_to(source) for file in files]
    todo = [(file, to) for file, to in zip(files, targets, strict=True) if not (resume and to.exists())]

    def shrink(pair: tuple[Path, Path]) -> str | None:
        return _shrunk(*pair, max_size)

    reasons = _each(shrink, todo, workers, "resizing" if progress else None)
    failed = {str(file): reason for (file, _), reason in zip(todo, reasons, strict=True) if reason is not None}
    written = tuple(to for (_, to), reason in zip(todo, reasons, strict=True) if reason is None)
    return FilesReport(written=written, already=len(files) - len(todo), failed=failed)


def _shrunk(file: Path, to: Path, max_size: int) -> str | None:
    """Write one picture smaller; return why that failed, or None."""
    try:
        with Image.open(file) as opened, _beside(to) as part:
            if max(opened.size) <= max_size:
                shutil.copyfile(file, part)
                return None
            kind = opened.format
            opened.draft(None, (max_size, max_size))
            picture = ImageOps.exif_transpose(opened)
            picture.thumbnail((max_size, max_size), Image.Resampling.BILINEAR, reducing_gap=2.0)
            picture.save(part, kind, **({"quality": _QUALITY} if kind in ("JPEG", "WEBP") else {}))
    except Exception as error:  # a decoder fed with foreign bytes may raise anything
        return f"{type(error).__name__}: {error}"
    return None


@contextmanager
def _beside(to: Path) -> Iterator[Path]:
    """Give a path to write to, which becomes `to` when all is written, so that no half of a picture is ever there."""
    to.parent.mkdir(parents=True, exist_ok=True)
    part = to.with_name(to.name + ".part")
    try:
        yield part
        part.replace(to)
    finally:
        part.unlink(missing_ok=True)


def download_images(
    dest: str | Path,
    urls: Sequence[str],
    *,
    max_pics: int = 1000,
    workers: int = 8,
    timeout: float = 4.0,
    retries: int = 2,
    max_bytes: int = 20_000_000,
    resume: bool = True,
    progress: bool = True,
) -> FilesReport:
    """Fetch up to `max_pics` pictures into a folder, named by their place in `urls`; nothing but pictures is kept.

    A server that fails or is slow (`timeout`, in seconds without a byte) is asked again `retries` times; what is
    larger than `max_bytes`, refused, or no picture is not. With `resume` what is there already is not fetched again.
    """
    if max_pics < 1 or timeout <= 0 or retries < 0 or max_bytes < 1:
        raise OptionError(
            f"max_pics={max_pics}, timeout={timeout} and max_bytes={max_bytes} must be above 0, "
            f"and retries={retries} at least 0"
        )
    dest, wanted = Path(dest), list(urls)[:max_pics]
    dest.mkdir(parents=True, exist_ok=True)
    there = {path.stem for path in dest.iterdir() if path.suffix in IMAGE_SUFFIXES} if resume else set()
    todo = [(number, url) for number, url in enumerate(wanted) if f"{number:08d}" not in there]

    def fetch(pair: tuple[int, str]) -> Path | str:
        return _fetched(pair[1], dest / f"{pair[0]:08d}", timeout=timeout, retries=retries, max_bytes=max_bytes)

    results = list(zip(todo, _each(fetch, todo, workers, "fetching" if progress else None), strict=True))
    failed = {url: result for (_, url), result in results if isinstance(result, str)}
    written = tuple(result for _, result in results if isinstance(result, Path))
    return FilesReport(written=written, already=len(wanted) - len(todo), failed=failed)


def _fetched(url: str, stem: Path, *, timeout: float, retries: int, max_bytes: int) -> Path | str:
    """Fetch one picture; return where it lies, or why not."""
    if urlsplit(url).scheme not in ("http", "https"):
        return "not an address that begins with http:// or https://"
    for attempt in range(retries + 1):
        try:
            return _kept(_content(url, timeout, max_bytes), stem)
        except (DataError, ItemError) as error:
            return str(error)
        except HTTPError as error:
            reason = f"the server answered {error.code} {error.reason}"
            if error.code < 500 and error.code != 429:
                return reason
        except (OSError, HTTPException, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
        if attempt < retries:
            time.sleep(0.2 * 2**attempt)
    return f"{reason} (asked {retries + 1} times)"


def _content(url: str, timeout: float, max_bytes: int) -> bytes:
    response: HTTPResponse
    with urlopen(Request(url, headers=_AGENT), timeout=timeout) as response:
        said = response.headers.get("Content-Length", "")
        content = bytearray()
        if not (said.isdigit() and int(said) > max_bytes):
            while len(content) <= max_bytes and (chunk := response.read(_CHUNK)):
                content += chunk
    if len(content) > max_bytes or (said.isdigit() and int(said) > max_bytes):
        raise DataError(f"it is larger than the limit of {max_bytes:,} bytes (max_bytes)")
    if said.isdigit() and len(content) < int(said):
        raise OSError(f"the connection ended after {len(content):,} of {int(said):,} bytes")
    return bytes(content)


def _kept(content: bytes, stem: Path) -> Path:
    """Write what is a picture, under the ending its format has; raise ItemError for anything else."""
    open_picture(content)
    with Image.open(BytesIO(content)) as opened:
        suffix = _FORMATS.get(opened.format or "", ".png")
    to = stem.with_suffix(suffix)
    with _beside(to) as part:
        part.write_bytes(content)
    return to


def _each(work: Callable[[Any], T], things: Sequence[Any], workers: int, told: str | None) -> list[T]:
    """Do something to each thing in threads, with a bar on standard error if it is told what is done."""
    if workers < 1:
        raise OptionError(f"workers={workers}: use at least one thread")
    with ThreadPoolExecutor(workers) as pool:
        results = pool.map(work, things)
        if told is None:
            return list(results)
        from rich.console import Console
        from rich.progress import track

        return list(track(results, told, total=len(things), console=Console(stderr=True), transient=True))
