"""Interpretation: counts that agree with scikit-learn, the items with the highest loss, and pictures."""

from __future__ import annotations

import sys
from io import BytesIO

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, classification_report, confusion_matrix

from graftwork.block import CategoryBlock, RegressionBlock
from graftwork.datablock import DataBlock, DataLoaders
from graftwork.errors import DataError, OptionError, PlanError
from graftwork.interpret import ClassificationInterpretation, Interpretation
from graftwork.learner import Learner
from graftwork.prediction import Predictions
from graftwork.split import IndexSplitter
from graftwork.testing.toy import mlp, recipe


def interpretation(actual: list[int], predicted: list[int], num_classes: int) -> ClassificationInterpretation:
    """Interpret predictions of our own making."""
    names = [f"class {i:03d}" for i in range(num_classes)]
    items = [([0.0, 1.0], name) for name in names] + [([0.0, 1.0], names[i]) for i in actual]
    splitter = IndexSplitter(list(range(num_classes, len(items))))
    data = DataBlock(blocks=(RegressionBlock(2), CategoryBlock), splitter=splitter).dataloaders(items, workers=0)
    confident = torch.full((len(actual), num_classes), 0.1 / num_classes)
    confident[torch.arange(len(actual)), torch.tensor(predicted)] = 0.9
    targets = torch.tensor(actual)
    losses = -confident[torch.arange(len(actual)), targets].log()
    preds = Predictions(
        by_target={"y": confident}, targets_by_name={"y": targets}, index=torch.arange(len(actual)), losses=losses
    )
    return ClassificationInterpretation(preds, data.valid)


@pytest.fixture
def trained(data: DataLoaders) -> Learner:
    return Learner(data, mlp(), lr=0.02, progress=False).fit(1)


# --- counts ----------------------------------------------------------------------------------

pairs = st.integers(2, 7).flatmap(
    lambda c: st.tuples(
        st.just(c), st.lists(st.tuples(st.integers(0, c - 1), st.integers(0, c - 1)), min_size=1, max_size=40)
    )
)


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_counts_and_report_are_scikit_learns(drawn):
    num_classes, rows = drawn
    actual, predicted = [a for a, _ in rows], [p for _, p in rows]
    found = interpretation(actual, predicted, num_classes)
    labels = list(range(num_classes))
    counts = found.confusion_matrix()
    assert counts.dtype == np.int64
    assert (counts == confusion_matrix(actual, predicted, labels=labels)).all()
    names = [f"class {i:03d}" for i in labels]
    options = {"labels": labels, "target_names": names, "output_dict": True, "zero_division": 0}
    expected = classification_report(actual, predicted, **options)
    report = found.report()
    for name in names:
        ours, theirs = report.classes[name], expected[name]
        assert (ours.precision, ours.recall) == pytest.approx((theirs["precision"], theirs["recall"]))
        assert ours.f1 == pytest.approx(theirs["f1-score"])
        assert ours.support == theirs["support"]
    for ours, theirs in ((report.macro, expected["macro avg"]), (report.weighted, expected["weighted avg"])):
        assert (ours.precision, ours.recall, ours.f1) == pytest.approx(
            (theirs["precision"], theirs["recall"], theirs["f1-score"])
        )
    assert report.accuracy == pytest.approx(accuracy_score(actual, predicted))
    assert sum(n for _, _, n in found.most_confused()) == sum(a != p for a, p in rows)


def test_the_most_confused_come_first():
    found = interpretation([0, 0, 0, 1, 2, 2, 2, 2], [0, 1, 1, 0, 0, 0, 0, 2], 3)
    assert found.most_confused() == [
        ("class 002", "class 000", 3),
        ("class 000", "class 001", 2),
        ("class 001", "class 000", 1),
    ]
    assert found.most_confused(min_val=3) == [("class 002", "class 000", 3)]
    assert found.confusion_matrix().diagonal().tolist() == [1, 0, 1]  # looking has changed nothing
    with pytest.raises(OptionError, match="min_val=0"):
        found.most_confused(min_val=0)


def test_a_report_reads_as_a_table():
    text = str(interpretation([0, 0, 1, 1], [0, 1, 1, 1], 2).report())
    assert text.splitlines() == [
        "               precision  recall      f1  support",
        "class 000         1.0000  0.5000  0.6667        2",
        "class 001         0.6667  1.0000  0.8000        2",
        "mean              0.8333  0.7500  0.7333        4",
        "weighted mean     0.8333  0.7500  0.7333        4",
        "accuracy 0.7500",
    ]


# --- losses ----------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", ["none", "memory"])
def test_top_losses_name_their_items(items, cache):
    data = recipe().dataloaders(items, bs=16, workers=0, cache=cache)
    learn = Learner(data, mlp(), lr=0.02, progress=False).fit(1)
    found = ClassificationInterpretation.from_learner(learn)
    assert len(found) == 50
    top = found.top_losses(5)
    assert [t.loss for t in top] == sorted(found.losses.tolist(), reverse=True)[:5]
    for record in top:
        numbers, label = data.valid.item(record.index)
        assert record.item == (numbers, label)
        assert record.actual == label
        prediction = learn.predict(numbers)
        assert record.predicted == prediction.value
        assert record.probability == pytest.approx(max(prediction.probabilities.values()), abs=1e-5)
        assert record.loss == pytest.approx(-np.log(prediction.probabilities[label]), abs=1e-4)
    assert found.top_losses(3, largest=False)[0].loss == found.losses.min()
    assert len(found.top_losses()) == 50
    assert found.top_losses(0) == []


def test_accuracy_is_the_learners(trained):
    found = ClassificationInterpretation.from_learner(trained)
    assert found.report().accuracy == pytest.approx(trained.validate()["accuracy"])
    assert found.confusion_matrix().sum() == 50


def test_it_holds_what_was_said_and_nothing_of_the_inputs(trained):
    held = ClassificationInterpretation.from_learner(trained).predictions
    columns = [held.activated, held.targets, held.index, held.losses]
    # A view of a batch would keep the whole batch; 3 probabilities, and three numbers a row.
    assert all(column.untyped_storage().nbytes() == column.nbytes for column in columns)
    assert sum(column.nbytes for column in columns) == len(held) * (3 * 4 + 8 + 8 + 4)


def test_another_loader_can_be_interpreted(trained, items):
    loader = trained.data.test_dl(items[:7], with_labels=True)
    assert ClassificationInterpretation.from_learner(trained, loader).confusion_matrix().sum() == 7


def test_numbers_have_losses_too(items):
    pairs = [(numbers, sum(numbers)) for numbers, _ in items]
    recipe = DataBlock(blocks=(RegressionBlock(4), RegressionBlock))
    learn = Learner(recipe.dataloaders(pairs, workers=0), torch.nn.Linear(4, 1), progress=False).fit(1)
    found = Interpretation.from_learner(learn)
    record = found.top_losses(1)[0]
    assert record.probability is None
    assert record.loss == pytest.approx((record.actual - record.predicted) ** 2, rel=1e-4)
    with pytest.raises(PlanError, match=r"one class per item.*use Interpretation"):
        ClassificationInterpretation.from_learner(learn)


def test_what_cannot_be_interpreted_says_why(trained, items):
    unlabelled = trained.data.test_dl(items[:3])
    with pytest.raises(DataError, match="no targets"):
        Interpretation.from_learner(trained, unlabelled)
    trained.data = DataLoaders(train=trained.data.train)
    with pytest.raises(DataError, match="nothing was held out"):
        Interpretation.from_learner(trained)


# --- pictures ----------------------------------------------------------------------------------


def pixels(figure) -> np.ndarray:
    import matplotlib.image

    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=60)
    buffer.seek(0)
    return matplotlib.image.imread(buffer)


@pytest.mark.parametrize(("num_classes", "numbers", "names"), [(2, True, True), (40, True, True), (61, False, False)])
@pytest.mark.parametrize("normalize", [False, True])
def test_the_matrix_is_drawn_at_any_size(num_classes, numbers, names, normalize):
    actual = list(range(num_classes)) * 2
    predicted = list(range(num_classes)) + [0] * num_classes
    figure = interpretation(actual, predicted, num_classes).plot_confusion_matrix(normalize=normalize)
    ax = figure.axes[0]
    cells = [text.get_text() for text in ax.texts]
    assert bool(cells) == numbers
    if numbers:
        assert cells.count("0.50" if normalize else "1") == 2 * (num_classes - 1)
        assert cells[0] == ("1.00" if normalize else "2")
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert (labels[:1] == ["class 000"]) == names
    assert (ax.get_xlabel(), ax.get_ylabel())[0].startswith("predicted")
    image = pixels(figure)
    assert image.std() > 0.05
    assert max(image.shape) < 1400


def test_long_names_keep_both_ends():
    from graftwork.interpret import _short

    assert _short("a_rather_long_category_name_31") == "a_rather…y_name_31"
    assert _short("short") == "short"
    assert _short(1.23456) == "1.235"


def test_the_top_losses_are_drawn_with_their_verdict(trained):
    found = ClassificationInterpretation.from_learner(trained)
    figure = found.plot_top_losses(5)
    titles = [ax.get_title() for ax in figure.axes]
    assert len(titles) == 5
    top = found.top_losses(1)[0]
    assert f"{top.predicted} / {top.actual}\n{top.loss:.2f} · {top.probability:.2f}" in titles[0]
    assert figure.axes[0].title.get_color() == ("black" if top.predicted == top.actual else "firebrick")
    assert pixels(figure).std() > 0


def test_drawing_changes_nothing_global(trained):
    import matplotlib

    before = dict(matplotlib.rcParams)
    ClassificationInterpretation.from_learner(trained).plot_confusion_matrix()
    assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
