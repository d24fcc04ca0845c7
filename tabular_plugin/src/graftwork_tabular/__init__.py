"""Tables for graftwork: reading, encoding, networks, baselines, estimators. Every name is imported on first use."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

__all__ = [
    "AddDateparts",
    "Categorify",
    "FillMissing",
    "Normalize",
    "PackRow",
    "PackedRowBlock",
    "QuantileScale",
    "ReadRow",
    "RobustScale",
    "RowBlock",
    "ScaleTarget",
    "ScaledNumbersBlock",
    "Schema",
    "Table",
    "TableTransform",
    "TabularClassification",
    "TabularClassifier",
    "TabularDataLoaders",
    "TabularRegression",
    "TabularRegressor",
    "Vocab",
    "VocabCounts",
    "add_datepart",
    "add_elapsed_times",
    "encode_columns",
    "encode_dataset",
    "encode_rows",
    "fit_encode",
    "fit_procs",
    "infer_schema",
    "load_encoded",
    "make_plan",
    "read_table",
    "run_pictures",
    "table_loader",
    "tabular_learner",
]

if TYPE_CHECKING:
    from graftwork_tabular.blocks import PackedRowBlock, RowBlock
    from graftwork_tabular.chunked import encode_dataset, load_encoded
    from graftwork_tabular.data import TabularDataLoaders, table_loader
    from graftwork_tabular.dates import AddDateparts, add_datepart, add_elapsed_times
    from graftwork_tabular.encode import encode_rows, fit_procs, make_plan
    from graftwork_tabular.estimators import TabularClassifier, TabularRegressor
    from graftwork_tabular.learner import tabular_learner
    from graftwork_tabular.pictures import run_pictures
    from graftwork_tabular.procs import Categorify, FillMissing, PackRow, ReadRow, TableTransform
    from graftwork_tabular.reading import Table, read_table
    from graftwork_tabular.scaling import Normalize, QuantileScale, RobustScale
    from graftwork_tabular.schema import Schema, infer_schema
    from graftwork_tabular.targets import ScaledNumbersBlock, ScaleTarget
    from graftwork_tabular.tasks import TabularClassification, TabularRegression
    from graftwork_tabular.vocab import Vocab, VocabCounts, encode_columns, fit_encode

_HOMES: Final = {
    "blocks": "PackedRowBlock RowBlock",
    "chunked": "encode_dataset load_encoded",
    "data": "TabularDataLoaders table_loader",
    "dates": "AddDateparts add_datepart add_elapsed_times",
    "encode": "encode_rows fit_procs make_plan",
    "estimators": "TabularClassifier TabularRegressor",
    "learner": "tabular_learner",
    "pictures": "run_pictures",
    "procs": "Categorify FillMissing PackRow ReadRow TableTransform",
    "reading": "Table read_table",
    "scaling": "Normalize QuantileScale RobustScale",
    "schema": "Schema infer_schema",
    "targets": "ScaleTarget ScaledNumbersBlock",
    "tasks": "TabularClassification TabularRegression",
    "vocab": "Vocab VocabCounts encode_columns fit_encode",
}


def __getattr__(name: str) -> object:
    """Import a public name on first use."""
    from importlib import import_module

    for module, names in _HOMES.items():
        if name in names.split():
            value: object = getattr(import_module(f"{__name__}.{module}"), name)
            vars(sys.modules[__name__])[name] = value
            return value
    from difflib import get_close_matches

    near = get_close_matches(name, __all__, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}", name=name, obj=sys.modules[__name__])


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
