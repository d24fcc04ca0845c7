from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from graftwork.block import CategoryBlock, RegressionBlock
from graftwork.callbacks.mixing import CutMix, MixUp, PairMixing
from graftwork.datablock import DataBlock, DataLoaders
from graftwork.dataloader import ColumnLoader
from graftwork.errors import DataError, OptionError, UnknownName
from graftwork.events import Callback, TrainState
from graftwork.learner import Learner
from graftwork.split import RandomSplitter
from graftwork.testing.toy import make_items, recipe

Seen = list[dict[str, torch.Tensor]]


class Watch(Callback):
    """Keep what goes into the model, what comes out, and the loss."""

    order = 950  # hears a batch's start after the mixing, and its loss before it

    def __init__(self) -> None:
        self.seen: Seen = []
        self.losses: list[float] = []

    def batch_start(self, state: TrainState) -> None:
        assert state.batch is not None
        self.seen.append({**state.batch.fields, "index": state.batch.index})

    def backward_end(self, state: TrainState) -> None:
        assert state.loss is not None
        assert state.batch is not None
        self.losses.append(float(state.loss.detach()))
        self.seen[-1]["output"] = state.output.detach()


def data(**options: Any) -> DataLoaders:
    return recipe().dataloaders(make_items(), bs=16, workers=0, cache="memory", **options)


def train(loaders: DataLoaders, *callbacks: Callback, epochs: int = 1) -> Learner:
    torch.manual_seed(0)
    return Learner(loaders, nn.Linear(4, 3), progress=False).fit(epochs, callbacks=callbacks)


def originals(loaders: DataLoaders, index: torch.Tensor) -> torch.Tensor:
    assert isinstance(loaders.train, ColumnLoader)
    return loaders.train.columns["x"][index]


def test_mixup_blends_inputs_and_losses_in_one_proportion() -> None:
    loaders, watch, mix = data(), Watch(), MixUp(1.0)
    train(loaders, mix, watch)
    for seen, loss in zip(watch.seen, watch.losses, strict=True):
        own = originals(loaders, seen["index"])
        fits = [d for d in range(1, len(own)) if _on_line(seen["x"], own, own.roll(d, 0))]
        assert len(fits) == 1
        other = own.roll(fits[0], 0)
        share = float(((seen["x"] - other) * (own - other)).sum() / (own - other).square().sum())
        assert 0 <= share <= 1
        assert torch.allclose(seen["x"], share * own + (1 - share) * other, atol=1e-5)
        entropy = nn.functional.cross_entropy
        ours, theirs = entropy(seen["output"], seen["y"]), entropy(seen["output"], seen["y"].roll(fits[0], 0))
        assert loss == pytest.approx(float(share * ours + (1 - share) * theirs), rel=1e-4)


def _on_line(mixed: torch.Tensor, own: torch.Tensor, other: torch.Tensor) -> bool:
    step = own - other
    share = ((mixed - other) * step).sum() / step.square().sum()
    return torch.allclose(mixed, other + share * step, atol=1e-4)


def test_draws_are_of_the_seed_the_epoch_and_the_batch() -> None:
    def inputs(seed: int) -> torch.Tensor:
        watch = Watch()
        train(data(), MixUp(seed=seed), watch, epochs=2)
        return torch.cat([seen["x"] for seen in watch.seen])

    assert torch.equal(inputs(1), inputs(1))
    assert not torch.allclose(inputs(1), inputs(2))


def test_validation_and_the_data_themselves_are_not_mixed() -> None:
    loaders = data()
    assert isinstance(loaders.train, ColumnLoader)
    before = loaders.train.columns["x"].clone()
    learn = train(loaders, MixUp())
    assert torch.equal(loaders.train.columns["x"], before)
    assert learn.history[-1]["valid_loss"] == pytest.approx(learn.validate()["valid_loss"])


def test_a_share_of_batches_is_mixed() -> None:
    loaders, watch = data(), Watch()
    train(loaders, MixUp(p=0.5), watch, epochs=4)
    plain = [torch.equal(seen["x"], originals(loaders, seen["index"])) for seen in watch.seen]
    assert 8 <= sum(plain) <= 32


def test_weights_and_the_models_own_loss_are_mixed_as_any() -> None:
    loaders = data()
    assert isinstance(loaders.train, ColumnLoader)
    loaders.train.weights = torch.ones(150)
    ones = train(loaders, MixUp()).recorder.losses
    assert ones == pytest.approx(train(data(), MixUp()).recorder.losses, rel=1e-4)
    loaders.train.weights[:75] = 0
    assert train(loaders, MixUp()).recorder.losses != pytest.approx(ones, rel=1e-4)


class Net(nn.Module):
    """Take any number of inputs."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_in, n_out)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.linear(torch.cat([x.flatten(1).float() for x in inputs], 1))
        return out


def pictures() -> DataLoaders:
    items = make_items(64)
    plan = recipe().dataloaders(items, bs=16, workers=0).plan
    codes = torch.arange(64) % 3
    x = torch.arange(64.0).view(64, 1, 1, 1).expand(64, 2, 8, 6).clone()
    return DataLoaders(train=ColumnLoader({"x": x, "y": codes}, plan, bs=16, training=True, shuffle=True))


def test_cutmix_puts_a_box_of_one_into_the_other_and_the_loss_is_by_area() -> None:
    watch = Watch()
    torch.manual_seed(0)
    Learner(pictures(), Net(96, 3), progress=False).fit(3, callbacks=[CutMix(), watch])
    for seen, loss in zip(watch.seen, watch.losses, strict=True):
        own = seen["index"].float().view(-1, 1, 1, 1)
        cut = (seen["x"] != own).float()
        area = cut.mean(dim=(1, 2, 3))
        assert torch.allclose(area, area[0])
        assert torch.equal(cut[0, 0], cut[-1, 1])
        rows, cols = cut[0, 0].amax(1), cut[0, 0].amax(0)
        assert int(rows.sum() * cols.sum()) == int(cut[0, 0].sum())  # it is a box
        entropy = nn.functional.cross_entropy
        partners = [seen["y"].roll(d, 0) for d in range(1, 16) if float(area[0]) == 0 or _holds(seen["x"], own, cut, d)]
        losses = [
            float((1 - area[0]) * entropy(seen["output"], seen["y"]) + area[0] * entropy(seen["output"], other))
            for other in partners
        ]
        assert any(loss == pytest.approx(mixed, rel=1e-3) for mixed in losses)
    assert any(float((seen["x"] != seen["index"].float().view(-1, 1, 1, 1)).float().mean()) > 0 for seen in watch.seen)


def _holds(mixed: torch.Tensor, own: torch.Tensor, cut: torch.Tensor, distance: int) -> bool:
    return bool((mixed == torch.where(cut > 0, own.roll(distance, 0).expand_as(mixed), own.expand_as(mixed))).all())


def test_codes_cannot_be_mixed_and_flat_inputs_cannot_be_cut() -> None:
    loaders = data()
    with pytest.raises(DataError, match=r"CutMix cuts inputs \(B, C, …\).*\{'x': \(16, 4\)\}"):
        train(loaders, CutMix())
    assert isinstance(loaders.train, ColumnLoader)
    loaders.train.columns["x"] = loaders.train.columns["x"].long()
    with pytest.raises(DataError, match=r"MixUp mixes inputs of floating-point numbers.*torch\.int64"):
        train(loaders, MixUp())
    with pytest.raises(UnknownName, match="input field to mix 'z'"):
        train(data(), MixUp(fields=["z"]))


def test_a_batch_of_one_is_left_alone() -> None:
    watch = Watch()
    loaders = recipe().dataloaders(make_items(20), bs=1, workers=0, cache="memory")
    train(loaders, MixUp(), watch)
    assert all(torch.equal(seen["x"], originals(loaders, seen["index"])) for seen in watch.seen)


@pytest.mark.parametrize("kind", [MixUp, CutMix])
@pytest.mark.parametrize("options", [{"alpha": 0}, {"p": 0}, {"p": 1.5}], ids=["alpha", "never", "too-often"])
def test_impossible_options_are_refused(kind: type[PairMixing], options: dict[str, float]) -> None:
    with pytest.raises(OptionError, match="alpha="):
        kind(**options)  # type: ignore[arg-type]


def test_several_inputs_are_mixed_alike_and_some_can_be_named() -> None:
    block = DataBlock(
        blocks={"a": RegressionBlock(2), "b": RegressionBlock(2), "y": CategoryBlock()},
        n_inp=2,
        getters={"a": _first, "b": _second, "y": _label},
        splitter=RandomSplitter(0.25, seed=1),
    )
    for fields, moved in ((None, {"a", "b"}), (["b"], {"b"})):
        loaders, watch = block.dataloaders(make_items(), bs=16, workers=0, cache="memory"), Watch()
        torch.manual_seed(0)
        Learner(loaders, Net(4, 3), progress=False).fit(1, callbacks=[MixUp(fields=fields), watch])
        assert isinstance(loaders.train, ColumnLoader)
        columns = loaders.train.columns
        seen = watch.seen[0]
        assert {n for n in ("a", "b") if not torch.equal(seen[n], columns[n][seen["index"]])} == moved


def _first(item: Any) -> list[float]:
    return list(item[0][:2])


def _second(item: Any) -> list[float]:
    return list(item[0][2:])


def _label(item: Any) -> str:
    return str(item[1])
