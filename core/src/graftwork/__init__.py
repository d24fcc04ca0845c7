"""Train models on images, text, tables, ratings and masks: the core.

Every name below is imported on first use; importing the package itself imports nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "L1",
    "MSE",
    "ArtifactError",
    "BCEWithLogits",
    "BadItem",
    "Baseline",
    "Batch",
    "Block",
    "BlockError",
    "BlockSteps",
    "Bound",
    "Callback",
    "CategoryBlock",
    "ClassIndexBlock",
    "ClassificationInterpretation",
    "ColReader",
    "ColSplitter",
    "ColumnLoader",
    "CrossEntropy",
    "DataBlock",
    "DataError",
    "DataLoaders",
    "Datasets",
    "EndSplitter",
    "FileSplitter",
    "Focal",
    "FreezeError",
    "FuncSplitter",
    "GraftworkError",
    "GrandparentSplitter",
    "GroupSplitter",
    "IndexSplitter",
    "Interpretation",
    "ItemError",
    "ItemGetter",
    "ItemLoader",
    "LabelSmoothing",
    "Learner",
    "Loader",
    "Loss",
    "Metric",
    "ModelContext",
    "ModelParts",
    "MultiCategoryBlock",
    "MultiHotBlock",
    "On",
    "OptionError",
    "Plan",
    "PlanError",
    "PluginError",
    "Prediction",
    "Predictions",
    "Predictor",
    "RandomSplitter",
    "RegexLabeller",
    "RegressionBlock",
    "Runtime",
    "Split",
    "Splitter",
    "StratifiedSplitter",
    "TargetBlock",
    "Task",
    "TimeSplitter",
    "TrainState",
    "TrainingError",
    "Transform",
    "UnknownName",
    "UserError",
    "__version__",
    "accuracy",
    "accuracy_multi",
    "as_metric",
    "error_rate",
    "f1",
    "f1_multi",
    "get_files",
    "get_host",
    "k_folds",
    "load_learner",
    "mae",
    "mse",
    "parent_label",
    "precision",
    "precision_multi",
    "r2",
    "read_manifest",
    "recall",
    "recall_multi",
    "rmse",
    "roc_auc",
    "roc_auc_multi",
    "top_k_accuracy",
    "unknown",
]

if TYPE_CHECKING:
    from graftwork.artifact import load_learner, read_manifest
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
    from graftwork.interpret import ClassificationInterpretation, Interpretation
    from graftwork.items import ColReader, ItemGetter, RegexLabeller, get_files, parent_label
    from graftwork.learner import Learner
    from graftwork.loss import L1, MSE, BCEWithLogits, CrossEntropy, Focal, LabelSmoothing, Loss
    from graftwork.metric import (
        Metric,
        accuracy,
        accuracy_multi,
        as_metric,
        error_rate,
        f1,
        f1_multi,
        mae,
        mse,
        precision,
        precision_multi,
        r2,
        recall,
        recall_multi,
        rmse,
        roc_auc,
        roc_auc_multi,
        top_k_accuracy,
    )
    from graftwork.model import ModelContext, ModelParts
    from graftwork.plan import Plan
    from graftwork.plugins import get_host
    from graftwork.prediction import Prediction, Predictions
    from graftwork.predictor import BadItem, Predictor
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
    from graftwork.task import Task
    from graftwork.transform import Bound, On, Transform
else:
    from graftwork._lazy import lazy

    __getattr__ = lazy(__name__, __all__)


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
