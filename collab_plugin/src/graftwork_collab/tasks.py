"""The one-command job of ratings. Nothing heavy is imported to print its help."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from graftwork.api import JobOptions, OptionError, Task, option

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from graftwork.api import DataLoaders, Learner, Loader, Plan

__all__ = ["CollabRatings", "CollabRatingsOptions", "parse_pair", "parse_range"]

DEFAULT_LR = 3e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class CollabRatingsOptions:
    """Hold what a job of ratings lets one choose."""

    user: str = option("auto", "Column of users; auto goes by its name, else takes the first column.")
    item: str = option("auto", "Column of items; auto goes by its name, else takes the second column.")
    rating: str = option("auto", "Column of ratings; auto goes by its name, else takes the third column.")
    timestamp: str = option("auto", "Column of times, for --split and for pairs rated twice; auto goes by its name.")
    split: Literal["random", "time", "leave-last-out"] = option(
        "random", "Hold out a random share, the latest share, or each user's last rating."
    )
    duplicates: Literal["last", "all"] = option("last", "Of several ratings of one pair, count the last, or all.")
    y_range: str = option(
        "auto", "Bounds of predictions, LOW,HIGH; auto: those of the ratings and a little more; none."
    )
    factors: int = option(50, "Factors of each user and item.")
    layers: str = option("auto", "Sizes of the hidden layers of --model neural, as in 100,50.")
    user_features: str = option("", "Table of what is known of users, a row each; gives two towers.")
    item_features: str = option(
        "", "Table of what is known of items; --model towers takes MovieLens' genres by itself."
    )
    wd: float = option(0.1, "Weight decay.")
    engine: Literal["auto", "torch", "numba"] = option("auto", "Train by the fast kernel for the CPU, or by the loop.")


class CollabRatings(Task):
    """Tell how a user would rate an item."""

    id: ClassVar[str] = "collab/ratings"
    Options: ClassVar[type] = CollabRatingsOptions

    def __init__(self, options: CollabRatingsOptions) -> None:
        """Hold the options."""
        super().__init__(options)
        self._notes: list[str] = []

    def _columns(self) -> dict[str, Any]:
        given = self.options
        named = {"user": given.user, "item": given.item, "rating": given.rating, "timestamp": given.timestamp}
        return {role: None if name == "auto" else name for role, name in named.items()}

    def data(self, source: Path, job: JobOptions) -> DataLoaders:
        """Return loaders of the ratings."""
        from graftwork_collab.data import CollabDataLoaders
        from graftwork_collab.sources import read_events

        events = read_events(source, **self._columns(), duplicates=self.options.duplicates, on_bad_item=job.on_bad_item)
        self._notes = list(events.how)
        return CollabDataLoaders.from_events(
            replace(events, notes=events.warnings),
            valid_pct=job.valid_pct,
            seed=job.seed,
            split=self.options.split,
            bs=job.bs,
            user_features=self._features("user", source, job),
            item_features=self._features("item", source, job),
        )

    def _features(self, side: Literal["user", "item"], source: Path, job: JobOptions) -> Any:
        given = self.options.user_features if side == "user" else self.options.item_features
        if given or side == "user" or not job.model.endswith("towers") or not source.is_dir():
            return Path(given) if given else None
        from graftwork_collab.sources import movielens_features

        return movielens_features(source)

    def learner(self, data: DataLoaders, job: JobOptions) -> Learner:
        """Return a learner of the dot product, unless another model is asked for."""
        from graftwork.api import Learner, get_host
        from graftwork_collab.learner import collab_learner

        runtime = job.runtime(auto="fp32")
        given, model = self.options, get_host().models.spec("collab/dot-bias" if job.model == "auto" else job.model).id
        if model not in ("collab/dot-bias", "collab/neural", "collab/towers"):
            return Learner(data, model, lr=DEFAULT_LR, wd=given.wd, runtime=runtime, seed=job.seed)
        self._check_features(data, model)
        return collab_learner(
            data,
            given.factors,
            use_nn=model == "collab/neural",
            y_range=parse_range(given.y_range),
            layers=None if given.layers == "auto" else parse_layers(given.layers),
            engine=given.engine,
            lr=DEFAULT_LR,
            wd=given.wd,
            runtime=runtime,
            seed=job.seed,
        )

    def _check_features(self, data: DataLoaders, model: str) -> None:
        described = len(data.plan.inputs) > 2
        if model == "collab/towers" and not described:
            raise OptionError("--model towers needs --user-features or --item-features, or MovieLens' folder")
        if described and model != "collab/towers":
            self._notes.append("there are features, so the model is collab/towers")

    def default_lr(self, learner: Learner) -> float:
        """Return 3e-3."""
        return DEFAULT_LR

    def test_loader(self, source: Path, plan: Plan, job: JobOptions) -> Loader:
        """Return a loader of all ratings of a source."""
        from graftwork_collab.data import ratings_loader

        columns = {role: name for role, name in self._columns().items() if name is not None}
        return ratings_loader(plan, source, columns=columns, on_bad_item=job.on_bad_item)

    def inputs(self, arguments: Sequence[str]) -> list[tuple[str, Any]]:
        """Read each INPUT: USER,ITEM, or a file of pairs, each of whose rows is predicted."""
        return [pair for argument in arguments for pair in self._pairs(argument)]

    def _pairs(self, argument: str) -> list[tuple[str, Any]]:
        if not Path(argument).is_file():
            user, item = parse_pair(argument)
            return [(argument, {"user": user, "item": item})]
        from graftwork_collab.sources import read_events

        named = {role: name for role, name in self._columns().items() if role in ("user", "item")}
        events = read_events(Path(argument), **named, with_rating=False, duplicates="all", on_bad_item="error")
        rows = zip(events.user.to_pylist(), events.item.to_pylist(), strict=True)
        return [(f"{user},{item}", {"user": user, "item": item}) for user, item in rows]

    def baseline_ids(self, data: DataLoaders) -> Sequence[str]:
        """Return the mean, and the means of users and items."""
        return (*data.plan.target.baseline_ids, "collab/biases")

    def pictures(self, data: DataLoaders, learner: Learner) -> dict[str, Figure]:
        """Draw the losses, and predictions beside the ratings."""
        from graftwork_collab.pictures import rating_pictures

        return rating_pictures(data, learner)

    def notes(self) -> Sequence[str]:
        """Return how the source was read."""
        return self._notes


def parse_pair(text: str) -> tuple[str, str]:
    """Read "USER,ITEM"; an item's name may hold commas, a user's if it is quoted. Raise OptionError for no pair."""
    fields = next(csv.reader([text]), [])
    if len(fields) != 2:
        user, _, item = text.partition(",")
        fields = [user, item]
    user, item = (field.strip() for field in fields)
    if not user or not item:
        raise OptionError(f"INPUT {text!r} is neither a file of pairs nor USER,ITEM, as in 1,318")
    return user, item


def parse_range(text: str) -> tuple[float, float] | Literal["auto"] | None:
    """Read "LOW,HIGH", "auto" or "none"; raise OptionError for anything else."""
    if text == "auto":
        return "auto"
    if text == "none":
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise OptionError(f"--y-range {text}: write LOW,HIGH, as in 0,5.5, or auto, or none") from None
    if not low < high:
        raise OptionError(f"--y-range {text}: the first number must be the lower one")
    return low, high


def parse_layers(text: str) -> list[int]:
    """Read "100,50"; raise OptionError for anything else."""
    parts = text.split(",")
    if not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise OptionError(f"--layers {text}: write sizes such as 100,50, or auto")
    return [int(part) for part in parts]
