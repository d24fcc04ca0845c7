"""What graftwork's conformance kit cannot guess: small pictures for the task, and which models stand for the others."""

from __future__ import annotations

import json
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from graftwork.api import Block, Transform
from graftwork.testing import Examples, TaskExample
from graftwork_vision.albumentations_bridge import AlbumentationsTransform
from graftwork_vision.bands import BandsBlock
from graftwork_vision.blocks import ImageTensorBlock, PictureBlock
from graftwork_vision.boxes import BBoxBlock, BoxTensorBlock, PlacedBoxesBlock
from graftwork_vision.effects import Blur, Hue, JpegArtifacts, Noise, RandomErasing, Saturation
from graftwork_vision.lighting import Brightness, Contrast
from graftwork_vision.points import PlacedPointsBlock, PointBlock, PointTensorBlock
from graftwork_vision.policies import RandAugment, TrivialAugment
from graftwork_vision.spatial import Dihedral, Flip, Perspective, RandomResizedCropGPU, Rotate, Zoom
from graftwork_vision.torchvision_bridge import TorchvisionTransform
from graftwork_vision.transforms import RandomResizedCrop, Resize

__all__ = ["EXAMPLES", "write_shapes", "write_spots"]

AUGMENTS: Final[tuple[Transform, ...]] = (
    Flip(), Dihedral(), Rotate(), Zoom(), Perspective(), Brightness(), Contrast(), Saturation(), Hue(), Blur(), Noise(),
    JpegArtifacts(), RandomErasing(), RandAugment(), TrivialAugment(),
    TorchvisionTransform("ColorJitter", {"hue": 0.1}),
)  # fmt: skip


def _albumentations() -> dict[str, tuple[tuple[Transform, Block], ...]]:
    """Return an example where there is albumentations."""
    if find_spec("albumentations") is None:
        return {}
    tfm = AlbumentationsTransform("RandomBrightnessContrast", {"p": 1.0})
    return {tfm.id: ((tfm, PictureBlock(3, (28, 28))),)}


def write_pictures(folder: Path) -> Path:
    """Write 60 noisy pictures of 28x28 in two folders: dark and light ones."""
    rng = np.random.default_rng(0)
    for name, level in {"dark": 70, "light": 180}.items():
        (folder / name).mkdir()
        for number in range(30):
            pixels = (level + rng.integers(-60, 60, (28, 28, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def write_labels(folder: Path) -> Path:
    """Write 80 pictures, red, green, both or neither, and a table with their labels."""
    rng = np.random.default_rng(0)
    lines = ["file,tags"]
    for number in range(80):
        pixels = rng.integers(0, 60, (24, 24, 3)).astype(np.uint8)
        given = [name for channel, name in enumerate(("red", "green")) if _lit(pixels, channel, rng)]
        Image.fromarray(pixels).save(folder / f"{number}.png")
        lines.append(f"{number}.png,{';'.join(given)}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def _lit(pixels: np.ndarray[Any, Any], channel: int, rng: np.random.Generator) -> bool:
    lit = bool(rng.integers(2))
    pixels[..., channel] += np.uint8(120 * lit)
    return lit


def write_spots(folder: Path, *, as_points: bool) -> Path:
    """Write 80 pictures of different sizes with a bright spot, and a table of where it is, or of how bright."""
    rng = np.random.default_rng(0)
    lines = ["file,x,y" if as_points else "file,level"]
    for number in range(80):
        height, width = 40, int(rng.integers(40, 56))
        x, y, level = int(rng.integers(6, width - 6)), int(rng.integers(6, height - 6)), int(rng.integers(60, 190))
        pixels = rng.integers(0, 50, (height, width, 3)).astype(np.uint8)
        pixels[y - 5 : y + 5, x - 5 : x + 5] += np.uint8(200 if as_points else 0)
        pixels += np.uint8(0 if as_points else level)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        lines.append(f"{number}.png,{x},{y}" if as_points else f"{number}.png,{level}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def write_shapes(folder: Path, *, count: int = 48, side: int = 64) -> Path:
    """Write pictures of discs and squares, up to three in each, and a COCO file of their boxes."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    images, notes = [], list[dict[str, Any]]()
    for number in range(count):
        picture, boxes = _shapes(rng, side, side + int(rng.integers(0, side // 3)))
        picture.save(folder / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": picture.height, "width": picture.width})
        notes += [{"id": len(notes) + i, "image_id": number, **box} for i, box in enumerate(boxes)]
    kinds = [{"id": 1, "name": "disc"}, {"id": 2, "name": "square"}]
    content = {"images": images, "annotations": notes, "categories": kinds}
    (folder / "annotations.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def _shapes(rng: np.random.Generator, height: int, width: int) -> tuple[Image.Image, list[dict[str, Any]]]:
    picture = Image.fromarray(rng.integers(0, 60, (height, width, 3)).astype(np.uint8))
    drawn, taken, boxes = ImageDraw.Draw(picture), np.zeros((height, width), bool), list[dict[str, Any]]()
    for _ in range(int(rng.integers(1, 4))):
        side = int(rng.integers(height // 5, height * 2 // 5))
        x, y, kind = int(rng.integers(0, width - side)), int(rng.integers(0, height - side)), int(rng.integers(2))
        if taken[y : y + side, x : x + side].any():
            continue
        taken[y : y + side, x : x + side] = True
        colour = tuple(rng.integers(120, 256, 3).tolist())
        (drawn.rectangle if kind else drawn.ellipse)((x, y, x + side - 1, y + side - 1), fill=colour)
        boxes.append({"category_id": kind + 1, "bbox": [x, y, side, side], "iscrowd": 0})
    return picture, boxes


def box_set() -> tuple[Tensor, Tensor]:
    """Return raw candidates that know nothing, and boxes."""
    block, rng = BoxTensorBlock(("disc", "square"), 6), np.random.default_rng(0)
    targets = block.collate([block.mock(rng) for _ in range(24)])
    return torch.randn(24, block.num_outputs, generator=torch.Generator().manual_seed(7)), targets


SMALL_DETECTOR: Final = {"backbone": "small-cnn", "width": 32, "first_stride": 8}
EXAMPLES: Final = Examples(
    tasks=(
        TaskExample(
            task="vision/classification",
            write=write_pictures,
            inputs=lambda source: [str(source / "dark" / "0.png"), str(source / "light" / "0.png")],
        ),
        TaskExample(
            task="vision/multilabel",
            write=write_labels,
            inputs=lambda source: [str(source / "0.png"), str(source / "1.png")],
        ),
        TaskExample(
            task="vision/regression",
            write=partial(write_spots, as_points=False),
            inputs=lambda source: [str(source / "0.png"), str(source / "1.png")],
            options={"size": "32"},
        ),
        TaskExample(
            task="vision/regression",
            write=partial(write_spots, as_points=True),
            inputs=lambda source: [str(source / "0.png"), str(source / "1.png")],
            options={"size": "32"},
        ),
        TaskExample(
            task="vision/detection",
            write=write_shapes,
            inputs=lambda source: [str(source / "images" / "0.png"), str(source / "images" / "1.png")],
            options={"size": "64", "max_boxes": 6},
            job={"bs": 12},
        ),
    ),
    blocks={
        "vision/points": (PointBlock(3), PointBlock(None, y_first=True)),
        "vision/point-tensor": (PointTensorBlock(3),),
        "vision/boxes": (BBoxBlock(), BBoxBlock(("disc", "square"), 2)),
        "vision/box-tensor": (BoxTensorBlock(("disc", "square"), 6),),
    },
    transforms={
        "vision/resize": (
            (Resize(24), PictureBlock(3, (28, 28))),
            (Resize((20, 30), method="pad"), PictureBlock(1)),
            (Resize((20, 30)), BandsBlock(5)),
            (Resize((20, 30)), PlacedPointsBlock()),
            (Resize((20, 30), method="pad"), PlacedBoxesBlock()),
        ),
        "vision/random-resized-crop": (
            (RandomResizedCrop(24), PictureBlock(3, (28, 28))),
            (RandomResizedCrop(24), PlacedBoxesBlock()),
        ),
        **_albumentations(),
        "vision/random-resized-crop-gpu": ((RandomResizedCropGPU(24), ImageTensorBlock(3, (28, 20))),),
        **{tfm.id: ((tfm, ImageTensorBlock(3, (20, 28), "unit")),) for tfm in AUGMENTS},
    },
    losses={"vision/box_set": box_set},
    # All others are torchvision's own networks below one head; two of them, and the small ones, stand for them.
    sampled_models=True,
    models={
        "vision/lenet5": {},
        "vision/small-cnn": {},
        "vision/resnet18": {},
        "vision/faster-rcnn": {**SMALL_DETECTOR, "head_width": 64, "proposals": 32, "box_samples": 16},
        "vision/retinanet": SMALL_DETECTOR,
        "vision/siamese": {"backbone": "small-cnn"},
        "vision/fusion": {"models": {"x0": "vision/small-cnn", "x1": "vision/small-cnn"}},
    },
)
