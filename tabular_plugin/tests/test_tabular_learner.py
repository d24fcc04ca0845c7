"""tabular_learner: which model, with what options, losses and ranges; and that what it makes can be saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from graftwork import Predictor, load_learner
from graftwork.api import (
    BCEWithLogits,
    ClassIndexBlock,
    CrossEntropy,
    DataLoaders,
    Focal,
    OptionError,
    RegressionBlock,
    UnknownName,
    get_host,
)
from graftwork_tabular import ScaledNumbersBlock, TabularDataLoaders, tabular_learner
from graftwork_tabular.bins import bins_of
from graftwork_tabular.learner import MODELS, encoded_range, fit_recipe, recipe_epochs

Packed = Callable[..., DataLoaders]
SMALL = {
    "tabular/ft-transformer": {"width": 16, "heads": 2, "blocks": 2},
    "tabular/mlp": {"layers": [16]},
    "tabular/resnet": {"width": 16, "blocks": 1},
    "tabular/tabm": {"k": 3, "layers": [16]},
}


def table(rows: int = 400, seed: int = 0) -> pd.DataFrame:
    """Make a table whose price follows from its columns, with a value missing here and there."""
    rng = np.random.default_rng(seed)
    colour, size = rng.choice(["red", "green", "blue"], rows), rng.exponential(3, rows)
    price = 100 + 20 * (colour == "red") + 5 * size + rng.normal(0, 1, rows)
    size[::50] = np.nan
    return pd.DataFrame({"colour": colour, "size": size, "price": price, "dear": np.where(price > 118, "yes", "no")})


class TestModels:
    def test_every_model_of_ours_is_registered(self):
        assert {i for i in get_host().models.ids() if i.startswith("tabular/")} == set(SMALL)
        assert set(MODELS) == set(SMALL)

    def test_the_strong_one_is_the_default(self, packed: Packed):
        assert tabular_learner(packed(), progress=False).model_id == "tabular/tabm"

    def test_layers_alone_mean_the_mlp(self, packed: Packed):
        learn = tabular_learner(packed(), layers=[12, 7], progress=False)
        assert learn.model_id == "tabular/mlp"
        assert [m.out_features for m in learn.module.modules() if isinstance(m, torch.nn.Linear)] == [12, 7, 3]

    def test_layers_go_to_the_model_that_is_named(self, packed: Packed):
        learn = tabular_learner(packed(), "tabm", layers=[12], progress=False)
        assert learn.module.first.out_features == 12

    def test_an_unknown_model_is_refused_with_the_nearest(self, packed: Packed):
        with pytest.raises(UnknownName, match="tabular/resnet"):
            tabular_learner(packed(), "tabular/resnt")

    def test_an_unknown_option_is_refused(self, packed: Packed):
        with pytest.raises(OptionError, match="depth"):
            tabular_learner(packed(), config={"depth": 3})

    @pytest.mark.parametrize("model", sorted(SMALL))
    def test_rates_are_the_models_own(self, packed: Packed, model: str):
        learn = tabular_learner(packed(), model, config=SMALL[model], progress=False)
        assert (learn.lr, learn.wd) == (MODELS[model].lr, MODELS[model].wd)

    def test_rates_can_be_set(self, packed: Packed):
        learn = tabular_learner(packed(), lr=0.5, wd=0.25, progress=False)
        assert (learn.lr, learn.wd) == (0.5, 0.25)

    def test_bins_are_learned_from_training_alone(self, packed: Packed):
        data = packed()
        learn = tabular_learner(data, progress=False)
        block = data.plan.fields["x"].final
        expected = bins_of(block.cont, data.train.columns["x"][:, block.n_cat :])
        assert learn.model_config["bins"] == expected

    def test_bins_that_are_given_stay(self, packed: Packed):
        bins = {"n0": {"edges": [0.0, 1.0], "means": [0.5], "stds": [0.5]}}
        learn = tabular_learner(packed(), config={"bins": bins}, progress=False)
        assert learn.model_config["bins"] == bins


class TestRecipe:
    def test_a_small_table_gets_more_epochs(self, packed: Packed):
        learn = tabular_learner(packed(bs=64), layers=[4], progress=False)
        assert recipe_epochs(learn) == 50  # 6 batches an epoch
        assert recipe_epochs(tabular_learner(packed(bs=384), layers=[4], progress=False)) == 100

    def test_a_large_table_gets_the_models_own(self, packed: Packed):
        assert recipe_epochs(tabular_learner(packed(bs=2), layers=[4], progress=False)) == MODELS["tabular/mlp"].epochs

    def test_epochs_and_rate_can_be_set(self, packed: Packed):
        learn = fit_recipe(tabular_learner(packed(), layers=[4], progress=False), epochs=2, lr=1e-4)
        assert len(learn.history) == 2
        assert max(learn.recorder.learning_rates) <= 1e-4


class TestClassWeights:
    def weights(self, data: DataLoaders, given: object) -> list[float]:
        loss = tabular_learner(data, layers=[4], class_weights=given, progress=False).objective.losses["y"]  # type: ignore[arg-type]
        assert isinstance(loss, CrossEntropy)
        assert loss.weight is not None
        found: list[float] = loss.weight.tolist()
        return found

    def test_balanced_means_every_class_counts_the_same(self, packed: Packed):
        data = packed()
        counts = torch.bincount(data.train.columns["y"])
        weights = torch.tensor(self.weights(data, "balanced"))
        assert torch.allclose(weights * counts, torch.full((3,), len(data.train.columns["y"]) / 3))

    def test_they_are_given_by_class(self, packed: Packed):
        assert self.weights(packed(), {"high": 5, "low": 0.5}) == [0.5, 1.0, 5.0]

    def test_labels_weigh_where_they_are_given(self, packed: Packed):
        data = packed("labels")
        learn = tabular_learner(data, layers=[4], class_weights="balanced", progress=False)
        loss = learn.objective.losses["y"]
        assert isinstance(loss, BCEWithLogits)
        ones = data.train.columns["y"].sum(0)
        assert torch.allclose(loss.pos_weight * ones, len(data.train.columns["y"]) - ones)

    def test_they_are_heeded_by_an_ensemble_too(self, packed: Packed):
        """Where one class is worth a hundred others, it is what is predicted."""
        data = packed()
        learn = tabular_learner(data, config=SMALL["tabular/tabm"], class_weights={"middle": 1000}, progress=False)
        learn.fit_one_cycle(3, 1e-2)
        assert (learn.get_preds().activated.argmax(1) == 1).float().mean() > 0.9

    @pytest.mark.parametrize(
        ("kind", "given", "told"),
        [
            ("number", "balanced", "for classes"),
            ("classes", "equal", "neither 'balanced' nor"),
            ("classes", {"low": 0}, "above 0"),
        ],
        ids=["numbers", "unknown word", "no weight"],
    )
    def test_impossible_ones_are_refused(self, packed: Packed, kind: str, given: object, told: str):
        with pytest.raises(OptionError, match=told):
            tabular_learner(packed(kind), class_weights=given)  # type: ignore[arg-type]

    def test_an_unknown_class_is_refused(self, packed: Packed):
        with pytest.raises(UnknownName, match="did you mean 'middle'"):
            tabular_learner(packed(), class_weights={"midle": 2})

    def test_they_do_not_go_with_a_loss(self, packed: Packed):
        with pytest.raises(OptionError, match="give the loss its weights itself"):
            tabular_learner(packed(), class_weights="balanced", loss=Focal())


class TestRange:
    def test_is_in_the_units_of_the_table(self):
        block = ScaledNumbersBlock(1, mean=(100.0,), std=(20.0,))
        assert encoded_range(block, (60, 160)) == [[-2.0], [3.0]]

    def test_each_number_can_have_its_own(self):
        block = ScaledNumbersBlock(2, mean=(100.0, 0.0), std=(20.0, 2.0))
        assert encoded_range(block, ((60, -2), (160, 4))) == [[-2.0, -1.0], [3.0, 2.0]]

    def test_plain_numbers_have_it_as_it_is(self):
        assert encoded_range(RegressionBlock(1), (0, 5.5)) == [[0.0], [5.5]]

    def test_classes_have_none(self):
        with pytest.raises(OptionError, match="bounds numbers"):
            encoded_range(ClassIndexBlock(("a", "b")), (0, 1))

    @pytest.mark.parametrize("model", sorted(SMALL))
    def test_predictions_stay_within(self, model: str):
        data = TabularDataLoaders.from_df(table(), y_names="price", drop=["dear"], bs=64)
        learn = tabular_learner(data, model, config=SMALL[model], y_range=(115, 125), progress=False)
        found = learn.fit_one_cycle(6, 2e-2).get_preds().activated
        assert 115 <= found.min() < 118
        assert 122 < found.max() <= 125


class TestWholeWay:
    @pytest.mark.parametrize("model", sorted(SMALL))
    def test_what_is_saved_predicts_the_same(self, model: str, tmp_path: Path):
        frame = table()
        data = TabularDataLoaders.from_df(frame, y_names="dear", drop=["price"], bs=64)
        learn = tabular_learner(data, model, config=SMALL[model], class_weights="balanced", progress=False)
        learn.fit_one_cycle(4, 1e-2)
        loaded = load_learner(learn.export(tmp_path / "model.graft"))
        assert isinstance(loaded, Predictor)
        valid = data.valid
        assert valid is not None
        assert torch.equal(loaded.get_preds(valid).activated, learn.get_preds().activated)
        row = {"colour": "red", "size": 2.5}
        assert loaded.predict(row).value == learn.predict(row).value
        assert loaded.validate(valid)["valid_loss"] == pytest.approx(learn.validate()["valid_loss"], rel=1e-5)

    @pytest.mark.parametrize("model", sorted(SMALL))
    def test_numbers_are_learned_in_their_own_units(self, model: str):
        data = TabularDataLoaders.from_df(table(), y_names="price", drop=["dear"], bs=32)
        learn = fit_recipe(tabular_learner(data, model, config=SMALL[model], progress=False), lr=1e-2)
        spread = table()["price"].std()
        assert learn.history[-1]["rmse"] < 0.5 * spread
        assert 100 < learn.predict({"colour": "green", "size": 1.0}).value < 112

    def test_several_numbers_are_learned_at_once(self):
        frame = table().assign(double=lambda t: 2 * t["price"])
        data = TabularDataLoaders.from_df(frame, y_names=["price", "double"], drop=["dear"], bs=32)
        learn = fit_recipe(tabular_learner(data, config=SMALL["tabular/tabm"], progress=False), lr=1e-2)
        price, double = learn.predict({"colour": "red", "size": 3.0}).value
        assert double == pytest.approx(2 * price, rel=0.05)
        assert price == pytest.approx(135, rel=0.05)

    def test_the_same_seed_gives_the_same_run(self, packed: Packed):
        runs = [tabular_learner(packed(), seed=3, progress=False).fit_one_cycle(1).history[-1] for _ in range(2)]
        assert runs[0]["valid_loss"] == runs[1]["valid_loss"]
