"""Baselines: fitted on the training split only, and measured on what the model is measured on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.dummy import DummyClassifier, DummyRegressor
from torch import Tensor

from graftwork.baseline import Baseline, Majority, Mean, default_baselines, evaluate_baseline
from graftwork.block import CategoryBlock, MultiCategoryBlock, RegressionBlock
from graftwork.datablock import DataBlock, DataLoaders
from graftwork.dataloader import Loader
from graftwork.errors import DataError, ItemError, OptionError, PlanError
from graftwork.objective import Objective
from graftwork.rows import fields_at, targets_of
from graftwork.split import IndexSplitter
from graftwork.testing.toy import make_items, recipe

NUMBERS = [0.0, 0.0, 0.0, 0.0]
VALID = list(range(6, 10))


def loaders(labels: list[Any], block: Any, *, valid: list[int] = VALID, **options: Any) -> DataLoaders:
    recipe = DataBlock(blocks=(RegressionBlock(4), block), splitter=IndexSplitter(valid))
    return recipe.dataloaders([(NUMBERS, label) for label in labels], bs=3, workers=0, **options)


CLASSES = ["b", "b", "b", "a", "b", "c", "c", "c", "b", "c"]


@pytest.mark.parametrize("cache", ["none", "memory"])
def test_majority_predicts_the_frequencies_of_training(cache):
    data = loaders(CLASSES, CategoryBlock, cache=cache)
    rows = Majority().fit(data).predict(data.valid)
    assert rows.shape == (4, 3)
    assert rows[0].tolist() == pytest.approx([1 / 6, 4 / 6, 1 / 6])
    assert (rows == rows[0]).all()
    # Of the validation items one in four is "b", though most of them are "c": training decides.
    assert evaluate_baseline(Majority(), data, Objective(data.plan, metrics="accuracy")) == {"accuracy": 0.25}


def test_majority_is_scikit_learns_dummy(items):
    data = recipe().dataloaders(items, bs=16, workers=0)
    train, valid = targets_of(data.train)["y"].numpy(), targets_of(data.valid)["y"].numpy()
    dummy = DummyClassifier(strategy="prior").fit(np.zeros((len(train), 1)), train)
    rows = Majority().fit(data).predict(data.valid)
    assert rows.numpy() == pytest.approx(dummy.predict_proba(np.zeros((len(valid), 1))), abs=1e-6)
    found = evaluate_baseline(Majority(), data, Objective(data.plan, metrics=["accuracy", "f1"]))
    assert found["accuracy"] == pytest.approx(dummy.score(np.zeros((len(valid), 1)), valid))


def test_majority_of_labels_is_their_frequency():
    labels = [["a"], ["a", "b"], ["a"], [], ["b"], ["a"], ["a"], [], ["b"], ["a", "b"]]
    data = loaders(labels, MultiCategoryBlock)
    rows = Majority().fit(data).predict(data.valid)
    assert rows[0].tolist() == pytest.approx([4 / 6, 2 / 6])
    assert evaluate_baseline(Majority(), data, Objective(data.plan)) == {"accuracy_multi": 4 / 8}


@pytest.mark.parametrize("n_out", [1, 2])
def test_the_mean_is_the_mean_of_training(n_out):
    numbers = np.random.default_rng(0).normal(1e6, 1, size=(10, n_out))
    data = loaders(numbers[:, 0].tolist() if n_out == 1 else numbers.tolist(), RegressionBlock(n_out))
    dummy = DummyRegressor().fit(np.zeros((6, 1)), numbers[:6].astype(np.float32))
    rows = Mean().fit(data).predict(data.valid)
    assert rows.shape == ((4,) if n_out == 1 else (4, 2))
    assert rows.reshape(4, n_out).numpy() == pytest.approx(dummy.predict(np.zeros((4, 1))).reshape(4, n_out), abs=0.1)
    found = evaluate_baseline(Mean(), data, Objective(data.plan, metrics=["mae"]))
    assert found["mae"] == pytest.approx(np.abs(numbers[6:] - numbers[:6].mean(0)).mean(), abs=0.1)


def test_a_class_that_training_lacks_has_probability_0():
    data = loaders(["a", "b", "a", "b", "a", "a", "a", "b", "b", "a"], CategoryBlock(("a", "b", "z")))
    assert Majority().fit(data).predict(data.valid)[0].tolist() == pytest.approx([4 / 6, 2 / 6, 0])


def test_the_target_names_its_baselines(data):
    assert [type(b) for b in default_baselines(data)] == [Majority]
    assert [type(b) for b in default_baselines(loaders([1.0] * 10, RegressionBlock()))] == [Mean]


def test_the_wrong_baseline_says_which_is_right(data):
    with pytest.raises(PlanError, match="use core/majority"):
        Mean().fit(data)
    with pytest.raises(PlanError, match="use core/mean"):
        Majority().fit(loaders([1.0] * 10, RegressionBlock()))
    with pytest.raises(OptionError, match=r"'majority' has not been fitted; call fit\(data\) first"):
        Majority().predict(data.valid)


def test_without_a_validation_split_there_is_nothing_to_measure():
    data = DataLoaders(train=loaders(CLASSES, CategoryBlock).train)
    with pytest.raises(DataError, match="nothing was held out"):
        evaluate_baseline(Majority(), data, Objective(data.plan))


class Reader(Baseline):
    """Read the inputs: predict class 0 for every item that can be read."""

    name = "reader"

    def fit(self, data: DataLoaders) -> Reader:
        return self

    def predict(self, loader: Loader) -> Tensor:
        rows = sum(batch.size for batch in loader)
        return torch.tensor([[1.0, 0.0, 0.0]]).expand(rows, 3)


class Short(Reader):
    name = "short"

    def predict(self, loader: Loader) -> Tensor:
        return torch.ones(1, 3)


def with_bad(on_bad_item: str = "skip") -> DataLoaders:
    items = [(NUMBERS, label) for label in CLASSES]
    items[8] = ([float("nan")] * 4, "b")

    def numbers(item: Any) -> Any:
        if item[0] != item[0] or any(v != v for v in item[0]):
            raise ItemError("not a number")
        return item[0]

    recipe = DataBlock(
        blocks=(RegressionBlock(4), CategoryBlock),
        splitter=IndexSplitter(VALID),
        getters={"x": numbers, "y": lambda item: item[1]},
    )
    return recipe.dataloaders(items, bs=3, workers=0, on_bad_item=on_bad_item)


def test_items_that_cannot_be_read_do_not_count():
    data = with_bad()
    objective = Objective(data.plan, metrics="accuracy")
    assert evaluate_baseline(Reader(), data, objective) == {"accuracy": 0.0}
    with pytest.raises(DataError, match="'short' gave 1 rows for 3 items"):
        evaluate_baseline(Short(), data, objective)
    list(data.valid)
    assert list(data.valid.bad_items) == [2]
    assert evaluate_baseline(Majority(), data, objective) == {"accuracy": 0.0}  # the only "b" cannot be read


def test_targets_are_read_without_encoding_inputs(monkeypatch):
    data = loaders(CLASSES, CategoryBlock)
    collated: list[str] = []
    monkeypatch.setattr(RegressionBlock, "collate", lambda self, values: collated.append("x"))
    assert targets_of(data.valid)["y"].tolist() == [2, 2, 1, 2]
    assert collated == []


@pytest.mark.parametrize("cache", ["none", "memory"])
def test_rows_are_found_by_position(cache):
    items = make_items(30)
    data = recipe().dataloaders(items, bs=4, workers=0, cache=cache)
    found = fields_at(data.valid, [5, 0, 3])
    for row, position in enumerate([5, 0, 3]):
        assert found["x"][row].tolist() == pytest.approx(data.valid.item(position)[0], rel=1e-6)
        assert data.plan.decode("y", int(found["y"][row]))[0] == data.valid.item(position)[1]


class Other(Loader):
    """A loader of another kind: nothing is known of it but its batches."""

    def __init__(self, inner: Loader) -> None:
        super().__init__(inner.num_items, bs=inner.bs, shuffle=False, seed=0, training=False, drop_last=False)
        self.inner = inner

    plan = property(lambda self: self.inner.plan)

    def at(self, epoch: int, batch: int = 0, part=None):
        return self.inner.at(epoch, batch)

    def item(self, position: int) -> Any:
        return self.inner.item(position)

    def in_order(self) -> Loader:
        return Other(self.inner.in_order())


def test_any_loader_will_do(data):
    other = Other(data.valid)
    assert torch.equal(targets_of(other)["y"], targets_of(data.valid)["y"])
    for name, column in fields_at(other, [7, 2]).items():
        assert torch.equal(column, fields_at(data.valid, [7, 2])[name])
