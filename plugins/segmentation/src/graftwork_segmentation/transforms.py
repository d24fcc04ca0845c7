"""The opening and closing steps of masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from graftwork.api import Block, Bound, Transform
from graftwork_segmentation.blocks import VOID, MaskBlock, MaskPictureBlock, MaskTensorBlock
from graftwork_segmentation.masks import classes_of, lookup, to_picture

__all__ = ["DecodeMask", "MaskToTensor"]


@dataclass(frozen=True)
class DecodeMask(Transform):
    """Open a mask and look its values up; raise ItemError naming the file and the first value that is no class."""

    id: ClassVar[str] = "segmentation/decode-mask"

    def accepts(self, block: Block) -> bool:
        """Work on named masks."""
        return isinstance(block, MaskBlock)

    def out_block(self, block: Block) -> Block:
        """Give opened masks."""
        assert isinstance(block, MaskBlock)
        return MaskPictureBlock(block.codes, block.void, block.values)

    def bind(self, block: Block) -> Bound:
        """Make the table once."""
        assert isinstance(block, MaskBlock)
        table, num_classes = lookup(block.pixel_values, block.ignore_index), len(block.codes)
        return Bound(lambda value, _: classes_of(value, table, num_classes))


@dataclass(frozen=True)
class MaskToTensor(Transform):
    """Turn an opened mask into classes (H, W), -100 where nothing is known."""

    id: ClassVar[str] = "segmentation/mask-to-tensor"

    def accepts(self, block: Block) -> bool:
        """Work on opened masks."""
        return isinstance(block, MaskPictureBlock)

    def out_block(self, block: Block) -> Block:
        """Give a target."""
        assert isinstance(block, MaskPictureBlock)
        return MaskTensorBlock(block.codes, block.void, block.values, block.size)

    def bind(self, block: Block) -> Bound:
        """Subtract one; back, what is not known becomes 0."""
        assert isinstance(block, MaskPictureBlock)
        num_classes = len(block.codes)

        def encode(picture: Image.Image, _: Any) -> Tensor:
            shifted = torch.from_numpy(np.asarray(picture).astype(np.int64))
            return torch.where(shifted == 0, VOID, shifted - 1)

        return Bound(encode, lambda mask: to_picture((mask + 1).clamp(min=0).numpy(), num_classes))
