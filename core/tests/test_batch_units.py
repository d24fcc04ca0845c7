"""Batches whose losses are a mean over something else than items, and baselines that measure themselves."""

from __future__ import annotations

import torch

from graftwork.api import Baseline, Batch, Learner, Part
from graftwork.baseline import evaluate_baseline
from graftwork.testing.toy import make_items, mlp, recipe


def toy_learner() -> Learner:
    return Learner(recipe().dataloaders(make_items(), bs=16, workers=0), mlp(), progress=False)


def test_a_batch_counts_its_items_or_its_units():
    batch = Batch({"x": torch.zeros(4, 3)}, ("x",), (), torch.arange(4))
    assert batch.counts == 4
    batch.units = 12.0
    assert batch.counts == 12
    assert batch.of(Part(rank=1, world=4)).counts == 3


def test_validation_weighs_batches_by_what_they_count(monkeypatch):
    learn = toy_learner()
    plain = learn.validate()["valid_loss"]
    loader = learn.data.valid
    original = type(loader).at

    def counted(self, *args, **kwargs):
        for number, batch in enumerate(original(self, *args, **kwargs)):
            batch.units = 1.0 if number == 0 else 0.0
            yield batch

    losses = []
    for batch in loader:
        with torch.no_grad():
            losses.append(float(learn.objective(learn.module.eval()(batch.x), batch.fields)))
    monkeypatch.setattr(type(loader), "at", counted)
    assert len(losses) > 1
    assert abs(learn.validate()["valid_loss"] - losses[0]) < 1e-5
    assert abs(plain - losses[0]) > 1e-6


def test_a_baseline_may_measure_itself():
    class Knowing(Baseline):
        name = "knowing"

        def fit(self, data):
            return self

        def predict(self, loader):
            raise AssertionError("what measures itself is not asked for predictions")

        def measure(self, loader, objective):
            return {"accuracy": 0.5}

    learn = toy_learner()
    assert evaluate_baseline(Knowing(), learn.data, learn.objective) == {"accuracy": 0.5}
