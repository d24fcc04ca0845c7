"""Models: how a registered builder is called, what it returns, and which parameters are trained."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from graftwork.block import Block, TargetBlock
from graftwork.errors import FreezeError, OptionError
from graftwork.plan import Plan
from graftwork.runtime import seeded

if TYPE_CHECKING:
    from graftwork.engine import Engine
    from graftwork.objective import TrainLoss

__all__ = [
    "Carrying",
    "ModelContext",
    "ModelParts",
    "build_model",
    "carried_over",
    "freeze_groups",
    "model_context",
    "norm_modules",
]


class Carrying(nn.Module, ABC):
    """Carry something, as the state of a recurrent network, from a batch to one that follows it (`Batch.follows`).

    `forward` begins with `take` and says where it ended with `leave`. What lies between two batches is kept by who runs
    the model, in a checkpoint too; called by itself, the module begins anew each time.
    """

    def __init__(self) -> None:
        """Have nothing to go on from."""
        super().__init__()
        self._given: tuple[Tensor, ...] = ()
        self._left: tuple[Tensor, ...] = ()

    def take(self) -> tuple[Tensor, ...]:
        """Return what to go on from, once; empty at the beginning of a stream."""
        given, self._given = self._given, ()
        return given

    def leave(self, *carried: Tensor) -> None:
        """Say what the batch that follows is to go on from; no gradient flows through it."""
        self._left = tuple(tensor.detach() for tensor in carried)

    def hand_over(self, carried: tuple[Tensor, ...]) -> None:
        """Have the next forward pass go on from this."""
        self._given = carried

    def hand_back(self) -> tuple[Tensor, ...]:
        """Return what the last forward pass left, and keep nothing of it."""
        left, self._left, self._given = self._left, (), ()
        return left


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
    loss in training in the model's own way, where its output then has another shape than in evaluation. `products` says
    that large matrix products are what the model's time goes to, so that `precision="auto"` computes them in bf16.
    """

    module: nn.Module
    groups: Mapping[str, Sequence[nn.Module]] = field(default_factory=dict)
    config: Mapping[str, Any] | None = None
    engine: Engine | None = None
    train_loss: TrainLoss | None = None
    products: bool = False

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


def carried_over(parts: ModelParts, name: str | None, config: Mapping[str, Any], *, old: Plan, new: Plan) -> ModelParts:
    """Return a model for another data set with the weights of this one, and what of it learns.

    One given by name is built anew, since its builder may make of other data another network; what is trained must be
    what an artifact will be.

    Raises:
        OptionError: the data has other inputs or targets, or the model's parameters would be others.
    """
    _check_alike(old, new)
    if name is None:
        return parts
    with seeded(0):  # weights that are replaced at once
        _, built = build_model(name, new, config)
    before, after = parts.module.state_dict(), built.module.state_dict()
    wrong = [k for k in {**before, **after} if k not in before or k not in after or before[k].shape != after[k].shape]
    if wrong:
        raise OptionError(
            f"for this data {name} is another network: {len(wrong)} of its parameters have no counterpart, the first "
            f"is {wrong[0]!r}; make a new learner for it"
        )
    built.module.load_state_dict(before)
    for parameter, own in zip(built.module.parameters(), parts.module.parameters(), strict=True):
        parameter.requires_grad_(own.requires_grad)
    return built


def _check_alike(old: Plan, new: Plan) -> None:
    """Refuse data whose fields, kinds of inputs or targets are others."""
    if (old.inputs, old.targets) != (new.inputs, new.targets):
        raise OptionError(f"the data has the fields {new.inputs + new.targets}, not {old.inputs + old.targets}")
    for name in (*old.inputs, *old.targets):
        before, after = old.fields[name].final, new.fields[name].final
        if before != after if name in old.targets else before.id != after.id:
            raise OptionError(f"{name!r} is {after!r} in this data, and this model was made for {before!r}")


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
