"""A plan is every transform of a data set, bound to its fields: the way from the source to the model, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from graftwork.block import Block, Configurable, TargetBlock
from graftwork.errors import GraftworkError, ItemError, PlanError
from graftwork.page import Page
from graftwork.transform import Bound, On, Stage, Transform, brief

__all__ = ["FieldPlan", "FieldStep", "Plan", "PlanStep"]

FIT_CHUNK = 64


@dataclass(frozen=True, slots=True)
class FieldStep:
    """Be one transform bound to one field, with the blocks before and after it."""

    transform: Transform
    bound: Bound
    before: Block
    after: Block

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to worker processes as the transform and its block: bound functions are closures and cannot."""
        return field_step, (self.transform, self.before)


def field_step(transform: Transform, before: Block) -> FieldStep:
    """Bind a fitted transform to a block."""
    return FieldStep(transform, transform.bind(before), before, transform.out_block(before))


@dataclass(frozen=True, slots=True)
class FieldPlan:
    """Hold one field's blocks: as the source gives it, as it is collated, and as the model or the loss sees it."""

    raw: Block
    item: Block
    final: Block
    item_steps: tuple[FieldStep, ...]
    batch_steps: tuple[FieldStep, ...]


@dataclass(frozen=True, slots=True)
class PlanStep:
    """Be one transform bound to the fields it applies to. `draw` is None unless the transform is random."""

    name: str
    draw: Callable[[Any, Mapping[str, Any]], Any] | None
    targets: tuple[tuple[str, FieldStep], ...]


class Plan:
    """Hold the bound steps of every field, from source to model and back."""

    def __init__(
        self,
        blocks: Mapping[str, Block],
        *,
        inputs: Sequence[str],
        targets: Sequence[str],
        item_steps: Sequence[PlanStep],
        batch_steps: Sequence[PlanStep],
    ) -> None:
        """Put compiled steps together; use `compile` or `from_config`."""
        self.inputs, self.targets = tuple(inputs), tuple(targets)
        self.item_steps, self.batch_steps = tuple(item_steps), tuple(batch_steps)
        self.fields = {name: self._field(name, block) for name, block in blocks.items()}
        self.random_items = any(step.draw for step in self.item_steps)

    def _field(self, name: str, raw: Block) -> FieldPlan:
        item = tuple(s for step in self.item_steps for field, s in step.targets if field == name)
        batch = tuple(s for step in self.batch_steps for field, s in step.targets if field == name)
        item_block = item[-1].after if item else raw
        final = batch[-1].after if batch else item_block
        return FieldPlan(raw, item_block, final, item, batch)

    @classmethod
    def compile(
        cls,
        blocks: Mapping[str, Block],
        *,
        inputs: Sequence[str],
        targets: Sequence[str],
        item_tfms: Sequence[Transform | On] = (),
        batch_tfms: Sequence[Transform | On] = (),
        train: Callable[[str], Iterable[Any]],
        skip: Callable[[Exception], None] | None = None,
    ) -> Self:
        """Bind the transforms to the fields, fitting on the training split what needs it.

        `train(field)` iterates a field's raw values over the training split; it is read only if a transform must be
        fitted. `skip` is told of values that cannot be encoded while fitting; without it the first one raises.

        Raises:
            PlanError: a transform fits none of the fields, or is of the wrong stage.
        """
        compiler = _Compiler(dict(blocks), train, skip)
        compiler.add_own("opening")
        compiler.add_given(item_tfms, "item")
        compiler.add_own("closing")
        compiler.stage = "batch"
        compiler.add_own("batch")
        compiler.add_given(batch_tfms, "batch")
        return cls(blocks, inputs=inputs, targets=targets, item_steps=compiler.item, batch_steps=compiler.batch)

    def encode(self, sample: Mapping[str, Any], rng: np.random.Generator | None = None) -> dict[str, Any]:
        """Run the item steps on one sample, or on some of its fields; with `rng`, random steps draw from it.

        Raises:
            ItemError: a step failed; the message names the field and the step.
        """
        values = dict(sample)
        for step in self.item_steps:
            params = step.draw(rng, values) if step.draw is not None and rng is not None else None
            for name, part in step.targets:
                if name in values:
                    try:
                        values[name] = part.bound.encode(values[name], params)
                    except Exception as error:
                        raise _step_error(name, step.name, values[name], error) from error
        return values

    def trace(self, sample: Mapping[str, Any]) -> Iterator[tuple[str, FieldStep, Any]]:
        """Run the item steps on one sample and give (field, step, value after it) on the way."""
        values = dict(sample)
        for step in self.item_steps:
            for name, part in step.targets:
                single = Plan({name: part.before}, inputs=(), targets=(), item_steps=(step,), batch_steps=())
                values[name] = single.encode({name: values[name]})[name]
                yield name, part, values[name]

    def encode_batch(self, fields: dict[str, Tensor], generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Run the batch steps on collated fields, in training with a generator on their device."""
        for step in self.batch_steps:
            params = step.draw(generator, fields) if step.draw is not None and generator is not None else None
            for name, part in step.targets:
                if name in fields:
                    fields[name] = part.bound.encode(fields[name], params)
        return fields

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Stack encoded samples field by field."""
        return {name: self.fields[name].item.collate([s[name] for s in samples]) for name in samples[0]}

    def decode(self, name: str, value: Any) -> tuple[Any, Block]:
        """Go back from an encoded item's value as far as steps are invertible; return the value and its block."""
        block = self.fields[name].item
        for step in reversed(self.fields[name].item_steps):
            if step.bound.decode is None:
                return value, block
            value, block = step.bound.decode(value), step.before
        return value, block

    def decode_batch(self, name: str, column: Tensor) -> tuple[list[Any], Block]:
        """Go back from a column as the model or the loss sees it; return one value per item, and their block."""
        block = self.fields[name].final
        for step in reversed(self.fields[name].batch_steps):
            if step.bound.decode is None:
                return block.uncollate(column), block
            column, block = step.bound.decode(column), step.before
        decoded = [self.decode(name, value) for value in block.uncollate(column)]
        return [value for value, _ in decoded], decoded[0][1] if decoded else self.fields[name].raw

    @property
    def target(self) -> TargetBlock:
        """The only target's encoded block; raise PlanError if there are several, or none."""
        if len(self.targets) != 1:
            raise PlanError(f"this data has {len(self.targets)} targets {self.targets}; say which one")
        return self.target_block(self.targets[0])

    def target_block(self, name: str) -> TargetBlock:
        """Return a target field's encoded block; raise PlanError if nothing can be learned from it."""
        block = self.fields[name].final
        if not isinstance(block, TargetBlock):
            raise PlanError(
                f"field {name!r} is a target, but its block {block!r} is not one a model can predict (a TargetBlock)"
            )
        return block

    def explain(self) -> Page:
        """Return a table with the block of every field after every step."""
        rows: list[tuple[str, str, str]] = []
        for name, plan in self.fields.items():
            role = "input" if name in self.inputs else "target"
            rows.append((f"{name} ({role})", "source", brief(plan.raw)))
            for stage, steps in (("item", plan.item_steps), ("batch", plan.batch_steps)):
                rows += [("", f"{stage}: {brief(s.transform, 60)}", brief(s.after)) for s in steps]
                if stage == "item":
                    rows.append(("", "collate", "one tensor per batch"))
        widths = [max(len(row[i]) for row in rows) for i in range(2)]
        return Page("\n".join(f"{a:<{widths[0]}}  {b:<{widths[1]}}  → {c}" for a, b, c in rows))

    def to_config(self) -> dict[str, Any]:
        """Return registry ids and JSON configs of everything."""
        return {
            "fields": {name: _ref(plan.raw) for name, plan in self.fields.items()},
            "inputs": list(self.inputs),
            "targets": list(self.targets),
            "item": [{name: _ref(part.transform) for name, part in step.targets} for step in self.item_steps],
            "batch": [{name: _ref(part.transform) for name, part in step.targets} for step in self.batch_steps],
        }

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        *,
        block: Callable[[str], type[Block]],
        transform: Callable[[str], type[Transform]],
    ) -> Self:
        """Build a fitted plan from `to_config`'s mapping; `block` and `transform` look ids up in the registry."""
        blocks = {name: block(ref["id"]).from_config(ref["config"]) for name, ref in config["fields"].items()}
        current = dict(blocks)
        steps: dict[str, list[PlanStep]] = {"item": [], "batch": []}
        for stage, made in steps.items():
            for refs in config[stage]:
                tfms = {name: transform(ref["id"]).from_config(ref["config"]) for name, ref in refs.items()}
                made.append(_bind(tfms, current))
        return cls(
            blocks,
            inputs=config["inputs"],
            targets=config["targets"],
            item_steps=steps["item"],
            batch_steps=steps["batch"],
        )


class _Compiler:
    """Build a plan step by step; `current` holds each field's block so far."""

    def __init__(
        self,
        blocks: dict[str, Block],
        train: Callable[[str], Iterable[Any]],
        skip: Callable[[Exception], None] | None,
    ) -> None:
        self.current = blocks
        self.train, self.skip = train, skip
        self.item: list[PlanStep] = []
        self.batch: list[PlanStep] = []
        self.item_blocks: dict[str, Block] = {}
        self.stage: Stage = "item"

    def add_own(self, part: Literal["opening", "closing", "batch"]) -> None:
        """Add the steps the fields' own blocks ask for; two fields that ask for the same one share it."""
        if part == "batch":
            self.item_blocks = dict(self.current)
        wanted: dict[Transform, list[str]] = {}
        for name, block in self.current.items():
            own = block.steps()
            for tfm in {"opening": own.opening, "closing": own.closing, "batch": own.batch}[part]:
                wanted.setdefault(tfm, []).append(name)
        for tfm, names in wanted.items():
            self._add(tfm, names)

    def add_given(self, tfms: Sequence[Transform | On], stage: Stage) -> None:
        """Add the user's transforms, each to every field it accepts or only to the fields it names."""
        for given in tfms:
            tfm = given.transform if isinstance(given, On) else given
            if not isinstance(tfm, Transform):
                raise PlanError(f"{tfm!r} among the {stage} transforms is no Transform (subclass it)")
            if tfm.stage != stage:
                raise PlanError(
                    f"{tfm!r} is of the {tfm.stage} stage; pass it in {tfm.stage}_tfms=, not in {stage}_tfms="
                )
            names = (
                self._names(given) if isinstance(given, On) else [n for n, b in self.current.items() if tfm.accepts(b)]
            )
            if not names:
                blocks = ", ".join(f"{n}: {brief(b)}" for n, b in self.current.items())
                raise PlanError(f"{brief(tfm)} fits none of the fields ({blocks})")
            self._add(tfm, names)

    def _names(self, given: On) -> list[str]:
        for name in given.names:
            if name not in self.current:
                raise PlanError(
                    f"{brief(given.transform)} is meant for {name!r}; the fields are {', '.join(self.current)}"
                )
        return list(given.names)

    def _add(self, tfm: Transform, names: Sequence[str]) -> None:
        fitted = {name: self._fitted(tfm, name) for name in names}
        steps = self.item if self.stage == "item" else self.batch
        steps.append(_bind(fitted, self.current))

    def _fitted(self, tfm: Transform, name: str) -> Transform:
        block = self.current[name]
        if not tfm.accepts(block):
            raise PlanError(f"{brief(tfm)} does not work on {brief(block)} (field {name!r})")
        if not tfm.needs_fit:
            return tfm
        values = self._items(name) if self.stage == "item" else self._batches(name)
        return tfm.fit(values, block)

    def _items(self, name: str) -> Iterator[Any]:
        """Iterate the training values of a field as they are after the item steps so far."""
        parts = [(step.name, part) for step in self.item for field, part in step.targets if field == name]
        for value in self.train(name):
            encoded = value
            try:
                for step_name, part in parts:
                    try:
                        encoded = part.bound.encode(encoded, None)
                    except Exception as error:
                        raise _step_error(name, step_name, value, error) from error
            except ItemError as error:
                if self.skip is None:
                    raise
                self.skip(error)
                continue
            yield encoded

    def _batches(self, name: str) -> Iterator[Tensor]:
        block, chunk = self.item_blocks[name], []
        parts = [part for step in self.batch for field, part in step.targets if field == name]
        for value in self._items(name):
            chunk.append(value)
            if len(chunk) == FIT_CHUNK:
                yield _run(parts, block.collate(chunk))
                chunk = []
        if chunk:
            yield _run(parts, block.collate(chunk))


def _run(parts: Sequence[FieldStep], value: Any) -> Any:
    for part in parts:
        value = part.bound.encode(value, None)
    return value


def _bind(tfms: Mapping[str, Transform], current: dict[str, Block]) -> PlanStep:
    targets = []
    for name, tfm in tfms.items():
        step = field_step(tfm, current[name])
        targets.append((name, step))
        current[name] = step.after
    first = next(iter(tfms.values()))
    return PlanStep(brief(first), first.draw if first.random else None, tuple(targets))


def _ref(part: Configurable) -> dict[str, Any]:
    return {"id": part.id, "config": part.to_config()}


def _step_error(field: str, step: str, value: Any, error: Exception) -> ItemError:
    reason = str(error) if isinstance(error, GraftworkError) else f"{type(error).__name__}: {error}"
    return ItemError(f"field {field!r}, step {step}, value {brief(value)}: {reason}")
