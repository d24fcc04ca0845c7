"""What a plugin hands in for its checks: small sources, and parts the kit cannot make up by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    from torch import Tensor

    from graftwork.block import Block, TargetBlock
    from graftwork.events import Callback
    from graftwork.transform import Transform

__all__ = ["Examples", "TaskExample"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TaskExample:
    """Give a task something small to train on.

    `write(folder)` lays a source into an empty folder and returns what `graft train TASK SOURCE` is given; about a
    hundred items that can be learned are right. `inputs(source)` returns arguments of `graft predict`. `options` are
    the task's own, `job` the common ones.
    """

    task: str
    write: Callable[[Path], Path]
    inputs: Callable[[Path], Sequence[str]] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    job: Mapping[str, Any] = field(default_factory=dict)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Hold what a plugin's checks need beyond its records; everything is by id, and everything may be left out.

    Blocks and transforms that occur in a task's plan, or can be made without arguments, need no example. `transforms`
    pairs each with the block it is tried on. `models` gives options that make a model small; with `sampled_models` only
    the models named here are built. `metrics` gives options of metrics that need some. `raw_shapes` gives, for a block
    and targets (B, …), the shape of raw outputs where it is not (B, num_outputs). `losses` gives a raw output and
    a target. A model that its task prepares data or features for is built by an example whose job names it.
    `left_out` maps checks of components to the reason why they are not run at all, as for what speaks to a server.
    `expected_failures` maps a check, "block-mock", or a check of a component, "block-mock[acme/depth]", to the reason
    why it fails; one that passes after all is an error.
    """

    tasks: tuple[TaskExample, ...] = ()
    blocks: Mapping[str, tuple[Block, ...]] = field(default_factory=dict)
    transforms: Mapping[str, tuple[tuple[Transform, Block], ...]] = field(default_factory=dict)
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sampled_models: bool = False
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    raw_shapes: Mapping[str, Callable[[TargetBlock, Tensor], tuple[int, ...]]] = field(default_factory=dict)
    losses: Mapping[str, Callable[[], tuple[Tensor, Tensor]]] = field(default_factory=dict)
    callbacks: Mapping[str, Callable[[], Callback]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    expected_failures: Mapping[str, str] = field(default_factory=dict)
