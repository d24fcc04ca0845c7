"""The page of a run, and what tracking and profiling add to a job."""

from __future__ import annotations

import json
import shlex
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from graftwork.api import Callback, TrainState
from graftwork.cli.main import main
from graftwork.report import write_page
from graftwork.run import Report, finished, write_csv

VOID = {"meta", "img"}
EVIL = "<script>alert('x')</script> & \"quotes\" ' {{ 7 * 7 }} </style>"


class Page(HTMLParser):
    """Read a page: its text, pictures and links; complain about elements that are not closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.links: list[str | None] = []
        self.texts: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        assert not any(name.startswith("on") for name in given)
        self.links += [given[name] for name in ("href", "src", "action") if name in given]
        if tag == "img":
            self.images.append(given)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data.strip())

    @property
    def text(self) -> str:
        return "\n".join(filter(None, self.texts))


def a_report(run: Path, **changes: Any) -> Report:
    facts: dict[str, Any] = {
        "task": "vision/classification",
        "run": str(run),
        "artifact": str(run / "model.graft"),
        "seed": 42,
        "rows": {"train": 7200, "valid": 1800},
        "metrics": {"valid_loss": 0.25, "accuracy": 0.75, "rmse": 2.5},
        "baseline": {"id": "core/majority", "metrics": {"accuracy": 0.5, "rmse": 2.0}},
        "baselines": [{"id": "core/majority", "metrics": {"accuracy": 0.5, "rmse": 2.0}}],
        "epochs": [{"epoch": 1, "train_loss": float("nan"), "accuracy": 0.75, "seconds": 1.5}],
        "seconds": {"prepare": 1.0, "train": 75.0, "total": 7300.0},
    }
    return Report(**{**facts, **changes})


def a_run(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    config = {
        "task": {"id": "vision/classification", "config": {"size": "64"}},
        "source": "some photos",
        "job": {"epochs": 3, "model": "auto", "track": ["tensorboard"], "profile": False},
        "lr": 0.002,
        "model": {"id": "vision/small-cnn", "config": {"bins": list(range(1000))}},
        "loss": {"y": "core/cross_entropy"},
        "metrics": {"accuracy": True, "rmse": False},
        "parameters": 278890,
        "runs_on": "cpu, fp32",
        "environment": {"python": "3.11", "cores": 2},
    }
    (folder / "config.json").write_text(json.dumps({**config, **changes}), encoding="utf-8")
    columns = ["epoch", "train_loss", "valid_loss", "accuracy", "rmse", "seconds", EVIL]
    write_csv(folder / "history.csv", [dict.fromkeys(columns, 1.0)])
    return folder


def test_the_page_says_what_was_asked_and_what_came_out(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run-1")
    Image.new("RGB", (300, 100)).save(run / "losses.png")
    (run / "profile.txt").write_text("part  ms\n", encoding="utf-8")
    path = write_page(run, a_report(run, notes=["a note"], warnings=["a warning"], pictures=[str(run / "losses.png")]))
    page = Page(path)
    said = page.text
    for part in (
        "graft train vision/classification 'some photos' --size 64 --epochs 3 --track tensorboard",
        "Better than its strongest baseline: accuracy 0.7500; the strongest baseline, core/majority, has 0.5000.",
        "7,200 items",
        "278,890",
        "core/cross_entropy",
        "a note",
        "a warning",
        "nan",
        "2 h 1 min",
        "1 min 15 s",
        "cpu, fp32",
        "part  ms",
        "accuracy ↑",
        "rmse ↓",
    ):
        assert part in said, part
    assert page.images[0]["alt"] == "Losses and learning rate"
    assert (page.images[0]["width"], page.images[0]["height"]) == ("300", "100")
    assert len(path.read_text(encoding="utf-8")) < 20_000
    assert not list(run.glob("*.part"))


def test_a_tasks_own_option_stands_for_the_common_one(tmp_path: Path) -> None:
    task = {"id": "tabular/classification", "config": {"target": "paid", "epochs": 7}}
    run = a_run(tmp_path / "run", task=task, job={"epochs": 5, "profile": True})
    page = Page(write_page(run, a_report(run)))
    assert "graft train tabular/classification 'some photos' --target paid --epochs 7 --profile" in page.text
    assert page.texts[page.texts.index("epochs") + 1] == "7"
    assert page.texts[page.texts.index("profile") + 1] == "yes"


def test_the_best_of_each_column_is_marked(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    text = write_page(run, a_report(run)).read_text(encoding="utf-8")
    assert '<td class="best">0.7500</td>' in text
    assert '<td class="best">2.0000</td>' in text
    assert text.count('class="best"') == 2


@pytest.mark.parametrize(
    ("mine", "theirs", "verdict"),
    [
        ({"rmse": 1.0}, {"rmse": 2.0}, "Better than"),
        ({"rmse": 3.0}, {"rmse": 2.0}, "NOT better than"),
        ({"accuracy": 0.5}, {"accuracy": 0.5}, "No better than"),
        ({"accuracy": float("nan")}, {"accuracy": 0.5}, "NOT better than"),
        ({"valid_loss": 1.0}, {}, "There is no baseline"),
    ],
    ids=["better", "worse", "same", "nan", "none"],
)
def test_the_verdict_knows_which_way_is_up(mine: Any, theirs: Any, verdict: str, tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    baseline = {"id": "core/mean", "metrics": theirs} if theirs else {}
    report = a_report(run, metrics=mine, baseline=baseline, baselines=[baseline] if baseline else [])
    assert verdict in Page(write_page(run, report)).text


def test_nothing_from_the_data_becomes_markup(tmp_path: Path) -> None:
    run = a_run(
        tmp_path / "<b>run",
        source=EVIL,
        task={"id": "vision/classification", "config": {"label_from": EVIL}},
        model={"id": EVIL, "config": {EVIL: EVIL}},
        environment={EVIL: EVIL},
    )
    (run / "profile.txt").write_text(EVIL, encoding="utf-8")
    Image.new("RGB", (30, 30)).save(run / "top_<i>.png")
    report = a_report(
        run,
        notes=[EVIL],
        warnings=[EVIL],
        pictures=[str(run / "top_<i>.png")],
        baselines=[{"id": EVIL, "metrics": {"accuracy": 0.5}}],
        epochs=[{"epoch": 1, EVIL: 0.5}],
    )
    page = Page(write_page(run, report))
    assert not {"script", "i", "b", "iframe", "link", "object"} & set(page.tags)
    assert page.text.count(EVIL) >= 8
    assert all(link is not None and link.startswith("data:image/png;base64,") for link in page.links)


@given(st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1))
def test_any_text_is_shown_as_it_is(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    run = a_run(tmp_path_factory.getbasetemp() / "any", source=text)
    path = write_page(run, a_report(run, notes=[text]))
    page = Page(path)
    assert text.strip() in page.texts
    command = page.texts[page.texts.index("What was done") + 2]
    assert text.strip() in command or shlex.quote(text).strip() in command


# -- a job that does it all --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name, colour in (("blue & <green>", (40, 60, 200)), ("red", (200, 40, 60))):
        (root / name).mkdir()
        for i in range(20):
            pixels = np.array(colour) + rng.integers(-30, 30, (16, 16, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / name / f"{i:02}.png")
    return root


def train(source: Path, out: Path, *more: str) -> int:
    words = ["train", "vision/classification", source, "--model", "vision/small-cnn", "--size", "16", "--bs", "8"]
    return main([str(word) for word in (*words, "--device", "cpu", "--out", out, *more)])


def test_a_job_leaves_its_pictures_its_page_its_profile_and_its_tracked_run(
    source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    assert train(source, run, "--epochs", "2", "--lr", "find", "--profile", "--track", "tensorboard", "--json") == 0
    out, err = capfd.readouterr()
    assert "mean of 3 steps" in err
    files = {path.name for path in run.iterdir()}
    assert files >= {"losses.png", "metrics.png", "lr_find.png", "report.html", "trace.json", "profile.txt"}
    report = json.loads(out)
    page = Page(run / "report.html")
    assert len(page.images) == len(report["pictures"]) == 7
    assert "Where the time of a step goes" in page.texts
    assert "--epochs 2 --lr find --bs 8 --device cpu --track tensorboard --profile" in page.text
    board = EventAccumulator(str(run / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("epoch/accuracy")] == [4, 8]
    assert board.Scalars("epoch/accuracy")[-1].value == pytest.approx(report["metrics"]["accuracy"])
    assert {"losses.png", "metrics.png", "confusion.png"} <= set(board.Tags()["images"])
    config = board.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| job/epochs | 2 |" in config
    assert "| task/id | vision/classification |" in config


class Breaks(Callback):
    """End a run after so many steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def batch_end(self, state: TrainState) -> None:
        if state.phase == "train" and state.step == self.step:
            raise RuntimeError("power")


@pytest.mark.parametrize("step", [2, 6], ids=["before a checkpoint", "after one"])
def test_a_resumed_job_goes_on_in_its_tracked_run_and_has_its_page(
    step: int, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from graftwork_vision.tasks import ImageClassification

    run, build = tmp_path / "run", ImageClassification.learner

    def broken(self: Any, data: Any, job: Any) -> Any:
        learner = build(self, data, job)
        learner.callbacks.append(Breaks(step))
        return learner

    with monkeypatch.context() as patch:
        patch.setattr(ImageClassification, "learner", broken)
        assert train(source, run, "--epochs", "2", "--track", "tensorboard") == 1
    for late in (run / "checkpoint").glob("step-*.graft"):
        if not late.stem.endswith("-epoch"):
            late.unlink()  # the one of the exception; as if the machine had lost power
    capfd.readouterr()
    assert main(["resume", str(run), "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    board = EventAccumulator(str(run / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("epoch/accuracy")] == [4, 8]
    assert board.Scalars("epoch/train_loss")[0].value == pytest.approx(report["epochs"][0]["train_loss"])
    assert [event.step for event in board.Scalars("train/loss")] == [1]
    page = Page(run / "report.html")
    assert len(page.images) == len(report["pictures"])
    before = (run / "report.html").read_text(encoding="utf-8")
    done = finished(run)
    assert done is not None
    assert write_page(run, done).read_text(encoding="utf-8") == before


@pytest.mark.parametrize(
    ("name", "parts"),
    [("tensorbord", ["tensorbord", "tensorboard"]), ("mixup", ["MixUp tracks no runs", "tensorboard"])],
    ids=["unknown", "no tracker"],
)
def test_what_tracks_no_runs_is_refused_before_any_work(
    name: str, parts: list[str], source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train(source, tmp_path / "run", "--track", name) == 2
    _, err = capfd.readouterr()
    assert all(part in err for part in parts), err
    assert not (tmp_path / "run").exists()
