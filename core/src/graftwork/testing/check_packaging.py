"""Checks of a plugin's distribution: what pip and type checkers see."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from graftwork.plugins.discovery import CORE, Candidate, judge
from graftwork.testing.kit import Kit
from graftwork.testing.verdict import Check, FlawError, NothingToCheckError

__all__ = ["CHECKS"]


def _loaded(kit: Kit) -> None:
    if kit.info.state != "ok":
        raise FlawError(f"it is {kit.info.state}: {kit.info.reason}", fix=kit.info.fix or "see `graft plugins show`")


def _entry(kit: Kit) -> None:
    if kit.name == CORE:
        raise NothingToCheckError("the core is no plugin")
    points = [p for p in kit.dist.entry_points if p.group.startswith("graftwork.plugins.")]
    name = kit.dist.metadata["Name"]
    candidates = [Candidate(name=p.name, target=p.value, dist=name) for p in points]
    objections = [objection for _, objection in judge(candidates) if objection]
    if not points or objections:
        problem = objections[0] if objections else f"{name} has no entry point in the group graftwork.plugins.v1"
        raise FlawError(problem, fix=f'[project.entry-points."graftwork.plugins.v1"] {candidates_fix(name)}')


def candidates_fix(dist: str) -> str:
    """Return the line of an entry point that fits a distribution's name."""
    namespace = re.sub(r"[-_.]+", "-", dist).lower().removeprefix("graftwork-")
    return f'{namespace} = "graftwork_{namespace.replace("-", "_")}.plugin"'


def _typed(kit: Kit) -> None:
    _ = kit.dist
    package = "graftwork" if kit.name == CORE else kit.package.partition(".")[0]
    found = find_spec(package)
    folders = [Path(place) for place in (found.submodule_search_locations or [])] if found else []
    if not any((folder / "py.typed").is_file() for folder in folders):
        fix = f'an empty file {package}/py.typed, and [tool.setuptools.package-data] {package} = ["py.typed"]'
        raise FlawError(f"the package {package} has no py.typed, so its types are not seen", fix=fix)


def _requires(kit: Kit) -> None:
    if kit.name == CORE:
        raise NothingToCheckError("the core requires no core")
    required = kit.dist.requires or []
    core = [r for r in required if re.match(r"graftwork(?![\w.-])", r) and "extra ==" not in r]
    bounded = [r for r in core if "~=" in r or (">=" in r and re.search(r"<(?!=)", r))]
    if not bounded:
        found = core[0] if core else "nothing of the core"
        raise FlawError(f"it requires {found}; an upper and a lower bound are needed", fix='"graftwork>=0.1,<0.2"')
    direct = [r for r in required if " @ " in r]
    if direct:
        raise FlawError(f"it requires {direct[0]!r}, which no index accepts", fix="require a name and a version")


def _described(kit: Kit) -> None:
    meta = kit.dist.metadata
    absent = [field for field in ("Summary", "Requires-Python") if field not in meta]
    classified = [c for c in meta.get_all("Classifier") or [] if c.startswith("License ::")]
    if not ("License-Expression" in meta or "License" in meta or classified):
        absent.append("License")
    if absent:
        fix = 'description = "…", license = "Apache-2.0", requires-python = ">=3.11" in [project]'
        raise FlawError(f"the distribution says no {', '.join(absent)}", fix=fix)


CHECKS: Final = (
    Check(id="plugin-loads", reason="what is not loaded offers nothing", run=_loaded),
    Check(id="dist-entry", reason="the host takes a namespace from the distribution that owns its name", run=_entry),
    Check(id="dist-typed", reason="without it mypy treats everything of the plugin as Any", run=_typed),
    Check(id="dist-requires", reason="bounds keep pip from pairing it with a core it was not made for", run=_requires),
    Check(id="dist-described", reason="people read these before they install it", run=_described),
)
