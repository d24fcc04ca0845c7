"""The records: what they refuse when they are built, and what the refusal says."""

from __future__ import annotations

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork import spec as spec_module
from graftwork.errors import PluginError
from graftwork.spec import (
    API,
    BlockSpec,
    CommandSpec,
    DocLink,
    LossSpec,
    ModelSpec,
    Plugin,
    Record,
    Spec,
    TransformSpec,
    several,
)

LEAVES = [
    record
    for record in vars(spec_module).values()
    if isinstance(record, type) and issubclass(record, Record) and record not in (Record, Spec)
]


def block(**changed: object) -> BlockSpec:
    fields: dict[str, object] = {"id": "acme/depth", "target": "acme.blocks:Depth", "summary": "Depth in metres"}
    return BlockSpec(**(fields | changed))  # type: ignore[arg-type]


def test_a_record_is_frozen_slotted_and_keyword_only() -> None:
    record = block()
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.id = "acme/other"  # type: ignore[misc]
    assert not hasattr(record, "__dict__")
    with pytest.raises(TypeError):
        BlockSpec("acme/depth", "acme.blocks:Depth", "Depth in metres")  # type: ignore[call-arg]


def test_equal_fields_make_equal_records() -> None:
    assert block() == block()
    assert block() != block(summary="Something else")


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.__name__)
def test_every_kind_of_record_has_its_own_name_and_checks_tuples_it_declares(leaf: type[Record]) -> None:
    assert leaf.kind not in {other.kind for other in LEAVES if other is not leaf}
    names = {field.name for field in dataclasses.fields(leaf)}
    tuples = {field.name for field in dataclasses.fields(leaf) if str(field.type).startswith("tuple")}
    assert tuples == set(leaf.lists)
    assert set(leaf.choices) <= names


@pytest.mark.parametrize(
    "bad", ["depth", "/depth", "acme/", "acme/a/b", "Acme/depth", "acme/de pth", "acme/depth\n", 7]
)
def test_an_id_without_its_namespace_is_refused(bad: object) -> None:
    with pytest.raises(PluginError, match=r"the id must read 'namespace/name'; write id='NAMESPACE/"):
        block(id=bad)


@pytest.mark.parametrize(
    "bad", ["acme.blocks", "acme.blocks:", ":Depth", "acme-blocks:Depth", "a:b:c", "a.b:c.d", "a:b\n"]
)
def test_a_target_that_names_no_attribute_is_refused(bad: str) -> None:
    with pytest.raises(PluginError, match=re.escape("block record 'acme/depth': the target")) as error:
        block(target=bad)
    assert "write target='package.module:attr'" in str(error.value)


@pytest.mark.parametrize(
    ("summary", "said"), [("", "empty"), ("  ", "empty"), ("a\nb", "several lines"), ("x" * 73, "has 73 characters")]
)
def test_a_summary_is_one_short_line(summary: str, said: str) -> None:
    with pytest.raises(PluginError, match=said):
        block(summary=summary)
    block(summary="x" * 72)


def test_a_bare_string_for_a_tuple_is_refused_with_the_tuple_to_write() -> None:
    with pytest.raises(PluginError, match=re.escape("write inputs=('vision/image',)")):
        ModelSpec(
            id="acme/net",
            target="acme.m:net",
            summary="A net",
            inputs="vision/image",  # type: ignore[arg-type]
            output="core/class-index",
        )


def test_a_required_module_is_top_level() -> None:
    block(requires=("torchvision",))
    with pytest.raises(PluginError, match=re.escape("write requires=('torchvision',)")):
        block(requires=("torchvision.models",))
    with pytest.raises(PluginError, match=re.escape("write requires=('timm',)")):
        block(requires=("timm>=1.0",))


def test_a_choice_outside_the_list_is_refused_naming_the_list() -> None:
    with pytest.raises(PluginError, match="stage='row' is none of item, batch"):
        TransformSpec(
            id="acme/crop",
            target="acme.t:Crop",
            summary="Crop",
            accepts=("acme/depth",),
            gives="acme/depth",
            stage="row",  # type: ignore[arg-type]
        )


def test_losses_name_the_blocks_they_compare() -> None:
    loss = LossSpec(id="acme/l", target="acme.l:L", summary="L", blocks=("core/regression",))
    assert loss.blocks == ("core/regression",)
    assert loss.default is False


def test_a_doc_link_has_no_target() -> None:
    link = DocLink(id="acme/guide", title="Guide", url_or_path="docs/guide.md", about=("acme/depth",))
    assert [field.name for field in dataclasses.fields(link)] == ["id", "title", "url_or_path", "about"]


def test_a_command_is_told_apart_from_its_id() -> None:
    spec = CommandSpec(id="acme/annotate", name="annotate", target="acme.cli:annotate", summary="Draw labels")
    assert (spec.name, spec.rule.form, spec.rule.base) == ("annotate", "instance", "click:Command")


@pytest.mark.parametrize("namespace", ["", "Acme", "acme_depth", "acme/depth", "-acme", None])
def test_a_plugin_namespace_is_lower_case_words(namespace: str) -> None:
    with pytest.raises(PluginError, match="lower-case words"):
        Plugin(namespace=namespace, summary="A plugin")


@pytest.mark.parametrize("version", [1, "1.0", (1,), (1, 0, 0), (1, "0"), (1, -1), (True, 0)])
def test_a_plugin_names_its_interface_by_a_pair(version: object) -> None:
    with pytest.raises(PluginError, match=re.escape(f"write requires_api={API}")):
        Plugin(namespace="acme", summary="A plugin", requires_api=version)  # type: ignore[arg-type]


@given(st.from_regex(r"[a-z0-9]+(-[a-z0-9]+)*/[A-Za-z0-9][A-Za-z0-9_.-]*", fullmatch=True))
def test_every_id_of_the_documented_form_is_accepted(name: str) -> None:
    assert block(id=name).id == name


@given(st.text(max_size=20).filter(lambda text: "/" not in text))
def test_text_without_a_slash_is_refused_by_name(name: str) -> None:
    with pytest.raises(PluginError) as error:
        block(id=name)
    assert repr(name) in str(error.value)


def test_what_may_be_one_name_or_several_is_nothing_else() -> None:
    def model(output: object) -> ModelSpec:
        return ModelSpec(id="acme/net", target="acme.m:net", summary="A net", inputs=(), output=output)  # type: ignore[arg-type]

    assert several(model("core/class-index").output) == ("core/class-index",)
    assert several(model(("core/class-index", "core/regression")).output) == ("core/class-index", "core/regression")
    with pytest.raises(PluginError, match="output must be a tuple of strings"):
        model(["core/class-index"])
