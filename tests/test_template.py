"""What `graft plugins new` writes: derived from plugins/example, sound under any name, and complete as it is."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork import OptionError
from graftwork.cli.main import main, root
from graftwork.cli.template import render

ROOT = Path(__file__).parents[1]
TEMPLATE = ROOT / "core" / "src" / "graftwork" / "cli" / "template"
NAMES = ["bird-song", "a", "zebra-9", "electro-cardio-gram-recordings"]


def derived() -> dict[str, str]:
    """Derive the template anew, in a process of its own: the script is no part of a package."""
    code = "import json, runpy; print(json.dumps(runpy.run_path('plugins/derive_template.py')['derive']()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_the_template_is_what_the_example_gives():
    shipped = {p.relative_to(TEMPLATE).as_posix(): p.read_text(encoding="utf-8") for p in TEMPLATE.rglob("*.tmpl")}
    assert shipped == derived(), "the example changed: run `python plugins/derive_template.py`"


@pytest.mark.parametrize("name", NAMES)
def test_a_rendered_plugin_is_clean_under_any_name(tmp_path, name):
    files = render(name, tmp_path / "new")
    texts = "\n".join(path.read_text(encoding="utf-8") for path in files)
    assert not re.search(r"@[A-Z]+@", texts)
    assert "more than the smallest" not in texts
    assert "signals" not in texts
    for words in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *words, "."],
            cwd=tmp_path / "new",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Birds", "lower-case"),
        ("bird_song", "lower-case"),
        ("9lives", "begins with a digit"),
        ("graftwork-birds", "leave 'graftwork-' out"),
        ("vision", "there is a plugin 'vision' already"),
    ],
)
def test_a_name_that_cannot_be_is_refused(tmp_path, name, says):
    with pytest.raises(OptionError, match=says):
        render(name, tmp_path / "new", taken={"vision"})
    assert not (tmp_path / "new").exists()


@settings(max_examples=25, deadline=None)
@given(st.from_regex(r"[a-z][a-z0-9]{0,8}(-[a-z0-9]{1,6}){0,3}", fullmatch=True))
def test_every_rendered_module_is_python(tmp_path_factory, name):
    if name.startswith("graftwork"):
        return
    for path in render(name, tmp_path_factory.mktemp("new") / name):
        if path.suffix == ".py":
            compile(path.read_text(encoding="utf-8"), str(path), "exec")


def test_a_folder_with_something_in_it_is_left_alone(tmp_path, capsys):
    (tmp_path / "kept.txt").touch()
    assert main(["plugins", "new", "bird-song", "--out", str(tmp_path)]) == 2
    assert "is no empty folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_a_taken_name_is_refused_by_the_command(tmp_path, capsys):
    assert main(["plugins", "new", "vision", "--out", str(tmp_path / "new")]) == 2
    assert "there is a plugin 'vision' already" in capsys.readouterr().err


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Render a plugin by the command and install it with pip, from a copy, into a folder of its own."""
    work = tmp_path_factory.mktemp("template")
    ran = CliRunner().invoke(root, ["plugins", "new", "bird-song", "--out", str(work / "new")], catch_exceptions=False)
    assert ran.exit_code == 0
    assert "graft plugins check bird-song" in ran.output
    shutil.copytree(work / "new", work / "copy")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    options = ["--no-deps", "--no-build-isolation", "--target", str(work / "site"), str(work / "copy")]
    done = subprocess.run([*pip, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return work / "new", work / "site"


def _run(rendered: tuple[Path, Path], *words: str) -> subprocess.CompletedProcess[str]:
    folder, site = rendered
    env = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=env, check=False)


@pytest.mark.slow
def test_a_rendered_plugin_passes_its_own_tests_and_the_conformance_checks(rendered):
    done = _run(rendered, "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist")
    assert done.returncode == 0, done.stdout[-3000:]
    # Its test_conformance is the battery; the tests of its own are five.
    assert "failed" not in done.stdout
    assert "xfailed" not in done.stdout


@pytest.mark.long
def test_a_rendered_plugin_is_typed(rendered):
    done = _run(rendered, "mypy", "-p", "graftwork_bird_song")
    assert done.returncode == 0, done.stdout


def test_the_host_takes_a_rendered_plugin_as_it_is(rendered):
    done = _run(rendered, "graftwork", "plugins", "show", "bird-song")
    assert "state:        ok" in done.stdout
    assert "bird-song/classification" in done.stdout
