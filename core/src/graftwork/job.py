"""A training job from source to run folder: what `graft train` does, as a function.

A run is a folder: config.json (full ids), history.csv, checkpoint/, model.graft, pictures, and bad_items.csv where
something could not be read.
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from graftwork.errors import ItemError, OptionError, TrainingError, unknown
from graftwork.events import Callback, TrainState

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from graftwork.datablock import DataLoaders
    from graftwork.dataloader import OnBadItem
    from graftwork.learner import Learner
    from graftwork.task import JobOptions, Task

__all__ = ["Report", "SaveCheckpoint", "evaluate", "existing", "predict", "prepare_run", "train"]

RUN_BYTES_TO_SPARE = 16 * 2**20
Say = Callable[[str], None]


@dataclass(slots=True, kw_only=True)
class Report:
    """Hold what came out of a job, as `graft train --json` prints it."""

    task: str
    run: str
    artifact: str
    seed: int
    rows: dict[str, int]
    metrics: dict[str, float]
    baseline: dict[str, Any]
    baselines: list[dict[str, Any]]
    epochs: list[dict[str, float]]
    seconds: dict[str, float]
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


class SaveCheckpoint(Callback):
    """Keep the weights of the last epoch whose losses were numbers."""

    order = 500

    def __init__(self, folder: Path) -> None:
        """Save into `folder`."""
        self.folder = folder

    def epoch_end(self, state: TrainState) -> None:
        """Save; this is not reached in an epoch whose loss became NaN."""
        from graftwork.checkpoint import save_checkpoint

        save_checkpoint(self.folder, state.model, epoch=int(state.record["epoch"]), record=dict(state.record))


def prepare_run(out: Path | None, task_id: str) -> Path:
    """Return a new run folder in which files can be written; raise OptionError before any work is done if not."""
    folder = _next_run(task_id) if out is None else out
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OptionError(f"--out {folder} is there already and is no empty folder; choose another name, or remove it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.write_bytes(b"graftwork")
        probe.unlink()
    except OSError as error:
        raise OptionError(
            f"--out {folder} cannot be written: {error.strerror or error}; choose another folder"
        ) from error
    return folder


def _next_run(task_id: str) -> Path:
    stem, number = task_id.replace("/", "-"), 1
    while (Path("runs") / f"{stem}-{number}").exists():
        number += 1
    return Path("runs") / f"{stem}-{number}"


def check_space(folder: Path, learner: Learner) -> None:
    """Raise OptionError if the artifact and a checkpoint, each briefly kept twice, will not fit on the disk."""
    weights = sum(t.numel() * t.element_size() for t in learner.module.state_dict().values())
    needed, free = 4 * weights + RUN_BYTES_TO_SPARE, shutil.disk_usage(folder).free
    if free < needed:
        raise OptionError(
            f"--out {folder}: {free / 1e6:.0f} MB are free, and the run needs about {needed / 1e6:.0f} MB; "
            "make room or choose another folder"
        )


def train(task: Task, source: Path, job: JobOptions, out: Path | None, say: Say, *, to_stderr: bool = False) -> Report:
    """Train a task's model beside its baselines and leave everything in a run folder."""
    began = perf_counter()
    existing(source)
    run = prepare_run(out, task.id)
    with _removed_if_empty(run):
        data = task.data(source, job)
        learner = task.learner(data, job)
        if to_stderr and learner.display is not None:
            learner.display.stream = sys.stderr
        check_space(run, learner)
        for note in task.notes():
            say(f"note      {note}")
        say(_describe(data, learner))
        baselines = _baselines(task, data, learner, say)
        prepared = perf_counter()
        lr = _learning_rate(task, learner, job, say)
        _write_config(run, task, source, job, learner, lr)
        learner.callbacks.append(SaveCheckpoint(run / "checkpoint"))
        with _kept_checkpoint_said(run):
            task.train(learner, job, lr)
        trained = perf_counter()
        return _finish(task, run, job, data, learner, baselines, (began, prepared, trained), say)


@contextmanager
def _removed_if_empty(folder: Path) -> Iterator[None]:
    """Take a run folder away again if nothing was put into it."""
    try:
        yield
    except BaseException:
        if not any(folder.iterdir()):
            folder.rmdir()
        raise


@contextmanager
def _kept_checkpoint_said(run: Path) -> Iterator[None]:
    """Add to a training error which checkpoint is left."""
    try:
        yield
    except TrainingError as error:
        from graftwork.checkpoint import checkpoints

        kept = checkpoints(run / "checkpoint")
        left = f"the weights of the last good epoch are in {kept[-1]}" if kept else "no epoch was finished before"
        raise TrainingError(f"{error}; {left}") from error


def _describe(data: DataLoaders, learner: Learner) -> str:
    rows = _rows(data)
    parameters = sum(p.numel() for p in learner.module.parameters())
    return (
        f"{rows['train']} items to train on, {rows['valid']} to validate on\n"
        f"model {learner.model_id}, {parameters:,} parameters, on {learner.session.describe()}"
    )


def _rows(data: DataLoaders) -> dict[str, int]:
    return {"train": data.train.num_items, "valid": 0 if data.valid is None else data.valid.num_items}


def _baselines(task: Task, data: DataLoaders, learner: Learner, say: Say) -> list[dict[str, Any]]:
    from graftwork.baseline import evaluate_baseline
    from graftwork.plugins import get_host

    results = []
    for name in task.baseline_ids(data) if data.valid is not None else ():
        spec = get_host().baselines.spec(name)
        metrics = evaluate_baseline(get_host().baselines.get(name)(), data, learner.objective)
        results.append({"id": spec.id, "metrics": metrics})
        say(f"baseline {spec.id}: " + ", ".join(f"{k} {v:.4f}" for k, v in metrics.items()))
    return results


def _learning_rate(task: Task, learner: Learner, job: JobOptions, say: Say) -> float:
    if job.lr == "auto":
        lr = task.default_lr(learner)
        say(f"learning rate {lr:g} (the default of this model; --lr find runs a range test)")
        return lr
    if job.lr == "find":
        lr = learner.lr_find().valley
        say(f"learning rate {lr:.3g} (found by a range test)")
        return lr
    return float(job.lr)


def _write_config(run: Path, task: Task, source: Path, job: JobOptions, learner: Learner, lr: float) -> None:
    config = {
        "task": {"id": task.id, "config": task.to_config()},
        "source": str(source),
        "job": asdict(job),
        "lr": lr,
        "model": {"id": learner.model_id, "config": learner.model_config},
        "loss": {n: b.loss_id for n, b in learner.objective.blocks.items()},
        "runs_on": learner.session.describe(),
    }
    write_text(run / "config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file beside and rename it, so that it is whole or not there."""
    beside = path.with_name(path.name + ".part")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _finish(
    task: Task,
    run: Path,
    job: JobOptions,
    data: DataLoaders,
    learner: Learner,
    baselines: list[dict[str, Any]],
    times: tuple[float, float, float],
    say: Say,
) -> Report:
    _write_csv(run / "history.csv", learner.history)
    metrics = {k: v for k, v in learner.history[-1].items() if k not in ("epoch", "train_loss", "seconds")}
    artifact = learner.export(run / "model.graft", task={"id": task.id, "config": task.to_config()})
    pictures = _pictures(run, task.pictures(data, learner))
    bad = data.bad_items
    if bad:
        _write_csv(run / "bad_items.csv", [{"item": b} for b in bad])
    began, prepared, trained = times
    return Report(
        task=task.id,
        run=str(run),
        artifact=str(artifact),
        seed=job.seed,
        rows=_rows(data),
        metrics=metrics,
        baseline=_best(baselines, learner.objective.higher_is_better),
        baselines=baselines,
        epochs=learner.history,
        seconds={"prepare": prepared - began, "train": trained - prepared, "total": perf_counter() - began},
        notes=list(task.notes()),
        warnings=[*data.notes, *_bad_warnings(bad, run)],
        pictures=[str(path) for path in pictures],
    )


def _bad_warnings(bad: list[str], run: Path) -> list[str]:
    if not bad:
        return []
    return [f"left out {len(bad)} item(s) that cannot be read, listed in {run / 'bad_items.csv'}", *bad[:20]]


def _best(baselines: list[dict[str, Any]], higher_is_better: Mapping[str, bool]) -> dict[str, Any]:
    """Return the strongest baseline by the first metric."""
    if not baselines:
        return {}
    name, higher = next(iter(higher_is_better.items()))
    return max(baselines, key=lambda b: b["metrics"][name] if higher else -b["metrics"][name])


def _pictures(run: Path, figures: Mapping[str, Figure]) -> list[Path]:
    for name, figure in figures.items():
        figure.savefig(run / name, dpi=110)
    return [run / name for name in figures]


def evaluate(artifact: Path, source: Path, job: JobOptions) -> dict[str, Any]:
    """Measure an artifact on all of a source's items: `{"rows", "metrics", "warnings"}`.

    Raises:
        OptionError: the artifact was exported without a task, so nothing says how to read a source.
    """
    from graftwork.artifact import load_learner

    existing(source)
    predictor = load_learner(artifact, device=job.device, precision=job.precision)
    ref = predictor.manifest.get("task")
    if ref is None:
        raise OptionError(f"{artifact} was exported without a task; measure it in Python: load_learner(…).validate(…)")
    loader = _task(ref).test_loader(source, predictor.plan, job)
    metrics = predictor.validate(loader)
    bad = [f"{loader.item(i)}: {reason}" for i, reason in sorted(loader.bad_items.items())]
    warnings = [f"left out {len(bad)} item(s) that cannot be read", *bad[:20]] if bad else []
    return {"rows": loader.num_items - len(bad), "metrics": metrics, "warnings": warnings}


def predict(
    artifact: Path, inputs: Sequence[str], *, device: str = "auto", on_bad_item: OnBadItem = "skip"
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return one row per input that can be read, and what is wrong with the others.

    Raises:
        ItemError: no input can be read, or one cannot and `on_bad_item` is "error".
    """
    from graftwork.artifact import load_learner
    from graftwork.predictor import BadItem

    predictor = load_learner(artifact, device=device)
    ref = predictor.manifest.get("task")
    wanted = [(given, Path(given)) for given in inputs] if ref is None else _task(ref).inputs(inputs)
    said_of = predictor.predict_batch([value for _, value in wanted], on_bad_item=on_bad_item)
    rows, failures = [], []
    for (given, _), said in zip(wanted, said_of, strict=True):
        if isinstance(said, BadItem):
            failures.append(f"{given}: {said.reason}")
            continue
        row: dict[str, Any] = {"input": given, "prediction": said.value}
        rows.append(row if said.probabilities is None else row | {"probabilities": dict(said.probabilities)})
    if not rows:
        raise ItemError(f"no input can be read; the first one, {failures[0]}")
    return rows, failures


def _task(ref: Mapping[str, Any]) -> Task:
    from graftwork.plugins import get_host

    task: Task = get_host().tasks.get(ref["id"]).from_config(ref["config"])
    return task


def existing(path: Path) -> Path:
    """Return the path; raise UnknownName with the nearest names beside it if there is nothing."""
    if not path.exists():
        beside = [str(p) for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise unknown("path", str(path), beside, hint="there is no such file or folder")
    return path
