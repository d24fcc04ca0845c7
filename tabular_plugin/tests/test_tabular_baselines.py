"""Trees and linear models on packed rows: every kind of target, weights, classes that training lacks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from graftwork.api import (
    Baseline,
    ClassIndexBlock,
    ColumnLoader,
    DataLoaders,
    OptionError,
    Plan,
    PlanError,
    RegressionBlock,
    get_host,
)
from graftwork.baseline import evaluate_baseline
from graftwork_tabular import PackedRowBlock, TabularDataLoaders, tabular_learner
from graftwork_tabular.baselines import Boosting, Linear

Packed = Callable[..., DataLoaders]
KINDS = {"boosting": Boosting, "linear": Linear}
BLOCK = PackedRowBlock(cat=("c",), sizes=(6,), cont=("n",))


@pytest.fixture(params=sorted(KINDS))
def baseline(request: pytest.FixtureRequest) -> Baseline:
    return KINDS[request.param]()


def by_hand(y: torch.Tensor, target: object, *, weights: torch.Tensor | None = None) -> DataLoaders:
    """Return loaders whose number column is the row's position, all in training and all in validation."""
    plan = Plan({"x": BLOCK, "y": target}, inputs=("x",), targets=("y",), item_steps=(), batch_steps=())  # type: ignore[dict-item]
    x = torch.stack([torch.arange(len(y)) % 5 + 1, torch.linspace(-1, 1, len(y))], 1).float()
    columns = {"x": x, "y": y}
    train = ColumnLoader(columns, plan, shuffle=True, training=True, weights=weights)
    return DataLoaders(train=train, valid=ColumnLoader(columns, plan))


class TestTargets:
    def test_classes_have_probabilities(self, baseline: Baseline, packed: Packed):
        data = packed(rows=1200)
        found = baseline.fit(data).predict(data.valid)
        assert torch.allclose(found.sum(1), torch.ones(len(found)), atol=1e-5)
        assert (found.argmax(1) == data.valid.columns["y"]).float().mean() > 0.9

    def test_a_number_is_one_value_a_row(self, baseline: Baseline, packed: Packed):
        data = packed("number", rows=1200)
        found, actual = baseline.fit(data).predict(data.valid), data.valid.columns["y"]
        assert found.shape == actual.shape
        assert (found - actual).square().mean() < 0.1 * actual.var()

    def test_several_numbers_are_several_values(self, baseline: Baseline, packed: Packed):
        data = packed("numbers", rows=1200)
        found, actual = baseline.fit(data).predict(data.valid), data.valid.columns["y"]
        assert found.shape == actual.shape
        assert (found[:, :2] - actual[:, :2]).square().mean() < 0.1 * actual[:, :2].var()

    def test_labels_have_a_probability_each(self, baseline: Baseline, packed: Packed):
        data = packed("labels", rows=1200)
        found, actual = baseline.fit(data).predict(data.valid), data.valid.columns["y"]
        assert found.min() >= 0
        assert found.max() <= 1
        assert ((found[:, 0] > 0.5) == actual[:, 0]).float().mean() > 0.9

    def test_a_class_that_training_lacks_is_never_predicted(self, baseline: Baseline):
        data = by_hand(torch.arange(60) // 30 * 2, ClassIndexBlock(("a", "b", "c")))
        found = baseline.fit(data).predict(data.valid)
        assert (found[:, 1] == 0).all()
        assert found[0].argmax() == 0
        assert found[-1].argmax() == 2

    @pytest.mark.parametrize("target", ["class", "number"])
    def test_what_never_varies_is_predicted_so(self, baseline: Baseline, target: str):
        if target == "class":
            data = by_hand(torch.ones(30, dtype=torch.int64), ClassIndexBlock(("a", "b")))
            assert baseline.fit(data).predict(data.valid).tolist() == [[0, 1]] * 30
        else:
            data = by_hand(torch.full((30,), 2.5), RegressionBlock(1))
            assert baseline.fit(data).predict(data.valid).tolist() == [2.5] * 30

    def test_weights_of_rows_count(self, baseline: Baseline):
        """The same rows are of both classes; the heavier one wins."""
        y = torch.arange(400) % 2
        data = by_hand(y, ClassIndexBlock(("a", "b")), weights=torch.where(y == 1, 9.0, 1.0))
        found = baseline.fit(data).predict(data.valid)
        assert found[:, 1].mean() == pytest.approx(0.9, abs=0.03)


class TestColumns:
    @pytest.mark.parametrize("columns", [{"cont": 0}, {"cat": 0}], ids=["only categories", "only numbers"])
    def test_one_kind_is_enough(self, baseline: Baseline, packed: Packed, columns: dict[str, int]):
        data = packed(rows=1200, **columns)
        found = baseline.fit(data).predict(data.valid)
        assert (found.argmax(1) == data.valid.columns["y"]).float().mean() > 0.85

    def test_a_category_is_no_number(self, packed: Packed):
        """Every other code is of one class: neither a threshold nor a slope on the code could tell."""
        y = torch.arange(500) % 5 % 2
        for kind in KINDS.values():
            data = by_hand(y, ClassIndexBlock(("a", "b")))
            assert (kind().fit(data).predict(data.valid).argmax(1) == y).all()

    def test_many_categories_are_no_hindrance(self, baseline: Baseline):
        block = PackedRowBlock(cat=("many",), sizes=(5000,))
        plan = Plan(
            {"x": block, "y": ClassIndexBlock(("a", "b"))},
            inputs=("x",),
            targets=("y",),
            item_steps=(),
            batch_steps=(),
        )
        codes = torch.from_numpy(np.random.default_rng(0).integers(0, 5000, (3000, 1)).astype(np.float32))
        loader = ColumnLoader({"x": codes, "y": (codes[:, 0] > 2500).long()}, plan)
        found = baseline.fit(DataLoaders(train=loader)).predict(loader)
        assert found.shape == (3000, 2)

    def test_codes_unseen_in_training_can_come(self, baseline: Baseline):
        data = by_hand(torch.arange(60) // 30, ClassIndexBlock(("a", "b")))
        unseen = ColumnLoader({"x": torch.tensor([[0.0, -1.0], [0.0, 1.0]])}, data.plan)
        assert baseline.fit(data).predict(unseen).argmax(1).tolist() == [0, 1]


class TestUse:
    def test_each_is_registered(self):
        for name, kind in KINDS.items():
            assert get_host().baselines.get(f"tabular/{name}") is kind

    def test_predicting_before_fitting_is_refused(self, baseline: Baseline, packed: Packed):
        with pytest.raises(OptionError, match="has not been fitted"):
            baseline.predict(packed().valid)

    def test_other_inputs_are_refused(self, baseline: Baseline):
        plan = Plan(
            {"x": RegressionBlock(2), "y": RegressionBlock(1)},
            inputs=("x",),
            targets=("y",),
            item_steps=(),
            batch_steps=(),
        )
        data = DataLoaders(train=ColumnLoader({"x": torch.zeros(4, 2), "y": torch.zeros(4)}, plan))
        with pytest.raises(PlanError, match="packed row"):
            baseline.fit(data)

    def test_errors_are_measured_in_the_tables_units(self, baseline: Baseline):
        """The target is scaled for training; a baseline's error is still in what the column holds."""
        rng = np.random.default_rng(0)
        size = rng.normal(size=600)
        rows = [{"size": float(s), "price": 1000 + 300 * float(s)} for s in size]
        data = TabularDataLoaders.from_df(rows, y_names="price")
        objective = tabular_learner(data, layers=[4], progress=False).objective
        found = evaluate_baseline(baseline, data, objective)
        assert 0 < found["rmse"] < 60

    def test_only_training_is_looked_at(self, baseline: Baseline):
        y = torch.arange(60) // 30
        data = by_hand(y, ClassIndexBlock(("a", "b")))
        data.valid.columns["y"] = 1 - y
        assert (baseline.fit(data).predict(data.train.in_order()).argmax(1) == y).all()
