"""Blocks of rankings: ids to codes and back, what may be left out, and negatives drawn on the device."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from graftwork.api import Block, BlockError, OptionError, Plan
from graftwork_collab.blocks import IdBlock
from graftwork_collab.ranking_blocks import (
    IdentifyItems,
    ItemCodesBlock,
    ItemsBlock,
    RankedItemsBlock,
    RankingBlock,
    SampleNegatives,
)

VOCAB = ("ant", "bee", "cat", "dog")
FIND = IdentifyItems(vocab=VOCAB, names=("Ant", "Bee", "Cat", "Dog"))
BLOCKS = [
    ItemsBlock(),
    ItemsBlock(length=3),
    RankingBlock(),
    ItemCodesBlock(num_items=4),
    RankedItemsBlock(num_items=4, k=2),
]


def name(block: Block) -> str:
    return type(block).__name__


@pytest.mark.parametrize("block", BLOCKS, ids=name)
@pytest.mark.parametrize("seed", range(3))
def test_an_invented_value_passes_the_check(block: Block, seed: int):
    assert block.check(block.mock(np.random.default_rng(seed))) is None


@pytest.mark.parametrize("part", [*BLOCKS, FIND, SampleNegatives(num=3, num_items=4)], ids=lambda p: type(p).__name__)
def test_config_goes_through_json(part):
    assert type(part).from_config(json.loads(json.dumps(part.to_config()))) == part


@pytest.mark.parametrize(
    ("block", "value", "words"),
    [
        (RankingBlock(), None, "list of their ids"),
        (RankingBlock(), "ant", "list of their ids"),
        (ItemsBlock(), ["ant", 1.5], "float"),
        (ItemCodesBlock(num_items=4), [1, 5], "between 0 and 4"),
        (ItemCodesBlock(num_items=4), [0.5], "row of integers"),
        (RankedItemsBlock(num_items=4, k=1), [[1]], "row of integers"),
    ],
    ids=str,
)
def test_what_is_no_value_is_refused(block: Block, value, words: str):
    assert words in str(block.check(value))


def test_items_may_be_left_out_and_a_ranking_may_not():
    assert ItemsBlock.optional
    assert not RankingBlock.optional
    assert ItemsBlock().check(None) is None


def test_held_out_items_keep_unknown_ones():
    bound = FIND.bind(RankingBlock())
    assert bound.encode(["cat", "yak", "Bee"], None).tolist() == [3, 0, 2]
    assert bound.decode is not None
    assert bound.decode(np.array([3, 0, 2, -1])) == ["cat", None, "bee"]


def test_candidates_are_the_known_ones_or_all():
    encode = FIND.bind(ItemsBlock()).encode
    assert encode(["dog", "yak"], None).tolist() == [4]
    assert encode(None, None).shape == (0,)
    with pytest.raises(BlockError, match="none of the 2 items to choose from"):
        encode(["yak", "gnu"], None)


def test_histories_are_cut_and_padded_in_front():
    encode = FIND.bind(ItemsBlock(length=3)).encode
    assert encode(["ant", "bee", "cat", "dog"], None).tolist() == [2, 3, 4]
    assert encode(["bee", "yak"], None).tolist() == [0, 0, 2]
    assert encode(None, None).tolist() == [-1, -1, -1]
    with pytest.raises(BlockError, match="list of their ids"):
        encode("ant", None)


@settings(deadline=None)
@given(codes=st.lists(st.integers(1, 4), max_size=6))
def test_encoding_undoes_decoding(codes: list[int]):
    bound = FIND.bind(RankingBlock())
    assert bound.decode is not None
    assert bound.encode(bound.decode(np.array(codes, dtype=np.int64)), None).tolist() == codes


@settings(deadline=None)
@given(rows=st.lists(st.lists(st.integers(0, 4), max_size=5), min_size=1, max_size=5))
def test_batches_are_padded_and_taken_apart(rows: list[list[int]]):
    block = RankedItemsBlock(num_items=4, k=2)
    column = block.collate([np.array(row, dtype=np.int64) for row in rows])
    assert column.shape == (len(rows), max(map(len, rows)))
    assert [row.tolist() for row in block.uncollate(column)] == rows


def test_without_a_vocabulary_there_is_no_ranking():
    with pytest.raises(OptionError, match="RankingDataLoaders"):
        Plan.compile({"user": IdBlock(("a",)), "y": RankingBlock()}, inputs=["user"], targets=["y"], train=lambda _: ())


def test_activation_picks_the_best_codes():
    block = RankedItemsBlock(num_items=4, k=2)
    raw = torch.tensor([[-torch.inf, 1.0, 3.0, -torch.inf, 2.0]])
    assert block.depth == 10
    activated = block.activate(raw)
    assert activated.tolist() == [[2, 4, 1] + [-1] * 7]
    assert block.predict(activated).tolist() == [[2, 4]]
    assert (block.num_outputs, block.probabilities(raw[0])) == (5, None)


@pytest.mark.parametrize("k", [0, 5])
def test_more_places_than_items_are_refused(k: int):
    with pytest.raises(OptionError, match="there are 4 items to rank"):
        RankedItemsBlock(num_items=4, k=k)


def test_values_are_shown_by_their_first_items():
    ax = Figure().add_subplot()
    RankingBlock().show(list("abcdefg"), ax)
    RankingBlock().show([], ax)
    ItemCodesBlock(num_items=4).show(np.array([1, 2]), ax)
    assert ax.get_title() == "a, b, c, d, e, …\n(none)\n1, 2"


def test_a_long_vocabulary_is_not_printed():
    assert len(repr(IdentifyItems(vocab=tuple(range(10_000))))) < 60


# -- negatives ---------------------------------------------------------------------------------------------------------


def drawn(num: int, in_batch: float, chosen: torch.Tensor, seed: int = 0, num_items: int = 50) -> torch.Tensor:
    step = SampleNegatives(num=num, in_batch=in_batch, num_items=num_items)
    bound = step.bind(ItemCodesBlock(num_items=num_items))
    return bound.encode(chosen, step.draw(torch.Generator().manual_seed(seed), {"item": chosen}))


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 9), num=st.integers(1, 40), share=st.floats(0, 1), seed=st.integers(0, 99))
def test_negatives_come_behind_and_are_shared(rows: int, num: int, share: float, seed: int):
    chosen = torch.arange(1, rows + 1)[:, None]
    found = drawn(num, share, chosen, seed)
    assert found.shape == (rows, 1 + num)
    assert torch.equal(found[:, :1], chosen)
    assert (found[:, 1:] == found[:1, 1:]).all()
    even = num - round(num * share)
    assert ((found[0, 1 : 1 + even] >= 1) & (found[0, 1 : 1 + even] <= 50)).all()
    assert torch.isin(found[0, 1 + even :], chosen).all()


def test_a_sequence_keeps_its_places():
    chosen = torch.tensor([[0, 3, 4], [5, 6, 7]])
    found = drawn(6, 0.5, chosen)
    assert found.shape == (2, 3, 7)
    assert torch.equal(found[..., 0], chosen)


def test_negatives_are_a_pure_function_of_the_generator():
    chosen = torch.arange(1, 9)[:, None]
    assert torch.equal(drawn(20, 0.5, chosen, 3), drawn(20, 0.5, chosen, 3))
    assert not torch.equal(drawn(20, 0.5, chosen, 3), drawn(20, 0.5, chosen, 4))


def test_the_catalogue_is_drawn_evenly_and_the_batch_by_popularity():
    even = drawn(20_000, 0.0, torch.ones(1, 1, dtype=torch.int64), num_items=4)[0, 1:]
    assert torch.bincount(even)[1:].float().div(20_000).sub(0.25).abs().max() < 0.02
    popular = torch.tensor([[1], [1], [1], [2]])
    shares = torch.bincount(drawn(20_000, 1.0, popular)[0, 1:]).float() / 20_000
    assert abs(float(shares[1]) - 0.75) < 0.02


def test_outside_training_nothing_is_drawn():
    step = SampleNegatives(num=3, num_items=4)
    chosen = torch.zeros(5, 0, dtype=torch.int64)
    assert step.bind(ItemCodesBlock(num_items=4)).encode(chosen, None) is chosen


def test_the_block_says_how_negatives_are_drawn():
    block = SampleNegatives(num=7, in_batch=0.25, num_items=4).out_block(ItemCodesBlock(num_items=4))
    assert block == ItemCodesBlock(num_items=4, negatives=7, in_batch=0.25)


@pytest.mark.parametrize("options", [{"num": 0}, {"in_batch": 1.5}, {"in_batch": -0.1}], ids=str)
def test_impossible_draws_are_refused(options):
    with pytest.raises(OptionError, match="sample-negatives"):
        SampleNegatives(**options)
