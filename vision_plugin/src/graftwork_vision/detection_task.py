"""The one-command job that finds things in pictures. Nothing heavy is imported to print its help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from graftwork.api import option
from graftwork_vision.picture_task import PictureOptions, PictureTask

if TYPE_CHECKING:
    from graftwork.api import Block, DataLoaders, JobOptions, Learner
    from graftwork_vision.sources import Samples

__all__ = ["Detection", "DetectionOptions"]

SMALL_SIDE = 160
DEFAULT_SIZE = "320"
SMALL = {"backbone": "small-cnn", "width": 64, "head_width": 128, "proposals": 64, "box_samples": 32, "first_stride": 8}
RETINA_TAKES = ("backbone", "width", "first_stride")


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionOptions(PictureOptions):
    """Hold what detection lets one choose."""

    size: str = option("auto", "Side of the pictures in pixels, or HEIGHTxWIDTH; auto is 320.")
    resize: Literal["crop", "pad", "squish"] = option("pad", "How pictures get the size; pad keeps all and its shape.")
    augment: Literal["auto", "none", "flip", "full"] = option(
        "auto",
        "Change training pictures and their boxes at random: mirror them, or all that aug_transforms does, which "
        "leaves boxes looser where it turns them; auto mirrors.",
    )
    backbone: str = option(
        "auto", "What looks at the picture: small-cnn, resnet18, …; auto: small-cnn up to 160 pixels without weights."
    )
    threshold: float = option(0.5, "Least score of a box that is predicted.")
    max_boxes: int = option(100, "Most boxes in a picture; of more the largest are kept.")


class Detection(PictureTask):
    """Find things in pictures: boxes, what they are, and how sure that is."""

    id: ClassVar[str] = "vision/detection"
    Options: ClassVar[type] = DetectionOptions

    def __init__(self, options: DetectionOptions) -> None:
        """Hold the options; classes are known when a source has been read."""
        super().__init__(options)
        self._vocab: tuple[str, ...] | None = None

    def read(self, source: Path) -> Samples:
        """Read pictures with boxes, COCO's or VOC's."""
        from graftwork_vision.annotations import box_source

        samples, self._vocab = box_source(source)
        return samples

    def target(self, samples: Samples) -> Block:
        """Return a block of boxes."""
        from graftwork_vision.boxes import BBoxBlock

        return BBoxBlock(self._vocab, self.options.max_boxes, self.options.threshold)

    def _sizes(self, found: Any) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
        from graftwork_vision.picture_task import parse_size

        return parse_size(DEFAULT_SIZE if self.options.size == "auto" else self.options.size), None

    def _item_tfms(self, size: tuple[int, int] | None) -> list[Any]:
        from graftwork_vision.transforms import Resize

        # A mirrored edge would show things that are there twice, and once without a box.
        return [] if size is None else [Resize(size, method=self.options.resize, pad_mode="zeros")]

    def _batch_tfms(self, *, small: bool) -> list[Any]:
        from graftwork_vision.augment import augmentation

        choice = self.options.augment
        return augmentation("flip" if choice == "auto" else choice, small=small)

    def learner(self, data: DataLoaders, job: JobOptions) -> Learner:
        """Return a learner of a detector."""
        from graftwork.api import Learner
        from graftwork_vision.learner import is_normal

        name = "vision/faster-rcnn" if job.model == "auto" else job.model
        weights = self._weights()
        config = self._config(data, name) | {"weights": weights}
        if weights is not None:
            config["normalize"] = not is_normal(data)
        learner = Learner(
            data, name, model_config=config, runtime=job.runtime(channels_last=True), seed=job.seed, lr=1e-3
        )
        if weights is not None:
            learner.freeze()
        return learner

    def _config(self, data: DataLoaders, name: str) -> dict[str, Any]:
        small = self.options.backbone == "auto" and self._small(data, SMALL_SIDE) and self._weights() is None
        if self.options.backbone != "auto":
            return {"backbone": self.options.backbone}
        if not small:
            return {"backbone": "resnet18"}
        retina = name.endswith("retinanet")
        return {key: value for key, value in SMALL.items() if not retina or key in RETINA_TAKES}

    def default_lr(self, learner: Learner) -> float:
        """Return 3e-3 for small detectors from scratch, 1e-3 for RetinaNet, which bears less, and for large ones."""
        small = learner.model_config.get("backbone") == "small-cnn"
        return 3e-3 if small and learner.model_id == "vision/faster-rcnn" else 1e-3

    def baseline_ids(self, data: DataLoaders) -> Sequence[str]:
        """Return the boxes that are right most often."""
        return data.plan.target.baseline_ids
