"""Grad-CAM: which parts of a picture speak for a class.

R. R. Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization" (arXiv
1610.02391).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from graftwork.api import (
    Batch,
    ClassIndexBlock,
    Learner,
    MultiHotBlock,
    OptionError,
    PlanError,
    Predictor,
    TargetBlock,
    evaluating,
    unknown,
)
from graftwork_vision.thumbnails import picture_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

__all__ = ["GradCam", "grad_cam", "show_grad_cam"]

SHARE = 0.45
"""Of the heat in an overlay, where it is hottest."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GradCam:
    """Hold what speaks for a class: `heat` (H, W) from 0 to 1 over the `picture` as the model saw it."""

    heat: np.ndarray[Any, np.dtype[np.float32]]
    picture: Image
    label: Any
    probability: float

    def overlay(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Return the picture with the heat laid over it, (H, W, 3): red where it is hottest."""
        from matplotlib import colormaps

        pixels = np.asarray(self.picture.convert("RGB"), np.float32)
        colours = colormaps["turbo"](self.heat)[..., :3] * 255
        share = (SHARE * self.heat)[..., None]
        laid: np.ndarray[Any, np.dtype[np.uint8]] = (pixels * (1 - share) + colours * share).round().astype(np.uint8)
        return laid

    def draw(self, ax: Axes) -> None:
        """Draw the overlay, titled with the class and its probability."""
        ax.imshow(self.overlay())
        ax.set_title(f"{self.label} {self.probability:.2f}", fontsize=9)
        ax.set_axis_off()

    def show(self) -> Figure:
        """Draw the picture, and beside it the overlay."""
        from graftwork.api import new_figure

        figure = new_figure(width=5.0, height=2.8)
        left, right = figure.subplots(1, 2)
        left.imshow(self.picture.convert("RGB"))
        left.set_axis_off()
        self.draw(right)
        return figure


def grad_cam(learn: Learner | Predictor, item: Any, *, target: Any = None) -> GradCam:
    """Return which parts of a picture speak for a class, by default the predicted one.

    It is the last map of features, weighed by how much more each feature would raise the class's score, without what
    speaks against it. The model is left as it was.

    Raises:
        OptionError: the model has no map of features, as a vision transformer has none.
        PlanError: the target is not a choice of classes, or there are several inputs.
        UnknownName: `target` is none of the classes.
    """
    plan, module = learn.feed.plan, learn.feed.module
    block = _classes(plan.target)
    if len(plan.inputs) != 1:
        raise PlanError(f"grad_cam takes a model of one picture, and this one's inputs are {plan.inputs}")
    name = plan.inputs[0]
    fields = plan.collate([plan.encode({name: item})])
    ready = learn.feed.ready(Batch(fields, plan.inputs, (), torch.zeros(1, dtype=torch.int64)))
    ready.fields[name] = ready.fields[name].detach().requires_grad_(True)
    with torch.enable_grad(), evaluating(module), _last_map(module) as maps:
        raw: Tensor = learn.feed.forward(ready)
        if not maps:
            raise OptionError(
                f"{type(module).__name__} has no map of features over the picture, so there is no Grad-CAM"
            )
        said = block.activate(raw.detach())[0]
        wanted = int(said.argmax()) if target is None else _position(block.vocab, target)
        slopes = torch.autograd.grad(raw[0, wanted].float(), maps[-1])[0]
    heat = _heat(maps[-1].detach(), slopes, tuple(ready.fields[name].shape[-2:]))
    (value, shown), *_ = (plan.decode_batch(name, ready.fields[name].detach()),)
    return GradCam(
        heat=heat, picture=picture_of(value[0], shown), label=block.vocab[wanted], probability=float(said[wanted])
    )


def show_grad_cam(learn: Learner | Predictor, items: Sequence[Any], *, target: Any = None) -> Figure:
    """Draw the overlays of several pictures; see `grad_cam`."""
    from graftwork.api import new_figure

    columns = max(1, round(len(items) ** 0.5))
    rows = -(-len(items) // columns)
    figure = new_figure(width=columns * 2.4, height=rows * 2.7)
    for number, item in enumerate(items):
        grad_cam(learn, item, target=target).draw(figure.add_subplot(rows, columns, number + 1))
    return figure


def _classes(block: TargetBlock) -> ClassIndexBlock | MultiHotBlock:
    if not isinstance(block, ClassIndexBlock | MultiHotBlock):
        raise PlanError(f"grad_cam is about classes, and the target is {block!r}")
    return block


def _position(vocab: Sequence[Any], target: Any) -> int:
    if target not in vocab:
        raise unknown("class", str(target), map(str, vocab))
    return list(vocab).index(target)


def _heat(features: Tensor, slopes: Tensor, size: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
    weights = slopes.float().mean((2, 3), keepdim=True)
    heat = (features.float() * weights).sum(1, keepdim=True).relu()
    heat = nn.functional.interpolate(heat, size=size, mode="bilinear")[0, 0]
    whole: np.ndarray[Any, np.dtype[np.float32]] = (heat / heat.max().clamp(min=1e-12)).cpu().numpy()
    return whole


@contextmanager
def _last_map(module: nn.Module) -> Iterator[list[Tensor]]:
    """Give a list whose last entry is the map of features computed last, (1, C, H, W) of more than one place."""
    maps: list[Tensor] = []

    def note(_: nn.Module, __: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
            maps[:] = [output]

    hooks = [part.register_forward_hook(note) for part in module.modules()]
    try:
        yield maps
    finally:
        for hook in hooks:
            hook.remove()
