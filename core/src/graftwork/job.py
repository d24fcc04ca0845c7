"""A training job from source to run folder, and from a run that was broken off to its end: `graft train` and `resume`.

A run is a folder: config.json (full ids), history.csv, checkpoint/, model.graft, pictures, report.html, report.json,
and bad_items.csv where something could not be read.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from graftwork.errors import ItemError, OptionError, TrainingError, unknown
from graftwork.report import write_page
from graftwork.run import (
    CHECKPOINTS,
    Report,
    alone_in,
    begun_run,
    check_space,
    clear_leftovers,
    finished,
    prepare_run,
    read_config,
    removed_unless_begun,
    started_again,
    write_config,
    write_csv,
    write_picture,
    write_report,
)
from graftwork.task import JobOptions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from graftwork.callbacks.tracking import Tracker
    from graftwork.datablock import DataLoaders
    from graftwork.dataloader import OnBadItem
    from graftwork.learner import Learner
    from graftwork.processes import Processes
    from graftwork.task import Task

__all__ = ["Report", "Say", "evaluate", "existing", "predict", "resume", "train"]

Say = Callable[[str], None]
SWEEP = "lr_find.png"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """Hold what is to be done, where, and who is told. `config` is what config.json holds."""

    task: Task
    source: Path
    options: JobOptions
    run: Path
    config: dict[str, Any]
    say: Say
    to_stderr: bool
    processes: Processes

    @property
    def ref(self) -> dict[str, Any]:
        """The task's id and options."""
        return {"id": self.task.id, "config": self.task.to_config()}


def train(task: Task, source: Path, job: JobOptions, out: Path | None, say: Say, *, to_stderr: bool = False) -> Report:
    """Train a task's model beside its baselines and leave everything in a run folder.

    In each of several processes (`torchrun`) it does its part; the first one writes and speaks. Where they have been
    started again, because one of them failed, they go on with the run.
    """
    existing(source)
    processes = job.runtime().join()
    before = begun_run(out, task.id) if started_again() else None
    if before is not None:
        return resume(before, say, to_stderr=to_stderr)
    with processes.explained():
        said = processes.exchange({"run": str(prepare_run(out, task.id)) if processes.first else ""})
    made = _Job(
        task=task,
        source=source,
        options=job,
        run=Path(said[0]["run"]),
        config={},
        say=say if processes.first else _nothing,
        to_stderr=to_stderr,
        processes=processes,
    )
    with removed_unless_begun(made.run) if processes.first else nullcontext():
        made.config.update(task=made.ref, source=str(source.absolute()), job=asdict(job))
        _note(made)
        return _carry_out(made)


def _nothing(text: str) -> None:
    """Leave it to the first process to speak."""


def _note(job: _Job) -> None:
    if job.processes.first:
        write_config(job.run, job.config)


def resume(run: Path, say: Say, *, to_stderr: bool = False) -> Report:
    """Go on with a run that was broken off at whatever moment, to its end; one that is finished is left as it is.

    Raises:
        ArtifactError: the folder is no run, or its checkpoints are damaged, newer, of another model or of other data.
    """
    config = read_config(run)
    report = finished(run)
    if report is not None:
        say(f"{run} is finished; there is nothing to do")
        return report
    task, options, source = _task(config["task"]), _options(run, config["job"]), existing(Path(config["source"]))
    processes = options.runtime().join()
    say = say if processes.first else _nothing
    if not any((run / CHECKPOINTS).glob("step-*.graft")):
        say(f"{run} has no checkpoint yet; it starts anew")
    return _carry_out(
        _Job(
            task=task,
            source=source,
            options=options,
            run=run,
            config=config,
            say=say,
            to_stderr=to_stderr,
            processes=processes,
        )
    )


def _options(run: Path, given: Mapping[str, Any]) -> JobOptions:
    known = {f.name for f in fields(JobOptions)}
    for name in given:
        if name not in known:
            raise unknown(f"option in {run / 'config.json'}", name, known, hint="a newer graftwork may have written it")
    return JobOptions(**given)


def _carry_out(job: _Job) -> Report:
    """Prepare, train from the beginning or from the last checkpoint, and leave everything in the run folder."""
    from graftwork.runtime import repeatable

    began, threads = perf_counter(), job.config.get("threads")
    with (
        alone_in(job.run) if job.processes.first else nullcontext(),
        _way_back_said(job),
        job.processes.explained(),
        repeatable(job.options.deterministic, threads=threads),
    ):
        if job.processes.first:
            clear_leftovers(job.run)
        trackers = _trackers(job)
        data = job.task.data(job.source, job.options)
        learner = job.task.learner(data, job.options)
        if job.to_stderr and learner.display is not None:
            learner.display.stream = sys.stderr
        for note in job.task.notes():
            job.say(f"note      {note}")
        job.say(_describe(data, learner))
        if "lr" not in job.config:
            _begin(job, data, learner)
        prepared = perf_counter()
        _train(job, learner, trackers)
        report = _finish(job, data, learner, trackers, (began, prepared, perf_counter()))
        if job.processes.first:
            write_page(job.run, report)
            write_report(job.run, report)
        job.processes.wait()
        return report


def _begin(job: _Job, data: DataLoaders, learner: Learner) -> None:
    """Find out what training needs to know, and write it down, so that a resumed run need not find it out again."""
    import torch

    from graftwork.report import environment

    baselines = []
    if job.processes.first:
        check_space(job.run, learner)
        baselines = _baselines(job.task, data, learner, job.say)
    job.processes.wait()
    job.config.update(
        lr=_learning_rate(job, learner),
        baselines=baselines,
        model={"id": learner.model_id, "config": learner.model_config},
        loss={n: b.loss_id for n, b in learner.objective.blocks.items()},
        metrics=learner.objective.higher_is_better,
        parameters=sum(p.numel() for p in learner.module.parameters()),
        runs_on=learner.session.describe(),
        environment=environment(learner.session.device),
        threads=torch.get_num_threads(),
    )
    _note(job)


def _train(job: _Job, learner: Learner, trackers: Sequence[Tracker]) -> None:
    from graftwork.callbacks.checkpointer import Checkpointer, checkpoint_files
    from graftwork.resume import describe, last_snapshot

    folder, monitor = job.run / CHECKPOINTS, "valid_loss"
    if checkpoint_files(folder):
        found = last_snapshot(folder)
        job.say(describe(found))
        learner.replay(found)
    for tracker in trackers:
        tracker.config.update(job.config)
    saver = Checkpointer(folder, every_steps=job.options.checkpoint_every, monitor=monitor)
    learner.callbacks += [*trackers, saver]
    with _profiled(job, learner):
        job.task.train(learner, job.options, float(job.config["lr"]))


def _trackers(job: _Job) -> list[Tracker]:
    """Make the trackers that `--track` names; raise OptionError for a callback that is none."""
    from graftwork.callbacks.tracking import Tracker
    from graftwork.plugins import get_host

    made = []
    for name in (part.strip() for text in job.options.track for part in text.split(",")):
        kind = get_host().callbacks.get(name)
        if not issubclass(kind, Tracker):
            raise OptionError(f"--track {name}: {kind.__name__} tracks no runs; use tensorboard, mlflow or wandb")
        made.append(kind.of_run(job.run, {}))
    return made


@contextmanager
def _profiled(job: _Job, learner: Learner) -> Iterator[None]:
    if not job.options.profile:
        yield
        return
    from graftwork.profiler import Profile

    with Profile(learner, job.run) as profile:
        yield
    job.say(str(profile))


@contextmanager
def _way_back_said(job: _Job) -> Iterator[None]:
    """Say how to go on with a run that is broken off, and add to a training error which checkpoint is left."""
    from graftwork.callbacks.checkpointer import checkpoint_files

    try:
        yield
    except TrainingError as error:
        kept = [path for path in checkpoint_files(job.run / CHECKPOINTS) if path.stem.endswith("-epoch")]
        left = f"the last good epoch is in {kept[-1]}" if kept else "no epoch was finished before"
        raise TrainingError(f"{error}; {left}") from error
    except BaseException:
        if "lr" in job.config:
            job.say(f"go on with: graft resume {shlex.quote(str(job.run))}")
        raise


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


def _learning_rate(job: _Job, learner: Learner) -> float:
    if job.options.lr == "auto":
        lr = job.task.default_lr(learner)
        job.say(f"learning rate {lr:g} (the default of this model; --lr find runs a range test)")
        return lr
    if job.options.lr == "find":
        sweep = learner.lr_find()
        if job.processes.first:
            write_picture(job.run / SWEEP, sweep.plot())
        job.say(f"learning rate {sweep.valley:.3g} (found by a range test)")
        return sweep.valley
    return float(job.options.lr)


def _finish(
    job: _Job,
    data: DataLoaders,
    learner: Learner,
    trackers: Sequence[Tracker],
    times: tuple[float, float, float],
) -> Report:
    run, baselines, first = job.run, job.config["baselines"], job.processes.first
    metrics = {k: v for k, v in learner.history[-1].items() if k not in ("epoch", "train_loss", "seconds")}
    artifact = learner.export(run / "model.graft", task=job.ref)
    figures = dict(job.task.pictures(data, learner))
    if metrics.keys() - {"valid_loss"}:
        figures["metrics.png"] = learner.recorder.plot_metrics({b["id"]: b["metrics"] for b in baselines})
    pictures = [write_picture(run / name, figure) for name, figure in figures.items()] if first else []
    lost = _told(trackers, figures) if first else []
    bad = data.bad_items
    if first:
        write_csv(run / "history.csv", learner.history)
    if first and bad:
        write_csv(run / "bad_items.csv", [{"item": b} for b in bad])
    began, prepared, trained = times
    return Report(
        task=job.task.id,
        run=str(run),
        artifact=str(artifact),
        seed=job.options.seed,
        rows=_rows(data),
        metrics=metrics,
        baseline=_best(baselines, learner.objective.higher_is_better),
        baselines=baselines,
        epochs=learner.history,
        seconds={"prepare": prepared - began, "train": trained - prepared, "total": perf_counter() - began},
        notes=list(job.task.notes()),
        warnings=[*data.notes, *_bad_warnings(bad, run), *lost],
        pictures=[str(path) for path in (*pictures, *run.glob(SWEEP))],
    )


def _told(trackers: Sequence[Tracker], figures: Mapping[str, Figure]) -> list[str]:
    """Add figures to tracked runs, and return which of them were lost."""
    for tracker in trackers:
        tracker.add_figures(figures)
    return [tracker.lost for tracker in trackers if tracker.lost is not None]


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
    artifact: Path,
    inputs: Sequence[str],
    *,
    device: str = "auto",
    on_bad_item: OnBadItem = "skip",
    out: Path | None = None,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return one row per input that can be read, and what is wrong with the others; files are written into `out`.

    Raises:
        ItemError: no input can be read, or one cannot and `on_bad_item` is "error".
    """
    from graftwork.artifact import load_learner
    from graftwork.predictor import BadItem

    predictor = load_learner(artifact, device=device)
    ref = predictor.manifest.get("task")
    task = None if ref is None else _task(ref)
    wanted = [(given, Path(given)) for given in inputs] if task is None else task.inputs(inputs)
    say = predictor.predict_batch if task is None else partial(task.predict, predictor)
    said_of = say([value for _, value in wanted], on_bad_item=on_bad_item)
    rows, failures = [], []
    for (given, _), said in zip(wanted, said_of, strict=True):
        if isinstance(said, BadItem):
            failures.append(f"{given}: {said.reason}")
            continue
        value = said.value if task is None else task.printed(given, said.value, out)
        row: dict[str, Any] = {"input": given, "prediction": value}
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
