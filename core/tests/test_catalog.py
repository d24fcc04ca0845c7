"""What is installed, searched by blocks and words: in Python and by `graft models` and its like."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import graftwork.plugins.host
from graftwork import Catalog, installed
from graftwork.api import (
    BaselineSpec,
    BlockSpec,
    CallbackSpec,
    DatasetSpec,
    ExporterSpec,
    LossSpec,
    MetricSpec,
    ModelSpec,
    Plugin,
    SourceSpec,
    TaskSpec,
    TransformSpec,
    hookimpl,
)
from graftwork.cli.main import COMMANDS, main
from graftwork.errors import OptionError, PluginError, UnknownName
from graftwork.plugins import Host
from graftwork.plugins.catalog import FILTERS, KINDS

PIXELS, CLASSES, TEXT = "acme/pixels", "core/class-index", "acme/text"


class Acme:
    """A plugin with a record of every kind: pictures become pixels by way of scans."""

    PLUGIN = Plugin(namespace="acme", summary="Pictures and texts")

    @staticmethod
    @hookimpl
    def graftwork_register_blocks() -> Iterator[BlockSpec]:
        for name in ("image", "scan", "pixels", "text"):
            yield BlockSpec(id=f"acme/{name}", target="graftwork.block:RegressionBlock", summary=f"What is {name}")

    @staticmethod
    @hookimpl
    def graftwork_register_transforms() -> Iterator[TransformSpec]:
        ways = {"scan": (("acme/image",), "acme/scan"), "melt": (("acme/scan",), ("acme/pixels", "acme/scan"))}
        for name, (accepts, gives) in ways.items():
            target = "graftwork.transform:Categorize"
            yield TransformSpec(
                id=f"acme/{name}", target=target, summary="On", accepts=accepts, gives=gives, random=name == "melt"
            )

    @staticmethod
    @hookimpl
    def graftwork_register_sources() -> Iterator[SourceSpec]:
        gives = ("acme/image", "core/category")
        yield SourceSpec(id="acme/dir", target="json:loads", summary="A folder", patterns=("*/*",), gives=gives)

    @staticmethod
    @hookimpl
    def graftwork_register_datasets() -> Iterator[DatasetSpec]:
        fields = {"x": "acme/image", "y": "core/category"}
        yield DatasetSpec(
            id="acme/pets", target="json:loads", summary="Pets", fields=fields, size_mb=3.5, licence="CC0-1.0"
        )

    @staticmethod
    @hookimpl
    def graftwork_register_models() -> Iterator[ModelSpec]:
        def model(name: str, inputs: tuple[str, ...], output: Any, **more: Any) -> ModelSpec:
            summary = more.pop("summary", "A network")
            return ModelSpec(
                id=f"acme/{name}", target="acme_not_there:x", summary=summary, inputs=inputs, output=output, **more
            )

        yield model("net", (PIXELS,), CLASSES, params_m=11.7, pretrained=("big",))
        yield model("any", (PIXELS,), (CLASSES, "core/regression"), cost="3 s an epoch")
        yield model("both", (PIXELS, TEXT), CLASSES, params_m=1.0, cost="wants a GPU")
        yield model("old", (TEXT,), "core/regression", deprecated="use any", summary="Of former times")

    @staticmethod
    @hookimpl
    def graftwork_register_losses() -> Iterator[LossSpec]:
        yield LossSpec(id="acme/hinge", target="graftwork.loss:MSE", summary="Hinge", blocks=(CLASSES,))

    @staticmethod
    @hookimpl
    def graftwork_register_metrics() -> Iterator[MetricSpec]:
        target = "graftwork.metric:accuracy"
        yield MetricSpec(id="acme/ece", target=target, summary="Calibration", blocks=(CLASSES,), higher_is_better=False)

    @staticmethod
    @hookimpl
    def graftwork_register_callbacks() -> Iterator[CallbackSpec]:
        yield CallbackSpec(id="acme/bell", target="graftwork.callbacks.best:SaveBest", summary="Ring at the end")

    @staticmethod
    @hookimpl
    def graftwork_register_baselines() -> Iterator[BaselineSpec]:
        yield BaselineSpec(
            id="acme/near",
            target="graftwork.baseline:Mean",
            summary="Nearest",
            blocks=(CLASSES,),
            inputs=(PIXELS,),
        )

    @staticmethod
    @hookimpl
    def graftwork_register_tasks() -> Iterator[TaskSpec]:
        yield TaskSpec(
            id="acme/sort",
            target="json:loads",
            summary="Sort pictures",
            inputs=("acme/image",),
            targets=("core/category",),
            defaults={"model": "acme/net"},
            deprecated="soon gone",
        )

    @staticmethod
    @hookimpl
    def graftwork_register_exporters() -> Iterator[ExporterSpec]:
        yield ExporterSpec(id="acme/onnx", target="json:dumps", summary="ONNX", format="onnx", suffix=".onnx")


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host(find=tuple, env={})
    assert host.register(Acme).state == "ok"
    monkeypatch.setattr(graftwork.plugins.host, "_HOST", host)
    return host


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(host: Host, capsys: pytest.CaptureFixture[str]) -> Run:
    def graft(*arguments: str) -> tuple[int, str, str]:
        status = main(arguments)
        out, err = capsys.readouterr()
        return status, out, err

    return graft


# In Python


def test_every_kind_of_component_can_be_listed(host: Host) -> None:
    assert set(KINDS) == set(host.registries) - {"commands", "docs"}
    for kind in KINDS:
        found = installed(kind)
        assert found.ids == host.registries[kind].ids()
        assert f"acme/{found.ids[0].partition('/')[2]}" in repr(found)
        json.dumps(found.to_json())


def test_a_block_stands_for_all_that_transforms_make_of_it(host: Host) -> None:
    assert installed("models", input="image").ids == ["acme/any", "acme/both", "acme/net"]
    assert installed("models", input="acme/pixels").ids == installed("models", input="scan").ids
    assert installed("models", input="text").ids == ["acme/both", "acme/old"]
    assert installed("models", target="category").ids == ["acme/any", "acme/both", "acme/net"]
    assert installed("tasks", input="image", target="category").ids == ["acme/sort"]
    assert installed("tasks", input="pixels").ids == [], "a task reads what a source gives"


def test_several_filters_must_all_fit(host: Host) -> None:
    assert installed("models", input=("image", "text")).ids == ["acme/both"]
    assert installed("models", input="image", target="regression").ids == ["acme/any"]
    assert installed("models", "network", input="image", target="regression").ids == ["acme/any"]
    assert installed("models", "FORMER", "acme/").ids == ["acme/old"]
    assert installed("models", "former", "network").ids == []


def test_a_baseline_that_looks_at_the_target_alone_fits_every_input(host: Host) -> None:
    assert installed("baselines", input="image", target="category").ids == ["acme/near", "core/majority"]


def test_sources_and_data_sets_are_found_by_their_fields(host: Host) -> None:
    assert installed("sources", input="image", target="category").ids == ["acme/dir"]
    assert installed("datasets", input="image").ids == ["acme/pets"]
    assert installed("datasets", input="text").ids == []


def test_a_kind_without_such_blocks_says_by_what_it_is_searched(host: Host) -> None:
    with pytest.raises(OptionError, match="losses cannot be searched by input='image'; search them by target"):
        installed("losses", input="image")
    with pytest.raises(OptionError, match=r"callbacks cannot be searched by target='category'; .* by words alone"):
        installed("callbacks", target="category")


def test_an_unknown_kind_or_block_is_refused_with_the_nearest(host: Host) -> None:
    with pytest.raises(UnknownName, match="unknown kind of component 'model'; did you mean 'models'"):
        installed("model")
    with pytest.raises(UnknownName, match="unknown block 'imag'; did you mean 'acme/image'"):
        installed("models", input="imag")


def test_a_short_name_of_two_plugins_is_refused_naming_both(host: Host) -> None:
    class Brand:
        PLUGIN = Plugin(namespace="brand", summary="Other pictures")

        @staticmethod
        @hookimpl
        def graftwork_register_blocks() -> Iterator[BlockSpec]:
            yield BlockSpec(id="brand/image", target="graftwork.block:RegressionBlock", summary="Another")

    assert host.register(Brand).state == "ok"
    with pytest.raises(UnknownName, match="block 'image' is ambiguous: 'acme/image' and 'brand/image'; write the full"):
        installed("models", input="image")
    assert installed("models", input="acme/image").ids
    assert installed("models", input="brand/image").ids == []


def test_an_entry_says_whose_it_is_and_what_a_block_becomes(host: Host) -> None:
    entry = installed("blocks", "acme/image")[0]
    assert (entry.plugin, entry.owner, entry.becomes) == ("acme", "acme", ("acme/scan", "acme/pixels"))
    own = installed("blocks", "core/category")[0]
    assert own.owner == f"graftwork {graftwork.__version__}"
    assert own.to_json()["owner"] == {
        "plugin": "core",
        "distribution": "graftwork",
        "version": graftwork.__version__,
    }


def test_nothing_is_imported_by_being_listed(host: Host) -> None:
    assert "acme/net" in installed("models").ids
    with pytest.raises(PluginError, match="acme_not_there"):
        host.models.get("net")


def test_a_catalog_is_a_sequence_that_shows_itself(host: Host) -> None:
    found = installed("models", input="image")
    assert (len(found), found[0].spec.id, [e.spec.id for e in found][-1]) == (3, "acme/any", "acme/net")
    lines = [" | ".join(cell.strip() for cell in line.split("  ") if cell.strip()) for line in repr(found).splitlines()]
    assert lines == [
        "MODEL | FROM | TO | PARAMETERS | WEIGHTS | OWNER | SUMMARY",
        "acme/any | acme/pixels | core/class-index, core/regression | 3 s an epoch | acme | A network",
        "acme/both | acme/pixels + acme/text | core/class-index | 1 M, wants a GPU | acme | A network",
        "acme/net | acme/pixels | core/class-index | 11.7 M | big | acme | A network",
    ]
    assert repr(installed("models", "nothing of this name")) == "no models"


def test_a_column_nobody_fills_is_left_out(host: Host) -> None:
    header = repr(installed("models", "old")).splitlines()[0]
    assert header.split() == ["MODEL", "FROM", "TO", "OWNER", "SUMMARY"]
    assert "Of former times (deprecated: use any)" in repr(installed("models", "old"))


def test_a_long_list_in_a_cell_is_counted(host: Host) -> None:
    class Wide:
        PLUGIN = Plugin(namespace="wide", summary="Many")

        @staticmethod
        @hookimpl
        def graftwork_register_losses() -> Iterator[LossSpec]:
            blocks = tuple(f"wide/b{i}" for i in range(9))
            yield LossSpec(id="wide/all", target="graftwork.loss:MSE", summary="All", blocks=blocks)

    assert host.register(Wide).state == "ok"
    assert "wide/b5, 3 more" in repr(installed("losses", "wide"))


@given(ways=st.lists(st.tuples(st.integers(0, 7), st.sets(st.integers(0, 7), min_size=1, max_size=3)), max_size=12))
def test_what_a_block_becomes_is_what_a_walk_over_the_transforms_reaches(ways: list[tuple[int, set[int]]]) -> None:
    class Graph:
        PLUGIN = Plugin(namespace="graph", summary="Any transforms")

        @staticmethod
        @hookimpl
        def graftwork_register_blocks() -> Iterator[BlockSpec]:
            for i in range(8):
                yield BlockSpec(id=f"graph/b{i}", target="graftwork.block:RegressionBlock", summary="A block")

        @staticmethod
        @hookimpl
        def graftwork_register_transforms() -> Iterator[TransformSpec]:
            for i, (left, right) in enumerate(ways):
                yield TransformSpec(
                    id=f"graph/t{i}",
                    target="graftwork.transform:Categorize",
                    summary="A way",
                    accepts=(f"graph/b{left}",),
                    gives=tuple(f"graph/b{there}" for there in sorted(right)),
                )

    host = Host(find=tuple, env={})
    assert host.register(Graph).state == "ok"
    reach = [{i} for i in range(8)]
    for _ in range(8):
        for start in reach:
            start |= {there for left, right in ways if left in start for there in right}
    for i, entry in enumerate(installed("blocks", "graph/", host=host)):
        assert set(entry.becomes) | {entry.spec.id} == {f"graph/b{there}" for there in reach[i]}


# On the command line


def test_models_are_searched_by_blocks(run: Run) -> None:
    status, out, err = run("models", "--input", "image", "--input", "text", "--target", "category")
    assert (status, err) == (0, "")
    assert out == repr(installed("models", input=("image", "text"), target="category")) + "\n"
    assert "acme/both" in out
    assert "acme/net" not in out


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind in COMMANDS])
def test_each_kind_has_a_command_with_the_same_rows_as_json(run: Run, kind: str) -> None:
    _, table, _ = run(kind)
    status, out, _ = run(kind, "--json")
    found = json.loads(out.splitlines()[-1])
    assert status == 0
    assert [line.split()[0] for line in table.splitlines()[1:]] == [entry["id"] for entry in found[kind]]
    assert all(entry["summary"] and entry["owner"]["plugin"] for entry in found[kind])
    options = run(kind, "--help")[1]
    assert [name for name in ("input", "target") if f"--{name}" in options] == list(FILTERS[kind])


def test_tasks_as_json(run: Run) -> None:
    (task,) = json.loads(run("tasks", "--json")[1].splitlines()[-1])["tasks"]
    assert task["defaults"] == {"model": "acme/net"}
    assert (task["inputs"], task["targets"]) == (["acme/image"], ["core/category"])
    assert "target" not in task


def test_tasks_are_listed_with_their_blocks(run: Run) -> None:
    status, out, _ = run("tasks")
    assert status == 0
    assert out.splitlines()[0].split() == ["TASK", "FROM", "TO", "MODELS", "OWNER", "SUMMARY"]
    row = " ".join(out.splitlines()[1].split())
    assert row == "acme/sort acme/image core/category acme/net acme Sort pictures (deprecated: soon gone)"


def test_an_empty_list_says_why(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        run("models", "--input", "text", "netx")[1] == "No models fit netx --input text; `graft models` lists all 4\n"
    )
    assert run("models", "bothh")[1] == ("No models fit bothh; `graft models` lists all 4; did you mean 'acme/both'?\n")
    assert json.loads(run("models", "bothh", "--json")[1]) == {"models": []}
    monkeypatch.setattr(graftwork.plugins.host, "_HOST", Host(find=tuple, env={}))
    said = "No tasks: no loaded plugin brings any. Install one, as in: pip install graftwork-vision\n"
    assert run("tasks")[1] == said
    assert json.loads(run("tasks", "--json")[1]) == {"tasks": []}


def test_the_user_s_mistake_exits_2(run: Run) -> None:
    for arguments, said in {
        ("models", "--input", "imag"): "unknown block 'imag'; did you mean 'acme/image'",
        ("callbacks", "--input", "image"): "--input",
        ("losses", "--target"): "--target",
    }.items():
        status, out, err = run(*arguments)
        assert (status, out) == (2, "")
        assert said in err
        assert "Traceback" not in err


def test_a_catalog_can_be_had_from_the_package() -> None:
    assert isinstance(installed("metrics", target="regression", host=Host(find=tuple, env={})), Catalog)
