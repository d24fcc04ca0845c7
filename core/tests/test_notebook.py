"""What notebooks show: reprs that are well-formed and escaped, `doc`, `ls`, and nothing patched but on purpose."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import ClassVar
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

import graftwork
from graftwork import CategoryBlock, Learner, RegressionBlock, UnknownName
from graftwork.errors import DataError
from graftwork.markup import Lane, Station, cut, drawing, lanes_of, parts, table
from graftwork.notebook import Doc, doc, ls
from graftwork.testing.toy import make_items, mlp, recipe

NASTY = "<script>alert('&')</script>"
TEXT = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=60)


class Reader(HTMLParser):
    """Gather tags and text, and refuse tags that do not match."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def learn() -> Learner:
    return Learner(recipe().dataloaders(make_items(60), bs=16), mlp(), progress=False)


@given(st.lists(st.lists(TEXT, min_size=2, max_size=2), max_size=4), TEXT)
def test_a_table_holds_any_text(rows: list[list[str]], title: str) -> None:
    read = Reader(table(rows, title=title, head=("a", "b")))
    assert read.tags <= {"strong", "table", "tr", "th", "td"}
    for row in rows:
        assert all(cut(cell) in read.text for cell in row)


@given(st.lists(st.tuples(st.lists(TEXT, min_size=1, max_size=4), st.lists(TEXT, max_size=3)), min_size=1, max_size=3))
def test_a_drawing_is_well_formed_and_its_batches_begin_on_one_line(
    given_lanes: list[tuple[list[str], list[str]]],
) -> None:
    lanes = [
        Lane(
            title="field",
            items=tuple(Station(name=name, detail=name, arrow=name) for name in items),
            batches=tuple(Station(name=name, collated=True) for name in batches),
        )
        for items, batches in given_lanes
    ]
    tree = ElementTree.fromstring(drawing(lanes, title="A drawing"))
    boxes = tree.findall(".//{http://www.w3.org/2000/svg}rect")
    assert len(boxes) == sum(len(items) + len(batches) for items, batches in given_lanes)
    starts = {
        next((i for i, station in enumerate(column) if station and station.collated), None)
        for column, lane in zip(lanes_of(lanes), lanes, strict=True)
        if lane.batches
    }
    assert len(starts) <= 1


def test_long_texts_are_cut() -> None:
    assert cut("a" * 10, 5) == "aaaa…"
    assert cut("a" * 5, 5) == "aaaaa"


def test_parts_are_a_name_and_what_is_in_brackets() -> None:
    assert parts(RegressionBlock(2)) == ("RegressionBlock", "n_out=2")
    assert parts(RegressionBlock()) == ("RegressionBlock", "")
    assert parts(3) == ("int", "3")


def test_a_block_shows_its_fields_escaped() -> None:
    read = Reader(CategoryBlock(vocab=(NASTY, "b"))._repr_html_())
    assert "script" not in read.tags
    assert NASTY.replace("'", "\\'") in read.text or NASTY in read.text
    assert "core/category" in read.text


def test_a_block_of_a_plugin_shows_itself_too() -> None:
    @dataclass(frozen=True)
    class OwnBlock(RegressionBlock):
        id: ClassVar[str] = "own/block"
        colour: str = NASTY

    read = Reader(OwnBlock()._repr_html_())
    assert "OwnBlock" in read.text
    assert "script" not in read.tags


def test_a_plan_draws_every_block_of_every_field(learn: Learner) -> None:
    plan = learn.data.plan
    svg = plan._repr_html_()
    words = " ".join(ElementTree.fromstring(svg).itertext())
    for name, field in plan.fields.items():
        assert name in words
        for block in (field.raw, *(step.after for step in (*field.item_steps, *field.batch_steps))):
            assert type(block).__name__ in words
    assert svg == plan.drawing()
    assert len(svg) < 10_000


def test_a_batch_tells_shapes_and_ranges(learn: Learner) -> None:
    batch = learn.data.one_batch()
    read = Reader(batch._repr_html_())
    assert "Batch of 16" in read.text
    assert "16×4" in read.text
    assert f"{float(batch.x.max()):.4g}" in read.text


def test_a_learner_tells_what_it_trains_and_how_far_it_is(learn: Learner) -> None:
    before = Reader(learn._repr_html_())
    assert "Sequential" in before.text
    assert "valid_loss" not in before.text
    learn.fit(2)
    after = Reader(learn._repr_html_())
    assert "45 to train on, 15 held out" in after.text
    assert f"{learn.history[-1]['valid_loss']:.5g}" in after.text
    assert "2 epochs" in after.text


def test_ls_lists_what_is_not_hidden(tmp_path: Path) -> None:
    for name in ("b.txt", "a.csv", ".hidden"):
        (tmp_path / name).write_text("", encoding="utf-8")
    assert [path.name for path in ls(tmp_path)] == ["a.csv", "b.txt"]
    assert ls(tmp_path, pattern="*.csv") == [tmp_path / "a.csv"]
    assert tmp_path.ls() == ls(tmp_path)
    assert repr(ls(tmp_path)).startswith("(2) [")
    with pytest.raises(DataError, match="does not exist"):
        ls(tmp_path / "nowhere")
    with pytest.raises(DataError, match="is a file"):
        ls(tmp_path / "a.csv")


def test_a_long_listing_is_cut(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number}.txt").touch()
    assert repr(ls(tmp_path)).startswith("(30) [")
    assert repr(ls(tmp_path)).endswith(", …]")
    assert len(ls(tmp_path)) == 30


def test_only_this_module_adds_to_path() -> None:
    code = (
        "import pathlib, graftwork, graftwork.api, graftwork.learner, graftwork.testing\n"
        "assert not hasattr(pathlib.Path, 'ls')\n"
        "import graftwork.notebook\n"
        "assert pathlib.Path('.').ls() == graftwork.notebook.ls('.')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_doc_tells_signature_purpose_and_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRAFTWORK_DOCS", raising=False)
    found = doc(Learner)
    assert found.name == "Learner"
    assert "data: DataLoaders" in found.signature
    assert "optimizer: str | Callable[..., Optimizer] = 'adamw'" in found.signature
    assert found.text == "Train `model` on `data`; what is left out comes from the target's block."
    assert found.origin == f"graftwork.learner.Learner · graftwork {graftwork.__version__}"
    assert found.link == "in the documentation: reference/graftwork/#graftwork.Learner"
    assert repr(found).splitlines()[0].startswith("Learner(data: DataLoaders")


def test_doc_of_an_object_is_that_of_its_class(learn: Learner) -> None:
    assert repr(doc(learn)) == repr(doc(Learner))


def test_doc_links_into_the_site(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFTWORK_DOCS", "https://docs.example/")
    from graftwork.api import Engine

    assert doc(Learner).link == "https://docs.example/reference/graftwork/#graftwork.Learner"
    assert doc(Engine).link == "https://docs.example/reference/graftwork-api/#graftwork.api.Engine"
    assert doc(ls).link == "https://docs.example/reference/graftwork-notebook/#graftwork.notebook.ls"
    assert doc(Learner.fit).link == ""
    assert doc(len).link == ""
    assert '<a href="https://docs.example/' in doc(Learner)._repr_html_()


def test_doc_of_a_component_names_its_plugin() -> None:
    found = doc("accuracy")
    assert found.name == "core/accuracy"
    assert found.origin.endswith("metric of plugin 'core'")
    assert found.text == graftwork.get_host().metrics.spec("core/accuracy").summary
    assert doc(graftwork.accuracy).link == "in the documentation: reference/graftwork/#graftwork.accuracy"
    with pytest.raises(UnknownName, match="did you mean"):
        doc("core/acuracy")


def test_doc_escapes() -> None:
    made = Doc(name=NASTY, signature=NASTY, text=NASTY, origin=NASTY, link="https://x/" + NASTY)
    assert Reader(made._repr_html_()).tags <= {"pre", "strong", "p", "small", "br", "a"}


def test_doc_speaks_of_modules_and_of_what_has_no_signature() -> None:
    assert doc(graftwork).signature == ""
    assert doc(3).signature in ("(…)", "(x=0, /)")
