"""Metrics: what is reported of predictions. They accumulate on the device; only `compute` waits for it.

The simple means are a few tensor operations a batch. Those built on counts and ranks rest on torchmetrics, which is
imported when the first of them sees its first batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import torch
from torch import Tensor, nn

from graftwork.accumulate import MeanMetric, Metric, MetricFactory, TorchMetric, metric_factory
from graftwork.errors import DataError, OptionError, PluginError
from graftwork.loss import match_shapes

if TYPE_CHECKING:
    import torchmetrics

__all__ = [
    "MeanMetric",
    "Metric",
    "MetricFactory",
    "MetricLike",
    "TorchMetric",
    "accuracy",
    "accuracy_multi",
    "as_metric",
    "error_rate",
    "f1",
    "f1_multi",
    "mae",
    "metric_factory",
    "mse",
    "precision",
    "precision_multi",
    "r2",
    "recall",
    "recall_multi",
    "rmse",
    "roc_auc",
    "roc_auc_multi",
    "top_k_accuracy",
]

Average: TypeAlias = Literal["macro", "micro", "weighted", "binary"]
MultiAverage: TypeAlias = Literal["macro", "micro", "weighted"]
Threshold: TypeAlias = float | Sequence[float]

MetricLike: TypeAlias = str | Metric | Callable[..., Any]
"""Whatever `as_metric` makes a metric of."""


# -- one label an item -----------------------------------------------------------------------------------------------


def _likeliest(predicted: Tensor, target: Tensor) -> Tensor:
    """Return the likeliest class codes, in the target's shape."""
    codes = predicted.argmax(1) if predicted.ndim > 1 else predicted
    if codes.shape != target.shape or codes is predicted:
        raise _not_codes(predicted, target)
    return codes


def _not_codes(predicted: Tensor, target: Tensor) -> DataError:
    return DataError(
        f"a metric of classes compares probabilities (B, classes, …) with class codes (B, …); found "
        f"{tuple(predicted.shape)} and {tuple(target.shape)}; metrics of several labels end in _multi"
    )


def _right(predicted: Tensor, target: Tensor) -> Tensor:
    return _likeliest(predicted, target) == target


def _wrong(predicted: Tensor, target: Tensor) -> Tensor:
    return _likeliest(predicted, target) != target


def _among_first(k: int, predicted: Tensor, target: Tensor) -> Tensor:
    if predicted.ndim < 2 or predicted[:, 0].shape != target.shape:
        raise _not_codes(predicted, target)
    if k > predicted.shape[1]:
        raise OptionError(f"top_k_accuracy(k={k}) of {predicted.shape[1]} classes is always 1; choose a smaller k")
    return (predicted.topk(k, 1).indices == target.unsqueeze(1)).any(1)


def _codes(predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    return _likeliest(predicted, target), target


def _class_scores(predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    if predicted.ndim < 2 or predicted[:, 0].shape != target.shape:
        raise _not_codes(predicted, target)
    return (predicted[:, 1] if predicted.shape[1] == 2 else predicted), target


@metric_factory
def accuracy() -> Metric:
    """Measure the share of class codes that are right: (B, C, …) against (B, …)."""
    return MeanMetric(_right, name="accuracy")


@metric_factory
def error_rate() -> Metric:
    """Measure the share of class codes that are wrong."""
    return MeanMetric(_wrong, name="error_rate", higher_is_better=False)


@metric_factory
def top_k_accuracy(k: int = 5) -> Metric:
    """Measure the share of items whose class is among the k likeliest; raise OptionError if k exceeds the classes."""
    if k < 1:
        raise OptionError(f"k={k} must be at least 1")
    return MeanMetric(partial(_among_first, k), name="top_k_accuracy")


@metric_factory
def precision(*, average: Average = "macro") -> Metric:
    """Measure the share of what was called a class that is of it.

    "macro" is the mean over the classes that occur in the targets or the predictions, for two classes as well;
    "weighted" weighs it by their number in the targets; "micro" counts all codes alike; "binary" looks at class 1 of
    two.
    """
    return _counted("precision", "precision", average)


@metric_factory
def recall(*, average: Average = "macro") -> Metric:
    """Measure the share of a class that was called so; `average` as for precision."""
    return _counted("recall", "recall", average)


@metric_factory
def f1(*, average: Average = "macro") -> Metric:
    """Measure the harmonic mean of precision and recall; `average` as for precision."""
    return _counted("f1", "f1", average)


@metric_factory
def roc_auc() -> Metric:
    """Measure the area under the ROC curve: of class 1 of two, or the mean over classes, each against the rest.

    Classes of which the targets have none, or nothing else, are left out of the mean; with none left it is NaN. All
    predictions are kept on the device until `reset`.
    """
    return TorchMetric(_make_auc, name="roc_auc", prepare=_class_scores, read=_read_auc)


# -- any number of labels an item ------------------------------------------------------------------------------------


def _labels_right(threshold: Threshold, predicted: Tensor, target: Tensor) -> Tensor:
    return _given(threshold, predicted, target) == target


def _labels(threshold: Threshold, predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    return _given(threshold, predicted, target).int(), target.int()


def _given(threshold: Threshold, predicted: Tensor, target: Tensor) -> Tensor:
    limits = torch.as_tensor(threshold, device=predicted.device)
    if limits.ndim and len(limits) != target.shape[-1]:
        raise OptionError(f"{len(limits)} thresholds for {target.shape[-1]} classes; give one number, or one a class")
    return match_shapes(predicted, target) > limits


def _label_scores(predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    return match_shapes(predicted, target), target.int()


@metric_factory
def accuracy_multi(*, threshold: Threshold = 0.5) -> Metric:
    """Measure the share of labels that are right, over all items and classes.

    A label is given above the threshold: one number, or one a class.
    """
    return MeanMetric(partial(_labels_right, threshold), name="accuracy_multi")


@metric_factory
def precision_multi(*, threshold: Threshold = 0.5, average: MultiAverage = "macro") -> Metric:
    """Measure the share of labels given that are right; a class never given nor meant counts as 0."""
    return _counted("precision_multi", "precision", average, threshold)


@metric_factory
def recall_multi(*, threshold: Threshold = 0.5, average: MultiAverage = "macro") -> Metric:
    """Measure the share of true labels that were given."""
    return _counted("recall_multi", "recall", average, threshold)


@metric_factory
def f1_multi(*, threshold: Threshold = 0.5, average: MultiAverage = "macro") -> Metric:
    """Measure the harmonic mean of precision and recall over labels."""
    return _counted("f1_multi", "f1", average, threshold)


@metric_factory
def roc_auc_multi() -> Metric:
    """Measure the area under the ROC curve, a mean over labels; what is left out is as for roc_auc."""
    return TorchMetric(_make_auc_multi, name="roc_auc_multi", prepare=_label_scores, read=_read_auc)


# -- numbers ---------------------------------------------------------------------------------------------------------


def _squared_error(predicted: Tensor, target: Tensor) -> Tensor:
    return (match_shapes(predicted, target).float() - target.float()).square()


def _absolute_error(predicted: Tensor, target: Tensor) -> Tensor:
    return (match_shapes(predicted, target).float() - target.float()).abs()


def _values(predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    predicted = match_shapes(predicted, target)
    # Sums of squares lose in float32 what R² is about when the mean is far from 0; MPS has nothing wider.
    return (predicted, target) if predicted.device.type == "mps" else (predicted.double(), target.double())


@metric_factory
def mse() -> Metric:
    """Measure the mean squared error over all values."""
    return MeanMetric(_squared_error, name="mse", higher_is_better=False)


@metric_factory
def rmse() -> Metric:
    """Measure the root of the mean squared error over all values seen, not a mean of batches' roots."""
    return MeanMetric(_squared_error, name="rmse", higher_is_better=False, finish=math.sqrt)


@metric_factory
def mae() -> Metric:
    """Measure the mean absolute error over all values."""
    return MeanMetric(_absolute_error, name="mae", higher_is_better=False)


@metric_factory
def r2() -> Metric:
    """Measure the share of the targets' variance explained, a mean over columns; NaN for less than two items."""
    return TorchMetric(_make_r2, name="r2", prepare=_values, read=_read_r2)


# -- torchmetrics ----------------------------------------------------------------------------------------------------

_OURS: Final[dict[str, Any]] = {"sync_on_compute": False, "compute_with_cache": False}
"""Merging is the caller's to order, across processes too; and a cached figure would outlive a merge."""


def _counted(name: str, kind: str, average: str, threshold: Threshold | None = None) -> Metric:
    """Return precision, recall or f1: of classes, or with a threshold of labels."""
    averages = ("macro", "micro", "weighted", "binary") if threshold is None else ("macro", "micro", "weighted")
    if average not in averages:
        raise OptionError(f"average={average!r} of {name} must be one of {', '.join(map(repr, averages))}")
    prepare = _codes if threshold is None else partial(_labels, threshold)
    return TorchMetric(partial(_make_counted, kind, average, threshold is not None), name=name, prepare=prepare)


def _make_counted(kind: str, average: Any, multi: bool, num_outputs: int) -> torchmetrics.Metric:
    from torchmetrics import classification as tm

    kinds: dict[str, tuple[Callable[..., torchmetrics.Metric], ...]] = {
        "precision": (tm.BinaryPrecision, tm.MulticlassPrecision, tm.MultilabelPrecision),
        "recall": (tm.BinaryRecall, tm.MulticlassRecall, tm.MultilabelRecall),
        "f1": (tm.BinaryF1Score, tm.MulticlassF1Score, tm.MultilabelF1Score),
    }
    binary, classes, labels = kinds[kind]
    if multi:
        return labels(num_labels=num_outputs, average=average, validate_args=False, **_OURS)
    if average != "binary":
        return classes(num_classes=num_outputs, average=average, validate_args=False, **_OURS)
    if num_outputs != 2:
        raise OptionError(f"average='binary' needs 2 classes, and there are {num_outputs}; use average='macro'")
    return binary(validate_args=False, **_OURS)


def _make_auc(num_outputs: int) -> torchmetrics.Metric:
    from torchmetrics.classification import BinaryAUROC, MulticlassAUROC

    if num_outputs == 2:
        return BinaryAUROC(validate_args=False, **_OURS)
    return MulticlassAUROC(num_classes=num_outputs, average="none", validate_args=False, **_OURS)


def _make_auc_multi(num_outputs: int) -> torchmetrics.Metric:
    from torchmetrics.classification import MultilabelAUROC

    return MultilabelAUROC(num_labels=num_outputs, average="none", validate_args=False, **_OURS)


def _make_r2(num_outputs: int) -> torchmetrics.Metric:
    from torchmetrics.regression import R2Score

    return R2Score(**_OURS)


def _read_auc(inner: torchmetrics.Metric) -> tuple[float, str]:
    """Average over the classes that have a curve; torchmetrics would count the others as 0."""
    areas = inner.compute().reshape(-1)
    target = torch.cat(list(inner.metric_state["target"]))
    one_label = target.ndim == 1 and len(areas) > 1
    positive = torch.bincount(target, minlength=len(areas)) if one_label else target.sum(0).reshape(-1)
    defined = (positive > 0) & (positive < len(target))
    left_out = int((~defined).sum())
    remark = (
        f"{left_out} of {len(areas)} curves do not exist: all targets are of the class, or none" if left_out else ""
    )
    return float(areas[defined].mean()), remark


def _read_r2(inner: torchmetrics.Metric) -> tuple[float, str]:
    total = inner.metric_state["total"]
    too_few = isinstance(total, Tensor) and int(total) < 2
    return (math.nan, "it needs two items") if too_few else (float(inner.compute()), "")


# -- by name ---------------------------------------------------------------------------------------------------------


def as_metric(metric: MetricLike, *, higher_is_better: bool = True) -> Metric:
    """Return a metric for a name, a factory (`accuracy`), a class, an instance, a torchmetrics instance, or a function.

    A function is called with (predicted, target) for each batch, predicted after activation, and returns their mean or
    one value an item; `higher_is_better` is about functions only, all others know it.

    Raises:
        UnknownName: no such metric, with the nearest names.
        OptionError: none of these.
    """
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, str):
        return _registered(metric)
    if isinstance(metric, MetricFactory):
        return metric()
    if isinstance(metric, type):
        return _of_class(metric)
    if isinstance(metric, nn.Module):
        return _wrapped(metric)
    if not callable(metric):
        raise OptionError(f"{metric!r} is no metric; give a name, a Metric, or a function of (predicted, target)")
    return MeanMetric(metric, name=_name(metric), higher_is_better=higher_is_better)


def _of_class(kind: type) -> Metric:
    if not issubclass(kind, Metric):
        raise OptionError(f"{kind.__name__} is a class and no Metric; give an instance or a function")
    return kind()


def _registered(name: str) -> Metric:
    from graftwork.plugins import get_host

    made = get_host().metrics.get(name)()
    if not isinstance(made, Metric):
        raise PluginError(f"what is registered as metric {name!r} gives a {type(made).__name__}, not a Metric")
    return made


def _wrapped(metric: nn.Module) -> Metric:
    import torchmetrics

    if not isinstance(metric, torchmetrics.Metric):
        raise OptionError(f"{type(metric).__name__} is a module and no metric; wrap it in a function")
    build = partial(_copied, metric)
    return TorchMetric(build, name=type(metric).__name__, higher_is_better=metric.higher_is_better is not False)


def _copied(metric: torchmetrics.Metric, num_outputs: int) -> torchmetrics.Metric:
    return deepcopy(metric)


def _name(function: Callable[..., Any]) -> str:
    if isinstance(function, partial):
        return _name(function.func)
    return function.__name__ if isinstance(function, FunctionType) else type(function).__name__
