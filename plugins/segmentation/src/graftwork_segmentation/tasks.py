"""The one-command job of this plugin. Nothing heavy is imported to print its help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from graftwork.api import JobOptions, OptionError, Task, option

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from graftwork.api import DataLoaders, Learner, Loader, Plan

__all__ = ["SemanticSegmentation", "SemanticSegmentationOptions"]

MAX_SIDE: Final = 256
STEP: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class SemanticSegmentationOptions:
    """Hold what semantic segmentation lets one choose."""

    epochs: int = option(18, "Passes over the training split.")
    bs: int = option(8, "Pictures in a batch.")
    size: str = option(
        "auto", "Side of the pictures in pixels, or HEIGHTxWIDTH; auto keeps the first picture's shape, at most 256."
    )
    resize: Literal["squish", "crop", "pad"] = option("squish", "How pictures and masks get the size.")
    label_from: str = option(
        "auto", "Where masks are: a pattern below SOURCE such as labels/{stem}_P.png; auto looks into labels/."
    )
    ignore: str = option(
        "auto", "Code or pixel value that counts for nothing; auto takes one called void or unlabelled; or none."
    )
    backbone: str = option("resnet18", "Classifier whose body the model decodes, by its name in the vision plugin.")
    weights: str = option(
        "none", "Pretrained weights of the body: none, default (downloaded once), another name, or a file."
    )
    loss: str = option(
        "auto",
        "Loss: cross_entropy_dice, cross_entropy, focal, dice, tversky, lovasz, combined; auto is cross_entropy_dice.",
    )
    augment: Literal["auto", "none", "flip", "full"] = option(
        "auto", "Change training pictures at random: mirror them, or everything of aug_transforms; auto mirrors."
    )


class SemanticSegmentation(Task):
    """Tell the class of every pixel."""

    id: ClassVar[str] = "segmentation/semantic"
    Options: ClassVar[type] = SemanticSegmentationOptions

    def __init__(self, options: SemanticSegmentationOptions) -> None:
        """Refuse what cannot be done before any work is."""
        super().__init__(options)
        if options.epochs < 1 or options.bs < 1:
            raise OptionError(f"epochs={options.epochs} and bs={options.bs} must both be at least 1")
        self._notes: list[str] = []

    def data(self, source: Path, job: JobOptions) -> DataLoaders:
        """Return loaders of pictures with masks."""
        from graftwork.api import RandomSplitter
        from graftwork_segmentation.blocks import MaskBlock
        from graftwork_segmentation.data import mask_data_block
        from graftwork_segmentation.sources import folder_source

        found = folder_source(source, label_from=self.options.label_from, ignore=self.options.ignore)
        self._notes = list(found.notes)
        recipe = mask_data_block(
            MaskBlock(found.codes.names, found.codes.ignore_index, values=found.codes.values),
            splitter=found.splitter or RandomSplitter(job.valid_pct, seed=job.seed),
            size=self._size(found.items),
            resize=self.options.resize,
            batch_tfms=self._batch_tfms(),
        )
        return recipe.dataloaders(
            found.items,
            bs=self.options.bs,
            seed=job.seed,
            workers=job.workers,
            worker_type=job.worker_type,
            on_bad_item=job.on_bad_item,
            cache="auto",
        )

    def _size(self, items: Sequence[Any]) -> tuple[int, int]:
        if self.options.size != "auto":
            from graftwork_vision import parse_size

            return parse_size(self.options.size)
        from graftwork_segmentation.sources import picture_size

        height, width = next((size for item in items if (size := picture_size(item.image))), (MAX_SIDE, MAX_SIDE))
        scale = min(1.0, MAX_SIDE / max(height, width))
        size = _rounded(height * scale), _rounded(width * scale)
        self._notes.append(f"pictures are brought to {size[0]}x{size[1]} pixels (height x width; --size)")
        return size

    def _batch_tfms(self) -> list[Any]:
        if self.options.augment == "none":
            return []
        from graftwork_vision import Flip, aug_transforms

        return aug_transforms() if self.options.augment == "full" else [Flip()]

    def _weights(self) -> str | None:
        given: str = self.options.weights
        if given == "none":
            return None
        return "DEFAULT" if given == "default" else given

    def learner(self, data: DataLoaders, job: JobOptions) -> Learner:
        """Return a learner of the model asked for; auto is the lean U-Net."""
        from graftwork_segmentation.learner import unet_learner

        return unet_learner(
            data,
            self.options.backbone,
            decoder="segmentation/unet" if job.model == "auto" else job.model,
            weights=self._weights(),
            loss=None if self.options.loss == "auto" else _loss_id(self.options.loss),
            runtime=job.runtime(channels_last=True),
            seed=job.seed,
        )

    def default_lr(self, learner: Learner) -> float:
        """Return 1e-3 to fine-tune weights, 3e-3 from scratch."""
        return 1e-3 if self._weights() is not None else 3e-3

    def train(self, learner: Learner, job: JobOptions, lr: float) -> None:
        """Fine-tune pretrained weights; train everything in one cycle otherwise."""
        if self._weights() is None:
            learner.fit_one_cycle(self.options.epochs, lr)
        else:
            learner.fine_tune(self.options.epochs, lr)

    def test_loader(self, source: Path, plan: Plan, job: JobOptions) -> Loader:
        """Return a loader of all pictures of a source with their masks."""
        import numpy as np

        from graftwork.api import Datasets, Split
        from graftwork_segmentation.sources import folder_source, get_image, get_mask

        found = folder_source(source, label_from=self.options.label_from, ignore=self.options.ignore)
        whole = Split(train=np.arange(len(found.items)), valid=np.empty(0, dtype=np.int64))
        getters = {plan.inputs[0]: get_image, plan.targets[0]: get_mask}
        loaders = Datasets(found.items, whole, getters, plan).dataloaders(
            bs=self.options.bs, workers=job.workers, worker_type=job.worker_type, on_bad_item=job.on_bad_item
        )
        return loaders.train.in_order()

    def printed(self, label: str, value: Any, folder: Path | None) -> Any:
        """Write a mask beside others and return its path; without a folder, return what the largest part is of.

        Raises:
            OptionError: there is a file of its name, as where two pictures of different folders have one name.
        """
        import numpy as np

        if folder is None:
            values, counts = np.unique(value, return_counts=True)
            return int(values[counts.argmax()])
        from PIL import Image

        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{Path(label).stem}.png"
        if path.exists():
            raise OptionError(f"{path} is there already and stays as it is; give --out a folder without it")
        Image.fromarray(value).save(path)
        return str(path)

    def pictures(self, data: DataLoaders, learner: Learner) -> dict[str, Figure]:
        """Draw the data, the losses, results, every class's figures and the pictures with the highest loss."""
        from graftwork_segmentation.interpret import SegmentationInterpretation

        figures = {"batch.png": data.show_batch(), "losses.png": learner.recorder.plot_losses()}
        if data.valid is not None:
            looked = SegmentationInterpretation.from_learner(learner)
            figures["results.png"] = learner.show_results(max_n=6)
            figures["classes.png"] = looked.plot_classes()
            figures["confusion.png"] = looked.plot_confusion_matrix()
            figures["top_losses.png"] = looked.plot_top_losses()
        return figures

    def notes(self) -> Sequence[str]:
        """Return what the source's reader had to say."""
        return self._notes


def _loss_id(name: str) -> str:
    return name if "/" in name else f"segmentation/{name}"


def _rounded(side: float) -> int:
    return max(STEP, int(side / STEP) * STEP)
