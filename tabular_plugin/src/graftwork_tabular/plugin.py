"""The entry module: what this plugin offers, as records that name their components without importing them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from graftwork.api import (
    BaselineSpec,
    BlockSpec,
    ModelSpec,
    Plugin,
    SourceSpec,
    TaskSpec,
    TransformSpec,
    hookimpl,
)

PLUGIN = Plugin(
    namespace="tabular",
    summary="Tables: reading, encoding, networks and baselines for them",
    extras={"dask": "encoding tables larger than memory on several machines: encode_dataset(client=…)"},
)

ROW, PACKED, SCALED = "tabular/row", "tabular/packed-row", "tabular/scaled-numbers"
CLASS_INDEX, MULTI_HOT, REGRESSION = "core/class-index", "core/multi-hot", "core/regression"

_BLOCKS = (
    (ROW, "blocks:RowBlock", "A row of a table: a mapping from column to value"),
    (PACKED, "blocks:PackedRowBlock", "A row as the codes of its categories and its numbers"),
    (SCALED, "targets:ScaledNumbersBlock", "Numbers brought to mean 0 and deviation 1"),
)

_TRANSFORMS = (
    ("read-row", "procs:ReadRow", "Take the columns that count out of a row", ROW, ROW, False),
    ("add-dateparts", "dates:AddDateparts", "Replace dates by year, month, week, day, …", ROW, ROW, False),
    ("fill-missing", "procs:FillMissing", "Fill missing numbers, and flag where they were", ROW, ROW, False),
    ("categorify", "procs:Categorify", "Encode categories by value", ROW, ROW, True),
    ("normalize", "scaling:Normalize", "Bring numbers to mean 0 and deviation 1", ROW, ROW, True),
    ("robust-scale", "scaling:RobustScale", "Bring numbers to median 0 and interquartile range 1", ROW, ROW, False),
    ("quantile-scale", "scaling:QuantileScale", "Bring numbers to the normal distribution", ROW, ROW, False),
    ("pack-row", "procs:PackRow", "Pack codes and numbers into one row", ROW, PACKED, True),
    ("scale-target", "targets:ScaleTarget", "Bring target numbers to mean 0 and deviation 1", REGRESSION, SCALED, True),
)


@hookimpl
def graftwork_register_blocks() -> Iterator[BlockSpec]:
    """Return the forms of a row, and of scaled targets."""
    for name, target, summary in _BLOCKS:
        yield BlockSpec(id=name, target=f"graftwork_tabular.{target}", summary=summary)


@hookimpl
def graftwork_register_transforms() -> Iterator[TransformSpec]:
    """Return the procs."""
    for name, target, summary, accepts, gives, invertible in _TRANSFORMS:
        yield TransformSpec(
            id=f"tabular/{name}",
            target=f"graftwork_tabular.{target}",
            summary=summary,
            accepts=(accepts,),
            gives=gives,
            invertible=invertible,
        )


_MODELS = (
    ("tabm", "tabm:tabm", "Many small networks in one, with numbers in bins: the strong default"),
    ("mlp", "mlp:mlp", "Embeddings of categories, then linear layers: fastai's network"),
    ("resnet", "resnet:resnet", "Embeddings of categories, then residual blocks"),
    ("ft-transformer", "ft_transformer:ft_transformer", "A token for every column, and attention between them"),
)


@hookimpl
def graftwork_register_models() -> Iterator[ModelSpec]:
    """Return the networks."""
    for name, target, summary in _MODELS:
        yield ModelSpec(
            id=f"tabular/{name}",
            target=f"graftwork_tabular.{target}",
            summary=summary,
            inputs=(PACKED,),
            output=(CLASS_INDEX, MULTI_HOT, REGRESSION, SCALED),
        )


@hookimpl
def graftwork_register_baselines() -> Iterator[BaselineSpec]:
    """Return what a network must beat."""
    for name, attribute, summary in (
        ("boosting", "Boosting", "Gradient-boosted trees of scikit-learn"),
        ("linear", "Linear", "Logistic or ridge regression on one column per code and scaled numbers"),
    ):
        yield BaselineSpec(
            id=f"tabular/{name}",
            target=f"graftwork_tabular.baselines:{attribute}",
            summary=summary,
            blocks=(CLASS_INDEX, MULTI_HOT, REGRESSION, SCALED),
            inputs=(PACKED,),
        )


@hookimpl
def graftwork_register_sources() -> Iterable[SourceSpec]:
    """Return the forms in which tables lie on a disk."""
    return (
        SourceSpec(
            id="tabular/table",
            target="graftwork_tabular.reading:read_table",
            summary="CSV of any separator, header and encoding, or Parquet",
            patterns=("*.csv", "*.tsv", "*.csv.gz", "*.parquet"),
            gives=(ROW,),
        ),
    )


@hookimpl
def graftwork_register_tasks() -> Iterator[TaskSpec]:
    """Return the one-command jobs."""
    for name, attribute, summary, target, loss, metrics in (
        (
            "classification",
            "TabularClassification",
            "Tell the class of a row, or its labels",
            "core/category",
            "core/cross_entropy",
            ("core/accuracy",),
        ),
        (
            "regression",
            "TabularRegression",
            "Tell a number of a row, or several",
            REGRESSION,
            "core/mse",
            ("core/rmse", "core/mae"),
        ),
    ):
        constant = "core/majority" if name == "classification" else "core/mean"
        yield TaskSpec(
            id=f"tabular/{name}",
            target=f"graftwork_tabular.tasks:{attribute}",
            summary=summary,
            inputs=(ROW,),
            targets=(target,),
            defaults={
                "model": ("tabular/tabm",),
                "loss": loss,
                "metrics": metrics,
                "baselines": (constant, "tabular/linear", "tabular/boosting"),
            },
        )
