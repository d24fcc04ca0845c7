from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graftwork.batch import Batch
from graftwork.block import RegressionBlock
from graftwork.datablock import Dataset
from graftwork.dataloader import ColumnLoader, ItemLoader, default_workers
from graftwork.errors import DataError, ItemError, OptionError, PlanError
from graftwork.plan import Plan
from graftwork.testing.toy import Item, make_items, recipe

PLAN = Plan(
    {"x": RegressionBlock(), "y": RegressionBlock()}, inputs=("x",), targets=("y",), item_steps=(), batch_steps=()
)


def columns(count: int) -> dict[str, torch.Tensor]:
    return {"x": torch.arange(count).float(), "y": torch.arange(count).float() * 10}


def source(count: int = 50) -> Dataset:
    return recipe().datasets(make_items(count)).train


def positions(batches: Any) -> list[int]:
    return [i for batch in batches for i in batch.index.tolist()]


@given(st.integers(1, 60), st.integers(1, 20), st.booleans(), st.integers(0, 3))
def test_an_epoch_covers_every_item_once(count: int, bs: int, shuffle: bool, epoch: int) -> None:
    loader = ColumnLoader(columns(count), PLAN, bs=bs, shuffle=shuffle)
    batches = list(loader.at(epoch))
    assert sorted(positions(batches)) == list(range(count))
    assert len(batches) == len(loader)
    assert all(torch.equal(b.fields["x"], b.index.float()) for b in batches)
    assert all(torch.equal(b.fields["y"], b.fields["x"] * 10) for b in batches)


@given(st.integers(2, 60), st.integers(1, 20), st.integers(0, 3), st.data())
def test_an_epoch_can_be_entered_anywhere(count: int, bs: int, epoch: int, data: st.DataObject) -> None:
    loader = ColumnLoader(columns(count), PLAN, bs=bs, shuffle=True, seed=7)
    loader.chunk = bs * 2  # several index operations an epoch
    start = data.draw(st.integers(0, len(loader)))
    assert positions(loader.at(epoch, start)) == positions(loader.at(epoch))[start * bs :]


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    loader = ColumnLoader(columns(40), PLAN, bs=8, shuffle=True, seed=1)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = positions(loader.at(0))
    assert positions(loader.at(0)) == first
    assert positions(loader.at(1)) != first
    assert positions(ColumnLoader(columns(40), PLAN, bs=5, shuffle=True, seed=1).at(0)) == first
    assert positions(ColumnLoader(columns(40), PLAN, bs=8, shuffle=True, seed=2).at(0)) != first
    assert torch.equal(torch.get_rng_state(), state)


def test_entering_an_epoch_late_reads_nothing_before() -> None:
    data = source()
    read: list[int] = []

    @dataclass(frozen=True)
    class Spy(Dataset):
        def raw(self, position: int) -> dict[str, Any]:
            read.append(position)
            return Dataset.raw(self, position)

    loader = ItemLoader(Spy(data.items, data.positions, data.getters, data.plan), bs=4, shuffle=True, workers=0)
    next(loader.at(0, 3))
    assert read == loader.order(0)[12:16].tolist()


def test_in_training_a_lone_last_item_is_left_out_and_only_then() -> None:
    assert len(positions(ColumnLoader(columns(9), PLAN, bs=4, training=True))) == 8
    assert len(positions(ColumnLoader(columns(10), PLAN, bs=4, training=True))) == 10
    assert len(positions(ColumnLoader(columns(9), PLAN, bs=4))) == 9
    assert len(positions(ColumnLoader(columns(1), PLAN, bs=4, training=True))) == 1
    assert len(positions(ColumnLoader(columns(10), PLAN, bs=4, drop_last=True))) == 8


def same(left: list[Batch], right: list[Batch]) -> bool:
    pairs = zip(left, right, strict=True)
    return all(
        all(torch.equal(a.fields[n], b.fields[n]) for n in a.fields) and torch.equal(a.index, b.index) for a, b in pairs
    )


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_give_what_no_workers_give(workers: int) -> None:
    alone = list(ItemLoader(source(), bs=8, shuffle=True, workers=0).at(2))
    assert same(alone, list(ItemLoader(source(), bs=8, shuffle=True, workers=workers).at(2)))


@pytest.mark.slow
def test_processes_give_what_no_workers_give_over_epochs() -> None:
    alone, loader = ItemLoader(source(), bs=16, shuffle=True, workers=0), None
    loader = ItemLoader(source(), bs=16, shuffle=True, workers=1, worker_type="process")
    for epoch in (0, 1):
        assert same(list(alone.at(epoch)), list(loader.at(epoch)))


def test_processes_refuse_lambdas_with_advice() -> None:
    data = recipe(get_x=lambda item: item[0], get_y=lambda item: item[1]).datasets(make_items(30)).train
    with pytest.raises(OptionError, match="named functions instead of lambdas"):
        list(ItemLoader(data, workers=1, worker_type="process"))


def test_leaving_early_ends_the_threads() -> None:
    loader = ItemLoader(source(), bs=2, workers=2)
    for _ in loader:
        break
    for _ in range(50):
        if not any(t.name.startswith("graftwork-loader") for t in threading.enumerate()):
            return
        time.sleep(0.02)
    pytest.fail("loader threads are still alive a second later")


@dataclass(frozen=True)
class Breakable:
    """Read the four numbers, unless the item says it is broken."""

    def __call__(self, item: Item) -> list[float]:
        if item[0][0] == 99.0:
            raise ItemError("the file is torn")
        return item[0]


def broken_items() -> list[Item]:
    items = make_items(40)
    for i in (3, 17):
        items[i] = ([99.0] * 4, items[i][1])
    return items


def broken(**options: Any) -> ItemLoader:
    data = recipe(get_x=Breakable(), get_y=second, splitter=everything).datasets(broken_items())
    return ItemLoader(data.train, bs=8, **options)


def second(item: Item) -> str:
    return item[1]


def everything(items: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    return np.arange(len(items)), np.arange(0)


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_items_are_left_out_and_listed(workers: int) -> None:
    loader = broken(workers=workers)
    assert sorted(positions(loader)) == [i for i in range(40) if i not in (3, 17)]
    assert set(loader.bad_items) == {3, 17}
    assert "torn" in loader.bad_items[3]


@pytest.mark.parametrize("workers", [0, 2])
def test_or_the_first_one_is_an_error_that_names_it(workers: int) -> None:
    with pytest.raises(ItemError, match=r"item 3 \(\(\[99.0.*torn"):
        list(broken(workers=workers, on_bad_item="error"))


def test_a_batch_of_only_bad_items_is_left_out() -> None:
    items: list[Item] = [([99.0] * 4, "ant")] * 8 + make_items(8)
    data = recipe(get_x=Breakable(), get_y=second, splitter=everything).datasets(items)
    assert len(list(ItemLoader(data.train, bs=8, workers=0))) == 1


def test_a_bug_in_a_getter_is_never_skipped() -> None:
    data = recipe(get_x=lambda item: item[7], get_y=second).datasets(make_items(30)).train
    with pytest.raises(ItemError, match=r"getter of field 'x' failed with IndexError"):
        list(ItemLoader(data, workers=0, on_bad_item="skip"))


def test_items_that_do_not_fit_one_batch_are_named() -> None:
    items = [*make_items(5), ([1.0, 2.0], "bee")]
    data = recipe(splitter=everything).datasets(items).train
    with pytest.raises(ItemError, match=r"4 number\(s\) expected, not 2 \(items"):
        list(ItemLoader(data, bs=6, workers=0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bs": 0}, "bs=0"),
        ({"workers": -1}, "workers=-1"),
        ({"worker_type": "fiber"}, "neither 'thread' nor 'process'"),
        ({"on_bad_item": "shrug"}, "neither 'skip' nor 'error'"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        ItemLoader(source(), **options)


def test_columns_are_of_one_length_and_not_empty() -> None:
    with pytest.raises(DataError, match="one length"):
        ColumnLoader({"x": torch.zeros(3), "y": torch.zeros(2)}, PLAN)
    with pytest.raises(DataError, match="empty"):
        ColumnLoader({"x": torch.zeros(0)}, PLAN)


def test_a_batch_is_views_of_one_fetch() -> None:
    first, second_batch = list(ColumnLoader(columns(16), PLAN, bs=8, shuffle=True))
    assert first.x.untyped_storage().data_ptr() == second_batch.x.untyped_storage().data_ptr()


def test_in_order_gives_the_data_sets_own_order_with_nothing_left_out() -> None:
    loader = ColumnLoader(columns(9), PLAN, bs=4, shuffle=True, training=True, positions=torch.arange(9) + 100)
    assert positions(loader.in_order()) == list(range(100, 109))


def test_x_and_y_are_the_only_fields_of_their_kind() -> None:
    batch = Batch({"a": torch.zeros(2), "b": torch.zeros(2)}, ("a", "b"), (), torch.arange(2))
    with pytest.raises(PlanError, match="2 inputs"):
        _ = batch.x
    with pytest.raises(PlanError, match="0 targets"):
        _ = batch.y
    assert batch.size == 2


def test_default_workers_are_between_one_and_four() -> None:
    assert 1 <= default_workers() <= 4
