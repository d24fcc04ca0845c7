"""What graftwork's conformance kit cannot guess: small pictures with masks, and options that make models small."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from graftwork.api import TargetBlock
from graftwork.testing import Examples, TaskExample
from graftwork_segmentation.blocks import MaskPictureBlock, MaskTensorBlock

__all__ = ["EXAMPLES", "write_squares"]

CODES: Final = ("background", "square", "disc")
SIDE: Final = 32


def write_squares(folder: Path, *, count: int = 40) -> Path:
    """Write noisy pictures of a square and a disc with their masks, 32x32, and codes.txt."""
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    (folder / "codes.txt").write_text("\n".join(CODES))
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for number in range(count):
        (y, x), (v, u) = rng.integers(2, SIDE - 14, 2), rng.integers(8, SIDE - 8, 2)
        mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
        mask[y : y + 12, x : x + 12] = 1
        mask[(rows - v) ** 2 + (columns - u) ** 2 < 36] = 2
        levels = np.array([[60, 60, 60], [200, 80, 60], [60, 90, 210]])[mask]
        pixels = np.clip(levels + rng.integers(-40, 40, levels.shape), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number:02}.png")
        Image.fromarray(mask).save(folder / "labels" / f"{number:02}.png")
    return folder


def _pixels() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(4, 3, 8, 8, generator=generator)
    return raw, torch.randint(0, 3, (4, 8, 8), generator=generator)


def _logits(block: TargetBlock, targets: Tensor) -> tuple[int, ...]:
    return (len(targets), block.num_outputs, *targets.shape[1:])


EXAMPLES: Final = Examples(
    tasks=(
        TaskExample(
            task="segmentation/semantic",
            write=write_squares,
            inputs=lambda source: [str(source / "images" / "00.png"), str(source / "images" / "01.png")],
            options={"size": "32", "epochs": 1},
        ),
    ),
    blocks={
        "segmentation/mask-picture": (MaskPictureBlock(CODES), MaskPictureBlock(CODES, None, None, (8, 12))),
        "segmentation/mask-tensor": (MaskTensorBlock(CODES, None, None, (8, 12)), MaskTensorBlock(CODES, 2)),
    },
    raw_shapes={"segmentation/mask-tensor": _logits},
    losses={
        f"segmentation/{name}": _pixels
        for name in ("cross_entropy", "cross_entropy_dice", "focal", "dice", "tversky", "lovasz", "combined")
    },
    # All of them are decoders on one body, which is what takes the time; the plugin's own tests train the others.
    sampled_models=True,
    models={"segmentation/unet": {"widths": [32, 16, 16, 8]}},
)
