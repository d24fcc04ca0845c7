"""Optimizers by name, torch's and ours, over named parameter groups, with weight decay where it belongs.

Weight decay is decoupled for every optimizer made by name (I. Loshchilov and F. Hutter, arXiv 1711.05101): before a
step each weight is multiplied by `1 - lr * wd`. Parameters of one dimension (biases among them), and all parameters of
normalisation layers, are not decayed.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from graftwork.errors import OptionError, unknown
from graftwork.events import Callback
from graftwork.optimizers.joined import Lookahead
from graftwork.optimizers.moments import Lion, QHAdam
from graftwork.optimizers.muon import Muon
from graftwork.optimizers.schedule_free import ScheduleFree, ScheduleFreeAdamW, ScheduleFreeSGD, WeightSwitch
from graftwork.optimizers.trust import Lamb, Larc
from graftwork.schedule import Schedule

if TYPE_CHECKING:
    from graftwork.events import TrainState

__all__ = ["OptimizerLike", "ParamGroup", "companions", "hyper_setter", "make_optimizer", "optimizer_names"]

OptimizerLike: TypeAlias = str | Callable[..., Optimizer]
LOG = logging.getLogger(__name__)

_PRESETS: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    # A second moment that forgets sooner and a larger eps than torch's: what one-cycle training was tuned with.
    "adamw": ("adamw", {"betas": (0.9, 0.99), "eps": 1e-5}),
    "adam": ("adamw", {"betas": (0.9, 0.99), "eps": 1e-5}),
    "sgd": ("sgd", {"momentum": 0.9}),
    # RAdam under Lookahead, with the values the name was made known with.
    "ranger": ("lookahead(radam)", {"betas": (0.95, 0.99), "eps": 1e-6}),
    "schedulefree(adam)": ("schedulefree(adamw)", {}),
}
_OURS: Final[Mapping[str, type[Optimizer]]] = {
    "lamb": Lamb,
    "larc": Larc,
    "lion": Lion,
    "muon": Muon,
    "qhadam": QHAdam,
    "schedulefree(adamw)": ScheduleFreeAdamW,
    "schedulefree(sgd)": ScheduleFreeSGD,
}
_DECAYS_ITSELF: Final = frozenset({"adamw", "adafactor", *_OURS})
_FUSED: Final = frozenset({"Adam", "AdamW", "SGD"})
_FUSED_ON: Final = frozenset({"cpu", "cuda", "mps", "xpu"})
_NORMS: Final = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)  # noqa: SLF001 - the only common base


@dataclass(frozen=True, slots=True, kw_only=True)
class ParamGroup:
    """Name some parameters, which share a learning rate."""

    name: str
    params: Sequence[nn.Parameter]


def make_optimizer(
    optimizer: OptimizerLike,
    groups: Sequence[ParamGroup],
    *,
    lr: float,
    wd: float = 0.01,
    module: nn.Module | None = None,
    **options: Any,
) -> Optimizer:
    """Make an optimizer over the parameters that require a gradient; make a new one after freezing or unfreezing.

    `optimizer` is the name of any class in `torch.optim`, one of ours (lamb, larc, lion, muon, qhadam, ranger,
    schedulefree(adamw), schedulefree(sgd)), "lookahead(NAME)" around any of them but the schedule-free ones (options
    `sync_period` and `slow_step`, the rest goes to NAME), or a function `(param_groups, lr=…, **options) -> Optimizer`,
    whose own idea of weight decay then holds. "adamw" (and "adam", the same) has betas (0.9, 0.99) and eps 1e-5, "sgd"
    has momentum 0.9, all others of torch its defaults; fused kernels are used where the device has them. `module` is
    where normalisation layers and embeddings are looked for; without it, all parameters of more than one dimension are
    decayed, and muon takes all matrices.
    Each torch group carries the `name` of its ParamGroup; there are two of a name if only some of it is decayed.

    Raises:
        UnknownName: no such optimizer, with the nearest names.
        OptionError: an impossible or unknown option, nothing to train, or an optimizer that wants the loss again within
            a step (LBFGS).
    """
    if not lr > 0 or not wd >= 0:
        raise OptionError(f"lr={lr} must be above 0 and wd={wd} not below")
    torch_groups = _torch_groups(groups, wd, module)
    if not isinstance(optimizer, str):
        _refuse_closures(optimizer.func if isinstance(optimizer, partial) else optimizer)
        return _checked(optimizer(torch_groups, lr=lr, **options), optimizer)
    return _named(optimizer.lower().replace(" ", ""), torch_groups, lr, options, module)


def _named(
    given: str, groups: list[dict[str, Any]], lr: float, options: Mapping[str, Any], module: nn.Module | None
) -> Optimizer:
    name, preset = _PRESETS.get(given, (given, {}))
    options = {**preset, **options}
    if wrapped := re.fullmatch(r"lookahead\((.+)\)", name):
        return _lookahead(wrapped[1], groups, lr, options, module)
    classes = _classes()
    if name == "lbfgs":
        _refuse_closures(torch.optim.LBFGS)
    if name not in classes:
        raise unknown("optimizer", given, [*classes, "ranger"], hint="lookahead(NAME) goes around any")
    kind = classes[name]
    if kind is Muon and module is not None:
        options = {"elementwise": _embeddings(module), **options}
    if issubclass(kind, ScheduleFree):
        _warn_of_batch_norm(given, module)
    return _build(kind, groups, lr, options, decays=name in _DECAYS_ITSELF)


def _lookahead(
    name: str, groups: list[dict[str, Any]], lr: float, options: Mapping[str, Any], module: nn.Module | None
) -> Optimizer:
    if name.startswith(("lookahead(", "schedulefree(", "ranger")):
        raise OptionError(f"lookahead({name}): {name} keeps a mean of the weights already; use it by itself")
    own = {key: options[key] for key in ("sync_period", "slow_step") if key in options}
    fast = _named(name, groups, lr, {key: value for key, value in options.items() if key not in own}, module)
    return Lookahead(fast, **own)


def companions(optimizer: Optimizer) -> list[Callback]:
    """Return the callbacks an optimizer needs beside it: a schedule-free one has two sets of weights."""
    return [WeightSwitch(optimizer)] if isinstance(optimizer, ScheduleFree) else []


def optimizer_names() -> list[str]:
    """Return the names `make_optimizer` knows; "lookahead(NAME)" goes around most of them."""
    return sorted([*_classes(), "ranger"])


def _classes() -> dict[str, type[Optimizer]]:
    """Return our optimizers, and torch's by lower-case name but the one that wants the loss again."""
    found = {name.lower(): thing for name, thing in vars(torch.optim).items() if isinstance(thing, type)}
    torchs = {n: c for n, c in found.items() if issubclass(c, Optimizer) and n not in {"optimizer", "lbfgs"}}
    return {**torchs, **_OURS}


def _refuse_closures(kind: object) -> None:
    """Refuse a class whose step must be given a closure."""
    if not (isinstance(kind, type) and issubclass(kind, Optimizer)):
        return
    closure = inspect.signature(kind.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise OptionError(
            f"{kind.__name__} computes the loss several times within a step, which a training loop over batches does "
            "not offer; use adamw, or muon for a step that knows more than the gradient"
        )


def _embeddings(module: nn.Module) -> list[Tensor]:
    return [layer.weight for layer in module.modules() if isinstance(layer, nn.Embedding | nn.EmbeddingBag)]


def _warn_of_batch_norm(name: str, module: nn.Module | None) -> None:
    """Say what a mean of weights does not fit: statistics of batches that other weights gave."""
    layers = () if module is None else module.modules()
    if any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in layers):  # noqa: SLF001 - the only common base
        LOG.warning(
            "%s validates with a mean of the weights, but batch norm's statistics are those of the weights on the way; "
            "a model without batch norm fits better, or another optimizer",
            name,
        )


def _torch_groups(groups: Sequence[ParamGroup], wd: float, module: nn.Module | None) -> list[dict[str, Any]]:
    names = [group.name for group in groups]
    if len(set(names)) < len(names):
        raise OptionError(f"parameter groups need different names; found {names}")
    spared = _norm_parameters(module)
    made = [part for group in groups for part in _parts(group, wd, spared)]
    if not made:
        raise OptionError(f"none of the parameters in {names} requires a gradient; unfreeze some")
    return made


def _parts(group: ParamGroup, wd: float, spared: Collection[int]) -> Iterable[dict[str, Any]]:
    """Yield the group, in two if some of it is decayed: each torch group costs several µs a step."""
    trained = [p for p in group.params if p.requires_grad]
    decayed = [p for p in trained if wd > 0 and p.ndim > 1 and id(p) not in spared]
    kept = {id(p) for p in decayed}
    for params, decay in ((decayed, wd), ([p for p in trained if id(p) not in kept], 0.0)):
        if params:
            yield {"params": params, "name": group.name, "weight_decay": decay}


def _norm_parameters(module: nn.Module | None) -> set[int]:
    """Return the ids of normalisation layers' parameters; a LayerNorm over pictures has some of three dimensions."""
    layers = () if module is None else module.modules()
    return {id(p) for layer in layers if isinstance(layer, _NORMS) for p in layer.parameters(recurse=False)}


def _build(
    kind: type[Optimizer], groups: list[dict[str, Any]], lr: float, options: Mapping[str, Any], *, decays: bool
) -> Optimizer:
    parameters = inspect.signature(kind).parameters
    _check_options(kind, options, parameters)
    by_hook = not decays and any(group["weight_decay"] for group in groups)
    if not decays:
        groups = [_without_own_decay(group, parameters) for group in groups]
    # A fused step may skip itself when gradients overflow, which the decay by hook would not see.
    fused = kind.__name__ in _FUSED and "fused" not in options and not by_hook and _fusable(groups)
    made = _try_fused(kind, groups, lr, options) if fused else _construct(kind, groups, lr, options)
    if by_hook:
        made.register_step_pre_hook(_decay)
    return made


def _check_options(kind: type[Optimizer], options: Mapping[str, Any], parameters: Collection[str]) -> None:
    valid = sorted(set(parameters) - {"params", "lr", "weight_decay"})
    for name in options:
        if name not in valid:
            near = get_close_matches(name, valid, n=1)
            hint = "say wd=…" if name == "weight_decay" else f"did you mean {near[0]!r}?" if near else f"valid: {valid}"
            raise OptionError(f"{kind.__name__} has no option {name!r} here; {hint}")


def _without_own_decay(group: dict[str, Any], parameters: Collection[str]) -> dict[str, Any]:
    others = {key: value for key, value in group.items() if key != "weight_decay"}
    own = {"weight_decay": 0.0} if "weight_decay" in parameters else {}
    return {**others, **own, "decoupled_decay": group["weight_decay"]}


def _fusable(groups: Iterable[Mapping[str, Any]]) -> bool:
    return all(p.is_floating_point() and p.device.type in _FUSED_ON for group in groups for p in group["params"])


def _try_fused(kind: type[Optimizer], groups: list[dict[str, Any]], lr: float, options: Mapping[str, Any]) -> Optimizer:
    fused = {"fused": True} if all(_has_kernel(kind, *place) for place in _places(groups)) else {}
    return _construct(kind, groups, lr, {**options, **fused})


def _places(groups: list[dict[str, Any]]) -> set[tuple[torch.device, torch.dtype]]:
    return {(p.device, p.dtype) for group in groups for p in group["params"]}


def _has_kernel(kind: type[Optimizer], device: torch.device, dtype: torch.dtype) -> bool:
    """Take one step with one number: before torch 2.4 fused SGD is made on the CPU, and fails when it steps."""
    probe = nn.Parameter(torch.zeros(1, device=device, dtype=dtype))
    probe.grad = torch.zeros_like(probe)
    make: Any = kind
    try:
        make([probe], lr=0.1, fused=True).step()
    except RuntimeError:
        # torch's only way of saying that a device or type has no fused kernel.
        return False
    return True


def _construct(
    kind: Callable[..., Optimizer], groups: list[dict[str, Any]], lr: float, options: Mapping[str, Any]
) -> Optimizer:
    try:
        return kind(groups, lr=lr, **options)
    except (TypeError, ValueError) as error:
        raise OptionError(f"the optimizer refuses its parameters or options: {error}") from error


@torch.no_grad()
def _decay(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    """Shrink what is about to be stepped."""
    for group in optimizer.param_groups:
        weights = [p for p in group["params"] if p.grad is not None]
        if weights and group["decoupled_decay"]:
            torch._foreach_mul_(weights, 1 - group["lr"] * group["decoupled_decay"])


def _checked(made: object, factory: object) -> Optimizer:
    if not isinstance(made, Optimizer):
        raise OptionError(f"{factory!r} gave a {type(made).__name__}, not an Optimizer")
    _refuse_closures(type(made))
    if not all("name" in group for group in made.param_groups):
        raise OptionError(f"{factory!r} must hand the parameter groups it gets on to the optimizer, with their names")
    return made


def hyper_setter(
    optimizer: Optimizer, schedules: Mapping[str, Schedule], state: TrainState | None = None
) -> Callable[[int], None]:
    """Return a function of the step that writes each group's learning rate and momentum; `state` gets the last rate.

    The momentum is `momentum`, or the first of `betas`; where there is none, or it is 0, it stays so, which is logged.

    Raises:
        OptionError: a group of the optimizer has no schedule.
    """
    groups = optimizer.param_groups
    for group in groups:
        if group["name"] not in schedules:
            raise OptionError(f"no schedule for parameter group {group['name']!r}; there are {sorted(schedules)}")
    names = [group["name"] for group in groups]
    # By position: loading a state puts new groups in the place of these.
    rates = [schedules[name].lr.item for name in names]
    moved = [(i, mom.item) for i, name in enumerate(names) if (mom := schedules[name].mom) is not None]
    momenta = [(i, mom) for i, mom in moved if groups[i].get("momentum")]
    betas = [(i, mom, groups[i]["betas"][1]) for i, mom in moved if "betas" in groups[i]]
    if moved and not momenta and not betas:
        LOG.warning("%s has no momentum here, so the momentum schedule is not used", type(optimizer).__name__)
    last = [schedule.lr.item for name, schedule in schedules.items() if name in names][-1]

    def set_hyper(step: int) -> None:
        groups = optimizer.param_groups
        for group, lr in zip(groups, rates, strict=True):
            group["lr"] = lr(step)
        for i, mom in momenta:
            groups[i]["momentum"] = mom(step)
        for i, mom, beta2 in betas:
            groups[i]["betas"] = (mom(step), beta2)
        if state is not None:
            state.learning_rate = last(step)

    return set_hyper
