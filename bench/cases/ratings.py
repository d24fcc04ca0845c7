"""Fitting ratings: MovieLens (ml-latest-small), 80/20, dot product and biases, 50 factors, 5 epochs in batches of 64.

Each side fits three times, with the splits and seeds 0, 1 and 2, after a short fit that does not count; its figure is
the median of the seconds, validation after each epoch included, and the mean error. fastai trains at the rate of its
own example, 5e-3, everybody else at 3e-3. The large case is invented: 20 million ratings, 200,000 users, 50,000 items.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from bench.harness import Check, Options, Report, Runner, Side, ratios

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from graftwork import Learner

__all__ = ["SIDES", "measure"]

# The peers are installed elsewhere, if at all.
# mypy: disable-error-code="import-not-found,import-untyped"

FACTORS, BS, RATE, WD, RANGE = 50, 64, 3e-3, 0.1, (0.0, 5.5)
FASTAI_RATE: Final = 5e-3
FULL: Final = {"epochs": 5, "seeds": [0, 1, 2], "rows": None, "large": 20_000_000}
SMOKE: Final = {"epochs": 1, "seeds": [0, 1], "rows": 3000, "large": 50_000}
ROUNDS: Final = 3
WARM_UP: Final = 2000

Fit = Callable[["pd.DataFrame", int, int], tuple[float, float]]


def frame(rows: int | None) -> pd.DataFrame:
    """Return MovieLens' ratings, or `rows` invented ones."""
    import numpy as np
    import pandas as pd

    if rows is None:
        return pd.read_csv(Path(os.environ["GRAFTWORK_DATA"]) / "movielens" / "ratings.csv").iloc[:, :3]
    rng = np.random.default_rng(0)
    pairs = rng.choice(200 * 300, rows, replace=False)
    rating = rng.integers(1, 11, rows) / 2
    return pd.DataFrame({"userId": pairs // 300, "movieId": pairs % 300, "rating": rating})


def timed(fit: Fit) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return the side that fits once for every seed."""

    def run(settings: dict[str, Any]) -> dict[str, Any]:
        data = frame(settings["rows"])
        fit(data[:WARM_UP], 1, 0)
        found = [fit(data, settings["epochs"], seed) for seed in settings["seeds"]]
        seconds, errors = zip(*found, strict=True)
        return {"value": statistics.median(seconds), "rmse": statistics.mean(errors), "errors": list(errors)}

    return run


# -- ours --------------------------------------------------------------------------------------------------------------


def graftwork(engine: str) -> Fit:
    """Return a fit by the kernel for the CPU, or by the loop."""

    def fit(data: pd.DataFrame, epochs: int, seed: int) -> tuple[float, float]:
        from graftwork import Runtime
        from graftwork_collab import CollabDataLoaders, collab_learner

        loaders = CollabDataLoaders.from_df(data, bs=BS, seed=seed)
        chosen: Any = engine
        learn = collab_learner(
            loaders,
            FACTORS,
            y_range=RANGE,
            engine=chosen,
            seed=seed,
            wd=WD,
            runtime=Runtime(device="cpu"),
            progress=False,
        )
        begin = perf_counter()
        learn.fit_one_cycle(epochs, RATE)
        return perf_counter() - begin, learn.history[-1]["rmse"]

    return fit


def large(settings: dict[str, Any]) -> dict[str, Any]:
    """Train an epoch of invented ratings in batches of 1024; give ratings a second and the memory it took at most."""
    import resource

    import numpy as np
    import pyarrow as pa

    from graftwork import Runtime
    from graftwork_collab import CollabDataLoaders, collab_learner

    rng, rows = np.random.default_rng(0), settings["large"]
    users, items = max(rows // 100, 10), max(rows // 400, 10)
    # Squaring draws some users and items far more often than others, as people do.
    user, item = ((rng.random(rows) ** 2 * n).astype(np.int32) for n in (users, items))
    table = pa.table({"user": user, "item": item, "rating": rng.integers(1, 11, rows).astype(np.float32) / 2})
    del user, item

    def learner(rows: pa.Table) -> Learner:
        loaders = CollabDataLoaders.from_df(rows, bs=1024, valid_pct=0, duplicates="all")
        return collab_learner(loaders, FACTORS, engine="numba", runtime=Runtime(device="cpu"), progress=False)

    learner(table[:WARM_UP]).fit(1, RATE)
    learn = learner(table)
    del table
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    begin = perf_counter()
    learn.fit(1, RATE)
    seconds = perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    return {"value": rows / seconds / 1e6, "seconds": seconds, "megabytes": after, "before": before}


# -- the others --------------------------------------------------------------------------------------------------------


def split(num_rows: int, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return fastai's own split of a seed, which is graftwork's too: (training, validation)."""
    import torch

    order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(seed)).numpy()
    cut = int(num_rows * 0.2)
    return order[cut:], order[:cut]


def codes(values: np.ndarray[Any, Any], train: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], int]:
    """Number the training values from 1; all others are 0."""
    import numpy as np

    known = np.unique(values[train])
    place = np.searchsorted(known, values).clip(max=len(known) - 1)
    return np.where(known[place] == values, place + 1, 0), len(known) + 1


def raw(data: pd.DataFrame, epochs: int, seed: int) -> tuple[float, float]:
    """Fit by a loop written by hand: contiguous tensors, permuted once an epoch, the fused AdamW, one cycle."""
    import numpy as np
    import torch
    from torch import nn

    train, valid = split(len(data), seed)
    user, num_users = codes(data.userId.to_numpy(), train)
    item, num_items = codes(data.movieId.to_numpy(), train)
    columns = [torch.from_numpy(np.ascontiguousarray(c)) for c in (user, item, data.rating.to_numpy(np.float32))]
    train_columns, valid_columns = ([c[torch.from_numpy(part)] for c in columns] for part in (train, valid))
    torch.manual_seed(seed)
    tables = [nn.Embedding(n, width) for width in (FACTORS, 1) for n in (num_users, num_items)]
    for table in tables:
        nn.init.trunc_normal_(table.weight, std=0.01, a=-0.02, b=0.02)
    low, high = RANGE

    def model(u: Any, i: Any) -> Any:
        score = (tables[0](u) * tables[1](i)).sum(1, keepdim=True) + tables[2](u) + tables[3](i)
        return (score.sigmoid() * (high - low) + low).squeeze(1)

    weights = [table.weight for table in tables]
    adam = torch.optim.AdamW(weights, lr=RATE, betas=(0.9, 0.99), eps=1e-5, weight_decay=WD, fused=True)
    steps, group = epochs * -(-len(train) // BS), adam.param_groups[0]
    begin, step, error = perf_counter(), 0, 0.0
    for _ in range(epochs):
        order = torch.randperm(len(train))
        for u, i, y in zip(*(column[order].split(BS) for column in train_columns), strict=True):
            group["lr"], momentum = one_cycle(step / steps)
            group["betas"] = (momentum, 0.99)
            nn.functional.mse_loss(model(u, i), y).backward()
            adam.step()
            for weight in weights:
                weight.grad = None
            step += 1
        with torch.no_grad():
            error = float(((model(*valid_columns[:2]) - valid_columns[2]) ** 2).mean().sqrt())
    return perf_counter() - begin, error


def one_cycle(share: float) -> tuple[float, float]:
    """Return rate and momentum after a share of the training."""
    from math import cos, pi

    def go(start: float, end: float, part: float) -> float:
        return start + (end - start) * (1 - cos(pi * part)) / 2

    if share < 0.25:
        return go(RATE / 25, RATE, share / 0.25), go(0.95, 0.85, share / 0.25)
    return go(RATE, RATE / 1e5, (share - 0.25) / 0.75), go(0.85, 0.95, (share - 0.25) / 0.75)


def fastai(data: pd.DataFrame, epochs: int, seed: int) -> tuple[float, float]:
    """Fit with fastai, as its example does."""
    from fastai.collab import CollabDataLoaders, collab_learner
    from fastai.metrics import rmse
    from fastai.torch_core import set_seed

    set_seed(seed)
    loaders = CollabDataLoaders.from_df(data, valid_pct=0.2, seed=seed, bs=BS)
    learn = collab_learner(loaders, n_factors=FACTORS, y_range=RANGE, metrics=[rmse])
    with learn.no_bar(), learn.no_logging():
        begin = perf_counter()
        learn.fit_one_cycle(epochs, FASTAI_RATE, wd=WD)
        seconds = perf_counter() - begin
    return seconds, float(learn.recorder.values[-1][2])


def surprise(data: pd.DataFrame, epochs: int, seed: int) -> tuple[float, float]:
    """Fit scikit-surprise's SVD with its own 20 epochs; validation is not timed."""
    from surprise import SVD, Dataset, Reader, accuracy

    train, valid = split(len(data), seed)
    reader = Reader(rating_scale=(0.5, 5))
    made = Dataset.load_from_df(data.iloc[train], reader).build_full_trainset()
    begin = perf_counter()
    model = SVD(n_factors=FACTORS, random_state=seed).fit(made)
    seconds = perf_counter() - begin
    held_out = list(data.iloc[valid].itertuples(index=False, name=None))
    return seconds, float(accuracy.rmse(model.test(held_out), verbose=False))


SIDES: Final[tuple[Side, ...]] = (
    Side(name="graftwork", run=timed(graftwork("auto")), threads=1),
    Side(name="graftwork, torch", run=timed(graftwork("torch")), threads=1),
    Side(name="raw", run=timed(raw), threads=1),
    Side(name="surprise", run=timed(surprise), peer="surprise", threads=1),
    Side(name="fastai", run=timed(fastai), peer="fastai", threads=1),
    Side(name="graftwork, large", run=large, threads=1),
)


def measure(options: Options) -> Report:
    """Run all sides in turn and compare them round by round; the large one runs once."""
    if not options.smoke and "GRAFTWORK_DATA" not in os.environ:
        raise RuntimeError("ratings needs GRAFTWORK_DATA, a folder with movielens/")
    runner = Runner(case="ratings", options=options)
    settings, rounds = (SMOKE, 1) if options.smoke else (FULL, ROUNDS)
    found = runner(SIDES[:-1], settings, rounds=rounds)
    report = Report(case="ratings", smoke=options.smoke, notes=runner.notes)
    for name, results in found.items():
        report.add(name, [r["value"] for r in results], "s", base=None if name == "raw" else "raw")
    if options.only and "graftwork, large" not in options.only:
        return compare(report, found)
    whole = Runner(case="ratings", options=options).child(SIDES[-1], settings)
    report.add("graftwork, large", [whole["value"]], "M ratings/s")
    report.notes.append(
        f"{settings['large']:,} ratings: the process took {whole['megabytes']:.0f} MB at most, "
        f"{whole['before']:.0f} of them before training, {whole['seconds']:.1f} s an epoch"
    )
    return compare(report, found)


def compare(report: Report, found: dict[str, list[dict[str, Any]]]) -> Report:
    """Add the figures."""
    for name, base, target in (
        ("fastai", "graftwork", 50.0),
        ("surprise", "graftwork", None),
        ("raw", "graftwork", None),
    ):
        if report.has(name, base):
            gain = ratios(report.values(name), report.values(base)).median
            report.checks.append(Check(what=f"{name} / {base}, seconds", value=gain, target=target, better="high"))
    if report.has("graftwork, torch", "raw"):
        share = ratios(report.values("graftwork, torch"), report.values("raw")).median
        report.checks.append(Check(what="graftwork, torch / raw, seconds", value=share, target=1.05))
    targets = {"graftwork": 0.845, "graftwork, torch": 0.845}
    for name, results in found.items():
        error = statistics.mean(r["rmse"] for r in results)
        report.checks.append(Check(what=f"{name}: rmse, mean of the seeds", value=error, target=targets.get(name)))
    return report
