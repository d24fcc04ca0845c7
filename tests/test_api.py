"""The public interface is what tests/api_snapshot.txt says, and plugins built for an older one of it still load."""

from __future__ import annotations

import difflib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent
SCRIPT = HERE / "api_snapshot.py"
PROBES = HERE.parent / "plugins" / "probes"
HOW_TO = """{what} changed:
{difference}
A line with - is gone or has changed, which breaks users; a line with + is new. What may change when is in
docs/api-policy.md.
If it is meant, run

    python tests/api_snapshot.py --write

commit tests/api_snapshot.txt, and say it in CHANGELOG.md."""


def sections(text: str) -> dict[str, list[str]]:
    parts = [part.splitlines() for part in text.removeprefix("# ").split("\n# ")]
    return {lines[0]: [line for line in lines[1:] if line] for lines in parts}


SAVED = sections((HERE / "api_snapshot.txt").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def present() -> dict[str, list[str]]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GRAFTWORK_")}
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, encoding="utf-8", env=kept, check=False)
    assert done.returncode == 0, done.stderr
    return sections(done.stdout)


@pytest.mark.parametrize("what", SAVED)
def test_the_interface_is_the_one_that_was_agreed_on(present: dict[str, list[str]], what: str) -> None:
    difference = [
        line
        for line in difflib.unified_diff(SAVED[what], present.get(what, []), n=0, lineterm="")
        if not line.startswith(("---", "+++", "@@"))
    ]
    assert not difference, HOW_TO.format(what=what, difference="\n".join(difference))


def test_no_module_is_left_out(present: dict[str, list[str]]) -> None:
    assert list(present) == list(SAVED), "run python tests/api_snapshot.py --write"


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("api_snapshot", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BEFORE = """
from dataclasses import dataclass

__all__ = ["Thing", "LIMIT", "go"]
LIMIT = 3

class _Base:
    def inherited(self) -> int: return 1

class Thing(_Base):
    width: int = 3
    def do(self, x: int, *, y: str = "a") -> bool: return True
    @property
    def size(self) -> int: return 1
    @classmethod
    def make(cls) -> "Thing": return cls()
    def _own(self): ...

def go(x: float = 1.0) -> None: ...
"""


@pytest.mark.parametrize(
    ("old", "new", "seen"),
    [
        ('y: str = "a"', 'y: str = "b"', True),
        ("x: int, *", "x: float, *", True),
        ("x: int, *, y", "x: int, y", True),
        ("-> bool", "-> int", True),
        ("def size", "def length", True),
        ("@classmethod\n", "@staticmethod\n", True),
        ("def inherited(self)", "def inherited(self, more=1)", True),
        ("width: int = 3", "width: int = 4", True),
        ("LIMIT = 3", "LIMIT = 4", True),
        ("def go(x: float = 1.0)", "def go(x: float = 2.0)", True),
        ("class Thing(_Base)", "class Thing", True),
        ('"go"]', "]", True),
        ("def _own(self)", "def _other(self)", False),
        ("return True", "return False", False),
    ],
)
def test_every_change_that_a_user_could_notice_changes_a_line(old: str, new: str, seen: bool) -> None:
    def described(source: str) -> list[str]:
        module = ModuleType("graftwork_before")
        exec(compile("from __future__ import annotations\n" + source, "before", "exec"), module.__dict__)
        return list(script().module_lines(module, {module.Thing: "graftwork_before.Thing"}))

    assert BEFORE.count(old) == 1
    assert (described(BEFORE) != described(BEFORE.replace(old, new))) == seen


# Plugins built for an older minor version

OLDER = """
import json, sys
import graftwork.spec
graftwork.spec.API = (1, 7)
from graftwork.cli.main import main
sys.exit(main(["plugins", "list", "--json"]))
"""


def test_a_plugin_built_for_an_older_minor_version_loads(tmp_path: Path) -> None:
    """The probe good asks for 1.0; here the core offers 1.7. The one that asks for 1.99 is still too new."""
    for name in ("good", "too-new-api"):
        module = f"graftwork_probe_{name.replace('-', '_')}"
        (tmp_path / f"{module}.py").write_bytes((PROBES / name / f"{module}.py").read_bytes())
        info = tmp_path / f"{module}-0.1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: graftwork-probe-{name}\nVersion: 0.1.0\n")
        (info / "entry_points.txt").write_text(f"[graftwork.plugins.v1]\nprobe-{name} = {module}\n")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GRAFTWORK_")}
    environment = kept | {"PYTHONPATH": str(tmp_path), "GRAFTWORK_PLUGINS": "probe-good,probe-too-new-api"}
    done = subprocess.run([sys.executable, "-c", OLDER], capture_output=True, text=True, env=environment, check=False)
    found = {plugin["name"]: plugin for plugin in json.loads(done.stdout.splitlines()[-1])["plugins"]}
    assert (found["probe-good"]["state"], found["probe-good"]["api"]) == ("ok", "1.0")
    assert found["probe-good"]["components"]
    assert found["probe-too-new-api"]["state"] == "incompatible"
    assert "built for version 1.99 of the plugin interface; this graftwork offers 1.7" in done.stderr
