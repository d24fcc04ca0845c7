"""Losses and metrics of pixels against known values and definitions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from graftwork.api import DataError, Loss, Metric, OptionError
from graftwork_segmentation import (
    Combined,
    CrossEntropyDice,
    DiceLoss,
    LovaszSoftmax,
    PixelCrossEntropy,
    PixelFocal,
    Tversky,
    boundary_f,
    class_dice,
    class_iou,
    foreground_accuracy,
    mean_dice,
    mean_iou,
    pixel_accuracy,
)
from graftwork_segmentation.blocks import VOID

LOSSES = [PixelCrossEntropy(), PixelFocal(), DiceLoss(), Tversky(), LovaszSoftmax(), Combined(), CrossEntropyDice()]
PREDICTED, TARGET = torch.tensor([[[0, 1], [1, 2]]]), torch.tensor([[[0, 1], [2, 2]]])


def sure(codes: Tensor, num_classes: int = 3) -> Tensor:
    return F.one_hot(codes, num_classes).movedim(-1, 1).float()


def measured(metric: Metric, predicted: Tensor, target: Tensor) -> float:
    metric.update(predicted, target)
    return metric.compute()


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        (mean_dice(), 7 / 9),
        (mean_iou(), 2 / 3),
        (pixel_accuracy(), 3 / 4),
        (foreground_accuracy(), 2 / 3),
        (class_iou(2), 1 / 2),
        (class_dice(1), 2 / 3),
    ],
    ids=lambda v: v.name if isinstance(v, Metric) else "",
)
def test_the_known_values_of_a_picture_of_four_pixels(metric: Metric, value: float) -> None:
    assert measured(metric, sure(PREDICTED), TARGET) == pytest.approx(value)


def test_void_pixels_and_classes_nobody_has_count_for_nothing() -> None:
    target = torch.tensor([[[0, 1], [VOID, VOID]]])
    assert measured(mean_iou(), sure(PREDICTED, 5), target) == 1.0
    assert math.isnan(measured(mean_iou(), sure(PREDICTED), torch.full((1, 2, 2), VOID)))
    assert math.isnan(measured(class_iou(2), sure(PREDICTED), target))
    with pytest.raises(OptionError, match="no class 7"):
        measured(class_iou(7), sure(PREDICTED), target)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 5))
def test_counts_of_parts_merge_to_the_whole_in_any_order(seed: int, parts: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    predicted = torch.rand(6, 3, 5, 4, generator=generator)
    target = torch.randint(-1, 3, (6, 5, 4), generator=generator)
    for make in (mean_iou, boundary_f):
        whole, merged = make(), make()
        whole.update(predicted, target)
        for rows in reversed(list(zip(predicted.chunk(parts), target.chunk(parts), strict=True))):
            part, other = make(), make()
            part.update(*rows)
            other.load_state_dict(part.state_dict())
            merged.merge(other)
        assert merged.compute() == pytest.approx(whole.compute(), nan_ok=True)


def test_metrics_refuse_other_shapes_and_another_number_of_classes() -> None:
    metric = mean_iou()
    with pytest.raises(DataError, match=r"\(1, 3, 2, 2\) and \(1, 4\)"):
        metric.update(sure(PREDICTED), TARGET.flatten(1))
    with pytest.raises(DataError, match="no batch"):
        metric.compute()
    metric.update(sure(PREDICTED), TARGET)
    with pytest.raises(DataError, match="3 classes and now of 4"):
        metric.update(sure(PREDICTED, 4), TARGET)


def test_an_outline_within_the_tolerance_is_followed_and_one_beyond_is_not() -> None:
    square = torch.zeros(1, 20, 20, dtype=torch.int64)
    square[:, 5:15, 5:15] = 1
    assert measured(boundary_f(0), sure(square, 2), square) == 1.0
    moved = square.roll(2, 2)
    assert measured(boundary_f(2), sure(moved, 2), square) == 1.0
    assert measured(boundary_f(1), sure(moved, 2), square) < 0.9
    assert math.isnan(measured(boundary_f(), sure(square * 0, 2), square * 0))
    with pytest.raises(OptionError, match="negative"):
        boundary_f(-1)


def random_pair(seed: int = 0, void: float = 0.3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randn(3, 4, 6, 5, generator=generator)
    target = torch.randint(0, 4, (3, 6, 5), generator=generator)
    return raw, torch.where(torch.rand(3, 6, 5, generator=generator) < void, VOID, target)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_what_is_predicted_for_void_pixels_changes_no_loss(loss: Loss) -> None:
    raw, target = random_pair()
    other = torch.where((target == VOID)[:, None], torch.randn(raw.shape), raw)
    assert loss(other, target) == pytest.approx(float(loss(raw, target)), rel=1e-5)
    assert torch.allclose(loss.per_item(other, target), loss.per_item(raw, target), atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_an_empty_mask_costs_nothing_and_breaks_nothing(loss: Loss) -> None:
    raw = torch.randn(2, 4, 6, 5, requires_grad=True)
    value = loss(raw, torch.full((2, 6, 5), VOID))
    value.backward()
    assert float(value.detach()) == 0.0
    assert raw.grad is not None
    assert raw.grad.eq(0).all()


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_a_sure_and_right_prediction_costs_next_to_nothing(loss: Loss) -> None:
    _, target = random_pair()
    raw = 40 * sure(target.clamp(min=0), 4)
    assert 0 <= float(loss(raw, target)) < 1e-5
    assert float(loss(-raw, target)) > 0.5


def test_cross_entropy_is_torchs_own_with_and_without_weights() -> None:
    raw, target = random_pair()
    assert PixelCrossEntropy()(raw, target) == pytest.approx(float(F.cross_entropy(raw, target)), rel=1e-6)
    weight = (0.1, 1.0, 2.0, 0.5)
    expected = F.cross_entropy(raw, target, torch.tensor(weight))
    assert PixelCrossEntropy(weight=weight)(raw, target) == pytest.approx(float(expected), rel=1e-5)
    assert PixelFocal(0.0)(raw, target) == pytest.approx(float(F.cross_entropy(raw, target)), rel=1e-6)


def test_regions_cost_what_their_definitions_say() -> None:
    raw, target = 60 * sure(PREDICTED), TARGET
    # Sure predictions: the soft counts are the counts; the classes of the picture have Dice 1, 2/3, 2/3.
    assert DiceLoss()(raw, target) == pytest.approx(1 - 7 / 9, abs=1e-5)
    assert LovaszSoftmax()(raw, target) == pytest.approx(1 - 2 / 3, abs=1e-5)
    # One pixel of class 2 is missed and goes to class 1: 1/(1 + alpha) and 1/(1 + beta).
    assert Tversky(0.25, 1.0)(raw, target) == pytest.approx(1 - (1 + 1 / 1.25 + 1 / 2) / 3, abs=1e-5)


def test_cross_entropy_plus_dice_has_the_value_worked_out_by_hand() -> None:
    # Two pixels of two classes, of probabilities 3/4 and 1/2 for the actual one; the third pixel is void.
    raw = torch.tensor([[[[math.log(3), 0.0, 9.0]], [[0.0, 0.0, -9.0]]]])
    target = torch.tensor([[[0, 1, VOID]]])
    entropy = -(math.log(3 / 4) + math.log(1 / 2)) / 2
    # Dice of class 0: 2 * 3/4 over (3/4 + 1/2) + 1; of class 1: 2 * 1/2 over (1/4 + 1/2) + 1.
    dice = 1 - (1.5 / 2.25 + 1 / 1.75) / 2
    assert CrossEntropyDice()(raw, target) == pytest.approx(entropy + dice, rel=1e-6)
    assert CrossEntropyDice(0.5)(raw, target) == pytest.approx(entropy + dice / 2, rel=1e-6)
    assert CrossEntropyDice(0.0)(raw, target) == pytest.approx(entropy, rel=1e-6)


@pytest.mark.parametrize("weight", [None, (0.1, 1.0, 2.0, 0.5)])
def test_cross_entropy_plus_dice_is_the_sum_of_both(weight: tuple[float, ...] | None) -> None:
    raw, target = random_pair(3)
    both, entropy, dice = CrossEntropyDice(2.0, weight=weight), PixelCrossEntropy(weight=weight), DiceLoss()
    assert torch.equal(both(raw, target), entropy(raw, target) + 2 * dice(raw, target))
    assert torch.equal(both.per_item(raw, target), entropy.per_item(raw, target) + 2 * dice.per_item(raw, target))
    other = CrossEntropyDice(ignore_index=3)
    known = torch.where(target == VOID, 3, target)
    assert torch.equal(other(raw, known), CrossEntropyDice()(raw, torch.where(known == 3, VOID, known)))


def test_classes_that_a_picture_lacks_neither_raise_nor_lower_its_dice() -> None:
    target = torch.tensor([[[0, 0], [1, 1]]])
    right = 60 * sure(target, 3)
    assert DiceLoss()(60 * sure(target, 9), target) == pytest.approx(float(DiceLoss()(right, target)), abs=1e-6)
    # Half of class 1 goes to one class, or to two, that the picture lacks: of classes 0 and 1, Dice is 1 and 2/3.
    wrong = torch.tensor([[[0, 0], [1, 2]]])
    assert DiceLoss()(60 * sure(wrong, 3), target) == pytest.approx(1 - (1 + 2 / 3) / 2, abs=1e-5)
    # A picture in which a class is missing costs what it costs alone, whatever its neighbours have.
    pair = torch.cat([target, torch.full((1, 2, 2), 2)])
    raw = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    assert CrossEntropyDice().per_item(raw, pair)[0] == pytest.approx(float(CrossEntropyDice()(raw[:1], target)))


def test_sums_over_regions_are_exact_for_outputs_in_bfloat16_and_slopes_are_finite() -> None:
    target = (torch.arange(96 * 96).view(1, 96, 96) % 3 == 0).long()
    raw = torch.stack([torch.full((1, 96, 96), 0.25), torch.full((1, 96, 96), -0.25)], 1)  # exact in bfloat16
    half = raw.bfloat16().requires_grad_()
    loss = CrossEntropyDice()(half, target)
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(float(CrossEntropyDice()(raw.double().float(), target)), rel=1e-6)
    loss.backward()
    assert half.grad is not None
    assert half.grad.isfinite().all()
    assert half.grad.ne(0).all()
    with torch.autocast("cpu", torch.bfloat16):
        assert float(CrossEntropyDice()(half.detach(), target)) == pytest.approx(float(loss.detach()), rel=1e-6)


def test_outputs_as_large_as_they_come_have_finite_slopes() -> None:
    raw, target = random_pair(5)
    raw = (1e4 * raw).requires_grad_()
    CrossEntropyDice()(raw, target).backward()
    assert raw.grad is not None
    assert raw.grad.isfinite().all()


def test_a_padded_picture_does_not_change_what_others_cost() -> None:
    raw, target = random_pair(void=0.0)
    for loss in LOSSES:
        alone = loss.per_item(raw[:1], target[:1])
        assert torch.allclose(loss.per_item(raw, target)[:1], alone, atol=1e-6)


def test_losses_refuse_shapes_that_do_not_fit_and_parameters_that_cannot_be() -> None:
    raw, target = random_pair()
    with pytest.raises(DataError, match=r"\(3, 4, 6, 5\) and \(3, 5\)"):
        DiceLoss()(raw, target[:, 0])
    with pytest.raises(DataError, match="int32"):
        PixelCrossEntropy()(raw, target.int())
    for make in (
        lambda: PixelFocal(-1.0),
        lambda: Tversky(0.0, 0.0),
        lambda: Combined(share=-1.0),
        lambda: CrossEntropyDice(math.nan),
    ):
        with pytest.raises(OptionError):
            make()
