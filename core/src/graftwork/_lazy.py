"""Where the public names live, so that importing the package imports none of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection

__all__ = ["HOMES", "lazy"]

_BY_MODULE = {
    "artifact": "load_learner read_manifest",
    "baseline": "Baseline default_baselines evaluate_baseline",
    "batch": "Batch Part",
    "block": (
        "Block BlockSteps CategoryBlock ClassIndexBlock MultiCategoryBlock MultiHotBlock RegressionBlock TargetBlock"
    ),
    "callbacks.activations": "ActivationStats",
    "callbacks.averages": "EMA SWA",
    "callbacks.batch_size": "BatchSizes find_batch_size",
    "callbacks.best": "SaveBest",
    "callbacks.checkpointer": "Checkpointer",
    "callbacks.gradients": "GradientAccumulation GradientClip",
    "callbacks.history_file": "HistoryFile",
    "callbacks.limits": "fast_dev_run limited overfit_one_batch",
    "callbacks.mc_dropout": "DropoutPredictions mc_dropout",
    "callbacks.mixing": "CutMix MixUp",
    "callbacks.stopping": "EarlyStopping ReduceOnPlateau TerminateOnSpike TimeLimit",
    "callbacks.trackers": "MLflow TensorBoard WandB",
    "callbacks.tracking": "Tracker",
    "callbacks.unfreezing": "GradualUnfreezing",
    "datablock": "DataBlock DataLoaders Datasets",
    "dataloader": "ColumnLoader ItemLoader Loader",
    "errors": (
        "ArtifactError BlockError DataError FreezeError GraftworkError ItemError OptionError PlanError PluginError "
        "TrainingError UnknownName UserError unknown"
    ),
    "engine": "Engine EngineRun",
    "figure": "add_legend new_figure",
    "events": "Callback TrainState",
    "interpret": "ClassificationInterpretation Interpretation",
    "items": "ColReader ItemGetter RegexLabeller get_files parent_label",
    "launcher": "launch",
    "learner": "Learner",
    "loop": "Feed",
    "loss": "BCEWithLogits CrossEntropy Focal L1 LabelSmoothing Loss MSE",
    "metric": (
        "MeanMetric Metric TorchMetric accuracy accuracy_multi as_metric error_rate f1 f1_multi mae metric_factory mse "
        "precision precision_multi r2 recall recall_multi rmse roc_auc roc_auc_multi top_k_accuracy"
    ),
    "model": "Carrying ModelContext ModelParts",
    "objective": "Objective",
    "plan": "Plan",
    "plugins": "get_host",
    "plugins.catalog": "Catalog CatalogEntry installed",
    "prediction": "Prediction Predictions",
    "predictor": "BadItem Predictor evaluating",
    "profiler": "Profile",
    "rows": "fields_at",
    "runtime": "Runtime",
    "split": (
        "ColSplitter EndSplitter FileSplitter FuncSplitter GrandparentSplitter GroupSplitter IndexSplitter "
        "RandomSplitter Split Splitter StratifiedSplitter TimeSplitter k_folds"
    ),
    "task": "JobOptions Task option",
    "transform": "Bound Fused On Transform",
}

HOMES = {name: f"graftwork.{module}" for module, names in _BY_MODULE.items() for name in names.split()}
"""Every lazily imported public name and its module. A name offered by `graftwork` or `graftwork.api` is added here."""


def lazy(module: str, public: Collection[str]) -> Callable[[str], object]:
    """Build the `__getattr__` of `module`: import what is in `public` on first use, refuse the rest by nearest name."""

    def resolve(name: str) -> object:
        if name not in public or name not in HOMES:
            return _deprecated(module, name, public)
        from importlib import import_module

        value: object = getattr(import_module(HOMES[name]), name)
        vars(sys.modules[module])[name] = value
        return value

    return resolve


def _deprecated(module: str, name: str, public: Collection[str]) -> object:
    """Return what was offered as `name`, with a warning at every use; raise AttributeError if nothing ever was."""
    place = ""
    if not name.startswith("_"):
        from graftwork.deprecations import moved

        place = moved(module, name)
    if not place:
        raise AttributeError(_refusal(module, name, public), name=name, obj=sys.modules[module])
    from importlib import import_module

    path, _, attribute = place.partition(":")
    value: object = getattr(import_module(path), attribute)
    return value


def _refusal(module: str, name: str, public: Collection[str]) -> str:
    """Say that `module` has no `name`, and which name may have been meant."""
    from difflib import get_close_matches

    near = get_close_matches(name, public, n=1)
    return f"module {module!r} has no attribute {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")
