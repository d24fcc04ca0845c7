"""The root of the command line, `graft plugins` and `graft tasks`."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

import graftwork
import graftwork.plugins.host
from graftwork.cli.main import COMMANDS, main
from graftwork.cli.text import columns
from graftwork.errors import TrainingError, UserError
from graftwork.plugins import Host
from graftwork.plugins.discovery import Candidate

PLUGIN = """
from graftwork.api import BlockSpec, CommandSpec, DocLink, Plugin, TaskSpec, hookimpl

PLUGIN = Plugin(namespace="acme", summary="Depth from one picture", docs="https://acme.example/docs")

@hookimpl
def graftwork_register_blocks():
    target = "graftwork.block:RegressionBlock"
    yield BlockSpec(id="acme/depth", target=target, summary="Depth in metres", deprecated="use z")

@hookimpl
def graftwork_register_tasks():
    yield TaskSpec(id="acme/depth", target="json:loads", summary="Tell the depth", inputs=("vision/image",),
                   targets=("acme/depth",), defaults={"model": "acme/net"}, deprecated="soon gone")

@hookimpl
def graftwork_register_docs():
    yield DocLink(id="acme/guide", title="The guide", url_or_path="docs/guide.md")

@hookimpl
def graftwork_register_commands():
    yield CommandSpec(id="acme/measure", name="measure", target="acme_commands:measure", summary="Measure a picture")
    yield CommandSpec(id="acme/broken", name="broken", target="acme_no_such_module:x", summary="Cannot be imported")
    yield CommandSpec(id="acme/train", name="train", target="acme_commands:measure", summary="Has the core's name")
"""

COMMANDS_MODULE = """
import click

@click.command()
@click.argument("path")
@click.option("--fail", type=click.Choice(["user", "training", "bug", "abort", "interrupt"]))
@click.option("--status", type=int)
def measure(path, fail, status):
    "Measure a picture."
    from graftwork.errors import TrainingError, UserError
    errors = {"user": UserError("no such picture"), "training": TrainingError("the loss is NaN"),
              "bug": ZeroDivisionError("division"), "abort": click.Abort(), "interrupt": KeyboardInterrupt()}
    if fail:
        raise errors[fail]
    click.echo(f"measured {path}")
    return status
"""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Run `graft` in this process, with plugins made of source text."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "acme_commands.py").write_text(COMMANDS_MODULE)
    made: list[str] = ["acme_commands"]

    def graft(*arguments: str, plugins: dict[str, str] | None = None, **env: str) -> tuple[int, str, str]:
        candidates = []
        for name, source in (plugins or {}).items():
            target = f"{name.replace('-', '_')}_entry_{len(made)}"
            made.append(target)
            (tmp_path / f"{target}.py").write_text(textwrap.dedent(source))
            candidates.append(Candidate(name=name, target=target, dist=f"graftwork-{name}", version="1.2"))
        host = Host(find=lambda: tuple(candidates), env=env)
        monkeypatch.setattr(graftwork.plugins.host, "_HOST", host)
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        status = main(arguments)
        out, err = capsys.readouterr()
        return status, out, err

    yield graft
    for name in made:
        sys.modules.pop(name, None)


ACME = {"acme": PLUGIN}
BROKEN = {"acme": PLUGIN, "bad": "def helper():\n    raise RuntimeError('first\\nsecond')\nhelper()\n"}


# The root


def test_help_lists_every_command_with_its_summary(run: Run) -> None:
    status, out, err = run("--help")
    assert (status, err) == (0, "")
    for name, entry in COMMANDS.items():
        assert f"  {name} " in out
        assert entry.summary in out
    assert "Commands of plugins" not in out


def test_the_summaries_name_commands_that_exist_and_agree_with_them() -> None:
    from importlib import import_module

    for name, entry in COMMANDS.items():
        module, _, attribute = entry.target.partition(":")
        command = vars(import_module(module))[attribute]
        assert isinstance(command, click.Command), name


def test_help_lists_the_commands_of_plugins_without_importing_them(run: Run) -> None:
    status, out, _ = run("-h", plugins=ACME)
    assert status == 0
    listed = out.partition("Commands of plugins:")[2]
    assert "measure     Measure a picture" in listed
    assert "broken      Cannot be imported" in listed
    assert "acme/train  Has the core's name" in listed
    assert "acme_commands" not in sys.modules


def test_a_plugin_s_command_runs_by_its_name_and_by_its_id(run: Run) -> None:
    assert run("measure", "a.png", plugins=ACME)[:2] == (0, "measured a.png\n")
    assert run("acme/measure", "a.png", plugins=ACME)[:2] == (0, "measured a.png\n")
    assert run("acme/train", "a.png", plugins=ACME)[:2] == (0, "measured a.png\n")
    assert "acme" not in run("train", "--help")[1]


def test_a_command_two_plugins_have_is_typed_by_its_id(run: Run) -> None:
    plugins = ACME | {"brand": PLUGIN.replace("acme/", "brand/").replace('"acme"', '"brand"')}
    listed = run("--help", plugins=plugins)[1].partition("Commands of plugins:")[2]
    assert "acme/measure" in listed
    assert "brand/measure" in listed
    assert run("brand/measure", "a.png", plugins=plugins)[:2] == (0, "measured a.png\n")
    status, _, err = run("measure", "a.png", plugins=plugins)
    assert status == 2
    assert "command 'measure' is ambiguous: 'acme/measure' and 'brand/measure'; write the full id" in err


def test_a_plugin_s_broken_command_breaks_nothing_but_itself(run: Run) -> None:
    status, _, err = run("broken", plugins=ACME)
    assert status == 2
    assert err.startswith(
        "Error: command 'acme/broken' of plugin 'acme': its target 'acme_no_such_module:x' cannot be "
    )
    assert run("measure", "a.png", plugins=ACME)[0] == 0


def test_the_version_is_said(run: Run) -> None:
    assert run("--version") == (0, f"graft, version {graftwork.__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tsk"], "unknown command 'tsk'; did you mean 'tasks'?"),
        (["plugins", "lst"], "unknown command 'lst'; did you mean 'list'?"),
        (["plugins", "list", "--jsn"], "--json"),
        (["plugins", "show"], "NAME"),
        (["plugins", "show", "cor"], "unknown plugin 'cor'; did you mean 'core'?"),
        (["-p", "vision", "tasks"], "'vision' must read no:NAME, as in -p no:text"),
        (["-p", "no:", "tasks"], "'no:' must read no:NAME"),
        (["-p", "no:core", "tasks"], "-p no:core: the core cannot be blocked"),
        (["plugins", "list", "extra"], "extra"),
        ([], "Usage: graft"),
    ],
)
def test_the_user_s_mistake_exits_2_with_the_nearest_name_and_no_traceback(
    run: Run, arguments: list[str], said: str
) -> None:
    status, out, err = run(*arguments)
    if status == 0:
        assert not arguments, "older clicks print the help and exit 0 when no command is given"
        err = out
    else:
        assert (status, out) == (2, "")
    assert said in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("how", "status", "said"),
    [
        ("user", 2, "Error: no such picture\n"),
        ("training", 1, "Error: the loss is NaN\n"),
        ("abort", 130, "Aborted\n"),
        ("interrupt", 130, "Aborted\n"),
    ],
)
def test_an_error_is_one_message_and_a_status(run: Run, how: str, status: int, said: str) -> None:
    found, out, err = run("measure", "a.png", "--fail", how, plugins=ACME)
    assert (found, out, err.lstrip("\n")) == (status, "", said)


def test_what_nobody_expected_shows_where_it_happened(run: Run) -> None:
    status, _, err = run("measure", "a.png", "--fail", "bug", plugins=ACME)
    assert status == 1
    assert "ZeroDivisionError: division" in err
    assert "acme_commands.py" in err
    assert err.endswith("Error: ZeroDivisionError was not expected here; please report the lines above\n")


@pytest.mark.parametrize("how", ["user", "training"])
def test_debug_shows_where_an_expected_error_happened(run: Run, how: str) -> None:
    assert "Traceback" in run("measure", "a.png", "--fail", how, plugins=ACME, GRAFTWORK_DEBUG="1")[2]
    assert "Traceback" not in run("measure", "a.png", "--fail", how, plugins=ACME, GRAFTWORK_DEBUG="0")[2]


def test_a_command_may_choose_its_status(run: Run) -> None:
    assert run("measure", "a.png", "--status", "3", plugins=ACME)[0] == 3


def test_blocking_by_option_keeps_a_plugin_out(run: Run) -> None:
    status, out, err = run("-p", "no:acme", "plugins", "list", plugins=ACME)
    assert (status, err) == (0, "")
    assert "blocked by -p no:acme" in out
    assert not any(name.startswith("acme_entry") for name in sys.modules)
    assert "measure" not in run("-p", "no:acme", "--help", plugins=ACME)[1]


def test_blocking_what_is_not_installed_is_said(run: Run) -> None:
    status, _, err = run("-p", "no:acmee", "plugins", "list", plugins=ACME)
    assert (status, err) == (0, "graft: -p no:acmee: unknown plugin 'acmee'; did you mean 'acme'?\n")


@pytest.mark.parametrize(
    "command", [["-m", "graftwork"], ["-c", "from graftwork.cli.main import main; main(['--version'])"]]
)
def test_the_module_is_the_command(command: list[str]) -> None:
    more = ["--version"] if command[0] == "-m" else []
    found = subprocess.run([sys.executable, *command, *more], capture_output=True, text=True)
    assert (found.returncode, found.stdout, found.stderr) == (0, f"graft, version {graftwork.__version__}\n", "")


def test_a_terminal_that_cannot_write_a_name_still_gets_the_list() -> None:
    code = "from graftwork.cli.main import main; main(['--version']); print('façade →')"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, env={"PYTHONIOENCODING": "ascii"})
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[-1] == b"fa\\xe7ade \\u2192"


# graft plugins


def last_object(out: str) -> dict[str, Any]:
    found = json.loads(out.splitlines()[-1])
    assert isinstance(found, dict)
    return found


def test_the_list_is_a_table_with_one_row_for_each(run: Run) -> None:
    status, out, err = run("plugins", "list", plugins=BROKEN)
    header, core, acme, bad = out.splitlines()
    assert status == 0
    assert header.split() == ["PLUGIN", "STATE", "VERSION", "API", "COMPONENTS", "NOTE"]
    assert core.split()[:4] == ["core", "ok", graftwork.__version__, "1.0"]
    assert acme.split() == ["acme", "ok", "1.2", "1.0", "6"]
    assert bad.split() == ["bad", "failed", "1.2", "-", "-", "RuntimeError:", "first", "second"]
    assert err == "graft: plugin 'bad' is not loaded: RuntimeError: first second; see `graft plugins show bad`\n"


def test_the_list_as_json_is_the_last_line(run: Run) -> None:
    status, out, _ = run("plugins", "list", "--json", plugins=BROKEN)
    assert status == 0
    core, acme, bad = last_object(out)["plugins"]
    assert core["name"] == "core"
    assert acme["components"]["commands"] == ["acme/measure", "acme/broken", "acme/train"]
    assert (acme["state"], acme["distribution"], acme["summary"]) == ("ok", "graftwork-acme", "Depth from one picture")
    assert (bad["state"], bad["reason"], bad["components"]) == ("failed", "RuntimeError: first\nsecond", {})
    assert "graftwork-bad" in bad["fix"]


def test_timing_puts_the_dearest_first_and_says_what_is_dear(run: Run) -> None:
    slow = PLUGIN.replace('"acme"', '"slow"').replace("acme/", "slow/") + "import time\ntime.sleep(0.05)\n"
    _, out, _ = run("plugins", "list", "--timing", plugins=ACME | {"slow": slow})
    header, first, *_ = out.splitlines()
    assert header.split()[5] == "MS"
    assert first.split()[0] == "slow"
    assert float(first.split()[5]) >= 50
    assert "slow to load: " in first


def test_show_lists_what_a_plugin_brings(run: Run) -> None:
    status, out, _ = run("plugins", "show", "acme", plugins=ACME)
    lines = out.splitlines()
    assert status == 0
    assert "plugin:       acme" in lines
    assert "distribution: graftwork-acme 1.2" in lines
    assert "docs:         https://acme.example/docs" in lines
    folded = [" ".join(line.split()) for line in lines]
    assert "acme/depth Depth in metres (deprecated: use z)" in folded
    assert "acme/guide The guide: docs/guide.md" in folded


def test_show_explains_a_failure_by_the_plugin_s_own_lines(run: Run) -> None:
    status, out, _ = run("plugins", "show", "bad", plugins=BROKEN)
    assert status == 0
    assert "state:        failed" in out
    assert "to mend it:   pip install --upgrade graftwork-bad, or pip uninstall graftwork-bad" in out
    trace = out.partition("Traceback (most recent call last):")[2]
    assert "in helper" in trace
    assert "host.py" not in trace
    assert "importlib" not in trace


def test_show_as_json_holds_the_trace(run: Run) -> None:
    (bad,) = last_object(run("plugins", "show", "bad", "--json", plugins=BROKEN)[1])["plugins"]
    assert "in helper" in bad["traceback"]
    (acme,) = last_object(run("plugins", "show", "acme", "--json", plugins=BROKEN)[1])["plugins"]
    assert acme["traceback"] == ""


def test_columns_are_aligned_and_the_last_has_no_trailing_space() -> None:
    assert (
        columns(("A", "LONG", "C"), [("wide", "x", ""), ("y", "z", "end")]) == "A     LONG  C\nwide  x\ny     z     end"
    )


def test_errors_of_both_sorts_are_graftwork_s() -> None:
    assert not issubclass(TrainingError, UserError)
