"""The engine as a learner uses it: beside the loop, refusing what it cannot do, and handing over to the loop."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from graftwork.api import L1, Callback, ColumnLoader, DataLoaders, Learner, Runtime
from graftwork_collab import CollabDataLoaders, collab_learner
from graftwork_collab.engine import FactorEngine

CPU = Runtime(device="cpu")


@pytest.fixture(scope="module")
def data(ratings) -> DataLoaders:
    return CollabDataLoaders.from_df(ratings, bs=32, seed=3)


def learner(data, engine="auto", **options) -> Learner:
    return collab_learner(data, options.pop("n_factors", 8), engine=engine, runtime=CPU, progress=False, **options)


def weights(learn: Learner) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in learn.module.parameters()])


class TestBesideTheLoop:
    """Either way gives the same model."""

    @pytest.mark.parametrize("options", [{}, {"wd": 0.0}, {"y_range": None}, {"n_factors": 40}], ids=str)
    def test_weights_losses_and_metrics_agree(self, data, options):
        both = [learner(data, engine, **options).fit_one_cycle(3, 0.02) for engine in ("torch", "numba")]
        loop, fast = (weights(learn) for learn in both)
        assert float((loop - fast).abs().max()) < 0.03 * float(loop.abs().max())
        assert float((loop - fast).abs().mean()) < 0.003 * float(loop.abs().mean())
        for slow_line, fast_line in zip(both[0].history, both[1].history, strict=True):
            assert fast_line["rmse"] == pytest.approx(slow_line["rmse"], rel=2e-3)
            assert fast_line["train_loss"] == pytest.approx(slow_line["train_loss"], rel=2e-2)

    @pytest.mark.parametrize("verb", ["fit", "fit_flat_cos"])
    def test_other_schedules(self, data, verb):
        both = [getattr(learner(data, engine), verb)(2, 0.01) for engine in ("torch", "numba")]
        loop, fast = (weights(learn) for learn in both)
        assert float((loop - fast).abs().mean()) < 0.003 * float(loop.abs().mean())

    def test_it_learns_what_there_is_to_learn(self, data):
        learn = learner(data).fit_one_cycle(12, 0.02)
        assert isinstance(learn.parts.engine, FactorEngine)
        ratings = data.train.columns["rating"]
        assert learn.history[-1]["rmse"] < 0.75 * float(ratings.std())
        assert len(learn.recorder.losses) == 12 * len(data.train)

    def test_the_same_seed_gives_the_same_bits_and_another_one_others(self, data):
        one, same, other = (learner(data, seed=seed).fit_one_cycle(2) for seed in (1, 1, 2))
        assert torch.equal(weights(one), weights(same))
        assert not torch.equal(weights(one), weights(other))

    def test_the_optimizers_state_is_the_loops(self, data):
        states = []
        for engine in ("torch", "numba"):
            keep = _KeepOptimizer()
            learn = learner(data, engine).fit_one_cycle(2, 0.02, callbacks=[keep])
            names = {p: name for name, p in learn.module.named_parameters()}
            states.append({names[p]: state for p, state in keep.optimizer.state.items()})
        loop, fast = states
        assert loop.keys() == fast.keys()
        for name, state in loop.items():
            assert float(fast[name]["step"]) == float(state["step"]) == 2 * len(data.train)
            for moment in ("exp_avg", "exp_avg_sq"):
                scale = float(state[moment].abs().max())
                assert float((fast[name][moment] - state[moment]).abs().max()) < 0.05 * scale

    def test_order_and_weights_are_read_from_the_loader(self, data):
        """A loader that draws only one rating trains only that one."""
        columns = {name: column[:40] for name, column in data.train.columns.items()}
        sampling = torch.zeros(40)
        sampling[5] = 1.0
        loader = ColumnLoader(columns, data.plan, bs=8, shuffle=True, training=True, sampling=sampling)
        learn = learner(DataLoaders(train=loader), wd=0.0)
        before = learn.module.user_bias.weight.detach().clone()
        learn.fit(1)
        moved = (learn.module.user_bias.weight.detach() != before).flatten()
        moved[0] = False
        assert moved.nonzero().flatten().tolist() == [int(columns["user"][5])]


class _KeepOptimizer(Callback):
    def fit_end(self, state):
        self.optimizer = state.optimizer


class _EveryBatch(Callback):
    def batch_end(self, state):
        pass


class _EveryEpoch(Callback):
    def epoch_end(self, state):
        self.step = state.step


def weighted(data):
    columns = data.train.columns
    weights = torch.ones(len(columns["user"]))
    return DataLoaders(train=ColumnLoader(columns, data.plan, bs=32, shuffle=True, training=True, weights=weights))


REFUSED = [
    ("the loss is L1, not MSE", {"loss": L1()}, {}),
    ("the optimizer is SGD, not AdamW", {"optimizer": "sgd"}, {}),
    ("the callback _EveryBatch listens to single batches", {}, {"callbacks": [_EveryBatch()]}),
    ("leaves nothing of the weights", {}, {"wd": 200.0}),
]


class TestRefusals:
    """What the kernel cannot do, the loop does, and it is said."""

    @pytest.mark.parametrize(("words", "made", "fitted"), REFUSED, ids=[words for words, *_ in REFUSED])
    def test_the_loop_trains_and_says_why(self, data, caplog, words, made, fitted):
        learn = learner(data, "numba", **made)
        with caplog.at_level(logging.WARNING, logger="graftwork"):
            learn.fit(1, 0.01, **fitted)
        (said,) = [record.getMessage() for record in caplog.records]
        assert "FactorEngine does not train here" in said
        assert words in said
        assert len(learn.history) == 1

    def test_frozen_weights_and_weighted_ratings(self, data, caplog):
        learn = learner(data, "numba")
        learn.module.item_bias.requires_grad_(False)
        learn.fit(1)
        learner(weighted(data), "numba").fit(1)
        said = [record.getMessage() for record in caplog.records]
        assert "item_bias.weight is frozen" in said[0]
        assert "the ratings are weighted" in said[1]

    def test_a_momentum_that_never_rests(self, data, caplog):
        learner(data, "numba").fit_one_cycle(1, moms=(0.999, 0.9, 0.999))
        assert "not below the root of beta2" in caplog.text

    @pytest.mark.parametrize("options", [{"loss": L1()}, {"optimizer": "sgd"}], ids=["loss", "optimizer"])
    def test_auto_goes_to_the_loop_without_a_word(self, data, caplog, options):
        learn = learner(data, **options)
        learn.fit(1, 0.01)
        assert learn.parts.engine is None
        assert not caplog.records

    def test_epochs_may_be_listened_to(self, data, caplog):
        listener = _EveryEpoch()
        learner(data).fit(2, callbacks=[listener])
        assert listener.step == 2 * len(data.train)
        assert not caplog.records

    def test_a_loss_that_is_no_number_ends_the_training(self, data):
        from graftwork.api import TrainingError

        columns = dict(data.train.columns) | {"rating": data.train.columns["rating"].clone()}
        columns["rating"][3] = float("nan")
        loader = ColumnLoader(columns, data.plan, bs=32, shuffle=True, training=True)
        with pytest.raises(TrainingError):
            learner(DataLoaders(train=loader), y_range=(0, 5.5)).fit(1)


@pytest.mark.slow
def test_quality_on_movielens(real_movielens):
    data = CollabDataLoaders.from_csv(real_movielens / "ratings.csv")
    learn = collab_learner(data, y_range=(0, 5.5), runtime=CPU, progress=False).fit_one_cycle(5)
    # One split; the mean over seeds is measured by bench/cases/ratings.py.
    assert learn.history[-1]["rmse"] < 0.855
    assert np.isfinite(learn.recorder.losses).all()
