"""Ways to run a model that change its cost and not its results: recomputing, compiling, narrow numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from graftwork.callbacks.checkpointer import Checkpointer, checkpoint_files
from graftwork.errors import OptionError
from graftwork.learner import Learner
from graftwork.model import ModelParts
from graftwork.runtime import Runtime
from graftwork.sharding import large_blocks
from graftwork.testing.toy import make_items, recipe

ITEMS = make_items(120)


def network() -> ModelParts:
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(64, 96), nn.GELU(), nn.Dropout(0.2), nn.Linear(96, 64)) for _ in range(2)]
    body, head = nn.ModuleList([nn.Linear(4, 64), *(_Residual(block) for block in blocks)]), nn.Linear(64, 3)
    return ModelParts(module=_Chain(body, head), groups={"body": (body,), "head": (head,)})


class _Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x + self.inner(x)


class _Chain(nn.Module):
    def __init__(self, body: nn.ModuleList, head: nn.Module) -> None:
        super().__init__()
        self.body, self.head = body, head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.body:
            x = block(x)
        out: torch.Tensor = self.head(x)
        return out


def learner(runtime: Runtime, **options: Any) -> Learner:
    data = recipe().dataloaders(ITEMS, bs=16, cache="memory", workers=0)
    return Learner(data, network(), runtime=runtime, progress=False, **options)


def weights(learn: Learner) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in learn.module.state_dict().items()}


def test_recomputing_trains_the_same_bits_and_runs_blocks_twice() -> None:
    plain, lean = learner(Runtime(device="cpu")), learner(Runtime(device="cpu", recompute=True))
    assert [type(b) for b in large_blocks(plain.module)] == [_Residual, _Residual]
    for learn in (plain, lean):
        learn.fit_one_cycle(2, 1e-2)
    assert plain.recorder.losses == lean.recorder.losses
    assert all(torch.equal(value, weights(lean)[name]) for name, value in weights(plain).items())
    steps, batches = plain.steps_done, 2 * len(plain.data.valid or ())
    assert plain.module.get_submodule("body.1").calls == steps + batches
    assert lean.module.get_submodule("body.1").calls == 2 * steps + batches


def test_the_range_test_of_a_recomputing_model_leaves_it_alone() -> None:
    learn = learner(Runtime(device="cpu", recompute=True))
    before, calls = weights(learn), learn.module.get_submodule("body.1").calls
    learn.lr_find(num_steps=10)
    assert all(torch.equal(value, weights(learn)[name]) for name, value in before.items())
    assert learn.module.get_submodule("body.1").calls == calls


def test_recomputing_needs_blocks() -> None:
    data = recipe().dataloaders(ITEMS, bs=16, cache="memory", workers=0)
    with pytest.raises(OptionError, match=r"Linear holds no block of 10,000 parameters in an nn\.Sequential"):
        Learner(data, nn.Linear(4, 3), runtime=Runtime(device="cpu", recompute=True))


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile without a compiler: what is traced is run as it is."""
    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module: compiled(module, backend="eager"))


@pytest.mark.usefixtures("eager")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_checkpoints_go_between_compiled_and_not(tmp_path: Path) -> None:
    whole = learner(Runtime(device="cpu", compile=True))
    whole.fit(3, 1e-2, callbacks=[Checkpointer(tmp_path, keep=9, signals=False)])
    assert "compiled" in whole.session.describe()
    after_one = checkpoint_files(tmp_path)[0]
    for compile_ in (True, False):
        again = learner(Runtime(device="cpu", compile=compile_)).resume(after_one)
        assert again.recorder.losses == pytest.approx(whole.recorder.losses, abs=1e-5)
        assert weights(again).keys() == weights(whole).keys()


@pytest.mark.usefixtures("eager")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_model_is_frozen_and_unfrozen() -> None:
    compiled, plain = learner(Runtime(device="cpu", compile=True)), learner(Runtime(device="cpu"))
    for learn in (compiled, plain):
        learn.freeze()
        before = weights(learn)
        learn.fit(1, 1e-2)
        assert torch.equal(before["body.0.weight"], weights(learn)["body.0.weight"])
        learn.unfreeze()
        learn.fit(1, 1e-2)
        assert not torch.equal(before["body.0.weight"], weights(learn)["body.0.weight"])
    assert compiled.recorder.losses == pytest.approx(plain.recorder.losses, abs=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_narrow_numbers_learn_on_the_cpu(precision: Any) -> None:
    learn, wide = learner(Runtime(device="cpu", precision=precision)), learner(Runtime(device="cpu"))
    for each in (learn, wide):
        each.fit_one_cycle(4, 1e-2)
    assert (learn.session.scaler is not None) == (precision == "fp16")
    assert learn.history[-1]["valid_loss"] == pytest.approx(wide.history[-1]["valid_loss"], rel=0.1)
    assert {value.dtype for value in weights(learn).values()} == {torch.float32}


def test_a_resumed_fp16_run_keeps_its_scale(tmp_path: Path) -> None:
    runtime = Runtime(device="cpu", precision="fp16")
    whole = learner(runtime)
    whole.fit(2, 1e-2, callbacks=[Checkpointer(tmp_path, every_steps=3, keep=9, signals=False)])
    again = learner(runtime).resume(checkpoint_files(tmp_path)[0])
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(whole).items())
    assert whole.session.scaler is not None
    assert again.session.scaler is not None
    assert again.session.scaler.state_dict() == whole.session.scaler.state_dict()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_copies_made_ahead_bring_the_same_batches() -> None:
    learn = learner(Runtime(device="cuda"))
    columns = recipe().dataloaders(ITEMS, bs=16, cache="memory", workers=0).train
    plain = [batch.fields["x"] for batch in columns.at(0)]
    ahead = [batch.fields["x"] for batch in learn.feed.ahead(columns.at(0))]
    assert all(x.is_cuda for x in ahead)
    assert all(torch.equal(left, right.cpu()) for left, right in zip(plain, ahead, strict=True))
