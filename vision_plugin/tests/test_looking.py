"""Grad-CAM, the page of confusions and the cleaner, on a task whose answer lies in a known place of the picture."""

from __future__ import annotations

import re
from base64 import b64decode

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from graftwork import ClassificationInterpretation, Learner, load_learner
from graftwork.api import DataError, OptionError, PlanError, UnknownName
from graftwork_vision import (
    ConfusionBrowser,
    ImageCleaner,
    ImageDataLoaders,
    grad_cam,
    show_grad_cam,
    vision_learner,
)
from graftwork_vision.pictures import open_picture


def dotted(colour: str, at: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Draw a bright square of 12 pixels, red or blue, on noise."""
    pixels = rng.integers(60, 110, (48, 48, 3), dtype=np.uint8)
    pixels[at[0] : at[0] + 12, at[1] : at[1] + 12] = (250, 30, 30) if colour == "red" else (30, 30, 250)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    rng, root = np.random.default_rng(0), tmp_path_factory.mktemp("dots")
    for colour in ("red", "blue"):
        (root / colour).mkdir()
        for number in range(24):
            dotted(colour, tuple(rng.integers(0, 36, 2)), rng).save(root / colour / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def learn(folder):
    data = ImageDataLoaders.from_folder(folder, size=48, bs=16, workers=0, normalize="fit")
    return vision_learner(data, "small-cnn", weights=None, progress=False).fit_one_cycle(4, 5e-3)


@pytest.fixture
def interpretation(learn):
    return ClassificationInterpretation.from_learner(learn)


class TestGradCam:
    def test_the_heat_lies_on_what_tells_the_classes_apart(self, learn):
        rng = np.random.default_rng(5)
        for colour, at in (("red", (4, 4)), ("red", (30, 20)), ("blue", (20, 32))):
            cam = grad_cam(learn, dotted(colour, at, rng), target=colour)
            assert cam.heat.shape == (48, 48)
            assert cam.heat.min() >= 0
            assert cam.heat.max() == pytest.approx(1)
            there = cam.heat[at[0] : at[0] + 12, at[1] : at[1] + 12].mean()
            assert there > 2 * cam.heat.mean(), (colour, at)

    def test_by_default_it_is_about_the_prediction(self, learn, folder):
        photo = folder / "red" / "0.png"
        said = learn.predict(photo)
        cam = grad_cam(learn, photo)
        assert cam.label == said.value
        assert cam.probability == pytest.approx(said.probabilities[said.value], abs=0.02)
        assert np.abs(np.asarray(cam.picture).astype(int) - np.asarray(open_picture(photo))).max() <= 2
        assert not np.array_equal(cam.heat, grad_cam(learn, photo, target="blue").heat)

    def test_the_model_is_left_as_it_was(self, learn, folder):
        learn.module.train()
        before = {k: v.clone() for k, v in learn.module.state_dict().items()}
        grad_cam(learn, folder / "red" / "0.png")
        assert learn.module.training
        assert all(torch.equal(v, before[k]) for k, v in learn.module.state_dict().items())
        assert all(p.grad is None for p in learn.module.parameters())
        assert not any(part._forward_hooks for part in learn.module.modules())

    def test_a_loaded_model_and_a_frozen_body_will_do(self, learn, folder, tmp_path):
        loaded = load_learner(learn.export(tmp_path / "m.graft"))
        photo = folder / "blue" / "3.png"
        assert np.allclose(grad_cam(loaded, photo).heat, grad_cam(learn, photo).heat, atol=0.05)
        frozen = vision_learner(learn.data, "resnet18", weights=None, progress=False)
        frozen.freeze()
        assert grad_cam(frozen, photo).heat.shape == (48, 48)

    def test_pictures_are_drawn(self, learn, folder, tmp_path):
        cam = grad_cam(learn, folder / "red" / "0.png")
        assert cam.overlay().shape == (48, 48, 3)
        cam.show().savefig(tmp_path / "one.png")
        show_grad_cam(learn, [folder / "red" / f"{n}.png" for n in range(3)]).savefig(tmp_path / "three.png")
        assert (tmp_path / "three.png").stat().st_size > 5000

    def test_what_cannot_be_is_said(self, learn, folder):
        with pytest.raises(UnknownName, match="red"):
            grad_cam(learn, folder / "red" / "0.png", target="reed")
        flat = Learner(learn.data, nn.Sequential(nn.Flatten(), nn.Linear(48 * 48 * 3, 2)), progress=False)
        with pytest.raises(OptionError, match="no map of features"):
            grad_cam(flat, folder / "red" / "0.png")


class TestBrowser:
    def test_every_confusion_opens_its_pictures(self, interpretation):
        page = ConfusionBrowser(interpretation, max_pictures=2, right=True)
        html, cells = page.html(), page.cells()
        counts = interpretation.confusion_matrix()
        assert {cell: len(rows) for cell, rows in cells.items()} == {
            (a, p): int(counts[a, p]) for a, p in zip(*np.nonzero(counts), strict=True)
        }
        assert html.count("<section") == len(cells) == html.count('<input type="radio"')
        assert html.count("<img") == sum(min(2, len(rows)) for rows in cells.values())
        assert "<script" not in html
        for name in re.findall(r'<label for="([^"]+)"', html):
            assert f'id="{name}"' in html
            assert f"#{name}:checked ~ .{name} " in html

    def test_pictures_are_inlined_and_small(self, interpretation):
        html = ConfusionBrowser(interpretation, right=True, side=20).html()
        data = b64decode(re.findall(r'src="data:image/jpeg;base64,([^"]+)"', html)[0])
        assert open_picture(data).size == (20, 20)

    def test_the_largest_loss_comes_first(self, interpretation):
        for rows in ConfusionBrowser(interpretation).cells().values():
            losses = interpretation.losses[rows].tolist()
            assert losses == sorted(losses, reverse=True)

    def test_it_is_written_as_one_file_and_escaped(self, folder, learn, tmp_path):
        page = ConfusionBrowser(ClassificationInterpretation.from_learner(learn), right=True)
        page.interpretation.vocab = ("<b>red", "blue&")
        text = page.save(tmp_path / "page.html").read_text()
        assert "<b>red" not in text
        assert "&lt;b&gt;red" in text
        assert text.startswith("<!doctype html>")

    def test_impossible_sizes_are_refused(self, interpretation):
        with pytest.raises(OptionError, match="max_pictures"):
            ConfusionBrowser(interpretation, max_pictures=0)


class TestCleaner:
    @pytest.fixture
    def cleaner(self, two_classes):
        data = ImageDataLoaders.from_folder(two_classes, size=16, bs=4, workers=0)
        learn = vision_learner(data, "small-cnn", weights=None, progress=False)
        return ImageCleaner(ClassificationInterpretation.from_learner(learn, data.train))

    def test_the_table_names_files_by_their_loss(self, cleaner):
        frame = cleaner.frame()
        assert list(frame.columns) == ["path", "actual", "predicted", "probability", "loss"]
        assert frame["loss"].is_monotonic_decreasing
        assert all(path.parent.name == actual for path, actual in zip(frame["path"], frame["actual"], strict=True))
        assert len(cleaner.frame(3)) == 3

    def test_nothing_happens_before_it_is_applied_and_then_all_of_it(self, cleaner, two_classes):
        paths = list(cleaner.frame()["path"])
        cleaner.delete(paths[0])
        cleaner.relabel(paths[1:3], "new")
        assert all(path.exists() for path in paths)
        assert cleaner.apply() == (1, 2)
        assert not any(path.exists() for path in paths[:3])
        assert sorted(p.name for p in (two_classes / "new").iterdir()) == sorted(p.name for p in paths[1:3])
        assert cleaner.apply() == (0, 0)

    def test_a_file_in_the_way_stops_everything(self, cleaner):
        first, second, *_ = cleaner.frame()["path"]
        other = "light" if first.parent.name == "dark" else "dark"
        (first.parent.parent / other / first.name).write_bytes(b"mine")
        cleaner.delete(second)
        cleaner.relabel(first, other)
        with pytest.raises(DataError, match="nothing was changed"):
            cleaner.apply()
        assert first.exists()
        assert second.exists()

    def test_other_files_and_labels_that_are_no_folders_are_refused(self, cleaner, tmp_path):
        with pytest.raises(OptionError, match="not among"):
            cleaner.delete(tmp_path / "x.png")
        with pytest.raises(OptionError, match="no name of a folder"):
            cleaner.relabel(cleaner.frame()["path"][0], "../up")


def test_grad_cam_needs_classes(two_classes):
    from graftwork.api import DataBlock, RegressionBlock
    from graftwork_vision import ImageBlock, Resize, get_image_files

    block = DataBlock(
        blocks=(ImageBlock, RegressionBlock), get_items=get_image_files, get_y=lambda path: 1.0, item_tfms=Resize(16)
    )
    learn = vision_learner(block.dataloaders(two_classes, bs=4, workers=0), "small-cnn", weights=None, progress=False)
    with pytest.raises(PlanError, match="about classes"):
        grad_cam(learn, next(two_classes.rglob("*.png")))
