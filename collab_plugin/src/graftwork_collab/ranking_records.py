"""The records of rankings, which the entry module hands in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from graftwork.api import (
    BaselineSpec,
    BlockSpec,
    LossSpec,
    MetricSpec,
    ModelSpec,
    TaskSpec,
    TransformSpec,
)

__all__ = ["baselines", "blocks", "losses", "metrics", "models", "tasks", "transforms"]

ID, CODE = "collab/id", "collab/id-code"
ITEMS, RANKING = "collab/items", "collab/ranking"
CODES, RANKED = "collab/item-codes", "collab/ranked-items"

_BLOCKS: Final = (
    (ITEMS, "ItemsBlock", "Some items by their ids; left out: all of them"),
    (RANKING, "RankingBlock", "The items that belong to the front of a ranking"),
    (CODES, "ItemCodesBlock", "Codes of items to choose from, or of a history"),
    (RANKED, "RankedItemsBlock", "The held-out items; models score the whole catalogue"),
)
_MODELS: Final = (
    ("ease", "ease:ease", "Each item from all others by ridge regression, in closed form (EASE)"),
    ("als", "als:als", "Factors of users and items by alternating least squares"),
    ("factors", "factors_bpr:factors", "Factors of users and items, trained against sampled items"),
    ("lightgcn", "lightgcn:lightgcn", "Factors spread over the graph of users and items (LightGCN)"),
    ("sasrec", "sasrec:sasrec", "A causal Transformer over each user's history (SASRec)"),
    ("item-knn", "knn:item_knn", "The nearest neighbours of what a user has seen"),
)
_LOSSES: Final = (
    ("sampled_softmax", "SampledSoftmax", "Cross-entropy of the chosen item among candidates", True),
    ("bpr", "BPR", "Chosen items above others, pair by pair (BPR)", False),
    ("pair_bce", "PairBCE", "The chosen item as 1 and others as 0", False),
    ("full_squared_error", "FullSquaredError", "Squared error over the whole catalogue, in validation", False),
)
_METRICS: Final = (
    ("ndcg", "ndcg", "Discounted gain of the first k places, over the best possible", True),
    ("recall", "recall_at", "Share of the held-out items among the first k", True),
    ("precision", "precision_at", "Share of the first k places that hold a held-out item", True),
    ("mrr", "mrr", "1 / place of the first held-out item", True),
    ("map", "mean_ap", "Mean precision at the places of hits", True),
    ("hit_rate", "hit_rate", "Share of users with a hit among the first k", True),
    ("coverage", "coverage", "Share of the catalogue that is recommended to somebody", True),
    ("mean_popularity", "mean_popularity", "How many users had what is recommended", False),
)
_DEFAULT_METRICS: Final = ("ndcg", "recall", "precision", "mrr", "map", "hit_rate")


def blocks() -> Iterator[BlockSpec]:
    """Return several items and rankings, as ids and as codes."""
    for name, attribute, summary in _BLOCKS:
        yield BlockSpec(id=name, target=f"graftwork_collab.ranking_blocks:{attribute}", summary=summary)


def transforms() -> Iterator[TransformSpec]:
    """Return the way from items' ids to codes, and the sampler of negatives."""
    yield TransformSpec(
        id="collab/identify-items",
        target="graftwork_collab.ranking_blocks:IdentifyItems",
        summary="Encode several items by their ids",
        accepts=(ITEMS, RANKING),
        gives=(CODES, RANKED),
        invertible=True,
    )
    yield TransformSpec(
        id="collab/sample-negatives",
        target="graftwork_collab.ranking_blocks:SampleNegatives",
        summary="Draw items to compare the chosen ones with, on the device",
        accepts=(CODES,),
        gives=CODES,
        stage="batch",
        random=True,
    )


def models() -> Iterator[ModelSpec]:
    """Return the rankers."""
    for name, target, summary in _MODELS:
        yield ModelSpec(
            id=f"collab/{name}",
            target=f"graftwork_collab.{target}",
            summary=summary,
            inputs=(CODE, CODES),
            output=RANKED,
        )


def losses() -> Iterator[LossSpec]:
    """Return what rankers are trained with."""
    for name, attribute, summary, default in _LOSSES:
        yield LossSpec(
            id=f"collab/{name}",
            target=f"graftwork_collab.ranking_losses:{attribute}",
            summary=summary,
            blocks=(RANKED,),
            default=default,
        )


def metrics() -> Iterator[MetricSpec]:
    """Return the metrics of a full ranking."""
    for name, attribute, summary, higher in _METRICS:
        yield MetricSpec(
            id=f"collab/{name}",
            target=f"graftwork_collab.ranking_metrics:{attribute}",
            summary=summary,
            blocks=(RANKED,),
            higher_is_better=higher,
            default=name in _DEFAULT_METRICS,
        )


def baselines() -> Iterator[BaselineSpec]:
    """Return what a ranker must beat."""
    yield BaselineSpec(
        id="collab/most-popular",
        target="graftwork_collab.ranking_baselines:MostPopular",
        summary="The items most users chose, but for what a user has seen",
        blocks=(RANKED,),
        inputs=(CODE, CODES),
    )


def tasks() -> Iterator[TaskSpec]:
    """Return the one-command job."""
    yield TaskSpec(
        id="collab/ranking",
        target="graftwork_collab.ranking_tasks:CollabRanking",
        summary="Recommend items to users",
        inputs=(ID, ITEMS),
        targets=(RANKING,),
        defaults={
            "model": ("collab/ease", "collab/als", "collab/sasrec"),
            "loss": "collab/sampled_softmax",
            "metrics": tuple(f"collab/{name}" for name in _DEFAULT_METRICS),
            "baselines": ("collab/most-popular",),
        },
    )
