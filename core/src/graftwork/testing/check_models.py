"""Checks of models: they can be built, fed, trained, saved, and treat every row by itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from graftwork.batch import Batch
from graftwork.learner import Learner
from graftwork.seeds import derive_seed
from graftwork.spec import ModelSpec, several
from graftwork.testing.compare import is_finite, same
from graftwork.testing.kit import Kit, Setting
from graftwork.testing.verdict import Check, FlawError, NothingToCheckError

__all__ = ["CHECKS"]

ROWS_TOLERANCE: Final = 1e-3
STEPS: Final = 40


def _setting(kit: Kit, spec: ModelSpec) -> Setting:
    return kit.setting(spec.inputs, several(spec.output), model=spec.id)


def _learner(kit: Kit, spec: ModelSpec, *, seed: int = 42) -> Learner:
    return kit.learner(_setting(kit, spec), spec, seed=seed)


def _valid_batch(learn: Learner) -> Batch:
    loader = learn.data.valid or learn.data.train
    return learn.feed.ready(next(iter(loader.in_order())))


@torch.no_grad()
def _activated(learn: Learner, batch: Batch) -> dict[str, Tensor]:
    learn.module.eval()
    return learn.objective.activate(learn.feed.forward(batch))


def _rows(batch: Batch, rows: slice) -> Batch:
    fields = {name: column[rows].clone() for name, column in batch.fields.items()}
    return Batch(fields, batch.inputs, batch.targets, batch.index[rows])


def _forward(kit: Kit, spec: ModelSpec) -> None:
    learn = _learner(kit, spec)
    batch = _valid_batch(learn)
    for name, activated in _activated(learn, batch).items():
        block = learn.objective.blocks[name]
        wanted = block.activate(kit.raw(block, batch.fields[name])).shape
        if activated.shape != wanted or activated.isnan().any():
            found = f"{tuple(activated.shape)}, {tuple(wanted)} wanted"
            problem = f"its output for {batch.size} items, activated, is {found}, or it holds NaN"
            raise FlawError(problem, fix="return one row an item, ctx.num_outputs wide")
        for value in block.uncollate(block.predict(activated)):
            reason = block.check(value)
            if reason is not None:
                raise FlawError(f"its prediction is refused by {block!r}: {reason}", fix="return raw outputs")


def _independent(kit: Kit, spec: ModelSpec) -> None:
    learn = _learner(kit, spec)
    batch = _valid_batch(learn)
    whole = _activated(learn, batch)
    for row in range(min(3, batch.size)):
        alone = _activated(learn, _rows(batch, slice(row, row + 1)))
        for name, column in whole.items():
            if not same(alone[name][0], column[row], tolerance=ROWS_TOLERANCE):
                raise FlawError(
                    f"item {row} is predicted otherwise when it is alone in its batch",
                    fix="in evaluation let no row depend on others: batch statistics belong to training",
                )


def _seeded(kit: Kit, spec: ModelSpec) -> None:
    before = torch.get_rng_state()
    first, again = (_learner(kit, spec).module.state_dict() for _ in range(2))
    if not same(dict(first), dict(again)):
        raise FlawError(
            "built twice from one seed it begins with other weights", fix="draw from torch's generator only"
        )
    if not torch.equal(before, torch.get_rng_state()):
        raise FlawError("building it moves torch's global generator", fix="seed nothing in the builder")


def _state(kit: Kit, spec: ModelSpec) -> None:
    learn, other = _learner(kit, spec), _learner(kit, spec, seed=43)
    batch = _valid_batch(learn)
    other.module.load_state_dict(learn.module.state_dict())
    left, right = _activated(learn, batch), _activated(other, batch)
    if not same(left, right):
        raise FlawError("with the same state it predicts otherwise", fix="keep what it needs in parameters and buffers")


def _trained(learn: Learner, batch: Batch) -> Tensor:
    learn.module.train()
    return learn.objective.training(learn.feed.forward(batch), batch.fields, batch.weight)


def _train_batch(learn: Learner) -> Batch:
    return learn.feed.ready(next(learn.data.train.at(0)), 0, 0)


def _has_gradient(learn: Learner) -> list[tuple[str, torch.nn.Parameter]]:
    engine = learn.parts.engine
    named = [(name, p) for name, p in learn.module.named_parameters() if p.requires_grad]
    if not named or (engine is not None and engine.required):
        raise NothingToCheckError("nothing of it is trained by gradients")
    return named


def _gradient(kit: Kit, spec: ModelSpec) -> None:
    learn = _learner(kit, spec)
    named = _has_gradient(learn)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _trained(learn, _train_batch(learn)).backward()
    without = [name for name, parameter in named if parameter.grad is None]
    if without:
        raise FlawError(f"no gradient reaches {', '.join(without[:3])}", fix="use it in forward, or make it a buffer")
    broken = [name for name, p in named if p.grad is not None and not is_finite(p.grad.to_dense())]
    if broken:
        raise FlawError(f"the gradient of {broken[0]} is not finite", fix="look for a division or a root of 0")


def _learns(kit: Kit, spec: ModelSpec) -> None:
    learn = _learner(kit, spec)
    named = _has_gradient(learn)
    optimizer = torch.optim.Adam([p for _, p in named], lr=0.01)
    losses = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(0, spec.id) % 2**31)
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = _trained(learn, _train_batch(learn))
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
            if losses[-1] < losses[0] / 2 and len(losses) > 3:
                return
    first, last = sum(losses[:3]) / 3, sum(losses[-3:]) / 3
    if not math.isfinite(last) or last >= first:
        problem = f"the loss goes from {first:.4g} to {last:.4g} in {STEPS} steps on one batch"
        raise FlawError(problem, fix="let the output follow from parameters by differentiable steps")


def _fits(kit: Kit, spec: ModelSpec) -> None:
    learn = _learner(kit, spec)
    learn.fit(1)
    bad = [name for name, value in learn.history[-1].items() if name.endswith("loss") and not math.isfinite(value)]
    if bad:
        raise FlawError(f"after an epoch {bad[0]} is no number", fix="look for a division or a root of 0")


def _groups(kit: Kit, spec: ModelSpec) -> None:
    learn = _learner(kit, spec)
    if not learn.groups:
        raise NothingToCheckError("it has no parameters")
    counted = sum(len(parameters) for parameters in learn.groups.values())
    every = len(list(learn.module.parameters()))
    if counted != every:
        raise FlawError(f"its groups hold {counted} of {every} parameters", fix="put each into one group")


def _artifact(kit: Kit, spec: ModelSpec) -> None:
    from graftwork.artifact import load_learner

    learn = _learner(kit, spec)
    learn.fit(1)
    path = learn.export(kit.folder / f"{spec.id.replace('/', '-')}.graft")
    again = load_learner(path, device="cpu")
    batch = _valid_batch(learn)
    left = _activated(learn, batch)
    with torch.no_grad():
        again.module.eval()
        raw: Any = again.module(*(batch.fields[name] for name in batch.inputs))
    right = learn.objective.activate(raw)
    if not same(left, right, tolerance=1e-6):
        raise FlawError("read back from its artifact it predicts otherwise", fix="keep what it needs in its state")


def _check(id: str, reason: str, run: Callable[[Kit, ModelSpec], None]) -> Check:  # noqa: A002 - what it is
    return Check(id=id, kind="models", reason=reason, run=run)


CHECKS: Final = (
    _check("model-forward", "loss and metrics read its output", _forward),
    _check("model-independent", "a prediction must not depend on what else is in the batch", _independent),
    _check("model-seeded", "a run can be repeated to the same bits", _seeded),
    _check("model-state", "a checkpoint holds the state and nothing else", _state),
    _check("model-groups", "freezing and discriminative rates go by groups", _groups),
    _check("model-gradient", "a parameter no gradient reaches is never trained", _gradient),
    _check("model-learns", "what cannot fit one batch can fit nothing", _learns),
    _check("model-fits", "it is trained by the learner's own verbs", _fits),
    _check("model-artifact", "what is exported is what was trained", _artifact),
)
