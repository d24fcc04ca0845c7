"""ranking_learner: a Learner that ranks items for users."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from torch.optim import Optimizer

from graftwork.api import Callback, Learner, Loss, Metric, OptionError, PlanError, Runtime, get_host
from graftwork_collab.ranker import Ranker
from graftwork_collab.ranking_data import RankingDataLoaders
from graftwork_collab.ranking_metrics import (
    coverage,
    hit_rate,
    mean_ap,
    mean_popularity,
    mrr,
    ndcg,
    precision_at,
    recall_at,
)

__all__ = ["default_metrics", "ranking_learner"]

MetricLike: TypeAlias = "Metric | str | Callable[..., Any]"

SOLVED: Final = ("collab/als", "collab/ease", "collab/item-knn")
"""Models that no gradient trains."""
CORRECTED: Final = ("collab/factors", "collab/lightgcn", "collab/sasrec")
"""Models that correct for how often candidates are drawn, which only a softmax wants."""
SOFTMAX: Final = "collab/sampled_softmax"


def default_metrics(data: RankingDataLoaders, k: int) -> list[Metric]:
    """Return all metrics of a ranking at k places."""
    return [
        *(metric(k) for metric in (ndcg, recall_at, precision_at, mrr, mean_ap, hit_rate)),
        coverage(k, num_items=data.num_items),
        mean_popularity(k, popularity=data.popularity),
    ]


def ranking_learner(
    data: RankingDataLoaders,
    model: str = "collab/ease",
    *,
    model_config: Mapping[str, Any] | None = None,
    loss: Loss | str | None = None,
    metrics: MetricLike | Sequence[MetricLike] | None = None,
    k: int | None = None,
    optimizer: str | Callable[..., Optimizer] = "adamw",
    lr: float | None = None,
    wd: float | None = None,
    callbacks: Sequence[Callback] = (),
    runtime: Runtime | None = None,
    seed: int = 42,
    progress: bool = True,
) -> Learner:
    """Return a learner of a ranker, which knows what each user has seen in training.

    `loss` is how the model learns from candidates: "collab/sampled_softmax" (default), "collab/bpr" or
    "collab/pair_bce"; ALS, EASE and item-knn are solved, and have none. `metrics` default to all of them at `k`, which
    defaults to the data's.

    Raises:
        PlanError: the data is no ranking, or has no histories for a model that reads them.
        UnknownName: there is no such model.
    """
    if not isinstance(data, RankingDataLoaders):
        raise PlanError(f"a ranking_learner needs RankingDataLoaders, not {type(data).__name__}")
    spec = get_host().models.spec(model)
    config = {"num_seen": len(data.interactions), **(model_config or {})}
    if spec.id in SOLVED:
        if loss is not None:
            raise OptionError(f"{spec.id} is solved, so it takes no loss; leave loss= out")
        loss = "collab/full_squared_error"
    if spec.id == "collab/ease" and "weighted" not in config:
        config["weighted"] = data.interactions.weights is not None
    loss = SOFTMAX if loss is None else loss
    if spec.id in CORRECTED and "correct" not in config:
        config["correct"] = _is_softmax(loss)
    learner = Learner(
        data,
        spec.id,
        model_config=config,
        loss=loss,
        metrics=default_metrics(data, data.k if k is None else k) if metrics is None else metrics,
        optimizer=optimizer,
        lr=default_lr(spec.id) if lr is None else lr,
        wd=default_wd(spec.id) if wd is None else wd,
        callbacks=callbacks,
        runtime=runtime,
        seed=seed,
        progress=progress,
    )
    if isinstance(learner.module, Ranker):
        learner.module.remember(data.interactions)
    return learner


def _is_softmax(loss: Loss | str) -> bool:
    if isinstance(loss, str):
        return bool(get_host().losses.spec(loss).id == SOFTMAX)
    from graftwork_collab.ranking_losses import SampledSoftmax

    return isinstance(loss, SampledSoftmax)


def default_lr(model_id: str) -> float:
    """Return the largest learning rate that suits a model."""
    return {"collab/sasrec": 5e-3}.get(model_id, 1e-2)


def default_wd(model_id: str) -> float:
    """Return the weight decay that suits a model: factor models have little else to hold them back."""
    return {"collab/factors": 0.5, "collab/lightgcn": 0.1, "collab/sasrec": 0.1}.get(model_id, 0.01)
