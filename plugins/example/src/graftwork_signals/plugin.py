"""The entry module: what this plugin offers, as records that name their components without importing them."""

from __future__ import annotations

from collections.abc import Iterator

from graftwork.api import (
    BaselineSpec,
    BlockSpec,
    MetricSpec,
    ModelSpec,
    Plugin,
    SourceSpec,
    TaskSpec,
    TransformSpec,
    hookimpl,
)

PLUGIN = Plugin(
    namespace="signals",
    summary="Series: a block, transforms, networks and baselines to classify them",
)

SERIES, CLASS_INDEX = "signals/series", "core/class-index"


@hookimpl
def graftwork_register_blocks() -> Iterator[BlockSpec]:
    """Return the one form of a series."""
    yield BlockSpec(
        id=SERIES,
        target="graftwork_signals.blocks:SeriesBlock",
        summary="Numbers in a fixed order, in one channel or several",
    )


@hookimpl
def graftwork_register_transforms() -> Iterator[TransformSpec]:
    """Return the ways from series to series."""
    yield TransformSpec(
        id="signals/to-array",
        target="graftwork_signals.transforms:ToArray",
        summary="Read numbers as float32, and refuse what is no series",
        accepts=(SERIES,),
        gives=SERIES,
        invertible=True,
    )
    yield TransformSpec(
        id="signals/crop",
        target="graftwork_signals.transforms:Crop",
        summary="Take a part, at random in training and from the middle otherwise",
        accepts=(SERIES,),
        gives=SERIES,
        random=True,
    )
    # more than the smallest plugin: begin
    yield TransformSpec(
        id="signals/noise",
        target="graftwork_signals.noise:Noise",
        summary="Add normal noise in training",
        accepts=(SERIES,),
        gives=SERIES,
        random=True,
    )
    # more than the smallest plugin: end
    yield TransformSpec(
        id="signals/standardize",
        target="graftwork_signals.transforms:Standardize",
        summary="Bring each channel to mean 0 and deviation 1",
        accepts=(SERIES,),
        gives=SERIES,
        stage="batch",
        invertible=True,
    )


@hookimpl
def graftwork_register_models() -> Iterator[ModelSpec]:
    """Return the networks."""
    yield ModelSpec(
        id="signals/resnet",
        target="graftwork_signals.models:resnet",
        summary="A small residual network of 1-d convolutions",
        inputs=(SERIES,),
        output=CLASS_INDEX,
    )
    # more than the smallest plugin: begin
    yield ModelSpec(
        id="signals/inception",
        target="graftwork_signals.inception:inception",
        summary="Convolutions of several widths side by side (InceptionTime)",
        inputs=(SERIES,),
        output=CLASS_INDEX,
    )
    # more than the smallest plugin: end


@hookimpl
def graftwork_register_metrics() -> Iterator[MetricSpec]:
    """Return the metric."""
    yield MetricSpec(
        id="signals/kappa",
        target="graftwork_signals.metrics:kappa",
        summary="Agreement beyond what chance would give (Cohen's kappa)",
        blocks=(CLASS_INDEX,),
        higher_is_better=True,
    )


@hookimpl
def graftwork_register_baselines() -> Iterator[BaselineSpec]:
    """Return what a network must beat."""
    yield BaselineSpec(
        id="signals/random-kernels",
        target="graftwork_signals.baselines:RandomKernels",
        summary="Ridge regression on random convolutions (ROCKET)",
        blocks=(CLASS_INDEX,),
        inputs=(SERIES,),
        requires=("sklearn",),
    )
    # more than the smallest plugin: begin
    yield BaselineSpec(
        id="signals/nearest-dtw",
        target="graftwork_signals.dtw:NearestDTW",
        summary="The class of the nearest series under time warping",
        blocks=(CLASS_INDEX,),
        inputs=(SERIES,),
        requires=("numba",),
    )
    # more than the smallest plugin: end


@hookimpl
def graftwork_register_sources() -> Iterator[SourceSpec]:
    """Return the forms in which series lie on a disk."""
    for name, summary, patterns in (
        ("csv", "A text file with one series a row and a column of labels", ("*.csv", "*.tsv", "*.txt")),
        ("npz", "Arrays x (N, channels, length) and y (N)", ("*.npz",)),
    ):
        yield SourceSpec(
            id=f"signals/{name}",
            target="graftwork_signals.sources:read_source",
            summary=summary,
            patterns=patterns,
            gives=(SERIES, "core/category"),
        )


@hookimpl
def graftwork_register_tasks() -> Iterator[TaskSpec]:
    """Return the one-command job."""
    yield TaskSpec(
        id="signals/classification",
        target="graftwork_signals.tasks:SeriesClassification",
        summary="Tell the class of a series",
        inputs=(SERIES,),
        targets=("core/category",),
        defaults={
            "model": ("signals/resnet",),
            "loss": "core/cross_entropy",
            "metrics": ("core/accuracy", "signals/kappa"),
            "baselines": ("core/majority", "signals/random-kernels"),
        },
    )
