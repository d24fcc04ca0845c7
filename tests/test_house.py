"""What the repository as a whole promises."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = {".py", ".md", ".toml", ".txt", ".cfg", ".yml", ".yaml", ".json", ".ipynb", ".svg", ""}


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no git checkout, so there is no list of tracked files")
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def test_constraints_are_exact_sorted_versions() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert lines == sorted(lines)
    assert all(re.fullmatch(r"[a-z0-9.-]+==[0-9a-z.]+", line) for line in lines)


def test_every_dependency_has_a_constraint() -> None:
    import tomllib

    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()}
    for project in [
        ROOT / "pyproject.toml",
        *ROOT.glob("*/pyproject.toml"),
        *ROOT.glob("plugins/example/pyproject.toml"),
    ]:
        table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        extras = [d for several in table.get("optional-dependencies", {}).values() for d in several]
        for dependency in [*table.get("dependencies", []), *extras]:
            name = re.split(r"[<>=!~\[; ]", dependency)[0].lower()
            # torchtext goes with torch 2.3 alone: `make test-torchtext` gives it an environment of its own.
            known = name in pinned or name.startswith("graftwork") or name == "torchtext"
            assert known, f"{project.parent.name}: {name} is in no constraint"


def test_distributions_are_complete() -> None:
    for project in [ROOT / "core", *ROOT.glob("*_plugin"), ROOT / "plugins" / "example"]:
        assert (project / "README.md").stat().st_size > 200, f"{project.name} has no README"
        assert list(project.glob("src/*/py.typed")), f"{project.name} has no py.typed"
        assert list(project.glob("tests/test_*.py")), f"{project.name} has no tests"


def test_nothing_of_one_machine_is_committed() -> None:
    forbidden = re.compile(r"pythonhosted|registry\.npmjs|deb\.debian|(?<![\w.])/(?:home|Users|root)/[a-z]")
    for path in tracked():
        if path.suffix in TEXT and path.name != Path(__file__).name:
            found = forbidden.search(path.read_text(encoding="utf-8"))
            assert not found, f"{path.relative_to(ROOT)}: {found.group(0) if found else ''}"


def test_nothing_large_is_committed() -> None:
    for path in tracked():
        assert path.stat().st_size < 500_000, f"{path.relative_to(ROOT)} is large; data and weights stay outside"
