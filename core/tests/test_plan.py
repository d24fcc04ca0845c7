from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graftwork.block import (
    Block,
    CategoryBlock,
    ClassIndexBlock,
    MultiCategoryBlock,
    MultiHotBlock,
    RegressionBlock,
)
from graftwork.errors import DataError, ItemError, PlanError
from graftwork.plan import Plan
from graftwork.transform import Bound, Categorize, MultiCategorize, On, Transform

KINDS: dict[str, Any] = {"core/category": CategoryBlock, "core/regression": RegressionBlock}


@dataclass(frozen=True)
class Centre(Transform):
    """Subtract the training mean: a batch transform that must be fitted."""

    id: ClassVar[str] = "test/centre"
    stage: ClassVar[Any] = "batch"
    mean: float | None = None

    @property
    def needs_fit(self) -> bool:
        return self.mean is None

    def fit(self, values: Iterable[Any], block: Block) -> Self:
        return replace(self, mean=float(torch.cat(list(values)).double().mean()))

    def accepts(self, block: Block) -> bool:
        return isinstance(block, RegressionBlock)

    def out_block(self, block: Block) -> Block:
        return block

    def bind(self, block: Block) -> Bound:
        mean = self.mean or 0.0
        return Bound(lambda x, _: x - mean, lambda x: x + mean)


@dataclass(frozen=True)
class Shift(Transform):
    """Add a number drawn once per sample."""

    id: ClassVar[str] = "test/shift"
    random: ClassVar[bool] = True
    scale: float = 1.0

    def accepts(self, block: Block) -> bool:
        return isinstance(block, RegressionBlock)

    def out_block(self, block: Block) -> Block:
        return block

    def bind(self, block: Block) -> Bound:
        return Bound(lambda x, by: x if by is None else x + by)

    def draw(self, rng: Any, sample: Any) -> float:
        return self.scale * float(rng.normal())


@dataclass(frozen=True)
class Square(Transform):
    """Square a number: not invertible."""

    id: ClassVar[str] = "test/square"

    def accepts(self, block: Block) -> bool:
        return isinstance(block, RegressionBlock)

    def out_block(self, block: Block) -> Block:
        return block

    def bind(self, block: Block) -> Bound:
        return Bound(lambda x, _: x * x)


TRAIN = {"x": [1.0, 2.0, 6.0], "left": [1.0, 2.0], "right": [3.0, 4.0], "y": ["b", "a", "b"]}


def compiled(blocks: dict[str, Block], **options: Any) -> Plan:
    targets = [n for n in blocks if n == "y"]
    options.setdefault("train", lambda name: iter(TRAIN[name]))
    return Plan.compile(blocks, inputs=[n for n in blocks if n != "y"], targets=targets, **options)


def test_labels_are_encoded_by_value_through_the_training_vocabulary() -> None:
    plan = compiled({"x": RegressionBlock(), "y": CategoryBlock()})
    assert plan.target == ClassIndexBlock(("a", "b"))
    assert plan.encode({"x": 1.0, "y": "b"}) == {"x": 1.0, "y": 1}
    assert plan.decode("y", 1) == ("b", CategoryBlock())


@given(st.lists(st.one_of(st.text(max_size=5), st.integers(-9, 9)), min_size=2, unique=True), st.data())
def test_categorize_decodes_what_it_encodes(vocab: list[Any], data: st.DataObject) -> None:
    bound = Categorize(tuple(vocab)).bind(CategoryBlock())
    label = data.draw(st.sampled_from(vocab))
    assert bound.decode is not None
    assert bound.decode(bound.encode(label, None)) == label


@given(st.sets(st.sampled_from("abcdef")))
def test_multi_categorize_decodes_what_it_encodes(labels: set[str]) -> None:
    bound = MultiCategorize(tuple("abcdef")).bind(MultiCategoryBlock())
    assert bound.decode is not None
    assert bound.decode(bound.encode(labels, None)) == sorted(labels)


def test_multi_categorize_gives_a_multi_hot_block() -> None:
    plan = compiled({"y": MultiCategoryBlock()}, train=lambda _: iter([["b"], ["a", "b"], []]))
    assert plan.target == MultiHotBlock(("a", "b"))


@pytest.mark.parametrize(
    ("labels", "message"),
    [(["a", "a"], "only one class, 'a'"), ([], "no labels"), (["a", None], "label is missing")],
)
def test_labels_nothing_can_be_learned_from(labels: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        compiled({"y": CategoryBlock()}, train=lambda _: iter(labels))


def test_numpy_labels_become_plain_ones() -> None:
    plan = compiled({"y": CategoryBlock()}, train=lambda _: iter(np.array([2, 1, 2])))
    assert plan.to_config()["item"][0]["y"]["config"] == {"vocab": [1, 2]}
    assert plan.encode({"y": np.int64(2)}) == {"y": 1}


def test_an_unseen_label_is_named_with_the_field() -> None:
    plan = compiled({"x": RegressionBlock(), "y": CategoryBlock()})
    with pytest.raises(ItemError, match=r"field 'y'.*'zebra' does not occur in the training split"):
        plan.encode({"x": 1.0, "y": "zebra"})


def test_fitting_sees_the_training_values_after_earlier_steps() -> None:
    plan = compiled({"x": RegressionBlock()}, item_tfms=[Square()], batch_tfms=[Centre()])
    mean = (1 + 4 + 36) / 3
    (step,) = plan.fields["x"].batch_steps
    assert step.transform == Centre(mean=pytest.approx(mean))
    assert plan.encode_batch({"x": torch.tensor([mean])})["x"].item() == pytest.approx(0, abs=1e-6)


def test_a_value_that_cannot_be_encoded_while_fitting_is_told_or_raised() -> None:
    told: list[Exception] = []
    blocks: dict[str, Block] = {"x": RegressionBlock()}
    options = {"item_tfms": [Square()], "batch_tfms": [Centre()], "train": lambda _: iter([1.0, "oops", 3.0])}
    plan = compiled(blocks, skip=told.append, **options)
    assert "'oops'" in str(told[0])
    assert plan.fields["x"].batch_steps[0].transform == Centre(mean=5.0)
    with pytest.raises(ItemError, match="oops"):
        compiled(blocks, **options)


def test_random_parameters_are_drawn_once_per_sample_for_all_fields() -> None:
    plan = compiled({"left": RegressionBlock(), "right": RegressionBlock()}, item_tfms=[Shift()])
    sample = plan.encode({"left": 1.0, "right": 5.0}, np.random.default_rng(0))
    assert sample["left"] != 1.0
    assert sample["right"] - sample["left"] == pytest.approx(4.0)
    assert plan.encode({"left": 1.0, "right": 5.0}) == {"left": 1.0, "right": 5.0}


def test_on_restricts_a_transform_to_a_field() -> None:
    plan = compiled({"left": RegressionBlock(), "right": RegressionBlock()}, item_tfms=[On("left", Square())])
    assert plan.encode({"left": 3.0, "right": 3.0}) == {"left": 9.0, "right": 3.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"item_tfms": [On("lift", Square())]}, "meant for 'lift'; the fields are x, y"),
        ({"item_tfms": [Centre()]}, "of the batch stage; pass it in batch_tfms"),
        ({"batch_tfms": [Square()]}, "pass it in item_tfms"),
        ({"item_tfms": [abs]}, "is no Transform"),
        ({"item_tfms": [On("y", Square())]}, "does not work on CategoryBlock"),
        ({"item_tfms": [MultiCategorize()]}, "fits none of the fields"),
    ],
)
def test_a_mismatch_is_an_error_when_the_plan_is_compiled(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        compiled({"x": RegressionBlock(), "y": CategoryBlock()}, **options)


def test_decoding_stops_at_a_step_that_is_not_invertible() -> None:
    plan = compiled({"x": RegressionBlock()}, item_tfms=[Square()], batch_tfms=[Centre(mean=2.0)])
    encoded = plan.encode_batch(plan.collate([plan.encode({"x": 3.0})]))
    values, block = plan.decode_batch("x", encoded["x"])
    assert values == [9.0]
    assert block == RegressionBlock()


def test_a_plan_goes_through_json() -> None:
    plan = compiled({"x": RegressionBlock(), "y": CategoryBlock()}, batch_tfms=[On("x", Centre())])
    tfms: dict[str, Any] = {"core/categorize": Categorize, "test/centre": Centre}
    again = Plan.from_config(plan.to_config(), block=KINDS.__getitem__, transform=tfms.__getitem__)
    assert again.to_config() == plan.to_config()
    assert again.explain() == plan.explain()
    assert again.encode({"x": 1.0, "y": "b"}) == plan.encode({"x": 1.0, "y": "b"})


def test_explain_shows_the_block_after_every_step() -> None:
    text = compiled({"x": RegressionBlock(), "y": CategoryBlock()}, batch_tfms=[On("x", Centre())]).explain()
    lines = text.splitlines()
    assert "x (input)" in lines[0]
    assert any("Categorize" in line and "ClassIndexBlock(vocab=('a', 'b'))" in line for line in lines)
    assert any("batch: Centre(mean=3.0)" in line for line in lines)


def test_a_target_must_be_something_a_model_can_predict() -> None:
    plan = Plan({"y": CategoryBlock()}, inputs=(), targets=("y",), item_steps=(), batch_steps=())
    with pytest.raises(PlanError, match="TargetBlock"):
        _ = plan.target
