"""ActivationStats: what comes out of the layers while they learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from graftwork.errors import DataError, OptionError, unknown
from graftwork.events import Callback, TrainState

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ActivationStats"]

NAMED_IN_LEGEND = 12


@final
class ActivationStats(Callback):
    """Record mean, standard deviation and the share near zero of layers' outputs, every `every` training steps.

    `layers` are the names of modules; by default all that have parameters of their own, so linear layers, convolutions
    and norms. `near_zero` is how small a number counts as zero (fastai's 0.05). The figures stay on the device and are
    read at the end of an epoch: `steps` and `values`, (steps, layers, 3). Of an output of several tensors the first is
    looked at. A model that torch.compile has compiled is compiled once more, since the hooks belong to it.
    """

    def __init__(self, *, every: int = 10, layers: tuple[str, ...] | None = None, near_zero: float = 0.05) -> None:
        """Take which layers to look at, and how often."""
        if every < 1 or not near_zero > 0:
            raise OptionError(f"every={every} steps must be at least 1, and near_zero={near_zero} above 0")
        self.every, self.near_zero = every, near_zero
        self.wanted = layers
        self.layers: list[str] = []
        self.steps: list[int] = []
        self.values = torch.empty(0, 0, 3)
        self._rows: list[Tensor] = []
        self._now: dict[str, Tensor] = {}
        self._hooks: list[RemovableHandle] = []
        self._looking = False

    def fit_start(self, state: TrainState) -> None:
        """Choose the layers, and listen to them."""
        modules = dict(state.model.named_modules())
        for name in self.wanted or ():
            if name not in modules:
                raise unknown("layer", name, filter(None, modules))
        own = [name for name, m in modules.items() if next(m.parameters(recurse=False), None) is not None]
        chosen = own if self.wanted is None else list(self.wanted)
        if self.layers != chosen:  # a further fit of the same model goes on
            self.layers, self.steps, self.values = chosen, [], torch.empty(0, len(chosen), 3)
        self._rows, self._now = [], {}
        self._hooks = [modules[name].register_forward_hook(self._hook(name)) for name in chosen]

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            if self._looking:
                tensor = output if isinstance(output, Tensor) else output[0]
                self._now[name] = self._figures(tensor.detach().float())

        return look

    def _figures(self, output: Tensor) -> Tensor:
        return torch.stack([output.mean(), output.std(correction=0), (output.abs() < self.near_zero).float().mean()])

    def batch_start(self, state: TrainState) -> None:
        """Look at this step, if it is its turn."""
        self._looking = (state.steps_before + state.step) % self.every == 0

    def batch_end(self, state: TrainState) -> None:
        """Keep what was seen, unread; a layer that was not used gives nan."""
        if not self._looking or state.phase != "train":
            return
        self._looking = False
        empty = torch.full((3,), torch.nan, device=next(iter(self._now.values())).device) if self._now else None
        if empty is not None:
            self._rows.append(torch.stack([self._now.get(name, empty) for name in self.layers]))
            self.steps.append(state.steps_before + state.step)
        self._now = {}

    def phase_end(self, state: TrainState) -> None:
        """Read the figures of the epoch."""
        self._read()

    def _read(self) -> None:
        if self._rows:
            self.values = torch.cat([self.values, torch.stack(self._rows).cpu()])
            self._rows = []

    def fit_end(self, state: TrainState) -> None:
        """Stop listening."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._looking = [], False

    def plot(self) -> Figure:
        """Draw mean, deviation and share near zero over the steps, a line a layer; DataError if there is none."""
        if not self.steps:
            raise DataError("no activations have been recorded; train with this callback first")
        from graftwork.figure import new_figure

        self._read()
        figure = new_figure(width=11, height=3.6)
        shades = [
            f"C{i}" if len(self.layers) <= 10 else str(0.85 * i / len(self.layers)) for i in range(len(self.layers))
        ]
        for column, (title, ax) in enumerate(
            zip(("mean", "standard deviation", f"share below {self.near_zero:g}"), figure.subplots(1, 3), strict=True)
        ):
            for i, name in enumerate(self.layers):
                ax.plot(self.steps, self.values[:, i, column].tolist(), color=shades[i], label=name or "model")
            ax.set_title(title)
            ax.set_xlabel("step")
        if len(self.layers) <= NAMED_IN_LEGEND:
            figure.axes[0].legend(frameon=False, fontsize="small")
        return figure

    def state_dict(self) -> dict[str, Any]:
        """Return what has been recorded."""
        self._read()
        return {"layers": list(self.layers), "steps": list(self.steps), "values": self.values}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on recording."""
        if state["layers"] == self.layers:
            self.steps, self.values = list(state["steps"]), state["values"].clone()
