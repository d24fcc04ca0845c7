"""`graft plugins doctor` on distributions that are laid out here, sound and unsound ones."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import graftwork
import graftwork.plugins.host
from graftwork.cli.main import main
from graftwork.doctor import Diagnosis, Extra, diagnose
from graftwork.plugins import Host
from graftwork.plugins.discovery import Candidate

SOUND = """
from graftwork.api import Check, Plugin, hookimpl

PLUGIN = Plugin(namespace="{name}", summary="Sound", extras={{"fast": "a kernel twice as fast"}})

@hookimpl
def graftwork_doctor():
    yield Check(state="ok", message="the cache is warm")
    yield Check(state="warn", message="little space is left", fix="graft data clean")
"""

Lay = Callable[..., None]


class Site:
    """Lay out distributions, and make a host that finds them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.candidates: list[Candidate] = []

    def dist(self, name: str, *lines: str, version: str = "1.0") -> None:
        info = self.folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        head = ["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}"]
        (info / "METADATA").write_text("\n".join([*head, *lines]) + "\n", encoding="utf-8")

    def plugin(self, name: str, *lines: str, source: str = SOUND) -> None:
        self.dist(f"graftwork-{name}", *lines)
        target = f"doctor_entry_{name}"
        (self.folder / f"{target}.py").write_text(source.format(name=name))
        self.candidates.append(Candidate(name=name, target=target, dist=f"graftwork-{name}", version="1.0"))

    def diagnose(self, **env: str) -> Diagnosis:
        return diagnose(self.host(**env))

    def host(self, **env: str) -> Host:
        return Host(find=lambda: tuple(self.candidates), env=env)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.syspath_prepend(tmp_path)
    yield Site(tmp_path)
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


def of(found: Diagnosis, about: str) -> list[tuple[str, str, str]]:
    checks = [finding.check for finding in found.findings if finding.about == about]
    return [(check.state, check.message, check.fix) for check in checks]


def extra(found: Diagnosis, dist: str, name: str) -> Extra:
    return next(e for e in found.extras if (e.distribution, e.name) == (dist, name))


def test_a_sound_house_is_well(site: Site) -> None:
    found = Host(find=tuple, env={})
    diagnosis = diagnose(found)
    assert diagnosis.is_well
    assert diagnosis.problems == ()
    assert diagnosis.versions["torch"] == torch.__version__.partition("+")[0]
    assert diagnosis.versions["graftwork"] == graftwork.__version__
    assert diagnosis.versions["python"].startswith(sys.version.split()[0])
    assert f"{torch.get_num_threads()} threads" in diagnosis.devices["cpu"]
    assert {"cpu", "mps"} < set(diagnosis.devices)


def test_a_plugin_s_own_words_are_among_the_findings_and_the_worst_comes_first(site: Site) -> None:
    site.plugin("acme")
    found = site.diagnose()
    assert of(found, "acme") == [
        ("warn", "little space is left", "graft data clean"),
        ("ok", "graftwork-acme 1.0", ""),
        ("ok", "the cache is warm", ""),
    ]
    assert found.is_well, "a warning is no failure"
    states = [finding.check.state for finding in found.findings]
    assert states == sorted(states, key=["fail", "warn", "ok"].index)


def test_a_plugin_that_is_not_loaded_is_a_failure_with_its_reason(site: Site) -> None:
    site.plugin("bad", source="raise RuntimeError('no such luck')")
    found = site.diagnose()
    assert not found.is_well
    ((state, message, fix),) = of(found, "bad")
    assert (state, message) == ("fail", "failed: RuntimeError: no such luck")
    assert "graftwork-bad" in fix


def test_a_plugin_the_user_blocked_is_no_failure(site: Site) -> None:
    site.plugin("acme")
    found = site.diagnose(GRAFTWORK_DISABLE_PLUGINS="acme")
    assert of(found, "acme")[0][:2] == ("ok", "not loaded: blocked by GRAFTWORK_DISABLE_PLUGINS")
    assert found.is_well


def test_a_plugin_that_costs_every_command_time_is_warned_of(site: Site) -> None:
    site.plugin("slow", source="import time\ntime.sleep(0.04)\n" + SOUND)
    ((state, message, fix), *_) = of(site.diagnose(), "slow")
    assert state == "warn"
    assert "ms when it is loaded" in message
    assert "entry module" in fix


def test_extras_are_present_absent_or_of_another_version(site: Site) -> None:
    site.dist("swift-kernels", version="2.5")
    site.plugin(
        "acme",
        "Provides-Extra: fast",
        'Requires-Dist: swift-kernels>=2; extra == "fast"',
        "Provides-Extra: faster",
        'Requires-Dist: swift-kernels>=3; extra == "faster"',
        "Provides-Extra: far",
        'Requires-Dist: swift-kernels; extra == "far"',
        'Requires-Dist: nobody-has-this>=1; extra == "far"',
        "Provides-Extra: elsewhere",
        'Requires-Dist: nobody-has-this; sys_platform == "nowhere" and extra == "elsewhere"',
    )
    found = site.diagnose()
    fast = extra(found, "graftwork-acme", "fast")
    assert (fast.state, fast.enables, fast.missing) == ("present", "a kernel twice as fast", ())
    faster = extra(found, "graftwork-acme", "faster")
    assert (faster.state, faster.missing) == ("outdated", ("swift-kernels>=3 (found 2.5)",))
    assert faster.enables == "what comes with swift-kernels"
    far = extra(found, "graftwork-acme", "far")
    assert (far.state, far.missing, far.install) == (
        "absent",
        ("nobody-has-this>=1",),
        "pip install 'graftwork-acme[far]'",
    )
    assert extra(found, "graftwork-acme", "elsewhere").state == "present"
    assert of(found, "graftwork-acme[faster]") == [
        ("warn", "needs swift-kernels>=3 (found 2.5)", "pip install 'graftwork-acme[faster]'")
    ]
    assert of(found, "graftwork-acme[far]") == [("ok", "absent", "")]


def test_an_extra_of_extras_is_looked_into_and_may_name_itself(site: Site) -> None:
    site.plugin(
        "acme",
        "Provides-Extra: all",
        'Requires-Dist: graftwork-acme[all,deep]; extra == "all"',
        "Provides-Extra: deep",
        'Requires-Dist: nobody-has-this; extra == "deep"',
    )
    found = site.diagnose()
    assert extra(found, "graftwork-acme", "all").missing == ("nobody-has-this",)


def test_a_requirement_that_is_not_met_is_a_failure(site: Site) -> None:
    site.dist("swift-kernels", version="2.5")
    site.plugin("acme", "Requires-Dist: swift-kernels<2", "Requires-Dist: nobody-has-this", "Requires-Dist: @@@")
    found = site.diagnose()
    assert of(found, "graftwork-acme") == [
        ("fail", "needs swift-kernels<2 (found 2.5), nobody-has-this", "pip install --upgrade graftwork-acme")
    ]
    assert found.versions["swift-kernels"] == "2.5"
    assert found.versions["nobody-has-this"] == "not installed"


def test_metadata_that_cannot_be_read_stop_nothing(site: Site) -> None:
    site.candidates.append(Candidate(name="ghost", target="x", dist="graftwork-ghost", fault="its metadata is gone"))
    found = site.diagnose()
    assert of(found, "ghost")[0][:2] == ("fail", "failed: its metadata is gone")


# The command


def test_the_command_puts_problems_first_and_exits_1(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site.plugin("acme", "Provides-Extra: fast", 'Requires-Dist: nobody-has-this; extra == "fast"')
    site.plugin("bad", source="raise RuntimeError('no such luck')")
    monkeypatch.setattr(graftwork.plugins.host, "_HOST", site.host())
    assert main(["plugins", "doctor"]) == 1
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0] == "fail: plugin bad: failed: RuntimeError: no such luck"
    assert lines[1].startswith("      to mend it: pip install --upgrade graftwork-bad")
    assert lines[2] == "warn: plugin acme: little space is left"
    assert "\nVERSIONS\n" in out
    assert "graftwork-acme[fast]    absent   a kernel twice as fast" in out
    assert "to have it: pip install 'graftwork-acme[fast]'" in lines
    assert main(["plugins", "doctor", "--json"]) == 1
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["ok"] is False
    assert found["plugins"] == {"core": "ok", "acme": "ok", "bad": "failed"}
    assert found["findings"][0]["about"] == "bad"
    assert [e["state"] for e in found["extras"] if e["distribution"] == "graftwork-acme"] == ["absent"]


def test_the_command_exits_0_where_nothing_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(graftwork.plugins.host, "_HOST", Host(find=tuple, env={}))
    assert main(["plugins", "doctor"]) == 0
    assert capsys.readouterr().out.startswith("Nothing is the matter.\n\nVERSIONS\n")


def test_every_extra_of_the_core_says_what_it_enables() -> None:
    found = diagnose(Host(find=tuple, env={}))
    assert {e.name for e in found.extras} == {"mlflow", "tensorboard", "wandb"}
    assert not any(e.enables.startswith("what comes with") for e in found.extras)
