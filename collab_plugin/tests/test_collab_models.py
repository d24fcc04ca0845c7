"""Models of ratings: shapes, ranges, the unknown, their files, and what can be read by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from graftwork import load_learner
from graftwork.api import (
    DataLoaders,
    Learner,
    ModelContext,
    OptionError,
    PlanError,
    RegressionBlock,
    Runtime,
    UnknownName,
)
from graftwork_collab import CollabDataLoaders, Factors, IdCodeBlock, collab_learner
from graftwork_collab.factor import DotBias, Neural, dot_bias, embedding_width, neural
from graftwork_collab.learner import outside, rating_range

CPU = Runtime(device="cpu")
CONTEXT = ModelContext(
    inputs={"user": IdCodeBlock(("a", "b", "c")), "item": IdCodeBlock((1, 2))}, targets={"rating": RegressionBlock()}
)
BUILDERS = {"dot-bias": dot_bias, "neural": neural}


@pytest.fixture(scope="module")
def data(ratings) -> DataLoaders:
    return CollabDataLoaders.from_df(ratings, bs=32, seed=3)


@pytest.fixture(scope="module")
def trained(data) -> Learner:
    return collab_learner(data, 8, runtime=CPU, progress=False).fit_one_cycle(8, 0.02)


def pairs(rows: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 4, (rows,), generator=generator), torch.randint(0, 3, (rows,), generator=generator)


@pytest.mark.parametrize("name", BUILDERS)
class TestModules:
    """What every model of ratings does."""

    def build(self, name, **options):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return BUILDERS[name](CONTEXT, n_factors=4, **options).module

    def test_one_rating_for_each_pair_within_the_range(self, name):
        module = self.build(name, y_range=(1, 5))
        for parameter in module.parameters():
            parameter.data.mul_(300)
        for mode in (True, False):
            found = module.train(mode)(*pairs()).detach()
            assert found.shape == (7,)
            assert 1 <= float(found.min()) <= float(found.max()) <= 5
        assert module(*pairs(1)).shape == (1,)

    def test_without_a_range_there_is_no_bound(self, name):
        module = self.build(name)
        for parameter in module.parameters():
            parameter.data.mul_(300)
        assert float(module(*pairs()).detach().abs().max()) > 1

    def test_rows_do_not_see_each_other_in_evaluation(self, name):
        module = self.build(name, y_range=(0, 5.5)).eval()
        user, item = pairs()
        alone = torch.cat([module(user[i : i + 1], item[i : i + 1]) for i in range(7)])
        assert torch.allclose(module(user, item), alone, atol=1e-6)

    def test_every_parameter_gets_a_gradient(self, name):
        module = self.build(name, y_range=(0, 5.5)).train()
        user, item = torch.tensor([1, 2, 3, 1]), torch.tensor([1, 2, 1, 2])
        ((module(user, item) - 4) ** 2).mean().backward()
        assert all(float(p.grad.abs().sum()) > 0 for p in module.parameters())

    def test_the_unknown_is_the_mean_of_the_others_in_evaluation(self, name):
        module = self.build(name, y_range=(0, 5.5)).train()
        for table in module.tables():
            table.weight.data[0] = 100.0
        module.eval()
        for table in module.tables():
            assert torch.allclose(table.weight[0], table.weight[1:].mean(0))

    @pytest.mark.parametrize("y_range", [(5, 0), (1, 1), (1,), (0, 2, 3)])
    def test_a_range_that_is_none(self, name, y_range):
        with pytest.raises(OptionError, match=r"y_range=.*\(low, high\)"):
            self.build(name, y_range=y_range)

    def test_other_inputs_are_refused(self, name):
        other = ModelContext(inputs={"x": RegressionBlock()}, targets={"rating": RegressionBlock()})
        with pytest.raises(PlanError, match="needs a user and an item"):
            BUILDERS[name](other)

    def test_a_model_without_factors_is_none(self, name):
        with pytest.raises(OptionError, match="n_factors=0 must be at least 1"):
            BUILDERS[name](CONTEXT, n_factors=0)

    def test_its_config_builds_it_again(self, name):
        parts = BUILDERS[name](CONTEXT, n_factors=4, y_range=[0, 5.5])
        again = BUILDERS[name](CONTEXT, **parts.config)
        assert [p.shape for p in again.module.parameters()] == [p.shape for p in parts.module.parameters()]


class TestShapes:
    """What the models are made of."""

    def test_dot_bias_has_fastais_tables(self):
        module = dot_bias(CONTEXT, n_factors=5).module
        assert isinstance(module, DotBias)
        shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
        assert shapes == {
            "user_factors.weight": (4, 5),
            "item_factors.weight": (3, 5),
            "user_bias.weight": (4, 1),
            "item_bias.weight": (3, 1),
        }
        weights = dot_bias(ModelContext(inputs={n: IdCodeBlock(tuple(range(999))) for n in "ui"}, targets={})).module
        values = weights.user_factors.weight.detach()
        assert 0.008 < float(values.std()) < 0.01
        assert float(values.abs().max()) <= 0.02

    def test_dot_bias_is_what_its_name_says(self):
        module = dot_bias(CONTEXT, n_factors=2).module.eval()
        user, item = torch.tensor([2]), torch.tensor([1])
        p, q = module.user_factors.weight[2], module.item_factors.weight[1]
        wanted = (p @ q + module.user_bias.weight[2] + module.item_bias.weight[1]).item()
        assert module(user, item).item() == pytest.approx(wanted)

    def test_neural_has_the_layers_asked_for(self):
        module = neural(CONTEXT, layers=[20, 10], ps=0.3).module
        assert isinstance(module, Neural)
        sizes = [(m.in_features, m.out_features) for m in module.head if isinstance(m, torch.nn.Linear)]
        assert sizes == [(embedding_width(3) + embedding_width(2), 20), (20, 10), (10, 1)]
        assert [m.p for m in module.head if isinstance(m, torch.nn.Dropout)] == [0.3, 0.3]

    @pytest.mark.parametrize(
        ("number", "width"),
        [(2, 2), (3, 3), (5, 4), (10, 6), (50, 14), (100, 21), (1000, 77), (10_000, 278), (100_000, 600)],
    )
    def test_embedding_widths_are_fastais(self, number, width):
        assert embedding_width(number) == width

    def test_an_unknown_engine(self):
        with pytest.raises(UnknownName, match=r"engine 'nmba'.*'numba'"):
            dot_bias(CONTEXT, engine="nmba")


class TestLearner:
    """collab_learner."""

    def test_the_range_is_that_of_the_ratings_and_a_little_more(self, data):
        learn = collab_learner(data, 4, runtime=CPU, progress=False)
        assert learn.model_config["y_range"] == pytest.approx([0.05, 5.45])
        assert rating_range(data) == pytest.approx((0.05, 5.45))

    def test_ratings_outside_a_given_range_are_counted_and_said(self, ratings, caplog):
        data = CollabDataLoaders.from_df(ratings)
        collab_learner(data, 4, y_range=(1, 4.5), runtime=CPU, progress=False)
        count = int(((data.train.columns["rating"] < 1) | (data.train.columns["rating"] > 4.5)).sum())
        assert 0 < count < len(data.train.columns["rating"])
        assert f"{count} of {data.train.num_items} training ratings lie outside y_range=(1, 4.5)" in caplog.text
        assert "go from 0.5 to 5" in data.notes[-1]
        assert outside(data, (0, 5.5)) is None

    def test_none_is_no_bound(self, data):
        assert collab_learner(data, 4, y_range=None, runtime=CPU, progress=False).model_config["y_range"] is None

    def test_one_rating_for_all_has_a_range_too(self):
        data = CollabDataLoaders.from_df([{"user": i, "item": i % 3, "rating": 4.0} for i in range(20)])
        assert rating_range(data) == (3.5, 4.5)

    def test_embeddings_decay_and_biases_with_them(self, data):
        groups = collab_learner(data, 4, runtime=CPU, progress=False).make_optimizer(0.01).param_groups
        assert [(group["weight_decay"], len(group["params"])) for group in groups] == [(0.1, 4)]

    def test_options_of_the_other_model(self, data):
        with pytest.raises(OptionError, match="use_nn=True"):
            collab_learner(data, layers=[10])

    def test_the_neural_model_learns(self, data):
        learn = collab_learner(data, 16, use_nn=True, layers=[32], runtime=CPU, progress=False).fit_one_cycle(6, 0.01)
        assert learn.model_id == "collab/neural"
        assert learn.history[-1]["rmse"] < 0.8 * float(data.train.columns["rating"].std())


class TestUnknown:
    """Users and items that training did not see."""

    def test_they_are_rated_as_the_average_is(self, trained, data):
        mean = float(data.train.columns["rating"].mean())
        nobody = trained.predict({"user": 4711, "item": "nothing"}).value
        assert nobody == pytest.approx(mean, abs=0.4)

    def test_a_known_item_keeps_its_bias_for_an_unknown_user(self, trained, ratings):
        means = ratings.groupby("movieId").rating.mean().sort_values()
        low, high = (
            trained.predict({"user": "new", "item": int(item)}).value for item in (means.index[0], means.index[-1])
        )
        assert high > low + 1

    def test_a_known_user_keeps_his_bias_for_an_unknown_item(self, trained, ratings):
        means = ratings.groupby("userId").rating.mean().sort_values()
        low, high = (
            trained.predict({"user": int(user), "item": -1}).value for user in (means.index[0], means.index[-1])
        )
        assert high > low + 0.5

    def test_unknown_items_are_rated_as_their_users_rate(self, ratings):
        lone = ratings.index % 4 == 0
        frame = ratings.assign(movieId=ratings.movieId.where(~lone, ratings.index * 1000 + 1))
        data = CollabDataLoaders.from_df(frame, bs=32, seed=3)
        learn = collab_learner(data, 8, runtime=CPU, progress=False).fit_one_cycle(5, 0.01)
        order = data.valid.positions.argsort()
        unknown, users = data.valid.columns["item"][order] == 0, data.valid.columns["user"][order]
        assert (
            f"{int(unknown.sum())} of 246 validation ratings are of items that training does not see" in data.notes[-1]
        )
        means = torch.tensor(ratings.groupby("userId").rating.mean().tolist())
        predictions, wanted = learn.get_preds().activated[unknown], means[users[unknown] - 1]
        assert float(predictions.mean() - wanted.mean()) == pytest.approx(0, abs=0.3)
        assert float(torch.corrcoef(torch.stack((predictions, wanted)))[0, 1]) > 0.7


class TestFiles:
    """A model in a file."""

    @pytest.mark.parametrize("use_nn", [False, True])
    def test_it_predicts_as_it_did(self, data, tmp_path, use_nn):
        learn = collab_learner(data, 4, use_nn=use_nn, runtime=CPU, progress=False).fit_one_cycle(2, 0.01)
        loaded = load_learner(learn.export(tmp_path / "m.graft"))
        for user, item in ((3, 25), (3, "nothing"), ("nobody", 25)):
            pair = {"user": user, "item": item}
            assert loaded.predict(pair).value == learn.predict(pair).value
        assert "engine" not in loaded.manifest["model"]["config"]
        assert loaded.validate(data.valid) == pytest.approx(learn.validate())

    def test_many_at_once(self, trained, tmp_path):
        loaded = load_learner(trained.export(tmp_path / "m.graft"))
        said = loaded.predict_batch(
            [{"user": 1, "item": 5}, {"user": None, "item": 5}, {"user": "x", "item": 15}], workers=0
        )
        assert said[0].value == pytest.approx(trained.predict({"user": 1, "item": 5}).value)
        assert "the id is missing" in said[1].reason


@pytest.fixture(scope="module")
def sources(ratings, tmp_path_factory) -> list[Factors]:
    folder: Path = tmp_path_factory.mktemp("ml")
    ratings.to_csv(folder / "ratings.csv", index=False)
    ids = sorted(ratings.movieId.unique())
    (folder / "movies.csv").write_text("\n".join(["movieId,title", *(f"{i},Film {i}" for i in ids)]))
    data = CollabDataLoaders.from_movielens(folder, bs=32)
    learn = collab_learner(data, 8, runtime=CPU, progress=False).fit_one_cycle(8, 0.02)
    return [Factors(learn), Factors(load_learner(learn.export(folder / "m.graft")))]


class TestFactors:
    """Biases and factors by name, of a learner and of a file."""

    def test_both_say_the_same(self, sources):
        of_learner, of_file = sources
        assert torch.equal(of_learner.item_bias(), of_file.item_bias())
        assert of_learner.similar_items("Film 25", k=3) == of_file.similar_items(25, k=3)
        assert of_learner.names("item")[2] == of_file.names("item")[2] == "Film 25"
        assert of_learner.names("user") == [str(i) for i in range(1, 41)]

    def test_biases_are_of_the_ids_asked_for_and_mean_something(self, sources, ratings):
        factors = sources[0]
        means = ratings.groupby("movieId").rating.mean().sort_values()
        worst, best = int(means.index[0]), int(means.index[-1])
        low, high, again = factors.item_bias([worst, f"Film {best}", best]).tolist()
        assert low < high == again
        order = [factors.names("item").index(f"Film {item}") for item in (worst, best)]
        assert factors.item_bias()[order].tolist() == [low, high]

    def test_factors_have_their_shapes(self, sources):
        factors = sources[0]
        assert factors.item_factors(["Film 25", 35]).shape == (2, 8)
        assert factors.user_factors([3]).shape == (1, 8)
        assert factors.user_factors().shape == (40, 8)
        assert factors.user_bias([1, 2, 3]).shape == (3,)

    def test_similar_items_are_nearest_and_not_itself(self, sources):
        factors = sources[0]
        found = factors.similar_items("Film 25", k=59)
        names, cosines = zip(*found, strict=True)
        assert "Film 25" not in names
        assert len(set(names)) == 59
        assert list(cosines) == sorted(cosines, reverse=True)
        p, q = factors.item_factors(["Film 25", names[0]])
        assert cosines[0] == pytest.approx(float(torch.cosine_similarity(p, q, dim=0)), abs=1e-6)
        assert len(factors.similar_items(25, k=1000)) == 59

    def test_items_of_one_taste_are_alike(self, sources):
        """The made ratings divide items by a taste; the nearest ones share it."""
        taste = np.random.default_rng(0)
        taste.normal(0, 0.6, 40), taste.normal(0, 0.8, 60), taste.choice([-1, 1], 40)
        sides = dict(zip([f"Film {i * 10 + 5}" for i in range(60)], taste.choice([-1, 1], 60), strict=True))
        same = [
            sides[name] == sides[item] for item in list(sides)[:20] for name, _ in sources[0].similar_items(item, k=3)
        ]
        assert np.mean(same) > 0.8

    def test_they_come_as_a_frame(self, sources):
        frame = sources[0].frame()
        assert list(frame.columns[:4]) == ["id", "name", "bias", "factor0"]
        assert frame.bias.is_monotonic_decreasing
        assert len(sources[0].frame("user")) == 40

    def test_an_unknown_name(self, sources):
        with pytest.raises(UnknownName, match=r"unknown item 'Film 26'; did you mean 'Film .*'"):
            sources[0].item_bias(["Film 26"])
        with pytest.raises(UnknownName, match="unknown user '999'"):
            sources[0].user_factors([999])

    def test_names_come_as_a_list(self, sources):
        with pytest.raises(OptionError, match=r"\['Film 25'\]"):
            sources[0].item_bias("Film 25")

    def test_a_model_without_biases_or_factors(self, data):
        learn = collab_learner(data, 4, use_nn=True, runtime=CPU, progress=False)
        factors = Factors(learn)
        assert factors.item_factors().shape == (60, embedding_width(60))
        assert "bias" not in factors.frame()
        with pytest.raises(OptionError, match="no biases of items"):
            factors.item_bias()
        with pytest.raises(OptionError, match="a Linear has no factors"):
            Factors(Learner(data, torch.nn.Linear(2, 1), runtime=CPU, progress=False))
