"""Several pictures in one sample, and a picture beside a row of a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graftwork import CategoryBlock, DataBlock, Learner, OptionError, RandomSplitter, Runtime, load_learner
from graftwork.api import ColReader, ModelContext
from graftwork_vision import ImageBlock, ImageTensorBlock, Normalize, Resize, imagenet_stats
from graftwork_vision.siamese import siamese

RUNTIME = Runtime(device="cpu", precision="fp32")


def pairs(folder: Path, count: int) -> list[tuple[Path, Path, str]]:
    """Write pairs of pictures: both dark or both light, or one of each."""
    rng, items = np.random.default_rng(0), []
    for number in range(count):
        shades = rng.integers(0, 2, 2)
        paths = (folder / f"{number}a.png", folder / f"{number}b.png")
        for shade, path in zip(shades, paths, strict=True):
            pixels = (40 + 140 * shade + rng.integers(0, 40, (20, 24, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(path)
        items.append((*paths, "same" if shades[0] == shades[1] else "different"))
    return items


def test_a_siamese_model_tells_whether_two_pictures_are_alike(tmp_path):
    items = pairs(tmp_path, 120)
    block = DataBlock(
        blocks=(ImageBlock, ImageBlock, CategoryBlock),
        n_inp=2,
        splitter=RandomSplitter(0.2, seed=0),
        item_tfms=Resize(16),
        batch_tfms=Normalize.from_stats(*imagenet_stats),
    )
    data = block.dataloaders(items, bs=20, workers=0)
    config = {"backbone": "small-cnn", "ps": 0.0}
    learn = Learner(data, "vision/siamese", model_config=config, runtime=RUNTIME, progress=False)
    assert list(learn.groups) == ["body", "head"]
    learn.fit_one_cycle(8, 1e-2)
    assert learn.history[-1]["accuracy"] > 0.85
    artifact = load_learner(learn.export(tmp_path / "m.graft"), device="cpu")
    left, right, _ = items[0]
    found = artifact.predict({"x1": left, "x2": right})
    assert found.value in ("same", "different")
    assert artifact.predict({"x1": right, "x2": left}).probabilities.keys() == found.probabilities.keys()
    with pytest.raises(OptionError, match="'x2' is missing"):
        artifact.predict({"x1": left})


def test_a_siamese_model_says_what_it_cannot_take():
    target = CategoryBlock(("a", "b")).steps().closing[0].out_block(CategoryBlock())
    one = {"x": ImageTensorBlock(3)}
    with pytest.raises(OptionError, match="takes two or more pictures"):
        siamese(ModelContext(inputs=one, targets={"y": target}))
    two = {"x1": ImageTensorBlock(3), "x2": ImageTensorBlock(1)}
    with pytest.raises(OptionError, match="differ in their channels"):
        siamese(ModelContext(inputs=two, targets={"y": target}))


def test_a_picture_beside_a_row_of_a_table(tmp_path):
    """Half of what there is to know is in the picture, the other half in the row."""
    pytest.importorskip("graftwork_tabular", reason="it is the tabular plugin's rows that stand beside pictures here")
    from graftwork_tabular import Categorify, RowBlock
    from graftwork_tabular import Normalize as NormalizeRow

    rng, rows = np.random.default_rng(0), []
    for number in range(160):
        shade, price = int(rng.integers(2)), float(rng.normal())
        pixels = (40 + 140 * shade + rng.integers(0, 40, (20, 20, 3))).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        label = "take" if shade + price > 0.5 else "leave"
        rows.append(
            {"photo": tmp_path / f"{number}.png", "row": {"price": price, "town": "ab"[number % 2]}, "y": label}
        )
    recipe = DataBlock(
        blocks={
            "photo": ImageBlock(),
            "row": RowBlock((("price", "number"), ("town", "category"))),
            "y": CategoryBlock(),
        },
        getters={name: ColReader(name) for name in ("photo", "row", "y")},
        n_inp=2,
        splitter=RandomSplitter(0.2, seed=0),
        item_tfms=[Resize(16), Categorify(), NormalizeRow()],
        batch_tfms=Normalize.from_stats(*imagenet_stats),
    )
    data = recipe.dataloaders(rows, bs=32, workers=0)
    config = {"models": {"photo": "vision/small-cnn", "row": "tabular/mlp"}, "options": {"row": {"layers": [16]}}}
    learn = Learner(data, "vision/fusion", model_config=config, runtime=RUNTIME, progress=False)
    learn.fit_one_cycle(10, 1e-2)
    assert learn.history[-1]["accuracy"] > 0.8
    artifact = load_learner(learn.export(tmp_path / "m.graft"), device="cpu")
    found = artifact.predict({"photo": rows[0]["photo"], "row": rows[0]["row"]})
    assert found.value in ("take", "leave")
    with pytest.raises(OptionError, match="no model for the input 'row'"):
        Learner(data, "vision/fusion", model_config={"models": {"photo": "vision/small-cnn"}}, runtime=RUNTIME)
