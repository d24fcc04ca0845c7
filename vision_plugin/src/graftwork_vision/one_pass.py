"""From bytes to floats with the geometry, the light and the normalising that follow, in one go."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from graftwork.api import Fused, Transform
from graftwork_vision.blocks import ImageTensorBlock
from graftwork_vision.geometry import Warp, shrink_factor, warp_pixels
from graftwork_vision.lighting import light, lighting, lighting_run
from graftwork_vision.spatial import composed, spatial_run
from graftwork_vision.transforms import Normalize

if TYPE_CHECKING:
    from graftwork_vision.kernels import Augmenter

__all__ = ["fused_bytes"]


def fused_bytes(block: ImageTensorBlock, following: Sequence[Transform]) -> Fused | None:
    """Return ToFloat done with what follows it: geometry, then light, then Normalize; None where neither follows."""
    spatial = spatial_run(following)
    light_steps = lighting_run(following[len(spatial) :])
    rest = following[len(spatial) + len(light_steps) :]
    normalize = rest[0] if rest and isinstance(rest[0], Normalize) else None
    steps = [*spatial, *light_steps]
    if not steps:
        return None
    encode = _FromBytes(block, spatial, light_steps, normalize)
    return Fused(1 + len(steps) + (normalize is not None), encode)


class _FromBytes:
    """Do ToFloat, geometry, light and Normalize: by a kernel on the CPU, by few operations of torch elsewhere."""

    def __init__(
        self,
        block: ImageTensorBlock,
        spatial: Sequence[Any],
        light_steps: Sequence[Any],
        normalize: Normalize | None,
    ) -> None:
        self.spatial, self.light_steps, self.normalize = spatial, light_steps, normalize
        unit = ImageTensorBlock(block.channels, block.size, "unit")
        self.standardize = None if normalize is None else normalize.bind(unit).encode
        mean = np.array(normalize.mean if normalize and normalize.mean else [0.0] * block.channels)
        std = np.array(normalize.std if normalize and normalize.std else [1.0] * block.channels)
        self.scale, self.offset = (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)

    def __call__(self, pixels: Tensor, params: Sequence[Any]) -> Tensor:
        places, lights = params[1 : 1 + len(self.spatial)], params[1 + len(self.spatial) :]
        warp = composed(self.spatial, places, pixels) if self.spatial else None
        change = lighting(self.light_steps, lights[: len(self.light_steps)])
        if (warp is None and change is None) or not _suits(pixels, warp):
            return self._by_torch(pixels, warp, change)
        one = torch.ones(len(pixels))
        size = (pixels.shape[2], pixels.shape[3])
        if warp is None:
            warp = Warp(matrices=torch.eye(3).expand(len(pixels), 3, 3), before=size, after=size)
        gains, shifts = (one, one - 1) if change is None else change
        return self.augmenter(pixels, warp, gains, shifts, self.scale, self.offset)

    @cached_property
    def augmenter(self) -> Augmenter:
        """The kernel, imported (and on a machine's first use compiled) when it is needed."""
        from graftwork_vision.kernels import Augmenter

        return Augmenter()

    def _by_torch(self, pixels: Tensor, warp: Warp | None, change: tuple[Tensor, Tensor] | None) -> Tensor:
        floats = pixels.float().div_(255)
        if warp is not None:
            floats = warp_pixels(floats, warp)
        floats = light(floats, change)
        return floats if self.standardize is None else self.standardize(floats, None)


def _suits(pixels: Tensor, warp: Warp | None) -> bool:
    """Say whether the kernel can do it: bytes on the CPU, of at least 2x2, that need not be averaged down first."""
    size = (pixels.shape[2], pixels.shape[3])
    shrinks = warp is not None and warp.mode == "bilinear" and shrink_factor(size, warp.after) > 1
    return pixels.device.type == "cpu" and pixels.dtype == torch.uint8 and min(size) > 1 and not shrinks
