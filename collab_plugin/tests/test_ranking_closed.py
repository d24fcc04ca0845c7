"""EASE and nearest neighbours: equal to their formulas on dense matrices."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from graftwork.api import OptionError, UnknownName
from graftwork_collab import ease as ease_module
from graftwork_collab.als import both_sides
from graftwork_collab.ease import EASE, singular
from graftwork_collab.knn import ItemKNN, weighed
from graftwork_collab.ranking_data import RankingDataLoaders
from graftwork_collab.ranking_learners import ranking_learner
from graftwork_collab.topk import Seen

CPU = torch.device("cpu")


@pytest.fixture
def data(ratings: pd.DataFrame) -> RankingDataLoaders:
    return RankingDataLoaders.from_df(ratings)


@pytest.fixture
def few_items(ratings: pd.DataFrame) -> RankingDataLoaders:
    """Have more users than items."""
    return RankingDataLoaders.from_df(ratings[ratings.movieId < 200])


def dense(data: RankingDataLoaders, *, weighted: bool = False) -> np.ndarray:
    """Return the training interactions (user codes, item codes)."""
    seen = data.interactions
    matrix = np.zeros((seen.num_users + 1, seen.num_items + 1))
    matrix[seen.users, seen.items] = seen.weights if weighted and seen.weights is not None else 1
    return matrix


def steck(x: np.ndarray, reg: float) -> np.ndarray:
    """Solve as the paper's listing does; item code 0 is left out."""
    inside = x[:, 1:]
    inverse = np.linalg.inv(inside.T @ inside + reg * np.eye(inside.shape[1]))
    weights = np.zeros((x.shape[1], x.shape[1]))
    weights[1:, 1:] = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return weights


def scores_of(learn, data: RankingDataLoaders) -> np.ndarray:
    users = torch.arange(data.interactions.num_users + 1)
    learn.module.eval()
    with torch.no_grad():
        return learn.module.score(learn.module.represent(users)).double().numpy()


@pytest.mark.parametrize("which", ["data", "few_items"])
@pytest.mark.parametrize("reg", [1.0, 50.0])
def test_ease_is_that_of_the_paper(which: str, reg: float, request: pytest.FixtureRequest):
    data = request.getfixturevalue(which)
    learn = ranking_learner(data, "collab/ease", model_config={"reg": reg}, progress=False).fit(1)
    x = dense(data)
    ours, theirs = scores_of(learn, data), x @ steck(x, reg)
    unseen = (x == 0) & (np.arange(x.shape[1]) > 0)
    np.testing.assert_allclose(ours[unseen], theirs[unseen], atol=1e-4)


def test_ease_reports_what_it_minimises(few_items: RankingDataLoaders):
    learn = ranking_learner(few_items, "collab/ease", model_config={"reg": 5.0}, progress=False).fit(1)
    x, weights = dense(few_items), steck(dense(few_items), 5.0)
    minimum = (((x - x @ weights) ** 2).sum() + 5.0 * (weights**2).sum()) / (x[1:].shape[0] * x[:, 1:].shape[1])
    assert learn.recorder.losses == [pytest.approx(minimum, rel=1e-3)]


def test_ease_with_weights_and_fold_in(ratings: pd.DataFrame):
    data = RankingDataLoaders.from_df(ratings, weight="rating")
    learn = ranking_learner(data, "collab/ease", model_config={"reg": 20.0}, progress=False).fit(1)
    assert learn.model_config["weighted"]
    x = dense(data, weighted=True)
    theirs = x @ steck(x, 20.0)
    ours = scores_of(learn, data)
    unseen = (x == 0) & (np.arange(x.shape[1]) > 0)
    np.testing.assert_allclose(ours[unseen], theirs[unseen], atol=5e-3)
    module, seen = learn.module, data.interactions
    assert isinstance(module, EASE)
    folded = module.represent_new(seen.seen, torch.from_numpy(seen.weights))
    torch.testing.assert_close(folded, module.represent(torch.arange(seen.num_users + 1)))


def test_a_random_subspace_finds_the_singular_vectors(data: RankingDataLoaders, monkeypatch: pytest.MonkeyPatch):
    shape = (data.interactions.num_users + 1, data.num_items + 1)
    sides = both_sides(data.train, 1.0, shape, CPU)
    squares, vectors = singular(*sides, 10, 0)
    monkeypatch.setattr(ease_module, "EXACT", 0)
    monkeypatch.setattr(ease_module, "ROUNDS", 30)
    near_squares, near = singular(*sides, 10, 0)
    torch.testing.assert_close(near_squares, squares, rtol=1e-3, atol=1e-2)
    # The largest one stands apart from the others, so its vector is found up to its sign.
    assert abs(float(near[:, 0] @ vectors[:, 0])) == pytest.approx(1, abs=1e-3)
    # What they all span is the same.
    overlap = torch.linalg.svdvals(near[:, :5].T @ vectors)
    assert overlap.min() > 0.95


def test_ease_of_low_rank_keeps_the_strongest(data: RankingDataLoaders):
    learn = ranking_learner(data, "collab/ease", model_config={"rank": 3}, progress=False).fit(1)
    assert learn.module.vectors.shape == (data.num_items + 1, 3)
    assert learn.history[-1]["ndcg@10"] > 0


def test_ease_is_solved_once(data: RankingDataLoaders):
    learn = ranking_learner(data, "collab/ease", progress=False).fit(1)
    before = learn.module.vectors.detach().clone()
    learn.fit(1)
    torch.testing.assert_close(learn.module.vectors.detach(), before)


@pytest.mark.parametrize("config", [{"reg": 0.0}, {"rank": 0}], ids=str)
def test_ease_refuses_impossible_options(data: RankingDataLoaders, config):
    with pytest.raises(OptionError, match="at least 1"):
        ranking_learner(data, "collab/ease", model_config=config, progress=False)


# -- neighbours --------------------------------------------------------------------------------------------------------


def similarity(x: np.ndarray, damping: float) -> np.ndarray:
    """Compare all columns, and nothing with itself."""
    lengths = np.sqrt((x**2).sum(0))
    lengths[lengths == 0] = 1
    found = (x.T @ x) / np.outer(lengths ** (2 - 2 * damping), lengths ** (2 * damping))
    np.fill_diagonal(found, 0)
    return found


@pytest.mark.parametrize("damping", [0.5, 0.2])
def test_all_neighbours_give_the_whole_similarity(data: RankingDataLoaders, damping: float):
    config = {"weighting": "cosine", "neighbours": 1000, "damping": damping}
    learn = ranking_learner(data, "collab/item-knn", model_config=config, progress=False).fit(1)
    x = dense(data)
    np.testing.assert_allclose(scores_of(learn, data), x @ similarity(x, damping), atol=1e-4)


def test_only_the_nearest_count(data: RankingDataLoaders):
    config = {"weighting": "cosine", "neighbours": 4}
    learn = ranking_learner(data, "collab/item-knn", model_config=config, progress=False).fit(1)
    x, module = dense(data), learn.module
    whole = similarity(x, 0.5)
    np.testing.assert_allclose(module.similarities.detach().numpy(), -np.sort(-whole, 1)[:, :4], atol=1e-5)
    kept = np.zeros_like(whole)
    np.put_along_axis(kept, module.neighbours.numpy(), np.take_along_axis(whole, module.neighbours.numpy(), 1), 1)
    kept[:, 0] = 0
    np.testing.assert_allclose(scores_of(learn, data), x @ kept, atol=1e-4)


def test_weightings_are_those_of_texts(data: RankingDataLoaders):
    from scipy.sparse import csr_matrix

    x = dense(data).astype(np.float32)
    rows, items = x.sum(1), x.sum(0)
    rarity = np.log1p(x.shape[1] / np.maximum(rows, 1))[:, None]
    np.testing.assert_allclose(weighed(csr_matrix(x), "tfidf").toarray(), x * rarity, rtol=1e-5)
    length = 0.25 + 0.75 * items / items.mean()
    np.testing.assert_allclose(
        weighed(csr_matrix(x), "bm25").toarray(), rarity * x * 2.2 / (x + 1.2 * length), rtol=1e-5
    )
    np.testing.assert_array_equal(weighed(csr_matrix(x), "cosine").toarray(), x)


def test_similar_items_are_the_neighbours(data: RankingDataLoaders):
    learn = ranking_learner(data, "collab/item-knn", model_config={"weighting": "cosine"}, progress=False).fit(1)
    module = learn.module
    assert isinstance(module, ItemKNN)
    found = module.similar(torch.tensor([5]), 3)
    whole = torch.from_numpy(similarity(dense(data), 0.5)[5]).float()
    torch.testing.assert_close(found.scores[0], whole.topk(3).values)
    torch.testing.assert_close(whole[found.codes[0]], found.scores[0])
    none = module.represent_new(Seen.nothing(2))
    assert none.shape == (2, 0)
    assert module.score(none).abs().sum() == 0


def test_blocks_of_items_change_nothing(data: RankingDataLoaders, monkeypatch: pytest.MonkeyPatch):
    whole = ranking_learner(data, "collab/item-knn", progress=False).fit(1)
    monkeypatch.setattr("graftwork_collab.knn.ITEMS_AT_ONCE", 7 * (data.num_items + 1))
    parts = ranking_learner(data, "collab/item-knn", progress=False).fit(1)
    torch.testing.assert_close(parts.module.similarities, whole.module.similarities)


@pytest.mark.parametrize("config", [{"neighbours": 0}, {"damping": 2.0}], ids=str)
def test_neighbours_refuse_impossible_options(data: RankingDataLoaders, config):
    with pytest.raises(OptionError, match="neighbours="):
        ranking_learner(data, "collab/item-knn", model_config=config, progress=False)
    with pytest.raises(UnknownName, match="cosine"):
        ranking_learner(data, "collab/item-knn", model_config={"weighting": "cosin"}, progress=False)


def test_solved_models_do_not_learn_from_batches(data: RankingDataLoaders):
    for model in ("collab/ease", "collab/item-knn"):
        learn = ranking_learner(data, model, progress=False)
        with pytest.raises(OptionError, match=r"use fit\(1\)"):
            learn.module.train()(torch.tensor([1]), torch.tensor([[1, 2]]))


@pytest.mark.slow
def test_ease_beats_als_and_popularity_on_movielens(real_movielens):
    data = RankingDataLoaders.from_source(real_movielens)
    ease, als = (ranking_learner(data, f"collab/{name}", progress=False) for name in ("ease", "als"))
    assert ease.fit(1).history[-1]["ndcg@10"] > 0.36
    assert als.fit(15).history[-1]["ndcg@10"] > 0.33
