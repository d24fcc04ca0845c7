"""U-Nets on ResNet-18 and -34, 128x96 (width x height), batches of 8: images a second and peak memory of training.

All sides train on the same ready batch, 12 classes, with fused AdamW; ours and smp's in bf16 and channels-last memory,
fastai's as it comes. With `--accuracy` the defaults of `graft train segmentation/semantic` are trained on CamVid
(GRAFTWORK_DATA), and fastai's network for three epochs, which take it longer.
"""

from __future__ import annotations

import os
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from bench.harness import Check, Options, Report, Runner, Side, native_bf16, ratios

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["SIDES", "measure"]

# The peers are installed elsewhere, if at all.
# mypy: disable-error-code="import-not-found,import-untyped"

HEIGHT, WIDTH, BS, CLASSES, VOID = 96, 128, 8, 12, 11
ROUNDS: Final = 5
Settings = dict[str, Any]
Build = Callable[[str], "nn.Module"]


def ours(arch: str) -> nn.Module:
    """Build the default U-Net."""
    from graftwork.api import ModelContext
    from graftwork_segmentation import MaskTensorBlock
    from graftwork_segmentation.models import unet
    from graftwork_vision import ImageTensorBlock

    codes = tuple(map(str, range(CLASSES)))
    context = ModelContext(inputs={"x": ImageTensorBlock(3)}, targets={"y": MaskTensorBlock(codes)})
    return unet(context, arch=arch).module


def smp(arch: str) -> nn.Module:
    """Build the Unet of segmentation_models_pytorch."""
    import segmentation_models_pytorch as peer

    model: nn.Module = peer.Unet(arch, encoder_weights=None, classes=CLASSES)
    return model


def fastai(arch: str) -> nn.Module:
    """Build fastai's DynamicUnet as `unet_learner` does."""
    from fastai.vision.all import create_unet_model, models

    model: nn.Module = create_unet_model(vars(models)[arch], CLASSES, (HEIGHT, WIDTH), pretrained=False)
    return model


def loop(build: Build, arch: str, *, tuned: bool = True) -> Callable[[Settings], dict[str, Any]]:
    """Return a side: steps of a plain loop, or of one with bf16 (where the CPU has it) and channels-last memory."""

    def side(settings: Settings) -> dict[str, Any]:
        import torch

        torch.manual_seed(0)
        model = build(arch).train()
        x, y = batch()
        if tuned:
            model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

        def step() -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=tuned and native_bf16()):
                out = model(x)
            torch.nn.functional.cross_entropy(out.float(), y, ignore_index=VOID).backward()
            optimizer.step()
            optimizer.zero_grad()

        for _ in range(settings["warm"]):
            step()
        began = perf_counter()
        for _ in range(settings["steps"]):
            step()
        seconds = perf_counter() - began
        return {"value": settings["steps"] * BS / seconds, "megabytes": peak(), "parameters": count(model)}

    return side


def learner(arch: str) -> Callable[[Settings], dict[str, Any]]:
    """Return a side: what `unet_learner` makes of as many steps, loss, metrics and schedule included."""

    def side(settings: Settings) -> dict[str, Any]:
        import torch

        from graftwork.api import Callback, ColumnLoader, DataLoaders, Plan, TrainState
        from graftwork_segmentation import MaskTensorBlock, unet_learner
        from graftwork_vision import ImageTensorBlock

        x, y = batch()
        blocks = {
            "x": ImageTensorBlock(3, (HEIGHT, WIDTH), "standard"),
            "y": MaskTensorBlock(tuple(map(str, range(CLASSES))), VOID, None, (HEIGHT, WIDTH)),
        }
        plan = Plan.compile(blocks, inputs=("x",), targets=("y",), train=lambda _: ())
        steps = settings["warm"] + settings["steps"]
        columns = {"x": x.repeat(steps, 1, 1, 1), "y": torch.where(y == VOID, -100, y).repeat(steps, 1, 1)}
        data = DataLoaders(train=ColumnLoader(columns, plan, bs=BS, shuffle=True, training=True))
        learn = unet_learner(data, arch, weights=None, progress=False)
        ends: list[float] = []

        class Watch(Callback):
            def batch_end(self, state: TrainState) -> None:
                ends.append(perf_counter())

        learn.fit(1, callbacks=[Watch()])
        seconds = ends[-1] - ends[settings["warm"] - 1]
        return {"value": settings["steps"] * BS / seconds, "megabytes": peak(), "parameters": count(learn.module)}

    return side


def batch() -> tuple[Tensor, Tensor]:
    """Make a batch of noise; all classes occur."""
    import torch

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(BS, 3, HEIGHT, WIDTH, generator=generator)
    return x, torch.randint(0, CLASSES, (BS, HEIGHT, WIDTH), generator=generator)


def peak() -> float:
    """Return the largest resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def count(model: nn.Module) -> int:
    """Count parameters."""
    return sum(p.numel() for p in model.parameters())


def task(settings: Settings, **options: Any) -> dict[str, Any]:
    """Train as `graft train segmentation/semantic` does, and return mIoU, and the seconds of training."""
    from graftwork.api import JobOptions
    from graftwork.job import train
    from graftwork_segmentation import SemanticSegmentation
    from graftwork_segmentation.tasks import SemanticSegmentationOptions

    made = SemanticSegmentation(SemanticSegmentationOptions(size=settings["size"], **settings["options"], **options))
    job = JobOptions(model=settings.get("model", "auto"), seed=settings.get("seed", 42))
    with tempfile.TemporaryDirectory() as folder:
        report = train(made, Path(settings["folder"]), job, Path(folder) / "run", lambda text: None, to_stderr=True)
    baselines = {baseline["id"]: baseline["metrics"]["mean_iou"] for baseline in report.baselines}
    return {
        "value": report.metrics["mean_iou"],
        "accuracy": report.metrics["pixel_accuracy"],
        "seconds": report.seconds["train"],
        "baselines": baselines,
    }


def dynamic(settings: Settings) -> dict[str, Any]:
    """Train fastai's network in the same way for three epochs."""
    return task({**settings, "model": "segmentation/dynamic_unet"}, epochs=settings["epochs"])


SIDES: Final[tuple[Side, ...]] = (
    Side(name="graftwork, ResNet-18", run=loop(ours, "resnet18")),
    Side(name="unet_learner, ResNet-18", run=learner("resnet18")),
    Side(name="smp, ResNet-18", run=loop(smp, "resnet18"), peer="segmentation_models_pytorch"),
    Side(name="fastai, ResNet-18", run=loop(fastai, "resnet18", tuned=False), peer="fastai"),
    Side(name="graftwork, ResNet-34", run=loop(ours, "resnet34")),
    Side(name="smp, ResNet-34", run=loop(smp, "resnet34"), peer="segmentation_models_pytorch"),
    Side(name="fastai, ResNet-34", run=loop(fastai, "resnet34", tuned=False), peer="fastai"),
    Side(name="graft train, mean IoU", run=task),
    Side(name="dynamic_unet, mean IoU", run=dynamic),
)
NUM_SPEED: Final = 7


def measure(options: Options) -> Report:
    """Run all sides in turn; with `--accuracy`, train on CamVid as well."""
    runner = Runner(case="segmentation", options=options)
    report = Report(case="segmentation", smoke=options.smoke, notes=runner.notes)
    settings = {"warm": 1, "steps": 1} if options.smoke else {"warm": 4, "steps": 20}
    found = runner(SIDES[:NUM_SPEED], settings, rounds=1 if options.smoke else ROUNDS)
    for name, results in found.items():
        report.add(name, [r["value"] for r in results], "images/s", base=f"smp, {name.rpartition(', ')[2]}")
        megabytes = max((r["megabytes"] for r in results), default=0)
        report.notes += [f"{name}: {results[0]['parameters']:,} parameters, {megabytes:,.0f} MB at most"]
    for arch, target in (("ResNet-18", 55 / 61), ("ResNet-34", 40 / 44)):
        for peer, least in (("smp", target), ("fastai", None)):
            mine, theirs = f"graftwork, {arch}", f"{peer}, {arch}"
            if report.has(mine, theirs):
                ratio = ratios(report.values(mine), report.values(theirs)).median
                report.checks.append(Check(what=f"{mine} / {peer}", value=ratio, target=least, better="high"))
    if options.accuracy:
        accuracy(report, runner)
    return report


def accuracy(report: Report, runner: Runner) -> None:
    """Train on CamVid; raise RuntimeError without it."""
    folder = Path(os.environ.get("GRAFTWORK_DATA", "")) / "camvid"
    if not folder.is_dir():
        raise RuntimeError("set GRAFTWORK_DATA to a folder that holds camvid/")
    settings = {"folder": str(folder), "size": f"{HEIGHT}x{WIDTH}", "options": {}, "epochs": 3}
    for side, least in zip(SIDES[NUM_SPEED:], (0.474, None), strict=True):
        found = runner.child(side, settings)
        report.add(side.name, [found["value"]], "share")
        report.notes.append(f"{side.name}: {found['seconds']:.0f} s, pixel accuracy {found['accuracy']:.3f}")
        report.checks.append(Check(what=side.name, value=found["value"], target=least, better="high"))
        report.notes += [f"{name}: mean IoU {value:.3f}" for name, value in found["baselines"].items()]
