"""Derive what `graft plugins new` renders from plugins/example: `python plugins/derive_template.py` writes it anew.

Left out are the files below, and lines between comments "more than the smallest plugin: begin" and "end", and lines
that end in the comment "more than the smallest plugin". Names become placeholders.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "plugins" / "example"
TEMPLATE = ROOT / "core" / "src" / "graftwork" / "cli" / "template"
LEFT_OUT = {
    "LICENSE",
    "README.md",
    "src/graftwork_signals/dtw.py",
    "src/graftwork_signals/inception.py",
    "src/graftwork_signals/noise.py",
    "tests/test_signals.py",
    "tests/test_signals_conformance.py",
}
"""What is more than a plugin needs, and what speaks of this repository."""
ADDED = ROOT / "plugins" / "template_only"
"""Files only a rendered plugin has, under the names the example would give them."""
MARK = "# more than the smallest plugin"
NAMES = (
    (r"graftwork_signals", "@PACKAGE@"),
    (r"graftwork-signals", "@DIST@"),
    (r"runs/signals-", "runs/@NAMESPACE@-"),
    (r"\bSeries(?=[A-Z])", "@CLASS@"),
    (r"(?<![\w-])signals(?![\w-])", "@NAMESPACE@"),
)
IGNORED = {"__pycache__", ".pytest_cache", ".hypothesis", ".mypy_cache", ".ruff_cache", "build"}


def derive() -> dict[str, str]:
    """Return the template's files by their path below its folder."""
    return {_named(path) + ".tmpl": _named(_shortened(text)) for path, text in _files()}


def _files() -> Iterator[tuple[str, str]]:
    for root in (EXAMPLE, ADDED):
        for file in sorted(root.rglob("*")):
            path = file.relative_to(root).as_posix()
            left_out = root is EXAMPLE and path in LEFT_OUT
            if not file.is_file() or left_out or IGNORED & set(path.split("/")) or ".egg-info/" in path:
                continue
            yield path, file.read_text(encoding="utf-8")


def _shortened(text: str) -> str:
    """Leave out what is marked."""
    kept, skipping = [], False
    for line in text.splitlines(keepends=True):
        if MARK in line:
            skipping = line.strip() == f"{MARK}: begin"
        elif not skipping:
            kept.append(line)
    return "".join(kept)


def _named(text: str) -> str:
    for pattern, placeholder in NAMES:
        text = re.sub(pattern, placeholder, text)
    return text


def main() -> None:
    """Write the template anew."""
    for old in TEMPLATE.iterdir():
        if old.is_dir():
            shutil.rmtree(old)
        elif old.suffix == ".tmpl":
            old.unlink()
    for path, text in derive().items():
        (TEMPLATE / path).parent.mkdir(parents=True, exist_ok=True)
        (TEMPLATE / path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
