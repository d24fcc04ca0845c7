"""Ratings and recommendations for graftwork. Every name is imported on first use."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

__all__ = [
    "BPR",
    "Biases",
    "CollabDataLoaders",
    "CollabRanking",
    "CollabRatings",
    "Factors",
    "FullSquaredError",
    "IdBlock",
    "IdCodeBlock",
    "Identify",
    "IdentifyItems",
    "ItemCodesBlock",
    "ItemsBlock",
    "MostPopular",
    "PairBCE",
    "RankedItemsBlock",
    "RankingBlock",
    "RankingDataLoaders",
    "Recommendations",
    "Recommender",
    "SampleNegatives",
    "SampledSoftmax",
    "collab_learner",
    "coverage",
    "hit_rate",
    "mean_ap",
    "mean_popularity",
    "mrr",
    "ndcg",
    "precision_at",
    "ranking_learner",
    "read_events",
    "recall_at",
]

if TYPE_CHECKING:
    from graftwork_collab.baselines import Biases
    from graftwork_collab.blocks import IdBlock, IdCodeBlock, Identify
    from graftwork_collab.data import CollabDataLoaders
    from graftwork_collab.learner import collab_learner
    from graftwork_collab.named import Factors
    from graftwork_collab.ranking_baselines import MostPopular
    from graftwork_collab.ranking_blocks import (
        IdentifyItems,
        ItemCodesBlock,
        ItemsBlock,
        RankedItemsBlock,
        RankingBlock,
        SampleNegatives,
    )
    from graftwork_collab.ranking_data import RankingDataLoaders
    from graftwork_collab.ranking_learners import ranking_learner
    from graftwork_collab.ranking_losses import BPR, FullSquaredError, PairBCE, SampledSoftmax
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
    from graftwork_collab.ranking_tasks import CollabRanking
    from graftwork_collab.recommend import Recommendations, Recommender
    from graftwork_collab.sources import read_events
    from graftwork_collab.tasks import CollabRatings

_HOMES: Final = {
    # Ratings.
    "baselines": "Biases",
    "blocks": "IdBlock IdCodeBlock Identify",
    "data": "CollabDataLoaders",
    "learner": "collab_learner",
    "named": "Factors",
    "sources": "read_events",
    "tasks": "CollabRatings",
    # Rankings.
    "ranking_baselines": "MostPopular",
    "ranking_blocks": "IdentifyItems ItemCodesBlock ItemsBlock RankedItemsBlock RankingBlock SampleNegatives",
    "ranking_data": "RankingDataLoaders",
    "ranking_learners": "ranking_learner",
    "ranking_losses": "BPR FullSquaredError PairBCE SampledSoftmax",
    "ranking_metrics": "coverage hit_rate mean_ap mean_popularity mrr ndcg precision_at recall_at",
    "ranking_tasks": "CollabRanking",
    "recommend": "Recommendations Recommender",
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
