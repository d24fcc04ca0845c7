"""`pytest --graftwork-plugin=NAME`, and the one line that takes the battery into a plugin's own tests.

pytest imports this module in every run on a machine where graftwork is installed, so that it imports nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from graftwork.testing.kit import Kit
    from graftwork.testing.verdict import Case

__all__ = ["conformance_tests", "pytest_addoption", "pytest_collection_modifyitems"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    group = parser.getgroup("graftwork")
    group.addoption(
        "--graftwork-plugin",
        action="append",
        default=[],
        metavar="NAME",
        help="Run graftwork's conformance checks on an installed plugin; may be given several times.",
    )


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the checks of the plugins asked for."""
    for name in config.getoption("--graftwork-plugin"):
        from graftwork.testing.battery import cases
        from graftwork.testing.kit import Kit

        kit = Kit(name)
        items.extend(_Item.of(session, kit, case) for case in cases(kit))


class _Item(pytest.Item):
    """Be one check."""

    kit: Kit
    case: Case

    @classmethod
    def of(cls, session: pytest.Session, kit: Kit, case: Case) -> pytest.Item:
        """Make an item below the session."""
        item: _Item = cls.from_parent(session, name=case.id)
        item.kit, item.case = kit, case
        return item

    def runtest(self) -> None:
        """Run the check."""
        _report(self.kit, self.case, {})

    def reportinfo(self) -> tuple[str, int | None, str]:
        """Say which plugin this is about."""
        return self.kit.name, None, f"{self.kit.name}: {self.case.id}"


def _report(kit: Kit, case: Case, expected: Mapping[str, str]) -> None:
    """Turn an outcome into pytest's own."""
    from graftwork.testing.verdict import judge

    outcome = judge(case, kit, {**kit.examples.expected_failures, **expected})
    if outcome.is_fault:
        pytest.fail(str(outcome), pytrace=False)
    if outcome.state == "expected":
        pytest.xfail(outcome.problem)
    if outcome.state == "skipped":
        pytest.skip(outcome.problem)


def conformance_tests(name: str, *, expected_failures: Mapping[str, str] | None = None) -> Callable[..., Any]:
    """Return a test function that runs every check: `test_conformance = conformance_tests("acme")`.

    `expected_failures` maps check ids to reasons; one that passes after all fails the test.
    """
    from graftwork.testing.battery import cases
    from graftwork.testing.kit import Kit

    kit, expected = Kit(name), dict(expected_failures or {})
    found = list(cases(kit))

    @pytest.mark.parametrize("case", [*found, None], ids=[*(case.id for case in found), "expected-failures"])
    def test_conformance(case: Case | None) -> None:
        if case is not None:
            _report(kit, case, expected)
            return
        known = {c.id for c in found} | {c.check.id for c in found}
        given = kit.examples
        unknown = (given.expected_failures.keys() | given.left_out.keys() | expected.keys()) - known
        assert not unknown, f"expected_failures name checks that do not exist: {sorted(unknown)}"

    return test_conformance
