"""Models: how a registered builder is called, what it returns, and which parameters are trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn

from graftwork.block import Block, TargetBlock
from graftwork.errors import FreezeError, OptionError
from graftwork.plan import Plan

if TYPE_CHECKING:
    from graftwork.engine import Engine
    from graftwork.objective import TrainLoss

__all__ = ["ModelContext", "ModelParts", "build_model", "freeze_groups", "model_context", "norm_modules"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelContext:
    """Say what a model is built for: the blocks it will see, by field, as they come out of the batch transforms."""

    inputs: Mapping[str, Block]
    targets: Mapping[str, TargetBlock]

    @property
    def num_outputs(self) -> int:
        """Number of outputs of the only target; raise OptionError if there are several."""
        if len(self.targets) != 1:
            raise OptionError(f"this model has one output, and the data the targets {tuple(self.targets)}")
        return next(iter(self.targets.values())).num_outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelParts:
    """Return a model from its builder with its parts named, from input to output.

    `groups` split the parameters for freezing and discriminative learning rates: each parameter is in exactly one.
    `config` rebuilds the same architecture without what made these weights (a file, a download); None means the
    options the builder was called with. `engine` trains the model by other means than the loop. `train_loss` uses the
    loss in training in the model's own way, where its output then has another shape than in evaluation.
    """

    module: nn.Module
    groups: Mapping[str, Sequence[nn.Module]] = field(default_factory=dict)
    config: Mapping[str, Any] | None = None
    engine: Engine | None = None
    train_loss: TrainLoss | None = None

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters by group; raise OptionError if one is in no group or in two."""
        if not self.groups:
            return {"model": list(self.module.parameters())}
        groups = {name: [p for part in parts for p in part.parameters()] for name, parts in self.groups.items()}
        seen = [id(p) for parameters in groups.values() for p in parameters]
        missing = [name for name, p in self.module.named_parameters() if id(p) not in set(seen)]
        if missing or len(seen) != len(set(seen)):
            what = f"leave out {missing[:3]}" if missing else "name a parameter twice"
            raise OptionError(f"the groups {tuple(groups)} of {type(self.module).__name__} {what}")
        return {name: parameters for name, parameters in groups.items() if parameters}


def model_context(plan: Plan) -> ModelContext:
    """Return the context of a data set's plan."""
    return ModelContext(
        inputs={name: plan.fields[name].final for name in plan.inputs},
        targets={name: plan.target_block(name) for name in plan.targets},
    )


def build_model(name: str, plan: Plan, config: Mapping[str, Any]) -> tuple[str, ModelParts]:
    """Build a registered model for a data set; return its full id and its parts.

    Raises:
        UnknownName: no such model, with the nearest names.
        OptionError: the builder does not take one of the options.
    """
    from graftwork.plugins import get_host

    models = get_host().models
    spec, builder = models.spec(name), models.get(name)
    try:
        built = builder(model_context(plan), **config)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise OptionError(f"model {spec.id!r}: {error}") from error
    parts = built if isinstance(built, ModelParts) else ModelParts(module=built)
    return spec.id, parts


def norm_modules(module: nn.Module) -> Iterator[nn.Module]:
    """Iterate the normalisation layers."""
    kinds = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)  # noqa: SLF001 - the only common base
    return (m for m in module.modules() if isinstance(m, kinds))


def freeze_groups(parts: ModelParts, first: int | str, *, train_norm: bool = True) -> None:
    """Freeze the groups before `first` (a name, or a position as in a list) and unfreeze the others.

    With `train_norm` the normalisation layers of frozen groups keep learning, as in fastai.

    Raises:
        FreezeError: no such group, or a freeze that would change nothing.
    """
    groups = parts.parameter_groups()
    names = list(groups)
    start = _position(names, first)
    if start == 0 and first != 0:
        raise FreezeError(
            f"freezing up to {first!r} would freeze nothing: the parameter groups are {names}; "
            "give the model's builder more groups (ModelParts), or leave freeze out"
        )
    for i, parameters in enumerate(groups.values()):
        for parameter in parameters:
            parameter.requires_grad_(i >= start)
    if train_norm:
        for norm in norm_modules(parts.module):
            norm.requires_grad_(True)


def _position(names: list[str], first: int | str) -> int:
    if isinstance(first, str):
        if first not in names:
            raise FreezeError(f"there is no parameter group {first!r}; the groups are {names}")
        return names.index(first)
    if not -len(names) <= first < len(names):
        raise FreezeError(f"there is no parameter group {first}; there are {len(names)}: {names}")
    return first % len(names)
