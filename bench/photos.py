"""Photos for the vision cases, the network all sides train, and a hand-written way from files to batches.

With GRAFTWORK_DATA set, the photos are those of `caltech101_sample`; else, and in smoke runs, they are generated.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn

    from graftwork import DataLoaders
    from graftwork.api import ModelContext

__all__ = ["Labelled", "epoch_order", "loaders", "network", "photo_folder", "read_square", "split", "threaded"]

SIZE, BS = 128, 32
MEAN: Final = (0.485, 0.456, 0.406)
STD: Final = (0.229, 0.224, 0.225)
Labelled = tuple[list[Path], list[int]]


@contextmanager
def photo_folder(*, smoke: bool = False) -> Iterator[Path]:
    """Give a folder with a folder of JPEGs per class."""
    data = os.environ.get("GRAFTWORK_DATA")
    known = Path(data) / "caltech101_sample" if data else None
    if known is not None and known.is_dir() and not smoke:
        yield known
        return
    with tempfile.TemporaryDirectory(prefix="bench-photos-") as folder:
        generate(Path(folder), classes=2 if smoke else 20, per_class=60 if smoke else 80)
        yield Path(folder)


def generate(folder: Path, *, classes: int, per_class: int) -> None:
    """Write JPEGs of 240x160 pixels: smooth noise, of a colour that tells the class."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for label in range(classes):
        place = folder / f"class_{label:02}"
        place.mkdir()
        colour = rng.integers(40, 216, 3)
        for number in range(per_class):
            coarse = np.clip(colour + rng.normal(0, 40, (10, 15, 3)), 0, 255).astype(np.uint8)
            picture = Image.fromarray(coarse).resize((240, 160), Image.Resampling.BICUBIC)
            picture.save(place / f"{number:03}.jpg", quality=85)


def split(folder: Path) -> tuple[Labelled, Labelled]:
    """Return files and class codes of training and validation: every fifth file of all, in order, is held out."""
    files = sorted(folder.rglob("*.jpg"))
    classes = sorted({file.parent.name for file in files})
    codes = [classes.index(file.parent.name) for file in files]
    held_out = [i % 5 == 0 for i in range(len(files))]

    def part(*, valid: bool) -> Labelled:
        chosen = [i for i, out in enumerate(held_out) if out is valid]
        return [files[i] for i in chosen], [codes[i] for i in chosen]

    return part(valid=False), part(valid=True)


def table(folder: Path) -> pd.DataFrame:
    """Return the same split as a table."""
    import pandas as pd

    rows = [
        {"file": str(file.relative_to(folder)), "label": file.parent.name, "is_valid": valid}
        for valid, (files, _) in zip((False, True), split(folder), strict=True)
        for file in files
    ]
    return pd.DataFrame(rows)


def loaders(
    folder: Path, *, workers: int | None = None, worker_type: str = "thread", seed: int = 42, batch_tfms: Any = ()
) -> DataLoaders:
    """Return graftwork's loaders of the same split."""
    from graftwork_vision import ImageDataLoaders

    options = {"size": SIZE, "bs": BS, "workers": workers, "worker_type": worker_type, "batch_tfms": batch_tfms}
    return ImageDataLoaders.from_df(table(folder), folder, valid_col="is_valid", seed=seed, **options)  # type: ignore[arg-type]


def context(classes: int) -> ModelContext:
    """Return what a model is built for."""
    from graftwork.api import ClassIndexBlock, ModelContext
    from graftwork_vision.blocks import ImageTensorBlock

    picture = ImageTensorBlock(3, (SIZE, SIZE), "standard")
    return ModelContext(
        inputs={"x": picture}, targets={"y": ClassIndexBlock(vocab=tuple(str(i) for i in range(classes)))}
    )


def network(classes: int, seed: int = 0) -> nn.Module:
    """Build the ResNet-18 with the head that `vision_learner` gives it, so that all sides do the same maths."""
    import torch

    from graftwork_vision.models import BUILDERS

    torch.manual_seed(seed)
    return BUILDERS["resnet18"](context(classes), weights=None).module


def read_square(path: Path, size: int = SIZE) -> Tensor:
    """Read a photo as uint8 (H, W, 3), cropped to a square in the middle, the fastest way Pillow knows."""
    import numpy as np
    import torch
    from PIL import Image

    with Image.open(path) as opened:
        opened.draft("RGB", (size, size))
        picture = opened.convert("RGB")
    side = min(picture.size)
    left, top = (picture.width - side) / 2, (picture.height - side) / 2
    box = (left, top, left + side, top + side)
    picture = picture.resize((size, size), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
    return torch.from_numpy(np.array(picture))


def statistics_of_imagenet() -> tuple[Tensor, Tensor]:
    """Return mean and deviation, for pixels from 0 to 1, each (3, 1, 1)."""
    import torch

    return torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]


def epoch_order(count: int, seed: int, epoch: int) -> list[list[int]]:
    """Return shuffled positions in batches; the last one, if it is not whole, is left out."""
    import torch

    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1000 + epoch)).split(BS)
    return [batch.tolist() for batch in order if len(batch) == BS]


def threaded(data: Labelled, batches: Sequence[Sequence[int]], *, threads: int = 2) -> Iterator[tuple[Tensor, Tensor]]:
    """Read batches in threads, a few ahead; pictures come as uint8 (B, 3, H, W), channels last in memory."""
    import torch

    files, codes = data

    def load(batch: Sequence[int]) -> tuple[Tensor, Tensor]:
        pictures = torch.stack([read_square(files[i]) for i in batch]).permute(0, 3, 1, 2)
        return pictures, torch.tensor([codes[i] for i in batch])

    with ThreadPoolExecutor(threads) as pool:
        waiting: list[Future[tuple[Tensor, Tensor]]] = []
        for batch in batches:
            waiting.append(pool.submit(load, batch))
            if len(waiting) > threads + 1:
                yield waiting.pop(0).result()
        yield from (future.result() for future in waiting)
