"""Ranking losses: their formulas among candidates, the full cross-entropy in validation."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from graftwork.api import DataError
from graftwork_collab.ranking_losses import BPR, FullSquaredError, PairBCE, SampledSoftmax

LOSSES = [SampledSoftmax(), BPR(), PairBCE()]
INF = torch.inf


def ids(loss: object) -> str:
    return type(loss).__name__


def test_among_candidates_each_loss_is_its_formula():
    raw = torch.tensor([[2.0, 1.0, -1.0], [0.0, 3.0, -INF]])
    target = torch.zeros(2, dtype=torch.int64)
    softmax = F.cross_entropy(raw, target, reduction="none")
    torch.testing.assert_close(SampledSoftmax().per_item(raw, target), softmax)
    torch.testing.assert_close(SampledSoftmax()(raw, target), softmax.mean())
    pairs = -F.logsigmoid(torch.tensor([[1.0, 3.0], [-3.0, INF]])).mean(1)
    torch.testing.assert_close(BPR().per_item(raw, target), pairs)
    one, zero = F.softplus(-raw[:, 0]), F.softplus(raw[:, 1:]).mean(1)
    torch.testing.assert_close(PairBCE().per_item(raw, target), one + zero)


@pytest.mark.parametrize("loss", LOSSES, ids=ids)
def test_places_that_do_not_count_change_nothing(loss):
    raw = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([[-1, 0, 0, 0], [-1, -1, -1, -1], [0, 0, 0, 0]])
    single = loss.per_item(raw.reshape(12, 6), torch.zeros(12, dtype=torch.int64)).reshape(3, 4)
    counted = target == 0
    torch.testing.assert_close(loss(raw, target), single[counted].mean())
    rows = loss.per_item(raw, target)
    torch.testing.assert_close(rows, torch.stack([single[0, 1:].mean(), torch.zeros(()), single[2].mean()]))


@pytest.mark.parametrize("loss", LOSSES, ids=ids)
def test_a_candidate_that_does_not_count_gets_no_gradient(loss):
    raw = torch.tensor([[1.0, 0.5, -0.5]], requires_grad=True)
    masked = raw.masked_fill(torch.tensor([[False, False, True]]), -INF)
    loss(masked, torch.zeros(1, dtype=torch.int64)).backward()
    assert raw.grad is not None
    assert raw.grad.isfinite().all()
    assert raw.grad[0, 2] == 0
    assert raw.grad[0, 0] < 0 < raw.grad[0, 1]


@pytest.mark.parametrize("loss", LOSSES, ids=ids)
def test_in_validation_it_is_the_cross_entropy_over_what_can_be_recommended(loss):
    raw = torch.tensor([[-INF, 1.0, 2.0, 3.0], [-INF, 0.0, -INF, 1.0], [-INF, 1.0, 1.0, 1.0]])
    # Held out: two known items; one seen in training and an unknown one, which cannot be; nobody.
    target = torch.tensor([[1, 3, -1], [2, 0, 1], [-1, -1, -1]])
    first = -raw[0].log_softmax(0)[[1, 3]].mean()
    second = -raw[1].log_softmax(0)[1]
    torch.testing.assert_close(loss.per_item(raw, target), torch.stack([first, second, torch.zeros(())]))
    torch.testing.assert_close(loss(raw, target), (first + second) / 2)


def test_nothing_held_out_costs_nothing():
    assert SampledSoftmax()(torch.tensor([[-INF, 1.0]]), torch.tensor([[-1]])) == 0


def test_squared_error_over_the_catalogue():
    raw = torch.tensor([[-INF, 0.5, 0.25, -INF], [-INF, 1.0, 0.0, 0.0]])
    target = torch.tensor([[1, -1], [0, 2]])
    expected = torch.tensor([(0.25 + 0.0625) / 2, (1 + 1 + 0) / 3])
    torch.testing.assert_close(FullSquaredError().per_item(raw, target), expected)
    torch.testing.assert_close(FullSquaredError()(raw, target), expected.mean())


@pytest.mark.parametrize("loss", [*LOSSES, FullSquaredError()], ids=ids)
def test_other_shapes_are_refused_by_name(loss):
    with pytest.raises(DataError, match=r"\(3, 4\)"):
        loss(torch.zeros(3, 4), torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(DataError, match=r"\(2, 3, 4\)"):
        loss(torch.zeros(2, 3, 4), torch.zeros(2, dtype=torch.int64))
