"""A model for each input of a sample, whatever it is: a picture beside a row of a table, or beside a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from graftwork.api import ModelContext, ModelParts, OptionError, get_host, unknown

__all__ = ["Fusion", "fusion"]


class Fusion(nn.Module):
    """Give each input to its own model, and add the raw outputs: of classes, multiply what each holds likely."""

    def __init__(self, parts: Mapping[str, nn.Module]) -> None:
        """Hold the models, in the order of the inputs."""
        super().__init__()
        self.parts = nn.ModuleDict(parts)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the sum of the models' outputs."""
        outputs = [part(x) for part, x in zip(self.parts.values(), inputs, strict=True)]
        total: Tensor = outputs[0]
        for output in outputs[1:]:
            total = total + output.reshape(total.shape)
        return total


def fusion(
    ctx: ModelContext, *, models: Mapping[str, str], options: Mapping[str, Mapping[str, Any]] | None = None
) -> ModelParts:
    """Build one registered model for every input, by the input's name; `options` are theirs, by the same names.

    A model of tables needs its plugin: `models={"photo": "vision/resnet18", "row": "tabular/mlp"}`.
    """
    given = options or {}
    for name in (*models, *given):
        if name not in ctx.inputs:
            raise unknown("input", name, ctx.inputs)
    missing = [name for name in ctx.inputs if name not in models]
    if missing:
        raise OptionError(f"vision/fusion: no model for the input {missing[0]!r}; say models={{{missing[0]!r}: …}}")
    parts = {name: _part(ctx, name, models[name], given.get(name, {})) for name in ctx.inputs}
    config = {"models": dict(models), "options": {name: dict(part.config or {}) for name, part in parts.items()}}
    modules = {name: part.module for name, part in parts.items()}
    groups = {name: (module,) for name, module in modules.items() if any(True for _ in module.parameters())}
    return ModelParts(module=Fusion(modules), groups=groups, config=config)


def _part(ctx: ModelContext, name: str, model: str, options: Mapping[str, Any]) -> ModelParts:
    built = get_host().models.get(model)(ModelContext(inputs={name: ctx.inputs[name]}, targets=ctx.targets), **options)
    part = built if isinstance(built, ModelParts) else ModelParts(module=built)
    if part.train_loss is not None or (part.engine is not None and part.engine.required):
        raise OptionError(f"vision/fusion: {model} is trained in its own way, and cannot be one of several")
    return ModelParts(module=part.module, config=dict(options) if part.config is None else part.config)
