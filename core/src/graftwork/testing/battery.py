"""The battery: all checks, in the order in which they help most, and how they are run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from graftwork.testing import (
    check_baselines,
    check_blocks,
    check_callbacks,
    check_imports,
    check_measures,
    check_models,
    check_packaging,
    check_records,
    check_tasks,
    check_transforms,
)
from graftwork.testing.examples import Examples
from graftwork.testing.kit import Kit
from graftwork.testing.verdict import Case, Check, Outcome, judge

__all__ = ["CHECKS", "cases", "check_plugin", "run"]

CHECKS: Final[tuple[Check, ...]] = (
    *check_packaging.CHECKS,
    *check_imports.CHECKS,
    *check_records.CHECKS,
    *check_blocks.CHECKS,
    *check_transforms.CHECKS,
    *check_measures.CHECKS,
    *check_models.CHECKS,
    *check_baselines.CHECKS,
    *check_callbacks.CHECKS,
    *check_tasks.CHECKS,
)


def cases(kit: Kit) -> Iterator[Case]:
    """Iterate the checks of the plugin as a whole, and of each of its components."""
    for check in CHECKS:
        if not check.kind:
            yield Case(check=check)
        elif check.id.startswith("record-"):
            # Records cost nothing, so that none is left out of a sample.
            yield from (Case(check=check, component=full) for full in kit.info.records.get(check.kind, ()))
        else:
            yield from (Case(check=check, component=full) for full in kit.ids(check.kind))


def run(kit: Kit, expected_failures: Mapping[str, str] | None = None) -> Iterator[Outcome]:
    """Run every case, and report announced failures that name no case."""
    expected = {**kit.examples.expected_failures, **(expected_failures or {})}
    named: set[str] = set()
    for case in cases(kit):
        named |= {case.id, case.check.id}
        yield judge(case, kit, expected)
    for name in (expected.keys() | kit.examples.left_out.keys()) - named:
        fix = f"take {name!r} out, or write it as a report does"
        yield Outcome(id=name, state="unexpected", reason="a slip here hides a fault", problem="no such check", fix=fix)


def check_plugin(
    name: str,
    *,
    expected_failures: Mapping[str, str] | None = None,
    examples: Examples | None = None,
    each: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Run the battery on an installed plugin; `each` hears of every outcome at once. Raise UnknownName for no plugin.

    `expected_failures` maps check ids to reasons, beside those the plugin's own EXAMPLES announce.
    """
    kit, outcomes = Kit(name, examples=examples), []
    for outcome in run(kit, expected_failures):
        outcomes.append(outcome)
        if each is not None:
            each(outcome)
    return outcomes
