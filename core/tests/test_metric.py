"""Metrics: equal to scikit-learn's, whole or merged from parts, and quiet while they accumulate."""

from __future__ import annotations

import logging
import math
import pickle
import subprocess
import sys
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
import torchmetrics
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from torch import Tensor, nn

from graftwork import metric as m
from graftwork.accumulate import MeanMetric, Metric, TorchMetric
from graftwork.errors import DataError, OptionError, UnknownName
from graftwork.metric import as_metric


def classes(num_items: int, num_classes: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, num_classes, (num_items,), generator=generator)
    logits = torch.randn(num_items, num_classes, generator=generator)
    return (logits + nn.functional.one_hot(target, num_classes)).softmax(1), target


def labels(num_items: int, num_labels: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, 2, (num_items, num_labels), generator=generator).float()
    return (torch.randn(num_items, num_labels, generator=generator) + target).sigmoid(), target


def numbers(num_items: int, columns: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (num_items, columns) if columns > 1 else (num_items,)
    target = 1000 + torch.randn(shape, generator=generator)
    return target + torch.randn(shape, generator=generator), target


def by_class(score, **options):
    return lambda p, t: score(t, p.argmax(1), **options)


def by_label(score, **options):
    return lambda p, t: score(t, p > 0.5, **options)


def auc(p: np.ndarray, t: np.ndarray) -> float:
    if p.shape[1] == 2:
        return sk.roc_auc_score(t, p[:, 1])
    return float(np.mean([sk.roc_auc_score(t == c, p[:, c]) for c in range(p.shape[1])]))


ZERO = {"zero_division": 0.0}
CLASS_METRICS = {
    "accuracy": (m.accuracy, by_class(sk.accuracy_score)),
    "error_rate": (m.error_rate, lambda p, t: 1 - sk.accuracy_score(t, p.argmax(1))),
    "top_2": (
        partial(m.top_k_accuracy, k=2),
        lambda p, t: float(np.mean([c in row.argsort()[-2:] for c, row in zip(t, p, strict=True)])),
    ),
    "precision": (m.precision, by_class(sk.precision_score, average="macro", **ZERO)),
    "recall": (m.recall, by_class(sk.recall_score, average="macro", **ZERO)),
    "f1": (m.f1, by_class(sk.f1_score, average="macro", **ZERO)),
    "f1 weighted": (partial(m.f1, average="weighted"), by_class(sk.f1_score, average="weighted", **ZERO)),
    "precision micro": (partial(m.precision, average="micro"), by_class(sk.precision_score, average="micro")),
    "roc_auc": (m.roc_auc, auc),
}
LABEL_METRICS = {
    "accuracy_multi": (m.accuracy_multi, lambda p, t: ((p > 0.5) == t).mean()),
    "precision_multi": (m.precision_multi, by_label(sk.precision_score, average="macro", **ZERO)),
    "recall_multi": (m.recall_multi, by_label(sk.recall_score, average="macro", **ZERO)),
    "f1_multi": (m.f1_multi, by_label(sk.f1_score, average="macro", **ZERO)),
    "f1_multi micro": (partial(m.f1_multi, average="micro"), by_label(sk.f1_score, average="micro", **ZERO)),
    "roc_auc_multi": (m.roc_auc_multi, lambda p, t: sk.roc_auc_score(t, p, average="macro")),
}
NUMBER_METRICS = {
    "mse": (m.mse, lambda p, t: sk.mean_squared_error(t, p)),
    "rmse": (m.rmse, lambda p, t: sk.root_mean_squared_error(t.ravel(), p.ravel())),
    "mae": (m.mae, lambda p, t: sk.mean_absolute_error(t, p)),
    "r2": (m.r2, lambda p, t: sk.r2_score(t, p)),
}
CASES = [
    *[(classes, n, name, *pair) for n in (2, 5) for name, pair in CLASS_METRICS.items()],
    *[(labels, 4, name, *pair) for name, pair in LABEL_METRICS.items()],
    *[(numbers, n, name, *pair) for n in (1, 3) for name, pair in NUMBER_METRICS.items()],
]
every_case = pytest.mark.parametrize(
    ("data", "width", "make", "expected"),
    [(data, width, make, expected) for data, width, _, make, expected in CASES],
    ids=[f"{name} {width}" for _, width, name, _, _ in CASES],
)
EVERY = [
    *[(classes, 3, make) for make, _ in CLASS_METRICS.values()],
    *[(labels, 3, make) for make, _ in LABEL_METRICS.values()],
    *[(numbers, 1, make) for make, _ in NUMBER_METRICS.values()],
]
every_metric = pytest.mark.parametrize(
    ("data", "width", "make"), EVERY, ids=[*CLASS_METRICS, *LABEL_METRICS, *NUMBER_METRICS]
)


def fed(make, predicted: Tensor, target: Tensor) -> Metric:
    metric = make()
    metric.update(predicted, target)
    return metric


@every_case
@settings(max_examples=6)
@given(seed=st.integers(0, 10_000), cuts=st.lists(st.integers(1, 59), max_size=4, unique=True))
def test_parts_merged_in_any_cut_are_the_whole_and_scikit_learns(data, width, make, expected, seed, cuts):
    predicted, target = data(60, width, seed)
    bounds = [0, *sorted(cuts), 60]
    parts = [fed(make, predicted[a:b], target[a:b]) for a, b in pairwise(bounds)]
    whole, stream = fed(make, predicted, target), make()
    for a, b in pairwise(bounds):
        stream.update(predicted[a:b], target[a:b])
    merged = make()
    for part in parts:
        merged.merge(part)
    correct = expected(predicted.double().numpy(), target.numpy())
    assert whole.compute() == pytest.approx(correct, abs=2e-5)
    assert stream.compute() == pytest.approx(correct, abs=2e-5)
    assert merged.compute() == pytest.approx(correct, abs=2e-5)


@every_metric
def test_a_merge_changes_only_the_receiver_and_counts_after_a_compute(data, width, make):
    predicted, target = data(40, width, 1)
    first, second = fed(make, predicted[:15], target[:15]), fed(make, predicted[15:], target[15:])
    first.compute()
    before = second.compute()
    first.merge(second)
    first.merge(make())
    assert first.compute() == pytest.approx(fed(make, predicted, target).compute(), abs=1e-6)
    assert second.compute() == before
    empty = make()
    empty.merge(second)
    empty.update(predicted[:15], target[:15])
    assert second.compute() == before


@every_metric
def test_nothing_seen_is_refused_and_reset_forgets(data, width, make):
    metric = fed(make, *data(10, width, 1))
    metric.reset()
    with pytest.raises(DataError, match=f"{metric.name!r} has seen no batch"):
        metric.compute()
    other = data(10, width, 2)
    metric.update(*other)
    assert metric.compute() == fed(make, *other).compute()
    metric.to("cpu")
    assert metric.compute() == fed(make, *other).compute()


@every_metric
def test_states_made_in_inference_mode_can_be_used_outside_and_hold_no_graph(data, width, make):
    predicted, target = data(30, width, 3)
    expected = fed(make, predicted, target).compute()
    with torch.inference_mode():
        metric = fed(make, predicted[:10].clone(), target[:10])
        other = fed(make, predicted[10:20].clone(), target[10:20])
    metric.merge(other)
    metric.update(predicted[20:].clone().requires_grad_(), target[20:])
    assert metric.compute() == pytest.approx(expected, abs=1e-6)
    if isinstance(metric, MeanMetric):
        assert not metric._total.requires_grad


@every_metric
def test_metrics_travel_to_another_process(data, width, make):
    metric = fed(make, *data(20, width, 1))
    again = pickle.loads(pickle.dumps(metric))
    assert (again.name, again.higher_is_better, again.compute()) == (
        metric.name,
        metric.higher_is_better,
        metric.compute(),
    )


FACTORIES = [
    *[m.accuracy, m.error_rate, m.top_k_accuracy, m.precision, m.recall, m.f1, m.roc_auc],
    *[m.accuracy_multi, m.precision_multi, m.recall_multi, m.f1_multi, m.roc_auc_multi, m.mse, m.rmse, m.mae, m.r2],
]


@pytest.mark.parametrize("factory", FACTORIES, ids=lambda f: f.__name__)
def test_a_factory_is_named_told_from_a_function_and_found_by_name(factory):
    metric = as_metric(factory)
    assert metric.name == factory.__name__ == factory().name
    assert metric.higher_is_better == (metric.name not in {"error_rate", "mse", "rmse", "mae"})
    assert pickle.loads(pickle.dumps(factory)) is factory
    assert as_metric(metric) is metric
    for name in (metric.name, f"core/{metric.name}"):
        assert as_metric(name).name == metric.name


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(UnknownName, match="accuracy"):
        as_metric("acuracy")


def test_a_function_is_weighted_by_the_batch_whether_it_gives_a_mean_or_single_values():
    predicted, target = numbers(10, 1, 0)
    expected = (predicted - target).abs().mean().item()

    def mean_error(predicted, target):
        return (predicted - target).abs().mean()

    def errors(predicted, target):
        return (predicted - target).abs()

    def number(predicted, target):
        return float((predicted - target).abs().mean())

    for function in (mean_error, errors, number):
        metric = as_metric(function, higher_is_better=False)
        for part in (slice(0, 1), slice(1, 3), slice(3, 10)):
            metric.update(predicted[part], target[part])
        assert metric.compute() == pytest.approx(expected, rel=1e-6)
        assert (metric.name, metric.higher_is_better) == (function.__name__, False)


def test_partials_and_callable_objects_have_names():
    class Custom:
        def __call__(self, predicted, target):
            return 1.0

    assert as_metric(Custom()).name == "Custom"
    assert as_metric(partial(partial(nn.functional.l1_loss, reduction="mean"))).name == "l1_loss"


def test_a_metric_class_and_a_torchmetrics_instance_are_taken():
    class Rows(Metric):
        name, higher_is_better = "rows", True

        def update(self, predicted, target): ...
        def merge(self, other): ...
        def compute(self):
            return 1.0

        def reset(self): ...
        def to(self, device): ...

    assert isinstance(as_metric(Rows), Rows)
    predicted, target = classes(30, 4, 0)
    theirs = torchmetrics.classification.MulticlassCohenKappa(num_classes=4)
    metric = as_metric(theirs)
    metric.update(predicted, target)
    assert metric.name == "MulticlassCohenKappa"
    assert metric.compute() == pytest.approx(sk.cohen_kappa_score(target, predicted.argmax(1)), abs=1e-6)
    assert not as_metric(torchmetrics.MeanSquaredError()).higher_is_better


@pytest.mark.parametrize("thing", [3, None, int, nn.Linear(1, 1)], ids=str)
def test_what_is_no_metric_is_refused(thing):
    with pytest.raises(OptionError):
        as_metric(thing)


def test_pixels_count_one_by_one():
    predicted, target = torch.rand(2, 3, 4, 5).softmax(1), torch.randint(0, 3, (2, 4, 5))
    flat = predicted.movedim(1, -1).reshape(-1, 3)
    for factory in (m.accuracy, m.error_rate, partial(m.top_k_accuracy, k=2), m.f1):
        pixels = fed(factory, predicted, target).compute()
        assert pixels == pytest.approx(fed(factory, flat, target.flatten()).compute(), abs=1e-6)


def test_top_k_of_all_classes_counts_every_known_code():
    assert fed(m.top_k_accuracy, torch.randn(6, 5), torch.arange(6)).compute() == pytest.approx(5 / 6)
    with pytest.raises(OptionError, match="of 3 classes is always 1"):
        fed(m.top_k_accuracy, torch.rand(4, 3), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(OptionError, match="at least 1"):
        m.top_k_accuracy(0)


@pytest.mark.parametrize("factory", [m.accuracy, m.error_rate, partial(m.top_k_accuracy, 1), m.f1, m.roc_auc])
@pytest.mark.parametrize(
    ("predicted", "target"),
    [(torch.rand(4, 3), torch.rand(4, 3)), (torch.rand(4), torch.ones(4)), (torch.rand(4, 3), torch.ones(3))],
    ids=["multi-hot", "values", "lengths"],
)
def test_class_metrics_refuse_other_targets(factory, predicted, target):
    with pytest.raises(DataError, match=r"class codes \(B"):
        factory().update(predicted, target)


@pytest.mark.parametrize("factory", [m.mse, m.rmse, m.mae, m.r2, m.accuracy_multi, m.f1_multi, m.roc_auc_multi])
def test_value_metrics_broadcast_nothing(factory):
    with pytest.raises(DataError, match="must have the same shape"):
        factory().update(torch.rand(4, 1), torch.rand(1, 4))


@pytest.mark.parametrize("factory", [m.mse, m.rmse, m.mae, m.r2])
def test_a_column_is_the_same_as_a_list(factory):
    predicted, target = numbers(9, 1, 0)
    assert fed(factory, predicted[:, None], target).compute() == fed(factory, predicted, target).compute()


@pytest.mark.parametrize("factory", [m.f1, m.precision, m.roc_auc])
def test_the_number_of_classes_may_not_change(factory):
    metric = fed(factory, *classes(9, 3, 0))
    with pytest.raises(DataError, match=r"of 3 output\(s\) and now of 4"):
        metric.update(*classes(9, 4, 0))
    with pytest.raises(DataError, match=r"of 3 output\(s\) and now of 4"):
        metric.merge(fed(factory, *classes(9, 4, 0)))
    metric.reset()
    metric.update(*classes(9, 4, 0))


def test_binary_averages_look_at_class_one():
    predicted, target = classes(50, 2, 0)
    correct = sk.f1_score(target, predicted.argmax(1))
    assert fed(partial(m.f1, average="binary"), predicted, target).compute() == pytest.approx(correct, abs=1e-6)
    with pytest.raises(OptionError, match="needs 2 classes, and there are 3"):
        fed(partial(m.f1, average="binary"), *classes(9, 3, 0))


@pytest.mark.parametrize("make", [partial(m.f1, average="mean"), partial(m.f1_multi, average="binary")])
def test_an_unknown_average_is_refused_at_once(make):
    with pytest.raises(OptionError, match="must be one of 'macro'"):
        make()


def test_thresholds_move_what_counts_as_a_label():
    predicted, target = torch.tensor([[0.3, 0.6]]), torch.tensor([[1.0, 0.0]])
    assert fed(m.accuracy_multi, predicted, target).compute() == 0.0
    assert fed(partial(m.accuracy_multi, threshold=0.2), predicted, target).compute() == 0.5
    assert fed(partial(m.recall_multi, threshold=0.2, average="micro"), predicted, target).compute() == 1.0


@pytest.mark.parametrize("num_classes", [2, 3])
def test_a_curve_of_one_class_is_nan_and_said_once(num_classes, caplog):
    predicted, _ = classes(8, num_classes, 0)
    metric = m.roc_auc()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            metric.reset()
            metric.update(predicted, torch.ones(8, dtype=torch.int64))
            assert math.isnan(metric.compute())
    assert len(caplog.records) == 1
    assert "'roc_auc'" in caplog.text


def test_classes_that_do_not_occur_have_no_curve_and_are_said(caplog):
    predicted, target = classes(60, 4, 0)
    kept = target != 3
    predicted, target = predicted[kept], target[kept]
    expected = np.mean([sk.roc_auc_score(target == c, predicted[:, c]) for c in range(3)])
    with caplog.at_level(logging.WARNING):
        assert fed(m.roc_auc, predicted, target).compute() == pytest.approx(expected, abs=1e-6)
    assert "1 of 4 curves do not exist" in caplog.text


def test_r2_of_one_item_is_nan_and_keeps_its_digits_far_from_zero(caplog):
    assert math.isnan(fed(m.r2, torch.ones(1), torch.ones(1)).compute())
    target = 1e5 + torch.randn(1000, generator=torch.Generator().manual_seed(0))
    predicted = target + 0.1
    correct = sk.r2_score(target.double(), predicted.double())
    assert fed(m.r2, predicted, target).compute() == pytest.approx(correct, abs=1e-6)


def test_many_small_batches_lose_no_digits():
    metric = MeanMetric(lambda p, t: p, name="mean")
    value = torch.full((1,), 0.1)
    for _ in range(20_000):
        metric.update(value, value)
    assert metric.compute() == pytest.approx(float(value), rel=1e-9)


def test_light_metrics_do_not_import_torchmetrics():
    code = (
        "import sys, torch; from graftwork.metric import accuracy, f1, mse\n"
        "a = accuracy(); a.update(torch.rand(4, 3), torch.zeros(4, dtype=torch.int64)); a.compute(); f1(); mse()\n"
        "assert 'torchmetrics' not in sys.modules and 'sklearn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_torch_metric_names_its_kind():
    assert isinstance(m.f1(), TorchMetric)
    assert repr(m.accuracy) == "<metric accuracy>"
    assert "share of class codes" in (m.accuracy.__doc__ or "")
