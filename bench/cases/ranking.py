"""Ranking films: MovieLens (ml-latest-small), a random 80/20 split of the ratings, every rating a positive.

Each user's films of the training part are left out, all others that training knows are ranked, and NDCG@10 and
recall@10 are means over users with something held out; held-out films that training does not know count as not found.
Each side fits on the splits of the seeds 0, 1 and 2, after a short fit that does not count, in one thread; its figure
is the median of the seconds, without validation. Where a side says "rated", the ratings are its confidences.
Hyperparameters of ours were chosen on the split of seed 42.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from bench.harness import Check, Options, Report, Runner, Side, ratios

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

__all__ = ["SIDES", "measure"]

# The peers are installed elsewhere, if at all.
# mypy: disable-error-code="import-not-found,import-untyped"

FULL: Final = {"rows": None, "seeds": [0, 1, 2], "scale": 1.0}
SMOKE: Final = {"rows": 4000, "seeds": [0], "scale": 0.1}
ROUNDS: Final = 3
FACTORS, SWEEPS, K = 50, 15, 10

Best = dict[int, list[int]]
"""The ten best films of each user."""
Fit = Callable[["pd.DataFrame", "pd.DataFrame", float], tuple[float, Best]]
"""From the training part, the held-out part and the share of epochs to seconds and recommendations."""


def frame(rows: int | None) -> pd.DataFrame:
    """Return MovieLens' ratings, or invented ones, in which two kinds of people like two kinds of films."""
    import numpy as np
    import pandas as pd

    if rows is None:
        return pd.read_csv(Path(os.environ["GRAFTWORK_DATA"]) / "movielens" / "ratings.csv").iloc[:, :3]
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 150, 8 * rows), (rng.random(8 * rows) ** 2 * 300).astype(int)
    made = pd.DataFrame({"userId": users, "movieId": items, "rating": 4.0})
    kept = (made.userId % 2 == made.movieId % 2) | (rng.random(len(made)) < 0.2)
    return made[kept].drop_duplicates(["userId", "movieId"])[:rows].reset_index(drop=True)


def split(num_rows: int, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return graftwork's own random split of a seed: (training, validation)."""
    import torch

    order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(seed)).numpy()
    cut = int(num_rows * 0.2)
    return order[cut:], order[:cut]


def quality(best: Best, held_out: pd.DataFrame) -> dict[str, float]:
    """Measure recommendations from the definitions, for all sides alike."""
    import numpy as np

    discounts = 1 / np.log2(np.arange(2, K + 2))
    gains, recalls = [], []
    for user, films in held_out.groupby("userId").movieId:
        wanted = set(films)
        hits = np.array([film in wanted for film in best[user]] + [False] * (K - len(best[user])))
        gains.append((hits * discounts).sum() / discounts[: len(wanted)].sum())
        recalls.append(hits.sum() / len(wanted))
    return {"ndcg": float(np.mean(gains)), "recall": float(np.mean(recalls))}


def timed(fit: Fit, *, seeds: int | None = None) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return the side that fits once for every seed, or only for the first `seeds`."""

    def run(settings: dict[str, Any]) -> dict[str, Any]:
        data = frame(settings["rows"])
        fit(data[:2000], data[2000:2100], 0.0)
        times, figures = [], []
        for seed in settings["seeds"][:seeds]:
            train, valid = split(len(data), seed)
            seconds, best = fit(data.iloc[train], data.iloc[valid], settings["scale"])
            times.append(seconds)
            figures.append(quality(best, data.iloc[valid]))
        means = {name: statistics.mean(found[name] for found in figures) for name in ("ndcg", "recall")}
        return {"value": statistics.median(times), **means}

    return run


# -- ours --------------------------------------------------------------------------------------------------------------


def graftwork(model: str, epochs: int = 1, *, loss: str | None = None, **options: Any) -> Fit:
    """Return a fit of a ranker; `options` beginning with data_ are the data's."""
    data_options = {name[5:]: value for name, value in options.items() if name.startswith("data_")}
    config = {name: value for name, value in options.items() if not name.startswith("data_")}

    def fit(train: pd.DataFrame, valid: pd.DataFrame, scale: float) -> tuple[float, Best]:
        import numpy as np

        from graftwork import Runtime
        from graftwork.api import Split
        from graftwork_collab import RankingDataLoaders, Recommender, ranking_learner

        rows = Split(train=np.arange(len(train)), valid=np.zeros(0, dtype=np.int64))
        data = RankingDataLoaders.from_df(train, split=rows, **data_options)
        learn = ranking_learner(
            data, model, model_config=config, loss=loss, runtime=Runtime(device="cpu"), progress=False
        )
        begin = perf_counter()
        passes = max(1, round(epochs * scale))
        if loss is None and model in ("collab/ease", "collab/als", "collab/item-knn"):
            learn.fit(passes)
        else:
            learn.fit_one_cycle(passes)
        seconds = perf_counter() - begin
        users = [int(user) for user in valid.userId.unique()]
        found = Recommender(learn).recommend(users, K)
        return seconds, dict(zip(users, found.items, strict=True))  # type: ignore[arg-type]  # ids are integers here

    return fit


def rating_model(train: pd.DataFrame, valid: pd.DataFrame, scale: float) -> tuple[float, Best]:
    """Rank by predicted ratings, with graftwork's factor model of ratings."""
    from graftwork import Runtime
    from graftwork_collab import CollabDataLoaders, Factors, collab_learner

    data = CollabDataLoaders.from_df(train, valid_pct=0)
    learn = collab_learner(data, FACTORS, runtime=Runtime(device="cpu"), progress=False)
    begin = perf_counter()
    learn.fit_one_cycle(max(1, round(5 * scale)))
    seconds = perf_counter() - begin
    factors = Factors(learn)
    users, items = sorted(train.userId.unique()), sorted(train.movieId.unique())
    scores = factors.user_factors() @ factors.item_factors().T + factors.item_bias()
    return seconds, best_of(scores.numpy(), users, items, train, valid)


def most_popular(train: pd.DataFrame, valid: pd.DataFrame, scale: float) -> tuple[float, Best]:
    """Recommend to everybody what most users have rated."""
    import numpy as np

    begin = perf_counter()
    users, items = sorted(train.userId.unique()), sorted(train.movieId.unique())
    counts = train.movieId.value_counts().loc[items].to_numpy(np.float32)
    seconds = perf_counter() - begin
    return seconds, best_of(np.tile(counts, (len(users), 1)), users, items, train, valid)


def best_of(
    scores: np.ndarray[Any, Any],
    users: Sequence[int],
    items: Sequence[int],
    train: pd.DataFrame,
    valid: pd.DataFrame,
) -> Best:
    """Return the best films by a whole matrix of scores, without those of training; a stranger gets the first row's."""
    import numpy as np

    rows, columns = np.searchsorted(users, train.userId), np.searchsorted(items, train.movieId)
    scores = scores.copy()
    scores[rows, columns] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :K]
    place = {user: row for row, user in enumerate(users)}
    return {user: [int(items[i]) for i in order[place.get(user, 0)]] for user in valid.userId.unique()}


# -- the others --------------------------------------------------------------------------------------------------------


def implicit(kind: str, *, rated: bool = False) -> Fit:
    """Return a fit of one of implicit's models, in one thread."""

    def fit(train: pd.DataFrame, valid: pd.DataFrame, scale: float) -> tuple[float, Best]:
        import numpy as np
        from implicit.als import AlternatingLeastSquares
        from implicit.bpr import BayesianPersonalizedRanking
        from implicit.nearest_neighbours import TFIDFRecommender
        from scipy.sparse import csr_matrix

        users, items = np.unique(train.userId), np.unique(train.movieId)
        rows, columns = np.searchsorted(users, train.userId), np.searchsorted(items, train.movieId)
        values = train.rating.to_numpy(np.float32) if rated else np.ones(len(train), np.float32)
        matrix = csr_matrix((values, (rows, columns)), shape=(len(users), len(items)))
        model = {
            "als": lambda: AlternatingLeastSquares(
                factors=FACTORS, iterations=max(1, round(SWEEPS * scale)), num_threads=1, random_state=0
            ),
            "bpr": lambda: BayesianPersonalizedRanking(
                factors=FACTORS, iterations=max(1, round(100 * scale)), num_threads=1, random_state=0
            ),
            "tfidf": lambda: TFIDFRecommender(K=20, num_threads=1),
        }[kind]()
        begin = perf_counter()
        model.fit(matrix, show_progress=False)
        seconds = perf_counter() - begin
        asked = [user for user in valid.userId.unique() if user in set(users)]
        codes = np.searchsorted(users, asked)
        found, _ = model.recommend(codes, matrix[codes], N=K, filter_already_liked_items=True)
        best = {user: [int(items[i]) for i in row if i >= 0] for user, row in zip(asked, found, strict=True)}
        return seconds, {user: best.get(user, []) for user in valid.userId.unique()}

    return fit


def fastai(train: pd.DataFrame, valid: pd.DataFrame, scale: float) -> tuple[float, Best]:
    """Rank by predicted ratings, with fastai's collab_learner as its example trains it."""
    import torch
    from fastai.collab import CollabDataLoaders, collab_learner
    from fastai.torch_core import set_seed

    set_seed(0)
    data = CollabDataLoaders.from_df(train, valid_pct=0.01, seed=0, bs=64)
    learn = collab_learner(data, n_factors=FACTORS, y_range=(0, 5.5))
    with learn.no_bar(), learn.no_logging():
        begin = perf_counter()
        learn.fit_one_cycle(max(1, round(5 * scale)), 5e-3, wd=0.1)
        seconds = perf_counter() - begin
    users, items = (list(data.classes[name])[1:] for name in ("userId", "movieId"))
    with torch.no_grad():
        left, right = learn.model.u_weight.weight[1:], learn.model.i_weight.weight[1:]
        scores = (left @ right.T + learn.model.i_bias.weight[1:].T).cpu().numpy()
    known = train[train.userId.isin(users) & train.movieId.isin(items)]
    return seconds, best_of(scores, users, items, known, valid)


SIDES: Final[tuple[Side, ...]] = (
    Side(name="graftwork ease", run=timed(graftwork("collab/ease")), threads=1),
    Side(name="graftwork als", run=timed(graftwork("collab/als", SWEEPS)), threads=1),
    Side(name="graftwork als, 50", run=timed(graftwork("collab/als", SWEEPS, factors=FACTORS)), threads=1),
    Side(name="graftwork item-knn", run=timed(graftwork("collab/item-knn")), threads=1),
    Side(name="graftwork factors", run=timed(graftwork("collab/factors", 15)), threads=1),
    Side(
        name="graftwork bpr",
        run=timed(graftwork("collab/factors", 15, loss="collab/bpr", data_in_batch=0.0)),
        threads=1,
    ),
    Side(name="graftwork lightgcn", run=timed(graftwork("collab/lightgcn", 15, data_bs=2048), seeds=1), threads=1),
    Side(name="graftwork ratings", run=timed(rating_model), threads=1),
    Side(name="most popular", run=timed(most_popular), threads=1),
    Side(name="implicit als", run=timed(implicit("als")), peer="implicit", threads=1),
    Side(name="implicit als, rated", run=timed(implicit("als", rated=True)), peer="implicit", threads=1),
    Side(name="implicit bpr", run=timed(implicit("bpr")), peer="implicit", threads=1),
    Side(name="implicit tfidf", run=timed(implicit("tfidf")), peer="implicit", threads=1),
    Side(name="fastai ratings", run=timed(fastai, seeds=1), peer="fastai", threads=1),
)


def measure(options: Options) -> Report:
    """Run all sides in turn; speed is compared round by round, quality between means over splits."""
    if not options.smoke and "GRAFTWORK_DATA" not in os.environ:
        raise RuntimeError("ranking needs GRAFTWORK_DATA, a folder with movielens/")
    runner = Runner(case="ranking", options=options)
    settings, rounds = (SMOKE, 1) if options.smoke else (FULL, ROUNDS)
    found = runner(SIDES, settings, rounds=rounds)
    report = Report(case="ranking", smoke=options.smoke, notes=runner.notes)
    for name, results in found.items():
        report.add(name, [r["value"] for r in results], "s", base="implicit als")
    return compare(report, {name: results[0] for name, results in found.items()})


def compare(report: Report, found: dict[str, dict[str, Any]]) -> Report:
    """Add the figures: quality beside the best of implicit's ALS, and the time of a fit."""
    rivals = [found[name]["ndcg"] for name in ("implicit als", "implicit als, rated") if name in found]
    rival = max(rivals, default=None)
    targets = dict.fromkeys(("graftwork ease", "graftwork als"), rival)
    for name, result in found.items():
        target = targets.get(name)
        report.checks.append(Check(what=f"{name}: NDCG@10", value=result["ndcg"], target=target, better="high"))
        report.checks.append(Check(what=f"{name}: recall@10", value=result["recall"]))
    if report.has("graftwork als, 50", "implicit als"):
        share = ratios(report.values("graftwork als, 50"), report.values("implicit als")).median
        report.checks.append(Check(what="graftwork als, 50 / implicit als, seconds", value=share, target=1.0))
    return report
