"""The one-command job. Nothing heavy is imported to print its help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from graftwork.api import JobOptions, Task, option

if TYPE_CHECKING:
    from graftwork.api import DataLoaders, Learner, Loader, Plan

__all__ = ["SeriesClassification", "SeriesClassificationOptions"]

DEFAULT_LR = 3e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesClassificationOptions:
    """Hold what the classification of series lets one choose."""

    label: str = option("auto", "Column of labels in a CSV, by name or number; auto goes by its name, else its text.")
    crop: int = option(0, "Length of the part to train on, drawn at random; 0 keeps whole series.")
    # more than the smallest plugin: begin
    noise: float = option(0.0, "Noise added in training, in deviations of each series.")
    # more than the smallest plugin: end


class SeriesClassification(Task):
    """Tell the class of a series."""

    id: ClassVar[str] = "signals/classification"
    Options: ClassVar[type] = SeriesClassificationOptions

    def data(self, source: Path, job: JobOptions) -> DataLoaders:
        """Return loaders of labelled series."""
        from graftwork_signals.data import SeriesDataLoaders

        return SeriesDataLoaders.from_path(
            source,
            label=self.options.label,
            valid_pct=job.valid_pct,
            seed=job.seed,
            item_tfms=self._item_tfms(),
            bs=job.bs,
            workers=job.workers,
            worker_type=job.worker_type,
            on_bad_item=job.on_bad_item,
        )

    def _item_tfms(self) -> list[Any]:
        from graftwork_signals.transforms import Crop

        tfms: list[Any] = [Crop(self.options.crop)] if self.options.crop else []
        # more than the smallest plugin: begin
        from graftwork_signals.noise import Noise

        tfms += [Noise(self.options.noise)] if self.options.noise else []
        # more than the smallest plugin: end
        return tfms

    def learner(self, data: DataLoaders, job: JobOptions) -> Learner:
        """Return a learner of the residual network, unless another model is asked for."""
        from graftwork.api import Learner

        return Learner(
            data,
            "signals/resnet" if job.model == "auto" else job.model,
            metrics=["core/accuracy", "signals/kappa"],
            lr=DEFAULT_LR,
            runtime=job.runtime(auto="fp32"),
            seed=job.seed,
        )

    def default_lr(self, learner: Learner) -> float:
        """Return 3e-3."""
        return DEFAULT_LR

    def test_loader(self, source: Path, plan: Plan, job: JobOptions) -> Loader:
        """Return a loader of all labelled series of a source."""
        import numpy as np

        from graftwork.api import Datasets, Split
        from graftwork_signals.sources import get_label, get_values, read_source

        items = read_source(source, label=self.options.label)
        getters = {plan.inputs[0]: get_values, plan.targets[0]: get_label}
        whole = Split(train=np.arange(len(items)), valid=np.empty(0, dtype=np.int64))
        loaders = Datasets(items, whole, getters, plan).dataloaders(bs=job.bs, on_bad_item=job.on_bad_item)
        return loaders.train.in_order()

    def inputs(self, arguments: Sequence[str]) -> list[tuple[str, Any]]:
        """Read each INPUT, a CSV or npz file; each of its rows is predicted. Labels are left out."""
        from graftwork_signals.sources import get_values, read_source

        items = [i for a in arguments for i in read_source(a, label=self.options.label, labelled=False)]
        return [(str(item), get_values(item)) for item in items]

    def baseline_ids(self, data: DataLoaders) -> Sequence[str]:
        """Return the most frequent class and what is known of each series without training a network."""
        return (
            *data.plan.target.baseline_ids,
            "signals/random-kernels",
            "signals/nearest-dtw",  # more than the smallest plugin
        )
