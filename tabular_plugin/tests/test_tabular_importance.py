"""Importance by permutation, partial dependence, embeddings as frames: on tables whose answers are known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from graftwork import Predictor, load_learner
from graftwork.api import DataError, DataLoaders, Learner, OptionError, UnknownName
from graftwork_tabular import TabularDataLoaders, table_loader, tabular_learner
from graftwork_tabular.importance import embeddings, partial_dependence, permutation_importance

Packed = Callable[..., DataLoaders]


def table(rows: int = 600, seed: int = 0) -> pd.DataFrame:
    """Make a table whose price follows from colour, size and date; noise has no part in it."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "colour": rng.choice(["red", "green", "blue"], rows),
            "size": rng.uniform(0, 10, rows),
            "noise": rng.normal(size=rows),
        }
    )
    frame["price"] = 100 + 30 * (frame["colour"] == "red") + 5 * frame["size"] + rng.normal(0, 1, rows)
    frame["dear"] = np.where(frame["price"] > 130, "yes", "no")
    frame.loc[::40, "size"] = np.nan
    return frame


@pytest.fixture(scope="module")
def priced() -> Learner:
    data = TabularDataLoaders.from_df(table(), y_names="price", drop=["dear"], bs=32)
    return tabular_learner(data, layers=[32], progress=False).fit_one_cycle(15, 2e-2)


@pytest.fixture(scope="module")
def dear() -> Learner:
    data = TabularDataLoaders.from_df(table(), y_names="dear", drop=["price"], bs=32)
    return tabular_learner(data, layers=[32], progress=False).fit_one_cycle(10, 2e-2)


class TestImportance:
    def test_columns_that_decide_come_before_noise(self, priced: Learner):
        found = permutation_importance(priced, repeats=3).frame()
        assert set(found.index) == {"colour", "size", "noise"}
        assert found.index[-1] == "noise"
        assert found.loc["size", "mean"] > 10 * abs(found.loc["noise", "mean"])

    def test_more_is_worse_whichever_way_a_metric_goes(self, dear: Learner):
        found = permutation_importance(dear, repeats=2, metrics=["accuracy", "error_rate"])
        right, wrong = found.frame("accuracy"), found.frame("error_rate")
        assert right.loc["size", "mean"] > 0.1
        assert np.allclose(right["mean"], wrong["mean"][right.index])

    def test_the_baseline_is_what_validation_says(self, dear: Learner):
        found = permutation_importance(dear, repeats=1).baseline
        valid = dear.validate()
        assert found["loss"] == pytest.approx(valid["valid_loss"], rel=1e-5)
        assert found["accuracy"] == pytest.approx(valid["accuracy"])

    def test_numbers_are_measured_in_their_own_units(self, priced: Learner):
        found = permutation_importance(priced, repeats=1)
        assert found.baseline["rmse"] == pytest.approx(priced.validate()["rmse"], rel=1e-5)
        assert found.frame("rmse").loc["size", "mean"] > 5

    def test_the_seed_decides(self, dear: Learner):
        one, same, other = (permutation_importance(dear, repeats=2, seed=s).costs["loss"] for s in (1, 1, 2))
        assert np.array_equal(one, same)
        assert not np.array_equal(one, other)

    def test_every_repeat_is_another_order(self, dear: Learner):
        costs = permutation_importance(dear, repeats=4).costs["loss"]
        assert costs.shape[1] == 4
        assert len(np.unique(costs[0])) == 4

    def test_a_number_moves_with_the_flag_of_its_missing_values(self, priced: Learner):
        """The data has a column that says where size was missing; alone it is no column of the table."""
        block = priced.data.plan.fields[priced.data.plan.inputs[0]].final
        assert "size_na" in block.cat
        assert "size_na" not in permutation_importance(priced, repeats=1).columns

    def test_few_rows_can_do(self, dear: Learner):
        assert permutation_importance(dear, repeats=1, max_rows=10).baseline != {}

    def test_the_learner_stays_as_it_was(self, dear: Learner):
        before = {name: value.clone() for name, value in dear.module.state_dict().items()}
        state = torch.random.get_rng_state()
        dear.module.train()
        permutation_importance(dear, repeats=1)
        assert dear.module.training
        assert torch.equal(torch.random.get_rng_state(), state)
        assert all(torch.equal(before[name], value) for name, value in dear.module.state_dict().items())

    def test_a_loaded_model_measures_the_same(self, dear: Learner, tmp_path: Path):
        loaded = load_learner(dear.export(tmp_path / "model.graft"))
        one = permutation_importance(dear, repeats=1).costs["loss"]
        other = permutation_importance(loaded, dear.data.valid, repeats=1).costs["loss"]
        assert np.allclose(one, other, atol=1e-6)

    def test_a_loaded_model_asks_for_rows(self, dear: Learner):
        loaded = Predictor(dear.module, dear.data.plan, manifest={}, runtime=dear.runtime)
        with pytest.raises(OptionError, match="pass the rows"):
            permutation_importance(loaded)

    def test_rows_without_targets_are_refused(self, dear: Learner):
        rows = table_loader(dear.data.plan, table().drop(columns=["dear"]))
        with pytest.raises(DataError, match="rows with targets"):
            permutation_importance(dear, rows)

    def test_no_repeats_are_refused(self, dear: Learner):
        with pytest.raises(OptionError, match="repeats=0"):
            permutation_importance(dear, repeats=0)

    def test_an_unknown_metric_is_refused(self, dear: Learner):
        with pytest.raises(UnknownName, match="did you mean 'accuracy'"):
            permutation_importance(dear, repeats=1).frame("acuracy")

    def test_is_drawn_with_the_most_important_on_top(self, priced: Learner):
        figure = permutation_importance(priced, repeats=2).plot(max_n=2)
        assert isinstance(figure, Figure)
        (ax,) = figure.axes
        assert {t.get_text() for t in ax.get_yticklabels()} == {"colour", "size"}
        assert ax.patches[-1].get_width() >= ax.patches[0].get_width()

    @pytest.mark.parametrize("kind", ["classes", "labels", "number", "numbers"])
    def test_every_kind_of_target_is_measured(self, packed: Packed, kind: str):
        learn = tabular_learner(packed(kind), layers=[8], progress=False)
        found = permutation_importance(learn, repeats=1)
        assert found.columns == learn.data.plan.fields["x"].final.names
        assert all(np.isfinite(costs).all() for costs in found.costs.values())


class TestPartialDependence:
    def test_a_number_is_followed_in_its_own_units(self, priced: Learner):
        found = partial_dependence(priced, "size")
        assert found.numeric
        assert found.values[0] == pytest.approx(0, abs=0.5)
        assert found.values[-1] == pytest.approx(10, abs=0.5)
        slope = np.polyfit(np.array(found.values, float), found.means[:, 0], 1)[0]
        assert slope == pytest.approx(5, rel=0.15)

    def test_a_category_is_followed_by_value(self, priced: Learner):
        found = partial_dependence(priced, "colour").frame()
        assert list(found.index) == ["blue", "green", "red"]
        assert found.loc["red", "prediction"] - found.loc["green", "prediction"] == pytest.approx(30, abs=5)

    def test_classes_have_a_curve_each(self, dear: Learner):
        found = partial_dependence(dear, "size")
        assert found.outputs == ("probability of no", "probability of yes")
        assert np.allclose(found.means.sum(1), 1)
        assert found.means[-1, 1] > found.means[0, 1] + 0.3

    def test_values_can_be_given(self, priced: Learner):
        found = partial_dependence(priced, "size", values=[2, 4, 6])
        assert found.values == (2, 4, 6)
        assert np.diff(found.means[:, 0]) == pytest.approx([10, 10], rel=0.3)

    def test_a_missing_value_can_be_given(self, priced: Learner):
        """It is filled, and flagged: two columns of the packed row change."""
        filled, missing = partial_dependence(priced, "size", values=[table()["size"].median(), None]).means[:, 0]
        assert missing != pytest.approx(filled, abs=1e-6)

    def test_values_equal_predictions_of_changed_rows(self, priced: Learner):
        """The mean over rows is what predicting each changed row gives."""
        valid = priced.data.valid
        given = partial_dependence(priced, "colour", values=["red"], max_rows=None).means[0, 0]
        whole = [dict(valid.item(int(p))) | {"colour": "red"} for p in valid.positions]
        assert given == pytest.approx(np.mean([priced.predict(row).value for row in whole]), rel=1e-4)

    def test_the_spread_lies_around_the_mean(self, priced: Learner):
        found = partial_dependence(priced, "size")
        assert (found.spread[:, 0, 0] <= found.means[:, 0]).all()
        assert (found.means[:, 0] <= found.spread[:, 0, 1]).all()

    def test_an_unknown_column_is_refused(self, priced: Learner):
        with pytest.raises(UnknownName, match="did you mean 'size'"):
            partial_dependence(priced, "sise")
        with pytest.raises(UnknownName, match="did you mean 'size'"):
            partial_dependence(priced, "sise", values=[1])

    def test_a_column_the_model_does_not_see_is_refused(self, priced: Learner):
        with pytest.raises(OptionError, match="does not look at column 'dear'"):
            partial_dependence(priced, "dear", values=["yes", "no"])

    def test_no_values_are_refused(self, priced: Learner):
        with pytest.raises(OptionError, match="at least"):
            partial_dependence(priced, "size", values=[])

    def test_packed_rows_have_no_values_to_encode(self, packed: Packed):
        learn = tabular_learner(packed(), layers=[8], progress=False)
        with pytest.raises(OptionError, match="packed rows only"):
            partial_dependence(learn, "n0", values=[1])

    @pytest.mark.parametrize("kind", ["classes", "labels", "number", "numbers"])
    def test_every_kind_of_target_is_followed(self, packed: Packed, kind: str):
        learn = tabular_learner(packed(kind), layers=[8], progress=False)
        for column in ("colour", "n0"):
            found = partial_dependence(learn, column)
            assert found.means.shape == (len(found.values), learn.data.plan.target.num_outputs)
            assert isinstance(found.plot(), Figure)

    def test_is_drawn_over_its_values(self, dear: Learner):
        (ax,) = partial_dependence(dear, "size").plot().axes
        assert len(ax.lines) == 1
        assert ax.get_ylabel() == "probability of yes"
        (ax,) = partial_dependence(dear, "colour").plot("probability of no").axes
        assert [t.get_text() for t in ax.get_xticklabels()] == ["blue", "green", "red"]

    def test_an_unknown_output_is_refused(self, dear: Learner):
        with pytest.raises(UnknownName, match="probability of yes"):
            partial_dependence(dear, "size").plot("probability of yess")


class TestEmbeddings:
    def test_are_a_frame_by_value(self, priced: Learner):
        found = embeddings(priced, "colour")
        assert list(found.index) == ["blue", "green", "red"]
        assert found.index.name == "colour"
        block = priced.data.plan.fields[priced.data.plan.inputs[0]].final
        place = block.cat.index("colour")
        assert np.array_equal(found.to_numpy(), priced.module.embeddings.matrix(place)[1:4].detach().numpy())

    def test_values_that_mean_the_same_are_near(self, priced: Learner):
        found = embeddings(priced, "colour")
        near = np.linalg.norm(found.loc["blue"] - found.loc["green"])
        assert near < 0.5 * np.linalg.norm(found.loc["blue"] - found.loc["red"])

    def test_unseen_and_missing_values_can_be_shown(self, priced: Learner):
        assert list(embeddings(priced, "colour", special=True).index[-2:]) == ["(unseen)", "(missing)"]

    @pytest.mark.parametrize("model", ["tabular/mlp", "tabular/resnet", "tabular/ft-transformer"])
    def test_every_model_with_embeddings_shows_them(self, packed: Packed, model: str):
        learn = tabular_learner(packed(), model, progress=False)
        assert embeddings(learn, "place").shape[0] == 5

    def test_a_model_without_one_says_which_have(self, packed: Packed):
        learn = tabular_learner(packed(), "tabm", progress=False)
        with pytest.raises(OptionError, match="train tabular/mlp"):
            embeddings(learn, "place")

    def test_tabm_embeds_columns_of_many_values(self, packed: Packed):
        learn = tabular_learner(packed(), "tabm", config={"max_one_hot": 5}, progress=False)
        assert embeddings(learn, "place").shape[0] == 5
        with pytest.raises(OptionError):
            embeddings(learn, "colour")

    def test_a_loaded_model_shows_the_same(self, priced: Learner, tmp_path: Path):
        loaded = load_learner(priced.export(tmp_path / "model.graft"))
        assert embeddings(loaded, "colour").equals(embeddings(priced, "colour"))

    def test_an_unknown_column_is_refused(self, priced: Learner):
        with pytest.raises(UnknownName, match="did you mean 'colour'"):
            embeddings(priced, "color")
