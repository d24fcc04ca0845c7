"""The one-command jobs of classes and numbers. Nothing heavy is imported to print their help."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from graftwork.api import OptionError, option
from graftwork_vision.picture_task import PictureOptions, PictureTask, parse_size

if TYPE_CHECKING:
    from graftwork.api import Block, DataLoaders, JobOptions, Learner
    from graftwork_vision.sources import Samples

__all__ = [
    "ImageClassification",
    "ImageClassificationOptions",
    "ImageMultilabel",
    "ImageMultilabelOptions",
    "ImageRegression",
    "ImageRegressionOptions",
    "parse_size",
]

AT_THRESHOLD = ("core/accuracy_multi", "core/f1_multi")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageClassificationOptions(PictureOptions):
    """Hold what image classification lets one choose."""

    label_from: str = option(
        "auto", "Where labels are: parent (the folder), name:REGEX (first group, in the file's name), csv:COLUMN."
    )


class ImageClassification(PictureTask):
    """Tell the class of a picture."""

    id: ClassVar[str] = "vision/classification"
    Options: ClassVar[type] = ImageClassificationOptions

    def read(self, source: Path) -> Samples:
        """Read pictures with a class each."""
        from graftwork_vision.sources import read_source

        return read_source(source, label_from=self.options.label_from)

    def target(self, samples: Samples) -> Block:
        """Return a block of one class."""
        from graftwork.api import CategoryBlock

        return CategoryBlock()

    def stratified(self, samples: Samples) -> bool:
        """Hold out the same share of every class."""
        return True

    def baseline_ids(self, data: DataLoaders) -> Sequence[str]:
        """Return the most frequent class, the nearest mean picture and a linear model."""
        return (*data.plan.target.baseline_ids, "vision/nearest-mean", "vision/grey-logistic")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageMultilabelOptions(PictureOptions):
    """Hold what classification with several labels lets one choose."""

    label_col: str = option(
        "auto", "Column of the table with the labels; auto knows it by its name, or is the only one."
    )
    label_delim: str = option(
        "auto", "What stands between labels; auto is the one of ; | , and blank that occurs most often."
    )
    threshold: str = option(
        "0.5",
        "Probability above which a label is given: a number for all, or cat=0.3,dog=0.6 for some, 0.5 for others.",
    )


class ImageMultilabel(PictureTask):
    """Tell which of many labels a picture has: any number of them."""

    id: ClassVar[str] = "vision/multilabel"
    Options: ClassVar[type] = ImageMultilabelOptions

    def __init__(self, options: ImageMultilabelOptions) -> None:
        """Refuse thresholds that are none before any work is done."""
        super().__init__(options)
        self._threshold = parse_threshold(str(options.threshold))

    def read(self, source: Path) -> Samples:
        """Read a table of pictures and their labels."""
        from graftwork_vision.tables import labels_source

        return labels_source(source, column=self.options.label_col, delimiter=self.options.label_delim)

    def target(self, samples: Samples) -> Block:
        """Return a block of several labels."""
        from graftwork.api import MultiCategoryBlock

        return MultiCategoryBlock(threshold=self._threshold)

    def learner(self, data: DataLoaders, job: JobOptions) -> Learner:
        """Return a learner that measures F1 and the area under the curve too."""
        from graftwork.api import MultiHotBlock, as_metric, get_host
        from graftwork_vision.learner import vision_learner

        target, auc = data.plan.target, as_metric("core/roc_auc_multi")
        assert isinstance(target, MultiHotBlock)
        threshold = target.threshold
        return vision_learner(
            data,
            self._model(data) if job.model == "auto" else job.model,
            weights=self._weights(),
            metrics=[*(get_host().metrics.get(name)(threshold=threshold) for name in AT_THRESHOLD), auc],
            runtime=job.runtime(channels_last=True),
            seed=job.seed,
        )


def parse_threshold(text: str) -> float | dict[str, float]:
    """Read "0.5", or "cat=0.3,dog=0.6" as thresholds by class; a class's name may hold commas and equals signs.

    Raises:
        OptionError: it is neither, names a class twice, or has a number that is not between 0 and 1.
    """
    named = re.findall(r"(.+?)=([^=,]*)(?:,|$)", text)
    if not named:
        return _share(text, text)
    if re.sub(r"(.+?)=([^=,]*)(?:,|$)", "", text):
        raise _no_threshold(text)
    found: dict[str, float] = {}
    for name, number in ((name.strip(), number) for name, number in named):
        if name in found:
            raise OptionError(f"threshold={text!r} names {name!r} twice")
        found[name] = _share(number, text)
    return found


def _share(number: str, text: str) -> float:
    try:
        value = float(number)
    except ValueError:
        raise _no_threshold(text) from None
    if not 0 < value < 1:
        raise OptionError(f"threshold={text!r}: {number.strip()} is not between 0 and 1, as a probability is")
    return value


def _no_threshold(text: str) -> OptionError:
    return OptionError(f"threshold={text!r} is neither a number such as 0.5 nor CLASS=NUMBER such as cat=0.3,dog=0.6")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRegressionOptions(PictureOptions):
    """Hold what regression lets one choose."""

    target: str = option(
        "auto", "Columns of the table to predict, separated by commas; auto takes all that hold numbers."
    )
    predict: Literal["auto", "numbers", "points"] = option(
        "auto", "What they are: numbers, or points, x and y in turn, in pixels; auto: points if they are called so."
    )


class ImageRegression(PictureTask):
    """Predict numbers, or points in a picture, from a picture."""

    id: ClassVar[str] = "vision/regression"
    Options: ClassVar[type] = ImageRegressionOptions

    def read(self, source: Path) -> Samples:
        """Read a table of pictures and numbers."""
        from graftwork_vision.tables import numbers_source

        return numbers_source(source, columns=self.options.target, kind=self.options.predict)

    def target(self, samples: Samples) -> Block:
        """Return a block of numbers, scaled, or of points."""
        from graftwork_vision.numbers import NumbersBlock
        from graftwork_vision.points import PointBlock

        first = samples.get_y(samples.items[0])
        if isinstance(first[0], tuple):
            return PointBlock(len(first))
        return NumbersBlock(len(first))

    def _batch_tfms(self, *, small: bool) -> list[object]:
        """Change pictures only where it is asked for: a left eye does not become a right one."""
        if self.options.augment == "auto":
            return []
        return super()._batch_tfms(small=small)
