"""Losses: known values, shapes, precision, and no silent broadcasting."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from graftwork.errors import DataError, OptionError
from graftwork.loss import L1, MSE, BCEWithLogits, CrossEntropy, Focal, LabelSmoothing, Loss

LOGITS = torch.tensor([[2.0, 0.5, -1.0], [0.1, 0.2, 3.0]])
CODES = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("loss", "value"), [(CrossEntropy(), 1.575456), (LabelSmoothing(0.1), 1.605456), (Focal(2.0), 1.306102)]
)
def test_golden_values(loss: Loss, value: float):
    assert loss(LOGITS, CODES).item() == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("loss", [CrossEntropy(), LabelSmoothing(), Focal()])
@pytest.mark.parametrize("shape", [(), (4, 5)], ids=["items", "pixels"])
def test_class_losses_are_the_mean_of_their_items(loss: Loss, shape):
    raw, target = torch.randn(6, 3, *shape), torch.randint(0, 3, (6, *shape))
    items = loss.per_item(raw, target)
    assert items.shape == (6,)
    assert loss(raw, target).item() == pytest.approx(items.mean().item(), rel=1e-5)
    assert items[2].item() == pytest.approx(loss(raw[2:3], target[2:3]).item(), rel=1e-5)


@pytest.mark.parametrize("loss", [MSE(), L1(), BCEWithLogits()])
@pytest.mark.parametrize("shape", [(6,), (6, 3), (6, 3, 4, 5)], ids=str)
def test_value_losses_are_the_mean_of_their_items(loss: Loss, shape):
    raw, target = torch.randn(shape), torch.randint(0, 2, shape).float()
    items = loss.per_item(raw, target)
    assert items.shape == (6,)
    assert loss(raw, target).item() == pytest.approx(items.mean().item(), rel=1e-5)
    assert items[2].item() == pytest.approx(loss(raw[2:3], target[2:3]).item(), rel=1e-5)


def test_value_losses_by_hand():
    raw, target = torch.tensor([1.0, 4.0]), torch.tensor([0.0, 2.0])
    assert MSE()(raw, target).item() == 2.5
    assert L1()(raw, target).item() == 1.5
    assert BCEWithLogits()(torch.zeros(2), torch.tensor([0.0, 1.0])).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("loss", [CrossEntropy(), LabelSmoothing(), Focal()])
def test_ignored_codes_count_for_nothing(loss: Loss):
    raw, target = torch.randn(2, 3, 4), torch.randint(0, 3, (2, 4))
    target[0, 2:] = -100
    items = loss.per_item(raw, target)
    assert items[0].item() == pytest.approx(loss(raw[:1, :, :2], target[:1, :2]).item(), rel=1e-5)
    assert loss(raw, target).item() == pytest.approx((items[0] * 2 + items[1] * 4).item() / 6, rel=1e-5)


def test_class_weights_weigh():
    loss = CrossEntropy(weight=[1.0, 3.0, 1.0])
    plain = CrossEntropy().per_item(LOGITS, CODES)
    assert loss(LOGITS, CODES).item() == pytest.approx((plain[0] + 3 * plain[1]).item() / 4, rel=1e-5)
    assert loss.per_item(LOGITS, CODES).tolist() == pytest.approx([plain[0].item(), 3 * plain[1].item()])
    assert "weight" in dict(loss.named_buffers()), "the weights must move to the device with the loss"


def test_positive_weights_weigh():
    raw, target = torch.zeros(1, 2), torch.tensor([[1.0, 1.0]])
    loss = BCEWithLogits(pos_weight=torch.tensor([1.0, 3.0]))
    assert loss(raw, target).item() == pytest.approx(2 * math.log(2))
    assert loss.per_item(raw, target).tolist() == pytest.approx([2 * math.log(2)])


@given(st.floats(-30, 30), st.floats(0, 4))
def test_focal_is_its_formula(logit, gamma):
    raw = torch.tensor([[logit, 0.0]])
    p = torch.softmax(raw.double(), 1)[0, 0]
    expected = (1 - p) ** gamma * -p.log()
    assert Focal(gamma)(raw, torch.tensor([0])).item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-6)


def test_focal_without_gamma_and_smoothing_without_eps_are_cross_entropy():
    expected = CrossEntropy()(LOGITS, CODES).item()
    assert Focal(0)(LOGITS, CODES).item() == pytest.approx(expected)
    assert LabelSmoothing(0)(LOGITS, CODES).item() == pytest.approx(expected)


@pytest.mark.parametrize("loss", [CrossEntropy(), LabelSmoothing(), Focal()])
@pytest.mark.parametrize(
    ("raw", "target"),
    [
        (torch.zeros(4, 3), torch.zeros(4, 1, dtype=torch.int64)),
        (torch.zeros(4, 3), torch.zeros(5, dtype=torch.int64)),
        (torch.zeros(4, 3), torch.zeros(4)),
        (torch.zeros(4, 3, 2, 2), torch.zeros(4, dtype=torch.int64)),
    ],
    ids=["column", "length", "floats", "pixels"],
)
def test_class_losses_refuse_other_shapes_and_types(loss: Loss, raw, target):
    for compute in (loss, loss.per_item):
        with pytest.raises(DataError, match=r"outputs \(4, 3.*targets \("):
            compute(raw, target)


@pytest.mark.parametrize("loss", [CrossEntropy(), LabelSmoothing(), Focal()])
def test_a_code_outside_the_classes_is_refused(loss: Loss):
    with pytest.raises(DataError, match="between 0 and 2"):
        loss(LOGITS, torch.tensor([0, 3]))


def test_focal_refuses_soft_targets():
    soft = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    assert CrossEntropy()(LOGITS, soft).item() == pytest.approx(F.cross_entropy(LOGITS, soft).item())
    with pytest.raises(DataError, match="int64"):
        Focal()(LOGITS, soft)


@pytest.mark.parametrize("loss", [MSE(), L1(), BCEWithLogits()])
def test_a_column_is_the_same_as_a_list_and_nothing_is_broadcast(loss: Loss):
    raw, target = torch.randn(4), torch.randint(0, 2, (4,)).float()
    expected = loss(raw, target).item()
    assert loss(raw[:, None], target).item() == expected
    assert loss(raw, target[:, None]).item() == expected
    assert loss.per_item(raw[:, None], target).shape == (4,)
    for wrong in (target[:3], torch.zeros(4, 2), torch.zeros(1), torch.zeros(1, 4)):
        for compute in (loss, loss.per_item):
            with pytest.raises(DataError, match="must have the same shape"):
                compute(raw[:, None], wrong)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loss", [CrossEntropy(), LabelSmoothing(), Focal()])
def test_half_precision_outputs_are_computed_in_float32(loss: Loss, dtype):
    raw = (LOGITS * 3).to(dtype)
    assert loss(raw, CODES).dtype == loss.per_item(raw, CODES).dtype == torch.float32
    assert loss(raw, CODES).item() == loss(raw.float(), CODES).item()


@pytest.mark.parametrize("loss", [MSE(), L1(), BCEWithLogits()])
def test_half_precision_values_are_computed_in_float32(loss: Loss):
    raw, target = torch.randn(8).bfloat16(), torch.randint(0, 2, (8,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert loss(raw, target).dtype == loss.per_item(raw, target).dtype == torch.float32
        assert loss(raw, target).item() == loss(raw.float(), target.float()).item()


@pytest.mark.parametrize("loss", [CrossEntropy(), LabelSmoothing(), Focal(), Focal(0.5), MSE(), L1(), BCEWithLogits()])
def test_gradients_are_finite_where_the_model_is_sure(loss: Loss):
    raw = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    target = CODES if isinstance(loss, CrossEntropy | LabelSmoothing | Focal) else torch.eye(2)
    loss(raw, target).backward()
    assert raw.grad is not None
    assert torch.isfinite(raw.grad).all()


@pytest.mark.parametrize("make", [lambda: LabelSmoothing(1.0), lambda: LabelSmoothing(-0.1), lambda: Focal(-1)])
def test_impossible_options_are_refused(make):
    with pytest.raises(OptionError):
        make()


def test_a_loss_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Loss()
