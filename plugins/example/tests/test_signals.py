"""The plugin, on generated series: two classes of waves that differ in their frequency."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from graftwork import ClassificationInterpretation, DataError, ItemError, Learner, OptionError, PlanError, load_learner
from graftwork.api import get_host
from graftwork.cli.main import root
from graftwork_signals import (
    Crop,
    NearestDTW,
    Noise,
    RandomKernels,
    SeriesBlock,
    SeriesDataLoaders,
    Standardize,
    kappa,
    read_source,
)
from graftwork_signals.blocks import as_array
from graftwork_signals.dtw import dtw
from graftwork_signals.sources import get_label, get_values


def waves(count: int = 80, *, channels: int = 1, length: int = 48, seed: int = 0):
    """Return series (count, channels, length) with random phases, and their classes."""
    rng = np.random.default_rng(seed)
    y = np.where(np.arange(count) % 2, "fast", "slow")
    time = np.linspace(0, 2 * np.pi, length)
    speed = np.where(y == "fast", 5, 2)[:, None, None]
    phase = rng.uniform(0, 2 * np.pi, (count, channels, 1))
    x = np.sin(speed * time + phase) + rng.normal(0, 0.3, (count, channels, length))
    return x.astype(np.float32), y


def write_csv(path: Path, x: np.ndarray, y: np.ndarray | None, *, header: bool = True) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if header:
            writer.writerow([*(f"t{i}" for i in range(x.shape[-1])), *([] if y is None else ["label"])])
        for i, row in enumerate(x.reshape(len(x), -1)):
            writer.writerow([*row.tolist(), *([] if y is None else [y[i]])])
    return path


@pytest.fixture
def data():
    return SeriesDataLoaders.from_arrays(*waves(), bs=16)


# -- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", [True, False])
def test_a_csv_gives_back_what_was_written(tmp_path, header):
    x, y = waves(6)
    items = read_source(write_csv(tmp_path / "waves.csv", x, y, header=header))
    assert [get_label(item) for item in items] == y.tolist()
    assert np.stack([get_values(item) for item in items]) == pytest.approx(x[:, 0])


def test_the_ucr_archives_form_has_its_label_first(tmp_path):
    (tmp_path / "ucr.tsv").write_text("1\t0.5\t0.25\n-1\t1\t2\n", encoding="utf-8")
    items = read_source(tmp_path / "ucr.tsv")
    assert [get_label(item) for item in items] == ["1", "-1"]
    assert get_values(items[1]).tolist() == [1, 2]
    unlabelled = read_source(tmp_path / "ucr.tsv", labelled=False)
    assert get_values(unlabelled[0]).tolist() == [1, 0.5, 0.25]


def test_npz_keeps_its_channels(tmp_path):
    x, y = waves(5, channels=3)
    np.savez(tmp_path / "waves.npz", x=x, y=y)
    items = read_source(tmp_path / "waves.npz")
    assert [get_label(item) for item in items] == y.tolist()
    assert (np.stack([get_values(item) for item in items]) == x).all()


def test_what_cannot_be_read_is_said(tmp_path):
    np.savez(tmp_path / "wrong.npz", z=np.zeros(3))
    with pytest.raises(DataError, match="no array x"):
        read_source(tmp_path / "wrong.npz")
    np.savez(tmp_path / "uneven.npz", x=np.zeros((3, 4)), y=np.zeros(2))
    with pytest.raises(DataError, match="3 series and 2 labels"):
        read_source(tmp_path / "uneven.npz")
    (tmp_path / "text.npz").write_text("text", encoding="utf-8")
    with pytest.raises(DataError, match="no npz file"):
        read_source(tmp_path / "text.npz")
    (tmp_path / "empty.csv").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="holds no series"):
        read_source(tmp_path / "empty.csv")
    path = write_csv(tmp_path / "waves.csv", *waves(4))
    with pytest.raises(OptionError, match="no column 'sort'"):
        read_source(path, label="sort")


def test_bad_rows_are_left_out_and_counted(tmp_path):
    path = write_csv(tmp_path / "waves.csv", *waves(40))
    with path.open("a", encoding="utf-8") as file:
        file.write(",".join(["oops"] * 48) + ",slow\n" + "1,2,3,slow\n")
    # Whether the short row's label is found or not, the row has another shape.
    data = SeriesDataLoaders.from_items(read_source(path, label="label")[:40], bs=8)
    assert data.train.num_items == 32
    whole = SeriesDataLoaders.from_items(read_source(path, label="label")[:41], bs=8)
    assert len(whole.bad_items) == 1
    assert "oops" in whole.bad_items[0]


# -- parts -----------------------------------------------------------------------------------------------------------


def test_a_block_says_what_is_wrong():
    block = SeriesBlock(2, 8)
    assert block.check(np.zeros((2, 8))) is None
    assert SeriesBlock(1, 3).check([1, 2, 3]) is None
    assert "shape (2, 8)" in block.check(np.zeros((2, 7)))
    assert "no array" in str(block.check("text")) or "array of numbers" in str(block.check("text"))
    assert "finite" in SeriesBlock(1, 2).check([1, np.nan])
    for wrong in ({"channels": 0}, {"length": 0}):
        with pytest.raises(OptionError, match="at least 1"):
            SeriesBlock(**wrong)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1))
def test_a_crop_is_a_part(length, keep, place):
    value = as_array(np.arange(length))
    bound = Crop(keep).bind(SeriesBlock(1, length))
    if keep > length:
        with pytest.raises(ItemError, match="too short"):
            bound.encode(value, place)
        with pytest.raises(PlanError, match="choose a smaller one"):
            Crop(keep).out_block(SeriesBlock(1, length))
        return
    part = bound.encode(value, place)[0]
    assert part.tolist() == list(range(int(part[0]), int(part[0]) + keep))
    middle = bound.encode(value, None)[0]
    assert abs((middle[0] - 0) - (length - 1 - middle[-1])) <= 1


def test_noise_is_as_loud_as_it_says_and_silent_outside_training():
    value = as_array(np.sin(np.arange(5000)))
    bound = Noise(0.5).bind(SeriesBlock())
    assert bound.encode(value, None) is value
    assert (bound.encode(value, 7) == bound.encode(value, 7)).all()
    assert (bound.encode(value, 7) - value).std() == pytest.approx(0.5 * value.std(), rel=0.05)


def test_standardize_learns_from_training_only(data):
    step = data.plan.batch_steps[0].targets[0][1].transform
    whole = data.train.in_order()
    x = torch.cat([batch.x for batch in whole]).double()
    assert isinstance(step, Standardize)
    assert step.mean == pytest.approx(x.mean((0, 2)).tolist())
    assert step.std == pytest.approx(x.std((0, 2), correction=0).tolist())


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=2, max_size=40), st.integers(1, 39))
def test_kappa_is_scikit_learns_however_it_is_divided(pairs, cut):
    said, so = map(list, zip(*pairs, strict=True))
    if len({*said, *so}) == 1:
        return
    predicted, target = torch.nn.functional.one_hot(torch.tensor(said), 3).float(), torch.tensor(so)
    left, right = kappa(), kappa()
    left.update(predicted[:cut], target[:cut])
    right.update(predicted[cut:], target[cut:])
    left.merge(right)
    assert left.compute() == pytest.approx(cohen_kappa_score(so, said))


def test_kappa_without_data_is_an_error():
    with pytest.raises(DataError, match="no predictions"):
        kappa().compute()


def slow_dtw(a, b, band):
    """Follow the definition: the cheapest path, by recursion over all of them."""
    table = np.full((len(a) + 1, len(b) + 1), np.inf)
    table[0, 0] = 0
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            if abs(i - j) <= band:
                table[i, j] = (a[i - 1] - b[j - 1]) ** 2 + min(table[i - 1, j], table[i, j - 1], table[i - 1, j - 1])
    return table[-1, -1]


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 12), st.integers(0, 12), st.integers(0, 2**32))
def test_dtw_is_the_definitions(length, band, seed):
    a, b = np.random.default_rng(seed).normal(size=(2, length)).astype(np.float32)
    found = dtw(a[None], b[None], band, np.inf)
    assert found == pytest.approx(slow_dtw(a, b, band), rel=1e-4)
    assert dtw(a[None], b[None], band, found / 2) in (np.inf, found)


# -- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [RandomKernels, NearestDTW])
def test_baselines_tell_the_waves_apart(kind):
    data = SeriesDataLoaders.from_arrays(*waves(120, channels=2), bs=16)
    predicted = kind().fit(data).predict(data.valid)
    target = torch.cat([batch.y for batch in data.valid.in_order()])
    assert float((predicted.argmax(1) == target).float().mean()) >= 0.9
    with pytest.raises(OptionError, match="has not been fitted"):
        kind().predict(data.valid)


def test_random_kernels_are_the_same_from_the_same_seed(data):
    first, again = (RandomKernels(seed=1).fit(data).predict(data.valid) for _ in range(2))
    assert (first == again).all()
    assert not (RandomKernels(seed=2).fit(data).predict(data.valid) == first).all()


@pytest.mark.parametrize(("model", "config"), [("resnet", {"width": 8}), ("inception", {"width": 4, "depth": 1})])
def test_networks_learn_the_waves_and_leave_in_one_file(tmp_path, model, config):
    x, y = waves(160)
    data = SeriesDataLoaders.from_arrays(x, y, bs=16, item_tfms=[Crop(40), Noise(0.1)], workers=0)
    learn = Learner(data, f"signals/{model}", model_config=config, metrics=["accuracy", kappa], progress=False)
    learn.fit_one_cycle(4, 1e-2)
    assert learn.history[-1]["accuracy"] > 0.9
    found = ClassificationInterpretation.from_learner(learn)
    assert found.confusion_matrix().sum() == data.valid.num_items
    again = load_learner(learn.export(tmp_path / "waves.graft"), device="cpu")
    assert again.predict(x[0]).value == learn.predict(x[0]).value


def graft(*words: str) -> dict:
    ran = CliRunner().invoke(root, list(words), catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    return json.loads(ran.stdout.splitlines()[-1])


def test_the_whole_job_by_command_line(tmp_path):
    """Train beside the baselines, evaluate, predict: from a CSV, and no line of the core is written for it."""
    source = write_csv(tmp_path / "waves.csv", *waves(120))
    words = ("train", "signals/classification", str(source), "--epochs", "3", "--noise", "0.05", "--device", "cpu")
    report = graft(*words, "--out", str(tmp_path / "run"), "--json")
    assert report["metrics"]["accuracy"] > 0.9
    assert [b["id"] for b in report["baselines"]] == ["core/majority", "signals/random-kernels", "signals/nearest-dtw"]
    measured = graft("evaluate", report["artifact"], str(source), "--json")
    assert measured["rows"] == 120
    new = write_csv(tmp_path / "new.csv", waves(4, seed=1)[0], None)
    said = graft("predict", report["artifact"], str(new), "--json")["predictions"]
    assert [row["prediction"] for row in said] == ["slow", "fast", "slow", "fast"]


@pytest.mark.long
def test_a_run_that_was_killed_goes_on_to_the_same_figures(tmp_path):
    source = write_csv(tmp_path / "waves.csv", *waves(60))
    words = ["train", "signals/classification", str(source), "--epochs", "40", "--device", "cpu", "--noise", "0.1"]
    whole = graft(*words, "--out", str(tmp_path / "whole"), "--json")
    run, env = tmp_path / "run", {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "graftwork", *words, "--out", str(run)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env) as process:
        until = time.monotonic() + 60
        while process.poll() is None and not list(run.rglob("*.graft")) and time.monotonic() < until:
            time.sleep(0.01)
        process.kill()
    report = graft("resume", str(run), "--json")
    assert len(report["epochs"]) == 40
    assert report["metrics"] == whole["metrics"]


def test_every_record_can_be_loaded():
    host = get_host()
    (info,) = host.plugin("signals")
    for kind, ids in info.records.items():
        for name in ids:
            assert host.registries[kind].get(name)
