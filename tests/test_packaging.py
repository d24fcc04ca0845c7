"""Wheels: each is whole, works in an environment of its own with no more than it declares, and can go again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
FOLDERS = [ROOT / "core", *sorted(ROOT.glob("*_plugin")), *sorted(ROOT.glob("plugins/segmentation"))]
FOLDERS = [folder for folder in [*FOLDERS, ROOT / "plugins" / "example"] if (folder / "pyproject.toml").exists()]
PACKAGES = {next(folder.glob("src/*/__init__.py")).parent.name: folder for folder in FOLDERS}
DISTS = {package: package.replace("_", "-") for package in PACKAGES}
PLUGINS = [package for package in PACKAGES if package != "graftwork"]
LEFTOVERS = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")

SCRIPT = Path(__file__).parent / "packaged.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Be an environment that holds what was put into it, and nothing of the one the tests run in."""

    folder: Path
    wheels: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def site(self) -> Path:
        (found,) = (self.folder / "lib").glob("python*/site-packages")
        return found

    def run(self, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(self.python), *arguments],
            capture_output=True,
            text=True,
            env=environment(),
            cwd=self.folder,
            check=False,
        )
        assert done.returncode == status, done.stdout[-2000:] + done.stderr[-4000:]
        return done

    def graft(self, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        return self.run("-m", "graftwork", *arguments, status=status)

    def do(self, *words: str) -> Any:
        """Let packaged.py do something in here, and return what it says by word."""
        return json.loads(self.run("-P", str(SCRIPT), *words).stdout.splitlines()[-1])

    def pip(self, *arguments: str) -> None:
        pip(self.python, *arguments)

    def install(self, *dists: str) -> None:
        """Let pip find what they require among the wheels and what is already there; there is no index."""
        self.pip("install", "--no-compile", "--find-links", str(self.wheels), "--no-index", *dists)


def environment() -> dict[str, str]:
    hidden = ("GRAFTWORK_", "PIP_", "PYTHON", "COV", "UV_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    return kept | {
        "PIP_CONFIG_FILE": os.devnull,
        "OMP_NUM_THREADS": "1",
        "NUMBA_OPT": "0",
        "PYTHONWARNINGS": "error::ImportWarning",
    }


def pip(python: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "--quiet"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build every distribution from a copy of its sources."""
    work = tmp_path_factory.mktemp("wheels")
    for package, folder in PACKAGES.items():
        shutil.copytree(folder, work / "sources" / package, ignore=LEFTOVERS)
    sources = [str(work / "sources" / package) for package in PACKAGES]
    options = ["--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", str(work / "built")]
    pip(Path(sys.executable), "wheel", *options, *sources)
    return work / "built"


@pytest.fixture
def make(wheels: Path, tmp_path: Path) -> Any:
    """Make an environment with some of our wheels, and of others only what these declare, directly or not."""

    def build(*packages: str) -> Environment:
        venv.EnvBuilder(symlinks=True).create(tmp_path / "env")
        made = Environment(folder=tmp_path / "env", wheels=wheels)
        for dist in third_party(declared(wheels, packages)):
            link(dist, made.site)
        made.install(*(DISTS[package] for package in packages))
        return made

    return build


def declared(wheels: Path, packages: Iterable[str]) -> list[Requirement]:
    """Read from the wheels of some packages, and of those of ours they stand on, what they require of others."""
    found, todo = [], list(packages)
    for package in todo:
        (wheel,) = wheels.glob(f"{package}-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
            lines = archive.read(name).decode().splitlines()
        for line in lines:
            if line.startswith("Requires-Dist: ") and "extra ==" not in line:
                requirement = Requirement(line.removeprefix("Requires-Dist: "))
                ours = canonicalize_name(requirement.name).replace("-", "_")
                if ours in PACKAGES:
                    todo += [ours] if ours not in todo else []
                else:
                    found.append(requirement)
    return found


def third_party(wanted: Iterable[Requirement]) -> dict[metadata.Distribution, None]:
    """Return the installed distributions that meet these requirements, with all that they require in turn."""
    done: set[tuple[str, str]] = set()
    found: dict[str, metadata.Distribution] = {}
    todo = [(requirement.name, extra) for requirement in wanted for extra in ("", *requirement.extras)]
    for name, extra in todo:
        key = canonicalize_name(name)
        if (key, extra) in done:
            continue
        done.add((key, extra))
        found[key] = metadata.distribution(name)
        for line in found[key].requires or ():
            inner = Requirement(line)
            if inner.marker is None or inner.marker.evaluate({"extra": extra}):
                todo += [(inner.name, further) for further in ("", *inner.extras)]
    return dict.fromkeys(found.values())


def link(dist: metadata.Distribution, site: Path) -> None:
    """Lay a distribution's own files into an environment, by links to those of this one."""
    for top in {file.parts[0] for file in dist.files or ()} - {"..", "__pycache__"}:
        if not (site / top).exists() and not top.endswith(".pth"):
            (site / top).symlink_to(Path(str(dist.locate_file(top))))


@pytest.mark.parametrize("package", PACKAGES)
def test_a_wheel_holds_every_file_of_its_package_its_licence_and_nothing_else(wheels: Path, package: str) -> None:
    (wheel,) = wheels.glob(f"{package}-*.whl")
    source = PACKAGES[package] / "src"
    files = {path.relative_to(source).as_posix() for path in (source / package).rglob("*") if path.is_file()}
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    info = {name for name in held if name.startswith(f"{package}-")}
    assert held - info == {name for name in files if "__pycache__" not in name}
    names = {name.partition("/")[2] for name in info}
    assert {"METADATA", "RECORD", "WHEEL", "entry_points.txt"} <= names
    assert "licenses/LICENSE" in names, f"cp LICENSE {PACKAGES[package].relative_to(ROOT)}/"


def test_every_distribution_has_the_same_licence() -> None:
    whole = (ROOT / "LICENSE").read_bytes()
    assert [folder.name for folder in FOLDERS if (folder / "LICENSE").read_bytes() != whole] == []


def test_the_core_alone_trains_and_says_what_it_lacks(make: Any) -> None:
    here: Environment = make("graftwork")
    done = here.do("look=graftwork", "core")
    assert Path(done["look=graftwork"]["file"]).is_relative_to(here.folder)
    assert done["look=graftwork"]["plugins"] == {"core": "ok"}
    assert done["core"] == "high"
    assert "pip install graftwork-vision" in here.graft("tasks").stdout
    assert "pip install graftwork-vision" in here.graft("train", "vision/classification", "x", status=2).stderr


QUICK_AND_LONG = [p if p == "graftwork_vision" else pytest.param(p, marks=pytest.mark.long) for p in PLUGINS]


@pytest.mark.parametrize("package", PLUGINS)
def test_a_plugin_is_whole_alone_with_what_it_declares(make: Any, package: str) -> None:
    here: Environment = make(package)
    found = here.do(f"look={package}")[f"look={package}"]
    assert Path(found["file"]).is_relative_to(here.folder)
    assert found["modules"] == len(list((PACKAGES[package] / "src" / package).rglob("*.py"))) - 1
    ours = {name.removeprefix("graftwork_") for name in PLUGINS if list(here.site.glob(name))}
    assert found["plugins"] == dict.fromkeys(["core", *sorted(ours)], "ok")
    assert package.removeprefix("graftwork_") in ours


# In a fresh environment kernels are compiled anew, which takes most of the time; one that has few stands for all.
@pytest.mark.parametrize("package", QUICK_AND_LONG)
def test_a_plugin_trains_alone_with_what_it_declares(make: Any, package: str) -> None:
    done = make(package).do(f"train={package}")[f"train={package}"]
    assert all("prediction" in line for line in done)


@pytest.mark.long
def test_what_is_uninstalled_takes_only_its_own_artifacts_along(make: Any) -> None:
    gone, stays = "graftwork_vision", "graftwork_signals"
    here: Environment = make(gone, stays)
    before = here.do(f"export={gone}", f"export={stays}")

    here.pip("uninstall", "--yes", DISTS[gone])
    assert here.do(f"predict={stays}")[f"predict={stays}"] == before[f"export={stays}"]
    artifact = f"{gone}/run/model.graft"
    refused = here.graft("predict", artifact, "x.png", status=2).stderr
    assert "Traceback" not in refused
    line = f"pip install {DISTS[gone]}"
    assert line in refused
    assert line in here.graft("show", artifact).stdout, "it can be looked at without its plugin"

    here.install(*line.removeprefix("pip install ").split())
    assert here.do(f"predict={gone}")[f"predict={gone}"] == before[f"export={gone}"]
