"""Checks of what importing a plugin costs and changes, each in a fresh process."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Any, Final

from graftwork.plugins.admission import SLOW_MS
from graftwork.plugins.discovery import CORE
from graftwork.testing.child import ask
from graftwork.testing.kit import Kit
from graftwork.testing.verdict import Check, FlawError, NothingToCheckError

__all__ = ["CHECKS"]

LAZY = "name components in records by 'module:attr', and import nothing but the standard library and graftwork.api"


def _entry(kit: Kit) -> dict[str, Any]:
    if "entry" not in kit.seen:
        kit.seen["entry"] = _answered(ask("entry", target=kit.info.target))
    return kit.seen["entry"]


def _answered(answer: dict[str, Any]) -> dict[str, Any]:
    if "error" in answer:
        raise FlawError(f"it cannot be imported in a process of its own: {answer['error'][0]}", fix="mend the import")
    return answer


def _light(kit: Kit) -> None:
    found = _entry(kit)
    if found["foreign"]:
        raise FlawError(f"its entry module imports {', '.join(found['foreign'])}", fix=LAZY)


def _quick(kit: Kit) -> None:
    # A busy machine makes one measurement slow, and seldom three.
    for _ in range(3):
        ms = _entry(kit)["ms"]
        if ms <= SLOW_MS:
            return
        del kit.seen["entry"]
    raise FlawError(f"its entry module takes {ms:.0f} ms to import; {SLOW_MS:.0f} are allowed", fix=LAZY)


def _quiet(kit: Kit) -> None:
    found = _entry(kit)
    said = (found["out"] + found["err"]).strip()
    if said:
        raise FlawError(f"importing it prints {said[:80]!r}", fix="print in commands only; use logging elsewhere")


def _neutral(kit: Kit) -> None:
    _unchanged(_entry(kit)["changed"])


def _unchanged(changed: list[str]) -> None:
    if changed:
        raise FlawError(f"importing it changes {', '.join(changed)}", fix="change it within a call, and put it back")


def _components(kit: Kit) -> None:
    _unchanged(_whole(kit)["changed"])


def _whole(kit: Kit) -> dict[str, Any]:
    if "whole" not in kit.seen:
        specs = [kit.spec(kind, full) for kind, ids in kit.info.records.items() if kind != "docs" for full in ids]
        present = [spec for spec in specs if all(map(find_spec, spec.requires))]
        modules = sorted({kit.info.target.strip(), *(spec.target.partition(":")[0] for spec in present)})
        answer = ask("whole", libraries=_libraries(kit), modules=modules, train=kit.name != CORE)
        kit.seen["whole"] = _answered(answer)
    return kit.seen["whole"]


def _libraries(kit: Kit) -> list[str]:
    """Name the large libraries the plugin requires, as they are imported."""
    required = kit.dist.requires or [] if kit.info.dist else []
    names = {re.split(r"[^\w.-]", line, maxsplit=1)[0].lower() for line in required}
    spelt = {"scikit-learn": "sklearn", "pillow": "PIL"}
    return ["torch", "matplotlib.figure", *sorted(spelt.get(name, name.replace("-", "_")) for name in names)]


def _same_run(kit: Kit) -> None:
    if kit.name == CORE:
        raise NothingToCheckError("this is about what is installed beside the core")
    found = _whole(kit)
    if found["alone"] != found["beside"]:
        raise FlawError(
            "a run of the core gives other weights or figures once the plugin's modules are imported",
            fix="patch nothing, seed nothing and set nothing global at import",
        )


CHECKS: Final = (
    Check(id="import-light", reason="every command imports every plugin's entry module", run=_light),
    Check(id="import-quick", reason="every command waits for every plugin's entry module", run=_quick),
    Check(id="import-quiet", reason="standard output belongs to the command", run=_quiet),
    Check(id="import-neutral", reason="what is global belongs to the program, not to a plugin", run=_neutral),
    Check(id="components-neutral", reason="what is global belongs to the program, not to a plugin", run=_components),
    Check(id="neutral-run", reason="installing a plugin changes no number of an existing run", run=_same_run),
)
