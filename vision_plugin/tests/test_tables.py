"""Tables of several labels, of numbers and of points, and the two jobs that read them."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from graftwork import DataError, MultiCategoryBlock, MultiHotBlock, OptionError, UnknownName
from graftwork.api import JobOptions, Plan, get_host, load_learner
from graftwork.cli.main import main
from graftwork_vision import ImageMultilabel, ImageRegression
from graftwork_vision.conformance import write_labels, write_spots
from graftwork_vision.tables import labels_source, numbers_source
from graftwork_vision.tasks import ImageMultilabelOptions, ImageRegressionOptions, parse_threshold

JOB = JobOptions(bs=16, workers=0, device="cpu", precision="fp32")


def table(folder: Path, *lines: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in ("a.png", "b.png", "c.png"):
        Image.new("RGB", (8, 8)).save(folder / name)
    (folder / "t.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


class TestLabels:
    """Cells with several labels."""

    @pytest.mark.parametrize(("mark", "said"), [(";", "';'"), ("|", "'|'"), (" ", "' '")])
    def test_the_mark_between_labels_is_found(self, tmp_path, mark, said):
        lines = ["file,tags,is_valid", f"a.png,sun{mark}sea,0", "b.png,sun,1", "c.png,,0"]
        samples = labels_source(table(tmp_path, *lines))
        assert [item.y for item in samples.items] == [["sun", "sea"], ["sun"], []]
        assert said in samples.notes[0]
        assert "1 of 3 pictures have no label" in samples.notes[1]
        assert samples.splitter(samples.items).valid.tolist() == [1]

    def test_a_blank_is_part_of_a_label_where_another_mark_is_used(self, tmp_path):
        samples = labels_source(table(tmp_path, "file,labels", "a.png,red car;tree", "b.png,red car"))
        assert [item.y for item in samples.items] == [["red car", "tree"], ["red car"]]

    def test_a_folder_of_pictures_beside_the_table(self, tmp_path):
        table(tmp_path / "images", "x")
        shutil.move(tmp_path / "images" / "t.csv", tmp_path / "t.csv")
        (tmp_path / "t.csv").write_text("file,labels\na.png,x y\n", encoding="utf-8")
        assert labels_source(tmp_path).items[0].x == tmp_path / "images" / "a.png"

    def test_an_unclear_column_is_asked_for(self, tmp_path):
        folder = table(tmp_path, "file,one,two", "a.png,x,y")
        with pytest.raises(OptionError, match="--label-col COLUMN; there are one, two"):
            labels_source(folder)
        assert labels_source(folder, column="two").items[0].y == ["y"]
        with pytest.raises(UnknownName, match="did you mean 'two'"):
            labels_source(folder, column="tow")


class TestNumbers:
    """Columns of numbers, or of points."""

    def test_rows_without_a_number_are_left_out_and_counted(self, tmp_path):
        samples = numbers_source(table(tmp_path, "file,age,note", "a.png,3,x", "b.png,,y", "c.png,5.5,z"))
        assert [item.y for item in samples.items] == [[3.0], [5.5]]
        assert "1 of 3 rows lack a number" in samples.notes[1]

    @pytest.mark.parametrize("names", ["x,y", "x1,y1", "nose_x,nose_y", "eye_x_2,eye_y_2", "X,Y"])
    def test_columns_called_so_are_points(self, tmp_path, names):
        samples = numbers_source(table(tmp_path, f"file,{names}", "a.png,3,4", "b.png,,4"))
        assert samples.items[0].y == [(3.0, 4.0)]
        assert all(math.isnan(v) for v in samples.items[1].y[0])

    def test_others_are_numbers_unless_asked_otherwise(self, tmp_path):
        folder = table(tmp_path, "file,max,may", "a.png,3,4")
        assert numbers_source(folder).items[0].y == [3.0, 4.0]
        assert numbers_source(folder, kind="points").items[0].y == [(3.0, 4.0)]
        with pytest.raises(OptionError, match="x and y in turn, and there are 1 columns"):
            numbers_source(folder, columns="max", kind="points")

    def test_a_word_among_the_numbers_is_said_with_its_row(self, tmp_path):
        folder = table(tmp_path, "file,age", "a.png,3", "b.png,old")
        with pytest.raises(DataError, match="row 3, column 'age': 'old' is no number"):
            numbers_source(folder, columns="age")
        with pytest.raises(OptionError, match="holds numbers only; say which with --target"):
            numbers_source(folder)


def test_thresholds_may_differ_by_class():
    block = MultiHotBlock(("a", "b"), (0.2, 0.8))
    assert block.predict(torch.tensor([[0.3, 0.3], [0.1, 0.9]])).tolist() == [[1, 0], [0, 1]]
    predicted, target = torch.tensor([[0.3, 0.3], [0.1, 0.9]]), torch.tensor([[1.0, 0], [0, 1.0]])
    for name in ("accuracy_multi", "f1_multi", "precision_multi"):
        metric = get_host().metrics.get(f"core/{name}")(threshold=(0.2, 0.8))
        metric.update(predicted, target)
        assert metric.compute() == 1.0
    with pytest.raises(OptionError, match="3 thresholds for 2 classes"):
        get_host().metrics.get("core/f1_multi")(threshold=(0.1, 0.2, 0.3)).update(predicted, target)
    with pytest.raises(OptionError, match="2 thresholds for a vocabulary of 3"):
        MultiHotBlock(("a", "b", "c"), (0.2, 0.8))


def test_thresholds_by_name_find_their_places_when_the_vocabulary_is_fitted():
    block = MultiCategoryBlock(threshold={"b": 0.3})
    assert MultiCategoryBlock.from_config(json.loads(json.dumps(block.to_config()))) == block
    plan = Plan.compile({"y": block}, inputs=[], targets=["y"], train=lambda _: iter([["b"], ["a", "c"]]))
    assert plan.target == MultiHotBlock(("a", "b", "c"), (0.5, 0.3, 0.5))
    assert MultiCategoryBlock(("a", "b"), {"b": 0.3}) == MultiCategoryBlock(("a", "b"), (0.5, 0.3))
    assert MultiCategoryBlock(threshold={}).threshold == 0.5
    with pytest.raises(OptionError, match="'cow', which is none of the 2 classes: 'a', 'b'"):
        MultiCategoryBlock(("a", "b"), {"cow": 0.3})
    with pytest.raises(OptionError, match=r"threshold=1\.5 of 'b' is not between"):
        MultiCategoryBlock(threshold={"b": 1.5})


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("0.4", 0.4),
        ("cat=0.3", {"cat": 0.3}),
        ("cat=0.3,dog=.6", {"cat": 0.3, "dog": 0.6}),
        (" cat = 0.3 , big dog = 0.6", {"cat": 0.3, "big dog": 0.6}),
        ("salt, pepper=0.3,a=b=0.6", {"salt, pepper": 0.3, "a=b": 0.6}),
    ],
)
def test_thresholds_are_read_from_a_word(text, found):
    assert parse_threshold(text) == found


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("high", "neither a number such as 0.5 nor CLASS=NUMBER"),
        ("", "neither a number"),
        ("cat=", "neither a number"),
        ("cat=high", "neither a number"),
        ("cat=0.3,dog", "neither a number"),
        ("1.5", r"1\.5 is not between 0 and 1"),
        ("nan", "nan is not between"),
        ("cat=0.3,dog=-1", "-1 is not between 0 and 1"),
        ("cat=0.3,cat=0.4", "names 'cat' twice"),
    ],
)
def test_thresholds_that_are_none_are_refused_before_any_data_is_read(text, reason):
    with pytest.raises(OptionError, match=reason):
        ImageMultilabel(ImageMultilabelOptions(threshold=text))


def test_thresholds_by_class_from_the_command_line(tmp_path, capsys):
    source = tmp_path / "s"
    source.mkdir()
    write_labels(source)
    options = ["--bs", "16", "--epochs", "1", "--workers", "0", "--device", "cpu", "--json"]
    words = ["train", "vision/multilabel", str(source), *options, "--out"]
    assert main([*words, str(tmp_path / "run"), "--threshold", "red=0.999999"]) in (0, None)
    assert "f1_multi" in json.loads(capsys.readouterr().out.splitlines()[-1])["metrics"]
    learn = load_learner(tmp_path / "run" / "model.graft")
    assert learn.plan.target == MultiHotBlock(("green", "red"), (0.5, 0.999999))
    assert "red" not in learn.predict(str(next(source.glob("*.png")))).value
    assert main([*words, str(tmp_path / "other"), "--threshold", "blue=0.3"]) == 2
    assert "threshold names 'blue', which is none of the 2 classes: 'green', 'red'" in capsys.readouterr().err


def test_several_labels_are_learned(tmp_path):
    task = ImageMultilabel(ImageMultilabelOptions(threshold=0.4))
    data = task.data(write_labels(tmp_path), JOB)
    learn = task.learner(data, JOB)
    learn.display = None
    task.train(learn, JobOptions(epochs=4), 1e-2)
    assert data.plan.target == MultiHotBlock(("green", "red"), 0.4)
    assert learn.history[-1]["f1_multi"] > 0.9
    assert set(learn.history[-1]) >= {"accuracy_multi", "f1_multi", "roc_auc_multi"}


def test_numbers_are_learned_in_their_own_units(tmp_path):
    task = ImageRegression(ImageRegressionOptions(size="24"))
    data = task.data(write_spots(tmp_path, as_points=False), JOB)
    learn = task.learner(data, JOB)
    learn.display = None
    task.train(learn, JobOptions(epochs=12), 1e-2)
    truth = {item.name: item.y[0] for item in task.read(tmp_path).items}
    assert learn.history[-1]["mae"] < 15  # of 60 to 190
    first = next(iter(truth))
    assert abs(learn.predict(first).value[0] - truth[first]) < 30


def test_points_from_the_command_line(tmp_path, capsys):
    source = tmp_path / "s"
    source.mkdir()
    write_spots(source, as_points=True)
    options = ["--size", "32", "--bs", "16", "--epochs", "1", "--workers", "0", "--device", "cpu", "--json"]
    run = str(tmp_path / "run")
    assert main(["train", "vision/regression", str(source), *options, "--out", run]) in (0, None)
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["baseline"]["id"] == "vision/mean-points"
    assert {Path(p).name for p in report["pictures"]} >= {"results.png", "top_losses.png"}
    main(["predict", f"{run}/model.graft", str(source / "0.png"), "--json"])
    (point,) = json.loads(capsys.readouterr().out.splitlines()[-1])["predictions"][0]["prediction"]
    assert np.isfinite(point).all()
    assert main(["train", "vision/regression", str(source), "--target", "z", "--out", run + "2"]) == 2
    assert "unknown column of table.csv 'z'" in capsys.readouterr().err
