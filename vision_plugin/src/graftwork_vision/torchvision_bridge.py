"""Transforms of torchvision (`torchvision.transforms.v2`) for batches, by name, so that they have a JSON form."""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from graftwork.api import Block, Bound, OptionError, PlanError, Transform, unknown
from graftwork_vision.blocks import ImageTensorBlock

__all__ = ["TorchvisionTransform"]


@final
@dataclass(frozen=True)
class TorchvisionTransform(Transform):
    """Do to the pictures of a batch what a class of torchvision.transforms.v2 does, in training only.

    `TorchvisionTransform("ColorJitter", {"brightness": 0.4})`: the name and the arguments are all there is of it, and
    what an exported model holds. With `each` every picture draws for itself, one after the other; otherwise all get the
    same at once, which is faster. It may not change the size, and targets do not follow it. torchvision draws from
    torch's global generator, which is lent a state that follows from the batch and then put back.
    """

    id: ClassVar[str] = "vision/torchvision"
    stage = "batch"
    random = True
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    each: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        """Make the transform once, so that what is wrong with it is known at once."""
        self._made()

    def __hash__(self) -> int:
        """Hash what can be hashed of it."""
        return hash((self.name, repr(self.arguments), self.each))

    def _made(self) -> nn.Module:
        from torchvision.transforms import v2

        known = {
            name: kind
            for name, kind in vars(v2).items()
            if inspect.isclass(kind) and issubclass(kind, v2.Transform) and kind is not v2.Transform
        }
        if self.name not in known:
            raise unknown("transform of torchvision.transforms.v2", self.name, sorted(known))
        try:
            made = known[self.name](**self.arguments)
        except (TypeError, ValueError) as error:
            raise OptionError(f"{self.id}: {self.name} refuses {dict(self.arguments)}: {error}") from error
        assert isinstance(made, nn.Module)
        return made

    def accepts(self, block: Block) -> bool:
        """Work on pixels from 0 to 1."""
        return isinstance(block, ImageTensorBlock) and block.scale == "unit"

    def out_block(self, block: Block) -> Block:
        """Change nothing about the block."""
        return block

    def draw(self, rng: torch.Generator, sample: Mapping[str, Any]) -> int:
        """Derive a state for torch's generator, without waiting for the device."""
        return (rng.initial_seed() + zlib.crc32(repr((self.name, self.arguments)).encode())) % 2**63

    def bind(self, block: Block) -> Bound:
        """Make the transform."""
        made = self._made()

        def encode(pixels: Tensor, seed: int | None) -> Tensor:
            if seed is None:
                return pixels
            devices = [pixels.device] if pixels.device.type == "cuda" else []
            with torch.random.fork_rng(devices):
                torch.manual_seed(seed)
                found: Tensor = torch.stack([made(one) for one in pixels]) if self.each else made(pixels)
            if found.shape != pixels.shape or found.dtype != pixels.dtype:
                raise PlanError(
                    f"{self.id}: {self.name} makes {found.dtype} of shape {tuple(found.shape)} of {pixels.dtype} of "
                    f"shape {tuple(pixels.shape)}; only what leaves both as they are can be wrapped (sizes: Resize)"
                )
            return found.clamp(0, 1)

        return Bound(encode)
