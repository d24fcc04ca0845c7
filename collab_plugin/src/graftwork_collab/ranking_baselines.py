"""What a ranker must beat: recommending to everybody what is popular."""

from __future__ import annotations

from typing import Self, final

import numpy as np
import torch
from torch import Tensor

from graftwork.api import Baseline, ColumnLoader, DataLoaders, Loader, OptionError, PlanError
from graftwork_collab.ranking_blocks import RankedItemsBlock
from graftwork_collab.ranking_data import RankingDataLoaders
from graftwork_collab.topk import top_k_products

__all__ = ["MostPopular"]


@final
class MostPopular(Baseline):
    """Recommend the items with the most training interactions, but for those a user has had."""

    name = "most-popular"

    def __init__(self) -> None:
        """Know nothing yet."""
        self.data: RankingDataLoaders | None = None

    def fit(self, data: DataLoaders) -> Self:
        """Count the training interactions of each item; raise PlanError for data that is no ranking."""
        if not isinstance(data, RankingDataLoaders):
            raise PlanError(f"the baseline {self.name!r} needs RankingDataLoaders, not {type(data).__name__}")
        self.data = data
        return self

    def predict(self, loader: Loader) -> Tensor:
        """Return the best item codes of the loader's users, (U, depth)."""
        if self.data is None:
            raise OptionError(f"the baseline {self.name!r} has not been fitted; call fit(data) first")
        block = loader.plan.target
        if not isinstance(block, RankedItemsBlock) or not isinstance(loader, ColumnLoader):
            raise PlanError(f"the baseline {self.name!r} ranks items for the users of a RankingDataLoaders")
        users = loader.columns["user"].cpu().numpy()
        seen = self.data.interactions.seen.take(users)
        popularity = self.data.popularity[:, None]
        ones = torch.from_numpy(np.ones((len(users), 1), dtype=np.float32))
        return top_k_products(ones, popularity, block.depth, seen=seen, first=1, bf16=False).codes
