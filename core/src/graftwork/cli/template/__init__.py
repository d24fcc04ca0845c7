"""The plugin that `graft plugins new` writes: plugins/example with other names, less what is more than the smallest.

The files beside this module are derived by `python plugins/derive_template.py`; a test holds them equal.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from graftwork.errors import OptionError, PluginError
from graftwork.spec import Plugin

__all__ = ["SUFFIX", "render"]

SUFFIX: Final = ".tmpl"
HERE: Final = Path(__file__).parent
_LISTED = re.compile(r'(?<=__all__ = \[\n)(?:    "\w+",\n)+|(?<=import \(\n)(?:    \w+,\n)+')


def render(name: str, out: Path, *, taken: Collection[str] = ()) -> list[Path]:
    """Write a plugin into a folder that is new or empty; return its files.

    Raises:
        OptionError: the name has not the form of a namespace, belongs to somebody, or the folder is not empty.
    """
    _check(name, taken)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OptionError(f"--out {out} is there already and is no empty folder; choose another, or remove it")
    words = {"DIST": f"graftwork-{name}", "PACKAGE": _package(name), "NAMESPACE": name, "CLASS": _class(name)}
    written = []
    for source in sorted(HERE.rglob(f"*{SUFFIX}")):
        path = out / _filled(source.relative_to(HERE).as_posix().removesuffix(SUFFIX), words)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_sorted(_filled(source.read_text(encoding="utf-8"), words)), encoding="utf-8")
        written.append(path)
    return written


def _check(name: str, taken: Collection[str]) -> None:
    try:
        Plugin(namespace=name, summary="A plugin")
    except PluginError as error:
        raise OptionError(f"{error}; for example: graft plugins new bird-song") from error
    if name[0].isdigit():
        raise OptionError(f"plugin name {name!r} begins with a digit, and classes are named after it; use a letter")
    if name.startswith("graftwork"):
        raise OptionError(f"plugin name {name!r}: leave 'graftwork-' out, it is added to the distribution's name")
    if name in taken:
        raise OptionError(f"there is a plugin {name!r} already; see `graft plugins list`, and choose another name")


def _package(name: str) -> str:
    return "graftwork_" + name.replace("-", "_")


def _class(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("-"))


def _filled(text: str, words: dict[str, str]) -> str:
    return re.sub(r"@(\w+?)@", lambda found: words[found[1]], text)


def _sorted(text: str) -> str:
    """Sort listed public names anew: classes, then functions, each by the alphabet."""
    return _LISTED.sub(lambda found: "".join(_in_order(found[0].splitlines(keepends=True))), text)


def _in_order(lines: list[str]) -> Iterator[str]:
    yield from sorted(lines, key=lambda line: (line.strip(' ",\n')[0].islower(), line))
