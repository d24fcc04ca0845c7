"""What a network for tables must beat: gradient-boosted trees, and a linear model."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import Any, Final, Self, final

import numpy as np
import torch
from torch import Tensor

from graftwork.api import Baseline, ClassIndexBlock, DataLoaders, Loader, MultiHotBlock, OptionError, TargetBlock
from graftwork_tabular.blocks import PackedRowBlock
from graftwork_tabular.fields import column_of, row_field, weights_of

__all__ = ["Boosting", "Linear"]

Rows = np.ndarray[Any, Any]

MOST_CATEGORIES: Final = 255
MOST_COLUMNS: Final = 1000
LINEAR_ROWS: Final = 200_000


class _Fitted(Baseline):
    """Fit scikit-learn's models to packed rows: one for classes or a number, one per output for several.

    A target that is the same in all of training is predicted as that.
    """

    def __init__(self) -> None:
        """Know nothing yet."""
        self.models: list[Any] = []
        self.block: TargetBlock | None = None

    @abstractmethod
    def _model(self, row: PackedRowBlock, *, classes: bool) -> Any:
        """Return an unfitted model of packed rows."""

    @abstractmethod
    def _train(self, model: Any, x: Rows, y: Rows, weight: Rows | None) -> Any:
        """Fit a model."""

    def fit(self, data: DataLoaders) -> Self:
        """Fit on the training split; raise PlanError where there is not one packed row and one target."""
        (name, row), block = row_field(data.plan), data.plan.target
        x, y = (column_of(data.train, field).numpy() for field in (name, data.plan.targets[0]))
        weight = weights_of(data.train)
        classes = isinstance(block, ClassIndexBlock | MultiHotBlock)
        with warnings.catch_warnings():
            # A baseline that is not fully converged is still one; its limits keep it quick.
            warnings.simplefilter("ignore")
            self.models = [
                self._train(self._model(row, classes=classes), x, column, None if weight is None else weight.numpy())
                if (column != column[0]).any()
                else float(column[0])
                for column in y.reshape(len(y), -1).T
            ]
        self.block = block
        return self

    def predict(self, loader: Loader) -> Tensor:
        """Return probabilities (N, classes) or encoded values, (N,) or (N, outputs)."""
        block = self.block
        if block is None:
            raise OptionError(f"the baseline {self.name!r} has not been fitted; call fit(data) first")
        name, _ = row_field(loader.plan)
        x = column_of(loader, name).numpy()
        if isinstance(block, ClassIndexBlock):
            return torch.from_numpy(_probabilities(self.models[0], x, block.num_outputs))
        read = _chance if isinstance(block, MultiHotBlock) else _value
        found = torch.from_numpy(np.stack([read(model, x) for model in self.models], 1).astype(np.float32))
        return found if isinstance(block, MultiHotBlock) else block.activate(found)


def _probabilities(model: Any, x: Rows, count: int) -> Rows:
    """Return (N, classes); a class that training lacks has probability 0."""
    whole = np.zeros((len(x), count), np.float32)
    if isinstance(model, float):
        whole[:, int(model)] = 1
    else:
        whole[:, model.classes_.astype(np.int64)] = model.predict_proba(x)
    return whole


def _chance(model: Any, x: Rows) -> Rows:
    """Return the probability of a label, (N,)."""
    return _probabilities(model, x, 2)[:, 1]


def _value(model: Any, x: Rows) -> Rows:
    found: Rows = np.full(len(x), model, np.float32) if isinstance(model, float) else model.predict(x)
    return found


@final
class Boosting(_Fitted):
    """Predict with gradient-boosted trees: scikit-learn's HistGradientBoosting with its defaults.

    Categories of at most 255 codes are split as categories, others by code.
    """

    name = "boosting"

    def _model(self, row: PackedRowBlock, *, classes: bool) -> Any:
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

        kind = HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
        few = [j for j, size in enumerate(row.sizes) if size <= MOST_CATEGORIES]
        return kind(categorical_features=few or None, random_state=0)

    def _train(self, model: Any, x: Rows, y: Rows, weight: Rows | None) -> Any:
        return model.fit(x, y, sample_weight=weight)


@final
class Linear(_Fitted):
    """Predict linearly from scaled numbers and one column per code: logistic regression for classes, else ridge.

    A category has a column for each of its 1,000 most frequent codes at most. Of more than 200,000 rows as many are
    used, evenly spread.
    """

    name = "linear"

    def _model(self, row: PackedRowBlock, *, classes: bool) -> Any:
        from sklearn.compose import make_column_transformer
        from sklearn.linear_model import LogisticRegression, Ridge
        from sklearn.pipeline import Pipeline
        from sklearn.preprocessing import OneHotEncoder, StandardScaler

        one_hot = OneHotEncoder(handle_unknown="ignore", max_categories=MOST_COLUMNS)
        places = list(range(len(row.names)))
        columns = make_column_transformer((one_hot, places[: row.n_cat]), (StandardScaler(), places[row.n_cat :]))
        return Pipeline([("columns", columns), ("model", LogisticRegression(max_iter=200) if classes else Ridge())])

    def _train(self, model: Any, x: Rows, y: Rows, weight: Rows | None) -> Any:
        part = slice(None, None, -(-len(x) // LINEAR_ROWS))
        return model.fit(x[part], y[part], model__sample_weight=None if weight is None else weight[part])
