"""Train models on images, text, tables, ratings and masks: the core.

Every name below is imported on first use; importing the package itself imports nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "EMA",
    "L1",
    "MSE",
    "SWA",
    "ActivationStats",
    "ArtifactError",
    "BCEWithLogits",
    "BadItem",
    "Baseline",
    "Batch",
    "BatchSizes",
    "Block",
    "BlockError",
    "BlockSteps",
    "Bound",
    "Callback",
    "Catalog",
    "CatalogEntry",
    "CategoryBlock",
    "Checkpointer",
    "ClassIndexBlock",
    "ClassificationInterpretation",
    "ColReader",
    "ColSplitter",
    "ColumnLoader",
    "CrossEntropy",
    "CutMix",
    "DataBlock",
    "DataError",
    "DataLoaders",
    "Datasets",
    "DropoutPredictions",
    "EarlyStopping",
    "EndSplitter",
    "FileSplitter",
    "Focal",
    "FreezeError",
    "FuncSplitter",
    "Fused",
    "GradientAccumulation",
    "GradientClip",
    "GradualUnfreezing",
    "GraftworkError",
    "GrandparentSplitter",
    "GroupSplitter",
    "HistoryFile",
    "IndexSplitter",
    "Interpretation",
    "ItemError",
    "ItemGetter",
    "ItemLoader",
    "LabelSmoothing",
    "Learner",
    "Loader",
    "Loss",
    "MLflow",
    "Metric",
    "MixUp",
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
    "Profile",
    "RandomSplitter",
    "ReduceOnPlateau",
    "RegexLabeller",
    "RegressionBlock",
    "Runtime",
    "SaveBest",
    "Split",
    "Splitter",
    "StratifiedSplitter",
    "TargetBlock",
    "Task",
    "TensorBoard",
    "TerminateOnSpike",
    "TimeLimit",
    "TimeSplitter",
    "Tracker",
    "TrainState",
    "TrainingError",
    "Transform",
    "UnknownName",
    "UserError",
    "WandB",
    "__version__",
    "accuracy",
    "accuracy_multi",
    "as_metric",
    "default_baselines",
    "error_rate",
    "evaluate_baseline",
    "f1",
    "f1_multi",
    "fast_dev_run",
    "find_batch_size",
    "get_files",
    "get_host",
    "installed",
    "k_folds",
    "launch",
    "limited",
    "load_learner",
    "mae",
    "mc_dropout",
    "mse",
    "overfit_one_batch",
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
    from graftwork.baseline import Baseline, default_baselines, evaluate_baseline
    from graftwork.batch import Batch
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
    from graftwork.callbacks.activations import ActivationStats
    from graftwork.callbacks.averages import EMA, SWA
    from graftwork.callbacks.batch_size import BatchSizes, find_batch_size
    from graftwork.callbacks.best import SaveBest
    from graftwork.callbacks.checkpointer import Checkpointer
    from graftwork.callbacks.gradients import GradientAccumulation, GradientClip
    from graftwork.callbacks.history_file import HistoryFile
    from graftwork.callbacks.limits import fast_dev_run, limited, overfit_one_batch
    from graftwork.callbacks.mc_dropout import DropoutPredictions, mc_dropout
    from graftwork.callbacks.mixing import CutMix, MixUp
    from graftwork.callbacks.stopping import EarlyStopping, ReduceOnPlateau, TerminateOnSpike, TimeLimit
    from graftwork.callbacks.trackers import MLflow, TensorBoard, WandB
    from graftwork.callbacks.tracking import Tracker
    from graftwork.callbacks.unfreezing import GradualUnfreezing
    from graftwork.datablock import DataBlock, DataLoaders, Datasets
    from graftwork.dataloader import ColumnLoader, ItemLoader, Loader
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
    from graftwork.launcher import launch
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
    from graftwork.plugins.catalog import Catalog, CatalogEntry, installed
    from graftwork.prediction import Prediction, Predictions
    from graftwork.predictor import BadItem, Predictor
    from graftwork.profiler import Profile
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
    from graftwork.transform import Bound, Fused, On, Transform
else:
    from graftwork._lazy import lazy

    __getattr__ = lazy(__name__, __all__)


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
