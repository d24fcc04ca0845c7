"""The task of ratings, and the command line from a file to predictions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork.api import JobOptions, OptionError
from graftwork_collab import CollabRatings
from graftwork_collab.pictures import plot_ratings
from graftwork_collab.tasks import CollabRatingsOptions, parse_layers, parse_pair, parse_range

JOB = JobOptions(bs=32, epochs=2, device="cpu")


def task(**options) -> CollabRatings:
    return CollabRatings(CollabRatingsOptions(**options))


@pytest.fixture
def graft(capsys):
    """Run the command line in this process; return its status and what it wrote to both streams."""
    from graftwork.cli.main import main

    def run(*words) -> tuple[int, str, str]:
        status = main([str(word) for word in words])
        return (status, *capsys.readouterr())

    return run


class TestTask:
    """What the task makes of its options."""

    def test_data_and_learner(self, movielens):
        made = task()
        data = made.data(movielens, JOB)
        learn = made.learner(data, JOB)
        assert learn.model_id == "collab/dot-bias"
        assert learn.model_config["n_factors"] == 50
        assert learn.wd == 0.1
        assert made.default_lr(learn) == learn.lr
        assert made.baseline_ids(data) == ("core/mean", "collab/biases")
        assert any("took the columns user 'userId'" in note for note in made.notes())
        assert not any("took the columns" in note for note in data.notes)

    def test_options_reach_the_learner(self, movielens):
        made = task(factors=7, y_range="0,6", wd=0.2, engine="torch")
        learn = made.learner(made.data(movielens, JOB), JOB)
        assert (learn.model_config, learn.wd, learn.parts.engine) == ({"n_factors": 7, "y_range": [0, 6]}, 0.2, None)

    def test_the_neural_model(self, movielens):
        made = task(layers="20,10")
        learn = made.learner(made.data(movielens, JOB), JobOptions(model="neural", device="cpu"))
        assert learn.model_id == "collab/neural"
        assert learn.model_config["layers"] == [20, 10]

    def test_ratings_outside_the_range_are_among_the_warnings(self, movielens):
        made = task(y_range="2,4")
        data = made.data(movielens, JOB)
        made.learner(data, JOB)
        assert "lie outside y_range=(2, 4)" in data.notes[-1]

    def test_config_goes_through_json(self):
        made = task(factors=7, split="time", user="who")
        again = CollabRatings.from_config(json.loads(json.dumps(made.to_config())))
        assert again.options == made.options

    def test_pictures(self, movielens):
        made = task()
        data = made.data(movielens, JOB)
        learn = made.learner(data, JOB)
        learn.display = None
        learn.fit(1)
        pictures = made.pictures(data, learn)
        assert list(pictures) == ["losses.png", "ratings.png"]
        axes = pictures["ratings.png"].axes[0]
        assert f"{data.valid.num_items} ratings held out" in axes.get_title()

    def test_a_picture_of_many_different_ratings(self):
        import torch

        from graftwork.api import Predictions

        values = torch.from_numpy(np.random.default_rng(0).normal(3, 1, 500).astype(np.float32))
        index = torch.arange(500)
        made = Predictions(by_target={"rating": values}, targets_by_name={"rating": values}, index=index)
        # A box is six lines; one more is where predictions would be right.
        assert 6 <= (len(plot_ratings(made).axes[0].get_lines()) - 1) / 6 <= 12


class TestInputs:
    """What `graft predict` takes."""

    @pytest.mark.parametrize(
        ("text", "pair"),
        [
            ("1,318", ("1", "318")),
            (" ann , Heat (1995) ", ("ann", "Heat (1995)")),
            ("1,American President, The (1995)", ("1", "American President, The (1995)")),
            ('"Smith, Ann",318', ("Smith, Ann", "318")),
        ],
    )
    def test_pairs(self, text, pair):
        assert parse_pair(text) == pair
        assert task().inputs([text]) == [(text, {"user": pair[0], "item": pair[1]})]

    @given(st.integers(), st.text(st.characters(exclude_characters='\r\n"\0', exclude_categories=["Cs"]), min_size=1))
    def test_any_item_comes_through(self, user, item):
        if item.strip():
            assert parse_pair(f"{user},{item}") == (str(user), item.strip())

    @pytest.mark.parametrize("text", ["", "1", "1,", ",318", "nowhere.csv"])
    def test_what_is_no_pair(self, text):
        with pytest.raises(OptionError, match="neither a file of pairs nor USER,ITEM"):
            parse_pair(text)

    def test_a_file_of_pairs(self, tmp_path):
        (tmp_path / "p.csv").write_text("userId,movieId\n1,25\n2,Ran\n")
        assert task().inputs([str(tmp_path / "p.csv"), "3,4"]) == [
            ("1,25", {"user": 1, "item": "25"}),
            ("2,Ran", {"user": 2, "item": "Ran"}),
            ("3,4", {"user": "3", "item": "4"}),
        ]

    @pytest.mark.parametrize(
        ("text", "value"), [("auto", "auto"), ("none", None), ("0,5.5", (0.0, 5.5)), ("-1, 1", (-1, 1))]
    )
    def test_ranges(self, text, value):
        assert parse_range(text) == value

    @pytest.mark.parametrize("text", ["5", "5,0", "a,b", "1,2,3", ""])
    def test_what_is_no_range(self, text):
        with pytest.raises(OptionError, match=r"--y-range"):
            parse_range(text)

    def test_layers(self):
        assert parse_layers("100, 50") == [100, 50]
        for text in ("", "a", "0", "1.5", "10,"):
            with pytest.raises(OptionError, match="--layers"):
                parse_layers(text)


class TestCommandLine:
    """From a file to predictions."""

    def test_train_evaluate_predict_show(self, graft, movielens, tmp_path):
        run = tmp_path / "run"
        words = ["train", "collab/ratings", movielens, "--out", run, "--epochs", 6, "--lr", 0.02, "--bs", 32, "--json"]
        status, output, errors = graft(*words, "--device", "cpu")
        assert status == 0, errors
        report = json.loads(output.splitlines()[-1])
        assert report["metrics"]["rmse"] < report["baselines"][0]["metrics"]["rmse"]
        assert [line["id"] for line in report["baselines"]] == ["core/mean", "collab/biases"]
        assert report["rows"]["train"] == 4 * report["rows"]["valid"]
        assert any("titles name several ids" in note for note in report["notes"])
        assert {path.name for path in run.iterdir()} >= {"model.graft", "history.csv", "losses.png", "ratings.png"}

        status, output, errors = graft("evaluate", run / "model.graft", movielens, "--json")
        assert status == 0, errors
        assert json.loads(output.splitlines()[-1])["metrics"]["rmse"] < report["metrics"]["rmse"]

        pairs = tmp_path / "pairs.csv"
        pairs.write_text("userId,movieId\n1,25\n")
        status, output, errors = graft(
            "predict",
            run / "model.graft",
            "1,25",
            "1,Film, The 25 (1925)",
            "nobody,25",
            pairs,
            "1,Film, The 5 (1905)",
            "--json",
        )
        assert status == 0, errors
        said = json.loads(output.splitlines()[-1])
        values = [row["prediction"] for row in said["predictions"]]
        assert len(values) == 4
        assert values[0] == pytest.approx(values[1]) == pytest.approx(values[3])
        assert values[2] != pytest.approx(values[0])
        assert "is the name of 2 ids (5, 15)" in said["warnings"][0]

        status, output, _ = graft("show", run / "model.graft")
        assert status == 0
        assert "collab/dot-bias" in output

    @pytest.mark.parametrize(
        ("text", "words", "answer"),
        [
            ("", [], "is empty"),
            ("user,item,rating\n", [], "0 rows"),
            ("user,item,stars\n1,2,good\n1,3,bad\n", [], "are no numbers"),
            ("user,item\n1,2\n", [], "3 are needed"),
            ("user,item,rating\n1,2,3\n2,3,4\n", ["--item", "itm"], "did you mean 'item'"),
            ("user,item,rating\n1,2,3\n2,3,4\n", ["--split", "time"], "needs a column of times"),
            ("user,item,rating\n1,2,3\n2,3,4\n", ["--split", "leave-last-out"], "none of the 2 users"),
            ("user,item,rating\n1,2,3\n2,3,4\n", ["--y-range", "5"], "LOW,HIGH"),
            ("user,item,rating\n1,2,3\n2,3,4\n", ["--factors", "0"], "n_factors=0"),
            ("user,item,rating\n1,2,3\n2,,4\n", ["--on-bad-item", "error"], "row 2"),
            ("one column\n1\n2\n", [], "separator"),
        ],
        ids=lambda value: str(value)[-18:],
    )
    def test_a_users_mistake_is_answered(self, graft, tmp_path, text, words, answer):
        (tmp_path / "r.csv").write_text(text)
        status, output, errors = graft("train", "collab/ratings", tmp_path / "r.csv", "--out", tmp_path / "run", *words)
        assert status == 2
        assert answer in errors
        assert "Traceback" not in output + errors
        assert not (tmp_path / "run").exists()

    def test_what_was_left_out_is_among_the_warnings(self, graft, ratings, tmp_path):
        rows = ratings.astype({"rating": object})
        rows.loc[3, "rating"] = "good"
        twice = pd.concat([rows, rows[10:14]])
        twice.to_csv(tmp_path / "r.csv", index=False, sep=";")
        words = ["--out", tmp_path / "run", "--epochs", 1, "--y-range", "1,4", "--json", "--split", "leave-last-out"]
        status, output, errors = graft("train", "collab/ratings", tmp_path / "r.csv", *words)
        assert status == 0, errors
        report = json.loads(output.splitlines()[-1])
        said = " ".join(report["warnings"])
        assert "no number (row 4 'good')" in said
        assert "4 rows repeat a pair" in said
        assert "lie outside y_range=(1, 4)" in said
        assert "the separator is ';'" in " ".join(report["notes"])
        assert report["rows"]["valid"] == 40


def test_a_source_that_is_nowhere(graft, tmp_path: Path):
    status, _, errors = graft("train", "collab/ratings", tmp_path / "nowhere.csv")
    assert status == 2
    assert "no such file or folder" in errors
