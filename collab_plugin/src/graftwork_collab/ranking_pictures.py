"""Pictures of a ranker: whom it recommends what, and how popular that is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from graftwork.api import DataLoaders, Learner
from graftwork_collab.ranking_data import RankingDataLoaders
from graftwork_collab.recommend import Recommender

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_popularity", "plot_recommendations", "ranking_pictures"]

USERS: Final = 4
PLACES: Final = 10
LETTERS: Final = 34


def ranking_pictures(data: DataLoaders, learner: Learner) -> dict[str, Figure]:
    """Return the pictures of a run by file name."""
    pictures = {"losses.png": learner.recorder.plot_losses()}
    if isinstance(data, RankingDataLoaders):
        pictures["recommendations.png"] = plot_recommendations(data, learner)
        pictures["popularity.png"] = plot_popularity(data, learner)
    return pictures


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    from graftwork.api import new_figure

    figure = new_figure(width=width, height=height)
    return figure, figure.add_subplot()


def plot_recommendations(data: RankingDataLoaders, learner: Learner, *, users: int = USERS) -> Figure:
    """Tabulate some users' last items, what is recommended to them, and what they were held out; hits are marked."""
    chosen = _some_users(data, users)
    from matplotlib.transforms import Bbox

    recommender = Recommender(learner)
    k = min(PLACES, data.num_items)
    vocab = recommender.users
    found = recommender.recommend([vocab[user - 1] for user in chosen], k)
    names = recommender.names
    figure, ax = _axes(4.2 * len(chosen), 0.26 * (k + 1) + 0.5)
    ax.set_axis_off()
    cells, colours, header = [], [], []
    seen = data.interactions.seen.take(np.asarray(chosen))
    held_out = _held_out(data)
    for row, user in enumerate(chosen):
        last = seen.codes[seen.start[row] : seen.start[row + 1]][::-1][:k]
        best = found.codes[row].tolist()
        cells.append([_short(names[code - 1]) for code in last] + [""] * (k - len(last)))
        cells.append([_short(names[code - 1]) if code > 0 else "" for code in best])
        colours.append(["white"] * k)
        colours.append(["honeydew" if code in held_out.get(user, ()) else "white" for code in best])
        header += [f"user {vocab[user - 1]}: last items", "recommended"]
    table = ax.table(
        cellText=[list(line) for line in zip(*cells, strict=True)],
        cellColours=[list(line) for line in zip(*colours, strict=True)],
        colLabels=header,
        bbox=Bbox.unit(),
        cellLoc="left",
    )
    table.auto_set_font_size(False)
    table.set_fontsize(7)
    ax.set_title("recommendations; green ones were held out", fontsize=9)
    return figure


def _some_users(data: RankingDataLoaders, count: int) -> list[int]:
    """Return known users, spread evenly over the vocabulary, validated ones first."""
    known = sorted(user for user in _held_out(data) if user > 0) or list(range(1, data.interactions.num_users + 1))
    places = np.unique(np.linspace(0, len(known) - 1, count).astype(int))
    return [known[place] for place in places]


def _held_out(data: RankingDataLoaders) -> dict[int, set[int]]:
    if data.valid is None:
        return {}
    users, items = data.held_out
    return {user: {code for code in row if code > 0} for user, row in zip(users.tolist(), items.tolist(), strict=True)}


def _short(name: str) -> str:
    return name if len(name) <= LETTERS else name[: LETTERS - 1] + "…"


def plot_popularity(data: RankingDataLoaders, learner: Learner, *, most: int = 2000) -> Figure:
    """Draw how often items are recommended beside how often they were chosen, both over the rank of popularity."""
    recommender = Recommender(learner)
    users = recommender.users[:: max(1, len(recommender.users) // most)]
    found = recommender.recommend(users, min(PLACES, data.num_items))
    popularity = data.popularity
    order = popularity[1:].argsort(descending=True, stable=True) + 1
    shown = torch.bincount(found.codes.clamp(min=0).flatten(), minlength=len(popularity))
    ranks = np.arange(1, len(order) + 1)
    figure, ax = _axes(6.4, 4.0)
    ax.plot(ranks, (popularity[order] / popularity.sum()).numpy().cumsum(), label="chosen in training")
    ax.plot(ranks, (shown[order] / shown[1:].sum().clamp(min=1)).numpy().cumsum(), label="recommended")
    ax.set_xscale("log")
    ax.set_xlabel("items, the most popular first")
    ax.set_ylabel("share up to there")
    ax.legend(frameon=False)
    return figure
