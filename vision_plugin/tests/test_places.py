"""Points and boxes: they go where the picture goes, and predictions come back to where they lie in the original."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from graftwork import DataBlock, ItemError, Learner, PlanError, RandomSplitter, Runtime, load_learner
from graftwork.api import BlockError, DataError, OptionError, Plan
from graftwork_vision import (
    BBoxBlock,
    ImageBlock,
    Normalize,
    PointBlock,
    RandomResizedCrop,
    Resize,
    Warp,
    imagenet_stats,
)
from graftwork_vision.boxes import EMPTY, BoxTensorBlock, PackBoxes, PlacedBoxesBlock
from graftwork_vision.pictures import full_size, open_picture
from graftwork_vision.places import place
from graftwork_vision.points import PointTensorBlock

RESIZES = [
    Resize((40, 60), method="crop"),
    Resize((40, 60), method="pad", pad_mode="zeros"),
    Resize((40, 60), method="squish"),
    RandomResizedCrop((40, 60), min_scale=0.5),
]


def dotted(height: int, width: int, x: int, y: int) -> Image.Image:
    """A black picture with a white square of 5x5 around a pixel."""
    picture = Image.new("RGB", (width, height))
    ImageDraw.Draw(picture).rectangle((x - 2, y - 2, x + 2, y + 2), fill="white")
    return picture


def plan_of(target, *item_tfms) -> Plan:
    return Plan.compile(
        {"x": ImageBlock(), "y": target}, inputs=["x"], targets=["y"], item_tfms=item_tfms, train=lambda _: iter(())
    )


class TestGeometry:
    """What an item transform does to the pixels it does to points and boxes."""

    @pytest.mark.parametrize("tfm", RESIZES, ids=lambda t: f"{type(t).__name__}-{getattr(t, 'method', '')}")
    @given(st.integers(0, 10_000), st.booleans())
    @settings(max_examples=12, deadline=None)
    def test_a_point_stays_on_its_pixel(self, tfm, seed, training):
        rng = np.random.default_rng(seed)
        height, width = rng.integers(60, 140, 2).tolist()
        x, y = int(rng.integers(width * 0.4, width * 0.6)), int(rng.integers(height * 0.4, height * 0.6))
        sample = {"x": dotted(height, width, x, y), "y": [(x + 0.5, y + 0.5)]}
        plan = plan_of(PointBlock(1), tfm)
        encoded = plan.encode(sample, np.random.default_rng(seed) if training else None)
        pixels = encoded["x"].float().sum(0)
        if pixels.sum() < 100:
            return  # the dot was cropped away
        rows, columns = torch.arange(40.0) + 0.5, torch.arange(60.0) + 0.5
        seen = torch.stack([(pixels.sum(0) * columns).sum(), (pixels.sum(1) * rows).sum()]) / pixels.sum()
        said = (encoded["y"][0] + 1) / 2 * torch.tensor([60.0, 40.0])
        near_edge = bool((said < 4).any() or (said > torch.tensor([56.0, 36.0])).any())
        assert near_edge or bool(((seen - said).abs() < 0.75).all()), (seen, said)

    def test_boxes_and_points_go_the_same_way(self):
        tfm, rng = Resize(32), [np.random.default_rng(3), np.random.default_rng(3)]
        picture = dotted(50, 80, 20, 20)
        points = plan_of(PointBlock(2), tfm).encode({"x": picture, "y": [(30, 10), (50, 40)]}, rng[0])["y"]
        boxes = plan_of(BBoxBlock(("a",)), tfm).encode(
            {"x": picture, "y": {"boxes": [(30, 10, 50, 40)], "labels": ["a"]}}, rng[1]
        )["y"]
        assert torch.allclose(boxes[0, :4], points.flatten().clamp(-1, 1))

    def test_a_flip_of_the_batch_moves_points_and_boxes(self):
        mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0]))[None]
        warp = Warp(matrices=mirror, before=(8, 8), after=(8, 8), pad_mode="border")
        points = torch.tensor([[[-0.5, 0.25], [torch.nan, torch.nan]]])
        moved = PointTensorBlock(2).warp(points, warp)
        assert torch.allclose(moved[0, 0], torch.tensor([0.5, 0.25]))
        assert moved[0, 1].isnan().all()
        boxes = torch.tensor([[[-0.5, -0.5, 0.0, 0.5, 1, 1], [0, 0, 0, 0, EMPTY, 1]]])
        moved = BoxTensorBlock(("a", "b"), 2).warp(boxes, warp)
        assert torch.allclose(moved[0, 0], torch.tensor([0.0, -0.5, 0.5, 0.5, 1, 1]))
        assert moved[0, 1, 4] == EMPTY

    def test_a_box_moved_out_of_the_picture_is_emptied_and_one_across_its_edge_cut(self):
        right = torch.tensor([[[1.0, 0, -1.0], [0, 1, 0], [0, 0, 1]]])  # what is shown came from one unit to the left
        warp = Warp(matrices=right, before=(8, 8), after=(8, 8), pad_mode="zeros")
        boxes = torch.tensor([[[-0.5, -0.5, 0.5, 0.5, 0, 1], [0.25, 0.0, 0.75, 0.5, 1, 1]]])
        moved = BoxTensorBlock(("a", "b"), 2).warp(boxes, warp)
        assert torch.allclose(moved[0, 0, :5], torch.tensor([0.5, -0.5, 1.0, 0.5, 0.0]))
        assert moved[0, 1, 4] == EMPTY

    def test_y_first_and_draft_decoding(self, tmp_path):
        dotted(400, 800, 20, 20).save(tmp_path / "a.jpg")
        picture = open_picture(tmp_path / "a.jpg", shrink_to=64)
        assert picture.width < 800
        assert full_size(picture) == (400, 800)
        blocks = {"x": ImageBlock(shrink_to=64), "y": PointBlock(1, y_first=True)}
        plan = Plan.compile(blocks, inputs=["x"], targets=["y"], item_tfms=[], train=lambda _: iter(()))
        encoded = plan.encode({"x": tmp_path / "a.jpg", "y": [(100, 600)]})
        assert torch.allclose(encoded["y"], torch.tensor([[0.5, -0.5]]))


class TestBoxes:
    """Boxes beyond what a model can use."""

    def packed(self, boxes, labels, most=4, size=(100, 100)):
        codes = [("a", "b").index(label) for label in labels]
        placed = place(np.asarray(boxes, float).reshape(-1, 2), size, labels=codes)
        return PackBoxes().bind(PlacedBoxesBlock(("a", "b"), most)).encode(placed, None)

    def test_outside_is_cut_off_empty_ones_are_left_out(self):
        rows = self.packed([(-50, 0, 50, 50), (110, 0, 150, 50), (10, 10, 10, 40), (20, 20, 40, 40)], "abab")
        assert rows[:2, :5].tolist() == [[-1.0, -1.0, 0.0, 0.0, 0.0], pytest.approx([-0.6, -0.6, -0.2, -0.2, 1.0])]
        assert rows[2:, 4].tolist() == [EMPTY, EMPTY]

    def test_no_box_at_all_is_allowed(self):
        assert self.packed([], "")[:, 4].tolist() == [EMPTY] * 4

    def test_of_too_many_the_largest_are_kept_in_order(self):
        rows = self.packed([(0, 0, 5, 5), (0, 0, 50, 50), (0, 0, 3, 3), (0, 0, 20, 20)], "abab", most=2)
        assert rows[:, 2].tolist() == pytest.approx([0.0, -0.6])

    def test_swapped_corners_are_put_in_order(self):
        assert self.packed([(60, 70, 20, 10)], "a")[0, :4].tolist() == pytest.approx([-0.6, -0.8, 0.2, 0.4])

    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            ({"boxes": [(1, 2, 3)], "labels": ["a"]}, "shape"),
            ({"boxes": [(1, 2, 3, 4)], "labels": []}, "1 boxes and 0 labels"),
            ({"boxes": [(1, 2, 3, float("nan"))], "labels": ["a"]}, "no finite number"),
            ({"boxes": [(1, 2, 3, 4)], "labels": ["c"]}, "'c' is not among the 2 classes"),
            (7, "a mapping with 'boxes' and 'labels'"),
        ],
    )
    def test_what_is_no_boxes_is_refused_with_the_reason(self, value, reason):
        block = BBoxBlock(("a", "b"))
        assert reason in block.check(value)
        with pytest.raises(ItemError, match=reason):
            plan_of(block).encode({"x": dotted(20, 20, 5, 5), "y": value})

    def test_a_training_split_without_boxes_is_said(self):
        with pytest.raises(DataError, match="not one box in the training split"):
            Plan.compile(
                {"x": ImageBlock(), "y": BBoxBlock()},
                inputs=["x"],
                targets=["y"],
                train=lambda _: iter([{"boxes": [], "labels": []}]),
            )

    def test_settings_are_checked(self):
        with pytest.raises(OptionError, match="max_boxes=0"):
            BBoxBlock(max_boxes=0)
        with pytest.raises(OptionError, match=r"threshold=1\.5"):
            BBoxBlock(threshold=1.5)


class TestPoints:
    """Points that are missing, outside, or of the wrong number."""

    def test_missing_ones_fill_a_batch_up_and_cost_nothing(self):
        block = PointTensorBlock(None)
        column = block.collate([torch.zeros(2, 2), torch.zeros(1, 2)])
        assert column.shape == (2, 2, 2)
        assert column[1, 1].isnan().all()
        assert [len(v) for v in block.uncollate(column)] == [2, 1]

    def test_points_outside_are_kept(self):
        encoded = plan_of(PointBlock(1)).encode({"x": dotted(20, 20, 5, 5), "y": [(-10, 30)]})
        assert encoded["y"].tolist() == [[-2.0, 2.0]]

    def test_another_number_of_points_is_refused(self):
        with pytest.raises(ItemError, match="2 points expected, not 1; write"):
            plan_of(PointBlock(2)).encode({"x": dotted(20, 20, 5, 5), "y": [(1, 1)]})

    def test_any_number_cannot_be_predicted(self):
        with pytest.raises(OptionError, match=r"PointBlock\(num_points="):
            _ = PointTensorBlock(None).num_outputs

    def test_without_a_picture_the_error_says_what_is_missing(self):
        plan = Plan.compile({"y": PointBlock(1)}, inputs=[], targets=["y"], train=lambda _: iter(()))
        with pytest.raises(ItemError, match="give the data an ImageBlock before them"):
            plan.encode({"y": [(1, 1)]})

    def test_raw_points_have_no_tensor_form(self):
        with pytest.raises(BlockError, match="place them first"):
            PointBlock().collate([[(1, 1)]])
        with pytest.raises(PlanError, match="fits none of the fields"):
            Plan.compile({"y": PointBlock(1)}, inputs=["y"], targets=[], batch_tfms=[Normalize()], train=lambda _: [])


def spots(folder: Path, count: int) -> list[tuple[Path, list[tuple[float, float]]]]:
    """Write wide and tall pictures with one bright dot each."""
    rng, items = np.random.default_rng(0), []
    for number in range(count):
        height, width = (40, 60) if number % 2 else (64, 44)
        x, y = int(rng.integers(8, width - 8)), int(rng.integers(8, height - 8))
        picture = Image.new("RGB", (width, height))
        ImageDraw.Draw(picture).ellipse((x - 6, y - 6, x + 6, y + 6), fill="white")
        picture.save(folder / f"{number}.png")
        items.append((folder / f"{number}.png", [(x + 0.5, y + 0.5)]))
    return items


@pytest.mark.parametrize("method", ["pad", "crop"])
def test_a_model_learns_points_and_gives_them_in_the_original_pixels(tmp_path, method):
    items = spots(tmp_path, 90)
    block = DataBlock(
        blocks=(ImageBlock, PointBlock(1)),
        splitter=RandomSplitter(0.2, seed=0),
        item_tfms=Resize(32, method=method, pad_mode="zeros"),
        batch_tfms=Normalize.from_stats(*imagenet_stats),
    )
    data = block.dataloaders(items, bs=24, workers=0)
    learn = Learner(data, "vision/small-cnn", runtime=Runtime(device="cpu", precision="fp32"), progress=False)
    epochs = 10 if method == "pad" else 1
    learn.fit_one_cycle(epochs, 1e-2)
    artifact = load_learner(learn.export(tmp_path / "m.graft"), device="cpu")
    one, many = artifact.predict(items[0][0]), artifact.predict_batch([p for p, _ in items[:40]], workers=0, bs=7)
    assert np.allclose(one.value, many[0].value, atol=1e-3)
    raw = one.raw.reshape(2).numpy().astype(float)
    height, width = 64, 44
    if method == "pad":  # 64x44 becomes 32x22 with 5 columns of border on the left
        wanted = ((raw[0] + 1) * 16 - 5) * 2, (raw[1] + 1) * 32
        errors = [np.hypot(*(np.asarray(p.value[0]) - y[0])) for p, (_, y) in zip(many, items, strict=False)]
        assert np.mean(errors) < 10  # pictures are 64x44 and 40x60
    else:  # of 64x44 the middle 44x44 is taken
        wanted = (raw[0] + 1) / 2 * width, (raw[1] + 1) / 2 * 44 + (height - 44) / 2
    assert np.allclose(one.value[0], wanted, atol=0.05)
    learn.show_results()
    data.show_batch()
