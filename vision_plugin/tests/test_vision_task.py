"""The task: what it chooses, and the command line from a folder of pictures to predictions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from graftwork.api import JobOptions, OptionError, UserError
from graftwork_vision import ImageClassification, ImageTensorBlock
from graftwork_vision.sources import read_source
from graftwork_vision.survey import survey
from graftwork_vision.tasks import ImageClassificationOptions, parse_size

JOB = JobOptions(bs=8, workers=0, device="cpu", precision="fp32")


def task(**options) -> ImageClassification:
    return ImageClassification(ImageClassificationOptions(**options))


def final(data) -> ImageTensorBlock:
    return data.plan.fields["x"].final


def folder_of(root: Path, sizes: list[tuple[int, int]], mode: str = "RGB") -> Path:
    """Two classes with pictures of the given (height, width), one class lighter than the other."""
    rng = np.random.default_rng(0)
    for label, base in (("a", 20), ("b", 180)):
        (root / label).mkdir(parents=True)
        for i, size in enumerate(sizes):
            pixels = rng.integers(base, base + 50, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).convert(mode).save(root / label / f"{label}{i}.png")
    return root


class TestChoices:
    """What is left to auto is chosen by looking at some pictures."""

    def test_small_pictures_of_one_size_stay_as_they_are(self, two_classes):
        data = task().data(two_classes, JOB)
        assert final(data) == ImageTensorBlock(3, (16, 16), "standard")
        assert not data.plan.random_items
        assert [type(s.transform).__name__ for s in data.plan.fields["x"].batch_steps] == ["ToFloat", "Normalize"]
        assert task().learner(data, JOB).model_id == "vision/small-cnn"

    @pytest.mark.parametrize("sizes", [[(16, 16), (16, 17)] * 4, [(70, 70)] * 8])
    def test_others_become_128(self, tmp_path, sizes):
        data = task().data(folder_of(tmp_path / "p", sizes), JOB)
        assert final(data).size == (128, 128)
        names = [type(s.transform).__name__ for s in data.plan.fields["x"].batch_steps]
        assert names[:2] == ["ToFloat", "Flip"]
        assert names[2:] == ["Perspective", "Rotate", "Zoom", "Brightness", "Contrast", "Normalize"]
        assert task().learner(data, JOB).model_id == "vision/resnet18"

    def test_what_is_asked_for_is_done(self, two_classes):
        asked = task(size="20x24", resize="squish", augment="flip", normalize="none", channels="grey")
        data = asked.data(two_classes, JobOptions(bs=8, workers=0, valid_pct=0.5))
        assert final(data) == ImageTensorBlock(1, (20, 24), "unit")
        assert data.valid.num_items == 10
        assert "method='squish'" in data.plan.explain()
        assert [type(s.transform).__name__ for s in data.plan.fields["x"].batch_steps] == ["ToFloat", "Flip"]

    def test_grey_pictures_have_one_channel(self, tmp_path):
        data = task().data(folder_of(tmp_path / "p", [(16, 16)] * 5, "L"), JOB)
        assert final(data).channels == 1

    def test_one_picture_of_colour_makes_all_rgb(self, tmp_path):
        root = folder_of(tmp_path / "p", [(16, 16)] * 5, "L")
        Image.new("RGB", (16, 16)).save(root / "a" / "colour.png")
        assert final(task().data(root, JOB)).channels == 3

    def test_turned_pictures_count_as_they_are_seen(self, tmp_path):
        root = folder_of(tmp_path / "p", [(16, 24)] * 3)
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        Image.new("RGB", (16, 24)).save(root / "a" / "turned.jpg", exif=exif)
        assert survey(read_source(root)).size == (16, 24)

    def test_broken_pictures_say_nothing(self, two_classes):
        (two_classes / "dark" / "zero.png").touch()
        found = survey(read_source(two_classes))
        assert found.size == (16, 16)
        assert not found.grey

    def test_a_table_is_explained(self, two_classes):
        rows = [f"{p.relative_to(two_classes)},{p.parent.name}" for p in sorted(two_classes.rglob("*.png"))]
        (two_classes / "labels.csv").write_text("\n".join(["file,label", *rows]))
        made = task()
        made.data(two_classes / "labels.csv", JOB)
        assert made.notes() == ["labels.csv: paths are in column 'file', labels in column 'label'"]

    @pytest.mark.parametrize(("model", "lr"), [("vision/small-cnn", 1e-2), ("vision/lenet5", 1e-2), ("resnet18", 5e-3)])
    def test_learning_rates(self, two_classes, model, lr):
        made = task()
        learner = made.learner(made.data(two_classes, JOB), JobOptions(model=model, device="cpu"))
        assert made.default_lr(learner) == lr

    @given(st.integers(1, 4096), st.integers(1, 4096))
    def test_sizes_are_read(self, height, width):
        assert parse_size(f"{height}x{width}") == (height, width)
        assert parse_size(str(height)) == (height, height)

    @pytest.mark.parametrize("text", ["0", "-3", "x", "12x", "1.5", "3x0", "5000", "", "12 x 14"])
    def test_other_sizes_are_refused(self, text):
        with pytest.raises(OptionError, match="no side in pixels"):
            parse_size(text)

    def test_config_goes_through_json(self):
        made = task(size="96", augment="none", label_from=r"name:^(.+)_\d+")
        again = ImageClassification.from_config(json.loads(json.dumps(made.to_config())))
        assert again.options == made.options

    def test_weights_that_are_nowhere(self, two_classes):
        made = task(weights="nowhere/w.safetensors")
        data = made.data(two_classes, JOB)
        with pytest.raises(UserError, match="no such file; use weights=None"):
            made.learner(data, JobOptions(model="resnet18", device="cpu"))


class TestTestLoader:
    """All of a source, as the trained plan encodes it."""

    def test_everything_is_in_it_once(self, two_classes):
        made = task()
        plan = made.data(two_classes, JOB).plan
        loader = made.test_loader(two_classes, plan, JOB)
        assert loader.num_items == 20
        assert sorted(i for b in loader for i in b.index.tolist()) == list(range(20))
        labels = [plan.target.vocab[y] for b in loader for y in b.y]
        assert labels == ["dark"] * 10 + ["light"] * 10

    def test_an_unknown_class_is_left_out_and_listed(self, two_classes, make_classes, tmp_path):
        made = task()
        plan = made.data(two_classes, JOB).plan
        other = make_classes(tmp_path / "other", {"dark": 2, "purple": 3})
        loader = made.test_loader(other, plan, JOB)
        assert sum(b.size for b in loader) == 2
        assert len(loader.bad_items) == 3
        assert "'purple'" in next(iter(loader.bad_items.values()))


TRAIN = ("train", "vision/classification")
QUICK = ("--epochs", 2, "--bs", 8, "--workers", 0, "--device", "cpu", "--precision", "fp32")


@pytest.fixture
def graft(capsys):
    """Run the command line in this process; return its status, standard output and standard error."""
    from graftwork.cli.main import main

    def run(*arguments: object) -> tuple[int, str, str]:
        status = main([str(a) for a in arguments])
        found = capsys.readouterr()
        return status, found.out, found.err

    return run


class TestCommandLine:
    """From a folder of pictures to predictions, and what bad input gets."""

    def test_train_evaluate_predict(self, graft, two_classes, tmp_path):
        status, out, err = graft(*TRAIN, two_classes, *QUICK, "--epochs", 6, "--out", tmp_path / "run", "--json")
        assert status == 0, err
        report = json.loads(out.splitlines()[-1])
        assert report["task"] == "vision/classification"
        assert report["rows"] == {"train": 16, "valid": 4}
        assert report["metrics"]["accuracy"] == 1.0
        assert [b["id"] for b in report["baselines"]] == [
            "core/majority",
            "vision/nearest-mean",
            "vision/grey-logistic",
        ]
        assert report["warnings"] == []

        status, out, err = graft("evaluate", report["artifact"], two_classes, "--json")
        assert status == 0, err
        assert json.loads(out.splitlines()[-1])["rows"] == 20
        assert json.loads(out.splitlines()[-1])["metrics"]["accuracy"] == 1.0

        pictures = [two_classes / "dark" / "dark_3.png", two_classes / "light" / "light_1.png"]
        status, out, err = graft("predict", report["artifact"], *pictures, "--json")
        assert status == 0, err
        predictions = json.loads(out.splitlines()[-1])["predictions"]
        assert [p["prediction"] for p in predictions] == ["dark", "light"]
        assert [p["input"] for p in predictions] == [str(p) for p in pictures]

    def refused(self, graft, *arguments: object) -> str:
        """Run what must be refused; return the message, which has no traceback."""
        status, out, err = graft(*TRAIN, *arguments)
        assert status == 2, err
        assert out == ""
        assert "Traceback" not in err
        return err

    def test_no_such_path(self, graft, tmp_path):
        (tmp_path / "pictures").mkdir()
        assert "pictures" in self.refused(graft, tmp_path / "picture", "--out", tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_an_empty_folder(self, graft, tmp_path):
        (tmp_path / "p").mkdir()
        assert "no files ending in" in self.refused(graft, tmp_path / "p", "--out", tmp_path / "run")

    def test_one_class_only(self, graft, tmp_path, make_classes):
        make_classes(tmp_path / "p", {"only": 6})
        assert "only one class, 'only'" in self.refused(graft, tmp_path / "p", "--out", tmp_path / "run")

    def test_a_class_only_in_validation(self, graft, tmp_path, make_classes):
        make_classes(tmp_path / "p" / "train", {"a": 4, "b": 4})
        make_classes(tmp_path / "p" / "valid", {"a": 2, "c": 2})
        message = self.refused(graft, tmp_path / "p", "--out", tmp_path / "run")
        assert "'c' does not occur in the training split" in message

    def test_a_label_pattern_that_matches_nothing(self, graft, two_classes, tmp_path):
        message = self.refused(graft, two_classes, "--label-from", r"name:^(\d+)", "--out", tmp_path / "run")
        assert "matches nothing in 'dark_" in message or "matches nothing in 'light_" in message

    @pytest.mark.parametrize(
        ("option", "value", "hint"),
        [
            ("--model", "vision/resnet81", "vision/resnet18"),
            ("--size", "big", "no side in pixels such as 128"),
            ("--label-from", "folder", "parent, name:REGEX or csv:COLUMN"),
            ("--weights", "nowhere/w.pth", "weights"),
            ("--resize", "stretch", "squish"),
            ("--lable-from", "parent", "--label-from"),
        ],
    )
    def test_bad_options(self, graft, two_classes, tmp_path, option, value, hint):
        arguments = (two_classes, option, value, "--out", tmp_path / "run")
        if option == "--weights":
            arguments += ("--model", "vision/resnet18")
        assert hint in self.refused(graft, *arguments)

    def test_broken_pictures_are_left_out_counted_and_listed(self, graft, two_classes, tmp_path):
        buffer = (two_classes / "dark" / "dark_0.png").read_bytes()
        (two_classes / "dark" / "half.png").write_bytes(buffer[: len(buffer) // 2])
        (two_classes / "light" / "zero.jpg").touch()
        (two_classes / "light" / "text.jpeg").write_text("not a picture")
        status, out, err = graft(*TRAIN, two_classes, *QUICK, "--out", tmp_path / "run", "--json")
        assert status == 0, err
        warnings = json.loads(out.splitlines()[-1])["warnings"]
        assert "left out 3 item(s)" in warnings[0]
        listed = (tmp_path / "run" / "bad_items.csv").read_text()
        for name, reason in (("half.png", "truncated"), ("zero.jpg", "is empty"), ("text.jpeg", "not a picture")):
            assert any(name in line and reason in line for line in listed.splitlines()), listed

    def test_the_first_broken_picture_stops_if_asked_to(self, graft, two_classes, tmp_path):
        (two_classes / "light" / "zero.jpg").touch()
        message = self.refused(graft, two_classes, "--on-bad-item", "error", *QUICK, "--out", tmp_path / "run")
        assert "zero.jpg: the file is empty (0 bytes)" in message

    def test_pictures_of_every_kind_are_used_together(self, graft, tmp_path):
        root = folder_of(tmp_path / "pictures of Zürich", [(20, 16)] * 6)
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        base = Image.new("RGB", (20, 16), (200, 200, 200))
        base.convert("CMYK").save(root / "b" / "print.jpg")
        base.convert("RGBA").save(root / "b" / "glass \N{CAT FACE}.png")
        base.convert("P").save(root / "b" / "logo (1).gif")
        base.convert("L").save(root / "b" / "grey.png")
        base.save(root / "b" / "turned.jpg", exif=exif)
        Image.fromarray(np.full((16, 20), 51_400, np.uint16)).save(root / "b" / "deep.png")
        status, out, err = graft(*TRAIN, root, *QUICK, "--size", 16, "--out", tmp_path / "run", "--json")
        assert status == 0, err
        report = json.loads(out.splitlines()[-1])
        assert report["warnings"] == []
        assert report["rows"]["train"] + report["rows"]["valid"] == 18
        pictures = sorted(p for p in (root / "b").iterdir() if p.stem[0] not in "b")
        status, out, err = graft("predict", report["artifact"], *pictures, "--json")
        assert status == 0, err
        assert len(json.loads(out.splitlines()[-1])["predictions"]) == 6

    def test_idx_files(self, graft, tmp_path):
        import gzip
        import struct

        (tmp_path / "digits").mkdir()
        for part, count in (("train", 40), ("t10k", 10)):
            labels = np.arange(count, dtype=np.uint8) % 2
            pixels = (labels[:, None, None] * 150 + np.zeros((count, 12, 12), np.uint8)).astype(np.uint8)
            for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
                head = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
                path = tmp_path / "digits" / f"{part}-{kind}-ubyte.gz"
                path.write_bytes(gzip.compress(head + array.tobytes()))
        arguments = (tmp_path / "digits", *QUICK, "--epochs", 4, "--model", "vision/lenet5", "--json")
        status, out, err = graft(*TRAIN, *arguments, "--out", tmp_path / "run")
        assert status == 0, err
        report = json.loads(out.splitlines()[-1])
        assert report["rows"] == {"train": 40, "valid": 10}
        assert report["metrics"]["accuracy"] == 1.0
