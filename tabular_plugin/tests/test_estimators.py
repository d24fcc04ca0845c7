from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import make_blobs, make_regression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from graftwork_tabular import TabularClassifier, TabularRegressor

SMALL: dict[str, Any] = {"model": "tabular/mlp", "config": {"layers": [32]}, "epochs": 30, "bs": 32}
STOCHASTIC = (
    "batches are drawn in random order, so that weights and repeated rows agree in expectation, not to seven digits"
)
NO_PICKLE = "a fitted model is kept as an artifact (learner_.export), which holds no code; pickles are not supported"
FLOAT32 = "float32 kernels round differently for batches of another size, by about 1e-7"
EXPECTED = {
    "check_sample_weight_equivalence_on_dense_data": STOCHASTIC,
    "check_estimators_pickle": NO_PICKLE,
    "check_methods_subset_invariance": FLOAT32,
    "check_methods_sample_order_invariance": FLOAT32,
}
ALWAYS = {"check_sample_weight_equivalence_on_dense_data", "check_estimators_pickle"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [TabularClassifier, pytest.param(TabularRegressor, marks=pytest.mark.long)])
def test_scikit_learns_own_battery(kind: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(kind(**SMALL | {"epochs": 60}), on_fail=None, on_skip=None)
    assert len(results) > 50
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
    assert set(failed) <= set(EXPECTED), failed
    assert set(failed) >= ALWAYS


def people(rows: int = 240) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "job": rng.choice(["baker", "clerk", "driver"], rows),
            "age": rng.normal(40, 10, rows),
            "joined": pd.date_range("2015-01-01", periods=rows).astype(str),
        }
    )


def test_a_frame_with_text_missing_values_and_dates() -> None:
    X = people()
    y = np.where((X["job"] == "baker") ^ (X["age"] > 40), "yes", "no")
    X.loc[::7, "age"] = np.nan
    model = TabularClassifier(**SMALL, random_state=0).fit(X, y)
    assert model.classes_.tolist() == ["no", "yes"]
    assert model.feature_names_in_.tolist() == ["job", "age", "joined"]
    assert model.score(X, y) > 0.85
    probabilities = model.predict_proba(X)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    new = pd.DataFrame({"job": ["astronaut"], "age": [None], "joined": [None]})
    assert model.predict(new).shape == (1,)
    with pytest.raises(ValueError, match="feature names"):
        model.predict(new.rename(columns={"job": "trade"}))


def test_the_same_random_state_gives_the_same_model() -> None:
    X, y = make_blobs(120, random_state=0)
    first, again, other = (TabularClassifier(**SMALL, random_state=s).fit(X, y).predict_proba(X) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_pipelines_folds_and_searches() -> None:
    X, y = make_blobs(150, centers=3, cluster_std=1.5, random_state=1)
    pipeline = make_pipeline(StandardScaler(), TabularClassifier(**SMALL, random_state=0))
    assert cross_val_score(pipeline, X, y, cv=3).mean() > 0.8
    search = GridSearchCV(TabularClassifier(**SMALL, random_state=0), {"epochs": [1, 30], "lr": [1e-2]}, cv=2).fit(X, y)
    assert search.best_params_ == {"epochs": 30, "lr": 1e-2}
    assert search.best_estimator_.score(X, y) > 0.8


def test_numbers_are_predicted_in_their_own_units() -> None:
    X, y = make_regression(200, 4, n_informative=3, random_state=0)
    y = 1e6 + 1e4 * y
    model = TabularRegressor(**SMALL, random_state=0).fit(X, y)
    assert model.score(X, y) > 0.8
    several = TabularRegressor(**SMALL, random_state=0).fit(X, np.stack([y, -y], 1))
    assert several.predict(X).shape == (200, 2)
    assert several.score(X, np.stack([y, -y], 1)) > 0.8


def test_several_labels() -> None:
    X, _ = make_blobs(200, n_features=2, random_state=0)
    y = np.stack([X[:, 0] > 0, X[:, 1] > 2], 1).astype(int)
    model = TabularClassifier(**SMALL, random_state=0).fit(X, y)
    assert model.predict(X).shape == (200, 2)
    assert (model.predict(X) == y).mean() > 0.9
    assert model.predict_proba(X).shape == (200, 2)


def test_weights_of_samples_and_classes_move_the_prediction() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(300, 2)), rng.integers(0, 2, 300)

    def share(**fit: Any) -> float:
        model = TabularClassifier(**SMALL, random_state=0, class_weight=fit.pop("class_weight", None))
        return float(model.fit(X, y, **fit).predict_proba(X)[:, 1].mean())

    plain = share()
    assert 0.35 < plain < 0.65
    assert share(class_weight={0: 1.0, 1: 9.0}) > 0.75
    assert share(sample_weight=np.where(y == 0, 9.0, 1.0)) < 0.25


@pytest.mark.parametrize(
    ("X", "y", "said"),
    [
        (np.ones((3, 1)), [1, 1, 1], "class"),
        (np.ones((1, 1)), [0], "n_samples=1|class"),
        (np.empty((0, 2)), [], "0 sample"),
        (np.ones((3, 1)), [0, 1], "inconsistent"),
        (np.ones((3, 1)), None, "y"),
        (np.full((3, 1), np.inf), [0, 1, 1], "infinity"),
    ],
    ids=["one-class", "one-row", "no-row", "lengths", "no-target", "infinite"],
)
def test_what_cannot_be_fitted(X: Any, y: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TabularClassifier(**SMALL).fit(X, y)
