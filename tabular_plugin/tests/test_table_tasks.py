from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

from graftwork.api import JobOptions, OptionError
from graftwork.cli.main import main
from graftwork_tabular.tasks import (
    TabularClassification,
    TabularClassificationOptions,
    TabularRegression,
    TabularRegressionOptions,
)


def people(rows: int = 400, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "id": np.arange(rows),
            "job": rng.choice(["baker", "clerk", "driver"], rows),
            "age": rng.integers(18, 90, rows),
            "height": np.where(rng.random(rows) < 0.1, np.nan, rng.normal(170, 10, rows)),
            "joined": pd.date_range("2015-01-01", periods=rows).astype(str),
        }
    )
    frame["paid"] = np.where((frame["age"] > 50) ^ (frame["job"] == "baker"), "yes", "no")
    frame["price"] = 1000 + 10 * frame["age"] + 100 * (frame["job"] == "clerk")
    return frame


class Result(NamedTuple):
    status: int
    stdout: str
    stderr: str


Graft = Callable[..., Result]


@pytest.fixture
def graft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Graft:
    """Run a command in the folder of the table, and in this process: what a fresh one costs is imports."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> Result:
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
            status = main(list(words))
        return Result(status, out.getvalue(), err.getvalue())

    return run


@pytest.fixture
def table(tmp_path: Path) -> Path:
    people().to_csv(tmp_path / "people.csv", index=False, sep=";")
    return tmp_path / "people.csv"


def last_line(done: Result) -> Any:
    assert done.status == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.slow
def test_train_evaluate_and_predict_a_class(graft: Graft, table: Path, tmp_path: Path) -> None:
    small = ("--model", "tabular/mlp", "--epochs", "8", "--bs", "32", "--drop", "price")
    done = graft("train", "tabular/classification", "people.csv", "--target", "paid", *small, "--json")
    report = last_line(done)
    assert report["rows"] == {"train": 320, "valid": 80}
    assert report["metrics"]["accuracy"] > 0.8
    assert {b["id"] for b in report["baselines"]} == {"core/majority", "tabular/linear", "tabular/boosting"}
    assert any("the separator is ';'" in text for text in report["notes"])
    assert any(text.startswith("left out id") for text in report["notes"])
    names = {Path(path).name for path in report["pictures"]}
    assert names >= {"batch.png", "losses.png", "confusion.png", "top_losses.png"}
    artifact = report["artifact"]

    people(seed=1).to_parquet(tmp_path / "more.parquet")
    measured = last_line(graft("evaluate", artifact, "more.parquet", "--json"))
    assert measured["rows"] == 400
    assert measured["metrics"]["accuracy"] > 0.8

    people(3, seed=2).drop(columns=["paid", "price"]).to_csv(tmp_path / "new.csv", index=False)
    row = json.dumps({"job": "pilot", "age": 70, "height": None, "joined": "2016-01-01"})
    said = last_line(graft("predict", artifact, "new.csv", row, "--json"))["predictions"]
    assert [p["input"] for p in said] == ["new.csv row 1", "new.csv row 2", "new.csv row 3", row]
    assert all(p["prediction"] in ("yes", "no") for p in said)
    assert set(said[0]["probabilities"]) == {"yes", "no"}

    bad = graft("predict", artifact, '{"job": "clerk"}')
    assert bad.status == 2
    assert "age" in bad.stderr


@pytest.mark.slow
def test_train_and_predict_a_number(graft: Graft, table: Path) -> None:
    small = ("--model", "tabular/mlp", "--epochs", "20", "--bs", "32", "--drop", "paid", "--lr", "0.01")
    report = last_line(graft("train", "tabular/regression", "people.csv", "--target", "price", *small, "--json"))
    assert report["metrics"]["rmse"] < 100
    assert report["baselines"][0]["metrics"]["rmse"] > 150
    said = last_line(graft("predict", report["artifact"], "people.csv", "--json"))["predictions"]
    assert len(said) == 400
    prices = people()["price"].to_numpy()
    assert np.corrcoef([p["prediction"] for p in said], prices)[0, 1] > 0.9
    assert "results.png" in {Path(path).name for path in report["pictures"]}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "say which column to learn: --target COLUMN; the table has id, job"),
        (("--target", "piad"), "did you mean 'paid'"),
        (("--target", "paid", "--cat", "jbo"), "did you mean 'job'"),
        (("--target", "paid", "--split", "sometimes"), "use random, time:COLUMN"),
        (("--target", "paid", "--sep", "#"), "paid"),
    ],
    ids=["none", "unknown", "column", "split", "separator"],
)
def test_a_users_mistake_is_answered_in_one_line(
    graft: Graft, table: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = graft("train", "tabular/classification", "people.csv", *arguments)
    assert done.status == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(table.parent.glob("runs/*"))


def classification(**options: Any) -> TabularClassification:
    return TabularClassification(TabularClassificationOptions(**{"target": "paid", "drop": "price", **options}))


def test_options_reach_the_data(table: Path) -> None:
    task = classification(cat="age", fill="mean", scale="quantile", min_freq=2, split="time:joined", bs=17)
    data = task.data(table, JobOptions(valid_pct=0.1))
    text = str(data.plan.explain())
    assert "QuantileScale" in text
    assert "FillMissing(strategy='mean'" in text
    assert "min_freq=2" in text
    assert data.train.bs == 17
    assert data.valid is not None
    assert data.valid.num_items == 40
    held = [data.valid.item(int(p))["joined"] for batch in data.valid for p in batch.index]
    assert min(held) > max(data.train.item(int(p))["joined"] for batch in data.train for p in batch.index)
    assert any(note.startswith("categories: job, age") for note in task.notes())


def test_balancing(table: Path) -> None:
    sampled = classification(balance="sampling").data(table, JobOptions())
    assert sampled.train.sampling is not None
    task = classification(balance="weights")
    learner = task.learner(task.data(table, JobOptions()), JobOptions(model="tabular/mlp"))
    assert learner.objective.losses["y"].weight is not None


def test_a_range_for_numbers(table: Path) -> None:
    def learner(text: str) -> Any:
        task = TabularRegression(TabularRegressionOptions(target="price", drop="paid", y_range=text))
        return task.learner(task.data(table, JobOptions()), JobOptions(model="tabular/mlp"))

    bounded = learner("900,950")
    assert float(bounded.get_preds().activated.min()) >= 900
    assert float(bounded.get_preds().activated.max()) <= 950.001
    with pytest.raises(OptionError, match="write LOW,HIGH"):
        learner("900")
    with pytest.raises(OptionError, match="lower one"):
        learner("3,2")


def test_a_column_says_the_split(table: Path) -> None:
    frame = people()
    frame["held"] = frame["age"] > 60
    frame.to_csv(table, index=False)
    data = classification(split="column:held").data(table, JobOptions())
    assert data.valid is not None
    assert data.valid.num_items == int(frame["held"].sum())
    assert "held" not in data.plan.fields["row"].final.to_config()["cat"]


def test_labels(table: Path) -> None:
    frame = people()
    frame["old"], frame["tall"] = (frame["age"] > 50).astype(int), (frame["height"] > 170).astype(int)
    frame.to_csv(table, index=False)
    data = classification(target="old,tall").data(table, JobOptions())
    assert data.one_batch().y.shape[1] == 2
