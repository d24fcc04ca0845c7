"""The host: one plugin at a time, all of it or nothing, and a state for each."""

from __future__ import annotations

import ast
import importlib.metadata
import sys
import textwrap
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import graftwork
from graftwork.api import API, BlockSpec, Check, LossSpec, Plugin, SourceSpec, hookimpl
from graftwork.errors import OptionError, PluginError, UnknownName
from graftwork.plugins import Host, PluginInfo, get_host
from graftwork.plugins import hookspecs as hookspec_module
from graftwork.plugins.discovery import Candidate, find_installed, judge

HEADER = "from graftwork.api import BlockSpec, DocLink, LossSpec, Plugin, hookimpl\n"
GOOD = """
PLUGIN = Plugin(namespace="acme", summary="A plugin")
@hookimpl
def graftwork_register_blocks():
    yield BlockSpec(id="acme/depth", target="graftwork.block:RegressionBlock", summary="Depth")
"""


def good(namespace: str) -> str:
    return GOOD.replace("acme", namespace)


class Workshop:
    """Write entry modules and make hosts that find them, and nothing else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.candidates: list[Candidate] = []

    def plugin(self, name: str, source: str, *, dist: str = "", major: int = API[0]) -> str:
        target = f"entry_{name.replace('-', '_')}_{len(self.candidates)}"
        (self.folder / f"{target}.py").write_text(HEADER + textwrap.dedent(source))
        self.candidates.append(
            Candidate(name=name, target=target, dist=dist or f"graftwork-{name}", version="1.2", major=major)
        )
        return target

    def host(self, **env: str) -> Host:
        return Host(find=lambda: tuple(self.candidates), env=env)


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workshop]:
    monkeypatch.syspath_prepend(tmp_path)
    yield Workshop(tmp_path)
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


def states(host: Host) -> dict[str, str]:
    return {info.handle: info.state for info in host.plugins()}


def only(host: Host, name: str) -> PluginInfo:
    (info,) = host.plugin(name)
    return info


# Discovery


def test_nothing_is_imported_until_something_is_asked(workshop: Workshop) -> None:
    target = workshop.plugin("acme", good("acme"))
    host = workshop.host()
    assert target not in sys.modules
    assert host.blocks.ids()
    assert target in sys.modules


def test_a_good_plugin_brings_its_records(workshop: Workshop) -> None:
    target = workshop.plugin("acme", good("acme"))
    host = workshop.host()
    info = only(host, "acme")
    assert (info.state, info.dist, info.version, info.target) == ("ok", "graftwork-acme", "1.2", target)
    assert info.records == {"blocks": ("acme/depth",)}
    assert (info.reason, info.fix, info.error, info.heavy) == ("", "", None, ())
    assert info.plugin is not None
    assert info.plugin.summary == "A plugin"
    assert host.blocks.owner("depth") == "acme"


def test_the_core_comes_first_and_by_the_same_way() -> None:
    first, *others = Host(find=tuple, env={}).plugins()
    assert (first.name, first.state, first.version, others) == ("core", "ok", graftwork.__version__, [])
    assert "core/category" in first.records["blocks"]


def test_plugins_are_loaded_once_also_by_threads(workshop: Workshop) -> None:
    workshop.plugin("acme", "import time\ntime.sleep(0.05)\n" + good("acme"))
    host = workshop.host()
    start = threading.Barrier(6)

    def ask(_: int) -> list[str]:
        start.wait()
        return host.blocks.ids()

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(ask, range(6)))
    assert all("acme/depth" in ids for ids in answers)
    assert len(host.plugins()) == 2


def test_the_process_has_one_host() -> None:
    assert get_host() is get_host()
    assert "core/category" in get_host().blocks


def test_a_plugin_that_asks_for_a_registry_while_it_is_imported_sees_what_is_there(workshop: Workshop) -> None:
    workshop.plugin("first", good("first"))
    workshop.plugin("second", "import builtins\nseen = builtins.the_host.blocks.ids()\n" + good("second"))
    import builtins

    host = workshop.host()
    builtins.the_host = host  # type: ignore[attr-defined]
    try:
        assert states(host) == {"core": "ok", "first": "ok", "second": "ok"}
    finally:
        del builtins.the_host  # type: ignore[attr-defined]
    assert "first/depth" in sys.modules[workshop.candidates[1].target].seen


def test_an_interrupt_while_loading_passes_and_the_next_ask_goes_on(workshop: Workshop) -> None:
    workshop.plugin("aaa", good("aaa"))
    workshop.plugin(
        "bbb", "import builtins\nif not hasattr(builtins, 'go_on'): raise KeyboardInterrupt\n" + good("bbb")
    )
    host = workshop.host()
    with pytest.raises(KeyboardInterrupt):
        host.plugins()
    import builtins

    builtins.go_on = True  # type: ignore[attr-defined]
    try:
        assert states(host) == {"core": "ok", "aaa": "ok", "bbb": "ok"}
    finally:
        del builtins.go_on  # type: ignore[attr-defined]


# One plugin's failure

FAILURES = {
    "import error": ("import no_such_module", "failed", "ModuleNotFoundError: No module named 'no_such_module'"),
    "exception": ("raise ValueError('two\\nlines')", "failed", "ValueError: two\nlines"),
    "syntax error": ("def (", "failed", "SyntaxError: "),
    "exit": ("import sys; sys.exit(3)", "failed", "SystemExit: 3"),
    "panic": ("class Panic(BaseException): ...\nraise Panic", "failed", "Panic"),
    "no PLUGIN": ("", "failed", "defines no PLUGIN = Plugin("),
    "PLUGIN of the wrong type": ("PLUGIN = {'namespace': 'acme'}", "failed", "defines no PLUGIN = Plugin("),
    "bad PLUGIN": ("PLUGIN = Plugin(namespace='Acme', summary='x')", "failed", "lower-case words"),
    "other namespace": (
        "PLUGIN = Plugin(namespace='brand', summary='x')",
        "conflict",
        "PLUGIN names the namespace 'brand'",
    ),
    "too new a minor": (
        f"PLUGIN = Plugin(namespace='acme', summary='x', requires_api=(1, {API[1] + 1}))",
        "incompatible",
        f"built for version 1.{API[1] + 1} of the plugin interface; this graftwork offers 1.{API[1]}",
    ),
    "other major": (
        "PLUGIN = Plugin(namespace='acme', summary='x', requires_api=(2, 0))",
        "incompatible",
        "built for version 2.0 of the plugin interface",
    ),
    "half way": (good("acme") + "    raise RuntimeError('half way')", "failed", "RuntimeError: half way"),
    "foreign id": (
        good("acme") + "    yield BlockSpec(id='core/depth', target='a:b', summary='x')",
        "conflict",
        "block 'core/depth' lies in a foreign namespace",
    ),
    "an id twice": (
        good("acme") + "    yield BlockSpec(id='acme/depth', target='a:b', summary='x')",
        "failed",
        "block 'acme/depth' is registered twice",
    ),
    "a bad record": (
        good("acme") + "    yield BlockSpec(id='acme/depth2', target='a.b', summary='x')",
        "failed",
        "block record 'acme/depth2': the target 'a.b' must read",
    ),
    "a wrong record": (
        good("acme") + "    yield DocLink(id='acme/g', title='G', url_or_path='g')",
        "failed",
        "graftwork_register_blocks must give BlockSpec records, and gave DocLink",
    ),
    "one record for many": (
        good("acme").replace("yield", "return"),
        "failed",
        "write return (BlockSpec(…),)",
    ),
    "nothing returned": (
        good("acme").replace("    yield", "    _ ="),
        "failed",
        "graftwork_register_blocks returned None; return its records, or ()",
    ),
    "mistyped hook": (
        good("acme").replace("register_blocks", "regsiter_blocks"),
        "failed",
        "there is no hook graftwork_regsiter_blocks; did you mean graftwork_register_blocks?",
    ),
    "mistyped prefix": (
        good("acme").replace("graftwork_register_blocks", "register_blocks"),
        "failed",
        "there is no hook register_blocks; did you mean graftwork_register_blocks?",
    ),
    "unmarked hook": (
        good("acme").replace("@hookimpl\n", ""),
        "failed",
        "graftwork_register_blocks is not marked as a hook; write @hookimpl above it",
    ),
    "unknown argument": (
        good("acme").replace("graftwork_register_blocks()", "graftwork_register_blocks(registry)"),
        "failed",
        "registry",
    ),
    "a wrapper": (
        good("acme") + "@hookimpl(wrapper=True)\ndef graftwork_resolve_source(location):\n    return (yield)\n",
        "failed",
        "graftwork_resolve_source wraps other plugins' answers",
    ),
    "a foreign default": (
        good("acme") + "@hookimpl\ndef graftwork_register_losses():\n    yield LossSpec(id='acme/mine', "
        "target='a:b', summary='x', blocks=('core/class-index',), default=True)\n",
        "conflict",
        "loss 'acme/mine' claims to be the default of foreign blocks",
    ),
}


@pytest.mark.parametrize("how", FAILURES)
def test_a_plugin_at_fault_leaves_no_record_and_harms_no_other(
    how: str, workshop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    source, state, reason = FAILURES[how]
    workshop.plugin("aaa", good("aaa"))
    workshop.plugin("acme", source)
    workshop.plugin("zzz", good("zzz"))
    host = workshop.host()
    before = {kind: set(registry.ids()) for kind, registry in Host(find=tuple, env={}).registries.items()}
    assert states(host) == {"core": "ok", "aaa": "ok", "acme": state, "zzz": "ok"}
    for kind, registry in host.registries.items():
        assert set(registry.ids()) == before[kind] | ({"aaa/depth", "zzz/depth"} if kind == "blocks" else set())
    info = only(host, "acme")
    assert reason in info.reason
    assert info.fix
    assert info.records == {}
    assert info.error is not None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("graft: plugin 'acme' is not loaded: ")
    assert line.endswith("; see `graft plugins show acme`")


@pytest.mark.parametrize("how", FAILURES)
def test_strict_raises_what_a_plugin_raised(how: str, workshop: Workshop) -> None:
    workshop.plugin("acme", FAILURES[how][0])
    host = workshop.host(GRAFTWORK_STRICT_PLUGINS="1")
    with pytest.raises(BaseException) as error:  # noqa: PT011
        host.plugins()
    assert not isinstance(error.value, KeyboardInterrupt)


def test_strict_is_off_when_it_says_so(workshop: Workshop) -> None:
    workshop.plugin("acme", "raise ValueError")
    assert states(workshop.host(GRAFTWORK_STRICT_PLUGINS="0"))["acme"] == "failed"


def test_what_a_plugin_prints_goes_to_standard_error(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    workshop.plugin("acme", "print('from the module')\n" + good("acme") + "    print('from the hook')\n")
    assert states(workshop.host())["acme"] == "ok"
    out, err = capsys.readouterr()
    assert (out, err) == ("", "from the module\nfrom the hook\n")


def test_a_plugin_may_be_an_attribute_of_a_module(workshop: Workshop) -> None:
    body = textwrap.indent(
        good("acme").replace("graftwork_register_blocks()", "graftwork_register_blocks(self)"), "    "
    )
    target = workshop.plugin("acme", f"class Entry:\n{body}\nentry = Entry()\n")
    workshop.candidates[0] = Candidate(name="acme", target=f"{target}:entry", dist="graftwork-acme")
    assert states(workshop.host())["acme"] == "ok"


def test_time_and_heavy_libraries_are_written_down(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "numba", raising=False)
    (workshop.folder / "numba.py").write_text("")
    workshop.plugin("heavy", "import numba\n" + good("heavy"))
    workshop.plugin("slow", "import time\ntime.sleep(0.03)\n" + good("slow"))
    workshop.plugin("slow-and-bad", "import time\ntime.sleep(0.03)\nraise ValueError")
    host = workshop.host()
    heavy, slow, bad = (only(host, name) for name in ("heavy", "slow", "slow-and-bad"))
    assert (heavy.state, heavy.heavy) == ("ok", ("numba",))
    assert (slow.state, slow.slow, slow.heavy) == ("ok", True, ())
    assert slow.ms >= 30
    assert (bad.state, bad.slow) == ("failed", True)


# Names


def test_an_entry_of_another_major_is_reported_and_not_imported(workshop: Workshop) -> None:
    target = workshop.plugin("acme", good("acme"), major=2)
    workshop.plugin("old", good("old"), major=0)
    host = workshop.host()
    assert states(host) == {"core": "ok", "acme": "incompatible", "old": "incompatible"}
    assert target not in sys.modules
    assert only(host, "acme").fix == "pip install --upgrade graftwork"
    assert only(host, "old").fix == "pip install --upgrade graftwork-old"


def test_a_second_claimant_takes_neither_the_name_nor_the_plugin_down(
    workshop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    workshop.plugin("acme", good("acme"))
    squatter = workshop.plugin("acme", good("acme"), dist="graftwork-squatter")
    twin = workshop.plugin("acme", good("acme"), dist="acme")
    host = workshop.host()
    found = {info.dist: (info.state, info.reason) for info in host.plugin("acme")}
    assert found["graftwork-acme"] == ("ok", "")
    assert found["graftwork-squatter"] == (
        "conflict",
        "distribution 'graftwork-squatter' may register the plugin 'squatter', not 'acme'",
    )
    assert found["acme"] == (
        "conflict",
        "the namespace 'acme' belongs to distribution 'graftwork-acme', which is installed as well",
    )
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("graft: plugin 'acme' of distribution 'graftwork-squatter' is not loaded: ")
    assert first.endswith("; see `graft plugins show graftwork-squatter`")
    assert second.startswith("graft: plugin 'acme' of distribution 'acme' is not loaded: ")
    assert squatter not in sys.modules
    assert twin not in sys.modules
    assert "acme/depth" in host.blocks


def test_a_distribution_needs_no_prefix(workshop: Workshop) -> None:
    workshop.plugin("acme-depth", good("acme-depth"), dist="Acme_Depth")
    assert states(workshop.host())["acme-depth"] == "ok"


def test_the_core_s_namespace_is_its_own(workshop: Workshop) -> None:
    target = workshop.plugin("core", good("core"), dist="graftwork-core")
    host = workshop.host()
    assert {(info.dist, info.state) for info in host.plugins()} == {("graftwork", "ok"), ("graftwork-core", "conflict")}
    assert target not in sys.modules


def candidate(name: str, dist: str, target: str = "m") -> Candidate:
    return Candidate(name=name, target=target, dist=dist)


def test_a_distribution_that_names_itself_twice_is_refused() -> None:
    verdicts = dict(judge([candidate("acme", "acme", "a"), candidate("acme", "acme", "b")]))
    assert set(verdicts.values()) == {"distribution 'acme' registers the plugin 'acme' more than once"}


DISTS = st.sampled_from(["graftwork-a", "a", "graftwork-b", "b", "graftwork_a", "core", "graftwork-c"])


@given(st.lists(st.builds(candidate, st.sampled_from(["a", "b", "core"]), DISTS), max_size=8, unique=True))
def test_a_name_has_at_most_one_owner_and_strangers_never_take_it(claimants: list[Candidate]) -> None:
    verdicts = list(judge(claimants))
    assert {c for c, _ in verdicts} == set(claimants)
    owners = [c for c, objection in verdicts if not objection]
    assert len({c.name for c in owners}) == len(owners)
    assert all(c.namespace == c.name != "core" for c in owners)
    honest = [c for c in claimants if c.namespace == c.name != "core"]
    alone = dict(judge(honest))
    assert all(alone[c] == objection for c, objection in verdicts if c in honest)


def test_entry_points_are_read_from_the_installed_distributions() -> None:
    found = {(c.name, c.dist, c.target) for c in find_installed()}
    assert ("vision", "graftwork-vision", "graftwork_vision.plugin") in found
    assert all(c.version == importlib.metadata.version(c.dist) for c in find_installed())


def lay(folder: Path, info: str, **files: str) -> None:
    (folder / info).mkdir(parents=True)
    for name, text in files.items():
        (folder / info / {"points": "entry_points.txt", "meta": "METADATA"}[name]).write_text(text, encoding="utf-8")


def test_a_distribution_that_cannot_be_read_is_a_failed_plugin_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    meta = "Metadata-Version: 2.1\nName: graftwork-{}\nVersion: 1.0\n"
    points = "[graftwork.plugins.v1]\n{0} = {0}_entry\n"
    lay(tmp_path, "graftwork_good-1.0.dist-info", points=points.format("good"), meta=meta.format("good"))
    lay(tmp_path, "graftwork_rest-1.0.dist-info", points=points.format("rest"))
    lay(tmp_path, "graftwork_torn-1.0.dist-info", points="[graftwork.plugins.v1]\ntorn\n", meta=meta.format("torn"))
    lay(tmp_path, "unrelated-1.0.dist-info", points="[console_scripts]\nbroken\n")
    (tmp_path / "good_entry.py").write_text(HEADER + good("good"), encoding="utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    host = Host(env={})
    assert states(host) == {"core": "ok", "good": "ok", "rest": "failed", "torn": "failed"}
    assert "its metadata cannot be read" in only(host, "rest").reason
    assert "its entry_points.txt cannot be read" in only(host, "torn").reason
    assert len(capsys.readouterr().err.splitlines()) == 2
    sys.modules.pop("good_entry")


def test_the_first_of_several_copies_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, version in (("first", "2.0"), ("second", "1.0")):
        meta = f"Metadata-Version: 2.1\nName: Graftwork_Twice\nVersion: {version}\n"
        lay(tmp_path / folder, "graftwork_twice.dist-info", points="[graftwork.plugins.v1]\ntwice = m\n", meta=meta)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "first"), str(tmp_path / "second")])
    assert [(c.name, c.version, c.namespace) for c in find_installed()] == [("twice", "2.0", "twice")]


def test_what_serves_two_hosts_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = "[graftwork.plugins.v2]\nboth = new\nother = new\n[graftwork.plugins.v1]\nboth = old\n"
    meta = "Metadata-Version: 2.1\nName: graftwork-both\nVersion: 1\n"
    lay(tmp_path, "graftwork_both-1.dist-info", points=points, meta=meta)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert [(c.name, c.target, c.major) for c in find_installed()] == [("both", "old", 1), ("other", "new", 2)]


# Blocking


def test_a_blocked_plugin_is_not_imported(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    target = workshop.plugin("acme", good("acme"))
    workshop.plugin("zzz", good("zzz"))
    host = workshop.host(GRAFTWORK_DISABLE_PLUGINS=" acme ,")
    assert states(host) == {"core": "ok", "acme": "blocked", "zzz": "ok"}
    assert only(host, "acme").reason == "blocked by GRAFTWORK_DISABLE_PLUGINS"
    assert target not in sys.modules
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("allowed", "loaded"), [("", set()), ("acme", {"acme"}), ("acme, zzz", {"acme", "zzz"})])
def test_the_allow_list_lets_in_no_other(workshop: Workshop, allowed: str, loaded: set[str]) -> None:
    workshop.plugin("acme", good("acme"))
    workshop.plugin("zzz", good("zzz"))
    host = workshop.host(GRAFTWORK_PLUGINS=allowed)
    assert {name for name, state in states(host).items() if state == "ok"} == {"core"} | loaded
    assert all(only(host, name).reason == "not among GRAFTWORK_PLUGINS" for name in {"acme", "zzz"} - loaded)


def test_the_host_can_be_told_before_it_loads_and_not_after(workshop: Workshop) -> None:
    target = workshop.plugin("acme", good("acme"))
    host = workshop.host(GRAFTWORK_PLUGINS="acme")
    host.block("acme", why="-p no:acme")
    assert only(host, "acme").reason == "blocked by -p no:acme"
    assert target not in sys.modules
    with pytest.raises(PluginError, match="-p no:acme: the plugins are already loaded"):
        host.block("acme", why="-p no:acme")


def test_the_core_cannot_be_blocked(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OptionError, match="-p no:core: the core cannot be blocked"):
        Host(find=tuple, env={}).block("core", why="-p no:core")
    assert states(Host(find=tuple, env={"GRAFTWORK_DISABLE_PLUGINS": "core"})) == {"core": "ok"}
    assert capsys.readouterr().err == "graft: GRAFTWORK_DISABLE_PLUGINS names 'core', which cannot be blocked\n"
    assert states(Host(find=tuple, env={"GRAFTWORK_PLUGINS": ""})) == {"core": "ok"}


@pytest.mark.parametrize("variable", ["GRAFTWORK_PLUGINS", "GRAFTWORK_DISABLE_PLUGINS"])
def test_a_name_that_is_not_installed_is_not_passed_over(
    workshop: Workshop, variable: str, capsys: pytest.CaptureFixture[str]
) -> None:
    workshop.plugin("vision", good("vision"))
    workshop.host(**{variable: "visoin"}).plugins()
    assert capsys.readouterr().err == f"graft: {variable}: unknown plugin 'visoin'; did you mean 'vision'?\n"


def test_a_squatter_is_blocked_by_its_own_name(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    workshop.plugin("acme", good("acme"))
    workshop.plugin("acme", good("acme"), dist="graftwork-squatter")
    host = workshop.host(GRAFTWORK_DISABLE_PLUGINS="squatter")
    assert {info.dist: info.state for info in host.plugin("acme")} == {
        "graftwork-acme": "ok",
        "graftwork-squatter": "blocked",
    }
    assert capsys.readouterr().err == ""


# Asking for what is not there


def refusal(host: Host, name: str) -> str:
    with pytest.raises((UnknownName, PluginError)) as error:
        host.blocks.get(name)
    return str(error.value)


def test_what_a_failed_plugin_would_own_is_refused_with_the_reason(workshop: Workshop) -> None:
    workshop.plugin("vision", "import no_such_module")
    assert refusal(workshop.host(), "vision/image") == (
        "block 'vision/image' belongs to plugin 'vision', which failed to load: "
        "ModuleNotFoundError: No module named 'no_such_module'; "
        "try: pip install --upgrade graftwork-vision, or pip uninstall graftwork-vision"
    )


def test_what_a_blocked_plugin_would_own_is_refused_with_who_blocked_it(workshop: Workshop) -> None:
    workshop.plugin("vision", good("vision"))
    message = refusal(workshop.host(GRAFTWORK_DISABLE_PLUGINS="vision"), "vision/depth")
    assert "belongs to plugin 'vision', which was not loaded: blocked by GRAFTWORK_DISABLE_PLUGINS" in message


def test_a_first_party_namespace_is_known_without_being_installed() -> None:
    host = Host(find=tuple, env={})
    assert refusal(host, "text/tokens").endswith("provided by graftwork-text: pip install graftwork-text")
    assert "no installed plugin has the namespace 'acme'" in refusal(host, "acme/depth")


def test_a_misspelt_id_gets_the_nearest_and_a_short_one_the_missing_plugins(workshop: Workshop) -> None:
    workshop.plugin("acme", good("acme"))
    workshop.plugin("vision", "raise ValueError")
    host = workshop.host()
    assert "did you mean 'acme/depth'" in refusal(host, "acme/dpeth")
    assert refusal(host, "image").endswith("not loaded: vision (failed)")


def test_an_unknown_plugin_is_refused_with_the_nearest(workshop: Workshop) -> None:
    workshop.plugin("vision", good("vision"))
    with pytest.raises(UnknownName, match="unknown plugin 'visoin'; did you mean 'vision'"):
        workshop.host().plugin("visoin")
    assert only(workshop.host(), "graftwork-vision").name == "vision"


def test_what_a_component_needs_is_installed_by_its_plugin_s_own_line(workshop: Workshop) -> None:
    source = good("acme").replace('summary="A plugin"', 'summary="A plugin", install="pip install acme[all]"')
    workshop.plugin("acme", source.replace('summary="Depth"', 'summary="Depth", requires=("no_such_module",)'))
    assert refusal(workshop.host(), "acme/depth").endswith("try: pip install acme[all]")


# Registering by hand


def by_hand(namespace: str, *ids: str, **members: object) -> Any:
    """Make a plugin object as one would in a notebook."""

    @hookimpl
    def graftwork_register_blocks() -> Iterable[BlockSpec]:
        return [BlockSpec(id=name, target="graftwork.block:RegressionBlock", summary="x") for name in ids]

    module = ModuleType(f"notebook_{namespace}")
    vars(module).update(
        PLUGIN=Plugin(namespace=namespace, summary="By hand"),
        graftwork_register_blocks=graftwork_register_blocks,
        **members,
    )
    return module


@pytest.fixture
def bare() -> Host:
    return Host(find=tuple, env={})


def test_a_late_plugin_takes_the_same_way(bare: Host) -> None:
    assert "mine/depth" not in bare.blocks
    info = bare.register(by_hand("mine", "mine/depth"))
    assert (info.state, info.records) == ("ok", {"blocks": ("mine/depth",)})
    assert bare.blocks.get("depth") is graftwork.RegressionBlock


def test_a_late_plugin_at_fault_leaves_nothing_and_can_be_mended(
    bare: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    info = bare.register(by_hand("mine", "mine/depth", "core/other"))
    assert (info.state, info.records) == ("conflict", {})
    assert "mine/depth" not in bare.blocks
    assert "is not loaded: block 'core/other' lies in a foreign namespace" in capsys.readouterr().err
    assert bare.register(by_hand("mine", "mine/depth")).state == "ok"
    assert [info.state for info in bare.plugin("mine")] == ["ok"]


def test_a_late_plugin_cannot_replace_one_that_is_loaded(bare: Host) -> None:
    bare.register(by_hand("mine", "mine/depth"))
    assert bare.register(by_hand("mine", "mine/other")).state == "conflict"
    assert bare.register(by_hand("core", "core/other")).state == "conflict"
    assert "mine/other" not in bare.blocks
    assert "mine/depth" in bare.blocks


def test_a_late_plugin_cannot_get_round_a_block(workshop: Workshop) -> None:
    workshop.plugin("mine", good("mine"))
    host = workshop.host(GRAFTWORK_DISABLE_PLUGINS="mine")
    assert host.register(by_hand("mine", "mine/depth")).state == "conflict"
    assert "mine/depth" not in host.blocks


def test_an_object_without_a_manifest_is_refused(bare: Host) -> None:
    info = bare.register(SimpleNamespace())
    assert (info.name, info.state) == ("SimpleNamespace", "failed")
    assert info.reason == "SimpleNamespace defines no PLUGIN = Plugin(namespace=…, summary=…)"


# Run-time hooks


def runtime(namespace: str, **hooks: Callable[..., object]) -> Any:
    @hookimpl
    def graftwork_register_sources() -> Iterable[SourceSpec]:
        return (SourceSpec(id=f"{namespace}/folder", target="a:b", summary="x", patterns=("*",), gives=()),)

    marked = {f"graftwork_{name}": hookimpl(specname=f"graftwork_{name}")(hook) for name, hook in hooks.items()}
    return by_hand(namespace, graftwork_register_sources=graftwork_register_sources, **marked)


def test_the_first_claim_of_a_source_is_taken_and_the_others_are_said(
    bare: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    bare.register(runtime("two", resolve_source=lambda location: "two/folder"))
    bare.register(runtime("one", resolve_source=lambda location, head: "one/folder" if head == b"PK" else None))
    assert bare.resolve_source("data") == "two/folder"
    assert capsys.readouterr().err == ""
    assert bare.resolve_source("data.zip", head=b"PK") == "one/folder"
    assert (
        "data.zip is claimed by several sources: one/folder, two/folder; taking one/folder" in capsys.readouterr().err
    )
    assert bare.resolve_source("data.zip", head=b"PK", prefer="two") == "two/folder"


def test_a_claim_for_nothing_known_and_a_plugin_that_raises_are_passed_over(
    bare: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    def explode(location: str) -> str:
        raise SystemExit(location)

    bare.register(runtime("aaa", resolve_source=explode))
    bare.register(runtime("bbb", resolve_source=lambda: "bbb/nothing"))
    assert bare.resolve_source("here") is None
    bare.register(runtime("ccc", resolve_source=lambda: "ccc/folder"))
    capsys.readouterr()
    assert bare.resolve_source("here") == "ccc/folder"
    assert capsys.readouterr().err.splitlines() == [
        "graft: plugin 'aaa' could not answer graftwork_resolve_source: SystemExit: here",
        "graft: here was claimed for the source 'bbb/nothing', which is not registered; passed over",
    ]


def test_every_doctor_is_heard_also_beside_one_that_falls_ill(bare: Host) -> None:
    def ill() -> Iterator[Check]:
        yield Check(state="ok", message="so far")
        raise RuntimeError("ouch")

    bare.register(runtime("aaa", doctor=ill))
    bare.register(runtime("bbb", doctor=lambda: (Check(state="warn", message="slow disk", fix="buy one"),)))
    bare.register(runtime("ccc", doctor=lambda: None))
    report = bare.doctor()
    assert report["aaa"] == (Check(state="fail", message="its doctor raised RuntimeError: ouch"),)
    assert report["bbb"] == (Check(state="warn", message="slow disk", fix="buy one"),)
    assert report["ccc"] == ()


def test_only_the_owner_migrates_a_config(bare: Host) -> None:
    def migrate(config: Mapping[str, Any], version: int) -> Mapping[str, Any]:
        return dict(config, by="aaa", version=version)

    bare.register(runtime("aaa", migrate_config=migrate))
    bare.register(runtime("bbb", migrate_config=lambda config: None))
    assert bare.migrate_config("aaa/depth", {"x": 1}, 3) == {"x": 1, "by": "aaa", "version": 3}
    assert bare.migrate_config("bbb/depth", {"x": 1}, 3) == {"x": 1}
    assert bare.migrate_config("core/category", {"x": 1}, 3) == {"x": 1}


# The interface


def test_every_hook_is_documented_and_typed() -> None:
    hooks = {name: hook for name, hook in vars(hookspec_module).items() if name.startswith("graftwork_")}
    assert len(hooks) == 16
    for name, hook in hooks.items():
        assert hook.__doc__, name
        assert hook.__annotations__["return"], name
        if name.startswith("graftwork_register_"):
            assert hook.__code__.co_argcount == 0, name
            assert hook.graftwork_spec["historic"], name
    registries = Host(find=tuple, env={}).registries
    assert {f"graftwork_register_{kind}" for kind in registries} <= set(hooks)


def test_nobody_but_the_host_speaks_to_pluggy_s_relay() -> None:
    package = Path(graftwork.__file__).parent
    users = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "hook"
    }
    assert users == {"plugins/host.py"}


def test_the_core_s_defaults_agree_with_its_blocks() -> None:
    host = Host(find=tuple, env={})
    blocks = {
        "core/class-index": graftwork.ClassIndexBlock(vocab=("a", "b")),
        "core/multi-hot": graftwork.MultiHotBlock(vocab=("a", "b")),
        "core/regression": graftwork.RegressionBlock(),
    }
    for name, block in blocks.items():
        assert [spec.id for spec in host.losses.find(blocks=name, default=True)] == [block.loss_id]
        assert {spec.id for spec in host.metrics.find(blocks=name, default=True)} == set(block.metric_ids)
        assert set(block.baseline_ids) <= {spec.id for spec in host.baselines.find(blocks=name)}


def installed_components() -> list[tuple[str, str]]:
    registries = get_host().registries
    return [(kind, name) for kind, registry in registries.items() for name in registry.ids()]


@pytest.mark.parametrize(("kind", "name"), installed_components())
def test_every_installed_component_resolves(kind: str, name: str) -> None:
    registry = get_host().registries[kind]
    for module in registry.spec(name).requires:
        pytest.importorskip(module)
    assert registry.get(name) is registry.get(name)


def test_a_default_loss_may_be_claimed_for_one_s_own_block(bare: Host) -> None:
    @hookimpl
    def graftwork_register_losses() -> Iterable[LossSpec]:
        return (LossSpec(id="mine/l", target="a:b", summary="x", blocks=("mine/depth", "core/mse"), default=True),)

    info = bare.register(by_hand("mine", "mine/depth", graftwork_register_losses=graftwork_register_losses))
    assert info.state == "ok"
