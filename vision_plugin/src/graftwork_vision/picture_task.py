"""What the jobs of this plugin have in common. Nothing heavy is imported to print their help."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from graftwork.api import JobOptions, OptionError, Task, option

if TYPE_CHECKING:
    from graftwork.api import Block, DataLoaders, Learner, Loader, Plan
    from graftwork_vision.sources import Samples
    from graftwork_vision.survey import Survey

__all__ = ["PictureOptions", "PictureTask", "parse_size"]

SMALL_SIDE = 64
DEFAULT_SIZE = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureOptions:
    """Hold what every job of pictures lets one choose."""

    size: str = option(
        "auto",
        "Side of the pictures in pixels, or HEIGHTxWIDTH; auto keeps small pictures (up to 64) of one size, else 128.",
    )
    resize: Literal["crop", "pad", "squish"] = option("crop", "How pictures get the size.")
    weights: str = option(
        "none", "Pretrained weights: none, default (downloaded once), another name torchvision has, or a file."
    )
    augment: Literal["auto", "none", "flip", "full"] = option(
        "auto",
        "Change training pictures at random: mirror them, or all that aug_transforms does; auto is full above 64 "
        "pixels, where it is rarely a digit, and else none.",
    )
    normalize: Literal["auto", "imagenet", "fit", "none"] = option(
        "auto", "Statistics to normalise with: ImageNet's, those of the training split, none; auto fits small pictures."
    )
    channels: Literal["auto", "grey", "rgb"] = option("auto", "Open pictures as grey or RGB; auto looks at some.")
    max_pixels: int = option(178_956_970, "Refuse picture files of more pixels; the default is Pillow's own limit.")


class PictureTask(Task):
    """Learn something from pictures: looks at some of them first, to choose what is left to auto."""

    def __init__(self, options: Any) -> None:
        """Hold the options."""
        super().__init__(options)
        self._notes: list[str] = []

    @abstractmethod
    def read(self, source: Path) -> Samples:
        """Read a source; what it has to say goes into the notes."""

    @abstractmethod
    def target(self, samples: Samples) -> Block:
        """Return the target's raw block."""

    def stratified(self, samples: Samples) -> bool:
        """Say whether the same share of every class is to be held out."""
        return False

    def data(self, source: Path, job: JobOptions) -> DataLoaders:
        """Return loaders of pictures with their targets."""
        from graftwork.api import RandomSplitter, StratifiedSplitter
        from graftwork_vision.data import picture_data_block
        from graftwork_vision.survey import survey

        samples = self.read(source)
        found = survey(samples)
        size, native = self._sizes(found)
        small = max(native or (size if isinstance(size, tuple) else (DEFAULT_SIZE,))) <= SMALL_SIDE
        drawn = StratifiedSplitter if self.stratified(samples) else RandomSplitter
        recipe = picture_data_block(
            self.target(samples),
            get_x=samples.get_x,
            get_y=samples.get_y,
            splitter=samples.splitter or drawn(job.valid_pct, seed=job.seed),
            item_tfms=self._item_tfms(size),
            batch_tfms=self._batch_tfms(small=small),
            normalize=self._normalize(small=small),
            channels=self._channels(found),
            native_size=native,
            max_pixels=self.options.max_pixels,
        )
        self._notes = list(samples.notes)
        return recipe.dataloaders(
            samples.items,
            bs=job.bs,
            seed=job.seed,
            workers=job.workers,
            worker_type=job.worker_type,
            on_bad_item=job.on_bad_item,
            cache="auto",
        )

    def _sizes(self, found: Survey) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
        """Return the size to resize to, or the size all pictures have."""
        if self.options.size != "auto":
            return parse_size(self.options.size), None
        if found.size is not None and max(found.size) <= SMALL_SIDE:
            return None, found.size
        return (DEFAULT_SIZE, DEFAULT_SIZE), None

    def _item_tfms(self, size: tuple[int, int] | None) -> list[Any]:
        from graftwork_vision.transforms import Resize

        return [] if size is None else [Resize(size, method=self.options.resize)]

    def _batch_tfms(self, *, small: bool) -> list[Any]:
        from graftwork_vision.augment import augmentation

        return augmentation(self.options.augment, small=small)

    def _normalize(self, *, small: bool) -> Literal["imagenet", "fit", "none"]:
        chosen: Literal["auto", "imagenet", "fit", "none"] = self.options.normalize
        if chosen != "auto":
            return chosen
        return "fit" if small and self._weights() is None else "imagenet"

    def _channels(self, found: Survey) -> int:
        if self.options.channels == "auto":
            return 1 if found.grey else 3
        return 1 if self.options.channels == "grey" else 3

    def _weights(self) -> str | None:
        given: str = self.options.weights
        if given == "none":
            return None
        return "DEFAULT" if given == "default" else given

    def learner(self, data: DataLoaders, job: JobOptions) -> Learner:
        """Return a learner of the model asked for; auto is a small one for small pictures, else ResNet-18."""
        from graftwork_vision.learner import vision_learner

        return vision_learner(
            data,
            self._model(data) if job.model == "auto" else job.model,
            weights=self._weights(),
            runtime=job.runtime(channels_last=True),
            seed=job.seed,
        )

    def _model(self, data: DataLoaders) -> str:
        return "vision/small-cnn" if self._small(data) and self._weights() is None else "vision/resnet18"

    def _small(self, data: DataLoaders, side: int = SMALL_SIDE) -> bool:
        from graftwork_vision.blocks import ImageTensorBlock

        block = data.plan.fields[data.plan.inputs[0]].final
        assert isinstance(block, ImageTensorBlock)
        return block.size is not None and max(block.size) <= side

    def default_lr(self, learner: Learner) -> float:
        """Return 2e-3 to fine-tune weights, 1e-2 for small models, 5e-3 for others from scratch."""
        if self._weights() is not None:
            return 2e-3
        return 1e-2 if learner.model_id in ("vision/small-cnn", "vision/lenet5") else 5e-3

    def train(self, learner: Learner, job: JobOptions, lr: float) -> None:
        """Fine-tune pretrained weights; train everything in one cycle otherwise."""
        if self._weights() is None:
            learner.fit_one_cycle(job.epochs, lr)
        else:
            learner.fine_tune(job.epochs, lr)

    def test_loader(self, source: Path, plan: Plan, job: JobOptions) -> Loader:
        """Return a loader of all labelled pictures of a source."""
        import numpy as np

        from graftwork.api import Datasets, Split

        samples = self.read(source)
        getters = {plan.inputs[0]: samples.get_x, plan.targets[0]: samples.get_y}
        whole = Split(train=np.arange(len(samples.items)), valid=np.empty(0, dtype=np.int64))
        loaders = Datasets(samples.items, whole, getters, plan).dataloaders(
            bs=job.bs, workers=job.workers, worker_type=job.worker_type, on_bad_item=job.on_bad_item
        )
        return loaders.train.in_order()

    def notes(self) -> Sequence[str]:
        """Return what the source's reader had to say."""
        return self._notes


def parse_size(text: str) -> tuple[int, int]:
    """Read "128" or "96x160" as (height, width); raise OptionError for anything else."""
    found = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    height, width = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 0 < height <= 4096 or not 0 < width <= 4096:
        raise OptionError(f"size={text!r} is no side in pixels such as 128, nor HEIGHTxWIDTH such as 96x160, nor auto")
    return height, width
