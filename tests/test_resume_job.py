"""`graft resume`: from every state a run can be left in, and what a bad one gets."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from graftwork.callbacks.checkpointer import checkpoint_files
from graftwork.cli.main import main
from graftwork.container import read_container, write_container

QUICK = ("--factors", 4, "--epochs", 3, "--bs", 64, "--device", "cpu", "--deterministic", "--checkpoint-every", 3)
LOOP = (*QUICK, "--engine", "torch")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    user, item = np.nonzero(rng.random((40, 60)) < 0.3)
    rating = 3 + rng.choice([-1, 1], 40)[user] * rng.choice([-1, 1], 60)[item]
    frame = pd.DataFrame({"userId": user, "movieId": item, "rating": rating.astype(float)})
    path = tmp_path_factory.mktemp("ratings") / "ratings.csv"
    frame.to_csv(path, index=False)
    return path


class Result:
    """Hold what a command printed and returned."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out.strip().splitlines()[-1])


Graft = Callable[..., Result]


@pytest.fixture
def graft(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Graft:
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Result:
        capfd.readouterr()
        code = main([str(word) for word in words])
        return Result(code, *capfd.readouterr())

    return run


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Path:
    """Train without any trouble."""
    run = tmp_path_factory.mktemp("done") / "run"
    words = ["train", "collab/ratings", source, *LOOP, "--out", run]
    assert main([str(word) for word in words]) == 0
    return run


@pytest.fixture
def broken_off(done: Path, tmp_path: Path) -> Path:
    """Copy the run as it was after its last checkpoint."""
    run = tmp_path / "run"
    shutil.copytree(done, run)
    for path in run.iterdir():
        if path.name not in ("config.json", "checkpoint"):
            path.unlink()
    return run


def change(path: Path, **entries: Any) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | entries), encoding="utf-8")


def refused(result: Result, *parts: str) -> None:
    assert result.code == 2, (result.out, result.err)
    assert "Traceback" not in result.err
    for part in parts:
        assert part in result.err, f"{part!r} is not in: {result.err}"


def the_same(run: Path, whole: Path) -> None:
    assert (run / "model.graft").read_bytes() == (whole / "model.graft").read_bytes()
    assert {p.name for p in run.iterdir()} == {p.name for p in whole.iterdir()}
    with (run / "history.csv").open(encoding="utf-8") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2", "3"]


# -- states ------------------------------------------------------------------------------------------------------------


def test_a_finished_run_says_so_and_is_left_alone(graft: Graft, done: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in done.rglob("*")}
    result = graft("resume", done, "--json")
    assert result.code == 0
    assert "is finished" in result.err
    assert result.json["metrics"].keys() >= {"rmse"}
    assert Path(result.json["artifact"]) == done / "model.graft"
    assert {path: path.stat().st_mtime_ns for path in done.rglob("*")} == before


def test_between_the_last_checkpoint_and_the_export(graft: Graft, broken_off: Path, done: Path) -> None:
    result = graft("resume", broken_off, "--json")
    assert result.code == 0, result.err
    assert "going on from step-" in result.err
    assert result.json["epochs"][-1]["epoch"] == 3
    the_same(broken_off, done)
    whole = json.loads((done / "report.json").read_text(encoding="utf-8"))
    for name in ("baselines", "baseline", "metrics", "rows", "task", "seed"):
        assert result.json[name] == whole[name]


def test_in_the_middle_of_the_export(graft: Graft, broken_off: Path, done: Path) -> None:
    (broken_off / ".model.graft.1234abcd.part").write_bytes(b"torn")
    (broken_off / "checkpoint" / ".step-000000030.graft.00ff00ff.part").write_bytes(b"torn")
    (broken_off / "history.csv").write_text("epoch\n1\n2\n3\n", encoding="utf-8")
    (broken_off / "losses.png").write_bytes(b"half a picture")
    assert graft("resume", broken_off).code == 0
    the_same(broken_off, done)
    assert not list(broken_off.rglob("*.part"))


@pytest.mark.parametrize("prepared", [True, False], ids=["before the first checkpoint", "while preparing"])
def test_a_run_without_checkpoints_starts_anew(graft: Graft, broken_off: Path, done: Path, prepared: bool) -> None:
    shutil.rmtree(broken_off / "checkpoint")
    if not prepared:
        config = json.loads((broken_off / "config.json").read_text(encoding="utf-8"))
        kept = {name: config[name] for name in ("task", "source", "job")}
        (broken_off / "config.json").write_text(json.dumps(kept), encoding="utf-8")
    result = graft("resume", broken_off)
    assert result.code == 0, result.err
    assert "no checkpoint yet; it starts anew" in result.out
    assert ("baseline " in result.out) is not prepared
    the_same(broken_off, done)


def test_a_run_is_not_overwritten_but_named(graft: Graft, broken_off: Path, source: Path) -> None:
    refused(
        graft("train", "collab/ratings", source, *QUICK, "--out", broken_off), "graft resume", "holds a run already"
    )


def test_a_mistake_leaves_no_folder(graft: Graft, source: Path, tmp_path: Path) -> None:
    refused(graft("train", "collab/ratings", source, *QUICK, "--item", "film", "--out", tmp_path / "new"), "film")
    assert not (tmp_path / "new").exists()


def test_a_relative_source_is_found_from_elsewhere(
    graft: Graft, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(source.parent)
    assert graft("train", "collab/ratings", source.name, *QUICK, "--out", tmp_path / "run").code == 0
    whole = (tmp_path / "run" / "model.graft").read_bytes()
    for name in ("model.graft", "report.json"):
        (tmp_path / "run" / name).unlink()
    monkeypatch.chdir(tmp_path)
    assert graft("resume", "run").code == 0
    assert (tmp_path / "run" / "model.graft").read_bytes() == whole


# -- what is no run, or another one ------------------------------------------------------------------------------------


def test_a_folder_that_is_no_run(graft: Graft, tmp_path: Path) -> None:
    refused(graft("resume", tmp_path), "is no run", "config.json")
    refused(graft("resume", tmp_path / "none"), "is no folder")
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    refused(graft("resume", tmp_path), "cannot be read")
    (tmp_path / "config.json").write_text('{"task": "vision"}', encoding="utf-8")
    refused(graft("resume", tmp_path), "names no task")


def test_a_config_of_another_version_or_task(graft: Graft, broken_off: Path) -> None:
    config = json.loads((broken_off / "config.json").read_text(encoding="utf-8"))
    change(broken_off / "config.json", job=config["job"] | {"epochz": 3})
    refused(graft("resume", broken_off), "epochz", "epochs", "newer")
    change(broken_off / "config.json", job=config["job"], task={"id": "collab/rating", "config": {}})
    refused(graft("resume", broken_off), "collab/ratings")


@pytest.mark.skipif(os.name != "posix", reason="folders are locked on POSIX")
def test_two_processes_do_not_work_on_one_run(graft: Graft, broken_off: Path, done: Path) -> None:
    code = "import sys, time; from graftwork.run import alone_in\nfrom pathlib import Path\n"
    code += "with alone_in(Path(sys.argv[1])): print('mine', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(broken_off)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "mine\n"
        refused = graft("resume", broken_off)
        other.kill()
    assert refused.code == 2
    assert f"another process works on {broken_off}" in refused.err
    assert graft("resume", broken_off).code == 0
    assert (broken_off / "model.graft").read_bytes() == (done / "model.graft").read_bytes()


def test_another_task_or_model_is_refused_with_what_differs(graft: Graft, broken_off: Path) -> None:
    config = json.loads((broken_off / "config.json").read_text(encoding="utf-8"))
    change(
        broken_off / "config.json", task={"id": "collab/ratings", "config": config["task"]["config"] | {"factors": 9}}
    )
    refused(graft("resume", broken_off), "'user_factors.weight' is (", ", 4) in the file", ", 9) in the model")
    change(broken_off / "config.json", task={"id": "collab/ranking", "config": {}})
    refused(graft("resume", broken_off), "training data are not those")


def test_changed_data_are_refused(graft: Graft, broken_off: Path, source: Path, tmp_path: Path) -> None:
    lines = source.read_text(encoding="utf-8").splitlines()
    user, item, _ = lines[400].split(",")
    other = tmp_path / "other.csv"
    other.write_text("\n".join([*lines[:400], f"{user},{item},3.0", *lines[401:]]) + "\n", encoding="utf-8")
    change(broken_off / "config.json", source=str(other))
    refused(graft("resume", broken_off), "training data are not those the run began with")
    change(broken_off / "config.json", source=str(tmp_path / "gone.csv"))
    refused(graft("resume", broken_off), "gone.csv", "no such file")


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("harm", [flipped, cut_short], ids=lambda harm: harm.__name__)
def test_a_damaged_checkpoint_is_passed_over(
    graft: Graft, broken_off: Path, done: Path, harm: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    files = checkpoint_files(broken_off / "checkpoint")
    harm(files[-1])
    result = graft("resume", broken_off)
    assert result.code == 0, result.err
    assert f"{files[-1].name} is refused" in caplog.text
    assert "the checkpoint before it is used" in caplog.text
    assert f"going on from {files[-2].name}" in result.out
    the_same(broken_off, done)


def test_damage_everywhere_is_refused(graft: Graft, broken_off: Path) -> None:
    for file in checkpoint_files(broken_off / "checkpoint"):
        cut_short(file)
    refused(graft("resume", broken_off), "all of them damaged")


def test_a_checkpoint_of_a_later_version_is_not_passed_over(graft: Graft, broken_off: Path) -> None:
    last = checkpoint_files(broken_off / "checkpoint")[-1]
    found = read_container(last, copy=True)
    manifest = {name: value for name, value in found.manifest.items() if name not in ("members", "format")}
    members = {name: bytes(data) for name, data in found.members.items()}
    write_container(last, manifest=manifest | {"layout": 2, "graftwork": "9.0"}, members=members)
    refused(graft("resume", broken_off), last.name, "9.0", "layout 2")
    write_container(last, manifest=manifest | {"format": 2, "graftwork": "9.0"}, members=members)
    refused(graft("resume", broken_off), last.name, "format 2", "9.0")


# -- signals, in processes as a user starts them -----------------------------------------------------------------------


def signalled(number: int, run: Path, *words: object) -> tuple[int, str]:
    """Start a command, signal it when it has written a new checkpoint, and return how it ended and what it said."""
    known = {path.name for path in (run / "checkpoint").glob("*.graft")}
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "graftwork", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env,
    )  # fmt: skip
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        if {path.name for path in (run / "checkpoint").glob("*.graft")} - known:
            break
        time.sleep(0.001)
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    return process.returncode, said


@pytest.mark.long
@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_a_run_stopped_by_every_signal_goes_on(source: Path, tmp_path: Path, graft: Graft) -> None:
    words = ["train", "collab/ratings", source, *LOOP[:3], 20, *LOOP[4:]]
    run = tmp_path / "run"
    code, said = signalled(signal.SIGTERM, run, *words, "--out", run)
    assert code == 143, said
    assert "stopped by SIGTERM; the run is saved in" in said
    assert f"go on with: graft resume {run}" in said
    code, said = signalled(signal.SIGINT, run, "resume", run)
    assert code == 130, said
    assert "stopped by SIGINT" in said
    assert "Traceback" not in said
    assert f"go on with: graft resume {run}" in said
    code, said = signalled(signal.SIGKILL, run, "resume", run)
    assert code == -9, said
    assert graft("resume", run).code == 0
    assert graft(*words, "--out", tmp_path / "whole").code == 0
    assert (run / "model.graft").read_bytes() == (tmp_path / "whole" / "model.graft").read_bytes()
