"""Registries: names, columns, and what happens when a target is asked for."""

from __future__ import annotations

import sys
import textwrap
import threading
import types
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork.api import BlockSpec, CommandSpec, DocLink, MetricSpec, ModelSpec
from graftwork.block import CategoryBlock
from graftwork.errors import PluginError, UnknownName, UserError, unknown
from graftwork.plugins.registry import Registry, load_target
from graftwork.spec import Spec

Writer = Callable[[str, str], str]


class Bare:
    """A directory without plugins, which counts how often it is asked to load them."""

    discovered = 0

    def discover(self) -> None:
        self.discovered += 1

    def missing(self, kind: str, name: str, ids: Collection[str]) -> UserError:
        return unknown(kind, name, ids, hint="asked the directory")

    def install_line(self, namespace: str, *, needs: Sequence[str] = ()) -> str:
        return f"pip install graftwork-{namespace}"


def model(name: str, target: str = "builtins:dict", **changed: object) -> ModelSpec:
    fields: dict[str, object] = {"summary": "A model", "inputs": ("vision/image",), "output": "core/class-index"}
    return ModelSpec(id=name, target=target, **(fields | changed))  # type: ignore[arg-type]


def registry(*specs: Spec, kind: type[Spec] = ModelSpec) -> Registry[Spec, object]:
    directory = Bare()
    made: Registry[Spec, object] = Registry(kind, load=partial(load_target, directory=directory), directory=directory)
    for spec in specs:
        made.add(spec)
    return made


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Writer]:
    """Write a module that can be imported until the test ends."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, source: str) -> str:
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    yield write
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


def test_plugins_are_loaded_when_a_registry_is_first_asked() -> None:
    directory = Bare()
    table: Registry[ModelSpec, object] = Registry(ModelSpec, load=lambda spec: spec, directory=directory)
    assert directory.discovered == 0
    assert table.ids() == []
    assert directory.discovered == 1
    for ask in (lambda: len(table), lambda: "a/b" in table, lambda: table.find()):
        before = directory.discovered
        ask()
        assert directory.discovered > before


def test_a_target_is_imported_on_first_use_and_only_once(module: Writer) -> None:
    name = module("late_target", "calls = []\ndef build():\n    calls.append(1)\n")
    table = registry(model("acme/late", f"{name}:build"))
    assert table.ids() == ["acme/late"]
    assert table.spec("late").target == "late_target:build"
    assert name not in sys.modules
    assert table.get("acme/late") is table.get("late")
    assert name in sys.modules
    assert sys.modules[name].calls == [], "a component is handed out, not called"


def test_threads_that_ask_together_get_the_same_component(module: Writer) -> None:
    module(
        "fresh_each_time",
        """
        import time
        def __getattr__(name):
            if name.startswith("_"):
                raise AttributeError(name)
            time.sleep(0.02)
            return lambda: None
        """,
    )
    table = registry(model("acme/lazy", "fresh_each_time:build"))
    start = threading.Barrier(8)

    def ask(_: int) -> object:
        start.wait()
        return table.get("acme/lazy")

    with ThreadPoolExecutor(8) as pool:
        assert len({id(found) for found in pool.map(ask, range(8))}) == 1


def test_a_short_name_stands_for_the_only_one() -> None:
    table = registry(model("acme/net"), model("acme/other"))
    assert table.resolve("net") == "acme/net"
    assert table.owner("net") == "acme"


def test_a_short_name_of_two_plugins_is_refused_naming_both() -> None:
    table = registry(model("acme/net"), model("brand/net"))
    with pytest.raises(UnknownName, match="model 'net' is ambiguous: 'acme/net' and 'brand/net'; write the full id"):
        table.get("net")
    assert table.resolve("brand/net") == "brand/net"


def test_what_the_core_calls_by_a_short_name_keeps_it() -> None:
    table = registry(model("acme/net"), model("core/net"), model("brand/net"))
    assert table.resolve("net") == "core/net"


def test_an_unknown_name_is_refused_by_the_directory() -> None:
    with pytest.raises(UnknownName, match=r"unknown model 'acme/nett'; did you mean 'acme/net'.*asked the directory"):
        registry(model("acme/net")).spec("acme/nett")


def test_nothing_is_overwritten() -> None:
    table = registry(model("acme/net"))
    with pytest.raises(PluginError, match="model 'acme/net' is already registered"):
        table.add(model("acme/net", summary="Another"))
    assert table.spec("acme/net").summary == "A model"


def test_records_are_found_by_their_columns() -> None:
    table = registry(
        model("acme/a", inputs=("vision/image", "tabular/row"), params_m=3.0),
        model("acme/b", role="head"),
        model("acme/c", inputs=("tabular/row",), pretrained=("imagenet",)),
    )

    def found(**columns: object) -> str:
        return "".join(spec.id[-1] for spec in table.find(**columns))

    assert found() == "abc"
    assert found(inputs="vision/image") == "ab"
    assert found(inputs=("vision/image", "tabular/row")) == "a"
    assert found(inputs="tabular/row", pretrained="imagenet") == "c"
    assert found(role="head") == "b"
    assert found(params_m=3.0) == "a"
    assert found(output="core/regression") == ""


def test_an_unknown_column_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="unknown field of a model 'input'; did you mean 'inputs'"):
        registry(model("acme/a")).find(input="vision/image")


def test_a_requirement_that_is_not_installed_is_named_before_anything_is_imported(module: Writer) -> None:
    name = module("needs_more", "def build(): ...\n")
    table = registry(model("acme/net", f"{name}:build", requires=("json", "no_such_module", "nor_this")))
    with pytest.raises(
        PluginError, match="model 'acme/net' needs 'no_such_module' and 'nor_this', which are not"
    ) as error:
        table.get("net")
    assert str(error.value).endswith("try: pip install graftwork-acme")
    assert name not in sys.modules


def test_a_required_module_made_by_hand_counts_as_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "made_by_hand", types.ModuleType("made_by_hand"))
    assert registry(model("acme/net", requires=("made_by_hand",))).get("net") is dict


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise RuntimeError('boom')", "RuntimeError: boom"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("class Panic(BaseException): ...\nraise Panic('rust')", "Panic: rust"),
        ("def biuld(): ...", "has no attribute 'build'; did you mean 'biuld'?"),
        ("build = 7", "is 7, which cannot be called"),
    ],
)
def test_a_target_that_cannot_be_had_is_its_plugin_s_fault(module: Writer, body: str, said: str) -> None:
    table = registry(model("acme/net", f"{module('broken_target', body)}:build"))
    with pytest.raises(PluginError) as error:
        table.get("net")
    message = str(error.value)
    assert message.startswith("model 'acme/net' of plugin 'acme': its target 'broken_target:build' ")
    assert said in message
    assert message.endswith("see `graft plugins show acme`")


def test_a_failed_import_is_tried_again(module: Writer) -> None:
    name = module("comes_later", "raise RuntimeError('not yet')")
    table = registry(model("acme/net", f"{name}:build"))
    with pytest.raises(PluginError, match="not yet"):
        table.get("net")
    module(name, "build = dict  # and longer than what failed, so that it is compiled anew")
    assert table.get("net") is dict


def test_an_interrupt_is_not_swallowed(module: Writer) -> None:
    with pytest.raises(KeyboardInterrupt):
        registry(model("acme/net", f"{module('interrupted', 'raise KeyboardInterrupt')}:build")).get("net")


def test_a_block_s_target_must_be_a_block() -> None:
    fine = BlockSpec(id="acme/cat", target="graftwork.block:CategoryBlock", summary="A block")
    wrong = BlockSpec(id="acme/dict", target="builtins:dict", summary="No block")
    function = BlockSpec(id="acme/len", target="builtins:len", summary="No class")
    table = registry(fine, wrong, function, kind=BlockSpec)
    assert table.get("cat") is CategoryBlock
    with pytest.raises(PluginError, match="is <class 'dict'>, which is not a subclass of Block"):
        table.get("dict")
    with pytest.raises(PluginError, match="which is not a subclass of Block"):
        table.get("len")


def test_a_command_s_target_must_be_a_command_and_no_class_of_them() -> None:
    table = registry(
        CommandSpec(id="acme/run", name="run", target="click:Command", summary="A class"), kind=CommandSpec
    )
    with pytest.raises(PluginError, match="which is not a Command"):
        table.get("run")


def test_a_deprecated_component_says_so_and_works() -> None:
    table = registry(model("acme/net", deprecated="use acme/net2"))
    with pytest.warns(FutureWarning, match="model 'acme/net' is deprecated: use acme/net2"):
        assert table.get("net") is dict


def test_a_doc_link_is_loaded_by_its_own_means() -> None:
    table: Registry[DocLink, str] = Registry(DocLink, load=lambda link: link.url_or_path, directory=Bare())
    table.add(DocLink(id="acme/guide", title="Guide", url_or_path="docs/guide.md"))
    assert table.get("guide") == "docs/guide.md"


NAMES = st.from_regex(r"[a-z][a-z0-9]{0,3}", fullmatch=True)


@given(st.sets(st.tuples(NAMES, NAMES), min_size=1, max_size=12))
def test_every_full_id_resolves_to_itself_and_a_short_one_never_to_a_wrong_one(pairs: set[tuple[str, str]]) -> None:
    table = registry(*(model(f"{space}/{name}") for space, name in pairs))
    assert table.ids() == sorted(f"{space}/{name}" for space, name in pairs)
    for space, name in pairs:
        assert table.resolve(f"{space}/{name}") == f"{space}/{name}"
        same = {other for other, word in pairs if word == name}
        if len(same) == 1 or "core" in same:
            assert table.resolve(name) == f"{'core' if 'core' in same else space}/{name}"
        else:
            with pytest.raises(UnknownName, match="is ambiguous"):
                table.resolve(name)


def test_metrics_are_found_by_the_block_they_read() -> None:
    fields = {"target": "builtins:dict", "summary": "A metric", "higher_is_better": True}
    table = registry(
        MetricSpec(id="acme/iou", blocks=("acme/mask", "acme/box"), **fields),  # type: ignore[arg-type]
        MetricSpec(id="acme/acc", blocks=("core/class-index",), **fields),  # type: ignore[arg-type]
        kind=MetricSpec,
    )
    assert [spec.id for spec in table.find(blocks="acme/box", higher_is_better=True)] == ["acme/iou"]
