"""The plugin, on generated series; `test_conformance` runs graftwork's own checks on all of its components."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from graftwork import Learner, PlanError
from graftwork.cli.main import root
from graftwork.testing import conformance_tests
from graftwork_signals.baselines import RandomKernels
from graftwork_signals.blocks import SeriesBlock
from graftwork_signals.conformance import write_waves
from graftwork_signals.data import SeriesDataLoaders
from graftwork_signals.metrics import kappa
from graftwork_signals.sources import read_source
from graftwork_signals.transforms import Crop

test_conformance = conformance_tests("signals")


@pytest.fixture
def data(tmp_path):
    return SeriesDataLoaders.from_path(write_waves(tmp_path), bs=16)


def test_a_block_says_what_is_wrong():
    block = SeriesBlock(2, 8)
    assert block.check(np.zeros((2, 8))) is None
    assert "shape (2, 8)" in str(block.check(np.zeros((2, 7))))
    assert "finite" in str(block.check(np.full((2, 8), np.nan)))


def test_a_crop_is_a_part():
    value = np.arange(10, dtype=np.float32)[None]
    bound = Crop(4).bind(SeriesBlock(1, 10))
    assert bound.encode(value, 0.0).tolist() == [[0, 1, 2, 3]]
    assert bound.encode(value, None).tolist() == [[3, 4, 5, 6]]
    with pytest.raises(PlanError, match="choose a smaller one"):
        Crop(11).out_block(SeriesBlock(1, 10))


def test_a_csv_is_read_by_its_column_of_labels(tmp_path):
    (tmp_path / "two.csv").write_text("t0,t1,label\n1,2,up\n4,3,down\n", encoding="utf-8")
    items = read_source(tmp_path / "two.csv")
    assert [(item.values, item.label) for item in items] == [(["1", "2"], "up"), (["4", "3"], "down")]


def test_the_network_and_the_baseline_learn(data):
    options = {"model_config": {"width": 8}, "metrics": ["accuracy", kappa], "progress": False}
    learn = Learner(data, "signals/resnet", **options)
    learn.fit_one_cycle(5, 1e-2)
    assert learn.history[-1]["accuracy"] > 0.8
    predicted = RandomKernels().fit(data).predict(data.valid)
    assert predicted.shape == (data.valid.num_items, 2)


def test_the_whole_job_by_command_line(tmp_path):
    source, out = write_waves(tmp_path), tmp_path / "run"
    words = ["train", "signals/classification", str(source), "--epochs", "2", "--device", "cpu"]
    ran = CliRunner().invoke(root, [*words, "--out", str(out), "--json"], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    report = json.loads(ran.stdout.splitlines()[-1])
    assert set(report["metrics"]) == {"valid_loss", "accuracy", "kappa"}
    assert report["baseline"]["id"] == "signals/random-kernels"
