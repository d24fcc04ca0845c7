"""Look at a model: its predictions beside the targets, its layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from graftwork.batch import Batch
from graftwork.dataloader import Loader
from graftwork.loop import Feed
from graftwork.markup import table
from graftwork.objective import Objective
from graftwork.show import decoded_samples, grid, name_colours

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from graftwork.learner import Learner

__all__ = ["layer_table", "learner_html", "show_results"]

SHOWN_EPOCHS = 10
Sample = dict[str, tuple[Any, Any]]


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
    if any(block.drawn for block in objective.blocks.values()):
        return _side_by_side(samples, guesses)
    figure, axes = grid(len(samples))
    figure.suptitle("target, and below it the prediction", fontsize=9)
    for ax, sample, guess in zip(axes, samples, guesses, strict=True):
        for value, block in [*sample.values(), *guess.values()]:
            block.show(value, ax)
        wrong = any(name in sample and str(sample[name][0]) != str(value) for name, (value, _) in guess.items())
        ax.title.set_color("firebrick" if wrong else "black")
    return figure


def _side_by_side(samples: list[Sample], guesses: list[Sample]) -> Figure:
    """Draw a picture with the target over the input, and beside it one with the prediction."""
    figure, axes = grid(2 * len(samples), together=2)
    figure.suptitle("target, and beside it the prediction", fontsize=9)
    for ax, sample in zip(axes, [s for n, g in zip(samples, guesses, strict=True) for s in (n, n | g)], strict=True):
        for value, block in sample.values():
            block.show(value, ax)
    name_colours(figure, [*samples, *guesses])
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


def learner_html(learn: Learner) -> str:
    """Say what is trained, on what and how, and how far it has come, for a notebook."""
    total = sum(p.numel() for p in learn.module.parameters())
    learning = sum(p.numel() for p in learn.module.parameters() if p.requires_grad)
    held_out = 0 if learn.data.valid is None else learn.data.valid.num_items
    optimizer = learn.optimizer if isinstance(learn.optimizer, str) else repr(learn.optimizer)
    rows = [
        ("model", learn.model_id or type(learn.module).__name__),
        ("parameters", f"{total:,}, of which {learning:,} learn"),
        ("groups", ", ".join(learn.groups)),
        ("items", f"{learn.data.train.num_items:,} to train on, {held_out:,} held out"),
        ("loss", ", ".join(type(loss).__name__ for loss in learn.objective.losses.values())),
        ("metrics", ", ".join(learn.objective.higher_is_better) or "none"),
        ("optimizer", f"{optimizer}, lr {learn.lr:g}, wd {learn.wd:g}"),
        ("runs on", learn.session.describe()),
        ("trained for", f"{learn.epochs_done} epochs"),
    ]
    return table(rows, title="Learner") + (_history(learn.history[-SHOWN_EPOCHS:]) if learn.history else "")


def _history(lines: list[dict[str, float]]) -> str:
    """Return the epochs as the display of a fit shows them, less their times."""
    names = [name for name in lines[-1] if name != "seconds"]
    return table([[f"{line[name]:.5g}" if name in line else "" for name in names] for line in lines], head=names)


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
