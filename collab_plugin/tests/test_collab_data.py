"""From ratings to loaders: columns, splits, what is said, and loaders of new pairs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from graftwork.api import ColumnLoader, DataError, DataLoaders, OptionError, RandomSplitter, UnknownName, UserError
from graftwork_collab import Biases, CollabDataLoaders, read_events
from graftwork_collab.data import ratings_loader


@pytest.fixture(scope="module")
def data(ratings):
    return CollabDataLoaders.from_df(ratings, bs=32)


def decoded(loader: ColumnLoader) -> list[tuple]:
    """Return (user, item, rating) of every row, ids as the source has them."""
    columns = [loader.plan.decode_batch(name, loader.columns[name])[0] for name in ("user", "item")]
    return list(zip(*columns, loader.columns["rating"].tolist(), strict=True))


class TestRecipes:
    """What every recipe makes."""

    def test_rows_are_those_of_the_frame(self, ratings, data):
        split = RandomSplitter(0.2, seed=42)(range(len(ratings)))
        rows = list(ratings[["userId", "movieId", "rating"]].itertuples(index=False, name=None))
        assert decoded(data.train) == [rows[i] for i in split.train]
        assert decoded(data.valid) == [rows[i] for i in split.valid]
        assert data.train.positions.tolist() == split.train.tolist()

    def test_columns_are_codes_and_numbers(self, data):
        assert isinstance(data.train, ColumnLoader)
        batch = data.one_batch()
        assert list(batch.fields) == ["user", "item", "rating"]
        assert [batch.fields[name].dtype for name in batch.fields] == [torch.int64, torch.int64, torch.float32]
        assert batch.inputs == ("user", "item")
        assert batch.targets == ("rating",)
        assert batch.size == 32
        assert data.plan.fields["user"].final.num_codes == 41

    def test_every_source_gives_the_same(self, ratings, data, tmp_path):
        ratings.to_csv(tmp_path / "r.csv", index=False)
        ratings.to_csv(tmp_path / "r.tsv", index=False, sep="\t")
        ratings.to_parquet(tmp_path / "r.parquet")
        made = [
            CollabDataLoaders.from_csv(tmp_path / "r.csv", bs=32),
            CollabDataLoaders.from_csv(tmp_path / "r.tsv", bs=32),
            CollabDataLoaders.from_parquet(tmp_path / "r.parquet", bs=32),
            CollabDataLoaders.from_events(read_events(ratings), bs=32),
        ]
        for other in made:
            assert decoded(other.train) == decoded(data.train)
            assert decoded(other.valid) == decoded(data.valid)

    def test_columns_can_be_named(self, ratings):
        frame = ratings.rename(columns={"userId": "b", "movieId": "c", "rating": "a"}).drop(columns="timestamp")
        data = CollabDataLoaders.from_df(frame, user_name="b", item_name="c", rating_name="a")
        assert decoded(data.valid)[0] == decoded(CollabDataLoaders.from_df(ratings).valid)[0]
        assert data.notes == ()

    def test_the_vocabulary_is_of_training_alone_and_others_are_unknown_which_is_said(self):
        rows = [{"user": f"u{i % 7}", "item": f"i{i % 5}", "rating": 1.0 * (i % 5)} for i in range(100)]
        rows = [*rows[:35], {"user": "late", "item": "i0", "rating": 3.0}]
        frame = pd.DataFrame(rows).assign(time=range(36))
        data = CollabDataLoaders.from_df(frame, split="time", valid_pct=0.03)
        assert data.valid.columns["user"].tolist() == [0]
        assert "late" not in data.plan.fields["user"].final.vocab
        assert data.notes[-1] == (
            "1 of 1 validation ratings are of users that training does not see; they count as unknown"
        )

    def test_leave_last_out_counts_lone_users(self, ratings):
        lone = pd.DataFrame({"userId": [99], "movieId": [5], "rating": [3.0], "timestamp": [1]})
        data = CollabDataLoaders.from_df(pd.concat([ratings, lone]), split="leave-last-out")
        assert data.valid.num_items == 40
        assert "1 of 41 users have one rating, which stays in training" in data.notes
        last = ratings.loc[ratings.groupby("userId").timestamp.idxmax()]
        assert sorted(decoded(data.valid)) == sorted(
            last[["userId", "movieId", "rating"]].itertuples(index=False, name=None)
        )

    def test_titles_name_items(self, movielens):
        data = CollabDataLoaders.from_movielens(movielens)
        block = data.plan.fields["item"].final
        assert block.label(block.vocab.index(25) + 1) == "Film, The 25 (1925)"
        assert data.plan.encode({"item": "Film, The 25 (1925)"}) == data.plan.encode({"item": 25})

    def test_nothing_held_out(self, ratings):
        data = CollabDataLoaders.from_df(ratings, valid_pct=0)
        assert data.valid is None
        assert data.train.num_items == len(ratings)

    def test_validation_batches_are_large(self, data, ratings):
        assert (data.train.bs, data.valid.bs) == (32, 4096)
        assert CollabDataLoaders.from_df(ratings, valid_bs=16).valid.bs == 16

    def test_the_seed_draws_the_split_and_the_order(self, ratings):
        first, second = (CollabDataLoaders.from_df(ratings, seed=seed) for seed in (1, 2))
        assert decoded(first.valid) != decoded(second.valid)
        assert first.train.order(0).tolist() != second.train.order(0).tolist()

    def test_a_batch_can_be_shown(self, data):
        figure = data.show_batch(max_n=4)
        assert figure.axes[0].get_title().count("\n") == 2

    @pytest.mark.parametrize(
        ("options", "error", "words"),
        [
            ({"split": "randomly"}, UnknownName, "'random'"),
            ({"on_bad_item": "ignore"}, OptionError, "neither 'skip' nor 'error'"),
            ({"item_name": "film"}, UnknownName, "column"),
            ({"valid_pct": 20}, OptionError, "valid_pct"),
        ],
        ids=str,
    )
    def test_options_that_are_none(self, ratings, options, error, words):
        with pytest.raises(error, match=words):
            CollabDataLoaders.from_df(ratings, **options)

    def test_events_without_ratings(self, ratings):
        with pytest.raises(DataError, match="no ratings"):
            CollabDataLoaders.from_events(read_events(ratings, with_rating=False))


class TestNewPairs:
    """test_dl, and the loader of an evaluation."""

    def test_in_their_order_one_for_each_row(self, data):
        frame = pd.DataFrame({"userId": [7, 3, 7], "movieId": [15, 4711, 15]})
        loader = data.test_dl(frame)
        assert loader.columns["user"].tolist() == [7, 3, 7]
        assert loader.columns["item"].tolist() == [2, 0, 2]
        assert "rating" not in loader.columns

    def test_one_row_works(self, data, ratings):
        from graftwork.api import Runtime
        from graftwork_collab import collab_learner

        learn = collab_learner(data, 4, runtime=Runtime(device="cpu"), progress=False)
        one = data.test_dl(ratings.iloc[[5]])
        pair = {"user": int(ratings.userId[5]), "item": int(ratings.movieId[5])}
        assert learn.get_preds(one).activated.tolist() == pytest.approx([learn.predict(pair).value])

    @pytest.mark.parametrize(
        "rows", [[(7, 15), (3, 5)], [[7, 15], [3, 5]], [{"userId": 7, "movieId": 15}, {"userId": 3, "movieId": 5}]]
    )
    def test_pairs_and_mappings(self, data, rows):
        loader = data.test_dl(rows)
        assert loader.columns["user"].tolist() == [7, 3]
        assert loader.columns["item"].tolist() == [2, 1]

    def test_ids_go_by_value_whatever_the_column_is_like(self, data):
        for users in (["7", "3"], np.array([7, 3], np.int8), [7.0, 3.0], pd.Categorical([7, 3], categories=[7, 3])):
            loader = data.test_dl(pd.DataFrame({"userId": users, "movieId": [15, 5]}))
            assert loader.columns["user"].tolist() == [7, 3]

    def test_with_labels(self, data, ratings):
        loader = data.test_dl(ratings[:10], with_labels=True)
        assert decoded(loader) == list(ratings[["userId", "movieId", "rating"]][:10].itertuples(index=False, name=None))

    def test_a_row_without_an_id_is_an_error_naming_it(self, data):
        frame = pd.DataFrame({"userId": [7, None], "movieId": [15, 15]})
        with pytest.raises(DataError, match=r"1 of 2 rows with no 'userId', the first: row 2"):
            data.test_dl(frame)

    def test_without_a_rating_there_is_nothing_to_compare(self, data):
        frame = pd.DataFrame({"userId": [7, 3], "movieId": [15, 15], "rating": [3.0, None]})
        with pytest.raises(DataError, match="no 'rating'"):
            data.test_dl(frame, with_labels=True)

    def test_rows_to_be_skipped_are_said(self, data, caplog):
        frame = pd.DataFrame({"userId": [7, 3], "movieId": [15, 15], "rating": [3.0, None]})
        loader = ratings_loader(data.plan, frame, on_bad_item="skip")
        assert loader.num_items == 1
        assert "left out 1 of 2 rows with no 'rating'" in caplog.text

    def test_a_missing_column_and_no_rows(self, data):
        with pytest.raises(UnknownName, match="'movieId'"):
            data.test_dl(pd.DataFrame({"userId": [7], "movie": [15]}))
        with pytest.raises(UserError, match="empty"):
            data.test_dl([])

    def test_items_say_where_they_came_from(self, data, ratings):
        position = int(data.valid.positions[0])
        row = ratings.iloc[position]
        assert data.valid.item(position) == f"row {position + 1}: user {int(row.userId)}, item {int(row.movieId)}"


class TestBiases:
    """The baseline."""

    def test_by_hand(self):
        rows = [(1, 1, 5.0), (1, 2, 3.0), (2, 1, 4.0)]
        data = CollabDataLoaders.from_df(pd.DataFrame(rows, columns=["user", "item", "rating"]), valid_pct=0)
        model = Biases(item_shrink=1, user_shrink=1).fit(data)
        # The mean is 4; item 1 deviates by (1 + 0) / (2 + 1), item 2 by -1 / 2; users by what is left of theirs.
        user = (5 - 4 - 1 / 3 + (3 - 4 + 1 / 2)) / 3
        assert model.predict(data.test_dl([(1, 1)], with_labels=False)).tolist() == pytest.approx([4 + 1 / 3 + user])
        other = (4 - 4 - 1 / 3) / 2
        assert model.predict(data.test_dl([(2, 2)])).tolist() == pytest.approx([4 - 1 / 2 + other])
        assert model.predict(data.test_dl([(9, 9), (9, 1)])).tolist() == pytest.approx([4, 4 + 1 / 3])

    def test_it_beats_the_mean(self, data):
        from graftwork.api import get_host

        predicted = Biases().fit(data).predict(data.valid)
        wanted = data.valid.columns["rating"]
        mean = data.train.columns["rating"].mean()
        assert float(((predicted - wanted) ** 2).mean()) < 0.7 * float(((mean - wanted) ** 2).mean())
        assert get_host().baselines.get("collab/biases") is Biases

    def test_it_must_be_fitted_and_on_ratings(self, data):
        from graftwork.api import Plan, PlanError, RegressionBlock

        with pytest.raises(OptionError, match="not been fitted"):
            Biases().predict(data.valid)
        plan = Plan.compile(
            {"x": RegressionBlock(), "y": RegressionBlock()}, inputs="x", targets="y", train=lambda _: ()
        )
        loader = ColumnLoader({"x": torch.zeros(3), "y": torch.zeros(3)}, plan)
        with pytest.raises(PlanError, match="CollabDataLoaders"):
            Biases().fit(DataLoaders(train=loader))
