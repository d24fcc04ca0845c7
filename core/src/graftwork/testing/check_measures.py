"""Checks of losses and metrics."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from graftwork.block import TargetBlock
from graftwork.loss import Loss
from graftwork.metric import Metric
from graftwork.spec import LossSpec, MetricSpec
from graftwork.testing.compare import is_finite, same
from graftwork.testing.kit import Kit, mocks
from graftwork.testing.verdict import Check, FlawError

__all__ = ["CHECKS"]

STEPS: Final = 150


def _pair(kit: Kit, block: TargetBlock) -> tuple[Tensor, Tensor]:
    """Return raw outputs of a model that knows nothing, and targets."""
    targets = block.collate(mocks(block))
    return kit.raw(block, targets), targets


def _loss(kit: Kit, spec: LossSpec) -> tuple[Loss, Tensor, Tensor]:
    example = kit.examples.losses.get(spec.id)
    raw, target = _pair(kit, kit.target(spec.blocks[0])) if example is None else example()
    loss: Loss = kit.load(spec)()
    return loss, raw.requires_grad_(True), target


def _scalar(kit: Kit, spec: LossSpec) -> None:
    loss, raw, target = _loss(kit, spec)
    value = loss(raw, target)
    if value.ndim or not is_finite(value) or value.dtype != torch.float32:
        raise FlawError(f"it gives {tuple(value.shape)} of {value.dtype}", fix="return a finite float32 mean, a scalar")
    value.backward()
    if raw.grad is None or not is_finite(raw.grad) or not bool(raw.grad.any()):
        raise FlawError("no gradient reaches the raw output", fix="compute it from raw by differentiable steps")


def _half(kit: Kit, spec: LossSpec) -> None:
    loss, raw, target = _loss(kit, spec)
    value = loss(raw.detach().bfloat16(), target)
    if value.dtype != torch.float32:
        raise FlawError(f"of bf16 outputs it makes a loss in {value.dtype}", fix="begin with raw.float()")


def _per_item(kit: Kit, spec: LossSpec) -> None:
    loss, raw, target = _loss(kit, spec)
    items = loss.per_item(raw, target)
    if items.shape != (len(raw),):
        raise FlawError(
            f"per_item gives {tuple(items.shape)} for {len(raw)} items", fix="return one loss an item, (B,)"
        )
    if not same(items.mean(), loss(raw, target), tolerance=1e-4):
        raise FlawError("the mean of per_item is not the loss", fix="let forward be the mean of per_item")


def _metric(kit: Kit, spec: MetricSpec) -> Metric:
    made = kit.load(spec)(**kit.examples.metrics.get(spec.id, {}))
    if not isinstance(made, Metric):
        raise FlawError(
            f"it makes a {type(made).__name__}, and no Metric", fix="return a Metric, as metric_factory says"
        )
    return made


def _seen(metric: Metric, *pairs: tuple[Tensor, Tensor]) -> Metric:
    for predicted, target in pairs:
        metric.update(predicted, target)
    return metric


def _parts(kit: Kit, spec: MetricSpec) -> list[tuple[Tensor, Tensor]]:
    block = kit.target(spec.blocks[0])
    raw, target = _pair(kit, block)
    predicted, actual = block.measured(block.activate(raw)), block.measured(target)
    return [(predicted[part], actual[part]) for part in (slice(0, 7), slice(7, 16), slice(16, None))]


def _merges(kit: Kit, spec: MetricSpec) -> None:
    parts = _parts(kit, spec)
    whole = _seen(_metric(kit, spec), *parts).compute()
    pieces = [_seen(_metric(kit, spec), part) for part in parts]
    # Also with one that has seen nothing, on either side.
    first, *others = [_metric(kit, spec), *pieces, _metric(kit, spec)]
    for other in others:
        first.merge(other)
    at_once = _seen(_metric(kit, spec), tuple(torch.cat(column) for column in zip(*parts, strict=True))).compute()  # type: ignore[arg-type]
    for other_way, how in ((first.compute(), "merged from parts"), (at_once, "from one batch")):
        if not same(other_way, whole, tolerance=1e-5):
            raise FlawError(
                f"{how} it is {other_way:.6g}, and {whole:.6g} batch by batch", fix="add up counts and sums"
            )


def _resets(kit: Kit, spec: MetricSpec) -> None:
    parts = _parts(kit, spec)
    fresh = _seen(_metric(kit, spec), parts[0]).compute()
    used = _seen(_metric(kit, spec), *parts)
    used.compute()
    used.reset()
    again = _seen(used, parts[0]).compute()
    if not same(again, fresh, tolerance=1e-6):
        raise FlawError(f"after reset it gives {again:.6g}, a fresh one {fresh:.6g}", fix="forget everything in reset")


def _direction(kit: Kit, spec: MetricSpec) -> None:
    metric = _metric(kit, spec)
    if metric.higher_is_better != spec.higher_is_better:
        raise FlawError(
            f"the record says higher_is_better={spec.higher_is_better}, the metric {metric.higher_is_better}",
            fix=f"higher_is_better={metric.higher_is_better} in the record, or the other way round",
        )
    block = kit.target(spec.blocks[0])
    raw, target = _pair(kit, block)
    before, after = (_measured(kit, spec, block, r, target) for r in (raw, _perfected(kit, block, raw, target)))
    if (after > before) != spec.higher_is_better or after == before:
        raise FlawError(
            f"it is {before:.4g} for random outputs and {after:.4g} for nearly perfect ones, "
            f"with higher_is_better={spec.higher_is_better}",
            fix="correct higher_is_better, or what it measures",
        )


def _measured(kit: Kit, spec: MetricSpec, block: TargetBlock, raw: Tensor, target: Tensor) -> float:
    predicted = block.measured(block.activate(raw))
    return _seen(_metric(kit, spec), (predicted, block.measured(target))).compute()


def _perfected(kit: Kit, block: TargetBlock, raw: Tensor, target: Tensor) -> Tensor:
    """Move raw outputs to where the block's default loss is lowest: for any block, nearly perfect predictions."""
    loss: Any = kit.host.losses.get(block.loss_id)()
    moved = raw.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([moved], lr=0.1)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss(moved, target).backward()
        optimizer.step()
    return moved.detach()


CHECKS: Final = (
    Check(id="loss-scalar", kind="losses", reason="the loop calls backward on it", run=_scalar),
    Check(id="loss-precision", kind="losses", reason="a mean in half precision is off by percents", run=_half),
    Check(id="loss-per-item", kind="losses", reason="weights and top losses are of single items", run=_per_item),
    Check(id="metric-merges", kind="metrics", reason="processes and batches are added up by merge", run=_merges),
    Check(id="metric-resets", kind="metrics", reason="one metric serves every epoch", run=_resets),
    Check(id="metric-direction", kind="metrics", reason="the best model is chosen by it", run=_direction),
)
