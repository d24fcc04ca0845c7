"""Which plugins are installed, which of them rightfully own their name, and which the user has blocked.

Nothing of a plugin is imported here.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Final, final

from graftwork.errors import OptionError, unknown
from graftwork.spec import API

__all__ = ["CORE", "GROUP", "Blocking", "Candidate", "find_installed", "judge"]

CORE: Final = "core"
GROUP: Final = f"graftwork.plugins.v{API[0]}"
_FAMILY = re.compile(r"graftwork\.plugins\.v(\d+)\Z")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Name one entry point: what it says it is, where its module lies, and which distribution brings it."""

    name: str
    target: str
    dist: str
    version: str = ""
    major: int = API[0]

    @property
    def namespace(self) -> str:
        """The only namespace the distribution may claim: its own name without `graftwork-`."""
        return _normalise(self.dist).removeprefix("graftwork-")


def _normalise(dist: str) -> str:
    """Write a distribution's name the one way in which all its spellings are equal."""
    return re.sub(r"[-_.]+", "-", dist).lower()


def find_installed() -> tuple[Candidate, ...]:
    """Read the entry points of every installed distribution, those of other interface versions included."""
    points = metadata.entry_points()
    found = [
        Candidate(
            name=point.name,
            target=point.value,
            dist=point.dist.name if point.dist else "",
            version=point.dist.version if point.dist else "",
            major=int(match[1]),
        )
        for group in sorted(points.groups)
        if (match := _FAMILY.match(group))
        for point in points.select(group=group)
    ]
    return _prefer_own_major(found)


def _prefer_own_major(found: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """Leave out what a distribution offers to other hosts when it also offers something to this one."""
    found = list(found)
    served = {(candidate.dist, candidate.name) for candidate in found if candidate.major == API[0]}
    kept = [c for c in found if c.major == API[0] or (c.dist, c.name) not in served]
    return tuple(sorted(kept, key=lambda c: (c.name, c.dist, c.major, c.target)))


def judge(candidates: Iterable[Candidate]) -> Iterator[tuple[Candidate, str]]:
    """Yield each candidate with the reason why its name is not its own, or an empty string.

    A name belongs to the distribution called `graftwork-NAME`, or else to the one called `NAME`. Whatever else is
    installed, the owner keeps it: a second claimant can neither take a plugin's place nor take the plugin down.
    """
    by_name = defaultdict(list)
    for candidate in candidates:
        by_name[candidate.name].append(candidate)
    for name, claimants in by_name.items():
        rightful = [c for c in claimants if c.namespace == name and name != CORE]
        owners = [c for c in rightful if _normalise(c.dist) == f"graftwork-{name}"] or rightful
        for candidate in claimants:
            yield candidate, _objection(candidate, owners)


def _objection(candidate: Candidate, owners: list[Candidate]) -> str:
    """Say why `candidate` may not have its name, or nothing."""
    name, dist = candidate.name, candidate.dist
    if name == CORE:
        return f"the namespace {CORE!r} is the core's own"
    if candidate.namespace != name:
        return f"distribution {dist!r} may register the plugin {candidate.namespace!r}, not {name!r}"
    if candidate not in owners:
        return f"the namespace {name!r} belongs to distribution {owners[0].dist!r}, which is installed as well"
    if len(owners) > 1:
        return f"distribution {dist!r} registers the plugin {name!r} more than once"
    return ""


@final
@dataclass(slots=True)
class Blocking:
    """Hold which plugins the user allows and denies, and who said so; the core is always allowed."""

    allowed: frozenset[str] | None = None
    denied: dict[str, str] = field(default_factory=dict)

    def deny(self, name: str, *, why: str) -> None:
        """Block one plugin. Raises OptionError for the core."""
        if name == CORE:
            raise OptionError(f"{why}: the core cannot be blocked; name a plugin, as `graft plugins list` shows them")
        self.denied.setdefault(name, why)

    def read(self, env: Mapping[str, str]) -> list[str]:
        """Take over what the environment says, and return what in it cannot be followed."""
        if (allowed := env.get("GRAFTWORK_PLUGINS")) is not None:
            self.allowed = frozenset(_names(allowed))
        denied = _names(env.get("GRAFTWORK_DISABLE_PLUGINS", ""))
        for name in denied - {CORE}:
            self.deny(name, why="GRAFTWORK_DISABLE_PLUGINS")
        return [f"GRAFTWORK_DISABLE_PLUGINS names {CORE!r}, which cannot be blocked"] if CORE in denied else []

    def reason(self, name: str) -> str:
        """Say who blocked the plugin, or nothing."""
        if name in self.denied:
            return f"blocked by {self.denied[name]}"
        if self.allowed is not None and name not in self.allowed:
            return "not among GRAFTWORK_PLUGINS"
        return ""

    def unknown_names(self, installed: Iterable[str]) -> list[str]:
        """Say which of the names the user gave are not installed, with the nearest ones."""
        installed = set(installed)
        given = dict.fromkeys(sorted((self.allowed or frozenset()) - {CORE}), "GRAFTWORK_PLUGINS") | self.denied
        return [f"{why}: {unknown('plugin', name, installed)}" for name, why in given.items() if name not in installed]


def _names(text: str) -> set[str]:
    """Split a comma-separated list of names."""
    return {name.strip() for name in text.split(",") if name.strip()}
