"""What checks work on: a plugin's records, and blocks, transforms and data found in its tasks or made up."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from graftwork.block import Block, RegressionBlock, TargetBlock
from graftwork.datablock import DataLoaders
from graftwork.dataloader import ColumnLoader, ItemLoader
from graftwork.errors import GraftworkError
from graftwork.learner import Learner
from graftwork.plan import Plan, PlanStep
from graftwork.plugins import Host, PluginInfo, get_host
from graftwork.plugins.discovery import CORE
from graftwork.runtime import Runtime
from graftwork.spec import ModelSpec, Spec
from graftwork.task import JobOptions, Task
from graftwork.testing.examples import Examples, TaskExample
from graftwork.testing.verdict import FlawError, NothingToCheckError
from graftwork.transform import Transform

__all__ = ["NUM_MOCKS", "Kit", "Setting", "Tried"]

NUM_MOCKS = 24
CONVENTION = "give an example in EXAMPLES of the package's module `conformance` (graftwork.testing.Examples)"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Hold data to work on: of a task's example, or of made-up values, which nothing can be learned from."""

    data: DataLoaders
    example: TaskExample | None = None
    task: Task | None = None
    source: Path | None = None
    job: JobOptions | None = None

    @property
    def ready(self) -> tuple[Task, Path, JobOptions]:
        """The task's example, of data that have one."""
        assert self.task is not None
        assert self.source is not None
        assert self.job is not None
        return self.task, self.source, self.job

    @property
    def input_ids(self) -> list[str]:
        """The ids of the blocks a model sees, sorted."""
        return sorted(self.data.plan.fields[name].final.id for name in self.data.plan.inputs)

    @property
    def target_id(self) -> str:
        """The id of the target's block."""
        return self.data.plan.target.id


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """Hold a fitted transform and a block it is tried on."""

    transform: Transform
    before: Block
    params: Any = None
    """What it draws from a whole sample, where it reads that."""


@final
class Kit:
    """Hold a plugin that is being checked."""

    def __init__(self, name: str, *, host: Host | None = None, examples: Examples | None = None) -> None:
        """Find the plugin; raise UnknownName if it is not installed."""
        self.host = host or get_host()
        found = self.host.plugin(name)
        self.info: PluginInfo = next((info for info in found if info.rightful), found[0])
        self.name = self.info.name
        self._examples = examples
        self.seen: dict[str, dict[str, Any]] = {}
        self.folder = Path(tempfile.mkdtemp(prefix="graftwork-kit-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    # -- what the plugin says ----------------------------------------------------------------------------------------

    def spec(self, kind: str, full: str) -> Any:
        """Return a record."""
        return self.host.registries[kind].spec(full)

    def ids(self, kind: str) -> tuple[str, ...]:
        """Return the ids of the plugin's records of a kind; of models those that are to be built."""
        every = tuple(self.info.records.get(kind, ()))
        if kind == "models" and self.examples.sampled_models:
            return tuple(full for full in every if full in self.examples.models)
        return every

    def load(self, spec: Spec) -> Any:
        """Import what a record points to; raise NothingToCheckError if what it requires is not installed."""
        absent = [name for name in spec.requires if find_spec(name) is None]
        if absent:
            raise NothingToCheckError(f"it requires {', '.join(absent)}, which is not installed")
        kinds = {registry.spec_type: registry for registry in self.host.registries.values()}
        return kinds[type(spec)].get(spec.id)

    @cached_property
    def entry(self) -> Any:
        """The entry module, or what stands for it."""
        path, _, attribute = self.info.target.partition(":")
        return getattr(import_module(path.strip()), attribute.strip()) if attribute else import_module(path)

    @cached_property
    def package(self) -> str:
        """The package the entry module lies in."""
        return self.info.target.partition(":")[0].strip().rpartition(".")[0] or self.info.target

    @cached_property
    def examples(self) -> Examples:
        """What the plugin hands in: EXAMPLES of its package's module `conformance`."""
        if self._examples is not None:
            return self._examples
        name = "graftwork.testing.core_examples" if self.name == CORE else f"{self.package}.conformance"
        with suppress(ModuleNotFoundError):
            if find_spec(name) is not None:
                found: object = vars(import_module(name)).get("EXAMPLES")
                if not isinstance(found, Examples):
                    raise FlawError(f"{name} has no EXAMPLES", fix="EXAMPLES = graftwork.testing.Examples(…)")
                return found
        return Examples()

    @cached_property
    def dist(self) -> metadata.Distribution:
        """The distribution that brings the plugin."""
        if not self.info.dist:
            raise NothingToCheckError("the plugin is no installed distribution")
        return metadata.distribution(self.info.dist)

    # -- data --------------------------------------------------------------------------------------------------------

    @cached_property
    def settings(self) -> tuple[Setting, ...]:
        """The data of every task's example."""
        return tuple(self._setting(number, example) for number, example in enumerate(self.examples.tasks))

    def _setting(self, number: int, example: TaskExample) -> Setting:
        folder = self.folder / f"source-{number}"
        folder.mkdir()
        source = example.write(folder)
        kind = self.host.tasks.get(example.task)
        task = kind(kind.Options(**example.options))
        job = JobOptions(**{"epochs": 1, "device": "cpu", "workers": 0, "bs": 16, **example.job})
        return Setting(data=task.data(source, job), example=example, task=task, source=source, job=job)

    def of_task(self, full: str) -> list[Setting]:
        """Return the settings of one task."""
        found = [s for s in self.settings if s.example is not None and s.example.task == full]
        if not found:
            raise FlawError(f"there is no example of the task {full!r}", fix=CONVENTION)
        return found

    def setting(self, inputs: Sequence[str], outputs: Sequence[str], *, model: str = "") -> Setting:
        """Return data whose inputs and target are of these blocks: of an example of the model, of any, or made up."""
        own = [s for s in self.settings if model and s.ready[2].model == model]
        wanted = sorted(inputs)
        fitting = [s for s in self.settings if (not wanted or s.input_ids == wanted) and s.target_id in outputs]
        if own or fitting:
            return (own or fitting)[0]
        return self.made_up(inputs, outputs[0])

    def made_up(self, inputs: Sequence[str], output: str) -> Setting:
        """Make data of invented values; raise NothingToCheckError if a block cannot be had."""
        blocks = {f"x{i}": self.block(full) for i, full in enumerate(inputs)} or {"x": RegressionBlock(4)}
        names, rng = tuple(blocks), np.random.default_rng(0)
        whole = {**blocks, "y": self.block(output)}
        plan = Plan.compile(whole, inputs=names, targets=("y",), train=lambda _: iter(()))

        def columns() -> dict[str, torch.Tensor]:
            return {n: b.collate([b.mock(rng) for _ in range(NUM_MOCKS)]) for n, b in whole.items()}

        def loader(training: bool) -> ColumnLoader:
            return ColumnLoader(columns(), plan, bs=8, seed=1, shuffle=training, training=training)

        return Setting(data=DataLoaders(train=loader(True), valid=loader(False)))

    def learner(self, setting: Setting, spec: ModelSpec, *, seed: int = 42) -> Learner:
        """Build a model for the data: by the task, if its example is one of this model."""
        self.load(spec)
        if setting.example is not None and setting.ready[2].model == spec.id:
            task, _, job = setting.ready
            learn = task.learner(setting.data, replace(job, seed=seed))
            learn.display = None
            return learn
        config = dict(self.examples.models.get(spec.id, {}))
        runtime = Runtime(device="cpu")
        return Learner(setting.data, spec.id, model_config=config, runtime=runtime, seed=seed, progress=False)

    # -- parts -------------------------------------------------------------------------------------------------------

    def block(self, full: str) -> Block:
        """Return an example of a block; raise NothingToCheckError if there is none."""
        return self.blocks(full)[0]

    def blocks(self, full: str) -> list[Block]:
        """Return examples of a block: those handed in, those in the tasks' plans, else one made without arguments."""
        from graftwork.testing.core_examples import EXAMPLES as CORES

        given = [*self.examples.blocks.get(full, ()), *CORES.blocks.get(full, ())]
        found = list(dict.fromkeys([*given, *(block for block in self._harvest() if block.id == full)]))
        if not found:
            found = [self._default(full)]
        return found[:4]

    def _default(self, full: str) -> Block:
        try:
            block: Block = self.host.blocks.get(full)()
            block.mock(np.random.default_rng(0))
        except (TypeError, ValueError, IndexError, GraftworkError) as error:
            raise FlawError(f"the block {full!r} cannot be made without arguments: {error}", fix=CONVENTION) from error
        return block

    def _harvest(self) -> Iterator[Block]:
        for setting in self.settings:
            for field in setting.data.plan.fields.values():
                yield from (field.raw, field.item, field.final)
                yield from (step.before for step in (*field.item_steps, *field.batch_steps))

    def transforms(self, full: str) -> list[Tried]:
        """Return fitted transforms with blocks: those handed in, those in plans, else one made without arguments.

        Raises NothingToCheckError if what it requires is not installed.
        """
        self.load(self.host.transforms.spec(full))
        given = [self._fitted(transform, before) for transform, before in self.examples.transforms.get(full, ())]
        found = [
            Tried(transform=part.transform, before=part.before, params=_of_sample(setting.data, step))
            for setting in self.settings
            for step in (*setting.data.plan.item_steps, *setting.data.plan.batch_steps)
            for _, part in step.targets
            if part.transform.id == full
        ]
        return ([*given, *found] or [self._default_transform(full)])[:4]

    def _default_transform(self, full: str) -> Tried:
        spec = self.host.transforms.spec(full)
        try:
            transform = self.host.transforms.get(full)()
        except (TypeError, ValueError, GraftworkError) as error:
            raise FlawError(f"{full!r} cannot be made without arguments: {error}", fix=CONVENTION) from error
        for before in [block for name in spec.accepts for block in self.blocks(name)]:
            if transform.accepts(before):
                return self._fitted(transform, before)
        raise FlawError(f"{full!r} accepts none of the blocks its record names, {spec.accepts}", fix=CONVENTION)

    def _fitted(self, transform: Transform, before: Block) -> Tried:
        if transform.needs_fit:
            values = mocks(before)
            transform = transform.fit([before.collate(values)] if transform.stage == "batch" else values, before)
        return Tried(transform=transform, before=before)

    def raw(self, block: TargetBlock, targets: torch.Tensor) -> torch.Tensor:
        """Return what a model that knows nothing gives for targets: raw outputs drawn at random."""
        shape = self.examples.raw_shapes.get(block.id)
        size = (len(targets), block.num_outputs) if shape is None else shape(block, targets)
        return torch.randn(size, generator=torch.Generator().manual_seed(7))

    def target(self, full: str) -> TargetBlock:
        """Return an example of a target's block."""
        block = self.block(full)
        if not isinstance(block, TargetBlock):
            raise FlawError(f"{full!r} is no TargetBlock, so nothing can be measured on it", fix="name target blocks")
        return block


def _of_sample(data: DataLoaders, step: PlanStep) -> Any:
    """Return what a step that reads the sample makes of the first one, as that is before the step."""
    plan = data.train.plan
    if step.draw is None or not step.always or step not in plan.item_steps or not isinstance(data.train, ItemLoader):
        return None
    values = data.train.source.raw(0)
    before = plan.item_steps[: plan.item_steps.index(step)]
    blocks = {name: field.raw for name, field in plan.fields.items()}
    return step.draw(None, Plan(blocks, inputs=(), targets=(), item_steps=before, batch_steps=()).encode(values))


def mocks(block: Block, count: int = NUM_MOCKS, *, seed: int = 0) -> list[Any]:
    """Invent values of a block."""
    rng = np.random.default_rng(seed)
    return [block.mock(rng) for _ in range(count)]
