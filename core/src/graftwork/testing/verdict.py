"""What a check is, how it says that something is wrong, and what becomes of it."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

from graftwork.errors import GraftworkError

if TYPE_CHECKING:
    from graftwork.testing.kit import Kit

__all__ = ["Case", "Check", "FlawError", "NothingToCheckError", "Outcome", "judge"]

State = Literal["passed", "failed", "skipped", "expected", "unexpected"]


@final
class FlawError(GraftworkError):
    """Say what is wrong with a plugin, and the line that mends it."""

    def __init__(self, problem: str, *, fix: str) -> None:
        super().__init__(problem)
        self.fix = fix


@final
class NothingToCheckError(GraftworkError):
    """Say why a check does not apply."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Be one thing that is checked: of the plugin as a whole (`kind` is empty), or of each record of a kind."""

    id: str
    kind: str = ""
    reason: str
    run: Callable[..., None]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Be a check of one component."""

    check: Check
    component: str = ""

    @property
    def id(self) -> str:
        """Return "check" or "check[component]"."""
        return f"{self.check.id}[{self.component}]" if self.component else self.check.id


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Say what became of a case. "expected" is a failure that was announced, "unexpected" a pass that was not."""

    id: str
    state: State
    reason: str
    problem: str = ""
    fix: str = ""

    @property
    def is_fault(self) -> bool:
        """Say whether the plugin does not conform."""
        return self.state in ("failed", "unexpected")

    def __str__(self) -> str:
        """Say all of it: what is wrong, why it matters and what mends it."""
        lines = [f"{self.id}: {self.problem}", f"  why it matters: {self.reason}"]
        return "\n".join([*lines, *([f"  to mend it: {self.fix}"] if self.fix else [])])

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def judge(case: Case, kit: Kit, expected: Mapping[str, str]) -> Outcome:
    """Run a case and compare with what was announced."""
    if case.id in kit.examples.left_out:
        why = f"left out: {kit.examples.left_out[case.id]}"
        return Outcome(id=case.id, state="skipped", reason=case.check.reason, problem=why)
    state, problem, fix = _run(case, kit)
    announced = expected.get(case.id, expected.get(case.check.id))
    if announced is not None and state == "failed":
        return Outcome(id=case.id, state="expected", reason=case.check.reason, problem=f"{problem} ({announced})")
    if case.id in expected and state == "passed":
        problem = f"it passes, and was expected to fail: {announced}"
        fix = f"take {case.id!r} out of expected_failures"
        return Outcome(id=case.id, state="unexpected", reason=case.check.reason, problem=problem, fix=fix)
    return Outcome(id=case.id, state=state, reason=case.check.reason, problem=problem, fix=fix)


def _run(case: Case, kit: Kit) -> tuple[State, str, str]:
    arguments = [kit.spec(case.check.kind, case.component)] if case.component else []
    try:
        case.check.run(kit, *arguments)
    except NothingToCheckError as why:
        return "skipped", str(why), ""
    except FlawError as flaw:
        return "failed", str(flaw), flaw.fix
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return "failed", f"{type(error).__name__}: {error}", f"it was raised {_place(error)}"
    return "passed", "", ""


def _place(error: BaseException) -> str:
    """Say where an error was raised, by the last frames outside this kit."""
    here = Path(__file__).parent
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).parent != here]
    return " ← ".join(f"in {f.name} ({Path(f.filename).name}:{f.lineno})" for f in reversed(frames[-3:])) or "here"
