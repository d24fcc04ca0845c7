"""A look at the surroundings: versions, devices, plugins, and the extras of every distribution that brings one."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any, Final, Literal, final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from graftwork.plugins import Host, PluginInfo, get_host
from graftwork.spec import Check

__all__ = ["Diagnosis", "Extra", "Finding", "diagnose"]

_WEIGHT: Final = ("fail", "warn", "ok")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Say what was looked at and what was found; "said" is what a plugin's own doctor found."""

    topic: Literal["plugin", "requirements", "extra", "device", "said"]
    about: str
    check: Check


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Extra:
    """Describe an extra of a distribution; `missing` are the requirements of it that are not met."""

    distribution: str
    name: str
    state: Literal["present", "absent", "outdated"]
    enables: str
    missing: tuple[str, ...]
    install: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Hold what `diagnose` found; `findings` begin with what is worst."""

    findings: tuple[Finding, ...]
    versions: Mapping[str, str]
    devices: Mapping[str, str]
    plugins: tuple[PluginInfo, ...]
    extras: tuple[Extra, ...]

    @property
    def problems(self) -> tuple[Finding, ...]:
        """Return what should be seen to, the worst first."""
        return tuple(finding for finding in self.findings if finding.check.state != "ok")

    @property
    def is_well(self) -> bool:
        """Say whether nothing failed."""
        return all(finding.check.state != "fail" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "ok": self.is_well,
            "findings": [
                {"topic": found.topic, "about": found.about, **asdict(found.check)} for found in self.findings
            ],
            "versions": dict(self.versions),
            "devices": dict(self.devices),
            "plugins": {info.handle: info.state for info in self.plugins},
            "extras": [asdict(extra) for extra in self.extras],
        }


def diagnose(host: Host | None = None) -> Diagnosis:
    """Look at everything, changing nothing. torch is imported; the components of plugins are not."""
    host = host or get_host()
    infos = host.plugins()
    owners: dict[str, PluginInfo] = {
        canonicalize_name(info.dist): info for info in infos if info.dist and not _is_faulty(info)
    }
    devices, troubles = _devices()
    extras = tuple(extra for info in owners.values() for extra in _extras(info))
    said = [Finding(topic="said", about=name, check=c) for name, checks in host.doctor().items() for c in checks]
    findings = [*map(_verdict, infos), *_unmet(owners), *troubles, *map(_outdated, extras), *said]
    return Diagnosis(
        findings=tuple(sorted(findings, key=lambda found: _WEIGHT.index(found.check.state))),
        versions=_versions(owners),
        devices=devices,
        plugins=infos,
        extras=extras,
    )


# --- plugins ----------------------------------------------------------------------------------------------------------


def _verdict(info: PluginInfo) -> Finding:
    """Judge a plugin by its state, and by what loading it costs."""
    return Finding(topic="plugin", about=info.handle, check=_judged(info))


def _judged(info: PluginInfo) -> Check:
    reason = " ".join(info.reason.split())
    if info.state == "blocked":
        return Check(state="ok", message=f"not loaded: {reason}", fix=info.fix)
    if info.state != "ok":
        return Check(state="fail", message=f"{info.state}: {reason}", fix=info.fix)
    if info.heavy or info.slow:
        cost = f"imports {', '.join(info.heavy)}" if info.heavy else f"takes {info.ms:.0f} ms"
        fix = "its author should import in the components, not in the entry module"
        return Check(state="warn", message=f"{cost} when it is loaded, in every command", fix=fix)
    return Check(state="ok", message=f"{info.dist} {info.version}".strip() or "registered by a program")


def _is_faulty(info: PluginInfo) -> bool:
    """Say whether a distribution's metadata cannot be read; its plugin's state says why."""
    try:
        return metadata.metadata(info.dist)["Name"] is None
    except (metadata.PackageNotFoundError, KeyError, OSError, ValueError):
        return True


# --- requirements -----------------------------------------------------------------------------------------------------


def _requirements(dist: str) -> Iterator[Requirement]:
    """Yield what a distribution requires, under any circumstances; what cannot be parsed is pip's to refuse."""
    for line in metadata.requires(dist) or ():
        try:
            yield Requirement(line)
        except InvalidRequirement:
            continue


def _needed(dist: str, extra: str = "") -> Iterator[Requirement]:
    """Yield what is required here: always, or in addition because of an extra."""
    for requirement in _requirements(dist):
        marker = requirement.marker
        always = marker is None or marker.evaluate({"extra": ""})
        if always != bool(extra) and (always or (marker is not None and marker.evaluate({"extra": extra}))):
            yield requirement


def _lack(requirement: Requirement, seen: frozenset[str] = frozenset()) -> Iterator[tuple[str, bool]]:
    """Yield every requirement that is not met, with whether another version is there; extras of it are looked into."""
    found = _version(requirement.name)
    if not found or not requirement.specifier.contains(found, prereleases=True):
        yield f"{requirement.name}{requirement.specifier}" + (f" (found {found})" if found else ""), bool(found)
        return
    for extra in sorted(requirement.extras):
        if (key := _key(requirement.name, extra)) not in seen:
            for inner in _needed(requirement.name, extra):
                yield from _lack(inner, seen | {key})


def _key(dist: str, extra: str) -> str:
    return f"{canonicalize_name(dist)}[{extra}]"


def _version(dist: str) -> str:
    try:
        return metadata.version(dist)
    except metadata.PackageNotFoundError:
        return ""


def _unmet(owners: Mapping[str, PluginInfo]) -> Iterator[Finding]:
    """Find requirements of installed plugins that are not met."""
    for info in owners.values():
        lacking = [text for requirement in _needed(info.dist) for text, _ in _lack(requirement)]
        if lacking:
            check = Check(state="fail", message=f"needs {', '.join(lacking)}", fix=f"pip install --upgrade {info.dist}")
            yield Finding(topic="requirements", about=info.dist, check=check)


def _extras(info: PluginInfo) -> Iterator[Extra]:
    """Describe the extras of a distribution: from its own metadata, and in its plugin's words."""
    said = info.plugin.extras if info.plugin else {}
    for name in metadata.metadata(info.dist).get_all("Provides-Extra") or ():
        needed = list(_needed(info.dist, name))
        seen = frozenset({_key(info.dist, name)})
        lacking = [pair for requirement in needed for pair in _lack(requirement, seen)]
        outdated = bool(lacking) and all(there for _, there in lacking)
        names = ", ".join(requirement.name for requirement in needed)
        yield Extra(
            distribution=info.dist,
            name=name,
            state="outdated" if outdated else "absent" if lacking else "present",
            enables=said.get(name, "") or f"what comes with {names or 'nothing more'}",
            missing=tuple(text for text, _ in lacking),
            install=f"pip install '{info.dist}[{name}]'",
        )


def _outdated(extra: Extra) -> Finding:
    """Judge an extra: to be without is no problem, to have it in another version is one."""
    check = Check(state="ok", message=extra.state)
    if extra.state == "outdated":
        check = Check(state="warn", message=f"needs {', '.join(extra.missing)}", fix=extra.install)
    return Finding(topic="extra", about=f"{extra.distribution}[{extra.name}]", check=check)


def _versions(owners: Mapping[str, PluginInfo]) -> dict[str, str]:
    """Return the versions of Python, of every plugin's distribution, and of what these require."""
    needed = {canonicalize_name(need.name): need.name for info in owners.values() for need in _needed(info.dist)}
    names = [*(info.dist for info in owners.values()), *(needed[key] for key in sorted(needed.keys() - owners.keys()))]
    return {
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        **{name: _version(name) or "not installed" for name in names},
    }


# --- devices ----------------------------------------------------------------------------------------------------------


def _devices() -> tuple[dict[str, str], list[Finding]]:
    """Return the devices torch can compute on, and what keeps it from one that is there."""
    try:
        import torch

        from graftwork.runtime import native_bf16
    except Exception as error:
        message = f"cannot be imported: {type(error).__name__}: {error}"
        check = Check(state="fail", message=message, fix="pip install --force-reinstall torch")
        return {}, [Finding(topic="device", about="torch", check=check)]
    cpu = torch.device("cpu")
    bf16 = "bf16 natively" if native_bf16(cpu) else "bf16 only emulated"
    capability = torch.backends.cpu.get_cpu_capability()
    found = {"cpu": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {capability}, {bf16}"}
    troubles = []
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            found[f"cuda:{number}"] = _card(number)
    elif torch.version.cuda is None:
        found["cuda"] = "none: this torch is built without CUDA"
    else:
        found["cuda"] = f"none: torch is built for CUDA {torch.version.cuda}, and finds no device"
        if os.path.exists("/dev/nvidia0"):  # noqa: PTH110 - a device, no file
            message = f"there is an NVIDIA device that torch cannot use (built for CUDA {torch.version.cuda})"
            fix = "update the driver, or install a torch built for it: see pytorch.org"
            troubles.append(Finding(topic="device", about="cuda", check=Check(state="warn", message=message, fix=fix)))
    found["mps"] = "available" if torch.backends.mps.is_available() else "none"
    return found, troubles


def _card(number: int) -> str:
    """Describe one CUDA device, or a ROCm one, which torch calls the same."""
    import torch

    from graftwork.runtime import native_bf16

    facts = torch.cuda.get_device_properties(number)
    bf16 = "bf16 natively" if native_bf16(torch.device("cuda", number)) else "no native bf16"
    return f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB, compute {facts.major}.{facts.minor}, {bf16}"
