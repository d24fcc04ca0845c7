from __future__ import annotations

import logging
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from graftwork.block import CategoryBlock, RegressionBlock
from graftwork.datablock import DataBlock, DataLoaders
from graftwork.dataloader import ColumnLoader
from graftwork.engine import Engine, EngineRun
from graftwork.errors import DataError, OptionError
from graftwork.events import Callback, TrainState
from graftwork.learner import Learner
from graftwork.loss import CrossEntropy
from graftwork.model import ModelParts
from graftwork.objective import Objective

ROWS = [([float(i % 7), float(i % 3)], "ab"[i % 2]) for i in range(60)]


def data(**options: object) -> DataLoaders:
    recipe = DataBlock(blocks=(RegressionBlock(n_out=2), CategoryBlock()))
    made = recipe.dataloaders(ROWS, bs=16, cache="memory")
    train = made.train
    assert isinstance(train, ColumnLoader)
    weighed = ColumnLoader(train.columns, train.plan, bs=16, shuffle=True, seed=42, training=True, **options)
    return DataLoaders(train=weighed, valid=made.valid)


class SetBias(Engine):
    """Set the bias to the epoch's number."""

    required: ClassVar[bool] = False

    def __init__(self, reason: str | None = None) -> None:
        self.reason = reason
        self.runs: list[tuple[int, int]] = []

    def refuses(self, run: EngineRun) -> str | None:
        return self.reason

    def train_epoch(self, run: EngineRun) -> Tensor:
        self.runs.append((run.epoch, run.first_step))
        assert len(run.schedules["model"].lr) == 3 * len(run.loader)
        with torch.no_grad():
            run.module.bias.fill_(float(run.epoch))
        return torch.tensor([2.0, 1.0])


class Required(SetBias):
    """An engine without which nothing can be trained."""

    required = True


def learner(engine: Engine | None, callbacks: tuple[Callback, ...] = ()) -> Learner:
    parts = ModelParts(module=nn.Linear(2, 2), engine=engine)
    return Learner(data(), parts, progress=False, callbacks=callbacks)


def test_an_engine_trains_and_the_learner_does_the_rest() -> None:
    engine = SetBias()
    learn = learner(engine)
    learn.fit_one_cycle(3)
    steps = len(learn.data.train)
    assert engine.runs == [(0, 0), (1, steps), (2, 2 * steps)]
    assert learn.module.bias.tolist() == [2.0, 2.0]
    assert [line["train_loss"] for line in learn.history] == [1.5, 1.5, 1.5]
    assert learn.recorder.losses == [2.0, 1.0] * 3
    assert len(learn.recorder.learning_rates) == 6
    assert learn.history[-1]["valid_loss"] == learn.validate()["valid_loss"]


def test_where_an_engine_refuses_the_loop_trains_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    engine = SetBias("the moon is full")
    plain, refused = learner(None), learner(engine)
    refused.module.load_state_dict(plain.module.state_dict())
    with caplog.at_level(logging.WARNING, "graftwork"):
        refused.fit(3)
    plain.fit(3)
    assert "the moon is full" in caplog.text
    assert engine.runs == []
    assert refused.recorder.losses == plain.recorder.losses


class Listens(Callback):
    """Listen to batches."""

    def batch_end(self, state: TrainState) -> None:
        """Do nothing."""


def test_a_required_engine_cannot_be_replaced() -> None:
    with pytest.raises(OptionError, match="no CUDA here"):
        learner(Required("no CUDA here")).fit(3)
    with pytest.raises(OptionError, match="Listens listens to single batches"):
        learner(Required(), (Listens(),)).fit(3)
    with pytest.raises(OptionError, match="no learning rate to find"):
        learner(Required()).lr_find()


def test_a_loop_after_an_engine_reads_its_own_losses() -> None:
    engine = SetBias()
    learn = learner(engine)
    learn.fit(3)
    engine.reason = "enough"
    learn.fit(1)
    assert len(learn.recorder.losses) == 6 + len(learn.data.train)
    assert learn.history[-1]["train_loss"] != 1.5


def test_weights_make_the_training_loss_a_weighted_mean() -> None:
    weights = torch.arange(48.0)
    learn = Learner(data(weights=weights), nn.Linear(2, 2), progress=False)
    batch = next(learn.data.train.at(0))
    assert batch.weight is not None
    assert torch.equal(batch.weight, weights[batch.index])
    raw = learn.module(batch.x)
    losses = nn.functional.cross_entropy(raw, batch.y, reduction="none")
    expected = (losses * batch.weight).sum() / batch.weight.sum()
    torch.testing.assert_close(learn.objective.training(raw, batch.fields, batch.weight), expected)
    torch.testing.assert_close(learn.objective(raw, batch.fields), losses.mean())


def test_weight_zero_is_as_good_as_absent() -> None:
    objective = Objective(data().plan)
    raw, target = torch.randn(5, 2), torch.tensor([0, 1, 1, 0, 1])
    weight = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0])
    kept = weight > 0
    expected = objective(raw[kept], {"y": target[kept]})
    raw[~kept] = 1e6
    torch.testing.assert_close(objective.training(raw, {"y": target}, weight), expected)
    assert float(objective.training(raw, {"y": target}, torch.zeros(5))) == 0.0


@pytest.mark.parametrize("case", ["short", "negative", "nan", "zero"])
def test_impossible_weights_are_refused(case: str) -> None:
    numbers = {
        "short": torch.ones(3),
        "negative": -torch.ones(48),
        "nan": torch.full((48,), torch.nan),
        "zero": torch.zeros(48),
    }[case]
    with pytest.raises(DataError, match="weights"):
        data(weights=numbers)
    with pytest.raises(DataError, match="sampling"):
        data(sampling=numbers)


def test_sampling_draws_by_share_and_by_seed() -> None:
    shares = torch.zeros(48)
    shares[3], shares[7] = 3.0, 1.0
    train = data(sampling=shares).train
    orders = torch.cat([train.order(epoch) for epoch in range(200)])
    assert set(orders.tolist()) == {3, 7}
    assert 0.7 < float((orders == 3).float().mean()) < 0.8
    assert torch.equal(train.order(5), data(sampling=shares).train.order(5))
    assert not torch.equal(train.order(5), train.order(6))


def test_sampling_needs_shuffling() -> None:
    train = data().train
    assert isinstance(train, ColumnLoader)
    with pytest.raises(OptionError, match="shuffle"):
        ColumnLoader(train.columns, train.plan, sampling=torch.ones(48))


def members(compare: object, raw: Tensor, target: Tensor) -> Tensor:
    k = raw.shape[1]
    loss: Tensor = compare(raw.flatten(0, 1), target.repeat_interleave(k))  # type: ignore[operator]
    return loss


def test_a_model_may_use_the_loss_its_own_way_in_training() -> None:
    objective = Objective(data().plan)
    objective.train_loss = members
    raw, target, weight = torch.randn(4, 3, 2), torch.tensor([0, 1, 1, 0]), torch.tensor([1.0, 2.0, 0.0, 1.0])
    each = torch.stack([CrossEntropy().per_item(raw[:, i], target) for i in range(3)], 1)
    torch.testing.assert_close(objective.training(raw, {"y": target}), each.mean())
    expected = (each.mean(1) * weight).sum() / weight.sum()
    torch.testing.assert_close(objective.training(raw, {"y": target}, weight), expected)
