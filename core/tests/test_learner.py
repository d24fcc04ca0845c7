from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from graftwork.block import CategoryBlock, RegressionBlock
from graftwork.datablock import DataBlock, DataLoaders
from graftwork.errors import DataError, FreezeError, OptionError, TrainingError, UnknownName
from graftwork.events import Callback, TrainState
from graftwork.learner import Learner
from graftwork.model import ModelParts
from graftwork.split import RandomSplitter
from graftwork.testing.toy import Item, make_items, mlp, recipe

# Fused kernels for the CPU came with torch 2.4.
FUSED_ON_CPU = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 4)


def learner(data: DataLoaders, **options: Any) -> Learner:
    torch.manual_seed(0)
    options.setdefault("model", mlp())
    return Learner(data, progress=False, **options)


def parts() -> ModelParts:
    torch.manual_seed(0)
    body, head = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU()), nn.Linear(16, 3)
    return ModelParts(module=nn.Sequential(body, head), groups={"body": (body,), "head": (head,)})


def weights(learn: Learner) -> list[torch.Tensor]:
    return [t.clone() for t in learn.module.state_dict().values()]


def equal(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_it_learns(data: DataLoaders) -> None:
    learn = learner(data).fit_one_cycle(12, 0.02)
    assert learn.validate()["accuracy"] > 0.85
    losses = [line["train_loss"] for line in learn.history]
    assert losses[-1] < losses[0] / 2
    assert [line["epoch"] for line in learn.history] == list(range(1, 13))
    assert set(learn.history[0]) == {"epoch", "train_loss", "valid_loss", "accuracy", "seconds"}


def test_the_same_seed_gives_the_same_bits_and_another_does_not(items: list[Item]) -> None:
    def losses(seed: int) -> list[float]:
        data = recipe().dataloaders(items, bs=16, workers=0, seed=seed)
        model = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.3), nn.Linear(16, 3))
        torch.manual_seed(1)
        nn.init.normal_(model[0].weight)
        for name, p in model.named_parameters():
            torch.manual_seed(len(name))
            nn.init.normal_(p)
        torch.manual_seed(np.random.default_rng().integers(1 << 30).item())
        return Learner(data, model, seed=seed, progress=False).fit(2).recorder.losses

    assert losses(1) == losses(1)
    assert losses(1) != losses(2)


def test_training_leaves_the_global_generator_as_it_was(data: DataLoaders) -> None:
    learn = learner(data)
    state = torch.get_rng_state()
    learn.fit(1)
    assert torch.equal(torch.get_rng_state(), state)


def raw_losses(data: DataLoaders, module: nn.Module, steps: int, lr: float) -> list[float]:
    """Train as anybody would write it by hand."""
    decay = [p for p in module.parameters() if p.ndim > 1]
    rest = [p for p in module.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.99), eps=1e-5, fused=FUSED_ON_CPU)
    losses: list[float] = []
    module.train()
    for epoch in range(steps):
        for batch in data.train.at(epoch):
            loss = nn.functional.cross_entropy(module(batch.x), batch.y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    return losses


def test_the_loop_is_the_loop_one_writes_by_hand(data: DataLoaders) -> None:
    torch.manual_seed(3)
    module = mlp()
    by_hand = raw_losses(data, module, 5, 0.01)
    torch.manual_seed(3)
    learn = Learner(data, mlp(), progress=False).fit(5, 0.01)
    assert learn.recorder.losses == by_hand
    assert equal(list(module.state_dict().values()), list(learn.module.state_dict().values()))


def test_one_cycle_sets_the_rate_and_momentum_of_every_step(data: DataLoaders) -> None:
    seen: list[tuple[float, float]] = []

    class Watch(Callback):
        def backward_end(self, state: TrainState) -> None:
            group = state.optimizer.param_groups[-1]
            seen.append((group["lr"], group["betas"][0]))

    learner(data).fit_one_cycle(2, 1e-2, callbacks=[Watch()])
    assert len(seen) == 2 * len(data.train) == 20
    assert seen[0] == pytest.approx((4e-4, 0.95))
    assert seen[5] == pytest.approx((1e-2, 0.85))
    assert seen[-1] == pytest.approx((1.0936e-4, 0.94891), rel=1e-3)


def test_flat_cos_is_flat_and_then_falls(data: DataLoaders) -> None:
    rates = learner(data).fit_flat_cos(2, 0.01).recorder.learning_rates
    assert rates[:15] == pytest.approx([0.01] * 15)
    assert rates[-1] < 0.002


def test_fine_tune_trains_the_head_alone_and_then_all_at_geometric_rates(data: DataLoaders) -> None:
    learn = learner(data, model=parts())
    body = learn.parts.groups["body"][0]
    seen: list[tuple[bool, list[float]]] = []

    class Watch(Callback):
        def batch_end(self, state: TrainState) -> None:
            if state.phase == "train":
                lrs = {g["name"]: g["lr"] for g in state.optimizer.param_groups}
                seen.append((body[0].weight.requires_grad, list(lrs.values())))

    learn.fine_tune(2, 1e-2, callbacks=[Watch()])
    frozen = [lrs for learns, lrs in seen if not learns]
    unfrozen = [lrs for learns, lrs in seen if learns]
    assert len(frozen) == 10
    assert len(unfrozen) == 20
    assert max(lr for lrs in frozen for lr in lrs) == pytest.approx(1e-2, rel=0.03)
    assert max(lrs[-1] for lrs in unfrozen) == pytest.approx(5e-3)
    assert all(lrs[-1] / lrs[0] == pytest.approx(100) for lrs in unfrozen)
    assert [line["epoch"] for line in learn.history] == [1, 2, 3]


def test_frozen_weights_do_not_move(data: DataLoaders) -> None:
    learn = learner(data, model=parts())
    learn.freeze()
    linear = learn.parts.groups["body"][0][0]
    before = linear.weight.clone()
    learn.fit(1, 0.1)
    assert torch.equal(linear.weight, before)
    assert learn.groups["head"][0].grad is None
    learn.unfreeze()
    learn.fit(1, 0.1)
    assert not torch.equal(linear.weight, before)


def test_freezing_one_group_is_an_error_and_so_is_training_nothing(data: DataLoaders) -> None:
    learn = learner(data)
    with pytest.raises(FreezeError, match="would freeze nothing"):
        learn.freeze()
    learn.module.requires_grad_(False)
    with pytest.raises(FreezeError, match="nothing to train"):
        learn.fit(1)


def test_lr_find_leaves_no_trace(data: DataLoaders) -> None:
    def trained(*, look: bool) -> list[torch.Tensor]:
        learn = learner(data, model=parts())
        if look:
            state, before = torch.get_rng_state(), weights(learn)
            found = learn.lr_find(num_steps=40)
            assert torch.equal(torch.get_rng_state(), state)
            assert equal(weights(learn), before)
            assert learn.history == []
            assert learn.recorder.losses == []
            assert 1e-7 < found.valley < 10
        learn.fit(2, 0.01)
        return weights(learn)

    assert equal(trained(look=True), trained(look=False))


def test_lr_find_gives_data_suggestions_and_a_picture(data: DataLoaders, tmp_path: Path) -> None:
    found = learner(data).lr_find(num_steps=60)
    assert len(found.lrs) == len(found.losses) <= 60
    assert found.lrs[0] == pytest.approx(1e-7)
    assert all(a < b for a, b in zip(found.lrs, found.lrs[1:], strict=False))
    found.plot().savefig(tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").stat().st_size > 5000
    with pytest.raises(OptionError, match="start_lr=1"):
        learner(data).lr_find(start_lr=1, end_lr=0.1)


@pytest.mark.parametrize("verb", ["validate", "get_preds", "summary", "show_results", "predict"])
def test_looking_changes_nothing(data: DataLoaders, verb: str) -> None:
    learn = learner(data)
    learn.module.train()
    before, state = weights(learn), torch.get_rng_state()
    arguments = [[0.1, 0.2, 0.3, 0.4]] if verb == "predict" else []
    assert getattr(learn, verb)(*arguments) is not None
    assert equal(weights(learn), before)
    assert learn.module.training
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(m._forward_hooks for m in learn.module.modules())


def test_validate_is_the_mean_over_items_not_over_batches(items: list[Item]) -> None:
    one = recipe().dataloaders(items, bs=1000, workers=0)
    many = recipe().dataloaders(items, bs=7, workers=0)
    left, right = learner(one).validate(), learner(many).validate()
    assert left == pytest.approx(right, rel=1e-5)


def test_predictions_come_in_the_order_of_the_data(data: DataLoaders) -> None:
    learn = learner(data).fit(1)
    shuffled = learn.get_preds(data.train)
    ordered = learn.get_preds(data.train.in_order())
    assert torch.equal(shuffled.index, torch.arange(150))
    assert torch.allclose(shuffled.activated, ordered.activated, atol=1e-6)
    assert torch.equal(shuffled.targets, ordered.targets)  # type: ignore[arg-type]
    assert shuffled.losses is not None
    assert shuffled.losses.mean().item() == pytest.approx(learn.validate(data.train.in_order())["valid_loss"], rel=1e-4)


def test_predictions_without_labels_have_no_targets(data: DataLoaders) -> None:
    said = learner(data).get_preds(data.test_dl(make_items(5, seed=8)))
    assert said.targets is None
    assert said.losses is None
    assert said.activated.shape == (5, 3)


def test_predict_gives_the_label_and_named_probabilities(data: DataLoaders) -> None:
    learn = learner(data).fit_one_cycle(12, 0.02)
    said = learn.predict([0.0, 3.0, 0.0, 0.0])
    assert said.value == "bee"
    assert said.probabilities is not None
    assert list(said.probabilities) == ["ant", "bee", "cow"]
    assert sum(said.probabilities.values()) == pytest.approx(1, abs=1e-5)


class Poison(Callback):
    """Make a weight NaN after some steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def batch_end(self, state: TrainState) -> None:
        if state.phase == "train" and state.step == self.step:
            with torch.no_grad():
                next(state.model.parameters()).fill_(math.nan)


def test_a_loss_that_is_no_number_stops_training_and_says_when(data: DataLoaders) -> None:
    with pytest.raises(
        TrainingError, match=r"train loss became nan in epoch 2, .* step 1[3-9].*learning rate was 0.001"
    ):
        learner(data).fit(3, callbacks=[Poison(12)])


def test_stop_and_skip_step(data: DataLoaders) -> None:
    class Once(Callback):
        def backward_end(self, state: TrainState) -> None:
            state.skip_step()
            if state.step == 2:
                state.stop("seen enough")

    learn = learner(data)
    before = [p.clone() for p in learn.module.parameters()]
    learn.fit(5, callbacks=[Once()])
    assert len(learn.recorder.losses) == 3
    assert equal(list(learn.module.parameters()), before)


def test_skipped_steps_accumulate_gradients_to_those_of_the_big_batch(items: list[Item]) -> None:
    class EverySecond(Callback):
        def loss_end(self, state: TrainState) -> None:
            if state.phase == "train" and state.loss is not None:
                state.loss = state.loss / 2

        def backward_end(self, state: TrainState) -> None:
            if state.step % 2 == 0:
                state.skip_step()

    def after(bs: int, *callbacks: Callback) -> list[torch.Tensor]:
        data = recipe(splitter=RandomSplitter(0.2, seed=1)).dataloaders(items, bs=bs, workers=0)
        torch.manual_seed(0)
        model = nn.Linear(4, 3)
        Learner(data, model, optimizer="sgd", progress=False).fit(1, 0.1, callbacks=callbacks)
        return list(model.parameters())

    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(after(16, EverySecond()), after(32), strict=True))


def test_events_come_in_their_order_and_fit_end_also_after_an_error(data: DataLoaders) -> None:
    heard: list[str] = []

    def hear(name: str) -> Any:
        return lambda self, state: heard.append(f"{name}:{state.phase}" if "batch" in name or "phase" in name else name)

    events = ["fit_start", "epoch_start", "phase_start", "phase_end", "epoch_end", "fit_end", "error"]
    ear: Any = type("Ear", (Callback,), {name: hear(name) for name in events})
    learner(data).fit(1, callbacks=[ear()])
    assert heard == [
        "fit_start",
        "epoch_start",
        "phase_start:train",
        "phase_end:train",
        "phase_start:valid",
        "phase_end:valid",
        "epoch_end",
        "fit_end",
    ]
    heard.clear()
    with pytest.raises(TrainingError):
        learner(data).fit(1, callbacks=[ear(), Poison(2)])
    assert heard[-2:] == ["error", "fit_end"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"metrics": "acuracy"}, UnknownName, "accuracy"),
        ({"loss": "crossentropy"}, UnknownName, "cross_entropy"),
        ({"optimizer": "adamww"}, UnknownName, "adamw"),
        ({"model": "core/none"}, UnknownName, "none"),
        ({"model_config": {"a": 1}}, OptionError, "already built"),
        ({"loss": nn.functional.cross_entropy}, OptionError, "Loss"),
    ],
)
def test_unknown_names_are_errors_with_the_nearest(
    data: DataLoaders, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        learner(data, **options).fit(1)


def test_no_epochs_and_no_validation(data: DataLoaders, items: list[Item]) -> None:
    with pytest.raises(OptionError, match="epochs=0"):
        learner(data).fit(0)
    alone = recipe(splitter=lambda given: (range(len(given)), [])).dataloaders(items, bs=16, workers=0)
    learn = learner(alone).fit(1)
    assert "valid_loss" not in learn.history[0]
    with pytest.raises(DataError, match="nothing was held out"):
        learn.validate()


def test_several_targets_train_together() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.kind, self.size = nn.Linear(4, 16), nn.Linear(16, 3), nn.Linear(16, 1)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            h = self.body(x).relu()
            return self.kind(h), self.size(h)

    items = [(x, name, sum(x)) for x, name in make_items(200)]
    block = DataBlock(blocks=(RegressionBlock(4), CategoryBlock, RegressionBlock), n_inp=1)
    learn = Learner(block.dataloaders(items, bs=16, workers=0), Two(), progress=False).fit_one_cycle(15, 0.02)
    last = learn.history[-1]
    assert last["y1_accuracy"] > 0.8
    assert last["y2_rmse"] < 0.5
    said = learn.predict([3.0, 0.0, 0.0, 0.0])
    assert said.value["y1"] == "ant"
    assert said.value["y2"] == pytest.approx(3, abs=1)


def test_summary_counts_what_learns(data: DataLoaders) -> None:
    learn = learner(data, model=parts())
    learn.freeze()
    text = learn.summary()
    assert "163 parameters, 83 of them learn" in text
    assert "16×3" in text
    assert "cpu, fp32" in text


def test_bf16_trains_about_as_well(data: DataLoaders) -> None:
    from graftwork.runtime import Runtime

    learn = learner(data, runtime=Runtime(precision="bf16", device="cpu")).fit_one_cycle(12, 0.02)
    assert learn.validate()["accuracy"] > 0.8


def test_export_needs_a_name(data: DataLoaders, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="given by its name"):
        learner(data).export(tmp_path / "m.graft")


def test_progress_prints_a_line_per_epoch(data: DataLoaders, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    Learner(data, mlp()).fit(2)
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0].split() == ["epoch", "train_loss", "valid_loss", "accuracy", "time"]
    assert [line.split()[0] for line in lines[1:]] == ["1", "2"]
