"""Tables: an epoch of the embedding MLP on `adult`, loading, predicting a row, encoding new rows; beside fastai.

"raw" is a hand-written loop with the same network (all embeddings in one flat table), the same fused AdamW, one cycle
and a validation with loss and accuracy; batches are views of one gather an epoch. It takes turns with graftwork in one
process. Epochs are measured in processor time and with one thread: steps this small gain nothing from a second. With
--accuracy the default model is trained with three seeds, beside boosted trees.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import mean, median
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any, Final

from bench import adult
from bench.adult import LAYERS, LR, TARGET, Run, frame, held_out, milliseconds
from bench.harness import Check, Options, Report, Runner, Side, alternate, ratios

if TYPE_CHECKING:
    from torch import Tensor, nn

    from graftwork import DataLoaders

__all__ = ["SIDES", "measure"]

FULL: Final = {"rows": 40_000, "repeats": 5, "predictions": 1000}
SMOKE: Final = {"rows": 2000, "repeats": 1, "predictions": 20}
ROUNDS: Final = 5
SIZES: Final = (64, 1024)
OURS: Final = "graftwork"
RAW: Final = "raw"
UNGROUPED: Final = "raw, one parameter group"
WD: Final = 0.01
ADAMW: Final[dict[str, Any]] = {"betas": (0.9, 0.99), "eps": 1e-5, "fused": True}
EPOCH_TARGETS: Final = {64: 6.0, 1024: 2.4}
TREES: Final = 0.8732
SEEDS: Final = (0, 1, 2)


def loaders(settings: Mapping[str, Any]) -> DataLoaders:
    """Return graftwork's loaders of the table."""
    from bench.tables import CATEGORIES, NUMBERS
    from graftwork_tabular import TabularDataLoaders

    table = frame(settings)
    return TabularDataLoaders.from_df(
        table,
        y_names=TARGET,
        cat_names=CATEGORIES,
        cont_names=NUMBERS,
        valid_idx=held_out(len(table)),
        bs=settings.get("bs", 64),
    )


# -- an epoch --------------------------------------------------------------------------------------------------------


def epochs(settings: dict[str, Any]) -> dict[str, Any]:
    """Train and validate for an epoch, in turn with graftwork and by hand."""
    data, scores = loaders(settings), {name: list[float]() for name in (OURS, RAW, UNGROUPED)}
    found = alternate({name: _epoch(name, data, scores[name], settings["bs"]) for name in scores}, settings["repeats"])
    return {"value": median(found[OURS]), "found": found, "accuracy": {name: median(s) for name, s in scores.items()}}


def _epoch(name: str, data: DataLoaders, scores: list[float], bs: int) -> Callable[[], float]:
    """Return a measure of one epoch, in seconds of the processor; it notes the accuracy."""
    import torch

    def measured() -> float:
        torch.manual_seed(len(scores))
        train = _graftwork(data) if name == OURS else _by_hand(data, bs, grouped=name == RAW)
        begin = process_time()
        scores.append(train())
        return process_time() - begin

    return measured


def _graftwork(data: DataLoaders) -> Callable[[], float]:
    from graftwork_tabular import tabular_learner

    learn = tabular_learner(data, layers=LAYERS, progress=False)
    return lambda: learn.fit_one_cycle(1, LR).history[-1]["accuracy"]


def _by_hand(data: DataLoaders, bs: int, *, grouped: bool) -> Callable[[], float]:
    module, (x, y), (valid_x, valid_y) = network(data), _columns(data.train), _columns(data.valid)

    def run() -> float:
        _train(module, x, y, bs, grouped=grouped)
        return _validate(module, valid_x, valid_y, bs)

    return run


def _columns(loader: Any) -> tuple[Tensor, Tensor]:
    row, target = (loader.columns[name] for name in loader.plan.fields)
    return row, target


def network(data: DataLoaders) -> nn.Module:
    """Build graftwork's embedding MLP for the data."""
    from graftwork.api import ModelContext
    from graftwork_tabular.mlp import mlp

    blocks = {name: field.final for name, field in data.plan.fields.items()}
    (row, *_), target = blocks.values(), data.plan.target
    context = ModelContext(inputs={data.plan.inputs[0]: row}, targets={data.plan.targets[0]: target})
    return mlp(context, layers=LAYERS).module


def _train(module: nn.Module, x: Tensor, y: Tensor, bs: int, *, grouped: bool) -> None:
    import torch
    from torch.nn.functional import cross_entropy

    steps = -(-len(x) // bs)
    parameters: Any = groups(module) if grouped else list(module.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=LR, weight_decay=WD, **ADAMW)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps)
    order = torch.randperm(len(x))
    module.train()
    for part, target in zip(x[order].split(bs), y[order].split(bs), strict=True):
        if len(part) > 1:  # batch norm cannot learn from one
            loss = cross_entropy(module(part), target)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()


def groups(module: nn.Module) -> list[dict[str, Any]]:
    """Group parameters as graftwork does: matrices are decayed, biases and norms are not."""
    parameters = list(module.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": WD},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _validate(module: nn.Module, x: Tensor, y: Tensor, bs: int) -> float:
    import torch
    from torch.nn.functional import cross_entropy

    module.eval()
    total, right = torch.zeros(()), torch.zeros(())
    with torch.no_grad():
        for part, target in zip(x.split(bs), y.split(bs), strict=True):
            out = module(part)
            total += cross_entropy(out, target) * len(part)
            right += (out.argmax(1) == target).sum()
    assert float(total) > 0
    return float(right) / len(x)


# -- loading, predicting, encoding -----------------------------------------------------------------------------------


def graftwork_loading(settings: dict[str, Any]) -> dict[str, Any]:
    """Give all training batches of an epoch."""
    train = loaders(settings).train
    return {"value": milliseconds(lambda: sum(1 for _ in train.at(0)), settings["repeats"])}


def graftwork_row(settings: dict[str, Any], model: str = "tabular/mlp") -> dict[str, Any]:
    """Predict one row from a mapping, in turn with the bare forward pass of the packed row."""
    import torch

    from graftwork_tabular import tabular_learner

    data = loaders(settings)
    learn = tabular_learner(data, model, progress=False)
    row = frame(settings).drop(columns=TARGET).iloc[7].to_dict()
    packed = data.train.columns[data.plan.inputs[0]][:1]  # type: ignore[attr-defined]
    module = learn.module.eval()

    def forward() -> object:
        with torch.inference_mode():
            return module(packed)

    def timed(job: Callable[[], object]) -> Callable[[], float]:
        return lambda: milliseconds(job, 20)

    rounds = max(1, settings["predictions"] // 20)
    found = alternate({"forward": timed(forward), "predict": timed(lambda: learn.predict(row))}, rounds)
    return {"value": median(found["predict"]), "ratio": ratios(found["predict"], found["forward"]).median}


def graftwork_new_rows(settings: dict[str, Any]) -> dict[str, Any]:
    """Encode new rows, all at once and, from mappings, one by one."""
    data, new = loaders(settings), adult.new_rows(settings)
    name, plan = data.plan.inputs[0], data.plan
    singles = new.head(adult.SINGLE).to_dict("records")
    whole = milliseconds(lambda: data.test_dl(new), settings["repeats"])
    one_by_one = milliseconds(lambda: [plan.encode({name: row}) for row in singles], settings["repeats"])
    return {"value": whole, "singles": one_by_one}


# -- the case --------------------------------------------------------------------------------------------------------


def sized(run: Run, bs: int, **more: Any) -> Run:
    """Make a side for a batch size."""
    return lambda settings: run({**settings, "bs": bs, **more})


EPOCHS: Final = {
    bs: (
        Side(threads=1, name=f"{OURS}, {bs}", run=sized(epochs, bs)),
        Side(threads=1, name=f"fastai, {bs}", run=sized(adult.FASTAI["epoch"], bs), peer="fastai"),
    )
    for bs in SIZES
}
LOADING: Final = (
    Side(threads=1, name=f"loader, {OURS}", run=graftwork_loading),
    Side(threads=1, name="loader, fastai", run=adult.FASTAI["loader"], peer="fastai"),
)
PREDICTING: Final = (
    Side(threads=1, name=f"one row, {OURS}", run=graftwork_row),
    Side(threads=1, name=f"one row, {OURS}, TabM", run=partial(graftwork_row, model="tabular/tabm")),
    Side(threads=1, name="one row, fastai", run=adult.FASTAI["one row"], peer="fastai"),
)
ENCODING: Final = (
    Side(threads=1, name=f"new rows, {OURS}", run=graftwork_new_rows),
    Side(threads=1, name="new rows, scikit-learn", run=adult.ENCODING["scikit-learn"]),
    Side(threads=1, name="new rows, fastai", run=adult.FASTAI["new rows"], peer="fastai"),
)
SIDES: Final = (*(side for sides in EPOCHS.values() for side in sides), *LOADING, *PREDICTING, *ENCODING)


def measure(options: Options) -> Report:
    """Run the sides in turn and compare."""
    runner, report = Runner(case="tabular", options=options), Report(case="tabular", smoke=options.smoke)
    with tempfile.TemporaryDirectory(prefix="bench-tabular-") as folder:
        path, what = adult.table_file(Path(folder))
        settings = {**(SMOKE if options.smoke else FULL), "table": str(path)}
        rounds = 1 if options.smoke else ROUNDS
        for bs, sides in EPOCHS.items():
            _epochs(report, bs, runner(sides, settings, rounds=rounds))
        _others(report, runner((*LOADING, *PREDICTING, *ENCODING), settings, rounds=rounds))
        if options.accuracy:
            _accuracy(report, settings)
    report.notes += [*runner.notes, f"the table is {what}"]
    return report


def _epochs(report: Report, bs: int, found: Mapping[str, list[dict[str, Any]]]) -> None:
    ours, fastai = f"{OURS}, {bs}", f"fastai, {bs}"
    inner = found.get(ours, [])
    for name in inner[0]["found"] if inner else ():
        values = [value for result in inner for value in result["found"][name]]
        report.add(f"{name}, {bs}", values, "s", base=None if name == RAW else f"{RAW}, {bs}")
        report.notes.append(f"accuracy of {name}, {bs}: {median(r['accuracy'][name] for r in inner):.4f}")
    if inner:
        value = ratios(report.values(ours), report.values(f"{RAW}, {bs}")).median
        report.checks.append(Check(what=f"epoch of {bs}, {OURS} / {RAW}", value=value, target=1.05))
    if fastai in found:
        report.add(fastai, [result["value"] for result in found[fastai]], "s")
        report.notes.append(f"accuracy of {fastai}: {median(r['accuracy'] for r in found[fastai]):.4f}")
    if inner and fastai in found:
        value = ratios(report.values(fastai), [result["value"] for result in inner]).median
        target = EPOCH_TARGETS[bs]
        report.checks.append(Check(what=f"epoch of {bs}, fastai / {OURS}", value=value, target=target, better="high"))


def _over(report: Report, what: str, slower: str, ours: str, target: float) -> None:
    if report.has(slower, ours):
        value = ratios(report.values(slower), report.values(ours)).median
        report.checks.append(Check(what=what, value=value, target=target, better="high"))


def _others(report: Report, found: Mapping[str, list[dict[str, Any]]]) -> None:
    for name, results in found.items():
        kind, _, who = name.partition(", ")
        ours = f"{kind}, {OURS}"
        report.add(name, [result["value"] for result in results], "ms", base=None if who.startswith(OURS) else ours)
        if "singles" in results[0]:
            base = None if who == OURS else f"20 single rows, {OURS}"
            report.add(f"20 single rows, {who}", [result["singles"] for result in results], "ms", base=base)
        if "ratio" in results[0]:
            value = median(result["ratio"] for result in results)
            report.checks.append(Check(what=f"{name} / forward", value=value, target=2.0))
    _over(report, "loader, fastai / graftwork", "loader, fastai", f"loader, {OURS}", 20.0)
    _over(report, "one row, fastai / graftwork", "one row, fastai", f"one row, {OURS}", 20.0)
    for who in ("fastai", "scikit-learn"):
        _over(report, f"new rows, {who} / {OURS}", f"new rows, {who}", f"new rows, {OURS}", 5.0)
        _over(report, f"20 single rows, {who} / {OURS}", f"20 single rows, {who}", f"20 single rows, {OURS}", 50.0)


def _accuracy(report: Report, settings: Mapping[str, Any]) -> None:
    """Train the default model on all columns with its defaults, three seeds on one split, beside boosted trees."""
    from torch.nn.functional import nll_loss

    from graftwork_tabular import TabularDataLoaders, tabular_learner
    from graftwork_tabular.baselines import Boosting
    from graftwork_tabular.learner import fit_recipe

    data = TabularDataLoaders.from_df(frame(settings), y_names=TARGET, bs=256, valid_bs=4096)
    assert data.valid is not None
    begin = perf_counter()
    learners = [fit_recipe(tabular_learner(data, seed=seed, progress=False)) for seed in SEEDS]
    seconds = (perf_counter() - begin) / len(SEEDS)
    last = [learn.history[-1] for learn in learners]
    trees, (_, actual) = Boosting().fit(data).predict(data.valid), _columns(data.valid)
    accuracy = float((trees.argmax(1) == actual).float().mean())
    loss = float(nll_loss(trees.clamp_min(1e-12).log(), actual))
    report.notes.append(f"boosted trees on the same split: accuracy {accuracy:.4f}, log-loss {loss:.4f}")
    checks = (
        Check(what="accuracy, mean of 3 seeds", value=mean(h["accuracy"] for h in last), target=TREES, better="high"),
        Check(what="log-loss, mean of 3 seeds", value=mean(h["valid_loss"] for h in last), target=loss),
        Check(what="seconds of training", value=seconds, unit="s", target=60.0),
    )
    report.checks += checks
