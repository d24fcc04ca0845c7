from __future__ import annotations

import itertools
import pickle
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, cast

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
from graftwork.transform import Bound, Categorize, Fused, MultiCategorize, On, Transform

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


@dataclass(frozen=True)
class Noise(Transform):
    """Add numbers drawn for a batch; several in a row are done at once, unless `alone`."""

    id: ClassVar[str] = "test/noise"
    stage: ClassVar[Any] = "batch"
    random: ClassVar[bool] = True
    scale: float = 1.0
    alone: bool = False

    def accepts(self, block: Block) -> bool:
        return isinstance(block, RegressionBlock)

    def out_block(self, block: Block) -> Block:
        return block

    def draw(self, rng: torch.Generator, sample: Mapping[str, Any]) -> torch.Tensor:
        return torch.rand(len(next(iter(sample.values()))), generator=rng)[:, None] * self.scale

    def bind(self, block: Block) -> Bound:
        return Bound((lambda x, noise: x if noise is None else x + noise) if self.alone else self._never)

    @staticmethod
    def _never(x: torch.Tensor, params: Any) -> torch.Tensor:
        raise AssertionError("these steps are done at once")

    def fused(self, block: Block, following: Sequence[Transform]) -> Fused | None:
        run = 1
        while run <= len(following) and isinstance(following[run - 1], Noise):
            run += 1
        return None if self.alone else Fused(run, self._at_once)

    @staticmethod
    def _at_once(x: torch.Tensor, params: Sequence[Any]) -> torch.Tensor:
        drawn = [p for p in params if p is not None]
        return x + torch.stack(drawn).sum(0) if drawn else x


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


def noisy(*, alone: bool) -> Plan:
    """Return a plan whose left field has a run of two and a run of three, with a step of the right field within."""
    steps = [Noise(1.0, alone), Noise(2.0, alone), On("left", Centre(mean=0.5)), Noise(3.0, alone)]
    steps += [On("right", Centre(mean=1.5)), On("left", Noise(4.0, alone)), On("left", Noise(5.0, alone))]
    return compiled({"left": RegressionBlock(), "right": RegressionBlock()}, batch_tfms=[*steps, On("right", Noise())])


def test_steps_done_at_once_give_what_they_give_one_by_one() -> None:
    def batch() -> dict[str, torch.Tensor]:
        return {"left": torch.tensor([[1.0], [2.0]]), "right": torch.tensor([[3.0], [4.0]])}

    at_once, single = noisy(alone=False), noisy(alone=True)
    for seed in (None, 0):
        rngs = [None if seed is None else torch.Generator().manual_seed(seed) for _ in range(3)]
        wanted = single.encode_batch(batch(), rngs[0])
        for plan, rng in ((at_once, rngs[1]), (pickle.loads(pickle.dumps(at_once)), rngs[2])):
            found = plan.encode_batch(batch(), rng)
            assert all(torch.allclose(found[name], wanted[name]) for name in ("left", "right"))
            assert (seed is None) == bool((found["left"] == batch()["left"] - 0.5).all())
    part = at_once.encode_batch({"right": batch()["right"]}, torch.Generator().manual_seed(0))
    assert list(part) == ["right"]


@dataclass(frozen=True)
class Step(Transform):
    """Add a number, and in training what it draws; alone (each step) or with those of its kind that follow."""

    id: ClassVar[str] = "test/step"
    random = True
    add: float
    alone: bool = False

    def accepts(self, block: Block) -> bool:
        return isinstance(block, RegressionBlock)

    def out_block(self, block: Block) -> Block:
        return block

    def draw(self, rng: np.random.Generator, sample: Mapping[str, Any]) -> float:
        return float(rng.integers(1, 100))

    def bind(self, block: Block) -> Bound:
        return Bound(self._encode)

    def _encode(self, value: float, drawn: float | None) -> float:
        if value >= 1000:
            raise ValueError("too large")
        assert value < 0 or self.alone, "these steps are done at once"
        return value + self.add + (drawn or 0)

    def fused(self, block: Block, following: Sequence[Transform]) -> Fused | None:
        steps = [self, *itertools.takewhile(lambda tfm: isinstance(tfm, Step), following)]

        def at_once(value: float, drawn: Sequence[float | None]) -> Any:
            if value == 13:
                raise ValueError("unlucky")
            added = sum(cast("Step", step).add for step in steps) + sum(share or 0 for share in drawn)
            return NotImplemented if not 0 <= value < 1000 else value + added

        return None if self.alone or len(steps) == 1 else Fused(len(steps), at_once)


@dataclass(frozen=True)
class Peek(Transform):
    """Add what the other field is at this step."""

    id: ClassVar[str] = "test/peek"
    reads_sample = True

    def accepts(self, block: Block) -> bool:
        return isinstance(block, RegressionBlock)

    def out_block(self, block: Block) -> Block:
        return block

    def draw(self, rng: np.random.Generator | None, sample: Mapping[str, Any]) -> float:
        return float(sample["left"])

    def bind(self, block: Block) -> Bound:
        return Bound(lambda value, left: value + left)


def stepped(*, alone: bool, peek: bool = False) -> Plan:
    """Return a plan whose left field has a run of three, within which the right one has a step of its own."""
    own = [On("right", Peek())] if peek else [On("right", Step(7.0, alone=True))]
    steps = [On("left", Step(n, alone)) for n in (1.0, 2.0, 3.0, 4.0)]
    return compiled({"left": RegressionBlock(), "right": RegressionBlock()}, item_tfms=[*steps[:2], *own, *steps[2:]])


@pytest.mark.parametrize("peek", [False, True])
def test_item_steps_done_at_once_give_what_they_give_one_by_one(peek: bool) -> None:
    at_once, single = stepped(alone=False, peek=peek), stepped(alone=True, peek=peek)
    # Negative values are what the function cannot do.
    for sample in ({"left": 5.0, "right": 2.0}, {"left": -500.0, "right": 2.0}):
        for seed in (None, 0):
            rngs = [None if seed is None else np.random.default_rng(seed) for _ in range(3)]
            wanted = single.encode(sample, rngs[0])
            for plan, rng in ((at_once, rngs[1]), (pickle.loads(pickle.dumps(at_once)), rngs[2])):
                assert plan.encode(sample, rng) == wanted
    if not peek:
        assert list(at_once.encode({"right": 1.0})) == ["right"]
        assert [value for *_, value in single.trace({"left": 5.0, "right": 2.0})] == [6.0, 8.0, 9.0, 11.0, 15.0]


def test_errors_of_steps_done_at_once_name_the_steps() -> None:
    plan = stepped(alone=False)
    with pytest.raises(
        ItemError, match=r"field 'left', step Step\(add=1.0, .* to Step\(add=4.0, .*value 13: .*unlucky"
    ):
        plan.encode({"left": 13, "right": 0.0})
    with pytest.raises(ItemError, match=r"field 'left', step Step\(add=1.0, alone=False\), value 1000: .*too large"):
        plan.encode({"left": 1000, "right": 0.0})


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
