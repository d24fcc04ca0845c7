"""The core's own components, handed in through the same hooks as any plugin's; the namespace is `core`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from graftwork.api import BaselineSpec, BlockSpec, CallbackSpec, LossSpec, MetricSpec, Plugin, TransformSpec, hookimpl

PLUGIN = Plugin(
    namespace="core",
    summary="Labels, numbers, and the losses, metrics and baselines for them",
    extras={
        "mlflow": "tracking runs in MLflow: --track mlflow, the callback MLflow",
        "tensorboard": "event files for TensorBoard: --track tensorboard, the callback TensorBoard",
        "wandb": "tracking runs in Weights & Biases: --track wandb, the callback WandB",
    },
)

CLASS_INDEX = "core/class-index"
MULTI_HOT = "core/multi-hot"
REGRESSION = "core/regression"

_BLOCKS = (
    ("category", "CategoryBlock", "One label out of several"),
    ("class-index", "ClassIndexBlock", "One label, as its place in a fitted vocabulary"),
    ("multi-category", "MultiCategoryBlock", "Any number of labels, none included"),
    ("multi-hot", "MultiHotBlock", "Any number of labels, as a row of zeros and ones"),
    ("regression", "RegressionBlock", "One number or several"),
)

_LOSSES = (
    ("cross_entropy", "CrossEntropy", CLASS_INDEX, True, "Cross-entropy over classes"),
    ("focal", "Focal", CLASS_INDEX, False, "Cross-entropy that cares less about what is easy"),
    ("label_smoothing", "LabelSmoothing", CLASS_INDEX, False, "Cross-entropy against targets softened a little"),
    ("bce", "BCEWithLogits", MULTI_HOT, True, "Binary cross-entropy, a mean over classes"),
    ("mse", "MSE", REGRESSION, True, "Mean squared error"),
    ("l1", "L1", REGRESSION, False, "Mean absolute error"),
)

_METRICS = (
    ("accuracy", CLASS_INDEX, True, "Share of items whose class is right"),
    ("error_rate", CLASS_INDEX, False, "Share of items whose class is wrong"),
    ("top_k_accuracy", CLASS_INDEX, True, "Share of items whose class is among the k likeliest"),
    ("precision", CLASS_INDEX, True, "Share of what was called a class that is of it"),
    ("recall", CLASS_INDEX, True, "Share of a class that was called so"),
    ("f1", CLASS_INDEX, True, "Harmonic mean of precision and recall"),
    ("roc_auc", CLASS_INDEX, True, "Area under the receiver operating characteristic"),
    ("accuracy_multi", MULTI_HOT, True, "Share of labels that are right, over all items and classes"),
    ("precision_multi", MULTI_HOT, True, "Share of labels given that are right"),
    ("recall_multi", MULTI_HOT, True, "Share of true labels that were given"),
    ("f1_multi", MULTI_HOT, True, "Harmonic mean of precision and recall over labels"),
    ("roc_auc_multi", MULTI_HOT, True, "Area under the receiver operating characteristic, a mean over labels"),
    ("mse", REGRESSION, False, "Mean squared error"),
    ("rmse", REGRESSION, False, "Root of the mean squared error"),
    ("mae", REGRESSION, False, "Mean absolute error"),
    ("r2", REGRESSION, True, "Share of the variance explained"),
)
_CALLBACKS = (
    (
        "activation-stats",
        "activations:ActivationStats",
        "Record mean, deviation and share near zero of layers' outputs",
    ),
    ("cutmix", "mixing:CutMix", "Put a box of another item into each, and mix their losses"),
    ("early-stopping", "stopping:EarlyStopping", "Stop when a metric has not become better for some epochs"),
    ("ema", "averages:EMA", "Validate and end with an exponential average of the weights"),
    ("gradient-accumulation", "gradients:GradientAccumulation", "Take one step for several batches"),
    ("gradient-clip", "gradients:GradientClip", "Shorten gradients that are too large"),
    ("gradual-unfreezing", "unfreezing:GradualUnfreezing", "Let one parameter group after another learn"),
    ("history-file", "history_file:HistoryFile", "Write a line for every epoch into a CSV or JSONL file"),
    ("mlflow", "trackers:MLflow", "Track runs in MLflow"),
    ("mixup", "mixing:MixUp", "Blend each item with another one, and mix their losses"),
    ("reduce-on-plateau", "stopping:ReduceOnPlateau", "Divide the learning rate when a metric becomes no better"),
    ("save-best", "best:SaveBest", "Keep the weights of the best epoch, and end with them"),
    ("swa", "averages:SWA", "Validate and end with the mean of the last epochs' weights"),
    ("tensorboard", "trackers:TensorBoard", "Write event files for TensorBoard"),
    ("terminate-on-spike", "stopping:TerminateOnSpike", "Stop when the training loss rises far above its mean"),
    ("time-limit", "stopping:TimeLimit", "Stop after so much time"),
    ("wandb", "trackers:WandB", "Track runs in Weights & Biases"),
)
_DEFAULT_METRICS = frozenset({"accuracy", "accuracy_multi", "mae", "rmse"})


@hookimpl
def graftwork_register_blocks() -> Iterator[BlockSpec]:
    """Return the blocks of labels and numbers."""
    for name, attribute, summary in _BLOCKS:
        yield BlockSpec(id=f"core/{name}", target=f"graftwork.block:{attribute}", summary=summary)


@hookimpl
def graftwork_register_transforms() -> Iterable[TransformSpec]:
    """Return the transforms from labels to codes."""
    return (
        TransformSpec(
            id="core/categorize",
            target="graftwork.transform:Categorize",
            summary="Turn a label into its place in the vocabulary",
            accepts=("core/category",),
            gives=CLASS_INDEX,
            invertible=True,
        ),
        TransformSpec(
            id="core/multi-categorize",
            target="graftwork.transform:MultiCategorize",
            summary="Turn labels into a row of zeros and ones",
            accepts=("core/multi-category",),
            gives=MULTI_HOT,
            invertible=True,
        ),
    )


@hookimpl
def graftwork_register_losses() -> Iterator[LossSpec]:
    """Return the losses for the core's target blocks."""
    for name, attribute, block, default, summary in _LOSSES:
        target = f"graftwork.loss:{attribute}"
        yield LossSpec(id=f"core/{name}", target=target, summary=summary, blocks=(block,), default=default)


@hookimpl
def graftwork_register_metrics() -> Iterator[MetricSpec]:
    """Return the metrics for the core's target blocks."""
    for name, block, higher, summary in _METRICS:
        yield MetricSpec(
            id=f"core/{name}",
            target=f"graftwork.metric:{name}",
            summary=summary,
            blocks=(block,),
            higher_is_better=higher,
            default=name in _DEFAULT_METRICS,
        )


@hookimpl
def graftwork_register_callbacks() -> Iterator[CallbackSpec]:
    """Return the callbacks, none of which is in a run unless asked for."""
    for name, attribute, summary in _CALLBACKS:
        yield CallbackSpec(id=f"core/{name}", target=f"graftwork.callbacks.{attribute}", summary=summary)


@hookimpl
def graftwork_register_baselines() -> Iterable[BaselineSpec]:
    """Return the baselines that look at the target alone."""
    return (
        BaselineSpec(
            id="core/majority",
            target="graftwork.baseline:Majority",
            summary="Predict how often each class occurs in training",
            blocks=(CLASS_INDEX, MULTI_HOT),
        ),
        BaselineSpec(
            id="core/mean",
            target="graftwork.baseline:Mean",
            summary="Predict the mean of training",
            blocks=(REGRESSION,),
        ),
    )
