"""Side features and two towers: encoded once, looked up by code, and what stands in for those nobody rated."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from graftwork import load_learner
from graftwork.api import DataError, ItemError, Learner, ModelContext, OptionError, PlanError, RegressionBlock, Runtime
from graftwork_collab import CollabDataLoaders, Factors, IdCodeBlock, collab_learner
from graftwork_collab.features import EncodeFeatures, FeaturesBlock, PackedFeaturesBlock
from graftwork_collab.sources import movielens_features
from graftwork_collab.towers import towers

CPU = Runtime(device="cpu")
PACKED = PackedFeaturesBlock((3,), 2)
NUM_ITEMS = 80


def described() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Invent ratings that follow from a kind and a number of the item; the last 20 items are rated last."""
    rng = np.random.default_rng(1)
    items = pd.DataFrame(
        {
            "movieId": np.arange(NUM_ITEMS),
            "kind": rng.choice(["good", "bad", "fair"], NUM_ITEMS),
            "size": rng.random(NUM_ITEMS),
        }
    )
    worth = items.kind.map({"good": 1.2, "bad": -1.2, "fair": 0.0}) + items["size"]
    user, item = np.nonzero(rng.random((30, NUM_ITEMS)) < 0.5)
    rating = (3 + worth.to_numpy()[item] + rng.normal(0, 0.2, len(user))).clip(0.5, 5)
    rows = pd.DataFrame({"userId": user, "movieId": item, "rating": rating, "time": item // 60})
    return rows.sample(frac=1, random_state=0, ignore_index=True), items


@pytest.fixture(scope="module")
def frames():
    return described()


@pytest.fixture(scope="module")
def data(frames):
    ratings, items = frames
    return CollabDataLoaders.from_df(ratings, item_features=items, bs=32, split="time")


@pytest.fixture(scope="module")
def trained(data):
    return collab_learner(data, 8, runtime=CPU, progress=False).fit_one_cycle(12, 0.02)


class TestBlocks:
    """Features as they are given, and encoded."""

    def test_nothing_or_a_mapping(self):
        block = FeaturesBlock(("kind", "size"))
        assert block.optional
        assert block.check(None) is None
        assert block.check({"kind": "good", "size": 1, "more": 2}) is None
        assert "'size' is missing" in block.check({"kind": "good"})
        assert "not str" in block.check("good")
        assert block.check(block.mock(np.random.default_rng(0))) is None

    def test_packed_ones(self):
        for seed in range(5):
            assert PACKED.check(PACKED.mock(np.random.default_rng(seed))) is None
        assert PACKED.check(np.empty(0, np.float32)) is None
        assert "code 3.0" in PACKED.check(np.array([3, 0, 0], np.float32))
        assert "(3,)" in PACKED.check(np.zeros(2, np.float32))

    def test_a_batch_of_some_none_and_all(self):
        row, nothing = np.array([1, 0.5, -1], np.float32), np.empty(0, np.float32)
        assert PACKED.collate([nothing, nothing]).shape == (2, 0)
        column = PACKED.collate([row, nothing])
        assert column[1].isnan().all()
        for values in ([row, nothing], [nothing, nothing], [row, row]):
            again = PACKED.uncollate(PACKED.collate(values))
            assert [r.tolist() for r in again] == [v.tolist() for v in values]

    def test_config_goes_through_json(self, data):
        for part in (FeaturesBlock(("a",)), PACKED, data.features["item_features"].transform):
            assert type(part).from_config(json.loads(json.dumps(part.to_config()))) == part


class TestEncoding:
    """A table of features becomes rows by code."""

    def test_rows_are_by_code_and_the_transform_gives_the_same(self, data, frames):
        made, block = data.features["item_features"], data.plan.fields["item"].final
        encode = made.transform.bind(made.block).encode
        assert made.rows.shape == (NUM_ITEMS + 1, made.transform.out_block(made.block).width)
        for row in frames[1].to_dict("records"):
            code = block.vocab.index(row["movieId"]) + 1
            assert np.allclose(encode(row, None), made.rows[code].numpy(), atol=1e-6)
        assert encode(None, None).shape == (0,)

    def test_everybody_described_has_a_code_and_training_is_told_apart(self, data, frames):
        ratings, _ = frames
        block = data.plan.fields["item"].final
        assert block.vocab == tuple(range(NUM_ITEMS))
        rated = set(ratings.movieId.iloc[data.train.positions.numpy()])
        assert {block.vocab[code - 1] for code in np.flatnonzero(data.seen["item"])} == rated
        assert len(rated) < NUM_ITEMS

    def test_statistics_are_of_those_training_sees(self, data, frames):
        items = frames[1]
        seen = data.seen["item"][1:]
        rows, made = data.features["item_features"].rows[1:], data.plan.fields["item_features"].final
        numbers = rows[:, len(made.sizes) :].numpy()
        scaled = (items["size"] - items["size"][seen].mean()) / items["size"][seen].std(ddof=0)
        assert any(np.allclose(numbers[:, i], scaled, atol=1e-4) for i in range(numbers.shape[1]))

    def test_validation_items_without_training_ratings_are_counted(self, data):
        count = data.valid.num_items
        assert count > 200
        assert data.notes[-1] == (
            f"{count} of {count} validation ratings are of items that training does not see; "
            "their features stand in for them"
        )

    def test_columns_of_nothing_take_no_memory(self, data):
        assert data.train.columns["item_features"].numel() == 0
        assert data.one_batch().fields["item_features"].shape == (32, 0)
        assert data.test_dl([(1, 2)]).columns["item_features"].shape == (1, 0)

    def test_an_item_twice_or_not_at_all_is_said(self, frames):
        ratings, items = frames
        made = CollabDataLoaders.from_df(ratings, item_features=pd.concat([items[5:], items[70:]]))
        said = " ".join(made.notes)
        assert "10 rows of features repeat one item" in said
        assert "5 of " in said
        assert "have no features" in said

    def test_ids_of_another_type_go_by_value(self, frames, data):
        ratings, items = frames
        made = CollabDataLoaders.from_df(ratings, item_features=items.astype({"movieId": str}), bs=32)
        assert made.plan.fields["item"].final.vocab == data.plan.fields["item"].final.vocab
        with pytest.raises(OptionError, match="item ids are"):
            CollabDataLoaders.from_df(ratings, item_features=items.assign(movieId=[f"m{i}" for i in items.movieId]))

    def test_features_of_nobody(self, frames):
        ratings, items = frames
        with pytest.raises(DataError, match="of nobody in the ratings; is 'movieId' the column of ids"):
            CollabDataLoaders.from_df(ratings, item_features=items.assign(movieId=items.movieId + 1000))

    def test_a_table_of_ids_alone(self, frames):
        ratings, items = frames
        with pytest.raises(DataError, match="a column of ids and one of features"):
            CollabDataLoaders.from_df(ratings, item_features=items[["kind"]])

    def test_both_sides(self, frames):
        ratings, items = frames
        users = pd.DataFrame({"userId": range(30), "age": np.linspace(20, 60, 30), "job": ["a", "b", "c"] * 10})
        data = CollabDataLoaders.from_df(ratings, user_features=users, item_features=items, bs=32)
        assert data.plan.inputs == ("user", "item", "user_features", "item_features")
        learn = collab_learner(data, 4, runtime=CPU, progress=False).fit(1, 0.01)
        value = learn.predict({"user": "new", "item": 3, "user_features": {"age": 30, "job": "b"}}).value
        assert value != learn.predict({"user": "new", "item": 3}).value


class TestMovies:
    """What MovieLens knows of films."""

    def test_year_and_genres(self, tmp_path):
        (tmp_path / "movies.csv").write_text(
            "movieId,title,genres\n"
            '1,Heat (1995),Action|Crime\n2,"Ran, The (1985) ",Crime\n3,Nothing,(no genres listed)\n'
        )
        assert movielens_features(tmp_path).to_pydict() == {
            "movieId": [1, 2, 3],
            "year": [1995.0, 1985.0, None],
            "Action": [1, 0, 0],
            "Crime": [1, 1, 0],
        }

    def test_without_a_table_of_films(self, tmp_path):
        with pytest.raises(DataError, match="nothing is known of the films"):
            movielens_features(tmp_path)
        (tmp_path / "movies.csv").write_text("movieId,title\n1,Heat\n")
        with pytest.raises(DataError, match="2 columns; id, title and genres"):
            movielens_features(tmp_path)

    def test_as_a_recipe(self, movielens):
        data = CollabDataLoaders.from_movielens(movielens, features=True)
        assert set(data.plan.fields["item_features"].raw.columns) <= {"year", "Drama", "Comedy"}


class TestTowers:
    """The model."""

    def test_features_stand_in_for_ratings(self, frames, trained):
        plain = CollabDataLoaders.from_df(frames[0], bs=32, split="time")
        learn = collab_learner(plain, 8, runtime=CPU, progress=False).fit_one_cycle(12, 0.02)
        assert trained.model_id == "collab/towers"
        assert trained.validate()["rmse"] < 0.5 * learn.validate()["rmse"]

    def test_somebody_new_is_rated_by_features(self, trained):
        said = {
            kind: trained.predict({"user": 3, "item": "new", "item_features": {"kind": kind, "size": 0.5}}).value
            for kind in ("good", "bad", "fair")
        }
        assert said["good"] > said["fair"] + 0.5 > said["bad"] + 1
        usual = trained.predict({"user": 3, "item": "new"}).value
        assert said["bad"] < usual < said["good"]

    def test_a_file_predicts_the_same_with_and_without_features_in_one_batch(self, trained, tmp_path):
        loaded = load_learner(trained.export(tmp_path / "m.graft"))
        things = [
            {"user": 3, "item": 5},
            {"user": 3, "item": "new", "item_features": {"kind": "bad", "size": 0.5}},
            {"user": "new", "item": 79},
        ]
        wanted = [trained.predict(thing).value for thing in things]
        assert [said.value for said in loaded.predict_batch(things, workers=0)] == pytest.approx(wanted, abs=1e-6)

    def test_a_feature_that_is_missing_is_named(self, trained):
        with pytest.raises(ItemError, match="size"):
            trained.predict({"user": 3, "item": "new", "item_features": {"kind": "bad"}})

    def test_factors_are_those_with_features(self, trained):
        factors = Factors(trained)
        assert factors.item_factors([3]).shape == (1, 8)
        p, q = factors.user_factors([2])[0], factors.item_factors([3])[0]
        score = float(p @ q + factors.user_bias([2])[0] + factors.item_bias([3])[0])
        low, high = trained.model_config["y_range"]
        wanted = low + (high - low) / (1 + np.exp(-score))
        assert trained.predict({"user": 2, "item": 3}).value == pytest.approx(wanted, abs=1e-4)

    def test_rows_do_not_see_each_other(self, trained):
        module = trained.module.eval()
        user, item, nothing = torch.arange(6), torch.arange(6) + 3, torch.empty(6, 0)
        alone = torch.cat([module(user[i : i + 1], item[i : i + 1], nothing[:1]) for i in range(6)])
        assert torch.allclose(module(user, item, nothing), alone, atol=1e-5)

    def test_without_collab_learner_nobody_has_given_it_features(self, data):
        learn = Learner(data, "collab/towers", runtime=CPU, progress=False)
        with pytest.raises(OptionError, match="collab_learner does that"):
            learn.fit(1)

    def test_without_features_there_are_no_towers(self):
        inputs = {"user": IdCodeBlock(("a",)), "item": IdCodeBlock(("b",))}
        with pytest.raises(PlanError, match="features of users or items"):
            towers(ModelContext(inputs=inputs, targets={"rating": RegressionBlock()}))
        given = {**inputs, "item_features": PACKED}
        with pytest.raises(OptionError, match="hidden=0"):
            towers(ModelContext(inputs=given, targets={"rating": RegressionBlock()}), hidden=0)

    def test_the_neural_model_refuses_them(self, data):
        with pytest.raises(OptionError, match="no use of features"):
            collab_learner(data, use_nn=True)

    def test_encoding_says_which_block_it_takes(self):
        transform = EncodeFeatures({}, (3,), 2)
        assert transform.accepts(FeaturesBlock())
        assert not transform.accepts(PACKED)
        assert transform.out_block(FeaturesBlock()) == PACKED


class TestTask:
    """The command line's way to them."""

    def test_a_table_of_features_gives_towers(self, frames, tmp_path):
        from graftwork.api import JobOptions
        from graftwork_collab import CollabRatings
        from graftwork_collab.tasks import CollabRatingsOptions

        ratings, items = frames
        ratings.to_csv(tmp_path / "r.csv", index=False)
        items.to_csv(tmp_path / "i.csv", index=False)
        task = CollabRatings(CollabRatingsOptions(item_features=str(tmp_path / "i.csv"), factors=4))
        job = JobOptions(device="cpu")
        learn = task.learner(task.data(tmp_path / "r.csv", job), job)
        assert learn.model_id == "collab/towers"
        assert "the model is collab/towers" in task.notes()[-1]

    def test_movielens_films_are_found(self, movielens):
        from graftwork.api import JobOptions
        from graftwork_collab import CollabRatings
        from graftwork_collab.tasks import CollabRatingsOptions

        job, task = JobOptions(device="cpu", model="towers"), CollabRatings(CollabRatingsOptions(factors=4))
        assert task.learner(task.data(movielens, job), job).model_id == "collab/towers"
        with pytest.raises(OptionError, match="--item-features"):
            task.learner(task.data(movielens / "ratings.csv", job), job)
