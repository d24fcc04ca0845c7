"""Plugins that are broken on purpose, installed for real: every command works beside all of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

PROBES = Path(__file__).parents[1] / "plugins" / "probes"

STATES = {
    "probe-broken-command": ("ok", ""),
    "probe-foreign-id": ("conflict", "block 'core/number' lies in a foreign namespace"),
    "probe-good": ("ok", ""),
    "probe-half-way": ("failed", "RuntimeError: half way through"),
    "probe-heavy-import": ("ok", ""),
    "probe-import-error": ("failed", "ModuleNotFoundError: No module named 'graftwork_probe_of_nothing'"),
    "probe-mistyped-hook": (
        "failed",
        "there is no hook graftwork_regsiter_blocks; did you mean graftwork_register_blocks?",
    ),
    "probe-next-major": (
        "incompatible",
        "built for version 2 of the plugin interface; this graftwork offers 1.0 (graftwork.plugins.v1)",
    ),
    "probe-panic": ("failed", "PanicException: called Option::unwrap() on a None value"),
    "probe-slow-import": ("ok", ""),
    "probe-system-exit": ("failed", "SystemExit: 3"),
    "probe-too-new-api": (
        "incompatible",
        "built for version 1.99 of the plugin interface; this graftwork offers 1.0 (graftwork.plugins.v1)",
    ),
}
STOLEN = "probe-stolen-namespace"
CLAIMANTS = {
    f"graftwork-{STOLEN}": (
        "vision",
        f"distribution 'graftwork-{STOLEN}' may register the plugin '{STOLEN}', not 'vision'",
    ),
    "probe-good": (
        "probe-good",
        "the namespace 'probe-good' belongs to distribution 'graftwork-probe-good', which is installed as well",
    ),
}
LEFT_BEHIND = {"probe-broken-command", "probe-good", "probe-heavy-import", "probe-slow-import"}
# torch takes seconds to import; a few commands are enough to see that these two stop no other.
DEAR = {"probe-heavy-import", "probe-slow-import"}
LIGHT = {"GRAFTWORK_DISABLE_PLUGINS": ",".join(sorted(DEAR))}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out.splitlines()[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell:
    """Run `graft` in a process of its own that sees the probes."""

    site: Path

    def graft(self, *arguments: str, **env: str) -> Ran:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GRAFTWORK_")}
        command = [sys.executable, "-m", "graftwork", *arguments]
        environment = kept | {"PYTHONPATH": str(self.site)} | env
        found = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=self.site, check=False)
        return Ran(status=found.returncode, out=found.stdout, err=found.stderr)


@pytest.fixture(scope="session")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Install every probe with pip, from a copy, into a folder of its own."""
    work = tmp_path_factory.mktemp("probes")
    shutil.copytree(PROBES, work / "sources", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build"))
    projects = sorted(str(path.parent) for path in (work / "sources").glob("*/pyproject.toml"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    options = ["--no-index", "--no-deps", "--no-build-isolation", "--target", str(work / "site")]
    done = subprocess.run([*pip, *options, *projects], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return Shell(site=work / "site")


@pytest.fixture(scope="session")
def everything(shell: Shell) -> Ran:
    """List all plugins, the heavy one included."""
    return shell.graft("plugins", "list", "--json")


def plugins(ran: Ran) -> dict[str, dict[str, Any]]:
    """Index the listed plugins by distribution."""
    assert ran.status == 0, ran.err
    return {plugin["distribution"]: plugin for plugin in ran.json["plugins"]}


def test_every_folder_is_tried() -> None:
    folders = {path.parent.name for path in PROBES.glob("*/pyproject.toml")}
    expected = {name.removeprefix("probe-") for name in STATES} | {"duplicate-namespace", "stolen-namespace"}
    assert folders == expected
    table = (PROBES / "README.md").read_text(encoding="utf-8")
    assert all(f"| `{folder}` |" in table for folder in folders)


@pytest.mark.parametrize("name", STATES)
def test_each_gets_its_state_and_its_reason(everything: Ran, name: str) -> None:
    found = plugins(everything)[f"graftwork-{name}"]
    assert (found["name"], found["state"], found["reason"]) == (name, *STATES[name])
    assert bool(found["components"]) == (name in LEFT_BEHIND)
    assert bool(found["fix"]) == (found["state"] != "ok")


@pytest.mark.parametrize("dist", CLAIMANTS)
def test_a_claimant_of_another_s_name_is_a_conflict_and_the_owner_stays(everything: Ran, dist: str) -> None:
    name, reason = CLAIMANTS[dist]
    found = plugins(everything)[dist]
    assert (found["name"], found["state"], found["reason"], found["ms"]) == (name, "conflict", reason, 0)
    owner = plugins(everything)[f"graftwork-{name}"]
    assert (owner["name"], owner["state"]) == (name, "ok")


def test_what_a_load_costs_is_flagged_and_no_fault(everything: Ran) -> None:
    found = plugins(everything)
    heavy, slow, good = (found[f"graftwork-probe-{name}"] for name in ("heavy-import", "slow-import", "good"))
    assert "torch" in heavy["heavy"]
    assert (slow["slow"], slow["heavy"]) == (True, [])
    assert slow["ms"] >= 300
    assert good["heavy"] == []


def test_each_one_that_is_not_loaded_gets_one_line(everything: Ran) -> None:
    lines = everything.err.splitlines()
    bad = {name: reason for name, (state, reason) in STATES.items() if state != "ok"}
    assert len(lines) == len(bad) + len(CLAIMANTS)
    for name, reason in bad.items():
        assert f"graft: plugin {name!r} is not loaded: {reason}; see `graft plugins show {name}`" in lines
    for dist, (name, reason) in CLAIMANTS.items():
        line = (
            f"graft: plugin {name!r} of distribution {dist!r} is not loaded: {reason}; see `graft plugins show {dist}`"
        )
        assert line in lines


COMMANDS = [
    ["--help"],
    ["--version"],
    ["tasks"],
    ["tasks", "--json"],
    ["models", "--json"],
    ["blocks", "positive"],
    ["plugins", "--help"],
    ["plugins", "list"],
    ["plugins", "list", "--timing"],
    ["plugins", "show", "core"],
    ["train", "--help"],
    ["evaluate", "--help"],
    ["predict", "--help"],
    ["show", "--help"],
    ["greet", "you"],
]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_every_command_works_beside_them(shell: Shell, arguments: list[str]) -> None:
    ran = shell.graft(*arguments, **LIGHT)
    assert ran.status == 0, ran.err
    assert ran.out
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("name", [*STATES, *CLAIMANTS])
def test_show_explains_each(shell: Shell, name: str) -> None:
    ran = shell.graft("plugins", "show", name, GRAFTWORK_DISABLE_PLUGINS=",".join(DEAR - {name}))
    assert ran.status == 0, ran.err
    reason = CLAIMANTS[name][1] if name in CLAIMANTS else STATES[name][1]
    assert reason in ran.out
    if name in STATES:
        assert f"state:        {STATES[name][0]}\n" in ran.out
    if name == "probe-half-way":
        assert 'raise RuntimeError("half way through")' in ran.out


def test_a_plugin_by_somebody_else_works_from_its_records_to_its_command(shell: Shell) -> None:
    assert shell.graft("greet", "Ada", **LIGHT).out == "Hello, Ada\n"
    assert re.search(r"^  greet +Say hello$", shell.graft("--help", **LIGHT).out, re.MULTILINE)
    code = """
from graftwork import get_host
block = get_host().blocks.get("positive")()
log = get_host().transforms.get("probe-good/log")()
bound = log.bind(block)
assert block.check(-1.0) and not block.check(2.0)
assert abs(bound.decode(bound.encode(2.0, None)) - 2.0) < 1e-12
assert log.out_block(block).id == get_host().transforms.spec("log").gives
"""
    environment = dict(os.environ, PYTHONPATH=str(shell.site), **LIGHT)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr


def test_a_broken_command_fails_alone(shell: Shell) -> None:
    ran = shell.graft("break", **LIGHT)
    assert ran.status == 2
    last = ran.err.splitlines()[-1]
    assert last.startswith("Error: command 'probe-broken-command/break' of plugin 'probe-broken-command': its target ")
    assert "Traceback" not in ran.err


def test_the_doctor_puts_what_is_broken_first(shell: Shell) -> None:
    ran = shell.graft("plugins", "doctor", "--json", **LIGHT)
    assert (ran.status, ran.json["ok"]) == (1, False)
    failed = {found["about"] for found in ran.json["findings"] if found["state"] == "fail"}
    broken = {name for name, (state, _) in STATES.items() if state != "ok"}
    assert failed == broken | {f"graftwork-{STOLEN}", "probe-good"}
    assert all(found["fix"] for found in ran.json["findings"] if found["state"] == "fail")


def test_the_allow_list_keeps_them_all_out(shell: Shell) -> None:
    ran = shell.graft("plugins", "list", "--json", GRAFTWORK_PLUGINS="")
    states = {plugin["state"] for plugin in ran.json["plugins"] if plugin["name"] != "core"}
    assert (states, ran.err) == ({"blocked"}, "")


def test_an_option_keeps_one_out(shell: Shell) -> None:
    ran = shell.graft("-p", "no:probe-panic", "-p", "no:probe-heavy-import", "plugins", "list", "--json")
    found = plugins(ran)
    assert found["graftwork-probe-panic"]["state"] == "blocked"
    assert found["graftwork-probe-panic"]["reason"] == "blocked by -p no:probe-panic"
    assert "probe-panic" not in ran.err


def test_strict_stops_at_the_first(shell: Shell) -> None:
    ran = shell.graft("tasks", GRAFTWORK_STRICT_PLUGINS="1", **LIGHT)
    assert ran.status == 2
    assert "block 'core/number' lies in a foreign namespace" in ran.err


@pytest.mark.slow
def test_the_whole_job_gives_the_same_bytes_beside_them_as_without(shell: Shell, tmp_path: Path) -> None:
    """Neutral: no plugin, sound or broken, changes a number of a run; train, evaluate, predict and show work."""
    rng = np.random.default_rng(0)
    for name, level in {"dark": 60, "light": 190}.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(12):
            pixels = (level + rng.integers(-30, 30, (12, 12))).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    found = {}
    for which, environment in {"beside": {}, "without": {"GRAFTWORK_PLUGINS": "vision"}}.items():
        out = tmp_path / which
        words = ["train", "vision/classification", str(tmp_path / "photos"), "--epochs", "2", "--device", "cpu"]
        ran = shell.graft(*words, "--out", str(out), "--json", OMP_NUM_THREADS="1", **environment)
        assert ran.status == 0, ran.err
        metrics = {key: ran.json[key] for key in ("metrics", "baselines")}
        found[which] = metrics, (out / "model.graft").read_bytes()
    assert found["beside"] == found["without"]
    artifact = str(tmp_path / "beside" / "model.graft")
    one = str(tmp_path / "photos" / "dark" / "0.png")
    for words in (["evaluate", artifact, str(tmp_path / "photos")], ["predict", artifact, one], ["show", artifact]):
        ran = shell.graft(*words, **LIGHT)
        assert ran.status == 0, ran.err
        assert "Traceback" not in ran.err
