"""Checks of blocks, and of those that are targets."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

import torch

from graftwork.block import Block, TargetBlock
from graftwork.errors import BlockError, GraftworkError
from graftwork.show import grid
from graftwork.spec import BlockSpec
from graftwork.testing.compare import is_finite, same
from graftwork.testing.kit import Kit, mocks
from graftwork.testing.verdict import Check, FlawError, NothingToCheckError

__all__ = ["CHECKS"]


class NotAValue:
    """Be what no block holds."""


def _mock(kit: Kit, spec: BlockSpec) -> None:
    for block in kit.blocks(spec.id):
        for value in mocks(block):
            reason = block.check(value)
            if reason is not None:
                raise FlawError(f"{block!r} refuses its own mock: {reason}", fix="let mock invent what check accepts")
        if not same(mocks(block, seed=3), mocks(block, seed=3)):
            raise FlawError("mock gives other values from the same generator", fix="draw from rng alone")


def _json(kit: Kit, spec: BlockSpec) -> None:
    for block in kit.blocks(spec.id):
        config = block.to_config()
        again = type(block).from_config(json.loads(json.dumps(config)))
        if again != block or hash(again) != hash(block):
            raise FlawError(
                f"{block!r} comes back from JSON as {again!r}", fix="make every field a JSON value or tuple"
            )


def _refuses(kit: Kit, spec: BlockSpec) -> None:
    for block in kit.blocks(spec.id):
        reason = block.check(NotAValue())
        if not isinstance(reason, str) or not reason.strip():
            raise FlawError(f"{block!r} accepts an object of a class nobody knows", fix="return a reason from check")
        if not block.optional and block.check(None) is None:
            raise FlawError(f"{block!r} accepts None", fix="return a reason from check, or declare optional = True")


def _collated(block: Block, values: list[Any]) -> torch.Tensor:
    try:
        return block.collate(values)
    except BlockError as error:
        raise NothingToCheckError(f"it has no tensor form: {error}") from error


def _collate(kit: Kit, spec: BlockSpec) -> None:
    for block in kit.blocks(spec.id):
        for count in (1, 5):
            values = mocks(block, count)
            column = _collated(block, values)
            if column.ndim == 0 or len(column) != count:
                raise FlawError(f"{count} values make a tensor {tuple(column.shape)}", fix="put the batch first")
            _uncollates(block, values, column)


def _uncollates(block: Block, values: list[Any], column: torch.Tensor) -> None:
    back = block.uncollate(column)
    if len(back) != len(values):
        raise FlawError(f"uncollate gives {len(back)} values of {len(values)}", fix="return one value per item")
    for value in back:
        reason = block.check(value)
        if reason is not None:
            raise FlawError(f"uncollate gives what check refuses: {reason}", fix="undo what collate did")
    if not same(block.collate(back), column, tolerance=1e-6):
        raise FlawError("collate, uncollate and collate again give another tensor", fix="undo what collate did")


def _show(kit: Kit, spec: BlockSpec) -> None:
    from matplotlib import rcParams

    before = dict(rcParams)
    for block in kit.blocks(spec.id):
        drawn = [_draws(block, value) for value in mocks(block, 4)]
        if not any(drawn):
            raise FlawError("show draws nothing and writes no title", fix="draw, or add a line with ax.set_title")
    if dict(rcParams) != before:
        raise FlawError("show changes matplotlib's settings", fix="draw on the axes it is given, and on nothing else")


def _draws(block: Block, value: Any) -> bool:
    figure, (ax,) = grid(1)
    empty = len(ax.get_children())
    block.show(value, ax)
    figure.draw_without_rendering()
    return len(ax.get_children()) > empty or bool(ax.get_title())


def _steps(kit: Kit, spec: BlockSpec) -> None:
    for block in kit.blocks(spec.id):
        steps, again = block.steps(), block.steps()
        if steps != again:
            raise FlawError("steps() differs from call to call", fix="return the same transforms for the same block")
        current: Block = block
        for transform in (*steps.opening, *steps.closing, *steps.batch):
            if not transform.accepts(current):
                raise FlawError(f"its own step {transform!r} does not accept {current!r}", fix="order the steps")
            if transform.needs_fit:
                return
            current = transform.out_block(current)


def _target(kit: Kit, spec: BlockSpec) -> None:
    for block in kit.blocks(spec.id):
        if not isinstance(block, TargetBlock):
            raise NothingToCheckError("it is no target")
        _named(kit, block)
        activated = block.activate(kit.raw(block, block.collate(mocks(block, 3))))
        if activated.dtype != torch.float32 or len(activated) != 3 or not is_finite(activated):
            shape = f"{tuple(activated.shape)} of {activated.dtype}"
            raise FlawError(f"activate gives {shape}", fix="return finite float32, the batch first")
        for value in block.uncollate(block.predict(activated)):
            reason = block.check(value)
            if reason is not None:
                raise FlawError(f"predict gives what check refuses: {reason}", fix="predict as collate batches targets")


def _named(kit: Kit, block: TargetBlock) -> None:
    named = {"losses": [block.loss_id], "metrics": block.metric_ids, "baselines": block.baseline_ids}
    for table, names in named.items():
        for name in names:
            try:
                kit.host.registries[table].spec(name)
            except GraftworkError as error:
                raise FlawError(f"it names {name!r} among its {table}: {error}", fix="name a registered id") from error


def _check(id: str, reason: str, run: Callable[[Kit, BlockSpec], None]) -> Check:  # noqa: A002 - what it is
    return Check(id=id, kind="blocks", reason=reason, run=run)


CHECKS: Final = (
    _check("block-mock", "checks and walks through a recipe work on invented values", _mock),
    _check("block-json", "an artifact holds blocks as JSON", _json),
    _check("block-refuses", "a wrong value is refused where it comes in, not deep inside a model", _refuses),
    _check("block-collate", "predictions leave a model the way targets come in", _collate),
    _check("block-show", "people look at their data", _show),
    _check("block-steps", "a recipe adds them without being asked", _steps),
    _check("block-target", "loss, metrics and baselines come from the target's block", _target),
)
