"""Which plugins are installed, which of them rightfully own their name, and which the user has blocked.

Nothing of a plugin is imported here.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from typing import Final, final

from graftwork.errors import OptionError, unknown
from graftwork.spec import API, claimed_by, normalise

__all__ = ["CORE", "GROUP", "Blocking", "Candidate", "find_installed", "judge"]

CORE: Final = "core"
GROUP: Final = f"graftwork.plugins.v{API[0]}"
_FAMILY = re.compile(r"graftwork\.plugins\.v(\d+)\Z")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Name one entry point: what it says it is, where its module lies, and which distribution brings it.

    `fault` says why the distribution's own files cannot be read, as after an uninstall that was cut short.
    """

    name: str
    target: str
    dist: str
    version: str = ""
    major: int = API[0]
    fault: str = ""

    @property
    def namespace(self) -> str:
        """The only namespace the distribution may claim: its own name without `graftwork-`."""
        return claimed_by(self.dist) if self.dist else self.name


def find_installed() -> tuple[Candidate, ...]:
    """Read the entry points of every installed distribution, those of other interface versions included.

    `importlib.metadata.entry_points` would do, but one unreadable distribution anywhere makes it raise for all.
    """
    found: dict[str, list[Candidate]] = {}
    for dist in metadata.distributions():
        candidates = list(_read(dist))
        # Of several copies on the path the first is the one that would be imported.
        for name in dict.fromkeys(normalise(candidate.dist) for candidate in candidates):
            found.setdefault(name, candidates)
    return _prefer_own_major(candidate for candidates in found.values() for candidate in candidates)


def _read(dist: metadata.Distribution) -> Iterator[Candidate]:
    """Yield what one distribution offers to hosts like this one."""
    try:
        # Most distributions have nothing to do with this: looking at the text is much cheaper than parsing it.
        if "graftwork.plugins.v" not in (dist.read_text("entry_points.txt") or ""):
            return
        points = [(point, match) for point in dist.entry_points if (match := _FAMILY.match(point.group))]
    except Exception as error:
        yield _faulty(dist, f"its entry_points.txt cannot be read: {type(error).__name__}: {error}")
        return
    for point, match in points:
        name, version, fault = _identify(dist)
        yield Candidate(
            name=point.name, target=point.value, dist=name, version=version, major=int(match[1]), fault=fault
        )


def _identify(dist: metadata.Distribution) -> tuple[str, str, str]:
    """Return a distribution's name and version, or what is wrong with them."""
    try:
        meta = dist.metadata
        if "Name" in meta and "Version" in meta:
            return meta["Name"], meta["Version"], ""
        problem = "it says no name and version"
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    return "", "", f"its metadata cannot be read: {problem}"


def _faulty(dist: metadata.Distribution, fault: str) -> Candidate:
    name, version, _ = _identify(dist)
    candidate = Candidate(name="", target="", dist=name or "unreadable", version=version, fault=fault)
    return replace(candidate, name=candidate.namespace)


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
        if candidate.fault:
            yield candidate, ""
        else:
            by_name[candidate.name].append(candidate)
    for name, claimants in by_name.items():
        rightful = [c for c in claimants if c.namespace == name and name != CORE]
        owners = [c for c in rightful if normalise(c.dist) == f"graftwork-{name}"] or rightful
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
