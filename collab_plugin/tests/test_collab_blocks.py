"""Ids and their codes: by value, sorted, with a slot for the unknown."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from graftwork.api import Block, BlockError, DataError, ItemError, OptionError, Plan
from graftwork_collab import IdBlock, IdCodeBlock, Identify
from graftwork_collab.blocks import encode_ids, fit_encode_ids

BLOCKS = [IdBlock(), IdBlock((3, 7)), IdCodeBlock(("a", "b")), IdCodeBlock((1, 2), ("Heat (1995)", "Ran (1985)"))]
LABELS = st.one_of(
    st.sets(st.integers(-(2**40), 2**40), min_size=1, max_size=40),
    st.sets(st.text(max_size=6), min_size=1, max_size=40),
)


@pytest.mark.parametrize("block", BLOCKS, ids=repr)
@pytest.mark.parametrize("seed", range(4))
def test_an_invented_value_passes_the_check(block: Block, seed):
    assert block.check(block.mock(np.random.default_rng(seed))) is None


@pytest.mark.parametrize("block", BLOCKS, ids=repr)
def test_config_goes_through_json(block: Block):
    assert type(block).from_config(json.loads(json.dumps(block.to_config()))) == block


def test_a_transform_goes_through_json():
    transform = Identify(vocab=("a", "b"), names=("Ann", "Bob"))
    assert Identify.from_config(json.loads(json.dumps(transform.to_config()))) == transform


@pytest.mark.parametrize(
    ("block", "value", "words"),
    [
        (IdBlock(), None, "missing"),
        (IdBlock(), float("nan"), "missing"),
        (IdBlock(), 1.5, "float"),
        (IdBlock(), True, "bool"),
        (IdBlock(), ["a"], "list"),
        (IdCodeBlock(("a", "b")), 3, "0 … 2"),
        (IdCodeBlock(("a", "b")), -1, "0 … 2"),
        (IdCodeBlock(("a", "b")), "a", "str"),
    ],
    ids=str,
)
def test_what_is_no_value_is_refused_by_name(block: Block, value, words):
    assert words in block.check(value)


@pytest.mark.parametrize("value", [None, float("nan"), 1.5, True, ["a"], b"a"], ids=str)
def test_what_is_no_id_is_not_encoded(value):
    with pytest.raises(BlockError, match=r"collab/id: (the id is missing|an id is a string or a whole number)"):
        Identify(vocab=(1, 2)).finder()(value)


def test_codes_are_batched_and_shown():
    block = IdCodeBlock((10, 20), ("Heat", "Ran"))
    column = block.collate([0, 2, 1])
    assert column.dtype == torch.int64
    assert block.uncollate(column) == [0, 2, 1]
    ax = Figure().add_subplot()
    block.show(2, ax)
    block.show(0, ax)
    assert ax.get_title() == "Ran\n(unknown)"


def test_ids_have_no_tensor_form():
    with pytest.raises(BlockError, match="Identify"):
        IdBlock().collate(["a"])
    with pytest.raises(BlockError, match="no tensor form"):
        IdBlock().uncollate(torch.zeros(1))


@pytest.mark.parametrize(
    "make", [lambda: IdBlock(("a", "a")), lambda: IdCodeBlock(("a", "a")), lambda: Identify((1, 1))]
)
def test_a_vocabulary_lists_an_id_once(make):
    with pytest.raises(OptionError, match="twice"):
        make()


def test_names_are_one_for_each_id():
    with pytest.raises(OptionError, match="1 names for 2 ids"):
        Identify(vocab=(1, 2), names=("Heat",))


@settings(deadline=None)
@given(labels=LABELS, strange=st.text(min_size=7, max_size=9))
def test_known_ids_come_back_and_others_are_unknown(labels, strange):
    transform = Identify().fit(labels, IdBlock())
    bound = transform.bind(IdBlock())
    assert transform.vocab == tuple(sorted(labels))
    assert [bound.decode(bound.encode(label, None)) for label in labels] == list(labels)
    assert sorted(bound.encode(label, None) for label in labels) == list(range(1, len(labels) + 1))
    assert bound.encode(f"x{strange}", None) == 0
    assert bound.decode(0) is None


@settings(deadline=None)
@given(labels=LABELS, data=st.data())
def test_a_whole_column_is_encoded_as_its_values(labels, data):
    values = data.draw(st.lists(st.sampled_from(sorted(labels)), min_size=1, max_size=60))
    train = np.array(data.draw(st.lists(st.integers(0, len(values) - 1), min_size=1, max_size=60)))
    column = pa.chunked_array([pa.array(values[:7]), pa.array(values[7:], pa.array(values).type)])
    vocabs, codes = fit_encode_ids({"user": column}, train=train)
    fitted = Identify().fit([values[i] for i in train], IdBlock())
    find = fitted.finder()
    assert vocabs["user"] == fitted.vocab
    assert codes["user"].dtype == np.int64
    assert codes["user"].tolist() == [find(value) for value in values] == encode_ids(column, fitted).tolist()


@pytest.mark.parametrize("value", [7, np.int64(7), np.int8(7), 7.0, "7"], ids=lambda v: type(v).__name__)
def test_a_number_is_found_in_every_form_it_is_written(value):
    assert Identify(vocab=(3, 7)).finder()(value) == 2


@pytest.mark.parametrize(("value", "code"), [("007", 2), ("7", 1), (7, 1), (np.str_("x"), 3)], ids=str)
def test_strings_of_digits_are_strings(value, code):
    assert Identify(vocab=("7", "007", "x")).finder()(value) == code
    assert Identify(vocab=(7,)).finder()("007") == 0


def test_a_name_finds_its_id_unless_several_share_it():
    find = Identify(vocab=(5, 6, 9), names=("Heat", "Emma", "Emma")).finder()
    assert find("Heat") == find(5) == 1
    with pytest.raises(BlockError, match=r"'Emma' is the name of 2 ids \(6, 9\)"):
        find("Emma")


def test_an_id_wins_over_a_name():
    assert Identify(vocab=(5, 300), names=("300", "Heat")).finder()("300") == 2


@pytest.mark.parametrize(
    ("labels", "words"), [(["a", 1], "mixed"), (["a", None], "missing"), ([True], "bool")], ids=str
)
def test_what_cannot_be_a_vocabulary_is_said(labels, words):
    with pytest.raises(DataError, match=words):
        Identify().fit(labels, IdBlock())


def test_a_plan_encodes_by_value_and_goes_through_json():
    from graftwork.api import RegressionBlock, get_host

    blocks = {"user": IdBlock(), "item": IdBlock((3, 7)), "rating": RegressionBlock()}
    plan = Plan.compile(blocks, inputs=["user", "item"], targets=["rating"], train=lambda _: ["eve", "ann", "eve"])
    assert plan.encode({"user": "eve", "item": 9}) == {"user": 2, "item": 0}
    config = json.loads(json.dumps(plan.to_config()))
    again = Plan.from_config(config, block=get_host().blocks.get, transform=get_host().transforms.get)
    assert again.encode({"user": "ann", "item": 7}) == {"user": 1, "item": 2}
    assert plan.decode("user", 2)[0] == "eve"
    with pytest.raises(ItemError, match=r"field 'user'.*missing"):
        plan.encode({"user": None})
