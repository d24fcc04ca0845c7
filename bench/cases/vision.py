"""ResNet-18 from scratch on a folder of JPEGs at 128 px, batches of 32: images a second, from files to steps.

All sides train the same network (graftwork's ResNet-18 with its head; fastai builds its own, which is nearly the same).
Measured is wall time between two batches of an epoch, after some for warming up and before loading runs dry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from bench import peers, photos
from bench.harness import Check, Options, Report, Runner, Side, Spread, native_bf16, ratios
from bench.photos import BS, epoch_order, loaders, network, photo_folder, read_square, split, threaded

if TYPE_CHECKING:
    from torch import Tensor, nn

    from graftwork import Learner, TrainState
    from graftwork.runtime import Precision

__all__ = ["SIDES", "Window", "graftwork", "measure"]

FULL: Final = {"warm": 6, "batches": 30, "epochs": 0, "device": "cpu"}
SMOKE: Final = {"warm": 1, "batches": 1, "epochs": 0, "device": "cpu"}
LR, WD = 1e-3, 0.01
ROUNDS: Final = 7
SEEDS: Final = (1, 2, 3)
EPOCHS: Final = 5
Settings = dict[str, Any]


class Window:
    """Take the time between the ends of two batches; `add` says whether the second one has come."""

    def __init__(self, settings: Settings) -> None:
        """Set which batches."""
        self.first: int = settings["warm"]
        self.last: int = settings["warm"] + settings["batches"]
        self.device: str = settings["device"]
        self.done, self.began, self.seconds = 0, 0.0, 0.0

    def add(self) -> bool:
        """Count a batch."""
        self.done += 1
        if self.done == self.first:
            self.began = self._now()
        if self.done == self.last:
            self.seconds = self._now() - self.began
        return self.done >= self.last

    def _now(self) -> float:
        if self.device != "cpu":
            import torch

            torch.cuda.synchronize()
        return perf_counter()

    @property
    def rate(self) -> float:
        """Images a second."""
        return (self.last - self.first) * BS / self.seconds


# -- by hand ---------------------------------------------------------------------------------------------------------


def plain_batches(folder: Path, settings: Settings) -> Iterator[tuple[Tensor, Tensor]]:
    """Read with torch's DataLoader and two workers, as its tutorials do: one normalised float tensor a photo."""
    from torch.utils.data import DataLoader

    (files, codes), _ = split(folder)
    order = epoch_order(len(files), 0, 0)
    data: Any = Photos(files, codes)
    loader: Any = DataLoader(data, batch_sampler=order, num_workers=2)
    for x, y in loader:
        yield x.to(settings["device"]), y.to(settings["device"])


class Photos:
    """Be a data set for torch's DataLoader."""

    def __init__(self, files: list[Path], codes: list[int]) -> None:
        """Keep the names."""
        self.files, self.codes = files, codes
        self.mean, self.std = photos.statistics_of_imagenet()

    def __len__(self) -> int:
        """Count."""
        return len(self.files)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        """Read one."""
        pixels = read_square(self.files[position]).permute(2, 0, 1).float() / 255
        return (pixels - self.mean) / self.std, self.codes[position]


def tuned_batches(
    folder: Path, settings: Settings, *, seed: int = 0, epoch: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Read with threads; pixels become floats where the network is."""
    data, _ = split(folder)
    return on_device(
        threaded(data, epoch_order(len(data[0]), seed, epoch), threads=settings.get("threads", 2)), settings
    )


def on_device(batches: Iterable[tuple[Tensor, Tensor]], settings: Settings) -> Iterator[tuple[Tensor, Tensor]]:
    """Move bytes to the device and normalise them there."""
    mean_, std = (t.to(settings["device"]) for t in photos.statistics_of_imagenet())
    for pixels, codes in batches:
        x, y = (t.to(settings["device"], non_blocking=True) for t in (pixels, codes))
        yield x.float().div_(255).sub_(mean_).div_(std), y


def by_hand(batches: Callable[[Path, Settings], Iterator[tuple[Tensor, Tensor]]], *, tuned: bool) -> Any:
    """Return a side: a plain loop, or one with channels-last memory, bf16 (where the device has it) and fused AdamW."""

    def side(settings: Settings) -> dict[str, Any]:
        folder, window = Path(settings["folder"]), Window(settings)
        model = network(settings["classes"]).to(settings["device"])
        train(model, batches(folder, settings), tuned=tuned, device=settings["device"], enough=window.add)
        return {"value": window.rate, "batches": window.done}

    return side


def train(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    tuned: bool,
    device: str,
    enough: Callable[[], bool] = lambda: False,
    optimizer: Any = None,
) -> Any:
    """Run the loop over batches and return the optimizer, for the next epoch."""
    import torch
    from torch.nn.functional import cross_entropy

    model.train()
    if tuned:
        model.to(memory_format=torch.channels_last)
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=WD, fused=tuned or None)
    for x, y in batches:
        with torch.autocast(device, torch.bfloat16, enabled=tuned and native_bf16(device)):
            out = model(x)
        cross_entropy(out.float(), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        if enough():
            break
    return optimizer


def tuned_accuracy(settings: Settings) -> dict[str, Any]:
    """Train some epochs by hand and measure on what was held out."""
    import torch

    folder, seed = Path(settings["folder"]), settings["seed"]
    model, optimizer = network(settings["classes"], seed), None
    for epoch in range(settings["epochs"]):
        batches = tuned_batches(folder, settings, seed=seed, epoch=epoch)
        optimizer = train(model, batches, tuned=True, device=settings["device"], optimizer=optimizer)
    _, valid = split(folder)
    order = torch.arange(len(valid[0])).split(BS)
    held_out = on_device(threaded(valid, [batch.tolist() for batch in order]), settings)
    model.eval()
    bf16 = native_bf16(settings["device"])
    with torch.no_grad(), torch.autocast(settings["device"], torch.bfloat16, enabled=bf16):
        right = sum(int((model(x).argmax(1) == y).sum()) for x, y in held_out)
    return {"value": right / len(valid[0])}


# -- graftwork -------------------------------------------------------------------------------------------------------


def learner(settings: Settings, *, precision: Precision = "auto", seed: int = 0, **loading: Any) -> Learner:
    """Return what a user gets of `vision_learner`, training all layers from scratch."""
    from graftwork import Runtime
    from graftwork_vision import vision_learner

    runtime = Runtime(device=settings["device"], precision=precision, channels_last=precision == "auto")
    data = loaders(Path(settings["folder"]), seed=seed, **loading)
    return vision_learner(data, "resnet18", weights=None, lr=LR, wd=WD, runtime=runtime, seed=seed)


def graftwork(settings: Settings, *, precision: Precision = "auto", **loading: Any) -> dict[str, Any]:
    """Fit with the display on, and stop after the window."""
    from graftwork import Callback

    window = Window(settings)

    class Watch(Callback):
        def batch_end(self, state: TrainState) -> None:
            if state.phase == "train" and window.add():
                state.stop("measured")

    learn = learner(settings, precision=precision, **loading)
    learn.data.valid = None
    learn.fit(1, callbacks=[Watch()])
    return {"value": window.rate, "batches": window.done, "runs_on": learn.session.describe()}


def graftwork_augmented(settings: Settings) -> dict[str, Any]:
    """Fit with the default augmentation of `graft train`."""
    from graftwork_vision import aug_transforms

    return graftwork(settings, batch_tfms=aug_transforms())


def graftwork_fp32(settings: Settings) -> dict[str, Any]:
    """Fit in fp32."""
    return graftwork(settings, precision="fp32")


def graftwork_accuracy(settings: Settings) -> dict[str, Any]:
    """Train some epochs and measure on what was held out."""
    learn = learner(settings, seed=settings["seed"])
    learn.fit(settings["epochs"])
    return {"value": learn.history[-1]["accuracy"]}


SIDES: Final[tuple[Side, ...]] = (
    Side(name="plain loop", run=by_hand(plain_batches, tuned=False)),
    Side(name="hand-tuned", run=by_hand(tuned_batches, tuned=True)),
    Side(name="graftwork", run=graftwork),
    Side(name="graftwork, fp32", run=graftwork_fp32),
    Side(name="graftwork, augmented", run=graftwork_augmented),
    *(Side(name=name, run=run, peer=name.split(",")[0]) for name, run in peers.VISION.items()),
)
ACCURACIES: Final = (
    Side(name="hand-tuned, accuracy", run=tuned_accuracy),
    Side(name="graftwork, accuracy", run=graftwork_accuracy),
)
SIDES += ACCURACIES  # type: ignore[misc]


def measure(options: Options) -> Report:
    """Run all sides in turn; with `--accuracy`, train some epochs as well."""
    runner = Runner(case="vision", options=options)
    report = Report(case="vision", smoke=options.smoke, notes=runner.notes)
    with photo_folder(smoke=options.smoke) as folder:
        (files, codes), _ = split(folder)
        settings = {**(SMOKE if options.smoke else FULL), "folder": str(folder), "classes": len(set(codes))}
        report.notes.append(f"{len(files)} photos of {len(set(codes))} classes to train on")
        speed(report, runner(SIDES[: -len(ACCURACIES)], settings, rounds=1 if options.smoke else ROUNDS))
        if options.accuracy:
            accuracy(report, runner, settings, options)
    return report


def speed(report: Report, found: dict[str, list[dict[str, Any]]]) -> None:
    """Add images a second, and the ratios that matter."""
    for name, results in found.items():
        base = None if name == "hand-tuned" else "hand-tuned"
        report.add(name, [r["value"] for r in results], "images/s", base=base)
    report.notes += [f"graftwork ran on {r['runs_on']}" for r in found.get("graftwork", [])]
    augmented = "graftwork, augmented"
    for side, base, target in (
        ("graftwork", "hand-tuned", 0.98), ("graftwork", "plain loop", None), ("graftwork", "fastai", 2.0),
        (augmented, "graftwork", None), (augmented, "fastai, augmented", 1.9),
    ):  # fmt: skip
        if report.has(side, base):
            ratio = ratios(report.values(side), report.values(base)).median
            report.checks.append(Check(what=f"{side} / {base}", value=ratio, target=target, better="high"))


def accuracy(report: Report, runner: Runner, settings: Settings, options: Options) -> None:
    """Train with several seeds and compare; noise is the deviation of a difference of two means."""
    seeds = SEEDS[:1] if options.smoke else SEEDS
    epochs = 1 if options.smoke else EPOCHS
    results: dict[str, list[float]] = {side.name: [] for side in ACCURACIES}
    for seed in seeds:
        for side in ACCURACIES:
            results[side.name].append(runner.child(side, {**settings, "seed": seed, "epochs": epochs})["value"])
    for name, values in results.items():
        report.add(name, values, "share", base=None if name.startswith("hand") else "hand-tuned, accuracy")
    hand, ours = (results[side.name] for side in ACCURACIES)
    report.checks.append(
        Check(what=f"accuracy after {epochs} epochs, graftwork - hand-tuned", value=mean(ours) - mean(hand))
    )
    spread = max(Spread.of(hand).high - Spread.of(hand).low, Spread.of(ours).high - Spread.of(ours).low)
    report.checks.append(Check(what="spread of accuracy between seeds (quartiles)", value=spread))
