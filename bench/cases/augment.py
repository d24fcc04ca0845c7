"""Bytes to augmented, normalised floats: a batch of pictures by default `aug_transforms()`, beside other libraries.

Each side gets the same bytes (B, 3, H, W) in the memory format it has after loading and gives float32. The recipes are
the same in kind (mirror, perspective, turn, zoom, brightness, contrast, by numbers of each picture's own) and not in
every number; torchvision draws one set of numbers for a batch, so its second side goes picture by picture.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from bench.harness import Check, Options, Report, Runner, Side, ratios

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SIDES", "compare", "measure"]

# The peers are installed elsewhere, if at all.
# mypy: disable-error-code="import-not-found,import-untyped"

FULL: Final = {"batch": 64, "side": 224, "warm": 2, "batches": 12, "device": "cpu"}
SMOKE: Final = {"batch": 4, "side": 32, "warm": 1, "batches": 2, "device": "cpu"}
ROUNDS: Final = 5
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Settings = dict[str, Any]
Augment = Callable[["Tensor"], "Tensor"]


def timed(make: Callable[[Settings], Augment], *, channels_last: bool = False) -> Callable[[Settings], dict[str, Any]]:
    """Return a side: the median milliseconds of a batch, when the device is done with it."""

    def side(settings: Settings) -> dict[str, Any]:
        import torch

        shape = (settings["batch"], 3, settings["side"], settings["side"])
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        format_ = torch.channels_last if channels_last else torch.contiguous_format
        pixels = pixels.to(settings["device"]).contiguous(memory_format=format_)
        augment, times = make(settings), []
        for _ in range(settings["warm"] + settings["batches"]):
            begin = _now(settings)
            found = augment(pixels)
            times.append(_now(settings) - begin)
            assert found.dtype == torch.float32
            del found
        return {"value": 1000 * median(times[settings["warm"] :])}

    return side


def _now(settings: Settings) -> float:
    if settings["device"] == "cuda":
        import torch

        torch.cuda.synchronize()
    return perf_counter()


def copied(settings: Settings) -> Augment:
    """Read every byte once and write every float once, into memory that is there."""
    import torch

    shape = (settings["batch"], 3, settings["side"], settings["side"])
    floats = torch.zeros(shape, device=settings["device"])
    return lambda pixels: floats.copy_(pixels)


def graftwork(settings: Settings, *, fused: bool = True) -> Augment:
    """Run the batch steps of a plan as the loop does; not `fused`, one by one."""
    import torch

    from graftwork.api import Plan
    from graftwork_vision import ImageTensorBlock, Normalize, aug_transforms

    tfms = [*aug_transforms(), Normalize.from_stats(MEAN, STD)]
    block = ImageTensorBlock(3, (settings["side"], settings["side"]))
    plan = Plan.compile({"x": block}, inputs=("x",), targets=(), batch_tfms=tfms, train=lambda name: iter(()))
    generator = torch.Generator(settings["device"]).manual_seed(0)

    def one_by_one(pixels: Tensor) -> Tensor:
        for step in plan.batch_steps:
            params = step.draw(generator, {"x": pixels}) if step.draw else None
            pixels = step.targets[0][1].bound.encode(pixels, params)
        return pixels

    return (lambda pixels: plan.encode_batch({"x": pixels}, generator)["x"]) if fused else one_by_one


def graftwork_singly(settings: Settings) -> Augment:
    """Run the steps one by one."""
    return graftwork(settings, fused=False)


def fastai(settings: Settings) -> Augment:
    """Run fastai's pipeline of batch transforms."""
    from fastai.data.transforms import IntToFloatTensor, Normalize
    from fastai.torch_core import TensorImage
    from fastai.vision.augment import aug_transforms
    from fasttransform import Pipeline

    normalize = Normalize.from_stats(MEAN, STD, cuda=settings["device"] == "cuda")
    pipeline = Pipeline([IntToFloatTensor(), *aug_transforms(), normalize], split_idx=0)
    return lambda pixels: pipeline(TensorImage(pixels)).as_subclass(type(pixels))


def kornia(settings: Settings) -> Augment:
    """Run kornia's transforms in sequence."""
    import torch
    from kornia import augmentation

    sequence = augmentation.AugmentationSequential(
        augmentation.RandomHorizontalFlip(p=0.5),
        augmentation.RandomPerspective(0.2, p=0.75),
        augmentation.RandomAffine(degrees=10, scale=(1.0, 1.1), p=0.75, padding_mode="reflection"),
        augmentation.ColorJitter(0.2, 0.2, p=0.75),
        augmentation.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
        data_keys=["input"],
    )
    return lambda pixels: sequence(pixels.float().div_(255))


def torchvision(settings: Settings) -> Augment:
    """Run torchvision's transforms on the batch, which all get the same numbers."""
    import torch
    from torchvision.transforms import v2

    sequence = v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomPerspective(0.2, p=0.75),
            v2.RandomAffine(10, scale=(1.0, 1.1)),
            v2.ColorJitter(0.2, 0.2),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    return lambda pixels: sequence(pixels)  # type: ignore[no-any-return]


def torchvision_singly(settings: Settings) -> Augment:
    """Run torchvision's transforms picture by picture."""
    import torch

    sequence = torchvision(settings)
    return lambda pixels: torch.stack([sequence(one) for one in pixels])


SIDES: Final[tuple[Side, ...]] = (
    Side(name="copy", run=timed(copied)),
    Side(name="graftwork", run=timed(graftwork, channels_last=True)),
    Side(name="graftwork, step by step", run=timed(graftwork_singly, channels_last=True)),
    Side(name="torchvision, all alike", run=timed(torchvision)),
    Side(name="torchvision, one by one", run=timed(torchvision_singly)),
    Side(name="fastai", run=timed(fastai), peer="fastai"),
    Side(name="kornia", run=timed(kornia), peer="kornia"),
)


def measure(options: Options) -> Report:
    """Run all sides in turn on the CPU."""
    runner = Runner(case="augment", options=options)
    report = Report(case="augment", smoke=options.smoke, notes=runner.notes)
    found = runner(SIDES, SMOKE if options.smoke else FULL, rounds=1 if options.smoke else ROUNDS)
    compare(report, found, peers=15.0)
    return report


def compare(
    report: Report, found: dict[str, list[dict[str, Any]]], *, peers: float, copies: float | None = None
) -> None:
    """Add milliseconds, and how many times as fast as `peers` it should be; at most `copies` times the copy."""
    for name, results in found.items():
        report.add(name, [r["value"] for r in results], "ms", base=None if name == "graftwork" else "graftwork")
    for name, target in (("fastai", peers), ("kornia", peers), ("torchvision, one by one", None)):
        if report.has("graftwork", name):
            ratio = ratios(report.values(name), report.values("graftwork")).median
            report.checks.append(Check(what=f"{name} / graftwork", value=ratio, target=target, better="high"))
    if report.has("graftwork", "copy"):
        ratio = ratios(report.values("graftwork"), report.values("copy")).median
        report.checks.append(Check(what="graftwork / copy", value=ratio, target=copies))
