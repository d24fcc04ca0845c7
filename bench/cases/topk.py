"""The ten best of 50,000 items for 20,000 users, by products of random vectors; and recommending to five users.

Seconds are the median of five, after one that does not count. The few users are asked about after fitting ratings of
MovieLens' size for an epoch: graftwork through Recommender, fastai by predicting a frame of all pairs.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from bench.harness import Check, Options, Report, Runner, Side, ratios

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

__all__ = ["SIDES", "measure"]

# The peers are installed elsewhere, if at all.
# mypy: disable-error-code="import-not-found,import-untyped"

FULL: Final = {"users": 20_000, "items": 50_000, "widths": [64, 128], "repeats": 5, "rows": 100_000}
SMOKE: Final = {"users": 200, "items": 500, "widths": [8, 16], "repeats": 1, "rows": 3000}
ROUNDS: Final = 3
K, FEW, MANY_AT_ONCE = 10, 5, 256


def vectors(settings: dict[str, Any], width: int) -> tuple[Tensor, Tensor]:
    """Draw the vectors of users and items, the same for all sides."""
    import torch

    rng = torch.Generator().manual_seed(0)
    return tuple(torch.randn(settings[name], width, generator=rng) for name in ("users", "items"))  # type: ignore[return-value]


def timed(best: Callable[[Tensor, Tensor], Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return the side that measures each width."""

    def run(settings: dict[str, Any]) -> dict[str, Any]:
        seconds, codes = {}, []
        for width in settings["widths"]:
            users, items = vectors(settings, width)
            seconds[str(width)] = seconds_of(lambda u=users, i=items: best(u, i), settings["repeats"])  # type: ignore[misc]
            codes.append([[int(code) for code in row] for row in best(users[:3], items)])
        return {"value": seconds[str(settings["widths"][0])], "seconds": seconds, "codes": codes}

    return run


def seconds_of(work: Callable[[], Any], repeats: int) -> float:
    """Return the median seconds of repeated calls, after one that does not count."""
    work()
    found = []
    for _ in range(repeats):
        begin = perf_counter()
        work()
        found.append(perf_counter() - begin)
    return statistics.median(found)


def graftwork(users: Tensor, items: Tensor) -> Any:
    """Select with graftwork."""
    from graftwork_collab.topk import top_k_products

    return top_k_products(users, items, K).codes


def plain(users: Tensor, items: Tensor) -> Any:
    """Multiply and select with torch, some users at a time."""
    import torch

    return torch.cat([(part @ items.T).topk(K, 1).indices for part in users.split(MANY_AT_ONCE)])


def implicit(users: Tensor, items: Tensor) -> Any:
    """Select with implicit's own function, in as many threads as there are cores."""
    from implicit.cpu.topk import topk

    return topk(items.numpy(), users.numpy(), K)[0]


def by_implicit(settings: dict[str, Any]) -> dict[str, Any]:
    """Measure implicit as it wants to be run: its threads call a BLAS that must not start threads of its own."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    return timed(implicit)(settings)


# -- a few users -------------------------------------------------------------------------------------------------------


def ratings(rows: int) -> pd.DataFrame:
    """Invent ratings of 600 users and 9,000 films, or of fewer."""
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(0)
    users, items = max(rows // 170, 10), max(rows // 11, 20)
    pairs = rng.choice(users * items, rows, replace=False)
    return pd.DataFrame({"userId": pairs // items, "movieId": pairs % items, "rating": rng.integers(1, 11, rows) / 2})


def recommend_few(settings: dict[str, Any]) -> dict[str, Any]:
    """Recommend to five users with a trained learner."""
    from graftwork import Runtime
    from graftwork_collab import RankingDataLoaders, Recommender, ranking_learner

    data = RankingDataLoaders.from_df(ratings(settings["rows"]), user="userId", item="movieId")
    learn = ranking_learner(data, "collab/als", runtime=Runtime(device="cpu"), progress=False).fit(1)
    recommender = Recommender(learn)
    users = list(range(FEW))
    return {"value": seconds_of(lambda: recommender.recommend(users, K).items, 10 * settings["repeats"])}


def fastai_few(settings: dict[str, Any]) -> dict[str, Any]:
    """Predict all pairs of five users with fastai, and select."""
    import pandas as pd
    import torch
    from fastai.collab import CollabDataLoaders, collab_learner

    frame = ratings(settings["rows"])
    data = CollabDataLoaders.from_df(frame, bs=1024, seed=0)
    learn = collab_learner(data, n_factors=50, y_range=(0, 5.5))
    films = frame.movieId.unique()
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(1, 5e-3)

        def ask() -> Any:
            pairs = pd.DataFrame({"userId": [u for u in range(FEW) for _ in films], "movieId": [*films] * FEW})
            scores, _ = learn.get_preds(dl=data.test_dl(pairs, bs=len(pairs)))
            return torch.as_tensor(scores).reshape(FEW, -1).topk(K, 1)

        return {"value": seconds_of(ask, settings["repeats"])}


SIDES: Final[tuple[Side, ...]] = (
    Side(name="graftwork", run=timed(graftwork)),
    Side(name="torch", run=timed(plain)),
    Side(name="implicit", run=by_implicit, peer="implicit"),
    Side(name="graftwork, 5 users", run=recommend_few, threads=1),
    Side(name="fastai, 5 users", run=fastai_few, peer="fastai", threads=1),
)


def measure(options: Options) -> Report:
    """Run all sides in turn and compare them round by round."""
    runner = Runner(case="topk", options=options)
    settings: dict[str, Any] = dict(SMOKE if options.smoke else FULL)
    rounds = 1 if options.smoke else ROUNDS
    found = runner(SIDES, settings, rounds=rounds)
    report = Report(case="topk", smoke=options.smoke, notes=runner.notes)
    for name, results in found.items():
        if "seconds" not in results[0]:
            report.add(name, [r["value"] for r in results], "s", base="graftwork, 5 users")
            continue
        for width in settings["widths"]:
            values = [r["seconds"][str(width)] for r in results]
            report.add(f"{name}, {width}", values, "s", base=f"graftwork, {width}")
    _agree(report, found)
    for rival, target in (("implicit", 1.0), ("torch", None)):
        for width in settings["widths"]:
            _gain(report, f"{rival}, {width}", f"graftwork, {width}", target)
    _gain(report, "fastai, 5 users", "graftwork, 5 users", 20.0)
    return report


def _gain(report: Report, rival: str, ours: str, target: float | None) -> None:
    if report.has(rival, ours):
        gain = ratios(report.values(rival), report.values(ours)).median
        report.checks.append(Check(what=f"{rival} / {ours}, seconds", value=gain, target=target, better="high"))


def _agree(report: Report, found: dict[str, list[dict[str, Any]]]) -> None:
    """Say whether all sides that select gave the same items."""
    answers = {name: results[0]["codes"] for name, results in found.items() if "codes" in results[0]}
    if len(answers) > 1:
        first = next(iter(answers.values()))
        same = all(answer == first for answer in answers.values())
        report.notes.append(f"{', '.join(answers)} gave {'the same items' if same else 'DIFFERENT items'}")
