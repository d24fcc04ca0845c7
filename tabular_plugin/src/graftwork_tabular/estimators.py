"""scikit-learn estimators: graftwork's table models behind fit and predict, for pipelines and searches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import _check_sample_weight, check_array, check_is_fitted, validate_data

from graftwork import Predictor
from graftwork.api import Runtime
from graftwork_tabular.columns import to_array
from graftwork_tabular.data import TabularDataLoaders, table_loader
from graftwork_tabular.learner import fit_recipe, tabular_learner
from graftwork_tabular.schema import ColumnFound, Schema, infer_schema

if TYPE_CHECKING:
    from graftwork.api import Learner

__all__ = ["TabularClassifier", "TabularRegressor"]

WEIGHT = "sample weight"


class _TableEstimator(BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
    """Hold what both estimators share. Parameters are checked in `fit`, as scikit-learn wants it."""

    learner_: Learner
    predictor_: Predictor

    def __init__(
        self,
        *,
        model: str | None = None,
        config: Mapping[str, Any] | None = None,
        epochs: int | None = None,
        bs: int = 256,
        lr: float | None = None,
        wd: float | None = None,
        cat_names: Sequence[str] | None = None,
        random_state: Any = None,
        device: str = "auto",
        progress: bool = False,
    ) -> None:
        """Keep the parameters.

        `model` is a registered model's name with its options in `config`; `epochs`, `lr` and `wd` default to the
        model's own. In a frame, columns are looked at (`infer_schema`); `cat_names` are categories in any case. The
        columns of an array are numbers, unless they hold text.
        """
        self.model = model
        self.config = config
        self.epochs = epochs
        self.bs = bs
        self.lr = lr
        self.wd = wd
        self.cat_names = cat_names
        self.random_state = random_state
        self.device = device
        self.progress = progress

    def __sklearn_tags__(self) -> Any:
        """Say what may come in."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.string = True
        tags.input_tags.categorical = True
        tags.target_tags.multi_output = True
        return tags

    def _table(self, X: Any, *, reset: bool) -> pa.Table:
        """Return X as a table, checked as scikit-learn checks it."""
        if _is_frame(X):
            validate_data(self, X, reset=reset, skip_check_array=True)
            if not len(X):
                raise ValueError("Found array with 0 sample(s): a table needs at least one row")
            return pa.table({str(name): to_array(X[name]) for name in X.columns})
        X = validate_data(self, X, reset=reset, dtype=None, ensure_all_finite="allow-nan")
        return pa.table({f"x{i}": to_array(_plain(X[:, i])) for i in range(X.shape[1])})

    def _schema(self, X: Any, table: pa.Table) -> Schema:
        named = list(self.cat_names or ())
        if _is_frame(X):
            return infer_schema(table, cat_names=named)
        text = {name for name in table.column_names if name in named or not _is_number(table.column(name).type)}
        return Schema(
            columns=tuple(
                ColumnFound(name=name, kind="category" if name in text else "number", why="a column of an array")
                for name in table.column_names
            )
        )

    def _train(self, X: Any, table: pa.Table, y: np.ndarray[Any, Any], weight: Any, kind: Any, **more: Any) -> Self:
        if table.num_rows < 2:
            raise ValueError(f"n_samples={table.num_rows}: a network needs at least 2 samples to learn from")
        schema = self._schema(X, table)
        names = [_free(f"target {i}", table) for i in range(1 if y.ndim == 1 else y.shape[1])]
        for name, column in zip(names, y.reshape(len(y), -1).T, strict=True):
            table = table.append_column(name, pa.array(column))
        weight_name = None
        if weight is not None:
            weight_name = _free(WEIGHT, table)
            table = table.append_column(weight_name, pa.array(_check_sample_weight(weight, X, dtype=np.float64)))
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        data = TabularDataLoaders.from_df(
            table,
            y_names=names,
            y_block=kind,
            schema=schema,
            valid_pct=0.0,
            seed=seed,
            bs=self.bs,
            weight_name=weight_name,
        )
        runtime = Runtime(device=self.device)
        self.learner_ = tabular_learner(
            data,
            self.model,
            config=self.config,
            lr=self.lr,
            wd=self.wd,
            runtime=runtime,
            seed=seed,
            progress=self.progress,
            **more,
        )
        fit_recipe(self.learner_, epochs=self.epochs, lr=self.learner_.lr)
        self.predictor_ = Predictor(self.learner_.module, data.plan, manifest={}, runtime=runtime)
        return self

    def _activated(self, X: Any) -> np.ndarray[Any, Any]:
        check_is_fitted(self)
        loader = table_loader(self.predictor_.plan, self._table(X, reset=False), bs=4096)
        values: np.ndarray[Any, Any] = self.predictor_.get_preds(loader).activated.double().numpy()
        return values


def _is_frame(X: Any) -> bool:
    import pandas as pd

    return isinstance(X, pd.DataFrame)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind))


def _free(name: str, table: pa.Table) -> str:
    """Return a name that no column has."""
    while name in table.column_names:
        name += "'"
    return name


def _plain(column: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return a column of objects as numbers if it holds nothing else."""
    if column.dtype.kind != "O":
        return column
    try:
        return column.astype(np.float64)
    except (TypeError, ValueError):
        if not all(value is None or isinstance(value, str | int | float | np.generic) for value in column):
            raise TypeError("argument must be a string or a number, in every cell of the table") from None
        return column


class TabularClassifier(ClassifierMixin, _TableEstimator):  # type: ignore[misc]
    """Classify the rows of a table; several labels a row come as a 0/1 matrix.

    `class_weight` is None, "balanced", or a mapping from class to weight, as in scikit-learn. After `fit`: `classes_`,
    `learner_` (the Learner, with its history), `n_features_in_` and, for frames, `feature_names_in_`.
    """

    classes_: np.ndarray[Any, Any]

    def __init__(
        self,
        *,
        model: str | None = None,
        config: Mapping[str, Any] | None = None,
        epochs: int | None = None,
        bs: int = 256,
        lr: float | None = None,
        wd: float | None = None,
        cat_names: Sequence[str] | None = None,
        class_weight: Any = None,
        random_state: Any = None,
        device: str = "auto",
        progress: bool = False,
    ) -> None:
        """Keep the parameters; see `_TableEstimator`."""
        super().__init__(
            model=model,
            config=config,
            epochs=epochs,
            bs=bs,
            lr=lr,
            wd=wd,
            cat_names=cat_names,
            random_state=random_state,
            device=device,
            progress=progress,
        )
        self.class_weight = class_weight

    def __sklearn_tags__(self) -> Any:
        """Say that rows may have several labels."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Learn from rows X (N, columns), a frame or an array, and labels y (N,) or (N, labels).

        Raises:
            ValueError: what scikit-learn refuses, one class only, fewer than two rows.
        """
        table = self._table(X, reset=True)
        y = _checked_target(y, table)
        check_classification_targets(y)
        if type_of_target(y) == "multilabel-indicator":
            self.classes_ = np.arange(y.shape[1])
            return self._train(X, table, y.astype(np.int64), sample_weight, "labels")
        y = column_or_1d(y, warn=True)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"only one class, {self.classes_[0]!r}, is in y; a classifier needs at least two classes")
        return self._train(X, table, codes, sample_weight, "category", class_weights=self._class_weights())

    def _class_weights(self) -> Any:
        if self.class_weight is None or isinstance(self.class_weight, str):
            return self.class_weight
        places = {label: i for i, label in enumerate(self.classes_.tolist())}
        return {places[label]: weight for label, weight in self.class_weight.items() if label in places}

    def predict_proba(self, X: Any) -> np.ndarray[Any, Any]:
        """Return probabilities (N, classes), float64, in the order of `classes_`; of several labels each its own."""
        probabilities = self._activated(X)
        if _several_labels(self):
            return probabilities
        scaled: np.ndarray[Any, Any] = probabilities / probabilities.sum(1, keepdims=True)
        return scaled

    def predict(self, X: Any) -> np.ndarray[Any, Any]:
        """Return the likeliest class of each row, or a 0/1 matrix of labels."""
        probabilities = self._activated(X)
        if _several_labels(self):
            return (probabilities > 0.5).astype(np.int64)
        chosen: np.ndarray[Any, Any] = self.classes_[probabilities.argmax(1)]
        return chosen


def _several_labels(estimator: _TableEstimator) -> bool:
    from graftwork.api import MultiHotBlock

    return isinstance(estimator.predictor_.plan.target, MultiHotBlock)


class TabularRegressor(RegressorMixin, _TableEstimator):  # type: ignore[misc]
    """Predict a number of each row of a table, or several. After `fit`: `learner_`, `n_features_in_`."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Learn from rows X (N, columns), a frame or an array, and numbers y (N,) or (N, outputs).

        Raises:
            ValueError: what scikit-learn refuses, fewer than two rows.
        """
        table = self._table(X, reset=True)
        y = _checked_target(y, table).astype(np.float64)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        self.outputs_ = y.shape[1:]
        return self._train(X, table, y, sample_weight, "number")

    def predict(self, X: Any) -> np.ndarray[Any, Any]:
        """Return numbers (N,) or (N, outputs), float64."""
        values = self._activated(X)
        return values.reshape(len(values), *self.outputs_)


def _checked_target(y: Any, table: pa.Table) -> np.ndarray[Any, Any]:
    if y is None:
        raise ValueError("requires y to be passed, but the target y is None")
    checked: np.ndarray[Any, Any] = check_array(y, dtype=None, ensure_2d=False, ensure_all_finite=True, input_name="y")
    if len(checked) != table.num_rows:
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: [{table.num_rows}, {len(checked)}]"
        )
    return checked
