"""What a trained model makes of its columns: which matter, how the prediction follows one, what categories became."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

import numpy as np
import torch
from torch import Tensor

from graftwork import Predictor
from graftwork.api import (
    ClassIndexBlock,
    ColumnLoader,
    DataError,
    Learner,
    Loader,
    Metric,
    MultiHotBlock,
    OptionError,
    Plan,
    TargetBlock,
    as_metric,
    unknown,
)
from graftwork_tabular.blocks import PackedRowBlock
from graftwork_tabular.fields import column_of, row_field
from graftwork_tabular.nets import TableNet
from graftwork_tabular.procs import MISSING_SUFFIX, Categorify

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Importance", "PartialDependence", "embeddings", "partial_dependence", "permutation_importance"]

Model: TypeAlias = "Learner | Predictor"
Array = np.ndarray[Any, np.dtype[np.float64]]

LOSS: Final = "loss"
BATCH: Final = 4096
GRID: Final = 25
MOST_CATEGORIES: Final = 30


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """Hold what permuting each column costs: `costs` (columns, repeats) by metric, above 0 where it got worse.

    `baseline` is what the metrics say of the rows as they are.
    """

    columns: tuple[str, ...]
    baseline: Mapping[str, float]
    costs: Mapping[str, Array]

    def frame(self, metric: str | None = None) -> pd.DataFrame:
        """Return mean and deviation over the repeats by column, the most important first; by default of the loss."""
        import pandas as pd

        costs = self._costs(metric)
        index = pd.Index(self.columns, name="column")
        found = pd.DataFrame({"mean": costs.mean(1), "std": costs.std(1)}, index=index)
        return found.sort_values("mean", ascending=False, kind="stable")

    def plot(self, metric: str | None = None, *, max_n: int = 20) -> Figure:
        """Draw the most important columns as bars."""
        found = self.frame(metric).head(max_n).iloc[::-1]
        figure, ax = _axes(6.4, 0.26 * len(found) + 1.0)
        ax.barh([str(name) for name in found.index], found["mean"], xerr=found["std"], color="C0", ecolor="0.4")
        ax.set_xlabel(f"{metric or LOSS}: how much worse with the column permuted", fontsize=8)
        ax.tick_params(labelsize=8)
        return figure

    def _costs(self, metric: str | None) -> Array:
        name = metric or LOSS
        if name not in self.costs:
            raise unknown("metric", name, self.costs)
        return self.costs[name]


def permutation_importance(
    model: Model,
    loader: Loader | None = None,
    *,
    metrics: Sequence[Any] | None = None,
    repeats: int = 5,
    max_rows: int | None = 20_000,
    seed: int = 0,
) -> Importance:
    """Measure how much worse a model predicts when one column's values are handed to other rows (Breiman, 2001).

    The rows are those of `loader`, by default the validation split; of more than `max_rows` as many are used, evenly
    spread. Measured are the loss and `metrics`, by default the target's. A number column and the flag that says where
    it was missing move together.

    Raises:
        DataError: the rows have no targets, or there are fewer than two.
    """
    if repeats < 1:
        raise OptionError(f"repeats={repeats}: permute each column at least once")
    rows = _Rows.of(model, loader, max_rows)
    chosen = [as_metric(m) for m in (rows.target.metric_ids if metrics is None else metrics)]
    baseline = rows.measure(rows.x, chosen)
    ups = {LOSS: False, **{m.name: m.higher_is_better for m in chosen}}
    orders = _orders(len(rows.x), repeats, seed)
    groups = _groups(rows.block)
    costs = {name: np.empty((len(groups), repeats)) for name in ups}
    for i, places in enumerate(groups.values()):
        for repeat, order in enumerate(orders):
            found = rows.measure(_permuted(rows.x, places, order), chosen)
            for name, up in ups.items():
                costs[name][i, repeat] = (baseline[name] - found[name]) * (1 if up else -1)
    return Importance(columns=tuple(groups), baseline=baseline, costs=costs)


def _orders(count: int, repeats: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randperm(count, generator=generator) for _ in range(repeats)]


def _groups(block: PackedRowBlock) -> dict[str, list[int]]:
    """Return the places of each column in a packed row; a flag of missing values goes with its number."""
    flags = {f"{name}{MISSING_SUFFIX}": name for name in block.cont}
    groups: dict[str, list[int]] = {name: [] for name in block.names if name not in flags}
    for place, name in enumerate(block.names):
        groups[flags.get(name, name)].append(place)
    return groups


def _permuted(x: Tensor, places: Sequence[int], order: Tensor) -> Tensor:
    changed = x.clone()
    changed[:, list(places)] = x[order.to(x.device)][:, list(places)]
    return changed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """Hold packed rows on the model's device, with their targets if there are any."""

    model: Model
    plan: Plan
    name: str
    block: PackedRowBlock
    x: Tensor
    y: Tensor | None

    @classmethod
    def of(cls, model: Model, loader: Loader | None, max_rows: int | None) -> _Rows:
        loader = _default_loader(model) if loader is None else loader
        plan = loader.plan
        name, block = row_field(plan)
        x, target = column_of(loader, name), plan.targets[0]
        every = slice(None, None, 1 if max_rows is None else max(1, -(-len(x) // max_rows)))
        labelled = not isinstance(loader, ColumnLoader) or target in loader.columns
        y = column_of(loader, target)[every] if labelled else None
        return cls(model=model, plan=plan, name=name, block=block, x=x[every].to(model.feed.session.device), y=y)

    @property
    def target(self) -> TargetBlock:
        return self.plan.target

    def measure(self, x: Tensor, metrics: Sequence[Metric]) -> dict[str, float]:
        """Return the loss and the metrics on rows."""
        if self.y is None or len(x) < 2:
            raise DataError(
                "importance is measured on rows with targets, at least two; these have none, or are too few"
            )
        fields = {self.name: x, self.plan.targets[0]: self.y.to(x.device)}
        said = self.model.get_preds(ColumnLoader(fields, self.plan, bs=BATCH))
        assert said.losses is not None
        assert said.targets is not None
        for metric in metrics:
            metric.reset()
            metric.update(said.activated, said.targets)
        return {LOSS: float(said.losses.mean()), **{m.name: float(m.compute()) for m in metrics}}

    def responses(self, x: Tensor) -> Tensor:
        """Return what the model says of rows, (N, outputs)."""
        said = self.model.get_preds(ColumnLoader({self.name: x}, self.plan, bs=BATCH)).activated
        return said.reshape(len(said), -1)


def _default_loader(model: Model) -> Loader:
    if isinstance(model, Predictor):
        raise OptionError("a loaded model has no data; pass the rows: loader=table_loader(model.plan, table, …)")
    if model.data.valid is None:
        raise DataError("nothing was held out for validation; pass rows, for example loader=data.test_dl(table)")
    return model.data.valid


# -- partial dependence ----------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PartialDependence:
    """Hold the mean prediction (values, outputs) over rows that all have been given each value of a column.

    `values` are in the column's own terms as far as the plan leads back to them; `spread` (values, outputs, 2) holds
    the rows' first and ninth decile.
    """

    column: str
    values: tuple[Any, ...]
    outputs: tuple[str, ...]
    means: Array
    spread: Array
    numeric: bool

    def frame(self) -> pd.DataFrame:
        """Return the means by value, one column per output."""
        import pandas as pd

        return pd.DataFrame(self.means, index=pd.Index(self.values, name=self.column), columns=list(self.outputs))

    def plot(self, output: str | None = None) -> Figure:
        """Draw the mean, and the range of eight rows in ten; of two classes the second is drawn, of others all."""
        if output is not None and output not in self.outputs:
            raise unknown("output", output, self.outputs)
        chosen = [output] if output is not None else list(self.outputs)
        if output is None and len(chosen) == 2:
            chosen = chosen[1:]
        figure, ax = _axes(5.6 if self.numeric else max(4.0, 0.4 * len(self.values) + 2), 3.6)
        for i, name in enumerate(chosen):
            self._draw(ax, self.outputs.index(name), f"C{i}")
        ax.set_xlabel(self.column, fontsize=9)
        ax.set_ylabel("prediction" if len(chosen) > 1 else chosen[0], fontsize=9)
        if len(chosen) > 1:
            ax.legend(frameon=False, fontsize=8)
        return figure

    def _draw(self, ax: Axes, place: int, colour: str) -> None:
        means, low, high = self.means[:, place], self.spread[:, place, 0], self.spread[:, place, 1]
        label = self.outputs[place]
        if self.numeric:
            ax.plot(self.values, means, color=colour, label=label)
            ax.fill_between(self.values, low, high, color=colour, alpha=0.15, linewidth=0)
            return
        places = range(len(self.values))
        ax.errorbar(places, means, yerr=[means - low, high - means], fmt="o", color=colour, capsize=2, label=label)
        ax.set_xticks(list(places), [str(v) for v in self.values], rotation=60, ha="right", fontsize=7)


def partial_dependence(
    model: Model,
    column: str,
    loader: Loader | None = None,
    *,
    values: Sequence[Any] | None = None,
    max_rows: int | None = 1000,
) -> PartialDependence:
    """Measure how predictions follow one column, all others left as they are (Friedman, 2001).

    Without `values` a number takes up to 25 quantiles of its values, a category its 30 most frequent ones. Values that
    are given are encoded as the table's are, and may be of any column of it, a date for example.

    Raises:
        UnknownName: no such column.
    """
    rows = _Rows.of(model, loader, max_rows)
    if values is None:
        place = rows.block.position(column)
        grid, shown = _grid(rows, place)
        places = [place]
    else:
        places, grid, shown = _encoded(rows, _a_row(model, loader), column, values)
    said = [rows.responses(_set(rows.x, places, point)) for point in grid]
    cube = torch.stack(said).double().numpy()
    numeric = (
        all(isinstance(v, int | float) and not isinstance(v, bool) for v in shown) and column not in rows.block.cat
    )
    return PartialDependence(
        column=column,
        values=tuple(shown),
        outputs=_output_names(rows.target, cube.shape[2]),
        means=cube.mean(1),
        spread=np.moveaxis(np.quantile(cube, [0.1, 0.9], axis=1), 0, -1),
        numeric=numeric,
    )


def _set(x: Tensor, places: Sequence[int], point: Tensor) -> Tensor:
    changed = x.clone()
    changed[:, list(places)] = point.to(x.device)
    return changed


def _grid(rows: _Rows, place: int) -> tuple[Tensor, list[Any]]:
    """Return packed values (G, 1) of one column, and what they mean."""
    column = rows.x[:, place].cpu()
    if place < rows.block.n_cat:
        codes, counts = column.unique(return_counts=True)
        points = codes[counts.argsort(descending=True, stable=True)[:MOST_CATEGORIES]].sort().values
    else:
        points = torch.quantile(column, torch.linspace(0, 1, GRID), interpolation="nearest").unique()
    return points[:, None], [_meaning(rows, place, point) for point in points]


def _meaning(rows: _Rows, place: int, point: Tensor) -> Any:
    """Lead a packed value back to the table's terms, as far as the plan's steps can be undone."""
    packed = rows.x[0].cpu().clone()
    packed[place] = point
    row, _ = rows.plan.decode(rows.name, packed.numpy())
    name = rows.block.names[place]
    return row[name] if isinstance(row, Mapping) and name in row else float(point)


def _a_row(model: Model, loader: Loader | None) -> Mapping[str, Any]:
    loader = _default_loader(model) if loader is None else loader
    position = int(loader.positions[0]) if isinstance(loader, ColumnLoader) else 0
    row = loader.item(position)
    if not isinstance(row, Mapping):
        raise OptionError(
            "values are encoded with a row of the table, and this loader has packed rows only; leave them out"
        )
    return row


def _encoded(
    rows: _Rows, row: Mapping[str, Any], column: str, values: Sequence[Any]
) -> tuple[list[int], Tensor, list[Any]]:
    """Return the places in a packed row that the column decides, and what they hold for each value."""
    if column not in row:
        raise unknown("column", column, map(str, row))
    if not len(values):
        raise OptionError(f"values={values!r}: give one value of {column!r} at least")
    packed = torch.stack(
        [torch.from_numpy(rows.plan.encode({rows.name: {**row, column: v}})[rows.name]) for v in values]
    )
    own = _groups(rows.block).get(column, [])
    places = sorted({*own, *(packed != packed[0]).any(0).nonzero().flatten().tolist()})
    if not places:
        raise OptionError(f"the model does not look at column {column!r}")
    return places, packed[:, places], list(values)


def _output_names(block: TargetBlock, count: int) -> tuple[str, ...]:
    if isinstance(block, ClassIndexBlock | MultiHotBlock):
        return tuple(f"probability of {label}" for label in block.vocab)
    return ("prediction",) if count == 1 else tuple(f"prediction {i + 1}" for i in range(count))


# -- embeddings ------------------------------------------------------------------------------------------------------


def embeddings(model: Model, column: str, *, special: bool = False) -> pd.DataFrame:
    """Return what a network learned of a category column: one row per value of the vocabulary.

    With `special` two rows more, for unseen values and for missing ones.

    Raises:
        UnknownName: no such category column.
        OptionError: the model has no embedding of it.
    """
    import pandas as pd

    plan = model.data.plan if isinstance(model, Learner) else model.plan
    name, block = row_field(plan)
    if column not in block.cat:
        raise unknown("category column", column, block.cat)
    matrix = model.module.embedding(column) if isinstance(model.module, TableNet) else None
    if matrix is None:
        raise OptionError(
            f"this model has no embedding of {column!r}: it gives every value a weight of its own; "
            "train tabular/mlp, tabular/resnet or tabular/ft-transformer"
        )
    weights, values = matrix.detach().cpu().numpy(), _vocabulary(plan, name, column, len(matrix))
    found = pd.DataFrame(weights[1:-1], index=pd.Index(values, name=column))
    if not special:
        return found
    ends = pd.DataFrame(weights[[0, -1]], index=pd.Index(["(unseen)", "(missing)"], name=column))
    return pd.concat([found, ends])


def _vocabulary(plan: Plan, name: str, column: str, num_codes: int) -> list[Any]:
    """Return the values of codes 1 to n; codes where the plan does not know their values."""
    for step in plan.fields[name].item_steps:
        if isinstance(step.transform, Categorify) and column in (step.transform.vocabs or {}):
            return (step.transform.vocabs or {})[column].decode(np.arange(1, num_codes - 1))
    return list(range(1, num_codes - 1))


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    from graftwork.api import new_figure

    figure = new_figure(width=width, height=height)
    return figure, figure.add_subplot()
