"""The conformance kit: one battery of checks for everybody's plugins.

`graft plugins check NAME` and `pytest --graftwork-plugin=NAME` run it; a plugin's own tests take it in by one line,
`test_conformance = conformance_tests("NAME")`. What the kit cannot guess, such as a small source for a task, a plugin
hands in as `EXAMPLES` in the module `conformance` of its package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

__all__ = ["Examples", "Outcome", "TaskExample", "check_plugin", "conformance_tests"]

if TYPE_CHECKING:
    from graftwork.testing.battery import check_plugin
    from graftwork.testing.examples import Examples, TaskExample
    from graftwork.testing.pytest_plugin import conformance_tests
    from graftwork.testing.verdict import Outcome

_HOMES: Final = {
    "Examples": "examples",
    "Outcome": "verdict",
    "TaskExample": "examples",
    "check_plugin": "battery",
    "conformance_tests": "pytest_plugin",
}


def __getattr__(name: str) -> object:
    """Import a public name on first use: every pytest run on a machine imports this package."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
