"""A plan is every transform of a data set, bound to its fields: the way from the source to the model, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeAlias

import numpy as np
import torch
from torch import Tensor

from graftwork.block import Block, Configurable, TargetBlock
from graftwork.errors import GraftworkError, ItemError, PlanError
from graftwork.markup import Lane, Station, drawing, parts
from graftwork.page import Page
from graftwork.transform import Bound, Fused, On, Stage, Transform, brief

__all__ = ["FieldPlan", "FieldStep", "Plan", "PlanStep"]

Draw: TypeAlias = Callable[[Any, Mapping[str, Any]], Any]

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
    """Be one transform bound to the fields it applies to.

    `draw` is None unless the transform is random or reads the sample.
    """

    name: str
    draw: Draw | None
    targets: tuple[tuple[str, FieldStep], ...]

    @property
    def random(self) -> bool:
        """Whether it does something else each time, in training."""
        return self.targets[0][1].transform.random

    @property
    def always(self) -> bool:
        """Whether `draw` is called outside training too."""
        return self.targets[0][1].transform.reads_sample


@dataclass(frozen=True, slots=True)
class FieldRun:
    """Be a run of a field's steps that are done at once: their places in the plan, and the function."""

    field: str
    places: tuple[int, ...]
    steps: tuple[FieldStep, ...]
    fused: Fused

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as steps, as they do."""
        return field_run, (self.field, self.places, self.steps)

    def encode(self, column: Any, drawn: Sequence[Any]) -> Any:
        """Do the steps, each with what it drew."""
        return self.fused.encode(column, [drawn[place] for place in self.places])


def field_run(field: str, places: Sequence[int], steps: Sequence[FieldStep]) -> FieldRun:
    """Take as many of a field's remaining steps together as the first of them can; one, if it can none."""
    first = steps[0]
    fused = first.transform.fused(first.before, [step.transform for step in steps[1:]])
    if fused is None:
        fused = Fused(1, lambda column, params: first.bound.encode(column, params[0]))
    return FieldRun(field, tuple(places[: fused.count]), tuple(steps[: fused.count]), fused)


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
        self.random_items = any(step.random for step in self.item_steps)
        self._item_work, self._batch_work = self._work("item"), self._work("batch")

    def _field(self, name: str, raw: Block) -> FieldPlan:
        item = tuple(s for step in self.item_steps for field, s in step.targets if field == name)
        batch = tuple(s for step in self.batch_steps for field, s in step.targets if field == name)
        item_block = item[-1].after if item else raw
        final = batch[-1].after if batch else item_block
        return FieldPlan(raw, item_block, final, item, batch)

    def _work(self, stage: Stage) -> list[tuple[Draw | None, bool, tuple[FieldRun, ...]]]:
        """Say for each step how it draws, whether always, and which runs end there: all of their steps have drawn."""
        steps = self.item_steps if stage == "item" else self.batch_steps
        runs = [run for name in self.fields for run in self._runs(name, steps, stage)]
        ending = [tuple(run for run in runs if run.places[-1] == at) for at in range(len(steps))]
        return [(step.draw, step.always, ends) for step, ends in zip(steps, ending, strict=True)]

    def _runs(self, name: str, plan_steps: Sequence[PlanStep], stage: Stage) -> Iterator[FieldRun]:
        places = [at for at, step in enumerate(plan_steps) if any(field == name for field, _ in step.targets)]
        steps = self.fields[name].item_steps if stage == "item" else self.fields[name].batch_steps
        while steps:
            # A step that reads the sample must find the fields as they are before it.
            ends = [at for at, step in enumerate(plan_steps) if step.always and stage == "item" and at > places[0]]
            within = sum(at < min(ends, default=len(plan_steps)) for at in places)
            run = field_run(name, places[:within], steps[:within])
            yield run
            places, steps = places[run.fused.count :], steps[run.fused.count :]

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

        Steps that a transform has `fused` are done at once.

        Raises:
            ItemError: a step failed; the message names the field and the step.
        """
        values, drawn = dict(sample), list[Any]()
        for draw, always, runs in self._item_work:
            drawn.append(draw(rng, values) if draw is not None and (rng is not None or always) else None)
            for run in runs:
                if run.field in values:
                    values[run.field] = self._encoded(run, values[run.field], drawn)
        return values

    def _encoded(self, run: FieldRun, value: Any, drawn: Sequence[Any]) -> Any:
        """Do a run of item steps at once, or one by one if it cannot do this value."""
        first, last = run.places[0], run.places[-1]
        if first == last:
            return _encoded(run.field, self.item_steps[first], run.steps[0], value, drawn[first])
        try:
            done = run.encode(value, drawn)
        except Exception as error:
            names = f"{self.item_steps[first].name} to {self.item_steps[last].name}"
            raise _step_error(run.field, names, value, error) from error
        if done is not NotImplemented:
            return done
        for place, part in zip(run.places, run.steps, strict=True):
            value = _encoded(run.field, self.item_steps[place], part, value, drawn[place])
        return value

    def trace(self, sample: Mapping[str, Any]) -> Iterator[tuple[str, FieldStep, Any]]:
        """Run the item steps on one sample and give (field, step, value after it) on the way."""
        values = dict(sample)
        for step in self.item_steps:
            params = step.draw(None, values) if step.draw is not None and step.always else None
            for name, part in step.targets:
                values[name] = _encoded(name, step, part, values[name], params)
                yield name, part, values[name]

    def encode_batch(self, fields: dict[str, Tensor], generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Run the batch steps on collated fields, in training with a generator on their device.

        Steps that a transform has `fused` are done at once.
        """
        drawn: list[Any] = []
        for draw, always, runs in self._batch_work:
            drawn.append(draw(generator, fields) if draw is not None and (generator is not None or always) else None)
            for run in runs:
                if run.field in fields:
                    fields[run.field] = run.encode(fields[run.field], drawn)
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
    def alone(self) -> bool:
        """Whether targets can be encoded without the inputs beside them."""
        return not any(step.always and name in self.targets for step in self.item_steps for name, _ in step.targets)

    @property
    def probes(self) -> dict[str, Any]:
        """What targets that lie somewhere in the inputs want to be encoded beside those of a prediction."""
        found = {name: self.fields[name].raw.probe() for name in self.targets}
        return {name: probe for name, probe in found.items() if probe is not None}

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

    def drawing(self) -> str:
        """Return an SVG picture of every field's way from the source to the model."""
        lanes = [_lane(self, name) for name in self.fields]
        return drawing(lanes, title="The plan: " + ", ".join(self.fields))

    def _repr_html_(self) -> str:
        """Show the picture in a notebook."""
        return self.drawing()

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
        steps = [(step.name, part) for step in self.item for field, part in step.targets if field == name]
        for value in self.train(name):
            encoded = value
            try:
                for step_name, part in steps:
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
        steps = [part for step in self.batch for field, part in step.targets if field == name]
        for value in self._items(name):
            chunk.append(value)
            if len(chunk) == FIT_CHUNK:
                yield _run(steps, block.collate(chunk))
                chunk = []
        if chunk:
            yield _run(steps, block.collate(chunk))


def _lane(plan: Plan, name: str) -> Lane:
    field = plan.fields[name]
    batches = [(field.item, "collate"), *((s.after, parts(s.transform)[0]) for s in field.batch_steps)]
    return Lane(
        title=f"{name} ({'input' if name in plan.inputs else 'target'})",
        items=(_station(field.raw, ""), *(_station(s.after, parts(s.transform)[0]) for s in field.item_steps)),
        batches=tuple(_station(block, arrow, collated=True) for block, arrow in batches),
    )


def _station(block: Block, arrow: str, *, collated: bool = False) -> Station:
    name, detail = parts(block)
    return Station(name=name, detail=detail, arrow=arrow, collated=collated)


def _run(steps: Sequence[FieldStep], value: Any) -> Any:
    for part in steps:
        value = part.bound.encode(value, None)
    return value


def _bind(tfms: Mapping[str, Transform], current: dict[str, Block]) -> PlanStep:
    targets = []
    for name, tfm in tfms.items():
        step = field_step(tfm, current[name])
        targets.append((name, step))
        current[name] = step.after
    first = next(iter(tfms.values()))
    draw = first.draw if first.random or first.reads_sample else None
    return PlanStep(brief(first), draw, tuple(targets))


def _encoded(name: str, step: PlanStep, part: FieldStep, value: Any, params: Any) -> Any:
    """Run one step on one field's value; raise ItemError naming both."""
    try:
        return part.bound.encode(value, params)
    except Exception as error:
        raise _step_error(name, step.name, value, error) from error


def _ref(part: Configurable) -> dict[str, Any]:
    return {"id": part.id, "config": part.to_config()}


def _step_error(field: str, step: str, value: Any, error: Exception) -> ItemError:
    reason = str(error) if isinstance(error, GraftworkError) else f"{type(error).__name__}: {error}"
    return ItemError(f"field {field!r}, step {step}, value {brief(value)}: {reason}")
