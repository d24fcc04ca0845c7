"""tabular_learner: a Learner of tables, from the name of a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

from graftwork.api import (
    BCEWithLogits,
    Callback,
    ClassIndexBlock,
    CrossEntropy,
    DataLoaders,
    Learner,
    Loss,
    Metric,
    MultiHotBlock,
    OptionError,
    Runtime,
    TargetBlock,
    get_host,
    unknown,
)
from graftwork_tabular.bins import bins_of
from graftwork_tabular.fields import column_of, row_field

__all__ = ["DEFAULT_MODEL", "MODELS", "ClassWeights", "ModelDefaults", "fit_recipe", "tabular_learner"]

MetricLike: TypeAlias = "Metric | str | Callable[..., Any]"
ClassWeights: TypeAlias = "str | Mapping[Any, float]"

FEWEST_STEPS: Final = 300
MOST_EPOCHS: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDefaults:
    """Say how a model is trained where nothing else is asked for, and what its builder needs to know of the data.

    `epochs` are for batches of 256 rows.
    """

    lr: float = 1e-3
    wd: float = 0.01
    epochs: int = 10
    data_options: Callable[[DataLoaders, Mapping[str, Any]], Mapping[str, Any]] | None = None


def with_bins(data: DataLoaders, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Learn the bins of the number columns from the training split, unless they are given."""
    if options.get("bins") is not None:
        return {}
    name, block = row_field(data.plan)
    return {"bins": bins_of(block.cont, column_of(data.train, name)[:, block.n_cat :])}


DEFAULT_MODEL: Final = "tabular/tabm"

MODELS: Final[Mapping[str, ModelDefaults]] = {
    "tabular/ft-transformer": ModelDefaults(lr=5e-4),
    "tabular/mlp": ModelDefaults(lr=1e-2, epochs=5),
    "tabular/resnet": ModelDefaults(lr=4e-3),
    "tabular/tabm": ModelDefaults(lr=4e-3, data_options=with_bins),
}


def tabular_learner(
    data: DataLoaders,
    model: str | None = None,
    *,
    layers: Sequence[int] | None = None,
    config: Mapping[str, Any] | None = None,
    y_range: Sequence[Any] | None = None,
    class_weights: ClassWeights | None = None,
    loss: Loss | str | None = None,
    metrics: MetricLike | Sequence[MetricLike] | None = None,
    optimizer: str | Callable[..., Optimizer] = "adamw",
    lr: float | None = None,
    wd: float | None = None,
    callbacks: Sequence[Callback] = (),
    runtime: Runtime | None = None,
    seed: int = 42,
    progress: bool = True,
) -> Learner:
    """Return a learner of a registered model of rows; `config` holds the options of its builder.

    With `layers` and no name the model is fastai's embedding MLP. `lr` and `wd` default to the model's own.
    `class_weights` is "balanced" (every class counts the same in total) or a weight for each class, 1 for those not
    named. `y_range` (low, high) bounds predicted numbers, in the units people measure them in.

    Raises:
        UnknownName: there is no such model, or no such class.
        OptionError: class weights for numbers or beside a loss, a range for classes.
    """
    model_id = get_host().models.spec(model or ("tabular/mlp" if layers is not None else DEFAULT_MODEL)).id
    known = MODELS.get(model_id, ModelDefaults())
    options = dict(config or {})
    if layers is not None:
        options["layers"] = list(layers)
    if y_range is not None:
        options["y_range"] = encoded_range(data.plan.target, y_range)
    if known.data_options is not None:
        options = {**options, **known.data_options(data, options)}
    if class_weights is not None:
        if loss is not None:
            raise OptionError(
                "class_weights go with the default loss; give the loss its weights itself, or leave it out"
            )
        loss = weighted_loss(data, class_weights)
    return Learner(
        data,
        model_id,
        model_config=options,
        loss=loss,
        metrics=metrics,
        optimizer=optimizer,
        lr=known.lr if lr is None else lr,
        wd=known.wd if wd is None else wd,
        callbacks=callbacks,
        runtime=runtime,
        seed=seed,
        progress=progress,
    )


def fit_recipe(learner: Learner, *, epochs: int | None = None, lr: float | None = None) -> Learner:
    """Train in one cycle at the model's own rate for its own number of epochs, or for those given.

    A small table gets more epochs, up to 100, so that there are some hundred steps.
    """
    return learner.fit_one_cycle(recipe_epochs(learner) if epochs is None else epochs, lr)


def recipe_epochs(learner: Learner) -> int:
    """Return the model's own number of epochs for the learner's data."""
    known = MODELS.get(learner.model_id or "", ModelDefaults())
    return max(known.epochs, min(MOST_EPOCHS, math.ceil(FEWEST_STEPS / len(learner.data.train))))


def encoded_range(block: TargetBlock, y_range: Sequence[Any]) -> list[list[float]]:
    """Return a range in a target's encoded units, low and high for each output.

    Raises:
        OptionError: the target is no number, or its scale is curved, so that a range has no place in it.
    """
    if isinstance(block, ClassIndexBlock | MultiHotBlock):
        raise OptionError(f"y_range={y_range!r} bounds numbers, and the target is {block!r}")
    count = block.num_outputs
    zero, one, two = (_measured(block, torch.full((1, count), float(i))) for i in range(3))
    if not torch.allclose(two - one, one - zero, rtol=1e-4):
        raise OptionError(f"y_range={y_range!r}: the target's scale is no straight line ({block!r}); leave y_range out")
    bounds = torch.tensor([list(b) if isinstance(b, Sequence) else [b] * count for b in y_range], dtype=torch.float64)
    encoded: list[list[float]] = ((bounds - zero) / (one - zero)).tolist()
    return encoded


def _measured(block: TargetBlock, column: Tensor) -> Tensor:
    """Return what an encoded target (1, outputs) means, float64."""
    return block.measured(block.activate(column)).double().reshape(-1)


def weighted_loss(data: DataLoaders, weights: ClassWeights) -> Loss:
    """Return the loss of the only target, whose classes weigh differently; several labels weigh where they are given.

    Raises:
        OptionError: the target has no classes, a weight is not above 0, or "balanced" meets a class training lacks.
    """
    block, (name,) = data.plan.target, data.plan.targets
    if isinstance(block, ClassIndexBlock):
        return CrossEntropy(weight=_weights(block, weights, lambda: _balanced(block, column_of(data.train, name))))
    if isinstance(block, MultiHotBlock):
        return BCEWithLogits(pos_weight=_weights(block, weights, lambda: _balanced_labels(column_of(data.train, name))))
    raise OptionError(f"class_weights={weights!r} are for classes, and the target is {block!r}")


def _weights(block: ClassIndexBlock | MultiHotBlock, given: ClassWeights, balanced: Callable[[], Tensor]) -> Tensor:
    if isinstance(given, Mapping):
        found = torch.tensor(list(_by_class(block, given)))
    elif given == "balanced":
        found = balanced()
    else:
        raise OptionError(f"class_weights={given!r} is neither 'balanced' nor a mapping from class to weight")
    if not (found > 0).all() or not found.isfinite().all():
        shown = dict(zip(block.vocab, found.tolist(), strict=True))
        raise OptionError(
            f"class_weights={given!r} gives {shown}; weights are above 0, and balancing needs every class"
        )
    return found


def _by_class(block: ClassIndexBlock | MultiHotBlock, given: Mapping[Any, float]) -> Iterator[float]:
    for label in given:
        if label not in block.vocab:
            raise unknown("class", str(label), map(str, block.vocab))
    return (float(given.get(label, 1.0)) for label in block.vocab)


def _balanced(block: ClassIndexBlock, codes: Tensor) -> Tensor:
    counts = torch.bincount(codes.flatten(), minlength=block.num_outputs).float()
    return counts.sum() / (len(counts) * counts)


def _balanced_labels(labels: Tensor) -> Tensor:
    share = labels.float().mean(0)
    return (1 - share) / share
