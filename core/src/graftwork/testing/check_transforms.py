"""Checks of transforms: static blocks, exact inverses, inputs left alone, nothing random but what is drawn."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from graftwork.block import Block
from graftwork.errors import UserError
from graftwork.spec import TransformSpec
from graftwork.testing.compare import same
from graftwork.testing.kit import Kit, Tried, mocks
from graftwork.testing.verdict import Check, FlawError, NothingToCheckError
from graftwork.transform import Bound, Transform

__all__ = ["CHECKS"]

INVERSE = 1e-4


def _values(tried: Tried, count: int = 6) -> list[Any]:
    """Invent what the transform gets: values, or one collated batch of them.

    One that refuses values it was not fitted on gets some that it was: what invented codes decode to.
    """
    values = mocks(tried.before, count, seed=1)
    if tried.transform.stage == "batch":
        return [tried.before.collate(values)]
    bound = tried.transform.bind(tried.before)
    try:
        for value in values:
            bound.encode(deepcopy(value), tried.params)
    except UserError:
        return _known(tried, count) or values
    return values


def _known(tried: Tried, count: int = 6) -> list[Any]:
    """Decode invented values of the block that comes out, where there is a way back."""
    decode = tried.transform.bind(tried.before).decode
    if decode is None or tried.transform.stage == "batch":
        return []
    decoded = [decode(code) for code in mocks(tried.transform.out_block(tried.before), count, seed=2)]
    return [value for value in decoded if value is not None and tried.before.check(value) is None]


def _static(kit: Kit, spec: TransformSpec) -> None:
    for tried in kit.transforms(spec.id):
        if not tried.transform.accepts(tried.before):
            raise FlawError(f"{tried.transform!r} does not accept {tried.before!r}", fix="say so in accepts")
        after = tried.transform.out_block(tried.before)
        if not isinstance(after, Block) or after != tried.transform.out_block(tried.before):
            raise FlawError(f"out_block gives {after!r}, then something else", fix="derive it from the block alone")


def _record(kit: Kit, spec: TransformSpec) -> None:
    for tried in kit.transforms(spec.id):
        transform, after = tried.transform, tried.transform.out_block(tried.before)
        decodes = transform.bind(tried.before).decode is not None
        facts = {
            "stage": (spec.stage, transform.stage),
            "random": (spec.random, transform.random),
            "invertible": (spec.invertible, decodes),
            "accepts": (tried.before.id in spec.accepts, True),
        }
        for name, (said, found) in facts.items():
            if said != found:
                raise FlawError(f"the record's {name} does not fit what {transform!r} does", fix=f"correct {name}=")
        if len(spec.accepts) == 1 and after.id != spec.gives and tried.before.id != after.id:
            raise FlawError(f"it gives {after.id!r}, and its record says {spec.gives!r}", fix=f'gives="{after.id}"')


def _encode(kit: Kit, spec: TransformSpec) -> None:
    for tried in kit.transforms(spec.id):
        transform, after = tried.transform, tried.transform.out_block(tried.before)
        bound = transform.bind(tried.before)
        for params in _params(transform, tried):
            for value in _values(tried):
                for encoded in _single(transform, after, bound.encode(deepcopy(value), params)):
                    reason = after.check(encoded)
                    if reason is not None:
                        fix = "let out_block say what encode gives"
                        raise FlawError(f"{transform!r} gives what {after!r} refuses: {reason}", fix=fix)


def _params(transform: Transform, tried: Tried) -> list[Any]:
    """Return None, or what it reads from a sample, and what a random transform draws."""
    return [tried.params, _drawn(transform, tried, seed=5)] if transform.random else [tried.params]


def _drawn(transform: Transform, tried: Tried, *, seed: int) -> Any:
    value = _values(tried)[0]
    rng = torch.Generator().manual_seed(seed) if transform.stage == "batch" else np.random.default_rng(seed)
    return transform.draw(rng, {"x": value})


def _single(transform: Transform, after: Block, encoded: Any) -> list[Any]:
    return after.uncollate(encoded) if transform.stage == "batch" else [encoded]


def _inverse(kit: Kit, spec: TransformSpec) -> None:
    for tried in kit.transforms(spec.id):
        bound = tried.transform.bind(tried.before)
        if bound.decode is None:
            raise NothingToCheckError("it has no inverse, and says so")
        for value in [*_values(tried), *_known(tried)]:
            code = bound.encode(deepcopy(value), tried.params)
            back = bound.decode(deepcopy(code))
            # A value without a slot of its own comes back as None, or as another that has the same code.
            if _undone(back, value) or _same_code(bound, back, code):
                continue
            raise FlawError(
                f"decode does not undo encode of {tried.transform!r}: {_brief(value)} comes back as {_brief(back)}",
                fix="make decode the exact inverse, or leave it out",
            )


def _undone(back: Any, value: Any) -> bool:
    """Compare, part by part; None stands for what training did not know."""
    if isinstance(back, Mapping) and isinstance(value, Mapping):
        return back.keys() == value.keys() and all(_undone(back[key], value[key]) for key in back)
    if isinstance(back, list) and isinstance(value, list | tuple) and any(part is None for part in back):
        return len(back) == len(value) and all(map(_undone, back, value))
    return back is None or same(back, value, tolerance=INVERSE)


def _same_code(bound: Bound, back: Any, code: Any) -> bool:
    """Say whether decoding lost nothing that encoding had kept; only codes are that coarse, numbers are not."""
    if isinstance(code, Tensor | np.ndarray) and np.asarray(code).dtype.kind == "f":
        return False
    try:
        return same(bound.encode(deepcopy(back), None), code)
    except UserError:
        return False


def _brief(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) < 80 else text[:79] + "…"


def _untouched(kit: Kit, spec: TransformSpec) -> None:
    for tried in kit.transforms(spec.id):
        bound = tried.transform.bind(tried.before)
        for params in _params(tried.transform, tried):
            for value in _values(tried):
                kept = deepcopy(value)
                bound.encode(value, params)
                if not same(value, kept):
                    raise FlawError(f"encode of {tried.transform!r} changes its input", fix="work on a copy")


def _deterministic(kit: Kit, spec: TransformSpec) -> None:
    for tried in kit.transforms(spec.id):
        bound = tried.transform.bind(tried.before)
        plain = [tried.params, tried.params]
        drawn = [_drawn(tried.transform, tried, seed=5) for _ in range(2)] if tried.transform.random else plain
        for pair in (plain, drawn):
            for value in _values(tried):
                first, again = (bound.encode(deepcopy(value), params) for params in pair)
                if not same(first, again):
                    when = "outside training" if pair is plain else "with the same generator"
                    raise FlawError(f"encode of {tried.transform!r} differs {when}", fix="draw from rng, in draw alone")


def _json(kit: Kit, spec: TransformSpec) -> None:
    for tried in kit.transforms(spec.id):
        again = type(tried.transform).from_config(json.loads(json.dumps(tried.transform.to_config())))
        if again.to_config() != tried.transform.to_config():
            raise FlawError(
                f"{tried.transform!r} comes back from JSON as {again!r}", fix="keep all it learned in fields"
            )
        left, right = tried.transform.bind(tried.before), again.bind(tried.before)
        for value in _values(tried):
            if not same(left.encode(deepcopy(value), tried.params), right.encode(deepcopy(value), tried.params)):
                raise FlawError("it encodes differently after JSON", fix="keep all it learned in fields")


def _check(id: str, reason: str, run: Callable[[Kit, TransformSpec], None]) -> Check:  # noqa: A002 - what it is
    return Check(id=id, kind="transforms", reason=reason, run=run)


CHECKS: Final = (
    _check("transform-static", "a plan knows every block before any data is read", _static),
    _check("transform-record", "search and lists go by the record", _record),
    _check("transform-encode", "the next step trusts the block it is told", _encode),
    _check("transform-inverse", "predictions are shown in the target's own terms", _inverse),
    _check("transform-untouched", "caches and shown samples hold the same value", _untouched),
    _check("transform-deterministic", "a run can be repeated and resumed to the same bits", _deterministic),
    _check("transform-json", "an artifact holds fitted transforms as JSON", _json),
)
