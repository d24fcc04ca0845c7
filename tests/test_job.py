"""The one-command job, as a user types it: what it leaves behind, and what bad input gets."""

from __future__ import annotations

import csv
import io
import json
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from graftwork.api import Callback, JobOptions, Learner, TrainingError, TrainState
from graftwork.cli.main import main
from graftwork.job import train as run_job
from graftwork.resume import last_snapshot

COLOURS = {"blue": (40, 60, 200), "red": (200, 40, 60)}
QUICK = ["--model", "vision/small-cnn", "--size", "16", "--epochs", "1", "--bs", "8", "--device", "cpu"]


def picture(colour: tuple[int, int, int], seed: int, size: tuple[int, int] = (24, 20)) -> Image.Image:
    noise = np.random.default_rng(seed).integers(-30, 30, (*size, 3))
    return Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8))


def photos(root: Path, per_class: int = 20) -> Path:
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            picture(colour, i).save(root / name / f"{name}_{i:02}.png")
    return root


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return photos(tmp_path / "photos")


class Result:
    """Hold what a command printed and returned."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out.strip().splitlines()[-1])


@pytest.fixture
def graft(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Result:
        capfd.readouterr()
        code = main([str(word) for word in words])
        out, err = capfd.readouterr()
        return Result(code, out, err)

    return run


def train(graft: Any, source: Path, *more: object) -> Result:
    result: Result = graft("train", "vision/classification", source, *QUICK, *more)
    return result


def refused(result: Result, *parts: str) -> None:
    """Expect exit status 2 and one message without a traceback that holds all the parts."""
    assert result.code == 2, (result.out, result.err)
    assert "Traceback" not in result.err
    assert "Warning" not in result.err
    for part in parts:
        assert part in result.err, f"{part!r} is not in: {result.err}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Train once, in a process of its own, as a user does."""
    root = tmp_path_factory.mktemp("trained")
    source = photos(root / "ph ötos")
    words = ["train", "vision/classification", source, *QUICK[:-4], "--epochs", "6", "--bs", "8", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "graftwork", *map(str, words)],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return root, json.loads(done.stdout.strip().splitlines()[-1])


def test_a_run_is_a_folder_with_everything_in_it(trained: tuple[Path, dict[str, Any]]) -> None:
    root, report = trained
    run = root / report["run"]
    assert report["run"] == str(Path("runs") / "vision-classification-1")
    assert {p.name for p in run.iterdir()} >= {"config.json", "history.csv", "checkpoint", "model.graft", "batch.png"}
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    assert config["model"]["id"] == "vision/small-cnn"
    assert config["task"]["id"] == "vision/classification"
    with (run / "history.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    for name in report["pictures"]:
        with Image.open(root / name) as image:
            assert image.width > 200


def test_the_json_line_says_what_the_design_says(trained: tuple[Path, dict[str, Any]]) -> None:
    _, report = trained
    assert set(report) >= {
        "task",
        "run",
        "artifact",
        "seed",
        "rows",
        "metrics",
        "baseline",
        "epochs",
        "seconds",
        "warnings",
    }
    assert report["rows"] == {"train": 32, "valid": 8}
    assert report["metrics"]["accuracy"] == 1.0
    assert set(report["baseline"]) == {"id", "metrics"}
    assert report["seconds"]["total"] >= report["seconds"]["train"] > 0
    assert [e["epoch"] for e in report["epochs"]] == [1, 2, 3, 4, 5, 6]


def test_the_model_is_shown_beside_its_baselines(graft: Any, source: Path) -> None:
    result = train(graft, source)
    assert result.code == 0
    table = [line.split()[0] for line in result.out.split("accuracy")[-1].splitlines() if line.strip()]
    assert table[:4] == ["core/majority", "vision/nearest-mean", "vision/grey-logistic", "this"]


def test_evaluate_and_predict_use_the_artifact(trained: tuple[Path, dict[str, Any]], graft: Any) -> None:
    root, report = trained
    artifact = root / report["artifact"]
    fresh = photos(root / "fresh", per_class=5) if not (root / "fresh").exists() else root / "fresh"
    measured = graft("evaluate", artifact, fresh, "--json").json
    assert measured["rows"] == 10
    assert measured["metrics"]["accuracy"] == 1.0
    said = graft("predict", artifact, fresh / "red" / "red_00.png", "--json").json["predictions"]
    assert said[0]["prediction"] == "red"
    assert sum(said[0]["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_the_same_command_gives_the_same_artifact(graft: Any, source: Path) -> None:
    first, second = (train(graft, source, "--seed", 3, "--precision", "fp32", "--json").json for _ in range(2))
    assert first["run"] != second["run"]
    assert Path(first["artifact"]).read_bytes() == Path(second["artifact"]).read_bytes()


def test_json_keeps_standard_output_to_one_line(graft: Any, source: Path) -> None:
    result = train(graft, source, "--json")
    assert len(result.out.strip().splitlines()) == 1
    assert "train_loss" in result.err


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_no_such_path(graft: Any, source: Path) -> None:
    refused(train(graft, source.with_name("photo")), "photo", "photos", "no such file or folder")
    refused(graft("evaluate", "nothing.graft", source), "nothing.graft")


def test_an_empty_folder(graft: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(train(graft, tmp_path / "empty"), "empty")


def test_one_class_only(graft: Any, source: Path) -> None:
    for file in (source / "blue").iterdir():
        file.unlink()
    refused(train(graft, source), "only one class, 'red'")


def test_a_class_that_occurs_only_in_validation(graft: Any, tmp_path: Path) -> None:
    photos(tmp_path / "split" / "train")
    photos(tmp_path / "split" / "valid", per_class=3)
    (tmp_path / "split" / "valid" / "green").mkdir()
    picture((40, 200, 60), 0).save(tmp_path / "split" / "valid" / "green" / "one.png")
    refused(train(graft, tmp_path / "split"), "'green'", "does not occur in the training split", "one.png")


def test_broken_pictures_are_left_out_counted_and_listed(graft: Any, source: Path) -> None:
    (source / "red" / "no_picture.png").write_text("this is a letter, not a picture", encoding="utf-8")
    (source / "red" / "nothing.jpg").write_bytes(b"")
    whole = io.BytesIO()
    picture(COLOURS["red"], 1, (200, 200)).save(whole, "JPEG")
    (source / "blue" / "torn.jpg").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    result = train(graft, source, "--json")
    assert result.code == 0
    report = result.json
    assert "left out 3 item(s)" in report["warnings"][0]
    listed = (Path(report["run"]) / "bad_items.csv").read_text(encoding="utf-8")
    assert all(name in listed for name in ("no_picture.png", "nothing.jpg", "torn.jpg"))
    refused(train(graft, source, "--on-bad-item", "error"), "field 'x'")


def test_all_kinds_of_pictures_are_converted(graft: Any, source: Path) -> None:
    base = picture(COLOURS["red"], 1)
    base.convert("CMYK").save(source / "red" / "cmyk.jpg")
    base.convert("RGBA").save(source / "red" / "rgba.png")
    base.convert("P").save(source / "red" / "palette.png")
    base.convert("L").save(source / "red" / "grey.png")
    Image.fromarray(np.full((20, 20), 40_000, dtype=np.uint16)).save(source / "red" / "sixteen.png")
    report = train(graft, source, "--json").json
    assert report["rows"]["train"] + report["rows"]["valid"] == 45
    assert report["warnings"] == []


def test_unicode_and_spaces_in_names(trained: tuple[Path, dict[str, Any]]) -> None:
    root, report = trained
    config = json.loads((root / report["run"] / "config.json").read_text(encoding="utf-8"))
    assert config["source"].endswith("ph ötos")


def test_a_label_pattern_that_matches_nothing_names_the_file(graft: Any, source: Path) -> None:
    refused(train(graft, source, "--label-from", r"name:^(\d+)-"), "blue_00.png", repr(r"^(\d+)-"))
    refused(train(graft, source, "--label-from", "nome:x"), "nome:x", "parent")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["train", "vision/clasification", "photos"], ["vision/classification"]),
        (["train", "vision/classification", "photos", "--epoch", "3"], ["--epoch", "--epochs"]),
        (["train", "vision/classification", "photos", "--model", "resnet81"], ["resnet81", "resnet18"]),
        (["train", "vision/classification", "photos", "--epochs", "0"], ["epochs=0"]),
        (["train", "vision/classification", "photos", "--bs", "0"], ["bs=0"]),
        (["train", "vision/classification", "photos", "--valid-pct", "1.5"], ["valid_pct"]),
        (["train", "vision/classification", "photos", "--precision", "fp8"], ["fp8", "bf16"]),
        (["train", "vision/classification", "photos", "--device", "gpu7"], ["gpu7"]),
        (["train", "vision/classification", "photos", "--lr", "-1"], ["--lr -1"]),
        (["train", "vision/classification", "photos", "--checkpoint-every", "0"], ["--checkpoint-every 0"]),
        (["train", "vision/classification", "photos", "--size", "huge"], ["huge"]),
        (["evaluat", "a", "b"], ["evaluate"]),
    ],
)
def test_unknown_names_and_impossible_options(graft: Any, source: Path, words: list[str], parts: list[str]) -> None:
    assert source.name == "photos"
    refused(graft(*words), *parts)
    assert not Path("runs").exists() or not any(Path("runs").iterdir())


def test_a_loss_that_is_nan_stops_and_keeps_the_last_good_checkpoint(graft: Any, source: Path) -> None:
    result = graft(
        "train", "vision/classification", source, *QUICK, "--epochs", 3, "--lr", "1e38", "--precision", "fp32"
    )
    assert result.code == 1
    assert "Traceback" not in result.err
    assert "loss became" in result.err
    assert "learning rate" in result.err
    assert "no epoch was finished before" in result.err


class Poison(Callback):
    """Make the weights NaN in the second epoch."""

    def epoch_start(self, state: TrainState) -> None:
        if state.record["epoch"] == 2:
            with torch.no_grad():
                next(state.model.parameters()).fill_(float("nan"))


def test_the_last_good_checkpoint_is_kept_and_named(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graftwork_vision.tasks import ImageClassification, ImageClassificationOptions

    build = ImageClassification.learner

    def poisoned(self: Any, data: Any, job: Any) -> Learner:
        learner = build(self, data, job)
        learner.callbacks.append(Poison())
        return learner

    monkeypatch.setattr(ImageClassification, "learner", poisoned)
    job = JobOptions(model="vision/small-cnn", epochs=3, bs=8, device="cpu")
    task = ImageClassification(ImageClassificationOptions(size="16"))
    with pytest.raises(TrainingError, match=r"epoch 2.*last good epoch is in .*step-0{8}4-epoch\.graft"):
        run_job(task, source, job, tmp_path / "run", lambda _: None)
    kept = last_snapshot(tmp_path / "run")
    assert kept.manifest["epochs_done"] == 1
    assert all(bool(torch.isfinite(t).all()) for t in kept.weights.values())


@pytest.mark.skipif(os.name != "posix" or not Path("/dev/full").exists(), reason="needs a folder nobody can write")
def test_an_unwritable_out_is_said_before_training(graft: Any, source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    result = train(graft, source, "--out", tmp_path / "file" / "run")
    refused(result, "cannot be written")
    assert "train_loss" not in result.out
    refused(train(graft, source, "--out", tmp_path / "file"), "no empty folder")


def test_a_full_disk_is_said_before_training(graft: Any, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 10, 1_000_000))
    result = train(graft, source)
    refused(result, "1 MB are free", "make room")
    assert "train_loss" not in result.out


# -- artifacts that are not what they should be ------------------------------------------------------------------------


@pytest.fixture
def artifact(trained: tuple[Path, dict[str, Any]]) -> bytes:
    root, report = trained
    return (root / report["artifact"]).read_bytes()


def forged(whole: bytes, tmp_path: Path, change: Any) -> Path:
    """Write the archive anew with members changed."""
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    path = tmp_path / "forged.graft"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
    return path


CHANGES: dict[str, Any] = {
    "a missing member": lambda m: m.pop("weights.safetensors"),
    "an extra member": lambda m: m.update({"extra.bin": b"1"}),
    "a path that climbs out": lambda m: m.update({"../evil.py": b"print('evil')"}),
    "a pickle inside": lambda m: m.update({"weights.safetensors": b"\x80\x04cos\nsystem\n(S'touch evil'\ntR."}),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_forged_artifact_is_refused(what: str, artifact: bytes, tmp_path: Path, graft: Any, source: Path) -> None:
    path = forged(artifact, tmp_path, CHANGES[what])
    for words in (("show", path), ("predict", path, source / "red" / "red_00.png"), ("evaluate", path, source)):
        refused(graft(*words), "forged.graft")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("where", [0.001, 0.01, 0.3, 0.9, 0.9999])
def test_a_flipped_byte_anywhere_is_refused(where: float, artifact: bytes, tmp_path: Path, graft: Any) -> None:
    damaged = bytearray(artifact)
    damaged[int(len(damaged) * where)] ^= 0x10
    path = tmp_path / "damaged.graft"
    path.write_bytes(damaged)
    refused(graft("predict", path, "one.png"), "damaged.graft")


def test_a_file_that_is_no_artifact_is_refused(tmp_path: Path, graft: Any) -> None:
    path = tmp_path / "torch.graft"
    path.write_bytes(b"\x80\x02" + struct.pack("<Q", 7) * 50)
    refused(graft("show", path), "torch.graft")
