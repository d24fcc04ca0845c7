"""The one-command jobs of this plugin. Nothing heavy is imported to print their help."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from graftwork.api import JobOptions, OptionError, Task, option

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from graftwork.api import DataLoaders, Learner, Loader, Plan

__all__ = [
    "TableOptions",
    "TabularClassification",
    "TabularClassificationOptions",
    "TabularRegression",
    "TabularRegressionOptions",
]

PREDICT_ROWS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TableOptions:
    """Hold what every table task lets one choose; names in a list are separated by commas."""

    target: str = option("", "Target column, or several.")
    cat: str = option("", "Columns to take as categories.")
    cont: str = option("", "Columns to take as numbers.")
    date: str = option("", "Columns to take as dates.")
    drop: str = option("", "Columns to leave out.")
    na_values: str = option("", "What stands for a missing value, beside the usual (empty, NA, ?, null …).")
    sep: str = option("auto", "Separator of a CSV: one letter, tab, or auto.")
    encoding: str = option("auto", "Encoding of a CSV, or auto.")
    scale: Literal["normalize", "quantile", "robust"] = option("normalize", "How numbers are brought to one scale.")
    fill: Literal["median", "mean", "mode"] = option("median", "What fills missing numbers.")
    min_freq: int = option(1, "Categories rarer than this in training count as unseen.")
    weight: str = option("", "Column of weights in the training loss.")
    split: str = option(
        "random", "How to hold out: random, time:COLUMN (the latest), group:COLUMN, column:COLUMN (true)."
    )
    epochs: int = option(0, "Passes over the training split; 0 is the model's own choice.")
    bs: int = option(0, "Rows in a batch; 0 is the model's own choice.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TabularClassificationOptions(TableOptions):
    """Add what classification lets one choose."""

    balance: Literal["none", "weights", "sampling"] = option(
        "none", "Make classes count the same: by weights in the loss, or by how often their rows are drawn."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TabularRegressionOptions(TableOptions):
    """Add what regression lets one choose."""

    y_range: str = option("", "Bounds of the predicted number, LOW,HIGH.")


def names_in(text: str) -> list[str]:
    """Read a list of names separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


class _TableTask(Task):
    """Learn a column of a table from the others."""

    kind: ClassVar[str]

    def __init__(self, options: Any) -> None:
        """Hold the options."""
        super().__init__(options)
        self._notes: list[str] = []

    def _reading(self) -> dict[str, Any]:
        given = self.options
        separator = {"auto": None, "tab": "\t", "\\t": "\t"}.get(given.sep, given.sep)
        encoding = None if given.encoding == "auto" else given.encoding
        return {"sep": separator, "encoding": encoding, "na_values": names_in(given.na_values)}

    def _targets(self, columns: Sequence[str]) -> list[str]:
        names = names_in(self.options.target)
        if not names:
            raise OptionError(f"say which column to learn: --target COLUMN; the table has {', '.join(columns)}")
        return names

    def data(self, source: Path, job: JobOptions) -> DataLoaders:
        """Return loaders of the encoded table, having found out what its columns are."""
        from graftwork_tabular.data import TabularDataLoaders
        from graftwork_tabular.encode import target_block
        from graftwork_tabular.reading import read_table
        from graftwork_tabular.schema import infer_schema

        given = self.options
        read = read_table(source, **self._reading())
        targets = self._targets(read.table.column_names)
        target_block(read.table, targets, None)  # an unknown target is answered before anything else
        schema = infer_schema(
            read.table,
            target=targets,
            cat_names=names_in(given.cat),
            cont_names=names_in(given.cont),
            date_names=names_in(given.date),
            drop=[*names_in(given.drop), *names_in(given.weight), *self._split_columns()],
        )
        self._notes = [*read.notes, *schema.lines()]
        return TabularDataLoaders.from_df(
            read.table,
            y_names=targets,
            y_block=self._y_block(read.table, targets),
            schema=schema,
            procs=self._procs(bool(schema.names("date"))),
            splitter=self._splitter(job),
            valid_pct=job.valid_pct,
            seed=job.seed,
            bs=given.bs or 256,
            valid_bs=4096,
            weight_name=given.weight or None,
            sampling=self._sampling(),
        )

    def _split_columns(self) -> list[str]:
        how, _, column = self.options.split.partition(":")
        return [column] if how == "column" and column else []

    def _splitter(self, job: JobOptions) -> Any:
        from graftwork.api import ColSplitter, GroupSplitter, TimeSplitter

        how, _, column = self.options.split.partition(":")
        if how == "random" and not column:
            return None
        if how not in ("time", "group", "column") or not column:
            raise OptionError(f"--split {self.options.split}: use random, time:COLUMN, group:COLUMN or column:COLUMN")
        if how == "time":
            return TimeSplitter(column, valid_pct=job.valid_pct)
        if how == "group":
            return GroupSplitter(column, valid_pct=job.valid_pct, seed=job.seed)
        return ColSplitter(column)

    @abstractmethod
    def _y_block(self, table: Any, targets: Sequence[str]) -> Any:
        """Return "category", "number" or "labels"."""

    def _sampling(self) -> str | None:
        return None

    def _procs(self, dates: bool) -> list[Any]:
        from graftwork_tabular.dates import AddDateparts
        from graftwork_tabular.procs import Categorify, FillMissing
        from graftwork_tabular.scaling import Normalize, QuantileScale, RobustScale

        scale = {"normalize": Normalize, "quantile": QuantileScale, "robust": RobustScale}[self.options.scale]()
        first = [AddDateparts()] if dates else []
        return [*first, FillMissing(self.options.fill), Categorify(min_freq=self.options.min_freq), scale]

    def _learner_options(self) -> dict[str, Any]:
        return {}

    def learner(self, data: DataLoaders, job: JobOptions) -> Learner:
        """Return a learner of the model asked for; auto is the strong default."""
        from graftwork_tabular.learner import tabular_learner

        return tabular_learner(
            data,
            None if job.model == "auto" else job.model,
            runtime=job.runtime(auto="fp32"),
            seed=job.seed,
            **self._learner_options(),
        )

    def default_lr(self, learner: Learner) -> float:
        """Return the model's own rate."""
        return learner.lr

    def train(self, learner: Learner, job: JobOptions, lr: float) -> None:
        """Train for the epochs asked for, or the model's own number of them."""
        from graftwork_tabular.learner import fit_recipe

        fit_recipe(learner, epochs=self.options.epochs or None, lr=lr)

    def test_loader(self, source: Path, plan: Plan, job: JobOptions) -> Loader:
        """Return a loader of a table's rows with their targets."""
        from graftwork_tabular.data import table_loader
        from graftwork_tabular.reading import read_table

        read = read_table(source, **self._reading())
        targets = self._targets(read.table.column_names)
        return table_loader(plan, read.table, y_names=targets, bs=4096)

    def inputs(self, arguments: Sequence[str]) -> list[tuple[str, Any]]:
        """Read each INPUT: a row as JSON, or a table, each of whose rows is predicted."""
        return [pair for argument in arguments for pair in self._rows_of(argument)]

    def _rows_of(self, argument: str) -> list[tuple[str, Any]]:
        if argument.lstrip().startswith("{"):
            try:
                return [(argument, json.loads(argument))]
            except json.JSONDecodeError as error:
                raise OptionError(f"INPUT {argument!r} is no JSON: {error}") from error
        from graftwork_tabular.reading import read_table

        table = read_table(Path(argument), **self._reading()).table
        if table.num_rows > PREDICT_ROWS:
            raise OptionError(f"{argument} has {table.num_rows:,} rows; predict more than {PREDICT_ROWS:,} in Python")
        return [(f"{argument} row {i + 1}", row) for i, row in enumerate(table.to_pylist())]

    def baseline_ids(self, data: DataLoaders) -> Sequence[str]:
        """Return the constant, a linear model and gradient-boosted trees."""
        return (*data.plan.target.baseline_ids, "tabular/linear", "tabular/boosting")

    def notes(self) -> Sequence[str]:
        """Return what the columns were taken for."""
        return self._notes

    def pictures(self, data: DataLoaders, learner: Learner) -> dict[str, Figure]:
        """Draw the first rows as a table, the losses, predictions beside targets, and which columns matter."""
        from graftwork_tabular.pictures import run_pictures

        return run_pictures(data, learner)


class TabularClassification(_TableTask):
    """Tell the class of a row, or which of several labels it has."""

    id: ClassVar[str] = "tabular/classification"
    Options: ClassVar[type] = TabularClassificationOptions

    def _y_block(self, table: Any, targets: Sequence[str]) -> Any:
        return "labels" if len(targets) > 1 else "category"

    def _sampling(self) -> str | None:
        return "balanced" if self.options.balance == "sampling" else None

    def _learner_options(self) -> dict[str, Any]:
        return {"class_weights": "balanced"} if self.options.balance == "weights" else {}


class TabularRegression(_TableTask):
    """Tell a number of a row, or several."""

    id: ClassVar[str] = "tabular/regression"
    Options: ClassVar[type] = TabularRegressionOptions

    def _y_block(self, table: Any, targets: Sequence[str]) -> Any:
        return "number"

    def _learner_options(self) -> dict[str, Any]:
        if not self.options.y_range:
            return {}
        try:
            low, high = (float(part) for part in self.options.y_range.split(","))
        except ValueError:
            raise OptionError(f"--y-range {self.options.y_range}: write LOW,HIGH, as in 0,5.5") from None
        if not low < high:
            raise OptionError(f"--y-range {self.options.y_range}: the first number must be the lower one")
        return {"y_range": (low, high)}
