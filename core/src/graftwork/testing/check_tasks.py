"""Checks of tasks: help without torch, and the whole job from a source to predictions of its artifact."""

from __future__ import annotations

import math
from contextlib import redirect_stderr
from dataclasses import fields
from io import StringIO
from pathlib import Path
from typing import Any, Final

from graftwork.cli.options import options_of
from graftwork.spec import TaskSpec
from graftwork.testing.child import ask
from graftwork.testing.compare import same
from graftwork.testing.kit import Kit, Setting
from graftwork.testing.verdict import Check, FlawError

__all__ = ["CHECKS"]


def _help(kit: Kit, spec: TaskSpec) -> None:
    found = ask("usage", task=spec.id, entry="" if kit.info.dist else kit.info.target)
    if found.get("status") != 0:
        raise FlawError(f"`graft train {spec.id} --help` fails: {found['err'][-200:]}", fix="mend the task's module")
    if found["heavy"]:
        problem = f"its help imports {', '.join(found['heavy'])}"
        raise FlawError(problem, fix="import what is heavy inside the task's methods, types under TYPE_CHECKING")


def _options(kit: Kit, spec: TaskSpec) -> None:
    kind = kit.load(spec)
    bare = [f.name for f in fields(kind.Options) if not str(f.metadata.get("help", "")).strip()]
    if bare:
        raise FlawError(f"the option {bare[0]} has no help", fix=f'{bare[0]}: … = option(default, "What it does.")')
    options_of(kind.Options)
    config = kind(kind.Options()).to_config()
    if kind.from_config(config).to_config() != config:
        raise FlawError("its options do not come back from JSON", fix="let Options hold plain values")


def _job(kit: Kit, spec: TaskSpec) -> None:
    for number, setting in enumerate(kit.of_task(spec.id)):
        with redirect_stderr(StringIO()):
            _one_job(setting, kit.folder / f"run-{spec.id.replace('/', '-')}-{number}")


def _one_job(setting: Setting, out: Path) -> None:
    from graftwork.job import evaluate, predict, train

    task, source, job = setting.ready
    report = train(task, source, job, out, lambda text: None, to_stderr=True)
    if not report.metrics or not all(map(math.isfinite, report.metrics.values())):
        raise FlawError(f"after an epoch its metrics are {report.metrics}", fix="name metrics that are defined")
    if not report.baselines:
        raise FlawError("no model is reported beside a baseline", fix="return some from baseline_ids")
    artifact = Path(report.artifact)
    measured = evaluate(artifact, source, job)
    if not measured["rows"] or not all(map(math.isfinite, measured["metrics"].values())):
        raise FlawError(f"evaluate gives {measured}", fix="return a loader of all items from test_loader")
    _predicts(setting, artifact, predict)


def _predicts(setting: Setting, artifact: Path, predict: Any) -> None:
    if setting.example is None or setting.example.inputs is None:
        return
    arguments = setting.example.inputs(setting.ready[1])
    rows, failures = predict(artifact, arguments, device="cpu")
    again, _ = predict(artifact, arguments, device="cpu")
    if failures or not rows:
        raise FlawError(f"an input cannot be predicted: {failures[:1]}", fix="mend inputs, or the example's")
    if not same([row["prediction"] for row in rows], [row["prediction"] for row in again]):
        raise FlawError(
            "the same input is predicted otherwise a second time", fix="let nothing be random outside training"
        )


def _repeats(kit: Kit, spec: TaskSpec) -> None:
    task, source, job = kit.of_task(spec.id)[0].ready
    found = []
    for _ in range(2):
        learn = task.learner(task.data(source, job), job)
        learn.display = None
        learn.fit(1)
        found.append([{k: v for k, v in row.items() if k != "seconds"} for row in learn.history])
    if not same(found[0], found[1]):
        raise FlawError(
            f"trained twice from one seed it gives {found[0]} and {found[1]}", fix="draw from job.seed alone"
        )


def _default_lr(kit: Kit, spec: TaskSpec) -> None:
    setting = kit.of_task(spec.id)[0]
    task, _, job = setting.ready
    lr = task.default_lr(task.learner(setting.data, job))
    if not 0 < lr < math.inf:
        raise FlawError(f"its default learning rate is {lr}", fix="return a number above 0")


CHECKS: Final = (
    Check(id="task-help", kind="tasks", reason="help answers in a quarter of a second", run=_help),
    Check(
        id="task-options", kind="tasks", reason="options are known by their help, and saved in artifacts", run=_options
    ),
    Check(id="task-lr", kind="tasks", reason="`--lr auto` is what most people type", run=_default_lr),
    Check(id="task-repeats", kind="tasks", reason="a run can be repeated to the same figures", run=_repeats),
    Check(id="task-job", kind="tasks", reason="train, evaluate and predict are what a task is for", run=_job),
)
