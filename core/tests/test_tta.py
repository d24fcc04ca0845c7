"""Test-time augmentation, and going on with other data: fastai's rule, the seeds, what cannot be averaged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from graftwork.block import Block, CategoryBlock, ClassIndexBlock, RegressionBlock
from graftwork.datablock import DataLoaders
from graftwork.errors import OptionError
from graftwork.learner import Learner
from graftwork.prediction import Predictions
from graftwork.testing.toy import Item, make_items, mlp, recipe
from graftwork.transform import Bound, On, Transform


@dataclass(frozen=True)
class _Shaken(Transform):
    random = True
    size: float = 1.0

    def accepts(self, block: Block) -> bool:
        return not isinstance(block, ClassIndexBlock | CategoryBlock)

    def out_block(self, block: Block) -> Block:
        return block


class Shake(_Shaken):
    """Add noise to an item."""

    id: ClassVar[str] = "test/shake"

    def draw(self, rng: Any, sample: Any) -> Any:
        return rng.normal(size=4) * self.size

    def bind(self, block: Block) -> Bound:
        return Bound(lambda x, noise: x if noise is None else (np.asarray(x) + noise).tolist())


class ShakeBatch(_Shaken):
    """Add noise to a batch."""

    id: ClassVar[str] = "test/shake-batch"
    stage = "batch"

    def draw(self, rng: Any, sample: Any) -> Any:
        return torch.randn(len(sample["x"]), 4, generator=rng, device=rng.device) * self.size

    def bind(self, block: Block) -> Bound:
        return Bound(lambda x, noise: x if noise is None else x + noise)


def shaken(items: list[Item], *, seed: int = 3, workers: int = 0, **changes: Any) -> DataLoaders:
    changes = changes or {"item_tfms": Shake(), "batch_tfms": ShakeBatch(0.1)}
    return recipe(**changes).dataloaders(items, bs=8, seed=seed, workers=workers)


def learner(data: DataLoaders, seed: int = 42) -> Learner:
    torch.manual_seed(0)
    return Learner(data, mlp(), progress=False, seed=seed)


def passes(learn: Learner, n: int) -> list[Predictions]:
    return [learn.tta(n=k, beta=0.0) for k in range(1, n + 1)]


def test_it_is_the_mean_of_passes_with_the_plain_prediction_at_a_quarter(items: list[Item]) -> None:
    learn = learner(shaken(items)).fit(2)
    plain = learn.get_preds().activated
    means = [said.activated for said in passes(learn, 4)]
    single = [means[0], *(k * means[k - 1] - (k - 1) * means[k - 2] for k in (2, 3, 4))]
    assert all(float((one - plain).abs().max()) > 1e-3 for one in single), "a pass was not augmented"
    assert float((single[0] - single[1]).abs().max()) > 1e-3, "two passes drew the same"
    said = learn.tta()
    assert torch.allclose(said.activated, 0.75 * torch.stack(single).mean(0) + 0.25 * plain, atol=1e-5)
    assert torch.allclose(said.activated.sum(1), torch.ones(len(said)), atol=1e-5)
    assert said.losses is None
    assert said.targets is not None
    largest = torch.stack([*single, plain]).amax(0)
    assert torch.allclose(learn.tta(use_max=True).activated, largest, atol=1e-4)
    assert torch.equal(learn.tta(beta=1.0).activated, plain)


def test_the_draws_depend_on_the_seeds_alone(items: list[Item]) -> None:
    learn = learner(shaken(items))
    first = learn.tta().activated
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert torch.equal(learn.tta().activated, first)
    assert torch.equal(torch.get_rng_state(), state)
    assert learn.module.training
    threaded = learner(shaken(items, workers=2))
    assert torch.equal(threaded.tta().activated, first)
    assert not torch.equal(learner(shaken(items, seed=4)).tta().activated, first)
    assert not torch.equal(learner(shaken(items), seed=1).tta().activated, first)


def test_a_lone_last_item_is_predicted_too() -> None:
    items = make_items(41)
    learn = learner(shaken(items))
    loader = learn.data.test_dl(items)
    assert len(learn.tta(loader)) == 41


def test_training_is_the_same_with_and_without(items: list[Item]) -> None:
    with_it, without = learner(shaken(items)), learner(shaken(items))
    with_it.tta()
    assert with_it.fit(1).recorder.losses == without.fit(1).recorder.losses


def test_nothing_random_is_an_error(data: DataLoaders) -> None:
    with pytest.raises(OptionError, match=r"this data has none.*get_preds"):
        learner(data).tta()


def test_a_target_that_moves_along_is_an_error(items: list[Item]) -> None:
    pairs = [(numbers, numbers) for numbers, _ in items]
    blocks = (RegressionBlock(4), RegressionBlock(4))
    moving = recipe(blocks=blocks, batch_tfms=ShakeBatch()).dataloaders(pairs, bs=8, workers=0)
    with pytest.raises(OptionError, match=r"changes the target 'y' along"):
        Learner(moving, nn.Linear(4, 4), progress=False).tta()
    still = recipe(blocks=blocks, batch_tfms=On("x", ShakeBatch())).dataloaders(pairs, bs=8, workers=0)
    learn = Learner(still, nn.Linear(4, 4), progress=False)
    assert learn.tta().activated.shape == (50, 4)


@pytest.mark.parametrize("options", [{"n": 0}, {"beta": 1.5}, {"beta": -0.1}])
def test_impossible_options_are_refused(items: list[Item], options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="tta"):
        learner(shaken(items)).tta(**options)


def test_other_data_goes_on_with_weights_history_and_what_is_frozen(items: list[Item]) -> None:
    learn = learner(recipe().dataloaders(items, bs=16, workers=0)).fit(1)
    before = {name: value.clone() for name, value in learn.module.state_dict().items()}
    larger = recipe().dataloaders(make_items(300), bs=32, workers=0)
    assert learn.set_data(larger) is learn
    assert all(torch.equal(value, before[name]) for name, value in learn.module.state_dict().items())
    learn.fit(2)
    assert [line["epoch"] for line in learn.history] == [1, 2, 3]
    assert len(learn.get_preds()) == 75


def test_other_kinds_of_data_are_refused(items: list[Item]) -> None:
    learn = learner(recipe().dataloaders(items, bs=16, workers=0))
    two = [item for item in items if item[1] != "cow"]
    with pytest.raises(OptionError, match=r"'y' is .*'bee'.*this model was made for .*'cow'"):
        learn.set_data(recipe().dataloaders(two, bs=16, workers=0))
    named = recipe(blocks={"numbers": RegressionBlock(4), "y": CategoryBlock}).dataloaders(items, bs=16, workers=0)
    with pytest.raises(OptionError, match="fields"):
        learn.set_data(named)
