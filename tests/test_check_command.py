"""`graft plugins check` and `pytest --graftwork-plugin`: the battery for those who do not write a test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from graftwork.cli.main import main, root
from graftwork.testing import battery

PROBES = Path(__file__).parents[1] / "plugins" / "probes"


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the battery be its quick checks: the whole of it is each plugin's own test."""
    quick = tuple(c for c in battery.CHECKS if c.id.startswith(("plugin-", "dist-", "record-summary", "metric-")))
    monkeypatch.setattr(battery, "CHECKS", quick)


@pytest.mark.usefixtures("few")
def test_a_sound_plugin_ends_with_0_and_is_counted():
    ran = CliRunner().invoke(root, ["plugins", "check", "signals", "--json"])
    assert ran.exit_code == 0, ran.output
    report = json.loads(ran.stdout.splitlines()[-1])
    assert report["plugin"] == "signals"
    assert report["counts"] == {"passed": len(report["outcomes"])}
    assert {"id", "state", "reason", "problem", "fix"} == set(report["outcomes"][0])


@pytest.mark.usefixtures("few")
def test_what_passed_is_listed_when_asked_for():
    assert "metric-merges[signals/kappa]" not in CliRunner().invoke(root, ["plugins", "check", "signals"]).output
    assert "metric-merges[signals/kappa]" in CliRunner().invoke(root, ["plugins", "check", "signals", "-v"]).output


def test_an_unknown_plugin_is_the_users_mistake(capsys):
    assert main(["plugins", "check", "signal"]) == 2
    assert "did you mean 'signals'" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.slow
def test_a_plugin_that_does_not_conform_ends_with_1(tmp_path):
    """The slow probe: it loads, and says no licence, has no bounds, no types, and takes its time."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    copy = tmp_path / "source"
    copy.mkdir()
    for file in (PROBES / "slow-import").glob("*.*"):
        if file.is_file():
            (copy / file.name).write_bytes(file.read_bytes())
    options = ["--no-build-isolation", "--target", str(tmp_path / "site"), str(copy)]
    subprocess.run([*pip, *options], check=True, capture_output=True)
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "graftwork", "plugins", "check", "probe-slow-import"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 1, done.stderr
    failed = {line.split()[1].rstrip(":") for line in done.stdout.splitlines() if line.startswith("failed")}
    assert {"import-quick", "dist-typed", "dist-requires", "dist-described"} <= failed
    assert "to mend it" in done.stdout


def test_pytest_runs_the_battery_of_an_installed_plugin(tmp_path):
    command = [sys.executable, "-m", "pytest", "-q", "--graftwork-plugin=signals", "-p", "no:cacheprovider", "-rA"]
    only = ["-k", "dist or metric"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *only], cwd=tmp_path, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "metric-direction[signals/kappa]" in done.stdout


def test_pytest_alone_pays_nothing_for_the_plugin(tmp_path):
    code = (
        "import sys\ndef test_nothing():\n    assert not {'torch', 'numpy', 'graftwork.plugins'} & set(sys.modules)\n"
    )
    (tmp_path / "test_nothing.py").write_text(code, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
