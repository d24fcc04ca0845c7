"""What starting costs: which libraries come in, and how long a command takes beside fifty plugins."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

import pytest

HEAVY = {"matplotlib", "numba", "numpy", "pandas", "rich", "sklearn", "torch", "torchmetrics", "torchvision"}
NUM_PLUGINS = 50
NUM_COMPONENTS = 20
# The promise is 250 ms for a command and 30 ms for the import; a busy machine gets twice that before the test fails.
SLACK = 2.0

ENTRY = '''"""A plugin made for measuring."""

from __future__ import annotations

from graftwork.api import CommandSpec, ModelSpec, Plugin, TransformSpec, hookimpl

PLUGIN = Plugin(namespace="{name}", summary="One of fifty")


@hookimpl
def graftwork_register_models():
    for i in range({count}):
        yield ModelSpec(
            id=f"{name}/model{{i}}",
            target="{module}_models:build",
            summary="A model",
            inputs=("vision/image",),
            output="core/class-index",
        )


@hookimpl
def graftwork_register_transforms():
    for i in range({count}):
        yield TransformSpec(
            id=f"{name}/transform{{i}}",
            target="{module}_transforms:Transform",
            summary="A transform",
            accepts=("vision/image",),
            gives="vision/image",
        )


@hookimpl
def graftwork_register_commands():
    yield CommandSpec(id="{name}/do", name="do-{name}", target="{module}_cli:command", summary="A command")
'''


def install_fake(site: Path, number: int) -> None:
    """Lay one installed distribution into a folder, as pip would."""
    name = f"fake-{number:02}"
    module = f"graftwork_fake_{number:02}"
    (site / module).mkdir()
    (site / module / "__init__.py").write_text('"""Fake."""\n', encoding="utf-8")
    entry = ENTRY.format(name=name, module=module, count=NUM_COMPONENTS // 2)
    (site / module / "plugin.py").write_text(entry, encoding="utf-8")
    info = site / f"graftwork_fake_{number:02}-1.0.dist-info"
    info.mkdir()
    metadata = f"Metadata-Version: 2.4\nName: graftwork-{name}\nVersion: 1.0\n\n" + "A long description.\n" * 200
    (info / "METADATA").write_text(metadata, encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[graftwork.plugins.v1]\n{name} = {module}.plugin\n", encoding="utf-8")
    (info / "RECORD").write_text("", encoding="utf-8")


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install fifty plugins with a thousand components."""
    folder = tmp_path_factory.mktemp("fifty")
    for number in range(NUM_PLUGINS):
        install_fake(folder, number)
    return folder


def python(*arguments: str, site: Path | None = None) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GRAFTWORK_", "COV"))}
    env = kept | ({"PYTHONPATH": str(site)} if site else {})
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=env, check=False)


def fastest_ms(*arguments: str, site: Path | None = None, tries: int = 5) -> float:
    """Measure what a process uses of a processor, from start to end, and return the best of several.

    Nothing here waits for anything, so on an idle machine that is its wall time; on a busy one it is still fair.
    """
    best = float("inf")
    for _ in range(tries):
        before = getrusage(RUSAGE_CHILDREN)
        done = python(*arguments, site=site)
        after = getrusage(RUSAGE_CHILDREN)
        best = min(best, (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) * 1e3)
        assert done.returncode == 0, done.stderr
    return best


LIST = "; import sys; print(); print(*sys.modules)"
RUN = "from graftwork.cli.main import main; main({arguments!r})"


@pytest.mark.parametrize(
    ("code", "more"),
    [
        ("import graftwork", {"pluggy", "click", "graftwork.errors"}),
        ("import graftwork; dir(graftwork)", {"pluggy", "click", "graftwork.errors"}),
        ("import graftwork.api", {"click"}),
        (RUN.format(arguments=["--help"]), set()),
        (RUN.format(arguments=["--version"]), {"graftwork.plugins"}),
        (RUN.format(arguments=["plugins", "list"]), set()),
        (RUN.format(arguments=["plugins", "show", "fake-07"]), set()),
        (RUN.format(arguments=["tasks"]), set()),
        (RUN.format(arguments=["models", "--input", "image", "--target", "category"]), set()),
        (RUN.format(arguments=["blocks", "--json"]), set()),
        (RUN.format(arguments=["plugins", "doctor", "--help"]), set()),
        (RUN.format(arguments=["train", "--help"]), set()),
        (RUN.format(arguments=["resume", "--help"]), set()),
        (RUN.format(arguments=["evaluate", "--help"]), set()),
        (RUN.format(arguments=["predict", "--help"]), set()),
        (RUN.format(arguments=["show", "--help"]), set()),
    ],
)
def test_nothing_heavy_comes_in(code: str, more: set[str], site: Path) -> None:
    done = python("-c", code + LIST, site=site)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.splitlines()[-1].split())
    assert not loaded & (HEAVY | more)


def test_nothing_that_records_point_to_comes_in(site: Path) -> None:
    done = python("-c", RUN.format(arguments=["--help"]) + LIST, site=site)
    loaded = done.stdout.splitlines()[-1].split()
    assert sum(name.endswith(".plugin") and name.startswith("graftwork_fake_") for name in loaded) == NUM_PLUGINS
    assert not any(name.endswith(("_models", "_transforms", "_cli")) for name in loaded)


def test_fifty_plugins_are_found_whole(site: Path) -> None:
    done = python("-m", "graftwork", "plugins", "list", site=site)
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("fake-")]
    assert len(rows) == NUM_PLUGINS
    assert all(row[1:5] == ["ok", "1.0", "1.0", str(NUM_COMPONENTS + 1)] for row in rows)
    helped = python("-m", "graftwork", "--help", site=site).stdout
    assert helped.count("A command") == NUM_PLUGINS


@pytest.mark.parametrize("arguments", [["--help"], ["plugins", "list"], ["models", "0"]], ids=" ".join)
def test_a_command_answers_beside_fifty_plugins(arguments: list[str], site: Path) -> None:
    assert fastest_ms("-m", "graftwork", *arguments, site=site) < 250 * SLACK


def test_the_import_is_almost_free() -> None:
    assert fastest_ms("-c", "import graftwork") - fastest_ms("-c", "pass") < 30 * SLACK
