"""The one module a plugin's author imports.

The records and `hookimpl` are here at once and cost no heavy import; the classes a component is built from are imported
on first use, so that a plugin's entry module may import this one and stay cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pluggy import HookimplMarker

from graftwork.spec import (
    API,
    BaselineSpec,
    BlockSpec,
    CallbackSpec,
    Check,
    CommandSpec,
    DatasetSpec,
    DocLink,
    ExporterSpec,
    LossSpec,
    MetricSpec,
    ModelSpec,
    Plugin,
    SourceSpec,
    TaskSpec,
    TransformSpec,
)

__all__ = [
    "API",
    "L1",
    "MSE",
    "ArtifactError",
    "BCEWithLogits",
    "Baseline",
    "BaselineSpec",
    "Batch",
    "Block",
    "BlockError",
    "BlockSpec",
    "BlockSteps",
    "Bound",
    "Callback",
    "CallbackSpec",
    "CategoryBlock",
    "Check",
    "ClassIndexBlock",
    "ColReader",
    "ColSplitter",
    "ColumnLoader",
    "CommandSpec",
    "CrossEntropy",
    "DataBlock",
    "DataError",
    "DataLoaders",
    "DatasetSpec",
    "Datasets",
    "DocLink",
    "EndSplitter",
    "Engine",
    "EngineRun",
    "ExporterSpec",
    "FileSplitter",
    "Focal",
    "FreezeError",
    "FuncSplitter",
    "GraftworkError",
    "GrandparentSplitter",
    "GroupSplitter",
    "IndexSplitter",
    "ItemError",
    "ItemGetter",
    "ItemLoader",
    "JobOptions",
    "LabelSmoothing",
    "Learner",
    "Loader",
    "Loss",
    "LossSpec",
    "MeanMetric",
    "Metric",
    "MetricSpec",
    "ModelContext",
    "ModelParts",
    "ModelSpec",
    "MultiCategoryBlock",
    "MultiHotBlock",
    "On",
    "OptionError",
    "Plan",
    "PlanError",
    "Plugin",
    "PluginError",
    "Prediction",
    "Predictions",
    "RandomSplitter",
    "RegexLabeller",
    "RegressionBlock",
    "Runtime",
    "SourceSpec",
    "Split",
    "Splitter",
    "StratifiedSplitter",
    "TargetBlock",
    "Task",
    "TaskSpec",
    "TimeSplitter",
    "TorchMetric",
    "TrainState",
    "TrainingError",
    "Transform",
    "TransformSpec",
    "UnknownName",
    "UserError",
    "as_metric",
    "get_files",
    "get_host",
    "hookimpl",
    "k_folds",
    "metric_factory",
    "option",
    "parent_label",
    "unknown",
]

hookimpl = HookimplMarker("graftwork")
"""Mark a function of a plugin's entry module as one of the hooks in `graftwork.plugins.hookspecs`."""

if TYPE_CHECKING:
    from graftwork.baseline import Baseline
    from graftwork.block import (
        Block,
        BlockSteps,
        CategoryBlock,
        ClassIndexBlock,
        MultiCategoryBlock,
        MultiHotBlock,
        RegressionBlock,
        TargetBlock,
    )
    from graftwork.datablock import DataBlock, DataLoaders, Datasets
    from graftwork.dataloader import Batch, ColumnLoader, ItemLoader, Loader
    from graftwork.engine import Engine, EngineRun
    from graftwork.errors import (
        ArtifactError,
        BlockError,
        DataError,
        FreezeError,
        GraftworkError,
        ItemError,
        OptionError,
        PlanError,
        PluginError,
        TrainingError,
        UnknownName,
        UserError,
        unknown,
    )
    from graftwork.events import Callback, TrainState
    from graftwork.items import ColReader, ItemGetter, RegexLabeller, get_files, parent_label
    from graftwork.learner import Learner
    from graftwork.loss import L1, MSE, BCEWithLogits, CrossEntropy, Focal, LabelSmoothing, Loss
    from graftwork.metric import MeanMetric, Metric, TorchMetric, as_metric, metric_factory
    from graftwork.model import ModelContext, ModelParts
    from graftwork.plan import Plan
    from graftwork.plugins import get_host
    from graftwork.prediction import Prediction, Predictions
    from graftwork.runtime import Runtime
    from graftwork.split import (
        ColSplitter,
        EndSplitter,
        FileSplitter,
        FuncSplitter,
        GrandparentSplitter,
        GroupSplitter,
        IndexSplitter,
        RandomSplitter,
        Split,
        Splitter,
        StratifiedSplitter,
        TimeSplitter,
        k_folds,
    )
    from graftwork.task import JobOptions, Task, option
    from graftwork.transform import Bound, On, Transform
else:
    from graftwork._lazy import lazy

    __getattr__ = lazy(__name__, __all__)


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
