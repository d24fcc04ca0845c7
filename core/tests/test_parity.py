"""Fifty steps of a Learner are fifty steps of a loop written by hand: the same losses and weights, to the bit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from graftwork.datablock import DataLoaders
from graftwork.learner import Learner
from graftwork.runtime import Precision, Runtime
from graftwork.schedule import one_cycle
from graftwork.testing.toy import make_items, mlp, recipe

STEPS = 50
FUSED_ON_CPU = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 4)
Setter = Callable[[torch.optim.Optimizer, int], None]


@pytest.fixture
def data() -> DataLoaders:
    return recipe().dataloaders(make_items(STEPS * 8 * 4 // 3), bs=8, workers=2, seed=5)


def network() -> nn.Sequential:
    torch.manual_seed(3)
    model = mlp()
    assert isinstance(model, nn.Sequential)
    return model


def groups(model: nn.Sequential) -> list[dict[str, object]]:
    """Decay the weights of linear layers, and nothing else."""
    decayed = [layer.weight for layer in model if isinstance(layer, nn.Linear)]
    others = [p for p in model.parameters() if all(p is not d for d in decayed)]
    return [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]


def by_hand(data: DataLoaders, set_hyper: Setter, autocast: bool) -> tuple[list[float], dict[str, Tensor]]:
    model, losses = network().train(), list[float]()
    optimizer = torch.optim.AdamW(groups(model), lr=1e-2, betas=(0.9, 0.99), eps=1e-5, fused=FUSED_ON_CPU)
    for step, batch in enumerate(data.train.at(0)):
        set_hyper(optimizer, step)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = model(batch.fields["x"])
        loss = cross_entropy(output.float(), batch.fields["y"])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, model.state_dict()


def constant(optimizer: torch.optim.Optimizer, step: int) -> None:
    pass


def cycled(optimizer: torch.optim.Optimizer, step: int) -> None:
    table = one_cycle(1e-2, STEPS)
    assert table.mom is not None
    for group in optimizer.param_groups:
        group["lr"], group["betas"] = float(table.lr[step]), (float(table.mom[step]), 0.99)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("verb", "set_hyper"), [("fit", constant), ("fit_one_cycle", cycled)])
def test_a_fit_is_the_loop_written_by_hand(
    data: DataLoaders, verb: str, set_hyper: Setter, precision: Precision
) -> None:
    assert len(data.train) == STEPS
    runtime = Runtime(device="cpu", precision=precision)
    learn = Learner(data, network(), lr=1e-2, wd=0.1, runtime=runtime, progress=False)
    learn.fit(1) if verb == "fit" else learn.fit_one_cycle(1)
    losses, state = by_hand(data, set_hyper, precision == "bf16")
    assert learn.recorder.losses == losses
    assert losses[-1] < losses[0]
    for name, tensor in learn.module.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def test_the_display_and_metrics_change_no_bit(data: DataLoaders) -> None:
    def trained(progress: bool, metrics: list[str]) -> list[float]:
        learn = Learner(data, network(), metrics=metrics, progress=progress, seed=9).fit(1)
        return learn.recorder.losses

    assert trained(False, []) == trained(True, ["accuracy", "error_rate", "f1"])
