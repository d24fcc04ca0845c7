"""Detection: average precision against pycocotools' figures, the loss of a set, detectors, and the job."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from graftwork import DataBlock, DataError, Learner, OptionError, RandomSplitter, Runtime, UnknownName
from graftwork.api import ModelContext, as_metric
from graftwork_vision import BBoxBlock, BoxMap, ImageBlock, ImageTensorBlock, Resize
from graftwork_vision.box_scores import BoxSetLoss, overlaps
from graftwork_vision.boxes import EMPTY, BoxTensorBlock
from graftwork_vision.conformance import write_shapes
from graftwork_vision.detectors import faster_rcnn, retinanet

GOLDEN = json.loads((Path(__file__).parent / "coco_map.json").read_text(encoding="utf-8"))
"""Made-up boxes with what pycocotools 2.0.11 (COCOeval, bbox) says of them."""


def filled(rows, width: int = 10) -> torch.Tensor:
    """Fill rows of a box, a label and perhaps a score up to a fixed number."""
    found = torch.tensor([0.0, 0, 0, 0, EMPTY, 0]).repeat(width, 1)
    for i, row in enumerate(rows):
        found[i] = torch.tensor([*row, *([1.0] if len(row) == 5 else [])])
    return found


def golden() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.stack(list(map(filled, GOLDEN["predictions"]))), torch.stack(list(map(filled, GOLDEN["targets"])))


class TestAveragePrecision:
    """What COCO's own program says of the same boxes."""

    @pytest.mark.parametrize(("metric", "key"), [(BoxMap(), "map"), (BoxMap((0.5,)), "map_50")])
    def test_it_is_what_pycocotools_says(self, metric, key):
        metric.update(*golden())
        assert metric.compute() == pytest.approx(GOLDEN[key], abs=1e-6)

    @given(st.lists(st.integers(0, 2), min_size=7, max_size=7))
    @settings(max_examples=15, deadline=None)
    def test_parts_merged_are_the_whole(self, parts):
        predicted, target = golden()
        pieces = [BoxMap() for _ in range(3)]
        for row, part in enumerate(parts):
            pieces[part].update(predicted[row : row + 1], target[row : row + 1])
        first, *others = pieces
        for other in others:
            moved = BoxMap()
            moved.load_state_dict(other.state_dict())
            first.merge(moved)
        assert first.compute() == pytest.approx(GOLDEN["map"], abs=1e-6)

    def test_perfect_boxes_are_one_and_none_is_zero(self):
        _, target = golden()
        metric = as_metric("vision/box_map")
        metric.update(target, target)
        assert metric.compute() == 1.0
        metric.reset()
        metric.update(torch.stack([filled([])] * len(target)), target)
        assert metric.compute() == 0.0

    def test_a_second_box_on_the_same_thing_is_wrong(self):
        target = filled([(0, 0, 10, 10, 0)])[None]
        metric = BoxMap((0.5,))
        metric.update(filled([(0, 0, 10, 10, 0, 0.8), (0, 0, 10, 9, 0, 0.9)])[None], target)
        assert metric.compute() == 1.0  # the surer one is right, the other comes after full recall
        metric.update(filled([(0, 0, 10, 10, 1, 0.99)])[None], target)
        assert metric.compute() == pytest.approx(51 / 101)  # of two things one is found

    def test_nothing_seen_and_nothing_there(self):
        with pytest.raises(DataError, match="has seen no batch"):
            BoxMap().compute()
        metric = BoxMap()
        metric.update(filled([(0, 0, 1, 1, 0, 0.5)])[None], filled([])[None])
        assert np.isnan(metric.compute())


class TestSetLoss:
    """The default loss of boxes."""

    block = BoxTensorBlock(("a", "b"), 3)

    def raw(self, *rows) -> torch.Tensor:
        return torch.tensor([*rows, *([[0.0, 0, 0, 0, -10, -10]] * (3 - len(rows)))]).flatten()[None]

    def test_it_is_small_for_right_boxes_whatever_their_order(self):
        target = filled([(-0.5, -0.5, 0.0, 0.0, 0), (0.2, 0.2, 0.9, 0.9, 1)], 3)[None]
        first, second = [-0.5, -0.5, 0.0, 0.0, 10, -10], [0.2, 0.2, 0.9, 0.9, -10, 10]
        losses = [float(BoxSetLoss()(self.raw(*rows), target)) for rows in ((first, second), (second, first))]
        assert losses[0] == pytest.approx(losses[1], abs=1e-6)
        assert losses[0] < 0.01
        assert float(BoxSetLoss()(self.raw(first), target)) > 3

    def test_a_picture_without_boxes_punishes_what_is_claimed(self):
        empty = filled([], 3)[None]
        assert float(BoxSetLoss()(self.raw(), empty)) < 0.01
        assert float(BoxSetLoss()(self.raw([0.0, 0, 1, 1, 5, -10]), empty)) > 4

    def test_overlaps_are_by_hand(self):
        a, b = torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 1, 3, 3], [0, 0, 2, 2], [5, 5, 6, 6]])
        assert overlaps(a, b).tolist() == [pytest.approx([1 / 7, 1.0, 0.0])]


def context(channels: int = 3, target=BoxTensorBlock(("a", "b"), 6)) -> ModelContext:  # noqa: B008
    return ModelContext(inputs={"x": ImageTensorBlock(channels, (64, 64), "standard")}, targets={"y": target})


class TestDetectors:
    """torchvision's detectors as models of the house."""

    @pytest.mark.parametrize("build", [faster_rcnn, retinanet])
    @pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v3_small"])
    def test_any_convolutional_backbone_serves(self, build, backbone):
        parts = build(context(channels=4), backbone=backbone, width=32)
        x = torch.rand(2, 4, 64, 64)
        target = torch.stack([filled([(-0.5, -0.5, 0.5, 0.5, 1)], 6), filled([], 6)])
        parts.module.train()
        loss = parts.train_loss(None, parts.module(x), target)
        loss.backward()
        assert torch.isfinite(loss)
        assert sum(len(p) for p in parts.parameter_groups().values()) == len(list(parts.module.parameters()))
        parts.module.eval()
        with torch.no_grad():
            assert parts.module(x).shape == (2, 6 * (4 + 2))

    def test_what_cannot_be_is_said(self):
        with pytest.raises(OptionError, match="gives no feature maps"):
            faster_rcnn(context(), backbone="vit_b_16")
        with pytest.raises(UnknownName, match="resnet18"):
            faster_rcnn(context(), backbone="resnet81")
        with pytest.raises(OptionError, match="there are no weights of the backbone small-cnn"):
            retinanet(context(), backbone="small-cnn", weights="DEFAULT")

    def test_half_precision_trains(self):
        parts = faster_rcnn(context(), backbone="small-cnn", width=16, head_width=16)
        parts.module.train()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            raw = parts.module(torch.rand(2, 3, 64, 64))
        loss = parts.train_loss(None, raw, torch.stack([filled([(-0.5, -0.5, 0.5, 0.5, 1)], 6)] * 2))
        assert loss.dtype == torch.float32
        assert torch.isfinite(loss)


def run(capsys, *arguments) -> tuple[int, str, str]:
    from graftwork.cli.main import main

    try:
        status = main([str(a) for a in arguments])
    except SystemExit as end:
        status = int(end.code or 0)
    said = capsys.readouterr()
    return status or 0, said.out, said.err


@pytest.mark.long
def test_the_job_finds_shapes_and_gives_boxes_in_the_pictures_own_pixels(tmp_path, capsys):
    (tmp_path / "s").mkdir()
    source = write_shapes(tmp_path / "s", count=120, side=64)
    out = tmp_path / "run"
    options = ["--size", "64", "--bs", "12", "--epochs", "8", "--max-boxes", "8", "--workers", "0", "--device", "cpu"]
    status, said, _ = run(
        capsys, "train", "vision/detection", source, *options, "--augment", "none", "--out", out, "--json"
    )
    report = json.loads(said.splitlines()[-1])
    assert status == 0
    assert report["baseline"]["id"] == "vision/frequent-boxes"
    assert report["metrics"]["box_map"] > 0.35 > 0.1 > report["baseline"]["metrics"]["box_map"]
    assert report["metrics"]["box_map_50"] > 0.6
    truth = json.loads((source / "annotations.json").read_text(encoding="utf-8"))
    wide = max(truth["images"], key=lambda image: image["width"])
    doubled = tmp_path / "doubled.png"
    with Image.open(source / "images" / wide["file_name"]) as picture:
        picture.resize((picture.width * 2, picture.height * 2), Image.Resampling.NEAREST).save(doubled)
    inputs = [source / "images" / wide["file_name"], doubled]
    _, said, _ = run(capsys, "predict", out / "model.graft", *inputs, "--json")
    once, twice = (row["prediction"] for row in json.loads(said.splitlines()[-1])["predictions"])
    assert set(once) == {"boxes", "labels", "scores"}
    assert once["labels"]
    assert set(once["labels"]) <= {"disc", "square"}
    true = [
        (x, y, x + w, y + h) for x, y, w, h in (n["bbox"] for n in truth["annotations"] if n["image_id"] == wide["id"])
    ]
    best = overlaps(torch.tensor(once["boxes"]), torch.tensor(true, dtype=torch.float32)).max(1).values
    assert best.max() > 0.6
    # The same picture at twice its size: the same places, in its own pixels.
    if len(once["boxes"]) == len(twice["boxes"]):
        assert np.allclose(np.array(once["boxes"]) * 2, twice["boxes"], atol=6)
    status, _, error = run(capsys, "train", "vision/detection", source / "images", "--out", tmp_path / "other")
    assert status == 2
    assert "neither a COCO file" in error


def test_a_sample_without_boxes_is_trained_and_shown(tmp_path):
    items = []
    for number in range(8):
        Image.new("RGB", (40, 30), (number * 20,) * 3).save(tmp_path / f"{number}.png")
        boxes = [] if number % 2 else [(5, 5, 25, 25)]
        items.append((tmp_path / f"{number}.png", {"boxes": boxes, "labels": ["a"] * len(boxes)}))
    block = DataBlock(
        blocks=(ImageBlock, BBoxBlock(max_boxes=3)), splitter=RandomSplitter(0.5, seed=1), item_tfms=Resize(32)
    )
    data = block.dataloaders(items, bs=4, workers=0)
    config = {"backbone": "small-cnn", "width": 16, "head_width": 16, "first_stride": 8}
    runtime = Runtime(device="cpu", precision="fp32")
    learn = Learner(data, "vision/faster-rcnn", model_config=config, runtime=runtime, progress=False).fit(1, 1e-3)
    assert np.isfinite(learn.history[-1]["train_loss"])
    learn.show_results()
    data.show_batch()
