"""ALS: the compiled sweep against the normal equations, its loss, its place in a Learner."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from graftwork.api import DataLoaders, Learner, OptionError
from graftwork_collab import als as module
from graftwork_collab.als import ALS, Rule, Side, both_sides, solve
from graftwork_collab.ranking_data import RankingDataLoaders
from graftwork_collab.ranking_learners import ranking_learner
from graftwork_collab.topk import Seen

CPU = torch.device("cpu")


def sparse(rows: int, columns: int, seed: int, share: float = 0.3) -> tuple[Side, np.ndarray]:
    """Return a random sparse matrix of extra confidences, and the same dense; the last row is empty."""
    rng = np.random.default_rng(seed)
    dense = np.where(rng.random((rows, columns)) < share, rng.random((rows, columns)) * 3 + 0.1, 0).astype(np.float32)
    dense[-1] = 0
    start = np.append(0, np.cumsum((dense > 0).sum(1)))
    return Side.of(start, np.nonzero(dense)[1], torch.from_numpy(dense[dense > 0]), CPU), dense


def normal_equations(dense: np.ndarray, vectors: np.ndarray, ridge: np.ndarray) -> np.ndarray:
    """Solve each row's weighted ridge regression in float64."""
    solved = []
    for row, hold in zip(dense.astype(np.float64), ridge, strict=True):
        y = vectors.astype(np.float64)
        left = y.T @ np.diag(1 + row) @ y + hold * np.eye(y.shape[1])
        solved.append(np.linalg.solve(left, y.T @ ((1 + row) * (row > 0))))
    return np.stack(solved)


@pytest.mark.parametrize("way", ["kernel", "torch"])
@pytest.mark.parametrize("width", [1, 5, 8, 19])
@pytest.mark.parametrize("seed", [0, 1])
def test_enough_steps_solve_the_normal_equations(way: str, width: int, seed: int):
    side, dense = sparse(13, 17, seed)
    vectors = torch.randn(17, width, generator=torch.Generator().manual_seed(seed))
    ridge = torch.linspace(0.1, 2, 13)
    solved = torch.randn(13, width, generator=torch.Generator().manual_seed(9)) * 0.1
    if way == "kernel":
        solve(side, vectors, ridge, solved, steps=3 * width)
    else:
        module._solve_on_device(side, vectors, vectors.T @ vectors, ridge, solved, 3 * width)
    expected = normal_equations(dense, vectors.numpy(), ridge.numpy())
    np.testing.assert_allclose(solved.numpy(), expected, atol=2e-3)
    assert (solved[-1] == 0).all()


def test_both_ways_take_the_same_steps():
    side, _ = sparse(30, 40, 3)
    vectors = torch.randn(40, 16, generator=torch.Generator().manual_seed(0))
    ridge, begin = torch.full((30,), 0.5), torch.randn(30, 16, generator=torch.Generator().manual_seed(1)) * 0.1
    ours = solve(side, vectors, ridge, begin.clone(), steps=2)
    theirs = module._solve_on_device(side, vectors, vectors.T @ vectors, ridge, begin.clone(), 2)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


def test_the_number_of_threads_changes_no_bit(monkeypatch: pytest.MonkeyPatch):
    side, _ = sparse(200, 100, 4)
    vectors = torch.randn(100, 24, generator=torch.Generator().manual_seed(0))

    def once(threads: int) -> torch.Tensor:
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        monkeypatch.setattr("graftwork_collab.topk.WORTH_THREADS", 0)
        return solve(side, vectors, torch.ones(200), torch.zeros(200, 24), steps=3)

    assert torch.equal(once(1), once(3))


def test_the_loss_is_the_weighted_squared_error():
    side, dense = sparse(12, 9, 5)
    users, items = (torch.randn(n, 4, generator=torch.Generator().manual_seed(n)) for n in (9, 12))
    scores = (items @ users.T).double().numpy()
    confidence, wanted = 1 + dense, (dense > 0).astype(float)
    expected = (confidence * (wanted - scores) ** 2).sum() / (8 * 11 + dense.sum())
    assert float(module._loss(side, users, items)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 0.5])
def test_the_ridge_follows_its_rule(exponent: float):
    rule = Rule(alpha=4.0, reg=0.02, exponent=exponent)
    expected = 0.02 * 4 * (np.array([0, 3, 10]) + 100 / 4) ** exponent
    np.testing.assert_allclose(rule.ridge(torch.tensor([0, 3, 10]), 100).numpy(), expected, rtol=1e-6)


@pytest.fixture
def data(ratings) -> RankingDataLoaders:
    return RankingDataLoaders.from_df(ratings)


def test_training_lowers_the_loss_and_beats_popularity(ratings):
    # Who likes the even items never meets an odd one.
    kept = ratings[(ratings.userId % 2) == (ratings.movieId // 5 // 2 % 2)]
    data = RankingDataLoaders.from_df(kept)
    learn = ranking_learner(data, "collab/als", model_config={"factors": 8}, progress=False).fit(5)
    losses = learn.recorder.losses
    assert losses[-1] < losses[0]
    from graftwork_collab.ranking_baselines import MostPopular

    popular = MostPopular().fit(data).predict(data.valid)
    learn.objective.reset(CPU)
    for metric in learn.objective.metrics["y"]:
        metric.update(popular, data.held_out[1])
    assert learn.history[-1]["ndcg@10"] > learn.objective.compute()["ndcg@10"] * 1.2


def test_the_same_seed_gives_the_same_factors(data: RankingDataLoaders):
    first, second = (ranking_learner(data, "collab/als", progress=False).fit(2) for _ in range(2))
    assert torch.equal(first.module.item_factors, second.module.item_factors)


def test_weights_count(ratings):
    weighed = RankingDataLoaders.from_df(ratings, weight="rating")
    side, _ = both_sides(weighed.train, 2.0, (41, weighed.num_items + 1), CPU)
    assert float(side.extra.sum()) == pytest.approx(2 * float(weighed.interactions.weights.sum()), rel=1e-6)
    plain, _ = both_sides(weighed.train, 2.0, (41, weighed.num_items + 1), CPU, weighted=False)
    assert set(plain.extra.tolist()) == {2.0}


def test_frozen_factors_stay(data: RankingDataLoaders):
    learn = ranking_learner(data, "collab/als", progress=False)
    learn.module.item_factors.requires_grad_(False)
    before = learn.module.item_factors.clone()
    users = learn.module.user_factors.clone()
    learn.fit(1)
    assert torch.equal(learn.module.item_factors, before)
    assert not torch.equal(learn.module.user_factors, users)


def test_fold_in_finds_a_training_users_vector(data: RankingDataLoaders):
    learn = ranking_learner(data, "collab/als", model_config={"factors": 6, "steps": 30}, progress=False).fit(3)
    found = learn.module
    assert isinstance(found, ALS)
    side, _ = both_sides(data.train, 3.0, (found.num_users, found.num_items), CPU)
    ridge = found.rule.ridge(side.counts, found.num_items - 1)
    solved = solve(side, found.item_factors.detach(), ridge, found.user_factors.detach().clone(), steps=30)
    folded = found.represent_new(data.interactions.seen)
    torch.testing.assert_close(folded, solved, atol=1e-3, rtol=1e-2)
    assert found.represent_new(Seen.nothing(2)).abs().sum() == 0


def test_it_needs_the_interactions(data: RankingDataLoaders, ratings):
    by_hand = DataLoaders(train=data.valid.in_order(), valid=data.valid)
    del by_hand.train.columns["item"]
    with pytest.raises(OptionError, match="needs the interactions of RankingDataLoaders"):
        Learner(by_hand, "collab/als", progress=False, loss="collab/full_squared_error").fit(1)
    sequences = RankingDataLoaders.from_df(ratings, history=5)
    with pytest.raises(OptionError, match="without history="):
        ranking_learner(sequences, "collab/als", progress=False).fit(1)


@pytest.mark.parametrize("config", [{"factors": 0}, {"steps": 0}, {"alpha": 0.0}, {"reg": -1.0}], ids=str)
def test_impossible_options_are_refused(data: RankingDataLoaders, config):
    with pytest.raises(OptionError, match="="):
        ranking_learner(data, "collab/als", model_config=config, progress=False)


def test_there_is_no_gradient_to_follow(data: RankingDataLoaders):
    learn = ranking_learner(data, "collab/als", progress=False)
    with pytest.raises(OptionError, match="trained by sweeps"):
        learn.module.train()(torch.tensor([1]), torch.tensor([[1, 2]]))
    with pytest.raises(OptionError, match="no learning rate to find"):
        learn.lr_find()
    with pytest.raises(OptionError, match="takes no loss"):
        ranking_learner(data, "collab/als", loss="collab/bpr")
