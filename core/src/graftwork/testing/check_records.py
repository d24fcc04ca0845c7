"""Checks of records: they name what exists, and say what it is."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any, Final

from graftwork.plugins.admission import PREFIX
from graftwork.spec import BlockSpec, ModelSpec, Spec, TaskSpec, TransformSpec
from graftwork.testing.kit import Kit
from graftwork.testing.verdict import Check, FlawError

__all__ = ["CHECKS", "KINDS"]

KINDS: Final = (
    "blocks", "transforms", "sources", "datasets", "models", "losses", "metrics", "callbacks", "baselines", "tasks",
    "exporters", "commands",
)  # fmt: skip


def _imports(kit: Kit, spec: Spec) -> None:
    component = kit.load(spec)
    if isinstance(spec, BlockSpec | TransformSpec | TaskSpec) and component.id != spec.id:
        raise FlawError(
            f"the record {spec.id!r} leads to {component.__name__}, whose id is {component.id!r}",
            fix=f'id: ClassVar[str] = "{spec.id}"',
        )
    if isinstance(component, type) and inspect.isabstract(component):
        missing = ", ".join(sorted(vars(component)["__abstractmethods__"]))
        raise FlawError(f"{component.__name__} is abstract: it has no {missing}", fix=f"define {missing}")


def _summary(kit: Kit, spec: Spec) -> None:
    text = spec.summary
    if text[:1].islower() or text.endswith(".") or text != text.strip():
        fix = "begin with a capital letter, and end without a full stop"
        raise FlawError(f"the summary {text!r} does not read like the others in a list", fix=fix)
    if text.lower().rstrip(".") in (spec.id.lower(), spec.id.partition("/")[2].lower(), "todo", "fixme"):
        raise FlawError(f"the summary {text!r} says nothing the id does not", fix="say what it does")


def _names(kit: Kit, spec: Spec) -> None:
    """Find every id a record refers to."""
    tables = {"accepts": "blocks", "gives": "blocks", "inputs": "blocks", "targets": "blocks", "output": "blocks"}
    for field in fields(spec):
        table = tables.get(field.name, "blocks" if field.name == "blocks" else "")
        value = getattr(spec, field.name)
        for name in (value if isinstance(value, tuple) else (value,)) if table else ():
            if name and name not in kit.host.registries[table]:
                raise FlawError(
                    f"{field.name} names the block {name!r}, which nobody registers", fix="name its full id"
                )
    if isinstance(spec, TaskSpec):
        _defaults(kit, spec)
    if isinstance(spec, ModelSpec) and spec.params_m is not None and spec.params_m <= 0:
        raise FlawError(f"params_m={spec.params_m} of {spec.id!r} is no number of millions", fix="params_m=None")


def _defaults(kit: Kit, spec: TaskSpec) -> None:
    tables = {"model": "models", "loss": "losses", "metrics": "metrics", "baselines": "baselines"}
    for role, value in spec.defaults.items():
        for name in value if isinstance(value, tuple) else (value,):
            if role in tables and name not in kit.host.registries[tables[role]]:
                raise FlawError(f"defaults name {role} {name!r}, which nobody registers", fix="name its full id")


def _twice(kit: Kit) -> None:
    """Ask each registration hook of the entry module once more."""
    module = kit.entry
    hooks: dict[str, Callable[[], Any]] = {
        n: f for n, f in inspect.getmembers(module, callable) if n.startswith(PREFIX)
    }
    for name, hook in hooks.items():
        ids = {record.id for record in hook()}
        before = set(kit.info.records.get(name.removeprefix(PREFIX), ()))
        if ids != before:
            other = ", ".join(sorted(ids ^ before)[:3])
            raise FlawError(f"{name} gives other records when asked again: {other}", fix="return constant records")


def _each(id: str, reason: str, run: Callable[[Kit, Any], None]) -> tuple[Check, ...]:  # noqa: A002 - what it is
    return tuple(Check(id=id, kind=kind, reason=reason, run=run) for kind in KINDS)


CHECKS: Final = (
    Check(id="records-twice", reason="a host may ask again, and expects the same", run=_twice),
    *_each("record-imports", "a record that leads nowhere fails when somebody needs it", _imports),
    *_each("record-summary", "lists show it as it is, beside everybody else's", _summary),
    *_each("record-names", "search by block and task defaults follow these names", _names),
)
