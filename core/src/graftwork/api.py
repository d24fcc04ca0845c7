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
    "Carrying",
    "CategoryBlock",
    "Check",
    "ClassIndexBlock",
    "ClassificationInterpretation",
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
    "Feed",
    "FileSplitter",
    "Focal",
    "FreezeError",
    "FuncSplitter",
    "Fused",
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
    "Objective",
    "On",
    "OptionError",
    "Part",
    "Plan",
    "PlanError",
    "Plugin",
    "PluginError",
    "Prediction",
    "Predictions",
    "Predictor",
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
    "Tracker",
    "TrainState",
    "TrainingError",
    "Transform",
    "TransformSpec",
    "UnknownName",
    "UserError",
    "add_legend",
    "as_metric",
    "evaluating",
    "fields_at",
    "get_files",
    "get_host",
    "hookimpl",
    "k_folds",
    "load_learner",
    "metric_factory",
    "new_figure",
    "option",
    "parent_label",
    "unknown",
]

hookimpl = HookimplMarker("graftwork")
"""Mark a function of a plugin's entry module as one of the hooks in `graftwork.plugins.hookspecs`."""

if TYPE_CHECKING:
    from graftwork.artifact import load_learner
    from graftwork.baseline import Baseline
    from graftwork.batch import Batch, Part
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
    from graftwork.callbacks.tracking import Tracker
    from graftwork.datablock import DataBlock, DataLoaders, Datasets
    from graftwork.dataloader import ColumnLoader, ItemLoader, Loader
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
    from graftwork.figure import add_legend, new_figure
    from graftwork.interpret import ClassificationInterpretation
    from graftwork.items import ColReader, ItemGetter, RegexLabeller, get_files, parent_label
    from graftwork.learner import Learner
    from graftwork.loop import Feed
    from graftwork.loss import L1, MSE, BCEWithLogits, CrossEntropy, Focal, LabelSmoothing, Loss
    from graftwork.metric import MeanMetric, Metric, TorchMetric, as_metric, metric_factory
    from graftwork.model import Carrying, ModelContext, ModelParts
    from graftwork.objective import Objective
    from graftwork.plan import Plan
    from graftwork.plugins import get_host
    from graftwork.prediction import Prediction, Predictions
    from graftwork.predictor import Predictor, evaluating
    from graftwork.rows import fields_at
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
    from graftwork.transform import Bound, Fused, On, Transform
else:
    from graftwork._lazy import lazy

    __getattr__ = lazy(__name__, __all__)


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
