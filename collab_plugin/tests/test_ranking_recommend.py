"""Recommendations: for users, for histories, beside items; from a learner and from a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from graftwork import load_learner
from graftwork.api import DataError, Learner, OptionError, UnknownName
from graftwork_collab.ranking_baselines import MostPopular
from graftwork_collab.ranking_data import RankingDataLoaders
from graftwork_collab.ranking_learners import ranking_learner
from graftwork_collab.recommend import Recommender

MODELS = ["collab/ease", "collab/als", "collab/factors", "collab/lightgcn", "collab/sasrec", "collab/item-knn"]


def trained(frame: pd.DataFrame | Path, model: str, **options: object) -> Learner:
    history = 8 if model == "collab/sasrec" else None
    data = RankingDataLoaders.from_source(frame, history=history, bs=128, **options)
    return ranking_learner(data, model, progress=False).fit(1)


def seen_ids(data: RankingDataLoaders, user: int) -> set[int]:
    vocab = data.plan.fields["item"].item_steps[0].transform.vocab
    seen, code = data.interactions, data.plan.fields["user"].item_steps[0].transform.vocab.index(user) + 1
    return {vocab[item - 1] for item in seen.items[seen.start[code] : seen.start[code + 1]]}


@pytest.mark.parametrize("model", MODELS)
def test_recommendations_are_the_best_scores(ratings: pd.DataFrame, model: str):
    learn = trained(ratings, model)
    found = Recommender(learn).recommend(k=7)
    assert len(found) == 40
    assert found.asked == tuple(range(1, 41))
    learn.module.eval()
    with torch.no_grad():
        scores = learn.module(torch.arange(1, 41), torch.zeros(40, 0, dtype=torch.int64))
    best = scores.topk(7, 1)
    torch.testing.assert_close(found.scores, best.values, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(scores.gather(1, found.codes), best.values, atol=1e-4, rtol=1e-3)
    for user in (1, 17, 40):
        assert not set(found.items[user - 1]) & seen_ids(learn.data, user)


@pytest.mark.parametrize("model", MODELS)
def test_a_file_recommends_what_the_learner_does(ratings: pd.DataFrame, model: str, tmp_path: Path):
    learn = trained(ratings, model, k=4)
    predictor = load_learner(learn.export(tmp_path / "model.graft"))
    ours, theirs = (Recommender(source).recommend([3, 5, 8], 4) for source in (learn, predictor))
    assert ours.items == theirs.items
    torch.testing.assert_close(ours.scores, theirs.scores)
    assert predictor.predict(3).value == ours.items[0]
    assert [said.value for said in predictor.predict_batch([3, "5", 8])] == ours.items
    histories = [[5, 15, 25], [595]]
    new = [Recommender(source).recommend_for(histories, 3).items for source in (learn, predictor)]
    assert new[0] == new[1]


@pytest.mark.parametrize("model", MODELS)
def test_a_learner_predicts_and_validates_as_it_recommends(ratings: pd.DataFrame, model: str):
    learn = trained(ratings, model)
    assert learn.predict(9).value == Recommender(learn).recommend([9]).items[0]
    predictions = learn.get_preds()
    codes = Recommender(learn).recommend(k=10).codes
    users = learn.data.held_out[0]
    same = predictions.activated == codes[users - 1]
    assert same.float().mean() > 0.98  # ties of products computed in another order


def test_metrics_look_at_as_many_places_as_the_data_has(ratings: pd.DataFrame):
    learn = trained(ratings, "collab/als", k=4)
    assert "ndcg@4" in learn.history[-1]
    again = ranking_learner(learn.data, "collab/als", k=7, progress=False)
    assert "ndcg@7" in again.validate()


@pytest.mark.parametrize("model", ["collab/als", "collab/sasrec"])
def test_loaders_of_new_users_and_of_new_interactions(ratings: pd.DataFrame, model: str):
    learn = trained(ratings, model)
    asked = learn.get_preds(learn.data.test_dl([3, "5", 8]))
    assert asked.activated[:, :10].tolist() == Recommender(learn).recommend([3, 5, 8]).codes.tolist()
    assert asked.targets is None
    new = ratings[ratings.userId == 3].head(5)
    loader = learn.data.test_dl(new, with_labels=True)
    assert loader.num_items == 1
    assert 0 <= learn.validate(loader)["ndcg@10"] <= 1
    with pytest.raises(DataError, match="come as a list of ids"):
        learn.data.test_dl([])


def test_seen_items_come_back_if_asked_for(ratings: pd.DataFrame):
    recommender = Recommender(trained(ratings, "collab/als"))
    everything = recommender.recommend([1], recommender.num_items, exclude_seen=False)
    assert sorted(everything.items[0]) == sorted(recommender._items.vocab)
    without = recommender.recommend([1], recommender.num_items)
    assert len(without.items[0]) < recommender.num_items
    assert without.codes[0, -1] == -1
    assert without.scores[0, -1] == -torch.inf


def test_unknown_users_get_popular_items_and_that_is_said(ratings: pd.DataFrame, caplog: pytest.LogCaptureFixture):
    learn = trained(ratings, "collab/als")
    found = Recommender(learn).recommend([1, "nobody", 2], 3)
    assert "1 of 3 of the users asked about do not occur in training ('nobody'); they get popular items" in caplog.text
    assert found.fallback.tolist() == [False, True, False]
    popular = learn.data.popularity[1:].sort(descending=True, stable=True)
    assert found.codes[1].tolist() == (popular.indices[:3] + 1).tolist()
    assert found.items[0] == Recommender(learn).recommend([1], 3).items[0]
    assert learn.predict("nobody").value[:3] == found.items[1]


@pytest.mark.parametrize("model", MODELS)
def test_histories_leave_out_what_they_hold(ratings: pd.DataFrame, model: str, caplog: pytest.LogCaptureFixture):
    recommender = Recommender(trained(ratings, model))
    found = recommender.recommend_for([[5, 15, "nothing", 5], [], ["nothing"]], 4)
    assert not {5, 15} & set(found.items[0])
    assert found.fallback.tolist() == [False, True, True]
    assert "2 items of the histories do not occur in training" in caplog.text
    assert "2 of 3 of the histories hold no item" in caplog.text
    assert found.items[1] == found.items[2]
    kept = recommender.recommend_for([[5, 15]], recommender.num_items, exclude_seen=False)
    assert {5, 15} <= set(kept.items[0])


@pytest.mark.parametrize("model", MODELS)
def test_similar_items_are_others(ratings: pd.DataFrame, model: str):
    recommender = Recommender(trained(ratings, model))
    found = recommender.similar_items([5, 595], 6)
    assert found.codes.shape == (2, 6)
    assert 5 not in found.items[0]
    assert 595 not in found.items[1]
    assert (found.scores.diff(dim=1) <= 0).all()


def test_titles_lead_to_items_and_back(movielens: Path):
    recommender = Recommender(trained(movielens, "collab/ease"))
    title = recommender.names[5]
    found = recommender.similar_items([title], 2)
    assert found.items == recommender.similar_items([recommender._items.vocab[5]], 2).items
    assert all(name.startswith("Film, The") for name in found.titles[0])
    table = found.frame()
    assert list(table.columns) == ["asked", "place", "item", "title", "score"]
    assert table.place.tolist() == [1, 2]
    assert table.item.tolist() == found.items[0]


def test_a_frame_leaves_out_empty_places(ratings: pd.DataFrame):
    recommender = Recommender(trained(ratings, "collab/als"))
    table = recommender.recommend([1, 2], recommender.num_items).frame()
    assert table.asked.value_counts().to_dict() == {
        user: recommender.num_items - len(seen_ids(trained(ratings, "collab/als").data, user)) for user in (1, 2)
    }
    assert np.isfinite(table.score).all()


def test_blocks_of_users_change_nothing(ratings: pd.DataFrame, monkeypatch: pytest.MonkeyPatch):
    recommender = Recommender(trained(ratings, "collab/item-knn"))
    whole = recommender.recommend(k=5)
    monkeypatch.setattr(type(recommender.module), "rows_at_once", 7)
    assert torch.equal(recommender.recommend(k=5).codes, whole.codes)


def test_nobody_asked_gets_nothing(ratings: pd.DataFrame):
    found = Recommender(trained(ratings, "collab/als")).recommend([], 3)
    assert (len(found), found.items, tuple(found.codes.shape)) == (0, [], (0, 3))


def test_the_module_keeps_its_mode(ratings: pd.DataFrame):
    learn = trained(ratings, "collab/factors")
    for mode in (True, False):
        learn.module.train(mode)
        Recommender(learn).recommend([1], 2)
        assert all(part.training is mode for part in learn.module.modules())


def test_questions_that_have_no_answer(ratings: pd.DataFrame):
    recommender = Recommender(trained(ratings, "collab/als"))
    for k in (0, 61):
        with pytest.raises(OptionError, match=f"k={k}: there are 60 items"):
            recommender.recommend(k=k)
        with pytest.raises(OptionError, match=f"k={k}"):
            recommender.recommend_for([[5]], k)
        with pytest.raises(OptionError, match=f"k={k}"):
            recommender.similar_items([5], k)
    with pytest.raises(OptionError, match=r"users come as a list: \['ann'\]"):
        recommender.recommend("ann")
    with pytest.raises(OptionError, match="items of a history come as a list"):
        recommender.recommend_for([5])
    with pytest.raises(UnknownName, match="item '596'"):
        recommender.similar_items([596])
    with pytest.raises(OptionError, match="does not rank items"):
        Recommender(Learner(recommender_data(ratings), torch.nn.Linear(1, 1), progress=False))


def recommender_data(ratings: pd.DataFrame) -> RankingDataLoaders:
    return RankingDataLoaders.from_df(ratings)


# -- the baseline ------------------------------------------------------------------------------------------------------


def test_the_baseline_ranks_by_popularity(ratings: pd.DataFrame):
    data = RankingDataLoaders.from_df(ratings)
    found = MostPopular().fit(data).predict(data.valid)
    order = (-data.popularity).sort(stable=True).indices.tolist()
    vocab = data.plan.fields["user"].item_steps[0].transform.vocab
    items = data.plan.fields["item"].item_steps[0].transform.vocab
    for row, user in enumerate(data.held_out[0].tolist()):
        own = seen_ids(data, vocab[user - 1])
        wanted = [code for code in order if code and items[code - 1] not in own][:10]
        assert found[row].tolist() == wanted


def test_the_baseline_must_be_fitted_on_a_ranking(ratings: pd.DataFrame):
    data = RankingDataLoaders.from_df(ratings)
    with pytest.raises(OptionError, match="has not been fitted"):
        MostPopular().predict(data.valid)
