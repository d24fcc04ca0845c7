"""History files, pictures of activations, unfreezing, dropout at prediction, batch sizes, and less data."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from graftwork.callbacks.activations import ActivationStats
from graftwork.callbacks.batch_size import BatchSizes, find_batch_size
from graftwork.callbacks.history_file import HistoryFile
from graftwork.callbacks.limits import LimitedLoader, fast_dev_run, limited, overfit_one_batch
from graftwork.callbacks.mc_dropout import _dropping, mc_dropout
from graftwork.callbacks.unfreezing import GradualUnfreezing
from graftwork.datablock import DataLoaders
from graftwork.errors import DataError, FreezeError, OptionError, UnknownName
from graftwork.events import Callback, TrainState
from graftwork.learner import Learner
from graftwork.model import ModelParts
from graftwork.runtime import seeded
from graftwork.seeds import derive_seed
from graftwork.testing.toy import make_items, mlp, recipe


def parts(classes: int = 3, dropout: float = 0.3) -> ModelParts:
    torch.manual_seed(0)
    first = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU())
    second, head = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(dropout)), nn.Linear(8, classes)
    groups = {"first": (first,), "second": (second,), "head": (head,)}
    return ModelParts(module=nn.Sequential(first, second, head), groups=groups)


def learner(data: DataLoaders, *callbacks: Callback, **options: Any) -> Learner:
    return Learner(data, parts(**options), progress=False, callbacks=callbacks)


# -- history -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_one_history_file_holds_both_phases_of_fine_tune(data: DataLoaders, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "new" / f"history.{suffix}"
    learn = learner(data, HistoryFile(path)).fine_tune(2, freeze_epochs=1)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file)) if suffix == "csv" else [json.loads(line) for line in file]
    assert [{name: float(v) for name, v in row.items()} for row in rows] == learn.history
    assert len(rows) == 3
    assert str(rows[0]["epoch"]) == "1"


def test_every_line_is_there_as_soon_as_its_epoch_is_over(data: DataLoaders, tmp_path: Path) -> None:
    lines: list[int] = []

    class Look(Callback):
        order = -2000

        def epoch_end(self, state: TrainState) -> None:
            lines.append(len((tmp_path / "h.csv").read_text(encoding="utf-8").splitlines()))

    learner(data, HistoryFile(tmp_path / "h.csv"), Look()).fit(3)
    assert lines == [2, 3, 4]


def test_an_older_file_is_replaced_and_a_new_column_has_its_place(data: DataLoaders, tmp_path: Path) -> None:
    path = tmp_path / "h.csv"
    path.write_text("old\n", encoding="utf-8")

    class Late(Callback):
        def epoch_end(self, state: TrainState) -> None:
            if state.epoch == 1:
                state.record["late"] = 1.5
                state.record["broken"] = float("nan")

    learner(data, HistoryFile(path), Late()).fit(3)
    header, *rows = csv.reader(path.read_text(encoding="utf-8").splitlines())
    assert header[0] == "epoch"
    assert header[-2:] == ["late", "broken"]
    assert [row[-2:] for row in rows] == [["", ""], ["1.5", ""], ["", ""]]


def test_a_resumed_history_has_each_line_once(data: DataLoaders, tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    first = HistoryFile(path)
    learner(data, first).fit(2)
    kept = first.state_dict()
    learner(data, first).fit(1)  # an epoch that was lost
    again = HistoryFile(path)
    again.load_state_dict(kept)
    learner(data, again).fit(1)
    assert [json.loads(line)["epoch"] for line in path.read_text(encoding="utf-8").splitlines()] == [1, 2, 1]


def test_a_history_that_cannot_be_written_says_so(data: DataLoaders, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"must end in \.csv or \.jsonl"):
        HistoryFile("history.txt")
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OptionError, match="cannot be written"):
        learner(data, HistoryFile(tmp_path / "file" / "h.csv")).fit(1)


# -- activations ---------------------------------------------------------------------------------------------------


def test_activations_are_the_layers_outputs(data: DataLoaders) -> None:
    stats, outputs = ActivationStats(every=4, near_zero=0.1), dict[int, torch.Tensor]()

    class Keep(Callback):
        def batch_end(self, state: TrainState) -> None:
            if state.phase == "train":
                outputs[state.step - 1] = state.output.detach()

    learn = learner(data, stats, Keep()).fit(2)
    assert stats.layers == ["0.0", "0.1", "1.0", "2"]
    assert [step - 1 for step in stats.steps] == [0, 4, 8, 12, 16]
    assert stats.values.shape == (5, 4, 3)
    for row, step in enumerate(stats.steps):
        out = outputs[step - 1]
        expected = [out.mean(), out.std(correction=0), (out.abs() < 0.1).float().mean()]
        assert stats.values[row, 3].tolist() == pytest.approx([float(v) for v in expected], abs=1e-6)
    assert float(stats.values[:, 1, 1].mean()) == pytest.approx(1, abs=0.1)  # after batch norm
    learn.fit(1)
    assert len(stats.steps) == 8


def test_activations_are_drawn(data: DataLoaders, tmp_path: Path) -> None:
    stats = ActivationStats(every=1, layers=("0.2", "2"))
    with pytest.raises(DataError, match="no activations"):
        stats.plot()
    learner(data, stats).fit(1)
    figure = stats.plot()
    assert [len(ax.lines) for ax in figure.axes] == [2, 2, 2]
    figure.savefig(tmp_path / "activations.png")
    assert (tmp_path / "activations.png").stat().st_size > 8000
    zeros = stats.values[:, 0, 2]
    assert float(zeros.min()) > 0.2  # after a ReLU


def test_a_layer_that_is_not_there_is_named_with_the_nearest(data: DataLoaders) -> None:
    with pytest.raises(UnknownName, match=r"unknown layer '0\.9'"):
        learner(data, ActivationStats(layers=("0.9",))).fit(1)
    with pytest.raises(OptionError):
        ActivationStats(every=0)


# -- unfreezing ----------------------------------------------------------------------------------------------------


def test_one_group_more_learns_each_epoch(data: DataLoaders, caplog: pytest.LogCaptureFixture) -> None:
    moved: list[set[str]] = []

    class Watch(Callback):
        def epoch_start(self, state: TrainState) -> None:
            self.before = {n: p.detach().clone() for n, p in state.model.named_parameters()}

        def epoch_end(self, state: TrainState) -> None:
            moved.append({n for n, p in state.model.named_parameters() if not torch.equal(p, self.before[n])})

    with caplog.at_level(logging.INFO, "graftwork"):
        learn = learner(data, GradualUnfreezing(), Watch()).fit(4, 0.01)
    norm, head, second = {"0.1.weight", "0.1.bias"}, {"2.weight", "2.bias"}, {"1.0.weight", "1.0.bias"}
    everything = {name for name, _ in learn.module.named_parameters()}
    assert moved == [head | norm, head | second | norm, everything, everything]
    assert "from epoch 2 on" in caplog.text
    moved.clear()
    learner(data, GradualUnfreezing(2, train_norm=False), Watch()).fit(3, 0.01)
    assert moved == [head, head, head | second]


def test_a_model_of_one_group_cannot_be_unfrozen_gradually(data: DataLoaders) -> None:
    with pytest.raises(FreezeError, match=r"only the parameter groups \['model'\]"):
        Learner(data, mlp(), progress=False).fit(1, callbacks=[GradualUnfreezing()])
    learn = learner(data)
    learn.freeze_to("head")
    learn.module[0][1].requires_grad_(False)  # type: ignore[index]
    with pytest.raises(FreezeError, match="call unfreeze"):
        learn.fit(1, callbacks=[GradualUnfreezing()])


# -- dropout at prediction -----------------------------------------------------------------------------------------


def test_dropout_stays_on_and_the_mean_is_near_the_prediction(data: DataLoaders) -> None:
    learn = learner(data).fit(2, 0.01)
    learn.module.train()
    before, random = {n: t.clone() for n, t in learn.module.state_dict().items()}, torch.get_rng_state()
    found = mc_dropout(learn, samples=40)
    assert float(found.std["y"].mean()) > 0.01
    plain = learn.get_preds()
    assert torch.allclose(found.mean.activated, plain.activated, atol=0.15)
    assert torch.equal(found.mean.index, plain.index)
    assert torch.allclose(found.mean.activated.sum(1), torch.ones(50), atol=1e-5)
    again = mc_dropout(learn, samples=40)
    assert torch.equal(again.std["y"], found.std["y"])
    # No trace: batch norm has not learned, modes, hooks and random state are as they were.
    assert all(torch.equal(before[name], t) for name, t in learn.module.state_dict().items())
    assert all(m.training and not m._forward_pre_hooks for m in learn.module.modules())
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(learn.get_preds().activated, plain.activated)


def test_the_deviation_is_that_of_the_passes(data: DataLoaders) -> None:
    learn = learner(data, dropout=0.5)
    two = mc_dropout(learn, samples=2)
    assert two.samples == 2
    passes = []
    for sample in range(2):
        with _dropping(learn.module), seeded(derive_seed(learn.seed, "mc_dropout", sample)):
            passes.append(learn.get_preds().activated)
    assert torch.allclose(two.std["y"], torch.stack(passes).std(0, correction=0), atol=1e-6)
    assert torch.allclose(two.mean.activated, torch.stack(passes).mean(0), atol=1e-6)
    assert not torch.equal(passes[0], passes[1])


def test_without_dropout_there_is_nothing_to_vary(data: DataLoaders) -> None:
    with pytest.raises(OptionError, match="no dropout layer"):
        mc_dropout(Learner(data, mlp(), progress=False))
    with pytest.raises(OptionError, match="samples=1"):
        mc_dropout(learner(data), samples=1)
    with pytest.raises(DataError, match="nothing was held out"):
        mc_dropout(learner(DataLoaders(train=data.train)))


# -- batch size ----------------------------------------------------------------------------------------------------


class Small(nn.Module):
    """Say that memory is full above some number of items."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.linear = most, nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        out: torch.Tensor = self.linear(x)
        return out


def test_the_batch_size_is_doubled_until_memory_is_full(data: DataLoaders) -> None:
    learn = Learner(data, Small(40), progress=False)
    before = [p.clone() for p in learn.module.parameters()]
    found = find_batch_size(learn, start=4)
    assert found.sizes == [4, 8, 16, 32]
    assert found.largest == 32
    assert found.fastest in found.sizes
    assert found.ended == "64 do not fit into memory"
    assert min(found.items_per_second) > 0
    assert all(torch.equal(a, b) for a, b in zip(before, learn.module.parameters(), strict=True))
    assert data.train.bs == 16
    assert learn.history == []


class Note(nn.Linear):
    """Note how many items come at once; copies note into the same set."""

    seen: ClassVar[set[int]] = set()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.add(len(x))
        return super().forward(x)


def test_batches_are_really_of_that_size(items: Any) -> None:
    for cache in ("memory", "none"):
        Note.seen.clear()
        data = recipe().dataloaders(items, bs=16, workers=0, cache=cache)
        found = find_batch_size(Learner(data, Note(4, 3), progress=False), start=10, most=90)
        assert Note.seen == {10, 20, 40, 80} == set(found.sizes)
        assert found.ended == "160 would be more than 90"


def test_what_is_no_want_of_memory_is_raised(data: DataLoaders) -> None:
    with pytest.raises(OptionError, match="start=64: 64 do not fit"):
        find_batch_size(Learner(data, Small(40), progress=False), start=64)
    with pytest.raises(RuntimeError, match="shapes"):
        find_batch_size(Learner(data, nn.Linear(5, 3), progress=False))
    with pytest.raises(OptionError, match="start=0"):
        find_batch_size(Learner(data, Small(40), progress=False), start=0)


def test_the_fastest_size_need_not_be_the_largest() -> None:
    assert BatchSizes(sizes=[8, 16, 32], items_per_second=[1.0, 3.0, 2.0], ended="").fastest == 16


# -- less data -----------------------------------------------------------------------------------------------------


def test_partial_epochs_are_other_items_each_time_and_schedules_know_of_it(data: DataLoaders) -> None:
    part = limited(data, train=3, valid=0.5)
    assert len(part.train) == 3
    assert part.valid is not None
    assert len(part.valid) == 2
    assert part.notes[-2:] == ("train: 3 of 10 batches in each epoch", "valid: 2 of 4 batches in each epoch")
    learn = learner(part).fit_one_cycle(2, 0.01)
    assert len(learn.recorder.losses) == 6
    assert learn.recorder.learning_rates[-1] < 0.005
    first, second = (torch.cat([b.index for b in part.train.at(epoch)]) for epoch in (0, 1))
    assert len(first) == 48
    assert not torch.equal(first, second)
    assert torch.equal(first, part.train.order(0))
    assert torch.equal(first, torch.cat([b.index for b in data.train.at(0)])[:48])
    assert part.plan is data.plan
    assert len(part.test_dl(make_items(5, seed=9))) == 1


def test_a_limited_loader_starts_anywhere(data: DataLoaders) -> None:
    loader = LimitedLoader(data.train, 4)
    assert [b.number for b in loader.at(1)] == [0, 1, 2, 3]
    assert [b.number for b in loader.at(1, 2)] == [2, 3]
    assert list(loader.at(1, 4)) == []
    assert len(LimitedLoader(data.train, 400)) == 10


@pytest.mark.parametrize("limit", [0, -1, 0.0, 1.5, True], ids=str)
def test_a_limit_is_a_number_of_batches_or_a_share(data: DataLoaders, limit: float) -> None:
    with pytest.raises(OptionError, match="neither a number of batches"):
        limited(data, train=limit)


def test_a_dry_run_goes_through_everything(data: DataLoaders) -> None:
    learn = learner(fast_dev_run(data)).fit(1)
    assert len(learn.recorder.losses) == 2
    assert set(learn.history[0]) == {"epoch", "train_loss", "valid_loss", "accuracy", "seconds"}
    assert learn.show_results() is not None


def test_one_batch_is_learned_by_heart(data: DataLoaders) -> None:
    one = overfit_one_batch(data, steps=60)
    torch.manual_seed(0)
    learn = Learner(one, mlp(64), progress=False).fit(2, 0.03)
    assert len(learn.recorder.losses) == 120
    assert learn.recorder.losses[-1] < 0.02
    assert learn.history[-1]["accuracy"] == 1.0
    first, last = list(one.train.at(0))[0], list(one.train.at(5, 59))[0]  # noqa: RUF015
    assert torch.equal(first.index, last.index)
    assert first.fields is not last.fields
    assert one.notes == ("train and valid: the same 16 items in every batch",)
    with pytest.raises(OptionError, match="repeats=0"):
        overfit_one_batch(data, steps=0)
