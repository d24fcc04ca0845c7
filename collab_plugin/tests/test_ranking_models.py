"""Rankers trained by gradients: what they compute, what they may see, and that they learn."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from graftwork.api import Learner, OptionError, PlanError
from graftwork_collab.factors_bpr import FactorRanker, fold_in
from graftwork_collab.lightgcn import LightGCN
from graftwork_collab.ranker import shared_scores
from graftwork_collab.ranking_data import RankingDataLoaders
from graftwork_collab.ranking_learners import ranking_learner
from graftwork_collab.sasrec import SASRec
from graftwork_collab.topk import Seen

MODELS = ["collab/factors", "collab/lightgcn", "collab/sasrec"]
SMALL = {
    "collab/factors": {"factors": 6},
    "collab/lightgcn": {"factors": 6},
    "collab/sasrec": {"width": 8, "dropout": 0.0},
}


def two_tastes() -> pd.DataFrame:
    """Let even users have even items and odd users odd ones, each 12 of 20, one after another."""
    rng = np.random.default_rng(0)
    rows = [
        (user, int(item) * 2 + user % 2, when)
        for user in range(40)
        for when, item in enumerate(rng.permutation(20)[:12])
    ]
    return pd.DataFrame(rows, columns=["user", "item", "time"])


@pytest.fixture(scope="module")
def tastes() -> dict[bool, RankingDataLoaders]:
    frame = two_tastes()
    options = {"bs": 64, "negatives": 30, "k": 5}
    return {
        False: RankingDataLoaders.from_df(frame, **options),
        True: RankingDataLoaders.from_df(frame, history=6, **options),
    }


def learner(tastes: dict[bool, RankingDataLoaders], model: str, **options: object) -> Learner:
    config = {**SMALL[model], **options.pop("config", {})}
    return ranking_learner(tastes[model == "collab/sasrec"], model, model_config=config, k=5, progress=False, **options)


def train_batch(learn: Learner):
    return learn.feed.ready(next(learn.data.train.at(0)), 0, 0)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("loss", ["collab/sampled_softmax", "collab/bpr", "collab/pair_bce"])
def test_it_learns_who_likes_what(tastes, model: str, loss: str):
    learn = learner(tastes, model, loss=loss, wd=0.01)
    learn.fit_one_cycle(12, 0.05)
    assert learn.recorder.losses[-1] < learn.recorder.losses[0]
    # Each user has 12 items of 20 of one kind; of the 28 others, 8 are of that kind.
    users = torch.arange(1, 41)
    learn.module.eval()
    inputs = [users, torch.zeros(40, 0, dtype=torch.int64)]
    codes = learn.objective.activate(learn.module(*inputs).detach())["y"][:, :5]
    items = learn.data.plan.fields["item"].item_steps[0].transform.vocab
    of_kind = [items[code - 1] % 2 == (user - 1) % 2 for user in users.tolist() for code in codes[user - 1].tolist()]
    assert np.mean(of_kind) > 0.9


@pytest.mark.parametrize("model", MODELS)
def test_every_parameter_gets_a_gradient(tastes, model: str):
    learn = learner(tastes, model)
    batch = train_batch(learn)
    learn.module.train()
    learn.objective(learn.feed.forward(batch), batch.fields).backward()
    for name, parameter in learn.module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # The bias of keys moves all scores of a place alike, so it has none.
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("model", MODELS)
def test_rows_do_not_look_at_each_other(tastes, model: str):
    learn = learner(tastes, model)
    learn.module.eval()
    users, item = torch.tensor([3, 7, 1]), torch.zeros(3, 0, dtype=torch.int64)
    with torch.no_grad():
        together = learn.module(users, item)
        alone = torch.cat([learn.module(users[i : i + 1], item[:1]) for i in range(3)])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("model", [*MODELS, "collab/als", "collab/ease", "collab/item-knn"])
def test_what_cannot_be_recommended_scores_minus_infinity(tastes, model: str):
    sequential = model == "collab/sasrec"
    learn = ranking_learner(tastes[sequential], model, k=5, progress=False).fit(1)
    learn.module.eval()
    users = torch.tensor([0, 1, 40])
    with torch.no_grad():
        scores = learn.module(users, torch.zeros(3, 0, dtype=torch.int64))
    seen = learn.data.interactions
    for row, user in enumerate(users.tolist()):
        own = set(seen.items[seen.start[user] : seen.start[user + 1]].tolist())
        hidden = set((scores[row] == -torch.inf).nonzero().flatten().tolist())
        assert hidden == own | {0}
    # Nobody knows the first one, so popularity decides.
    torch.testing.assert_close(scores[0, 1:], learn.data.popularity[1:].log1p())


@pytest.mark.parametrize("model", ["collab/factors", "collab/item-knn"])
def test_only_candidates_are_ranked_if_there_are_any(tastes, model: str):
    learn = ranking_learner(tastes[False], model, k=5, progress=False).fit(1)
    seen = learn.data.interactions
    free = [code for code in range(1, 41) if code not in seen.items[seen.start[1] : seen.start[2]].tolist()]
    learn.module.eval()
    with torch.no_grad():
        scores = learn.module(torch.tensor([1, 1]), torch.tensor([free[:2], [-1, -1]]))
    assert scores[0].isfinite().nonzero().flatten().tolist() == free[:2]
    assert scores[1].isfinite().nonzero().flatten().tolist() == free


def test_unknown_users_are_said_once(tastes, caplog: pytest.LogCaptureFixture):
    learn = learner(tastes, "collab/factors")
    learn.module.eval()
    for _ in range(2):
        learn.module(torch.tensor([0, 1, 0]), torch.zeros(3, 0, dtype=torch.int64))
    assert [record.getMessage() for record in caplog.records] == [
        "users who do not occur in training get the most popular items (2)"
    ]


# -- candidates --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5,), (3, 4)], ids=str)
def test_shared_candidates_score_as_single_ones(shape: tuple[int, ...]):
    rng = torch.Generator().manual_seed(0)
    table, vectors = torch.randn(20, 6, generator=rng), torch.randn(*shape, 6, generator=rng)
    chosen = torch.randint(0, 20, (*shape, 1), generator=rng)
    others = torch.tensor([0, 3, 7, 7, 11])
    item = torch.cat([chosen, others.expand(*shape, 5)], -1)
    correction = torch.rand(20, generator=rng)
    found = shared_scores(vectors, table, item, correction)
    expected = (vectors[..., None, :] * table[item]).sum(-1) - correction[item]
    hidden = torch.zeros_like(expected, dtype=torch.bool)
    hidden[..., 1:] = (others == chosen) | (others == 0)
    torch.testing.assert_close(found, expected.masked_fill(hidden, -torch.inf))


def test_the_softmax_over_samples_estimates_the_full_one(tastes):
    """With the chance of being drawn taken off, the mean gradient over draws is nearly that of the full softmax."""
    learn = learner(tastes, "collab/factors", config={"bias": True})
    data, module = learn.data, learn.module
    batch = next(data.train.at(0))
    users, items = batch.fields["user"], batch.fields["item"]
    with torch.no_grad():
        full = module.represent(users) @ module.item_vectors().T
    exact = full[:, 1:].log_softmax(1).gather(1, items - 1).mean()
    estimates = []
    module.train()
    for number in range(200):
        ready = learn.feed.ready(next(data.train.at(0)), 0, number)
        with torch.no_grad():
            raw = learn.feed.forward(ready)
            # Add the chosen one's own correction back to compare likelihoods: log(K q) each.
            estimates.append(-learn.objective(raw, ready.fields))
    # 31 candidates stand for 40 items: the estimate is biased by a constant, which gradients do not see.
    spread = torch.stack(estimates).std()
    assert spread < 0.2
    assert abs(float(torch.stack(estimates).mean() - exact)) < 0.6


def test_correction_is_for_the_softmax_alone(tastes):
    assert learner(tastes, "collab/factors").module.proposal.correct
    assert not learner(tastes, "collab/factors", loss="collab/bpr").module.proposal.correct
    chance = learner(tastes, "collab/factors").module.proposal(tastes[False].popularity).exp()
    assert float(chance[1:].sum()) == pytest.approx(1, rel=1e-4)


def test_fold_in_raises_what_somebody_likes(tastes):
    learn = learner(tastes, "collab/factors", wd=0.01)
    learn.fit_one_cycle(12, 0.05)
    module, seen = learn.module.eval(), tastes[False].interactions
    assert isinstance(module, FactorRanker)
    known = module.represent_new(seen.seen.rows(1, 41))
    scores = module.score(known).detach()
    items = np.array(tastes[False].plan.fields["item"].item_steps[0].transform.vocab)
    kind = torch.from_numpy(items % 2)
    for user in range(40):
        own = scores[user, 1:][kind == user % 2].mean()
        assert own > scores[user, 1:][kind != user % 2].mean()


def test_fold_in_works_inside_inference_mode_and_by_blocks(monkeypatch: pytest.MonkeyPatch):
    items = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    seen = Seen(start=np.array([0, 2, 2, 5]), codes=np.array([3, 4, 7, 8, 9], dtype=np.int32))
    whole = fold_in(items, None, seen)
    monkeypatch.setattr("graftwork_collab.factors_bpr.ROWS_AT_ONCE", 30)
    torch.testing.assert_close(fold_in(items, None, seen), whole)
    assert whole[1].abs().max() < 1e-6
    with torch.inference_mode():
        torch.testing.assert_close(fold_in(items.clone(), None, seen), whole)


# -- LightGCN ----------------------------------------------------------------------------------------------------------


def dense_lightgcn(module: LightGCN, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
    """Multiply with the normalised adjacency matrix, as the paper writes it."""
    n_users, n_items = len(users), len(items)
    edges = torch.zeros(n_users, n_items)
    rows = torch.arange(n_users).repeat_interleave(module.seen_start.diff())
    edges[rows, module.seen_items.long()] = 1
    adjacency = torch.zeros(n_users + n_items, n_users + n_items)
    adjacency[:n_users, n_users:], adjacency[n_users:, :n_users] = edges, edges.T
    scale = adjacency.sum(1).clamp(min=1).rsqrt()
    adjacency = scale[:, None] * adjacency * scale
    layer = total = torch.cat([users, items])
    for _ in range(module.layers):
        layer = adjacency @ layer
        total = total + layer
    total = total / (module.layers + 1)
    return total[:n_users], total[n_users:]


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_lightgcn_spreads_as_the_matrix_does(tastes, layers: int):
    module = learner(tastes, "collab/lightgcn", config={"layers": layers}).module.train()
    assert isinstance(module, LightGCN)
    users, items = (p.detach().clone().requires_grad_() for p in (module.user_factors, module.item_factors))
    ours, theirs = module.spread(), dense_lightgcn(module, users, items)
    weights = [torch.randn(part.shape, generator=torch.Generator().manual_seed(1)) for part in ours]
    for found, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, wanted)
    sum((part * w).sum() for part, w in zip(ours, weights, strict=True)).backward()
    sum((part * w).sum() for part, w in zip(theirs, weights, strict=True)).backward()
    torch.testing.assert_close(module.user_factors.grad, users.grad)
    torch.testing.assert_close(module.item_factors.grad, items.grad)


def test_lightgcn_computes_once_in_evaluation_and_anew_after_training(tastes):
    module = learner(tastes, "collab/lightgcn").module.eval()
    first = module.spread()
    assert module.spread() is first
    with torch.no_grad():
        module.train().item_factors.add_(1)
    assert not torch.equal(module.eval().spread()[1], first[1])


def test_lightgcn_new_users_are_their_neighbourhood(tastes):
    module = learner(tastes, "collab/lightgcn").module.eval()
    with torch.no_grad():
        module.user_factors.zero_()
    seen = tastes[False].interactions.seen.rows(1, 41)
    # Of one layer: a user without factors of their own is what their items are.
    module.layers = 1
    module.train().eval()
    torch.testing.assert_close(module.represent_new(seen), module.represent(torch.arange(1, 41)))


def test_a_copy_has_its_own_graph(tastes):
    module = learner(tastes, "collab/lightgcn").module.eval()
    before = module.spread()
    copied = deepcopy(module)
    assert module.spread() is before
    torch.testing.assert_close(copied.spread()[0], before[0])
    with torch.no_grad():
        copied.item_factors.add_(1)
    assert not torch.equal(copied.train().eval().spread()[1], module.spread()[1])


# -- SASRec ------------------------------------------------------------------------------------------------------------


def test_sasrec_does_not_look_ahead(tastes):
    module = learner(tastes, "collab/sasrec").module.eval()
    assert isinstance(module, SASRec)
    history = torch.tensor([[0, 0, 3, 4, 5, 6]])
    changed = torch.tensor([[0, 0, 3, 4, 9, 8]])
    first, second = module.read(history), module.read(changed)
    torch.testing.assert_close(first[:, :4], second[:, :4])
    assert not torch.allclose(first[:, 4:], second[:, 4:])


def test_sasrec_does_not_see_padding(tastes):
    module = learner(tastes, "collab/sasrec").module.eval()
    history = torch.tensor([[0, 0, 3, 4, 5, 6]])
    before = module.read(history)[:, 2:]
    with torch.no_grad():
        module.items[0] += 100
    torch.testing.assert_close(module.read(history)[:, 2:], before)
    assert module.read(torch.zeros(1, 6, dtype=torch.int64)).isfinite().all()


def test_sasrec_reads_the_end_of_what_was_seen(tastes):
    module, data = learner(tastes, "collab/sasrec").module.eval(), tastes[True]
    seen = data.interactions
    users = torch.arange(seen.num_users + 1)
    expected = torch.zeros(len(users), 6, dtype=torch.int64)
    for user in users.tolist():
        last = seen.items[seen.start[user] : seen.start[user + 1]][-6:]
        if len(last):
            expected[user, -len(last) :] = torch.from_numpy(last.astype(np.int64))
    with torch.no_grad():
        torch.testing.assert_close(module.represent(users), module._last(expected))
        torch.testing.assert_close(module.represent_new(seen.seen), module._last(expected))
    assert module.represent_new(Seen.nothing(2)).shape == (2, 9)


def test_sasrec_follows_a_history_it_is_told(tastes):
    module = learner(tastes, "collab/sasrec").module.eval()
    user, item = torch.tensor([1, 1]), torch.zeros(2, 0, dtype=torch.int64)
    told = torch.tensor([[0, 0, 0, 3, 4, 5], [-1] * 6])
    with torch.no_grad():
        both = module(user, item, told)
        plain = module(user, item)
        direct = module.score(module._last(told[:1]))
    torch.testing.assert_close(both[1], plain[1])
    there = both[0].isfinite()
    torch.testing.assert_close(both[0][there], direct[0][there])


def test_sasrec_learns_an_order():
    rows = [(user, (start + step) % 30, step) for user, start in enumerate(range(60)) for step in range(10)]
    frame = pd.DataFrame(rows, columns=["user", "item", "time"])
    data = RankingDataLoaders.from_df(frame, history=8, bs=16, negatives=30, split="leave-last-out")
    learn = ranking_learner(data, "collab/sasrec", model_config={"width": 16, "dropout": 0.0}, k=1, progress=False)
    learn.fit_one_cycle(15, 0.02)
    assert learn.history[-1]["hit_rate@1"] > 0.8


def test_sasrec_needs_histories(tastes):
    with pytest.raises(PlanError, match="history=50"):
        ranking_learner(tastes[False], "collab/sasrec")


@pytest.mark.parametrize(
    ("model", "config"),
    [
        ("collab/factors", {"factors": 0}),
        ("collab/lightgcn", {"layers": -1}),
        ("collab/sasrec", {"width": 9}),
        ("collab/sasrec", {"dropout": 1.0}),
    ],
    ids=str,
)
def test_impossible_options_are_refused(tastes, model: str, config):
    with pytest.raises(OptionError, match="="):
        learner(tastes, model, config=config)


def test_lr_find_leaves_the_model_alone(tastes):
    for model in MODELS:
        learn = learner(tastes, model)
        before = {name: value.clone() for name, value in learn.module.state_dict().items()}
        learn.lr_find(num_steps=5)
        for name, value in learn.module.state_dict().items():
            assert torch.equal(value, before[name]), name
