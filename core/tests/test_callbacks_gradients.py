from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from graftwork.callbacks.gradients import GradientAccumulation, GradientClip
from graftwork.callbacks.stopping import TimeLimit
from graftwork.datablock import DataLoaders
from graftwork.dataloader import ColumnLoader
from graftwork.errors import OptionError
from graftwork.events import Callback, TrainState
from graftwork.learner import Learner
from graftwork.split import RandomSplitter
from graftwork.testing.toy import make_items, recipe


def data(count: int, bs: int) -> DataLoaders:
    block = recipe(splitter=RandomSplitter(0.2, seed=1))
    return block.dataloaders(make_items(count), bs=bs, workers=0, cache="memory")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))


def train(loaders: DataLoaders, *callbacks: Callback, epochs: int = 1, **options: Any) -> Learner:
    options = {"optimizer": "sgd", **options}
    return Learner(loaders, network(), progress=False, **options).fit(epochs, 0.1, callbacks=callbacks)


def assert_close(left: Learner, right: Learner, atol: float = 1e-6) -> None:
    for a, b in zip(left.module.parameters(), right.module.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=atol), (a - b).detach().abs().max()


class Steps(Callback):
    """Count optimizer steps as they happen."""

    order = -2000

    def __init__(self) -> None:
        self.at: list[int] = []
        self.last = 0

    def batch_end(self, state: TrainState) -> None:
        if state.phase == "train" and state.updates != self.last:
            self.at.append(state.step)
            self.last = state.updates

    def phase_end(self, state: TrainState) -> None:
        if state.updates != self.last:
            self.at.append(-state.step)
            self.last = state.updates


@pytest.mark.parametrize(("count", "epochs"), [(320, 3), (400, 2), (263, 2)], ids=["even", "partial-group", "uneven"])
def test_four_batches_of_16_are_one_of_64(count: int, epochs: int) -> None:
    # 256, 320 and 211 items to train on: 64s that are full; a last one of 64; a last one of 19, so 16 and 3.
    big = train(data(count, 64), epochs=epochs)
    steps = Steps()
    small = train(data(count, 16), GradientAccumulation(4), steps, epochs=epochs)
    assert len(steps.at) == len(big.recorder.losses)
    assert_close(small, big)
    assert not all(torch.allclose(a, b) for a, b in zip(small.module.parameters(), network().parameters(), strict=True))


def test_it_is_equal_with_adamw_and_losses_are_those_of_the_small_batches() -> None:
    big, small = (
        train(data(320, 64), optimizer="adamw"),
        train(data(320, 16), GradientAccumulation(4), optimizer="adamw"),
    )
    assert_close(small, big)
    means = torch.tensor(small.recorder.losses).view(-1, 4).mean(1)
    assert torch.allclose(means, torch.tensor(big.recorder.losses), atol=1e-6)


def weighted(bs: int) -> DataLoaders:
    loaders = data(100, bs)
    train = loaders.train
    assert isinstance(train, ColumnLoader)
    weights = torch.rand(80, generator=torch.Generator().manual_seed(4))
    weights[torch.arange(0, 80, 3)] = 0
    train.weights = weights
    train.shuffle = False
    weights[16:32] = 0  # a whole small batch weighs nothing, and so does the first of a group
    weights[64:72] = 0
    return loaders


def test_weights_of_items_count_over_all_batches_of_a_step() -> None:
    assert_close(train(weighted(8), GradientAccumulation(8)), train(weighted(64)))


def test_without_callbacks_the_two_differ() -> None:
    with pytest.raises(AssertionError):
        assert_close(train(data(320, 16)), train(data(320, 64)))


def test_a_stop_inside_a_group_is_a_step_of_what_is_there() -> None:
    class StopAt(Callback):
        def batch_end(self, state: TrainState) -> None:
            if state.step == 6 and state.phase == "train":
                state.stop("enough")

    steps = Steps()
    stopped = train(data(320, 16), GradientAccumulation(4), StopAt(), steps)
    assert steps.at == [4, -6]
    assert len(stopped.recorder.losses) == 6
    assert all(p.grad is None for p in stopped.module.parameters())


def test_a_stop_before_the_step_needs_no_more() -> None:
    class StopAt(Callback):
        def loss_end(self, state: TrainState) -> None:
            if state.step == 5:
                state.stop("enough")

    steps = Steps()
    train(data(320, 16), GradientAccumulation(4), StopAt(), steps)
    assert steps.at == [4, 6]


def test_an_error_leaves_no_gradients_for_the_next_fit() -> None:
    class Fail(Callback):
        def backward_end(self, state: TrainState) -> None:
            if state.step == 5:
                raise KeyError("broken")

    learn = Learner(data(320, 16), network(), progress=False)
    with pytest.raises(KeyError):
        learn.fit(1, callbacks=[GradientAccumulation(4), Fail()])
    assert all(p.grad is None for p in learn.module.parameters())


def test_gradients_are_clipped_to_a_norm() -> None:
    seen: list[float] = []

    class Watch(Callback):
        order = -600

        def backward_end(self, state: TrainState) -> None:
            gradients = [p.grad.flatten() for p in state.model.parameters() if p.grad is not None]
            seen.append(float(torch.cat(gradients).norm()))

    clip = GradientClip(0.01)
    train(data(100, 16), clip, Watch())
    assert seen == pytest.approx([0.01] * 5, rel=1e-3)
    assert clip.norm is not None
    assert float(clip.norm) > 0.01
    seen.clear()
    train(data(100, 16), GradientClip(1e6), Watch())
    assert min(seen) > 0.01


def test_gradients_are_clipped_by_value() -> None:
    largest: list[float] = []

    class Watch(Callback):
        order = -600

        def backward_end(self, state: TrainState) -> None:
            largest.append(max(float(p.grad.abs().max()) for p in state.model.parameters() if p.grad is not None))

    train(data(100, 16), GradientClip(None, max_value=0.003), Watch())
    assert largest == pytest.approx([0.003] * 5)


def test_the_sum_of_a_group_is_clipped_once_as_the_big_batch_is() -> None:
    big = train(data(400, 64), GradientClip(0.05), epochs=2)
    small = train(data(400, 16), GradientClip(0.05), GradientAccumulation(4), epochs=2)
    assert_close(small, big)
    with pytest.raises(AssertionError):
        assert_close(small, train(data(400, 64), epochs=2))


def test_the_step_that_is_owed_is_clipped_too() -> None:
    clip = GradientClip(1e-4)
    steps = Steps()
    ticks = iter(range(100))
    limit = TimeLimit(seconds=3, clock=lambda: float(next(ticks)))
    learn = train(data(320, 16), clip, GradientAccumulation(4), limit, steps)
    assert steps.at == [-3]
    moved = [(a - b).detach().flatten() for a, b in zip(learn.module.parameters(), network().parameters(), strict=True)]
    # One step of SGD at rate 0.1; the decay of weights is 1e-3 of them.
    decayed = 1e-3 * sum(float(p.detach().norm()) for p in network().parameters())
    assert float(torch.cat(moved).norm()) < 1e-5 + decayed


def test_scaled_gradients_are_unscaled_once_before_they_are_clipped() -> None:
    module = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(module.parameters(), lr=1)
    state = TrainState(model=module, optimizer=optimizer, num_epochs=1, num_batches=1)
    state.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    state.scaler.scale(module(torch.ones(1, 2)).sum()).backward()
    first, second = GradientClip(None, max_value=2.0), GradientClip(0.5)
    for clip in (first, second):
        clip.fit_start(state)
        clip.backward_end(state)
    assert second.norm is not None
    assert float(second.norm) == pytest.approx(3**0.5)  # three ones, not three of 1024 nor 1/1024
    assert float(module.weight.grad.norm()) < 0.5  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: GradientAccumulation(0),
        lambda: GradientClip(0),
        lambda: GradientClip(None),
        lambda: GradientClip(1, max_value=-1),
    ],
    ids=["n_acc", "max-norm", "neither", "max-value"],
)
def test_impossible_options_are_refused(wrong: Any) -> None:
    with pytest.raises(OptionError):
        wrong()
