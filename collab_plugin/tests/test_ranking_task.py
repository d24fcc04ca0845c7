"""The one-command job of rankings, through the command line, on files in every shape."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from graftwork.cli.main import main
from graftwork_collab.ranking_data import RankingDataLoaders
from graftwork_collab.ranking_learners import ranking_learner
from graftwork_collab.ranking_pictures import plot_popularity, plot_recommendations


@dataclass(frozen=True)
class Done:
    """Hold what a command printed."""

    exit_code: int
    stdout: str
    output: str


Graft = Callable[..., Done]
Train = Callable[..., dict]


@pytest.fixture
def graft(capfd: pytest.CaptureFixture[str]) -> Graft:
    """Run the command line in this process."""

    def run(*arguments: object) -> Done:
        capfd.readouterr()
        status = main([str(argument) for argument in arguments])
        said = capfd.readouterr()
        return Done(status, said.out, said.out + said.err)

    return run


@pytest.fixture
def train(graft: Graft) -> Train:
    """Train and return the report."""

    def run(source: Path, out: Path, *more: object) -> dict:
        done = graft("train", "collab/ranking", source, "--out", out, "--device", "cpu", "--json", *more)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout.splitlines()[-1])

    return run


def test_train_predict_evaluate_and_show(
    graft: Graft, train: Train, movielens: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    report = train(movielens, tmp_path / "run")
    assert report["rows"]["valid"] == 40
    assert list(report["metrics"]) == [
        "valid_loss", "ndcg@10", "recall@10", "precision@10", "mrr@10", "map@10", "hit_rate@10", "coverage@10",
        "popularity@10",
    ]  # fmt: skip
    assert report["baseline"]["id"] == "collab/most-popular"
    assert len(report["epochs"]) == 1
    assert {Path(p).name for p in report["pictures"]} == {
        "losses.png",
        "metrics.png",
        "recommendations.png",
        "popularity.png",
    }
    assert any("took the columns" in note for note in report["notes"])
    done = graft("predict", tmp_path / "run" / "model.graft", "1", "40", "nobody", "--json")
    said = json.loads(done.stdout.splitlines()[-1])["predictions"]
    assert [row["input"] for row in said] == ["1", "40", "nobody"]
    assert all(len(row["prediction"]) == 10 for row in said)
    assert "probabilities" not in said[0]
    assert said[0]["prediction"] != said[2]["prediction"]
    measured = graft("evaluate", tmp_path / "run" / "model.graft", movielens, "--json")
    assert measured.exit_code == 0, measured.output
    assert json.loads(measured.stdout.splitlines()[-1])["rows"] == 40
    assert "evaluate on new rows" in caplog.text
    assert "collab/ease" in graft("show", tmp_path / "run" / "model.graft").output


@pytest.mark.parametrize(
    ("model", "more", "epochs"),
    [
        ("als", ("--factors", "4"), 15),
        ("item-knn", ("--epochs", "3"), 1),
        ("factors", ("--epochs", "2", "--loss", "bpr", "--negatives", "20"), 2),
        ("lightgcn", ("--epochs", "1", "--factors", "4"), 1),
        ("sasrec", ("--epochs", "1", "--history", "6", "--factors", "8"), 1),
    ],
)
def test_every_model_trains_from_the_command_line(
    graft: Graft, train: Train, ratings, tmp_path: Path, model: str, more, epochs: int
):
    source = tmp_path / "ratings.csv"
    ratings.to_csv(source, index=False)
    report = train(source, tmp_path / "run", "--model", model, "--k", "5", *more)
    assert len(report["epochs"]) == epochs
    assert "ndcg@5" in report["metrics"]
    said = graft("predict", tmp_path / "run" / "model.graft", "7", "--json")
    assert len(json.loads(said.stdout.splitlines()[-1])["predictions"][0]["prediction"]) == 5
    if model == "item-knn":
        assert any("solved in one pass; --epochs 3 adds nothing" in note for note in report["notes"])


def test_k_beyond_the_baselines_ten_places(graft: Graft, train: Train, ratings: pd.DataFrame, tmp_path: Path):
    ratings.to_parquet(tmp_path / "r.parquet")
    report = train(tmp_path / "r.parquet", tmp_path / "run", "--k", "20", "--split", "leave-last-out")
    assert "ndcg@20" in report["metrics"]
    measured = graft("evaluate", tmp_path / "run" / "model.graft", tmp_path / "r.parquet", "--json")
    assert "ndcg@10" in json.loads(measured.stdout.splitlines()[-1])["metrics"]


def test_weights_and_columns_by_name(train: Train, tmp_path: Path):
    rows = [(f"u{u}", f"i{(u * 3 + s) % 9}", 1 + s, s) for u in range(8) for s in range(4)]
    table = pd.DataFrame(rows, columns=["who", "what", "plays", "when"])
    table.to_csv(tmp_path / "plays.csv", sep=";", index=False)
    report = train(
        tmp_path / "plays.csv", tmp_path / "run", "--user", "who", "--item", "what", "--weight", "plays",
        "--timestamp", "when", "--split", "leave-last-out", "--k", "3", "--model", "als",
    )  # fmt: skip
    assert report["rows"] == {"train": 24, "valid": 8}
    assert any("the separator is" in note for note in report["notes"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--k", "0"), "at least one item"),
        (("--k", "500"), "there are 60 items to rank"),
        (("--epochs", "many"), "whole number of at least 1, or auto"),
        (("--factors", "0"), "whole number of at least 1, or auto"),
        (("--user", "usrId"), "userId"),
        (("--weight", "stars"), "column of"),
        (("--model", "sasrek"), "sasrec"),
        (("--loss", "bpr"), "--loss bpr has no meaning"),
        (("--lr", "find"), "no learning rate to find"),
        (("--split", "time", "--timestamp", "nothing"), "timestamp"),
    ],
    ids=str,
)
def test_a_users_mistakes_are_answered(graft: Graft, ratings: pd.DataFrame, tmp_path: Path, arguments, words: str):
    source = tmp_path / "ratings.csv"
    ratings.to_csv(source, index=False)
    done = graft("train", "collab/ranking", source, "--out", tmp_path / "run", *arguments)
    assert done.exit_code == 2, done.output
    assert words in done.output
    assert "Traceback" not in done.output


def test_one_interaction_each_cannot_be_left_out(graft: Graft, tmp_path: Path):
    pd.DataFrame({"user": ["a", "b"], "item": ["x", "y"]}).to_csv(tmp_path / "r.csv", index=False)
    done = graft("train", "collab/ranking", tmp_path / "r.csv", "--split", "leave-last-out", "--k", "1")
    assert done.exit_code == 2
    assert "none of the 2 users has more than 1 row" in done.output


def test_help_names_the_options(graft: Graft):
    text = graft("train", "collab/ranking", "--help").output
    assert all(option in text for option in ("--user", "--split", "--weight", "--k ", "--history", "--model"))


def test_the_data_and_results_can_be_looked_at(ratings: pd.DataFrame, tmp_path: Path):
    for history in (None, 6):
        data = RankingDataLoaders.from_df(ratings, history=history, bs=32)
        learn = ranking_learner(data, "collab/sasrec" if history else "collab/factors", progress=False).fit(1)
        data.show_batch(max_n=2).savefig(tmp_path / "batch.png")
        learn.show_results(max_n=2).savefig(tmp_path / "results.png")
        assert "parameters" in str(learn.summary())


def test_pictures_of_few_users_and_items(tmp_path: Path):
    rows = [
        (f"user {u}", f"a rather long title of an item, number {(u + s) % 4}", s) for u in range(3) for s in range(3)
    ]
    data = RankingDataLoaders.from_df(pd.DataFrame(rows, columns=["user", "item", "time"]), k=2, valid_pct=0.3)
    learn = ranking_learner(data, "collab/als", k=2, progress=False).fit(1)
    for number, figure in enumerate((plot_recommendations(data, learn), plot_popularity(data, learn))):
        figure.savefig(tmp_path / f"{number}.png")
        assert (tmp_path / f"{number}.png").stat().st_size > 5000


def test_public_names_are_what_they_say():
    import graftwork_collab
    from graftwork_collab.ranking_learners import ranking_learner as learner

    assert graftwork_collab.ranking_learner is learner
    modules = {path.stem for path in Path(graftwork_collab.__file__).parent.glob("*.py")}
    # A module of the same name would take the name over as soon as it is imported.
    assert not modules & set(graftwork_collab.__all__)
