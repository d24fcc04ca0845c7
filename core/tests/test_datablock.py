from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from graftwork.block import CategoryBlock, RegressionBlock
from graftwork.datablock import DataBlock
from graftwork.dataloader import ColumnLoader, ItemLoader
from graftwork.errors import DataError, OptionError, PlanError
from graftwork.items import ColReader
from graftwork.split import ColSplitter, IndexSplitter, RandomSplitter, StratifiedSplitter
from graftwork.testing.toy import Item, make_items, recipe


def test_two_blocks_are_x_and_y(items: list[Item]) -> None:
    data = recipe().datasets(items)
    assert tuple(data.plan.fields) == ("x", "y")
    assert data.plan.inputs == ("x",)
    assert len(data.train) == 150
    assert len(data.valid) == 50
    assert data.train[0]["x"] == data.train.item(0)[0]


def test_several_inputs_and_targets_are_numbered_or_named() -> None:
    blocks = (RegressionBlock, RegressionBlock, CategoryBlock, RegressionBlock)
    block = DataBlock(blocks=blocks, n_inp=2, splitter=RandomSplitter(seed=0))
    assert tuple(block.fields) == ("x1", "x2", "y1", "y2")
    items = [(float(i), 2.0 * i, "ab"[i % 2], 3.0) for i in range(20)]
    batch = block.dataloaders(items, bs=4, workers=0).one_batch()
    assert batch.inputs == ("x1", "x2")
    assert torch.equal(batch.fields["x2"], 2 * batch.fields["x1"])
    named = DataBlock(blocks={"width": RegressionBlock, "price": RegressionBlock})
    assert named.targets == ("price",)


def test_a_data_frames_rows_become_mappings() -> None:
    frame = pd.DataFrame({"size": range(20), "kind": list("ab") * 10, "held": [i >= 15 for i in range(20)]})
    block = DataBlock(
        blocks=(RegressionBlock, CategoryBlock),
        get_x=ColReader("size"),
        get_y=ColReader("kind"),
        splitter=ColSplitter("held"),
    )
    data = block.datasets(frame)
    assert len(data.valid) == 5
    assert data.valid[0] == {"x": 15, "y": 1}


def test_statistics_come_from_the_training_split_alone() -> None:
    items = [(float(i), "ab"[i % 2]) for i in range(10)] + [(99.0, "zebra")]
    block = DataBlock(blocks=(RegressionBlock, CategoryBlock), splitter=IndexSplitter([10]))
    with pytest.raises(
        DataError, match=r"validation split cannot be encoded.*'zebra' does not occur.*StratifiedSplitter"
    ):
        block.datasets(items)


def test_the_splitter_is_told_the_label() -> None:
    items = [(float(i), "rare" if i % 10 == 0 else "common") for i in range(50)]
    data = DataBlock(blocks=(RegressionBlock, CategoryBlock), splitter=StratifiedSplitter(0.2)).datasets(items)
    assert sum(data.valid.item(i)[1] == "rare" for i in range(10)) == 1


def test_a_function_may_split() -> None:
    data = recipe(splitter=lambda items: (range(len(items) - 5), range(len(items) - 5, len(items)))).datasets(
        make_items(30)
    )
    assert len(data.valid) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_inp": 3}, "n_inp=3"),
        ({"getters": {"z": abs}}, "the field 'z'"),
        ({"get_y": [abs, abs]}, r"2 getter\(s\) for the 1 field"),
        ({"blocks": (abs, CategoryBlock)}, "no Block"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        recipe(**options)


def test_a_missing_getter_is_named() -> None:
    block = DataBlock(blocks=(RegressionBlock, CategoryBlock), get_x=abs)
    with pytest.raises(OptionError, match=r"no getter for the field\(s\) y"):
        block.datasets([1, 2])


def test_no_items_and_nothing_to_train_on() -> None:
    with pytest.raises(DataError, match="no items"):
        recipe().datasets([])
    with pytest.raises(DataError, match="nothing to train on"):
        recipe(splitter=lambda items: ([], range(len(items)))).datasets(make_items(3))
    with pytest.raises(DataError, match="not as Sized"):
        recipe(get_items=Sized, splitter=lambda items: (range(2), [])).datasets(3)


class Sized:
    """Have a length and nothing else."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count


def test_a_getter_that_fails_names_the_item() -> None:
    with pytest.raises(DataError, match=r"the getter of field 'y' failed with KeyError: 'kind'"):
        recipe(get_x=lambda i: i, get_y=lambda i: i["kind"]).datasets([{"a": 1}, {"a": 2}] * 5)


def test_nothing_held_out_leaves_valid_empty() -> None:
    loaders = recipe(splitter=lambda items: (range(len(items)), [])).dataloaders(make_items(20), workers=0)
    assert loaders.valid is None
    with pytest.raises(DataError, match="no validation split"):
        loaders.show_batch(split="valid")


def test_new_items_are_read_as_the_validation_split_is(items: list[Item]) -> None:
    loaders = recipe().dataloaders(items, bs=16, workers=0)
    batch = next(iter(loaders.test_dl(make_items(5, seed=9))))
    assert set(batch.fields) == {"x"}
    labelled = next(iter(loaders.test_dl(make_items(5, seed=9), with_labels=True)))
    assert labelled.y.shape == (5,)


@pytest.mark.parametrize("cache", ["memory", "auto"])
def test_cached_data_is_the_same_data(items: list[Item], cache: Any) -> None:
    plain, cached = recipe().dataloaders(items, bs=16, workers=0), recipe().dataloaders(items, bs=16, cache=cache)
    assert isinstance(plain.train, ItemLoader)
    assert isinstance(cached.train, ColumnLoader)
    for a, b in zip(plain.train.at(3), cached.train.at(3), strict=True):
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.y, b.y)
    assert cached.train.item(4) == plain.train.item(4)


def test_summary_walks_every_step(items: list[Item], capsys: pytest.CaptureFixture[str]) -> None:
    recipe().summary(items)
    text = capsys.readouterr().out
    for part in (
        "200 items",
        "150 to train, 50 to validate",
        "Categorize",
        "one batch of 4",
        "tensor (4, 4) float32",
        "Everything fits.",
    ):
        assert part in text


def test_summary_stops_at_the_failing_step_with_item_and_reason(capsys: pytest.CaptureFixture[str]) -> None:
    block = recipe(get_x=lambda item: item[0], get_y=lambda item: item[5], splitter=RandomSplitter(seed=1))
    block.summary(make_items(20))
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("FAILED: item (")
    assert "getter of field 'y' failed with IndexError" in lines[-1]
    assert "20 items" in lines[0]


def test_show_batch_draws_and_leaves_random_state_alone(items: list[Item], tmp_path: Path) -> None:
    state = torch.get_rng_state()
    figure = recipe().dataloaders(items, bs=16, workers=0).show_batch(max_n=4)
    figure.savefig(tmp_path / "batch.png")
    assert len(figure.axes) == 4
    assert figure.axes[0].get_title().split("\n")[1] in ("ant", "bee", "cow")
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("cache", ["none", "memory"])
def test_show_augmented_draws_one_sample_again_and_again(items: list[Item], cache: Any) -> None:
    state = torch.get_rng_state()
    data = recipe().dataloaders(items, bs=16, workers=0, cache=cache)
    figure = data.show_augmented(2, max_n=5)
    assert len(figure.axes) == 5
    label = {ax.get_title().split("\n")[1] for ax in figure.axes}
    assert label == {data.train.item(2)[1]}
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(OptionError, match="position=99999"):
        data.show_augmented(99999)


def test_explain_is_there_before_any_training(items: list[Item]) -> None:
    assert "Categorize" in recipe().datasets(items).plan.explain()


def test_loaders_put_together_by_hand_have_no_test_dl(items: list[Item]) -> None:
    from graftwork.datablock import DataLoaders

    loaders = DataLoaders(train=recipe().dataloaders(items).train)
    with pytest.raises(DataError, match="by hand"):
        loaders.test_dl(items)


def test_two_targets_have_no_single_target(items: list[Item]) -> None:
    block = DataBlock(blocks=(RegressionBlock(4), CategoryBlock, CategoryBlock), n_inp=1)
    plan = block.datasets([(x, y, y) for x, y in items]).plan
    with pytest.raises(PlanError, match="2 targets"):
        _ = plan.target
    assert np.array_equal([plan.target_block(n).num_outputs for n in plan.targets], [3, 3])
