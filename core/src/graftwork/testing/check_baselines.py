"""Checks of baselines: what they predict fits the target, is the same again, and is no worse than nothing."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from graftwork.baseline import Baseline, evaluate_baseline
from graftwork.datablock import DataLoaders
from graftwork.errors import UserError
from graftwork.objective import Objective
from graftwork.spec import BaselineSpec
from graftwork.testing.compare import is_finite, same
from graftwork.testing.kit import Kit, Setting
from graftwork.testing.verdict import Check, FlawError, NothingToCheckError

__all__ = ["CHECKS"]


def _setting(kit: Kit, spec: BaselineSpec) -> Setting:
    return kit.setting(spec.inputs, spec.blocks)


def _predicts(kit: Kit, spec: BaselineSpec) -> None:
    data = _setting(kit, spec).data
    if data.valid is None:
        raise NothingToCheckError("its example holds nothing out")
    block, rows = data.plan.target, data.valid.in_order()
    predicted = _said(kit, spec, data)
    if isinstance(predicted, dict):
        _named(data, predicted)
        return
    if len(predicted) != rows.num_items - len(rows.bad_items) or not is_finite(predicted):
        fix = "return one finite row for each item that can be read"
        raise FlawError(f"it gives {tuple(predicted.shape)} for {rows.num_items} items, or no numbers", fix=fix)
    for value in block.uncollate(block.predict(predicted)):
        reason = block.check(value)
        if reason is not None:
            raise FlawError(f"its prediction is refused: {reason}", fix="return what the target's activate returns")


def _said(kit: Kit, spec: BaselineSpec, data: DataLoaders) -> Tensor | dict[str, float]:
    """Return predictions of the held-out items, or metrics where predictions would not fit into memory."""
    baseline, rows = kit.load(spec)().fit(data), (data.valid or data.train).in_order()
    measured: dict[str, float] | None = baseline.measure(rows, Objective(data.plan))
    return baseline.predict(rows) if measured is None else measured


def _named(data: DataLoaders, measured: dict[str, float]) -> None:
    known = Objective(data.plan).higher_is_better
    wrong = [name for name, value in measured.items() if name not in known or not math.isfinite(value)]
    if wrong or not measured:
        raise FlawError(f"it measures {measured}", fix=f"return finite metrics, some of {', '.join(known)}")


def _repeats(kit: Kit, spec: BaselineSpec) -> None:
    data = _setting(kit, spec).data
    before = torch.get_rng_state()
    first, again = (_said(kit, spec, data) for _ in range(2))
    if not same(first, again):
        raise FlawError("fitted twice on the same data it predicts otherwise", fix="draw from a seed of its own")
    if not torch.equal(before, torch.get_rng_state()):
        raise FlawError("it moves torch's global generator", fix="draw from a generator of its own")


def _unfitted(kit: Kit, spec: BaselineSpec) -> None:
    data = _setting(kit, spec).data
    try:
        kit.load(spec)().predict(data.train.in_order())
    except UserError:
        return
    except Exception as error:
        problem = f"used before fit it raises {type(error).__name__}: {error}"
        raise FlawError(problem, fix="raise OptionError('… call fit(data) first')") from error
    raise FlawError("used before fit it predicts all the same", fix="raise OptionError('… call fit(data) first')")


def _beats(kit: Kit, spec: BaselineSpec) -> None:
    setting = _setting(kit, spec)
    data = setting.data
    if setting.example is None or data.valid is None:
        raise NothingToCheckError("in made-up data there is nothing to find")
    objective = Objective(data.plan)
    name, higher = next(iter(objective.higher_is_better.items()))
    nothing: Baseline = kit.host.baselines.get(data.plan.target.baseline_ids[0])()
    floor = evaluate_baseline(nothing, data, objective)[name]
    found = evaluate_baseline(kit.load(spec)(), data, objective)[name]
    if found < floor if higher else found > floor:
        problem = f"its {name} is {found:.4g}, and {nothing.name}'s {floor:.4g}"
        raise FlawError(problem, fix="make it at least as good, or the example something that can be learned")


CHECKS: Final = (
    Check(id="baseline-predicts", kind="baselines", reason="models are reported beside it", run=_predicts),
    Check(id="baseline-repeats", kind="baselines", reason="a bar that moves measures nothing", run=_repeats),
    Check(id="baseline-unfitted", kind="baselines", reason="an error is an answer", run=_unfitted),
    Check(id="baseline-beats", kind="baselines", reason="a bar below nothing flatters every model", run=_beats),
)
