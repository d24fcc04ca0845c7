from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from graftwork.block import (
    Block,
    CategoryBlock,
    ClassIndexBlock,
    MultiCategoryBlock,
    MultiHotBlock,
    RegressionBlock,
    TargetBlock,
)
from graftwork.errors import BlockError, OptionError, UnknownName

BLOCKS: list[Block] = [
    CategoryBlock(),
    CategoryBlock(("a", "b")),
    ClassIndexBlock(("a", "b", "c")),
    MultiCategoryBlock(),
    MultiCategoryBlock((1, 2, 3)),
    MultiHotBlock(("a", "b"), threshold=0.3),
    RegressionBlock(),
    RegressionBlock(3),
]
ENCODED = [b for b in BLOCKS if isinstance(b, TargetBlock)]


@pytest.mark.parametrize("block", BLOCKS, ids=repr)
@pytest.mark.parametrize("seed", range(5))
def test_mock_passes_check_and_is_decided_by_the_seed(block: Block, seed: int) -> None:
    value = block.mock(np.random.default_rng(seed))
    again = block.mock(np.random.default_rng(seed))
    assert block.check(value) is None
    assert np.array_equal(np.asarray(value), np.asarray(again))


@pytest.mark.parametrize("block", BLOCKS, ids=repr)
def test_json_round_trip(block: Block) -> None:
    assert type(block).from_config(block.to_config()) == block


def test_unknown_field_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="vocab"):
        CategoryBlock.from_config({"vocap": ["a"]})


def test_code_has_no_json_form() -> None:
    block = CategoryBlock((print,))  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="register"):
        block.to_config()


@pytest.mark.parametrize("block", ENCODED, ids=repr)
def test_collate_stacks_and_uncollate_undoes_it(block: TargetBlock) -> None:
    rng = np.random.default_rng(3)
    values = [block.mock(rng) for _ in range(5)]
    column = block.collate(values)
    assert len(column) == 5
    back = block.uncollate(column)
    assert all(np.allclose(np.asarray(a), np.asarray(b)) for a, b in zip(values, back, strict=True))


@pytest.mark.parametrize("block", ENCODED, ids=repr)
def test_predictions_are_encoded_targets(block: TargetBlock) -> None:
    raw = torch.randn(6, block.num_outputs)
    predicted = block.uncollate(block.predict(block.activate(raw)))
    assert len(predicted) == 6
    assert [block.check(value) for value in predicted] == [None] * 6


@pytest.mark.parametrize("block", [CategoryBlock(), MultiCategoryBlock()])
def test_labels_are_not_batched_before_they_are_encoded(block: Block) -> None:
    with pytest.raises(BlockError, match="encode them first"):
        block.collate(["a", "b"])


@pytest.mark.parametrize(
    ("block", "value", "reason"),
    [
        (CategoryBlock(), None, "missing"),
        (CategoryBlock(), float("nan"), "missing"),
        (CategoryBlock(), ["a"], "not list"),
        (CategoryBlock(("a",)), "z", "not among"),
        (ClassIndexBlock(("a", "b")), 2, "not in 0 … 1"),
        (ClassIndexBlock(("a", "b")), True, "integer"),
        (MultiCategoryBlock(), "abc", "sequence"),
        (MultiHotBlock(("a", "b")), np.array([0.5, 1]), "only 0 and 1"),
        (RegressionBlock(), float("inf"), "finite"),
        (RegressionBlock(2), [1.0], "2 number"),
        (RegressionBlock(), "1.0", "not str"),
    ],
)
def test_check_says_why(block: Block, value: Any, reason: str) -> None:
    assert reason in (block.check(value) or "")


def test_regression_collate_names_what_is_no_number() -> None:
    with pytest.raises(BlockError, match="nan"):
        RegressionBlock().collate([1.0, float("nan")])


def test_one_number_is_a_vector_in_a_batch_and_values_match_the_targets_shape() -> None:
    block = RegressionBlock()
    assert block.collate([1.0, 2.0]).shape == (2,)
    assert block.activate(torch.zeros(2, 1)).shape == (2,)


@pytest.mark.parametrize("make", [CategoryBlock, MultiCategoryBlock, ClassIndexBlock, MultiHotBlock])
def test_a_vocabulary_names_a_class_once(make: Any) -> None:
    with pytest.raises(OptionError, match="twice"):
        make(("a", "a"))


@given(st.lists(st.floats(-5, 5, width=32), min_size=3, max_size=3))
def test_probabilities_are_named_and_add_up(row: list[float]) -> None:
    block = ClassIndexBlock(("x", "y", 3))
    named = block.probabilities(block.activate(torch.tensor([row]))[0])
    assert list(named) == ["x", "y", "3"]
    assert sum(named.values()) == pytest.approx(1, abs=1e-5)


def test_show_adds_to_the_title() -> None:
    ax = Figure().add_subplot()
    ClassIndexBlock(("cat", "dog")).show(1, ax)
    RegressionBlock(2).show([1.5, 2.0], ax)
    assert ax.get_title() == "dog\n1.5, 2"
