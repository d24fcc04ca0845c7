"""Draw the plans of docs/concepts.md: run it to write docs/pictures/*.svg anew; a test compares."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from graftwork import CategoryBlock, DataBlock, Plan, parent_label
from graftwork_collab import CollabDataLoaders
from graftwork_tabular import TabularDataLoaders
from graftwork_vision import Flip, ImageBlock, Normalize, Resize, get_image_files, imagenet_stats

PICTURES = Path(__file__).parents[1] / "pictures"


def vision_plan() -> Plan:
    with tempfile.TemporaryDirectory() as name:
        for place, label in enumerate(["cat", "dog"] * 4):
            (Path(name) / label).mkdir(exist_ok=True)
            Image.new("RGB", (40, 30)).save(Path(name) / label / f"{place}.png")
        recipe = DataBlock(
            blocks=(ImageBlock, CategoryBlock),
            get_items=get_image_files,
            get_y=parent_label,
            item_tfms=Resize(128),
            batch_tfms=[Flip(), Normalize.from_stats(*imagenet_stats)],
        )
        return recipe.datasets(name).plan


def people() -> pd.DataFrame:
    ages = np.arange(20, 60)
    return pd.DataFrame(
        {"job": np.resize(["baker", "clerk"], 40), "age": ages, "paid": np.where(ages > 40, "yes", "no")}
    )


def tabular_plan() -> Plan:
    return TabularDataLoaders.from_df(people(), y_names="paid", bs=8).plan


def collab_plan() -> Plan:
    pairs = [(user, item, float(1 + (user + item) % 5)) for user in range(8) for item in range(6)]
    return CollabDataLoaders.from_df(pd.DataFrame(pairs, columns=["user", "item", "rating"]), bs=8).plan


def pictures() -> dict[str, str]:
    """Return the drawings by file name."""
    plans = {"vision": vision_plan(), "tabular": tabular_plan(), "collab": collab_plan()}
    return {f"{name}.svg": plan.drawing() + "\n" for name, plan in plans.items()}


if __name__ == "__main__":
    PICTURES.mkdir(exist_ok=True)
    for name, drawing in pictures().items():
        (PICTURES / name).write_text(drawing, encoding="utf-8")
