"""The conformance kit, tested by defects: each one planted in a sound plugin is caught by the check meant for it."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from graftwork.api import (
    Baseline,
    BaselineSpec,
    Block,
    BlockError,
    BlockSpec,
    Bound,
    Callback,
    CallbackSpec,
    CategoryBlock,
    DataBlock,
    DataError,
    Learner,
    Loss,
    LossSpec,
    MeanMetric,
    MetricSpec,
    ModelParts,
    ModelSpec,
    Plugin,
    Runtime,
    StratifiedSplitter,
    Task,
    TaskSpec,
    Transform,
    TransformSpec,
    hookimpl,
    option,
)
from graftwork.baseline import Majority
from graftwork.plugins import Host
from graftwork.testing import Examples, TaskExample
from graftwork.testing.battery import CHECKS, cases, run
from graftwork.testing.compare import same
from graftwork.testing.kit import Kit
from graftwork.testing.verdict import Case, Outcome, judge

# -- a sound plugin --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair(Block):
    """Hold two numbers."""

    id: ClassVar[str] = "planted/pair"
    scale: float = 1.0

    def check(self, value: Any) -> str | None:
        fits = isinstance(value, list) and len(value) == 2 and all(isinstance(v, float) for v in value)
        return None if fits else f"two numbers are a list of floats, not {type(value).__name__}"

    def mock(self, rng: np.random.Generator) -> list[float]:
        return (self.scale * rng.normal(size=2)).tolist()

    def collate(self, values):
        return torch.tensor(values, dtype=torch.float64).float()

    def uncollate(self, column):
        return column.double().tolist()

    def show(self, value, ax):
        ax.set_title(str(value))


@dataclass(frozen=True)
class Shift(Transform):
    """Subtract the mean of training."""

    id: ClassVar[str] = "planted/shift"
    mean: float | None = None

    def accepts(self, block):
        return isinstance(block, Pair)

    @property
    def needs_fit(self):
        return self.mean is None

    def fit(self, values, block):
        return replace(self, mean=float(np.mean(list(values))))

    def out_block(self, block):
        return block

    def bind(self, block):
        return Bound(lambda v, _: [x - self.mean for x in v], lambda v: [x + self.mean for x in v])


@dataclass(frozen=True)
class Jitter(Transform):
    """Add a number drawn once per sample."""

    id: ClassVar[str] = "planted/jitter"
    random = True

    def accepts(self, block):
        return isinstance(block, Pair)

    def out_block(self, block):
        return block

    def draw(self, rng, sample):
        return float(rng.normal())

    def bind(self, block):
        return Bound(lambda v, by: v if by is None else [x + by for x in v])


class Net(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, outputs))

    def forward(self, x):
        return self.layers(x)


def net(ctx):
    return Net(ctx.num_outputs)


class Gap(Loss):
    """Squared distance of probabilities from the truth."""

    def per_item(self, raw, target):
        return (raw.float().softmax(1) - nn.functional.one_hot(target, raw.shape[1])).square().sum(1)

    def forward(self, raw, target):
        return self.per_item(raw, target).mean()


def _right(predicted, target):
    return predicted.argmax(1) == target


def hits():
    return MeanMetric(_right, name="hits")


class Prior(Baseline):
    """Say the most frequent class."""

    name = "prior"

    def __init__(self) -> None:
        self.inner = Majority()

    def fit(self, data):
        self.inner.fit(data)
        return self

    def predict(self, loader):
        return self.inner.predict(loader)


class Steps(Callback):
    """Count steps."""

    def __init__(self) -> None:
        self.count = 0

    def batch_end(self, state):
        self.count += state.phase == "train"

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    shift: bool = option(True, "Subtract the mean.")


class Quadrant(Task):
    """Tell on which side of the diagonal a point lies."""

    id: ClassVar[str] = "planted/side"
    Options: ClassVar[type] = Options

    def items(self, source):
        return json.loads(source.read_text(encoding="utf-8"))

    def data(self, source, job):
        recipe = DataBlock(
            blocks=(Pair, CategoryBlock),
            splitter=StratifiedSplitter(job.valid_pct, seed=job.seed),
            item_tfms=[Shift()] if self.options.shift else [],
        )
        return recipe.dataloaders(self.items(source), bs=job.bs, seed=job.seed, workers=0)

    def learner(self, data, job):
        return Learner(data, "planted/net", runtime=Runtime(device="cpu"), seed=job.seed, progress=False)

    def default_lr(self, learner):
        return 1e-2

    def test_loader(self, source, plan, job):
        data = self.data(source, job)
        return data.test_dl(self.items(source), with_labels=True)

    def inputs(self, arguments):
        return [(a, [float(part) for part in a.split(",")]) for a in arguments]


def write_points(folder: Path) -> Path:
    points = np.random.default_rng(0).normal(size=(60, 2)).tolist()
    items = [(point, "above" if point[1] > point[0] else "below") for point in points]
    (folder / "points.json").write_text(json.dumps(items), encoding="utf-8")
    return folder / "points.json"


SOUND = {
    "Pair": Pair,
    "Shift": Shift,
    "Jitter": Jitter,
    "net": net,
    "Gap": Gap,
    "hits": hits,
    "Prior": Prior,
    "Steps": Steps,
    "Quadrant": Quadrant,
}
PARTS = "planted_parts"
CLASSES = "core/class-index"
RECORDS: dict[str, Any] = {
    "pair": BlockSpec(id="planted/pair", target=f"{PARTS}:Pair", summary="Two numbers"),
    "shift": TransformSpec(
        id="planted/shift",
        target=f"{PARTS}:Shift",
        summary="Subtract the mean",
        accepts=("planted/pair",),
        gives="planted/pair",
        invertible=True,
    ),
    "jitter": TransformSpec(
        id="planted/jitter",
        target=f"{PARTS}:Jitter",
        summary="Add a random number",
        accepts=("planted/pair",),
        gives="planted/pair",
        random=True,
    ),
    "net": ModelSpec(
        id="planted/net", target=f"{PARTS}:net", summary="A small network", inputs=("planted/pair",), output=CLASSES
    ),
    "gap": LossSpec(id="planted/gap", target=f"{PARTS}:Gap", summary="Squared distance", blocks=(CLASSES,)),
    "hits": MetricSpec(
        id="planted/hits", target=f"{PARTS}:hits", summary="Share of hits", blocks=(CLASSES,), higher_is_better=True
    ),
    "prior": BaselineSpec(id="planted/prior", target=f"{PARTS}:Prior", summary="The usual class", blocks=(CLASSES,)),
    "steps": CallbackSpec(id="planted/steps", target=f"{PARTS}:Steps", summary="Count steps"),
    "side": TaskSpec(
        id="planted/side",
        target=f"{PARTS}:Quadrant",
        summary="Tell the side of a point",
        inputs=("planted/pair",),
        targets=("core/category",),
        defaults={"model": ("planted/net",), "loss": "core/cross_entropy", "baselines": ("core/majority",)},
    ),
}
KIND_OF = {
    BlockSpec: "blocks",
    TransformSpec: "transforms",
    ModelSpec: "models",
    LossSpec: "losses",
    MetricSpec: "metrics",
    BaselineSpec: "baselines",
    CallbackSpec: "callbacks",
    TaskSpec: "tasks",
}
EXAMPLES = Examples(tasks=(TaskExample(task="planted/side", write=write_points, inputs=lambda _: ["1,2", "2,1"]),))

Plant = Callable[..., Kit]


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Plant:
    """Put a host in place that has the core and the plugin, some of whose parts and records are replaced."""

    def make(
        parts: Mapping[str, Any] | None = None,
        records: Mapping[str, Any] | None = None,
        hooks: Mapping[str, Any] | None = None,
        examples: Examples = EXAMPLES,
    ) -> Kit:
        module = ModuleType(PARTS)
        vars(module).update({**SOUND, **(parts or {})})
        monkeypatch.setitem(sys.modules, PARTS, module)
        entry = ModuleType("planted_entry")
        vars(entry)["PLUGIN"] = Plugin(namespace="planted", summary="A plugin with one of everything")
        merged = {**RECORDS, **(records or {})}
        for kind in set(KIND_OF.values()):
            vars(entry)[f"graftwork_register_{kind}"] = _hook([r for r in merged.values() if KIND_OF[type(r)] == kind])
        vars(entry).update(hooks or {})
        monkeypatch.setitem(sys.modules, "planted_entry", entry)
        host = Host(find=lambda: (), env={})
        info = host.register(entry)
        assert info.state == "ok", info.reason
        monkeypatch.setattr("graftwork.plugins.host._HOST", host)
        return Kit("planted", host=host, examples=examples)

    return make


def _hook(records: list[Any]) -> Any:
    return hookimpl(lambda: list(records))


def outcomes(kit: Kit, check: str) -> list[Outcome]:
    found = [judge(case, kit, {}) for case in cases(kit) if case.check.id == check]
    assert found, f"no case of {check}"
    return found


IN_A_CHILD = {"import-light", "import-quick", "import-quiet", "import-neutral", "components-neutral", "neutral-run"}


def test_the_sound_plugin_passes_everything(plant: Plant):
    kit = plant()
    skipped = {"dist-entry", "dist-typed", "dist-requires", "dist-described"}
    for case in cases(kit):
        if case.check.id in IN_A_CHILD | {"task-help"}:
            continue
        outcome = judge(case, kit, {})
        assert not outcome.is_fault, str(outcome)
        if case.check.id in skipped:
            assert outcome.state == "skipped"


# -- defects ---------------------------------------------------------------------------------------------------------


def subclass(base: type, **changes: Any) -> type:
    return type(base.__name__, (base,), changes)


def noisy(v, _):
    return [x + random.random() for x in v]


def in_place(v, _):
    v[0] += 1.0
    return v


@dataclass(frozen=True)
class Forgetful(Shift):
    """Keep what was learned where JSON does not see it."""

    seen: list[float] = field(default_factory=list, compare=False)

    def to_config(self):
        return {"mean": None if self.mean is None else 0.5}


class Rowmixer(Net):
    def forward(self, x):
        return self.layers(x - x.mean(0))


class Unused(Net):
    def __init__(self, outputs: int) -> None:
        super().__init__(outputs)
        self.spare = nn.Linear(3, 3)


class Blocked(Net):
    def forward(self, x):
        return (self.layers(x).detach() + 0 * self.layers(x)) * 1.0


class Hidden(Net):
    def __init__(self, outputs: int) -> None:
        super().__init__(outputs)
        self.factor = [float(torch.rand(()) + 0.5)]

    def forward(self, x):
        return self.layers(x) * self.factor[0]


class Explosive(Net):
    def forward(self, x):
        return self.layers(x) / 0


class Unseeded(Net):
    def __init__(self, outputs: int) -> None:
        super().__init__(outputs)
        with torch.no_grad():
            self.layers[0].bias.copy_(torch.from_numpy(np.random.default_rng().normal(size=16)))


def grouped(ctx):
    module = Net(ctx.num_outputs)
    return ModelParts(module=module, groups={"head": [module.layers[2]]})


class Sum(Gap):
    def forward(self, raw, target):
        return self.per_item(raw, target).sum()


class PerBatch(Gap):
    def per_item(self, raw, target):
        return super().per_item(raw, target).mean(0, keepdim=True)

    def forward(self, raw, target):
        return Gap.per_item(self, raw, target).mean()


class Half(Gap):
    def per_item(self, raw, target):
        return (raw.softmax(1) - nn.functional.one_hot(target, raw.shape[1]).to(raw.dtype)).square().sum(1)


class Vector(Gap):
    def forward(self, raw, target):
        return self.per_item(raw, target)


class Cut(Gap):
    def forward(self, raw, target):
        return super().forward(raw.detach(), target) + 0 * raw.sum()


class MeanOfMeans(MeanMetric):
    def merge(self, other):
        if other._total is not None and self._total is not None:
            self._total = (self._total / self._count + other._total / other._count) / 2
            self._count = 1
        else:
            super().merge(other)


class Sticky(MeanMetric):
    def reset(self):
        pass


class LastBatch(MeanMetric):
    def update(self, predicted, target):
        self.reset()
        super().update(predicted, target)


class Moody(Prior):
    def predict(self, loader):
        rows = super().predict(loader)
        return rows + torch.from_numpy(np.random.default_rng().random(rows.shape)).float()


class Short(Prior):
    def predict(self, loader):
        return super().predict(loader)[:-1]


class Contrary(Prior):
    def predict(self, loader):
        return 1 - (super().predict(loader) > 0.4).float() * torch.tensor([1.0, 0.0])


class Guesses(Prior):
    def predict(self, loader):
        return torch.full((loader.num_items, 2), 0.5) if self.inner.row is None else super().predict(loader)


class Misheard(Steps):
    def batch_ends(self, state):
        pass


class Amnesiac(Steps):
    def load_state_dict(self, state):
        pass


class Pickled(Steps):
    def state_dict(self):
        return {"count": {1, 2}}

    def load_state_dict(self, state):
        pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Helpless:
    shift: bool = field(default=True)


class Restless(Quadrant):
    def data(self, source, job):
        return super().data(source, replace(job, seed=int(np.random.default_rng().integers(10**6))))


class Unmeasured(Quadrant):
    def baseline_ids(self, data):
        return ()


class Unreadable(Quadrant):
    def inputs(self, arguments):
        return [(a, a) for a in arguments]


ROWS = {
    "block-mock": [
        ("Pair", subclass(Pair, mock=lambda self, rng: [1.0])),
        ("Pair", subclass(Pair, mock=lambda self, rng: [random.random(), 0.5])),
    ],
    "block-json": [("Pair", subclass(Pair, to_config=lambda self: {"scale": 2.0 * self.scale}))],
    "block-refuses": [
        ("Pair", subclass(Pair, check=lambda self, value: None)),
        ("Pair", subclass(Pair, check=lambda self, value: Pair.check(self, value) if value is not None else None)),
    ],
    "block-collate": [
        ("Pair", subclass(Pair, collate=lambda self, values: torch.tensor(values).T)),
        ("Pair", subclass(Pair, uncollate=lambda self, column: [v[::-1] for v in column.double().tolist()])),
        ("Pair", subclass(Pair, uncollate=lambda self, column: list(column.numpy()))),
    ],
    "block-show": [("Pair", subclass(Pair, show=lambda self, value, ax: None))],
    "transform-static": [
        ("Shift", subclass(Shift, out_block=lambda self, block: Pair(scale=random.random()))),
        ("Shift", subclass(Shift, accepts=lambda self, block: False)),
    ],
    "transform-encode": [
        ("Shift", subclass(Shift, bind=lambda self, block: Bound(lambda v, _: tuple(v), lambda v: list(v)))),
    ],
    "transform-inverse": [
        ("Shift", subclass(Shift, bind=lambda self, block: Bound(lambda v, _: [x / 2 for x in v], lambda v: v))),
    ],
    "transform-untouched": [("Shift", subclass(Shift, bind=lambda self, block: Bound(in_place, lambda v: v)))],
    "transform-deterministic": [
        ("Shift", subclass(Shift, bind=lambda self, block: Bound(noisy, lambda v: v))),
        ("Jitter", subclass(Jitter, draw=lambda self, rng, sample: random.random())),
        ("Jitter", subclass(Jitter, bind=lambda self, block: Bound(noisy))),
    ],
    "transform-json": [("Shift", Forgetful)],
    "transform-record": [("Shift", subclass(Shift, bind=lambda self, block: Bound(lambda v, _: v)))],
    "model-forward": [("net", lambda ctx: nn.Linear(2, 1)), ("net", lambda ctx: nn.Linear(3, 2))],
    "model-independent": [("net", lambda ctx: Rowmixer(ctx.num_outputs))],
    "model-gradient": [("net", lambda ctx: Unused(ctx.num_outputs))],
    "model-learns": [("net", lambda ctx: Blocked(ctx.num_outputs))],
    "model-state": [("net", lambda ctx: Hidden(ctx.num_outputs))],
    "model-artifact": [("net", lambda ctx: Hidden(ctx.num_outputs))],
    "model-seeded": [("net", lambda ctx: Unseeded(ctx.num_outputs))],
    "model-groups": [("net", grouped)],
    "model-fits": [("net", lambda ctx: Explosive(ctx.num_outputs))],
    "loss-scalar": [("Gap", Vector), ("Gap", Cut)],
    "loss-per-item": [("Gap", Sum), ("Gap", PerBatch)],
    "loss-precision": [("Gap", Half)],
    "metric-merges": [
        ("hits", lambda: MeanOfMeans(_right, name="hits")),
        ("hits", lambda: LastBatch(_right, name="hits")),
        ("hits", lambda: "hits"),
    ],
    "metric-resets": [("hits", lambda: Sticky(_right, name="hits"))],
    "metric-direction": [
        ("hits", lambda: MeanMetric(_right, name="hits", higher_is_better=False)),
        ("hits", lambda: MeanMetric(lambda p, t: p.argmax(1) != t, name="hits")),
    ],
    "baseline-predicts": [("Prior", Short)],
    "baseline-repeats": [("Prior", Moody)],
    "baseline-unfitted": [("Prior", Guesses)],
    "baseline-beats": [("Prior", Contrary)],
    "callback-events": [("Steps", Misheard)],
    "callback-run": [("Steps", Amnesiac), ("Steps", Pickled)],
    "task-options": [("Quadrant", subclass(Quadrant, Options=Helpless))],
    "task-lr": [("Quadrant", subclass(Quadrant, default_lr=lambda self, learner: 0.0))],
    "task-repeats": [("Quadrant", Restless)],
    "task-job": [("Quadrant", Unmeasured), ("Quadrant", Unreadable)],
    "record-imports": [
        ("Pair", subclass(Pair, id="planted/triple")),
        ("Pair", None),
        ("Prior", type("Abstract", (Baseline,), {"fit": lambda self, data: self})),
    ],
}
DEFECTS = [(check, part, made) for check, planted in ROWS.items() for part, made in planted]


@pytest.mark.parametrize(
    ("check", "part", "made"), DEFECTS, ids=[f"{number}-{check}" for number, (check, _, _) in enumerate(DEFECTS)]
)
def test_a_defect_is_caught_by_the_check_meant_for_it(plant: Plant, check: str, part: str, made: Any):
    parts = {part: made}
    kit = plant(parts)
    if part in ("Pair", "Shift", "Jitter"):
        # The task would trip over them first, and they are made without arguments.
        given = {"transforms": {"planted/shift": ((made(), Pair()),)}} if part == "Shift" else {}
        kit = plant(parts, examples=Examples(**given))
    found = outcomes(kit, check)
    assert "failed" in [outcome.state for outcome in found], found
    (fault,) = [outcome for outcome in found if outcome.state == "failed"][:1]
    assert fault.problem
    assert fault.reason
    assert fault.fix


RECORD_DEFECTS = {
    "record-summary": [("pair", "two numbers."), ("net", "planted/net")],
    "transform-record": [
        ("shift", {"invertible": False}),
        ("jitter", {"random": False}),
        ("shift", {"stage": "batch"}),
    ],
    "record-names": [
        ("net", {"inputs": ("planted/pairs",)}),
        ("side", {"defaults": {"model": ("planted/nett",)}}),
        ("hits", {"blocks": ("core/class",)}),
    ],
    "metric-direction": [("hits", {"higher_is_better": False})],
}
PLANTED = [(check, name, change) for check, planted in RECORD_DEFECTS.items() for name, change in planted]


@pytest.mark.parametrize(
    ("check", "name", "change"), PLANTED, ids=[f"{number}-{check}" for number, (check, _, _) in enumerate(PLANTED)]
)
def test_a_defect_of_a_record_is_caught(plant: Plant, check: str, name: str, change: Any):
    changes = change if isinstance(change, dict) else {"summary": change}
    kit = plant(records={name: replace(RECORDS[name], **changes)})
    failed = [outcome.id for outcome in outcomes(kit, check) if outcome.state == "failed"]
    assert failed == [f"{check}[{RECORDS[name].id}]"]


def test_records_that_change_are_caught(plant: Plant):
    several = iter((["pair"], [], []))
    hook = hookimpl(lambda: [RECORDS[name] for name in next(several)])
    kit = plant(hooks={"graftwork_register_blocks": hook})
    assert outcomes(kit, "records-twice")[0].state == "failed"


# -- distributions and imports ---------------------------------------------------------------------------------------

METADATA = {
    "Metadata-Version": "2.4",
    "Name": "graftwork-planted",
    "Version": "1",
    "Summary": "A plugin",
    "License-Expression": "MIT",
    "Requires-Python": ">=3.11",
    "Requires-Dist": "graftwork<0.2,>=0.1",
}
POINTS = "[graftwork.plugins.v1]\nplanted = planted_package.plugin\n"


@pytest.mark.parametrize(
    ("check", "changes", "points", "typed"),
    [
        ("", {}, POINTS, True),
        ("dist-entry", {}, "", True),
        ("dist-entry", {}, POINTS.replace("planted =", "plant ="), True),
        ("dist-typed", {}, POINTS, False),
        ("dist-requires", {"Requires-Dist": "graftwork"}, POINTS, True),
        ("dist-requires", {"Requires-Dist": "graftwork>=0.1"}, POINTS, True),
        ("dist-requires", {"Requires-Dist": "graftwork-vision<0.2,>=0.1"}, POINTS, True),
        ("dist-requires", {"Requires-Dist": "graftwork<0.2,>=0.1\nRequires-Dist: a @ file:///a.whl"}, POINTS, True),
        ("dist-described", {"Summary": None}, POINTS, True),
        ("dist-described", {"License-Expression": None}, POINTS, True),
    ],
)
def test_defects_of_a_distribution(plant, tmp_path, monkeypatch, check, changes, points, typed):
    info = tmp_path / "graftwork_planted-1.dist-info"
    info.mkdir()
    said = {name: value for name, value in {**METADATA, **changes}.items() if value is not None}
    (info / "METADATA").write_text("".join(f"{n}: {v}\n" for n, v in said.items()), encoding="utf-8")
    (info / "entry_points.txt").write_text(points, encoding="utf-8")
    package = tmp_path / "planted_package"
    package.mkdir()
    (package / "__init__.py").touch()
    if typed:
        (package / "py.typed").touch()
    monkeypatch.syspath_prepend(tmp_path)
    kit = plant()
    vars(kit)["dist"], vars(kit)["package"] = metadata.PathDistribution(info), "planted_package"
    checks = [c for c in CHECKS if c.id.startswith("dist-")]
    failed = [c.id for c in checks if judge(Case(check=c), kit, {}).state == "failed"]
    assert failed == ([check] if check else [])


ENTRY = """
from graftwork.api import Plugin, hookimpl, BlockSpec
PLUGIN = Plugin(namespace="planted", summary="A plugin")
@hookimpl
def graftwork_register_blocks():
    yield BlockSpec(id="planted/pair", target="{parts}:Pair", summary="Two numbers")
"""


def entry_kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, source: str, parts: str = "") -> Kit:
    (tmp_path / f"{name}.py").write_text(source + ENTRY.format(parts=f"{name}_parts"), encoding="utf-8")
    (tmp_path / f"{name}_parts.py").write_text(parts, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    module = ModuleType(name)
    vars(module)["PLUGIN"] = Plugin(namespace="planted", summary="A plugin")
    spec = BlockSpec(id="planted/pair", target=f"{name}_parts:Pair", summary="Two numbers")
    vars(module)["graftwork_register_blocks"] = _hook([spec])
    host = Host(find=lambda: (), env={})
    assert host.register(module).state == "ok"
    return Kit("planted", host=host, examples=Examples())


@pytest.mark.parametrize(
    ("check", "source"),
    [
        ("", "import json, pathlib"),
        ("import-light", "import numpy"),
        ("import-light", "import click.testing"),
        ("import-quick", "import time; time.sleep(0.1)"),
        ("import-quiet", "print('hello')"),
        ("import-quiet", "import sys; print('hello', file=sys.stderr)"),
        ("import-neutral", "import warnings; warnings.simplefilter('ignore')"),
        ("import-neutral", "import os; os.environ['PLANTED'] = '1'"),
        ("import-neutral", "import random; random.seed(0)"),
        ("import-neutral", "import sys; sys.path.append('planted')"),
    ],
)
def test_defects_of_an_entry_module(tmp_path, monkeypatch, check, source):
    kit = entry_kit(tmp_path, monkeypatch, f"planted_{abs(hash(source)) % 10**8}", source + "\n")
    checks = [c for c in CHECKS if c.id.startswith("import-")]
    failed = {c.id for c in checks if judge(Case(check=c), kit, {}).state == "failed"}
    # A library takes its time as well, and may change warnings' filters.
    others = {"import-quick", "import-neutral"} if check == "import-light" else set()
    assert failed - others == ({check} if check else set())


@pytest.mark.slow
def test_components_that_change_what_is_global(tmp_path, monkeypatch):
    kit = entry_kit(tmp_path, monkeypatch, "planted_global", "", "import torch; torch.set_default_dtype(torch.float64)")
    found = {c.id: judge(Case(check=c), kit, {}) for c in CHECKS if c.id in ("components-neutral", "neutral-run")}
    assert found["components-neutral"].state == "failed"
    assert "default dtype" in found["components-neutral"].problem
    assert found["neutral-run"].state == "failed"


@pytest.mark.parametrize(("first", "state"), [("", "passed"), ("import numpy\n", "failed")])
def test_the_help_of_a_task_imports_nothing_large(tmp_path, monkeypatch, first, state):
    name = f"planted_task_{state}"
    (tmp_path / f"{name}.py").write_text(
        f"""
from graftwork.api import Plugin, TaskSpec, hookimpl
PLUGIN = Plugin(namespace="planted", summary="A plugin")
@hookimpl
def graftwork_register_tasks():
    yield TaskSpec(id="planted/side", target="{name}_parts:Side", summary="A task", inputs=(), targets=())
""",
        encoding="utf-8",
    )
    (tmp_path / f"{name}_parts.py").write_text(
        f"""
{first}from dataclasses import dataclass
from graftwork.api import Task, option
@dataclass(frozen=True, kw_only=True)
class Options:
    size: int = option(3, "A size.")
class Side(Task):
    id = "planted/side"
    Options = Options
""",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    host = Host(find=lambda: (), env={})
    module = __import__(name)
    assert host.register(module).state == "ok"
    found = outcomes(Kit("planted", host=host, examples=Examples()), "task-help")
    assert [outcome.state for outcome in found] == [state], found


# -- announced failures ----------------------------------------------------------------------------------------------


def test_an_announced_failure_is_no_fault_and_one_that_passes_is(plant: Plant):
    kit = plant({"Pair": subclass(Pair, show=lambda self, value, ax: None)}, examples=Examples())
    case = next(case for case in cases(kit) if case.id == "block-show[planted/pair]")
    assert judge(case, kit, {}).is_fault
    announced = judge(case, kit, {case.id: "nothing to see"})
    assert (announced.state, announced.is_fault) == ("expected", False)
    assert "nothing to see" in announced.problem
    sound = plant()
    passing = judge(case, sound, {case.id: "nothing to see"})
    assert (passing.state, passing.is_fault) == ("unexpected", True)


def test_an_announcement_that_names_no_check_is_a_fault(plant: Plant, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("graftwork.testing.battery.CHECKS", CHECKS[:1])
    found = list(run(plant(), {"plugin-load": "a slip"}))
    assert [(outcome.id, outcome.state) for outcome in found] == [
        ("plugin-loads", "passed"),
        ("plugin-load", "unexpected"),
    ]


def test_what_is_left_out_is_not_run_and_says_why(plant: Plant, monkeypatch: pytest.MonkeyPatch):
    left_out = {"block-show[planted/pair]": "it speaks to a server", "block-shown": "a slip"}
    kit = plant({"Pair": subclass(Pair, show=None)}, examples=Examples(left_out=left_out))
    monkeypatch.setattr("graftwork.testing.battery.CHECKS", [check for check in CHECKS if check.id == "block-show"])
    found = {outcome.id: outcome for outcome in run(kit)}
    assert found["block-show[planted/pair]"].state == "skipped"
    assert "it speaks to a server" in found["block-show[planted/pair]"].problem
    assert found["block-shown"].is_fault


def test_what_requires_an_absent_library_is_skipped(plant: Plant):
    kit = plant(records={"gap": replace(RECORDS["gap"], requires=("no_such_library",))})
    assert {outcome.state for outcome in outcomes(kit, "loss-scalar")} == {"skipped"}
    found = {outcome.id: outcome.state for outcome in outcomes(kit, "record-imports")}
    assert found["record-imports[planted/gap]"] == "skipped"


def test_a_missing_example_says_what_to_do(plant: Plant):
    kit = plant(examples=Examples())
    (found,) = outcomes(kit, "task-job")
    assert found.state == "failed"
    assert "EXAMPLES" in found.fix


def test_every_check_has_an_id_and_a_reason():
    ids = {(check.id, check.kind) for check in CHECKS}
    assert len(ids) == len(CHECKS)
    assert all(len(check.reason) > 20 for check in CHECKS)


def test_there_are_defects_for_every_check():
    planted = (
        set(ROWS) | set(RECORD_DEFECTS) | IN_A_CHILD | {"task-help", "records-twice", "block-target", "block-steps"}
    )
    assert {check.id for check in CHECKS} - planted == {
        "plugin-loads", "dist-entry", "dist-typed", "dist-requires", "dist-described",
    }  # fmt: skip


# -- comparing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        (1.0, 1.0, True),
        (1.0, 1.1, False),
        (float("nan"), float("nan"), True),
        ([1, 2], [1, 2], True),
        ([1, 2], [1, 2, 3], False),
        (["a", None], ["a", None], True),
        (["a", None], ["a", "b"], False),
        ({"a": torch.ones(2)}, {"a": torch.ones(2)}, True),
        ({"a": torch.ones(2)}, {"a": torch.zeros(2)}, False),
        ({"a": 1}, {"b": 1}, False),
        (torch.ones(2), torch.ones(3), False),
        (np.array(["x"]), np.array(["y"]), False),
        (None, 0.0, False),
        ("1", 1, False),
    ],
)
def test_values_of_any_kind_are_compared(a, b, equal):
    assert same(a, b) is equal


def test_errors_a_block_raises_are_its_faults(plant: Plant):
    def refuse(self, values):
        raise BlockError("no tensor form")

    kit = plant({"Pair": subclass(Pair, collate=refuse)}, examples=Examples())
    assert outcomes(kit, "block-collate")[0].state == "skipped"

    def crash(self, values):
        raise DataError("oops")

    kit = plant({"Pair": subclass(Pair, collate=crash)}, examples=Examples())
    assert outcomes(kit, "block-collate")[0].state == "failed"
