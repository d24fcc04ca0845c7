"""Checkpoints: whole or not there, the last ones kept, and put back into the same module only."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from graftwork import checkpoint
from graftwork.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from graftwork.container import read_manifest, write_container
from graftwork.errors import ArtifactError, OptionError
from graftwork.testing.toy import mlp


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)
        self.b.weight = self.a.weight


@pytest.mark.parametrize("build", [mlp, Tied])
def test_what_is_saved_comes_back(tmp_path, build):
    module, other = build(), build()
    path = save_checkpoint(tmp_path / "checkpoint", module, epoch=3, record={"valid_loss": 0.25, "auc": math.nan})
    assert path == tmp_path / "checkpoint" / "epoch-0003.graft"
    for given in (path, path.parent, str(path)):
        found = load_checkpoint(given)
        assert (found.path, found.epoch) == (path, 3)
        assert found.record == {"valid_loss": 0.25, "auc": None}
    parameters = list(other.parameters())
    found.load_into(other)
    assert all(a is b for a, b in zip(parameters, other.parameters(), strict=True))
    assert all(torch.equal(v, other.state_dict()[n]) for n, v in module.state_dict().items())


def test_the_last_ones_are_kept(tmp_path):
    module = mlp()
    for epoch in range(1, 5):
        save_checkpoint(tmp_path, module, epoch=epoch)
        assert [p.name for p in checkpoints(tmp_path)] == [f"epoch-{epoch:04d}.graft"]
    for epoch in range(5, 8):
        save_checkpoint(tmp_path, module, epoch=epoch, keep=2)
    assert [p.name for p in checkpoints(tmp_path)] == ["epoch-0006.graft", "epoch-0007.graft"]
    save_checkpoint(tmp_path, module, epoch=7, keep=2)
    assert [p.name for p in checkpoints(tmp_path)] == ["epoch-0006.graft", "epoch-0007.graft"]
    with pytest.raises(OptionError, match="keep=0"):
        save_checkpoint(tmp_path, module, epoch=8, keep=0)


def test_epochs_beyond_four_digits_are_in_order(tmp_path):
    for epoch in (9999, 10000):
        save_checkpoint(tmp_path, mlp(), epoch=epoch, keep=3)
    assert load_checkpoint(tmp_path).epoch == 10000


def test_a_failed_save_leaves_the_last_good_one(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, mlp(), epoch=1)
    with pytest.raises(ArtifactError, match="cannot make the folder"):
        save_checkpoint(tmp_path / "epoch-0001.graft", mlp(), epoch=2)

    def full(*args, **kwargs):
        raise ArtifactError("No space left on device")

    monkeypatch.setattr(checkpoint, "write_container", full)
    with pytest.raises(ArtifactError, match="No space"):
        save_checkpoint(tmp_path, mlp(), epoch=2)
    assert load_checkpoint(tmp_path).epoch == 1


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="holds no checkpoint"):
        load_checkpoint(tmp_path)
    path = write_container(tmp_path / "m.graft", manifest={"kind": "learner"}, members={})
    with pytest.raises(ArtifactError, match="holds a 'learner', not a checkpoint"):
        load_checkpoint(path)
    with pytest.raises(ArtifactError, match="no such file"):
        load_checkpoint(tmp_path / "none.graft")


def test_a_damaged_or_foreign_checkpoint_changes_nothing(tmp_path):
    path = save_checkpoint(tmp_path, mlp(16), epoch=1)
    other = mlp(8)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(ArtifactError, match=r"'0.weight' is \(16, 4\) float32 in the file, and \(8, 4\)"):
        load_checkpoint(path).load_into(other)
    assert all(torch.equal(before[name], value) for name, value in other.state_dict().items())
    data = bytearray(path.read_bytes())
    data[-500] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="is refused"):
        load_checkpoint(path)


def test_a_checkpoint_says_what_it_is(tmp_path):
    manifest = read_manifest(save_checkpoint(tmp_path, mlp(), epoch=2, record={"train_loss": 1}))
    assert manifest["kind"] == "checkpoint"
    assert manifest["epoch"] == 2
    assert manifest["record"] == {"train_loss": 1.0}
    assert isinstance(checkpoints(Path(tmp_path))[0], Path)
