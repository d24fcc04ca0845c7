"""What the first answer costs: imports, first use of the vision plugin, and the command line beside fifty plugins.

Every command runs in a fresh process, in turn; reported is wall time, and its difference from bare Python's or torch's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Final

from bench.harness import Check, Options, Report, Side, Spread, alternate, differences, wait_until_idle
from bench.photos import photo_folder

__all__ = ["SIDES", "fake_plugins", "measure"]

SIDES: Final[tuple[Side, ...]] = ()
PLUGINS: Final = 50
HEAVY: Final = ("torch", "numpy", "pluggy", "pandas", "rich", "sklearn", "torchvision")
FIRST_USE: Final = """
from graftwork_vision import ImageDataLoaders, vision_learner
data = ImageDataLoaders.from_folder({folder!r}, size=64, bs=8)
vision_learner(data, {model!r}, weights=None)
"""
ENTRY: Final = """
from graftwork.api import CommandSpec, LossSpec, Plugin, hookimpl

PLUGIN = Plugin(namespace="{name}", summary="One of fifty")


@hookimpl
def graftwork_register_losses():
    for i in range(20):
        yield LossSpec(id=f"{name}/loss{{i}}", target="graftwork.loss:MSE", summary="A loss")


@hookimpl
def graftwork_register_commands():
    yield CommandSpec(id="{name}/do", name="do-{name}", target="nowhere:command", summary="A command")
"""
QUICK: Final = {
    "python": ["-c", "pass"],
    "import graftwork": ["-c", "import graftwork"],
    "import graftwork_vision": ["-c", "import graftwork_vision"],
    "graft --help": ["-m", "graftwork", "--help"],
    "graft plugins list": ["-m", "graftwork", "plugins", "list"],
}


def fake_plugins(target: Path, count: int) -> None:
    """Write `count` installed distributions, each with a working plugin, into a folder for PYTHONPATH."""
    for number in range(count):
        name, module = f"fake{number}", f"graftwork_fake{number}"
        (target / f"{module}.py").write_text(ENTRY.format(name=name), encoding="utf-8")
        info = target / f"graftwork_{name}-1.0.dist-info"
        info.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: graftwork-{name}\nVersion: 1.0\n"
        (info / "METADATA").write_text(metadata, encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[graftwork.plugins.v1]\n{name} = {module}\n", encoding="utf-8")
        (info / "RECORD").write_text(f"{module}.py,,\n", encoding="utf-8")
        (info / "INSTALLER").write_text("bench\n", encoding="utf-8")


def run(arguments: list[str], env: Mapping[str, str]) -> str:
    """Run Python and return what it wrote."""
    done = subprocess.run([sys.executable, *arguments], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"imports: {arguments} failed: {done.stderr[-2000:]}")
    return done.stdout


def wall(arguments: list[str], env: Mapping[str, str]) -> float:
    """Return milliseconds of wall time."""
    begin = perf_counter()
    run(arguments, env)
    return (perf_counter() - begin) * 1000


def loaded(statement: str, env: Mapping[str, str]) -> list[str]:
    """Return which of the heavy modules a statement loads."""
    code = f"{statement}\nimport sys\nprint(*(name for name in {HEAVY!r} if name in sys.modules))"
    return run(["-c", code], env).split()


def measure(options: Options) -> Report:
    """Run all commands in turn."""
    report = Report(case="imports", smoke=options.smoke)
    with tempfile.TemporaryDirectory(prefix="bench-plugins-") as target, photo_folder(smoke=True) as photos:
        fake_plugins(Path(target), PLUGINS)
        env = {**os.environ, "PYTHONPATH": target}
        listed = run(["-m", "graftwork", "plugins", "list"], env)
        found = sum(f"fake{n} " in listed for n in range(PLUGINS))
        report.checks.append(Check(what="fake plugins listed", value=found, target=PLUGINS, better="high"))
        plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        for name, rounds in (("quick", 25), ("heavy", 7)):
            wait_until_idle(options.wait_minutes)
            commands = quick(plain, env) if name == "quick" else heavy(plain, photos)
            turns = 1 if options.smoke else (options.rounds or rounds)
            times = alternate(commands, turns, warm_up=0 if options.smoke else 1)
            for side, values in times.items():
                report.add(side, values, "ms", base=base_of(side))
        report.notes += [f"import graftwork loads {loaded('import graftwork', plain) or 'none'} of {', '.join(HEAVY)}"]
        light = len(loaded("import graftwork", plain))
    return judged(report, light)


def quick(plain: Mapping[str, str], env: Mapping[str, str]) -> dict[str, Callable[[], float]]:
    """Return the commands that take no torch; those of the command line see the fake plugins."""
    return {name: partial(wall, words, env if name.startswith("graft ") else plain) for name, words in QUICK.items()}


def heavy(plain: Mapping[str, str], photos: Path) -> dict[str, Callable[[], float]]:
    """Return the commands that import torch."""
    codes = {"import torch": "import torch", "import torchvision": "import torchvision"}
    codes |= {f"first use, {m}": FIRST_USE.format(folder=str(photos), model=m) for m in ("small-cnn", "resnet18")}
    return {name: partial(wall, ["-c", code], plain) for name, code in codes.items()}


def base_of(name: str) -> str | None:
    """Return what a command is compared with."""
    if name in ("python", "import torch"):
        return None
    return "import torch" if name.startswith("first use") or "torchvision" in name else "python"


def judged(report: Report, light: int) -> Report:
    """Add the figures that have targets."""
    figures = [("import graftwork", "python", 30.0), ("import graftwork_vision", "python", None)]
    figures += [("first use, small-cnn", "import torch", 500.0), ("first use, resnet18", "import torch", 500.0)]
    for name, base, target in figures:
        gap = differences(report.values(name), report.values(base)).median
        report.checks.append(Check(what=f"{name}: over {base}", value=gap, unit="ms", target=target))
    for name in ("graft --help", "graft plugins list"):
        spent = Spread.of(report.values(name)).median
        report.checks.append(Check(what=f"{name}, {PLUGINS} plugins", value=spent, unit="ms", target=250.0))
    report.checks.append(Check(what="heavy modules loaded by import graftwork", value=light, target=0))
    return report
