"""The floors of docs/architecture.md: a room imports from its own floor or below, a plugin from public names."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = ROOT / "core" / "src" / "graftwork"
FOLDERS = [*ROOT.glob("*_plugin"), ROOT / "plugins" / "example", ROOT / "plugins" / "segmentation"]
PLUGIN_SOURCES = sorted(p for folder in FOLDERS for p in folder.glob("src/*") if (p / "__init__.py").exists())
FLOORS = [
    {"errors", "deprecations", "labels", "markup", "page", "seeds", "_lazy"},
    {"configurable", "block", "transform", "plan", "spec", "container", "weights"},
    {"plugins", "builtin"},
    {"items", "split", "batch", "processes", "dataloader", "datablock", "figure", "show", "rows"},
    {"events", "callbacks", "metric", "loss", "objective", "optim", "schedule", "runtime", "model", "prediction"}
    | {"accumulate", "loop", "plots", "engine", "optimizers", "sharding"},
    {"learner", "lr_find", "results", "baseline", "interpret", "artifact", "predictor", "resume", "launcher", "tta"}
    | {"profiler"},
    {"task", "run", "job", "report", "doctor", "cli", "testing", "notebook"},
]
STANDS_ON = {"graftwork_collab": ("graftwork_tabular",), "graftwork_segmentation": ("graftwork_vision",)}
"""Plugins on plugins, through the public names at their top."""
# They only name what lives elsewhere, lazily.
EXEMPT = {"__init__", "api", "__main__"}
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
MAX_LINES = 500


def imports(path: Path) -> Iterator[str]:
    """Give every module a file imports, also inside functions, but not those only a type checker sees."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    unseen = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for part in node.body
        for inner in ast.walk(part)
    }
    for node in ast.walk(tree):
        if id(node) in unseen:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def room(path: Path) -> str:
    return path.relative_to(CORE).with_suffix("").parts[0]


@pytest.mark.parametrize("path", sorted(CORE.rglob("*.py")), ids=lambda p: str(p.relative_to(CORE)))
def test_a_room_imports_from_its_own_floor_or_below(path: Path) -> None:
    here = room(path)
    if here in EXEMPT:
        return
    assert here in FLOOR_OF, f"{here} is on no floor yet: put it on one here and in docs/architecture.md"
    above = [
        name
        for name in imports(path)
        if name.startswith("graftwork.") and FLOOR_OF.get(name.split(".")[1], 0) > FLOOR_OF[here]
    ]
    assert not above, f"{here} (floor {FLOOR_OF[here]}) imports from above: {above}"


@pytest.mark.parametrize("package", PLUGIN_SOURCES, ids=lambda p: p.name)
def test_first_party_plugins_use_public_names_only(package: Path) -> None:
    public = {"graftwork", "graftwork.api", "graftwork.testing", package.name, *STANDS_ON.get(package.name, ())}
    for path in package.rglob("*.py"):
        private = [n for n in imports(path) if n.split(".")[0].startswith("graftwork") and not _own(n, package, public)]
        assert not private, f"{path.relative_to(ROOT)} imports {private}; what a plugin needs is in graftwork.api"


def _own(name: str, package: Path, public: set[str]) -> bool:
    return name in public or name.startswith(package.name + ".")


def test_only_the_host_touches_pluggy_hooks() -> None:
    users = [p for p in CORE.rglob("*.py") if ".hook." in p.read_text(encoding="utf-8")]
    assert {p.relative_to(CORE).parts[0] for p in users} <= {"plugins"}


@pytest.mark.parametrize(
    "path", [*sorted(CORE.rglob("*.py")), *(f for p in PLUGIN_SOURCES for f in sorted(p.rglob("*.py")))]
)
def test_no_file_outgrows_its_room(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= MAX_LINES, f"{path.relative_to(ROOT)} has {lines} lines: it is two rooms"


@pytest.mark.parametrize(
    "path", [*sorted(CORE.rglob("*.py")), *(f for p in PLUGIN_SOURCES for f in sorted(p.rglob("*.py")))]
)
def test_no_pickle_and_no_unsafe_load(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {name.split(".")[0] for name in imports(path)}
    assert not names & {"pickle", "cloudpickle", "dill", "joblib", "shelve"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            assert "weights_only=True" in ast.unparse(node), f"{path.name}: torch.load without weights_only=True"
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in ("torch.save", "eval", "exec"), f"{path.name}: {ast.unparse(node)}"
