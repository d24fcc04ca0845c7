"""The tiny job of the overhead case: a network of 10-32-2, batches of 64, AdamW; and hand-written loops for it.

Every run starts from the same weights and sees the same batches, and hands back its last loss: sides that do the same
work agree on it to the bit. Peers' interpreters import this module, so it needs torch alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any, Final

from bench.harness import slope

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

__all__ = ["ADAMW", "BS", "LR", "WD", "WIDTH", "Run", "clock", "columns", "mlp", "raw", "ready_batches", "timed"]

BS, WIDTH, HIDDEN = 64, 10, 32
LR, WD = 1e-3, 0.01
ADAMW: Final[dict[str, Any]] = {"betas": (0.9, 0.99), "eps": 1e-5}

Run = Callable[[int, str], tuple[float, float]]
"""Take that many steps on a device; return the seconds they took and the last loss."""


def clock(device: str) -> float:
    """Return processor time on the CPU; elsewhere wall time, when all that was asked of the device is done."""
    if device == "cpu":
        return process_time()
    import torch

    torch.cuda.synchronize()
    return perf_counter()


def timed(run: Run) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Make a side of a run: its slope in µs per step, and the last loss."""

    def side(settings: dict[str, Any]) -> dict[str, Any]:
        import torch

        torch.set_num_threads(1)
        device, losses = settings["device"], list[float]()
        run(settings["short"], device)  # first calls import and allocate

        def seconds(steps: int) -> float:
            spent, loss = run(steps, device)
            losses.append(loss)
            return spent

        cost = slope(seconds, settings["short"], settings["long"], repeats=settings["repeats"])
        return {"value": cost * 1e6, "loss": losses[-1]}

    return side


def columns(num_batches: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Invent numbers (N, 10) and which of two classes they mean (N,)."""
    import torch

    generator = torch.Generator().manual_seed(1)
    x = torch.randn(num_batches * BS, WIDTH, generator=generator)
    return x.to(device), (x[:, 0] > 0).long().to(device)


def ready_batches(num_batches: int, device: str = "cpu") -> list[tuple[Tensor, Tensor]]:
    """Return batches that wait in a list, so that only the loop is measured."""
    x, y = columns(num_batches, device)
    return list(zip(x.split(BS), y.split(BS), strict=True))


def mlp(device: str = "cpu") -> nn.Module:
    """Build the network, always with the same weights."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2)).to(device)


def grouped(model: nn.Module) -> list[dict[str, Any]]:
    """Group parameters as graftwork does: matrices are decayed, biases are not."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": WD},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def raw(*, fused: bool = True, groups: bool = True, shuffled: bool = False) -> Run:
    """Return the loop everybody writes, over a list of batches or over a permuted index."""

    def run(steps: int, device: str) -> tuple[float, float]:
        import torch

        model = mlp(device).train()
        parameters: Any = grouped(model) if groups else model.parameters()
        optimizer = torch.optim.AdamW(parameters, lr=LR, weight_decay=WD, fused=fused or None, **ADAMW)
        batches = permuted(*columns(steps, device)) if shuffled else ready_batches(steps, device)
        return _steps(model, optimizer, batches, device)

    return run


def permuted(x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Take each batch from the whole data by a permuted index."""
    import torch

    for index in torch.randperm(len(x), device=x.device).split(BS):
        yield x[index], y[index]


def _steps(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[tuple[Tensor, Tensor]], device: str
) -> tuple[float, float]:
    from torch.nn.functional import cross_entropy

    begin = clock(device)
    for x, y in batches:
        loss = cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return clock(device) - begin, loss.item()


def raw_validation(steps: int, device: str) -> tuple[float, float]:
    """Validate by hand with three metrics that stay on the device."""
    import torch
    from torch.nn.functional import cross_entropy

    batches, model = ready_batches(steps, device), mlp(device).eval()
    begin = clock(device)
    with torch.no_grad():
        total, right, wrong, among = (torch.zeros((), device=device) for _ in range(4))
        for x, y in batches:
            out = model(x)
            total += cross_entropy(out, y) * len(x)
            scores = out.softmax(1)
            right += (scores.argmax(1) == y).sum()
            wrong += (scores.argmax(1) != y).sum()
            among += (scores.topk(2, 1).indices == y[:, None]).any(1).sum()
        loss = float(total) / len(batches) / BS
    return clock(device) - begin, loss
