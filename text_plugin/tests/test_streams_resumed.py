"""A language model that reads streams: its state goes from batch to batch, and into checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from graftwork import Checkpointer, DataLoaders, Learner, Runtime
from graftwork.api import Callback, TrainState
from graftwork_text.data import TextDataLoaders
from graftwork_text.learner import language_model_learner

TEXTS = [f"the {name} number {i % 7} sat on the mat and went home again" for i in range(60) for name in ("cat", "dog")]


def data(seq_len: int = 8) -> DataLoaders:
    return TextDataLoaders.from_texts(TEXTS, min_freq=1, bs=4, seq_len=seq_len, valid_pct=0.2, seed=1)


def learner(*callbacks: Callback, kind: str = "awd-lstm") -> Learner:
    config = {"emb_sz": 12, "n_hid": 16, "n_layers": 2}
    if kind == "transformer":
        config = {"width": 16, "n_layers": 1, "n_heads": 2, "max_length": 16}
    return language_model_learner(
        data(), f"text/{kind}-lm", model_config=config, callbacks=callbacks, runtime=Runtime(device="cpu"),
        progress=False,
    )  # fmt: skip


class StopAt(Callback):
    """Fail after a step."""

    order = -950

    def __init__(self, step: int) -> None:
        self.step = step

    def batch_end(self, state: TrainState) -> None:
        if state.phase == "train" and state.step == self.step:
            raise InterruptedError


@pytest.mark.parametrize("kind", ["awd-lstm", "transformer"])
@pytest.mark.parametrize("step", [1, 17, 50])
def test_a_run_stopped_within_an_epoch_ends_in_the_same_bits(tmp_path: Path, kind: str, step: int) -> None:
    whole = learner(kind=kind).fit_one_cycle(2, 1e-2)
    assert len(whole.data.train) > 30
    with pytest.raises(InterruptedError):
        learner(Checkpointer(tmp_path, every_steps=1), StopAt(step), kind=kind).fit_one_cycle(2, 1e-2)
    again = learner(Checkpointer(tmp_path, every_steps=1000), kind=kind).resume(tmp_path)
    assert again.recorder.losses == whole.recorder.losses
    for name, value in whole.module.state_dict().items():
        assert torch.equal(value, again.module.state_dict()[name]), name


@torch.no_grad()
def test_a_stream_read_in_pieces_is_read_as_one() -> None:
    """What validation finds does not depend on how long the pieces are, since the state goes on."""
    learn = learner()
    short, long = (learn.data.valid, data(seq_len=40).valid)
    assert short is not None
    assert long is not None
    assert (short.streams, short.length) == (long.streams, long.length)
    assert learn.validate(short) == pytest.approx(learn.validate(long), rel=1e-5)
    assert learn.validate(short) == learn.validate(short)
