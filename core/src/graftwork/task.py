"""Tasks: a one-command job that a plugin offers, from a source on disk to a trained learner.

A task's module is imported to print its help, so it imports nothing heavy at its top: torch and the plugin's own
modules come in inside the methods.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from graftwork.errors import OptionError, unknown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from graftwork.datablock import DataLoaders
    from graftwork.dataloader import Loader, OnBadItem
    from graftwork.learner import Learner
    from graftwork.plan import Plan
    from graftwork.prediction import Prediction
    from graftwork.predictor import BadItem, Predictor
    from graftwork.runtime import Precision, Runtime

__all__ = ["JobOptions", "Task", "option"]


def option(default: Any, help: str) -> Any:  # noqa: A002 - the word click and argparse use
    """Declare a field of a task's options with the line its command-line option shows in --help."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """Hold the options every task has."""

    model: str = option("auto", "Model to train: a name from the registry, or auto for the task's choice.")
    epochs: int = option(5, "Passes over the training split.")
    lr: str = option(
        "auto", "Largest learning rate: a number, find for a range test first, or auto for the model's default."
    )
    bs: int = option(64, "Items in a batch.")
    valid_pct: float = option(0.2, "Share held out for validation, where the source has no split of its own.")
    seed: int = option(42, "Seed of everything random.")
    device: str = option("auto", "Device: auto, cpu, cuda, cuda:1, mps.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = option("auto", "Number format of the forward pass.")
    compile: bool = option(False, "Run the model through torch.compile: worth its minute where training is long.")
    recompute: bool = option(False, "Keep no activations in the model's larger blocks: less memory, a third slower.")
    strategy: Literal["auto", "ddp", "fsdp", "alone"] = option(
        "auto", "Of several processes (torchrun), each has the whole model (ddp) or a part of it (fsdp); auto is ddp."
    )
    deterministic: bool = option(False, "Compute the same bits again on the same machine, also after resuming.")
    checkpoint_every: int | None = option(None, "Save the run every so many steps too; always after each epoch.")
    workers: int | None = option(None, "Loader threads; by default one per core, at most four.")
    worker_type: Literal["thread", "process", "fork"] = option(
        "thread", "Load items in threads, or in worker processes, spawned or forked."
    )
    on_bad_item: Literal["skip", "error"] = option(
        "skip", "Leave out items that cannot be read and list them, or stop."
    )
    track: tuple[str, ...] = option(
        (), "Track the run too: tensorboard, mlflow, wandb or a plugin's; repeated, or separated by commas."
    )
    profile: bool = option(False, "Measure where the time of a step goes, and write a trace.")

    def __post_init__(self) -> None:
        """Refuse what no task can do, before any work is done."""
        if self.epochs < 1:
            raise OptionError(f"epochs={self.epochs}: train for at least one epoch")
        if self.bs < 1:
            raise OptionError(f"bs={self.bs}: a batch holds at least one item")
        if self.checkpoint_every is not None and self.checkpoint_every < 1:
            raise OptionError(f"--checkpoint-every {self.checkpoint_every}: give a number of steps, at least 1")
        if self.lr not in ("auto", "find") and not 0 < _number(self.lr) < math.inf:
            raise OptionError(f"--lr {self.lr}: give a number above 0, or auto, or find")

    def runtime(self, *, auto: Precision = "auto", channels_last: bool | None = None) -> Runtime:
        """Return where and how to run; `auto` is what the task means by that precision."""
        from graftwork.runtime import Runtime

        precision = auto if self.precision == "auto" else self.precision
        return Runtime(
            device=self.device,
            precision=precision,
            channels_last=channels_last,
            compile=self.compile,
            recompute=self.recompute,
            strategy=self.strategy,
        )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


class Task(ABC):
    """Turn a source into data and a learner. `Options` is a frozen dataclass whose fields `option` declares."""

    id: ClassVar[str]
    Options: ClassVar[type]

    def __init__(self, options: Any) -> None:
        """Hold the task's own options."""
        self.options = options

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Build from `to_config`'s mapping; raise UnknownName for an option this task does not have."""
        names = {f.name for f in fields(cls.Options)}
        for key in config:
            if key not in names:
                raise unknown(f"option of {cls.id}", key, names)
        return cls(cls.Options(**config))

    def to_config(self) -> dict[str, Any]:
        """Return the options as JSON values."""
        return asdict(self.options)

    @abstractmethod
    def data(self, source: Path, job: JobOptions) -> DataLoaders:
        """Return loaders of the source's training and validation splits."""

    @abstractmethod
    def learner(self, data: DataLoaders, job: JobOptions) -> Learner:
        """Return an untrained learner."""

    @abstractmethod
    def default_lr(self, learner: Learner) -> float:
        """Return the largest learning rate to use where none is given."""

    @abstractmethod
    def test_loader(self, source: Path, plan: Plan, job: JobOptions) -> Loader:
        """Return a loader of all of a source's items with their targets, encoded by a trained plan."""

    def train(self, learner: Learner, job: JobOptions, lr: float) -> None:
        """Train; one cycle, unless a task knows better."""
        learner.fit_one_cycle(job.epochs, lr)

    def inputs(self, arguments: Sequence[str]) -> list[tuple[str, Any]]:
        """Turn the command line's INPUT arguments into (label, value) of each thing to predict: paths, here."""
        return [(argument, Path(argument)) for argument in arguments]

    def predict(
        self, predictor: Predictor, values: Sequence[Any], *, on_bad_item: OnBadItem = "skip"
    ) -> list[Prediction | BadItem]:
        """Return what the model says of each of `inputs`' values; a BadItem stands for one that cannot be read."""
        return predictor.predict_batch(values, on_bad_item=on_bad_item)

    def printed(self, label: str, value: Any, folder: Path | None) -> Any:
        """Return a predicted value as `graft predict` prints it, a JSON value; files of it go into `folder`, if given.

        Raises:
            OptionError: a folder is given, and predictions of this task are no files.
        """
        if folder is not None:
            raise OptionError(f"the predictions of {self.id} are printed and no files; leave --out out")
        return value

    def pictures(self, data: DataLoaders, learner: Learner) -> dict[str, Figure]:
        """Draw what goes into the run folder, by file name: the data, the losses, results, errors."""
        from graftwork.interpret import run_pictures

        return run_pictures(data, learner)

    def baseline_ids(self, data: DataLoaders) -> Sequence[str]:
        """Return the baselines to fit beside the model; by default those of the target's block."""
        return data.plan.target.baseline_ids

    def notes(self) -> Sequence[str]:
        """Say what was chosen or found on the way and the user may want to know; complete once there is a learner."""
        return ()
