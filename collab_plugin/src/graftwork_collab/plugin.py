"""The entry module: what this plugin offers, as records that name their components without importing them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from graftwork.api import (
    BaselineSpec,
    BlockSpec,
    LossSpec,
    MetricSpec,
    ModelSpec,
    Plugin,
    SourceSpec,
    TaskSpec,
    TransformSpec,
    hookimpl,
)
from graftwork_collab import ranking_records as rankings

PLUGIN = Plugin(namespace="collab", summary="Ratings and recommendations: factor models, rankers, top-k, metrics")

ID, CODE, RATING = "collab/id", "collab/id-code", "core/regression"
FEATURES, PACKED = "collab/features", "collab/packed-features"

_BLOCKS = (
    (ID, "blocks:IdBlock", "A user's or an item's id: a string or a whole number"),
    (CODE, "blocks:IdCodeBlock", "The code of an id in a fitted vocabulary, 0 if it is unknown"),
    (FEATURES, "features:FeaturesBlock", "What is known of somebody new, or nothing but the id"),
    (PACKED, "features:PackedFeaturesBlock", "Encoded features, empty where they are those of the id"),
)


@hookimpl
def graftwork_register_blocks() -> Iterator[BlockSpec]:
    """Return ids and features, as they are given and encoded."""
    for name, target, summary in _BLOCKS:
        yield BlockSpec(id=name, target=f"graftwork_collab.{target}", summary=summary)
    yield from rankings.blocks()


@hookimpl
def graftwork_register_transforms() -> Iterable[TransformSpec]:
    """Return the ways from ids to codes and from features to numbers."""
    return (
        TransformSpec(
            id="collab/identify",
            target="graftwork_collab.blocks:Identify",
            summary="Encode an id by its value; unknown ones have a slot",
            accepts=(ID,),
            gives=CODE,
            invertible=True,
        ),
        TransformSpec(
            id="collab/encode-features",
            target="graftwork_collab.features:EncodeFeatures",
            summary="Encode features by graftwork-tabular's fitted procs",
            accepts=(FEATURES,),
            gives=PACKED,
        ),
        *rankings.transforms(),
    )


@hookimpl
def graftwork_register_models() -> Iterator[ModelSpec]:
    """Return the models of ratings, then those of rankings."""
    for name, attribute, summary in (
        ("dot-bias", "dot_bias", "Product of the factors of user and item, plus both biases"),
        ("neural", "neural", "An MLP over the embeddings of user and item"),
    ):
        yield ModelSpec(
            id=f"collab/{name}",
            target=f"graftwork_collab.factor:{attribute}",
            summary=summary,
            inputs=(CODE, CODE),
            output=RATING,
        )
    yield ModelSpec(
        id="collab/towers",
        target="graftwork_collab.towers:towers",
        summary="Factors of ids, joined by what a net makes of side features",
        inputs=(CODE, CODE, PACKED),
        output=RATING,
    )
    yield from rankings.models()


@hookimpl
def graftwork_register_losses() -> Iterator[LossSpec]:
    """Return what rankers are trained with."""
    return rankings.losses()


@hookimpl
def graftwork_register_metrics() -> Iterator[MetricSpec]:
    """Return the metrics of a full ranking."""
    return rankings.metrics()


@hookimpl
def graftwork_register_baselines() -> Iterator[BaselineSpec]:
    """Return what models of ratings must beat, then what those of rankings must."""
    yield BaselineSpec(
        id="collab/biases",
        target="graftwork_collab.baselines:Biases",
        summary="The mean, moved by how the user rates and how the item is rated",
        blocks=(RATING,),
        inputs=(CODE, CODE),
    )
    yield from rankings.baselines()


@hookimpl
def graftwork_register_sources() -> Iterator[SourceSpec]:
    """Return the forms in which ratings lie on a disk."""
    for name, summary, patterns in (
        ("csv", "A text file of users, items and ratings", ("*.csv", "*.tsv", "*.dat", "*.data")),
        ("parquet", "Parquet files of users, items and ratings", ("*.parquet",)),
        ("movielens", "A folder as MovieLens comes, with titles", ("ratings.csv", "ratings.dat", "u.data")),
    ):
        yield SourceSpec(
            id=f"collab/{name}",
            target=f"graftwork_collab.sources:{name}_source",
            summary=summary,
            patterns=patterns,
            gives=(ID, ID, RATING),
        )


@hookimpl
def graftwork_register_tasks() -> Iterator[TaskSpec]:
    """Return the one-command jobs."""
    yield TaskSpec(
        id="collab/ratings",
        target="graftwork_collab.tasks:CollabRatings",
        summary="Tell how a user would rate an item",
        inputs=(ID, ID),
        targets=(RATING,),
        defaults={
            "model": ("collab/dot-bias",),
            "loss": "core/mse",
            "metrics": ("core/rmse", "core/mae"),
            "baselines": ("core/mean", "collab/biases"),
        },
    )
    yield from rankings.tasks()


@hookimpl
def graftwork_resolve_source(location: str) -> str | None:
    """Claim folders as MovieLens comes."""
    from graftwork_collab.sources import resolve_source

    return resolve_source(location)
