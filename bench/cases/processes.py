"""Two processes on the CPU that train together: graftwork against a hand-written loop over DistributedDataParallel.

Both train the same network on the same parts of the same batches, in turn within the same processes.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from bench.harness import Check, Options, Report, Runner, Side

__all__ = ["SIDES", "measure"]

FULL: Final = {"steps": 200, "rounds": 9, "processes": 2}
SMOKE: Final = {"steps": 5, "rounds": 1, "processes": 2}
BS, WIDTH, HIDDEN, LR = 256, 128, 512, 1e-3


def _network() -> Any:
    import torch
    from torch import nn

    torch.manual_seed(0)
    hidden = [layer for _ in range(3) for layer in (nn.Linear(HIDDEN, HIDDEN), nn.ReLU())]
    return nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.ReLU(), *hidden, nn.Linear(HIDDEN, 10))


def _columns(steps: int) -> Any:
    import torch

    generator = torch.Generator().manual_seed(1)
    x = torch.randn(steps * BS, WIDTH, generator=generator)
    return x, x[:, :10].argmax(1)


def _raw(steps: int, rank: int, world: int) -> tuple[float, float]:
    """Train as one writes it by hand; return seconds and the mean of the last loss over processes."""
    import torch
    import torch.distributed as dist
    from torch.nn.functional import cross_entropy
    from torch.nn.parallel import DistributedDataParallel

    x, y = _columns(steps)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0)).split(BS)
    model = DistributedDataParallel(_network())
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.99), eps=1e-5, fused=True)
    losses = []
    dist.barrier()
    begin = perf_counter()
    for positions in order:
        mine = positions.tensor_split(world)[rank]
        loss = cross_entropy(model(x[mine]), y[mine])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    dist.barrier()
    return perf_counter() - begin, float(torch.stack(losses)[-1])


def _graftwork(steps: int, rank: int, world: int) -> tuple[float, float]:
    """Train by a Learner with its recorder; return seconds and the last loss."""
    from graftwork import CategoryBlock, ColumnLoader, DataLoaders, Learner, Plan, RegressionBlock, Runtime

    x, y = _columns(steps)
    blocks = {"x": RegressionBlock(WIDTH), "y": CategoryBlock(vocab=tuple("0123456789"))}
    plan = Plan.compile(blocks, inputs=["x"], targets=["y"], train=lambda _: ())
    train = ColumnLoader({"x": x, "y": y}, plan, bs=BS, shuffle=True, training=True)
    learn = Learner(DataLoaders(train=train), _network(), lr=LR, runtime=Runtime(device="cpu"), progress=False)
    learn.session.processes.wait()
    begin = perf_counter()
    learn.fit(1)
    learn.session.processes.wait()
    return perf_counter() - begin, learn.recorder.losses[-1]


def worker(settings: dict[str, Any], folder: str) -> None:
    """Take turns, in one of the processes; the first one writes down the times."""
    import torch

    from graftwork.processes import join

    torch.set_num_threads(1)
    here = join(torch.device("cpu"))
    sides: dict[str, Callable[[int, int, int], tuple[float, float]]] = {"raw": _raw, "graftwork": _graftwork}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for run in sides.values():
        run(3, here.rank, here.world)
    for number in range(settings["rounds"]):
        for name in sorted(sides, reverse=number % 2 == 0):
            seconds, _ = sides[name](settings["steps"], here.rank, here.world)
            times[name].append(seconds / settings["steps"] * 1e3)
    if here.first:
        Path(folder, "times.json").write_text(json.dumps(times))


def both(settings: dict[str, Any]) -> dict[str, Any]:
    """Start the processes and return their times."""
    from graftwork.launcher import launch

    with tempfile.TemporaryDirectory() as folder:
        launch(worker, settings, folder, processes=settings["processes"])
        times = json.loads(Path(folder, "times.json").read_text())
    speeds = [raw / ours for raw, ours in zip(times["raw"], times["graftwork"], strict=True)]
    return {"value": statistics.median(times["graftwork"]), "raw": statistics.median(times["raw"]), "speeds": speeds}


SIDES: Final[tuple[Side, ...]] = (Side(name="two processes", run=both),)


def measure(options: Options) -> Report:
    """Run the pair and compare round by round."""
    runner = Runner(case="processes", options=options)
    found = runner(SIDES, SMOKE if options.smoke else FULL, rounds=1)
    report = Report(case="processes", smoke=options.smoke, notes=runner.notes)
    for result in found["two processes"]:
        report.add("raw DistributedDataParallel", [result["raw"]], "ms/step")
        report.add("graftwork", [result["value"]], "ms/step", base="raw DistributedDataParallel")
        speed = statistics.median(result["speeds"])
        report.checks.append(Check(what="speed over raw DDP, median of rounds", value=speed, target=0.9, better="high"))
    return report
