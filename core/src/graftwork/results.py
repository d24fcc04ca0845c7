"""Look at a model: its predictions beside the targets, its layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from graftwork.dataloader import Batch, Loader
from graftwork.loop import Feed
from graftwork.objective import Objective
from graftwork.show import decoded_samples, grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["layer_table", "show_results"]


@torch.inference_mode()
def show_results(feed: Feed, objective: Objective, loader: Loader, *, max_n: int = 9) -> Figure:
    """Draw the first samples of a loader: the input, its target, then the prediction; wrong ones are titled in red."""
    was_training = feed.module.training
    feed.module.eval()
    batch = next(loader.at(0))
    fields = {name: column[:max_n] for name, column in batch.fields.items()}
    ready = feed.ready(Batch(fields, batch.inputs, batch.targets, batch.index[:max_n]))
    activated = objective.activate(feed.forward(ready))
    feed.module.train(was_training)
    predicted = {name: objective.blocks[name].predict(column) for name, column in activated.items()}
    samples = list(decoded_samples(feed.plan, ready.fields))
    guesses = list(decoded_samples(feed.plan, predicted))
    figure, axes = grid(len(samples))
    figure.suptitle("target, and below it the prediction", fontsize=9)
    for ax, sample, guess in zip(axes, samples, guesses, strict=True):
        for value, block in [*sample.values(), *guess.values()]:
            block.show(value, ax)
        wrong = any(name in sample and str(sample[name][0]) != str(value) for name, (value, _) in guess.items())
        ax.title.set_color("firebrick" if wrong else "black")
    return figure


@torch.inference_mode()
def layer_table(feed: Feed, batch: Batch) -> str:
    """Run one batch in eval mode and tabulate the layers that hold parameters or are leaves."""
    rows: list[tuple[str, str, str, str]] = []
    leaves = [(name, m) for name, m in feed.module.named_modules() if not any(m.children())]
    hooks = [m.register_forward_hook(_noting(name, rows)) for name, m in leaves]
    was_training = feed.module.training
    feed.module.eval()
    try:
        feed.forward(feed.ready(batch))
    finally:
        for hook in hooks:
            hook.remove()
        feed.module.train(was_training)
    total = sum(p.numel() for p in feed.module.parameters())
    learning = sum(p.numel() for p in feed.module.parameters() if p.requires_grad)
    lines = _aligned([("layer", "output", "parameters", "learns"), *rows])
    return "\n".join(
        [*lines, f"{total:,} parameters, {learning:,} of them learn", f"runs on {feed.session.describe()}"]
    )


def _noting(name: str, rows: list[tuple[str, str, str, str]]) -> Callable[[nn.Module, Any, Any], None]:
    def note(module: nn.Module, _: Any, output: Any) -> None:
        shape = "×".join(map(str, output.shape)) if isinstance(output, Tensor) else type(output).__name__
        own = list(module.parameters(recurse=False))
        learns = "" if not own else "yes" if all(p.requires_grad for p in own) else "no"
        rows.append(
            (f"{name} {type(module).__name__}", shape, f"{sum(p.numel() for p in own):,}" if own else "", learns)
        )

    return note


def _aligned(rows: list[tuple[str, str, str, str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d}" for a, b, c, d in rows]
