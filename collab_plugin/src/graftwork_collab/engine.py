"""The engine that trains `collab/dot-bias` on the CPU: the learner's AdamW, on the rows of each batch only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from graftwork.api import MSE, ColumnLoader, Engine, EngineRun
from graftwork_collab.factor import DotBias

__all__ = ["FactorEngine"]

Cells = NDArray[np.float32]
_OWN_WAYS: Final = ("amsgrad", "maximize")


@final
class FactorEngine(Engine):
    """Train a DotBias by the kernel of `kernels`.

    It follows the learner's schedules and the loader's order, and leaves weights and the optimizer's moments where the
    loop would leave them, up to rounding and to a slow root taken once for several steps; so either may go on where
    the other stopped. It is single-threaded: the same seed gives the same bits. Beside the model it needs three times
    its weights in memory.
    """

    def refuses(self, run: EngineRun) -> str | None:
        """Return what the kernel cannot do here, or None."""
        return _data_reason(run) or _loss_reason(run) or _optimizer_reason(run) or _schedule_reason(run)

    def train_epoch(self, run: EngineRun) -> Tensor:
        """Train for one epoch; return the loss of each batch."""
        from graftwork_collab import kernels

        module, loader = run.module, run.loader
        assert isinstance(module, DotBias)
        assert isinstance(loader, ColumnLoader)
        sides = _sides(module)
        group = run.optimizer.param_groups[0]
        schedule, beta2 = run.schedules[group["name"]], float(group["betas"][1])
        momenta = np.full_like(schedule.lr, group["betas"][0]) if schedule.mom is None else schedule.mom
        decay = float(group["weight_decay"])
        low, high = module.y_range or (0.0, 0.0)
        cells = _pack(sides, run.optimizer, kernels.CELL)
        users, items, ratings = (loader.columns[name] for name in (*loader.plan.inputs, *loader.plan.targets))
        losses = kernels.train_epoch(
            cells,
            module.user_factors.embedding_dim,
            users.numpy(),
            (items + len(module.user_factors.weight)).numpy(),
            ratings.numpy(),
            loader.order(run.epoch).numpy(),
            loader.bs,
            run.first_step,
            kernels.schedule_table(schedule.lr, momenta, decay, beta2),
            schedule.lr,
            momenta,
            decay,
            beta2,
            float(group["eps"]),
            low,
            high - low,
        )
        _unpack(cells, sides, run.optimizer, run.first_step + len(losses))
        return torch.from_numpy(losses)


def _data_reason(run: EngineRun) -> str | None:
    module, loader = run.module, run.loader
    if not isinstance(module, DotBias):
        return f"the model is a {type(module).__name__}, not a DotBias"
    if run.device.type != "cpu":
        return f"the device is {run.device.type}, not the CPU"
    if not isinstance(loader, ColumnLoader):
        return "the ratings do not lie in memory as columns"
    if loader.weights is not None:
        return "the ratings are weighted"
    if loader.plan.batch_steps:
        return "the data has batch transforms"
    frozen = [name for name, parameter in module.named_parameters() if not parameter.requires_grad]
    return f"{frozen[0]} is frozen" if frozen else None


def _loss_reason(run: EngineRun) -> str | None:
    losses = list(run.objective.losses.values())
    if len(losses) != 1 or type(losses[0]) is not MSE:
        return f"the loss is {', '.join(type(loss).__name__ for loss in losses)}, not MSE"
    return None if run.objective.train_loss is None else "the model has a training loss of its own"


def _optimizer_reason(run: EngineRun) -> str | None:
    groups = run.optimizer.param_groups
    if type(run.optimizer) is not torch.optim.AdamW:
        return f"the optimizer is {type(run.optimizer).__name__}, not AdamW"
    if len(groups) != 1:
        return f"the parameters are in {len(groups)} groups, not in one"
    odd = [name for name in _OWN_WAYS if groups[0].get(name)]
    return f"the optimizer's option {odd[0]} is on" if odd else None


def _schedule_reason(run: EngineRun) -> str | None:
    group = run.optimizer.param_groups[0]
    schedule = run.schedules[group["name"]]
    if schedule.lr.max() * group["weight_decay"] >= 1:
        return f"weight decay {group['weight_decay']} at rate {schedule.lr.max():g} leaves nothing of the weights"
    momentum = group["betas"][0] if schedule.mom is None else schedule.mom.max()
    if momentum**2 >= group["betas"][1]:
        return f"the momentum {momentum} is not below the root of beta2, {group['betas'][1]}"
    return None


# -- between the module's parameters and the kernel's cells ------------------------------------------------------------

Side = tuple[Tensor, Tensor]


def _sides(module: DotBias) -> tuple[Side, Side]:
    """Return (factors, biases) of users and of items."""
    return (
        (module.user_factors.weight, module.user_bias.weight),
        (module.item_factors.weight, module.item_bias.weight),
    )


def _pack(sides: tuple[Side, Side], optimizer: Optimizer, cell: int) -> Cells:
    """Lay weights and moments out as `kernels` wants them."""
    num_factors = sides[0][0].shape[1]
    width = -(-(num_factors + 1) // cell) * cell
    cells = np.zeros((sum(len(factors) for factors, _ in sides), 3 * width), dtype=np.float32)
    start = 0
    for factors, bias in sides:
        rows = cells[start : start + len(factors)]
        for part, (of_factors, of_bias) in enumerate(
            zip(_kept(factors, optimizer), _kept(bias, optimizer), strict=True)
        ):
            rows[:, part * width : part * width + num_factors] = of_factors
            rows[:, part * width + num_factors] = of_bias[:, 0]
        start += len(factors)
    return cells


def _kept(parameter: Tensor, optimizer: Optimizer) -> tuple[Any, Any, Any]:
    """Return a parameter's values and both its moments as arrays; moments not yet there are 0."""
    state: Mapping[str, Tensor] = optimizer.state.get(parameter, {})
    nothing = np.zeros(tuple(parameter.shape), dtype=np.float32)
    moments = (state[name].numpy() if name in state else nothing for name in ("exp_avg", "exp_avg_sq"))
    return (parameter.detach().numpy(), *moments)  # type: ignore[return-value]


def _unpack(cells: Cells, sides: tuple[Side, Side], optimizer: Optimizer, steps: int) -> None:
    """Write weights and moments back to where torch has them."""
    num_factors, width, start = sides[0][0].shape[1], cells.shape[1] // 3, 0
    for factors, bias in sides:
        rows = torch.from_numpy(cells[start : start + len(factors)])
        _restore(factors, rows, 0, num_factors, width, optimizer, steps)
        _restore(bias, rows, num_factors, num_factors + 1, width, optimizer, steps)
        start += len(factors)


@torch.no_grad()
def _restore(
    parameter: Tensor, rows: Tensor, begin: int, end: int, width: int, optimizer: Optimizer, steps: int
) -> None:
    state = optimizer.state[parameter]
    for name in ("exp_avg", "exp_avg_sq"):
        state.setdefault(name, torch.empty_like(parameter))
    state["step"] = torch.tensor(float(steps))
    for part, target in enumerate((parameter, state["exp_avg"], state["exp_avg_sq"])):
        target.copy_(rows[:, part * width + begin : part * width + end])
