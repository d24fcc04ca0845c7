"""What differs on an accelerator: sweeps, selection and negatives without kernels of ours."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from graftwork.api import Runtime
from graftwork_collab.ranking_blocks import ItemCodesBlock, SampleNegatives
from graftwork_collab.ranking_data import RankingDataLoaders
from graftwork_collab.ranking_learners import ranking_learner
from graftwork_collab.recommend import Recommender

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device; nothing else to test here"),
]


@pytest.mark.parametrize("model", ["collab/ease", "collab/als", "collab/item-knn"])
def test_solved_models_are_the_same_on_both(ratings: pd.DataFrame, model: str):
    data = RankingDataLoaders.from_df(ratings)
    here, there = (
        ranking_learner(data, model, runtime=Runtime(device=device), progress=False).fit(2)
        for device in ("cpu", "cuda")
    )
    assert there.history[-1]["train_loss"] == pytest.approx(here.history[-1]["train_loss"], rel=1e-2)
    ours, theirs = (Recommender(learn).recommend(k=5) for learn in (here, there))
    assert (ours.codes == theirs.codes).float().mean() > 0.9


@pytest.mark.parametrize("model", ["collab/factors", "collab/lightgcn", "collab/sasrec"])
def test_gradients_train_on_the_device(ratings: pd.DataFrame, model: str):
    data = RankingDataLoaders.from_df(ratings, bs=64, history=6 if model == "collab/sasrec" else None)
    learn = ranking_learner(data, model, runtime=Runtime(device="cuda"), progress=False).fit_one_cycle(3)
    assert learn.recorder.losses[-1] < learn.recorder.losses[0]
    recommender = Recommender(learn)
    assert len(recommender.recommend(k=5).items) == 40
    assert len(recommender.recommend_for([[5, 15]], 5).items[0]) == 5
    assert len(recommender.similar_items([5], 5).items[0]) == 5


def test_negatives_are_drawn_on_the_device():
    step = SampleNegatives(num=8, num_items=50)
    chosen = torch.arange(1, 5, device="cuda")[:, None]
    params = step.draw(torch.Generator("cuda").manual_seed(0), {"item": chosen})
    found = step.bind(ItemCodesBlock(num_items=50)).encode(chosen, params)
    assert found.device.type == "cuda"
    assert found.shape == (4, 9)
