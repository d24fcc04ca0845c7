"""The public names: each list is sorted, complete, lazily resolved, and the same for people and for type checkers."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import graftwork
import graftwork.api
from graftwork._lazy import HOMES, lazy

MODULES = [graftwork, graftwork.api]
FORBIDDEN = ["matplotlib", "numba", "numpy", "pandas", "rich", "sklearn", "torch", "torchmetrics", "torchvision"]

both = pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)


def names_for_type_checkers(module: ModuleType) -> dict[str, str]:
    """Read the names imported under `if TYPE_CHECKING:`, and the module each comes from."""
    tree = ast.parse(inspect.getsource(module))
    block = next(n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    imports = [n for n in block.body if isinstance(n, ast.ImportFrom)]
    assert len(imports) == len(block.body)
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def by_case(name: str) -> tuple[int, str]:
    """Sort as the linter does: constants, then classes, then the rest."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


@both
def test_all_is_sorted_and_without_doubles(module: ModuleType) -> None:
    assert module.__all__ == sorted(set(module.__all__), key=by_case)


@both
def test_type_checkers_see_each_lazy_name_at_its_home(module: ModuleType) -> None:
    lazy_names = {name: HOMES[name] for name in module.__all__ if name in HOMES}
    assert names_for_type_checkers(module) == lazy_names


@both
def test_a_public_name_is_lazy_or_there(module: ModuleType) -> None:
    source = ast.parse(inspect.getsource(module))
    eager = {alias.name for n in source.body if isinstance(n, ast.ImportFrom) for alias in n.names}
    eager |= {t.id for n in source.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)}
    assert {name for name in module.__all__ if name not in HOMES} <= eager


def test_every_lazy_name_is_offered_somewhere() -> None:
    assert set(HOMES) <= {*graftwork.__all__, *graftwork.api.__all__}


@pytest.mark.parametrize("name", sorted(HOMES))
def test_a_lazy_name_is_found_at_its_home_and_is_public_there(name: str) -> None:
    home = importlib.import_module(HOMES[name])
    assert name in home.__all__
    assert vars(home)[name] is getattr(graftwork, name, vars(home)[name])


@both
def test_the_listing_shows_what_is_not_yet_imported(module: ModuleType) -> None:
    assert set(module.__all__) <= set(dir(module))


@both
def test_an_unknown_name_is_refused_with_the_nearest(module: ModuleType) -> None:
    with pytest.raises(
        AttributeError, match=rf"module '{module.__name__}' has no attribute 'Leaner'; did you mean 'Learner'"
    ):
        module.Leaner  # noqa: B018
    with pytest.raises(AttributeError, match=r"no attribute 'zzz'$"):
        module.zzz  # noqa: B018
    assert not hasattr(module, "_private")


def test_a_name_is_not_offered_where_it_is_not_public() -> None:
    assert not hasattr(graftwork.api, "EarlyStopping")
    assert lazy("graftwork", ["UserError"])("UserError") is graftwork.UserError


def test_a_lazy_name_is_imported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(vars(graftwork), "UserError", raising=False)
    first = graftwork.UserError
    assert vars(graftwork)["UserError"] is first


def test_the_version_is_the_distribution_s() -> None:
    assert graftwork.__version__ == importlib.metadata.version("graftwork")


@pytest.mark.parametrize(
    ("statement", "more"),
    [
        ("import graftwork", ["pluggy", "click", "importlib.metadata", "dataclasses"]),
        ("import graftwork.errors", ["pluggy", "click"]),
        ("import graftwork.spec", ["pluggy", "click"]),
        ("import graftwork.api", ["click"]),
        ("import graftwork.plugins; graftwork.plugins.get_host()", ["click"]),
        ("import graftwork.builtin", ["click"]),
        ("import graftwork.cli.main", []),
    ],
)
def test_an_import_brings_in_nothing_heavy(statement: str, more: list[str]) -> None:
    # -S keeps the editable installs' own finder, which imports a good deal, out of the picture.
    path = f"import sys; sys.path[:0] = {sys.path[1:]!r}; before = set(sys.modules); "
    listing = "; print(*(set(sys.modules) - before))"
    found = subprocess.run([sys.executable, "-S", "-c", path + statement + listing], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert not {*FORBIDDEN, *more} & set(found.stdout.split())


def test_the_package_is_typed() -> None:
    assert (Path(graftwork.__file__).parent / "py.typed").is_file()
