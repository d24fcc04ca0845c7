"""The one-command job of rankings. Nothing heavy is imported to print its help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from graftwork.api import JobOptions, OptionError, Task, option

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from graftwork.api import DataLoaders, Learner, Loader, Plan

__all__ = ["CollabRanking", "CollabRankingOptions"]

SMALL: Final = 4096
"""Users or items, whichever are fewer, up to which EASE is the task's choice."""
EPOCHS: Final[Mapping[str, int]] = {
    "collab/ease": 1,
    "collab/item-knn": 1,
    "collab/als": 15,
    "collab/factors": 15,
    "collab/lightgcn": 15,
    "collab/sasrec": 30,
}
BATCH: Final[Mapping[str, int]] = {"collab/sasrec": 32, "collab/lightgcn": 2048}
ONE_PASS: Final = ("collab/ease", "collab/item-knn")


@dataclass(frozen=True, slots=True, kw_only=True)
class CollabRankingOptions:
    """Hold what a job of rankings lets one choose."""

    user: str = option("auto", "Column of users; auto goes by its name, else takes the first column.")
    item: str = option("auto", "Column of items; auto goes by its name, else takes the second column.")
    weight: str = option("none", "Column that says how much a row counts, none for all alike; 0 is left out.")
    timestamp: str = option("auto", "Column of times, for --split and for histories; auto goes by its name.")
    split: Literal["random", "time", "leave-last-out"] = option(
        "random", "Hold out a random share, the latest share, or each user's last item."
    )
    k: int = option(10, "Items that are recommended, and places that metrics look at.")
    loss: Literal["auto", "softmax", "bpr", "bce"] = option("auto", "How factors, lightgcn and sasrec are trained.")
    factors: str = option("auto", "Numbers in a vector; auto is the model's own choice.")
    negatives: int = option(256, "Items drawn for each batch, to compare the chosen ones with.")
    history: int = option(50, "Items that a sequential model reads.")
    epochs: str = option("auto", "Passes over the training split; auto is the model's own choice.")
    bs: str = option("auto", "Interactions (or histories) in a batch; auto is the model's own choice.")


class CollabRanking(Task):
    """Recommend items to users."""

    id: ClassVar[str] = "collab/ranking"
    Options: ClassVar[type] = CollabRankingOptions

    def __init__(self, options: CollabRankingOptions) -> None:
        """Hold the options; raise OptionError for what no data makes possible."""
        super().__init__(options)
        if options.k < 1:
            raise OptionError(f"--k {options.k}: recommend at least one item")
        for name in ("factors", "epochs", "bs"):
            _count(name, vars_of(options)[name])
        self._notes: list[str] = []

    def _columns(self) -> dict[str, str | None]:
        given = self.options
        named = {"user": given.user, "item": given.item, "weight": given.weight, "timestamp": given.timestamp}
        return {role: None if name in ("auto", "none") else name for role, name in named.items()}

    def _model(self, job: JobOptions) -> str | None:
        """Return the id of the model asked for, None for auto."""
        from graftwork.api import get_host

        return None if job.model == "auto" else str(get_host().models.spec(job.model).id)

    def data(self, source: Path, job: JobOptions) -> DataLoaders:
        """Return loaders of the interactions, with histories for a model that reads them."""
        from graftwork_collab.ranking_data import RankingDataLoaders

        model, bs = self._model(job), _count("bs", self.options.bs)
        columns = self._columns()
        data = RankingDataLoaders.from_source(
            source,
            user=columns["user"],
            item=columns["item"],
            weight=columns["weight"],
            timestamp=columns["timestamp"],
            split=self.options.split,
            valid_pct=job.valid_pct,
            seed=job.seed,
            bs=bs or BATCH.get(model or "", 1024),
            k=self.options.k,
            negatives=self.options.negatives,
            in_batch=0.0 if self.options.loss == "bpr" else 0.5,
            history=self.options.history if model == "collab/sasrec" else None,
            on_bad_item=job.on_bad_item,
        )
        self._notes = list(data.how)
        return data

    def learner(self, data: DataLoaders, job: JobOptions) -> Learner:
        """Return a learner of the model asked for; auto is EASE where the matrix is small, else ALS."""
        from graftwork_collab.ranking_data import RankingDataLoaders
        from graftwork_collab.ranking_learners import SOLVED, ranking_learner

        assert isinstance(data, RankingDataLoaders)
        model = self._model(job)
        if model is None:
            small = min(data.num_items, data.interactions.num_users) <= SMALL
            model = "collab/ease" if small else "collab/als"
        loss, names = self.options.loss, {"softmax": "sampled_softmax", "bpr": "bpr", "bce": "pair_bce"}
        if model in SOLVED and loss != "auto":
            raise OptionError(f"{model} is solved, so --loss {loss} has no meaning; leave it out")
        return ranking_learner(
            data,
            model,
            model_config=self._config(model),
            loss=None if loss == "auto" else f"collab/{names[loss]}",
            k=self.options.k,
            runtime=job.runtime(auto="fp32"),
            seed=job.seed,
        )

    def _config(self, model: str) -> dict[str, Any]:
        factors = _count("factors", self.options.factors)
        if factors is None:
            return {}
        names = {"collab/ease": "rank", "collab/sasrec": "width", "collab/item-knn": "neighbours"}
        return {names.get(model, "factors"): factors}

    def default_lr(self, learner: Learner) -> float:
        """Return the model's own rate; models that are solved have none."""
        return learner.lr

    def train(self, learner: Learner, job: JobOptions, lr: float) -> None:
        """Train for as many epochs as suit the model; solve in one what is solved in one."""
        epochs = _count("epochs", self.options.epochs)
        model = learner.model_id or ""
        if model in ONE_PASS and epochs not in (None, 1):
            self._notes.append(f"{model} is solved in one pass; --epochs {epochs} adds nothing")
            epochs = 1
        epochs = epochs or EPOCHS.get(model, job.epochs)
        if model in ONE_PASS or model == "collab/als":
            learner.fit(epochs, lr)
        else:
            learner.fit_one_cycle(epochs, lr)

    def test_loader(self, source: Path, plan: Plan, job: JobOptions) -> Loader:
        """Return a loader in which all of a source's interactions are what is to be found."""
        import logging

        from graftwork_collab.ranking_data import held_out_from

        loader, notes = held_out_from(source, plan, {**self._columns(), "on_bad_item": job.on_bad_item})
        known = "what a user had in training is not recommended, so it counts as not found: evaluate on new rows"
        for note in (*notes, known):
            logging.getLogger("graftwork").warning(note)
        return loader

    def inputs(self, arguments: Sequence[str]) -> list[tuple[str, Any]]:
        """Take each INPUT as a user."""
        return [(argument, {"user": argument}) for argument in arguments]

    def pictures(self, data: DataLoaders, learner: Learner) -> dict[str, Figure]:
        """Draw some users' histories and recommendations, and what is recommended beside what is popular."""
        from graftwork_collab.ranking_pictures import ranking_pictures

        return ranking_pictures(data, learner)

    def notes(self) -> Sequence[str]:
        """Return how the source was read."""
        return self._notes


def vars_of(options: CollabRankingOptions) -> dict[str, Any]:
    """Return the options by name."""
    from dataclasses import asdict

    return asdict(options)


def _count(name: str, text: str) -> int | None:
    """Read a whole number of at least 1, None for auto; raise OptionError for anything else."""
    if text == "auto":
        return None
    if not text.isdigit() or int(text) < 1:
        raise OptionError(f"--{name} {text}: give a whole number of at least 1, or auto")
    return int(text)
