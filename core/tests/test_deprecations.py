"""What is on its way out says so, once, with the version that removes it; what is overdue fails here."""

from __future__ import annotations

import ast
import warnings
from pathlib import Path

import pytest

import graftwork
import graftwork.deprecations
from graftwork.deprecations import DEPRECATIONS, Deprecation, GraftworkDeprecation, moved, warn_deprecated
from graftwork.learner import Learner

TABLE = {
    "graftwork.Trainer": Deprecation(since="0.2", removed="0.4", use="Learner", moved_to="graftwork.learner:Learner"),
    "graftwork.Learner.fit(cycles)": Deprecation(since="0.9", removed="0.11", use="epochs"),
}


def version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def test_nothing_is_overdue() -> None:
    overdue = [what for what, entry in DEPRECATIONS.items() if version(entry.removed) <= version(graftwork.__version__)]
    assert not overdue, f"this is version {graftwork.__version__}: remove {overdue}, and their lines in the table"


def test_what_moved_is_still_there_and_no_longer_public() -> None:
    from importlib import import_module

    for what, entry in DEPRECATIONS.items():
        module, _, name = what.rpartition(".")
        if entry.moved_to:
            path, _, attribute = entry.moved_to.partition(":")
            assert hasattr(import_module(path), attribute), what
            assert name not in import_module(module).__all__


def test_the_warning_names_the_replacement_and_the_version_that_removes() -> None:
    def fit(**options: object) -> None:
        if "cycles" in options:
            warn_deprecated("graftwork.Learner.fit(cycles)", table=TABLE)

    said = r"fit\(cycles\) is deprecated since 0.9 and will be removed in 0.11; use epochs"
    with pytest.warns(GraftworkDeprecation, match=said) as caught:
        fit(cycles=3)
    assert caught[0].filename == __file__
    assert issubclass(GraftworkDeprecation, FutureWarning), "a DeprecationWarning is not shown to those it concerns"


def test_a_public_name_is_found_where_it_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graftwork.deprecations.moved, "__kwdefaults__", {"table": TABLE})
    with pytest.warns(
        GraftworkDeprecation, match=r"graftwork.Trainer is deprecated .* removed in 0.4; use Learner"
    ) as w:
        found = graftwork.Trainer
    assert found is Learner
    assert w[0].filename == __file__
    with pytest.warns(GraftworkDeprecation):
        from graftwork import Trainer
    assert Trainer is Learner
    assert "Trainer" not in dir(graftwork)


def test_what_is_not_in_the_table_was_never_there() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert moved("graftwork", "Trainer") == ""
        assert moved("graftwork", "Learner.fit(cycles)", table=TABLE) == "", "an argument has no place of its own"
    with pytest.raises(KeyError):
        warn_deprecated("graftwork.nothing", table=TABLE)


def test_a_removal_comes_after_the_deprecation() -> None:
    with pytest.raises(ValueError, match="the removal must come later"):
        Deprecation(since="0.10", removed="0.9", use="x")
    Deprecation(since="0.9", removed="0.10", use="x")


def test_nothing_is_deprecated_anywhere_else() -> None:
    package = Path(graftwork.__file__).parent
    for path in package.rglob("*.py"):
        names = {node.id for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Name)}
        if path.name != "deprecations.py":
            assert not names & {"DeprecationWarning", "PendingDeprecationWarning"}, path.name
            assert "FutureWarning" not in names, path.name
