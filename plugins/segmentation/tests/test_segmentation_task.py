"""The one-command job from end to end, learning, interpretation, and what is kept in memory."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from graftwork.api import FreezeError, Learner, OptionError
from graftwork_segmentation import CrossEntropyDice, SegmentationDataLoaders, SegmentationInterpretation, unet_learner
from graftwork_segmentation.baselines import ColourLogistic, MostFrequent
from graftwork_segmentation.conformance import write_squares
from graftwork_segmentation.sources import picture_size
from graftwork_segmentation.tasks import SemanticSegmentation, SemanticSegmentationOptions
from graftwork_vision import parse_size

PICTURES = {"batch", "losses", "results", "classes", "confusion", "top_losses", "metrics"}


def graft(*words: object, status: int = 0) -> Any:
    from graftwork.cli.main import root

    done = CliRunner().invoke(root, [str(word) for word in words])
    assert done.exit_code == status, done.output
    return done


def test_train_evaluate_predict_and_show_from_the_command_line(source: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["--size", "32", "--epochs", "1", "--bs", "4", "--workers", "0", "--out", run, "--json"]
    report = json.loads(graft("train", "segmentation/semantic", source, *options).stdout.splitlines()[-1])
    assert set(report["metrics"]) == {"valid_loss", "mean_iou", "pixel_accuracy", "mean_dice"}
    assert {baseline["id"] for baseline in report["baselines"]} == {
        "segmentation/position",
        "segmentation/colour-logistic",
    }
    assert {path.stem for path in run.glob("*.png")} == PICTURES
    artifact, picture = run / "model.graft", source / "images" / "00.png"
    measured = json.loads(graft("evaluate", artifact, source, "--json").stdout.splitlines()[-1])
    assert measured["rows"] == 12
    large = tmp_path / "large.png"
    with Image.open(picture) as small:
        small.resize((70, 50)).save(large)
    words = ["predict", artifact, picture, large, "--out", tmp_path / "masks", "--json"]
    rows = json.loads(graft(*words).stdout.splitlines()[-1])["predictions"]
    assert [picture_size(Path(row["prediction"])) for row in rows] == [(32, 32), (50, 70)]
    assert sum(rows[0]["probabilities"].values()) == pytest.approx(1)
    assert "background" in graft("predict", artifact, picture).output
    assert "segmentation/unet" in graft("show", artifact).output


def test_an_output_folder_is_refused_where_predictions_are_no_files(source: Path, tmp_path: Path) -> None:
    from graftwork.task import Task

    with pytest.raises(OptionError, match="leave --out out"):
        Task.printed(SemanticSegmentation(SemanticSegmentationOptions()), "x", 1, tmp_path)


def test_options_choose_the_data_and_the_model(source: Path) -> None:
    from graftwork.api import JobOptions

    options = SemanticSegmentationOptions(backbone="resnet18", loss="lovasz", augment="none", ignore="disc")
    task, job = SemanticSegmentation(options), JobOptions(workers=0, model="fpn")
    data = task.data(source, job)
    learn = task.learner(data, job)
    assert learn.model_id == "segmentation/fpn"
    assert type(learn.objective.losses["y"]).__name__ == "LovaszSoftmax"
    assert type(SemanticSegmentation(SemanticSegmentationOptions()).learner(data, job).objective.losses["y"]) is (
        CrossEntropyDice
    )
    assert type(unet_learner(data, weights=None, progress=False).objective.losses["y"]) is CrossEntropyDice
    assert data.plan.target.void == 2
    assert data.plan.target.size == (32, 32)
    assert any("32x32" in note for note in task.notes())
    assert parse_size("96x128") == (96, 128)
    for text in ("0", "1x", "big"):
        with pytest.raises(OptionError, match="HEIGHTxWIDTH"):
            parse_size(text)
    with pytest.raises(OptionError, match="epochs=0"):
        SemanticSegmentation(SemanticSegmentationOptions(epochs=0))


def test_a_small_network_learns_squares_and_discs(tmp_path: Path, learner: Callable[..., Learner]) -> None:
    learn = learner(write_squares(tmp_path / "many", count=24), size=32)
    before = learn.validate()["mean_iou"]
    learn.fit_one_cycle(8, 1e-2)
    assert learn.history[-1]["mean_iou"] > max(0.5, before + 0.2)
    assert learn.history[-1]["train_loss"] < learn.history[0]["train_loss"] / 2


def test_a_body_with_weights_starts_frozen_and_one_without_does_not(source: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from graftwork_vision import vision_body

    save_file(vision_body("resnet18").module.state_dict(), tmp_path / "body.safetensors")
    data = SegmentationDataLoaders.from_folder(source, workers=0, normalize="none")
    small = {"widths": (8, 8, 8, 8)}
    learn = unet_learner(data, weights=str(tmp_path / "body.safetensors"), options=small, progress=False)
    frozen = [name for name, p in learn.module.named_parameters() if not p.requires_grad]
    assert frozen
    assert all(name.startswith("encoder.") and name.endswith("weight") for name in frozen)
    assert sum(p.ndim == 4 for p in learn.groups["upper"]) == sum(not p.requires_grad for p in learn.groups["upper"])
    assert learn.model_config["normalize"] is True
    assert "weights" not in learn.model_config or learn.model_config["weights"] is None
    whole = unet_learner(data, weights=None, options=small, progress=False)
    assert all(p.requires_grad for p in whole.module.parameters())
    with pytest.raises(FreezeError):
        whole.freeze_to("head")


def test_interpretation_counts_and_draws(source: Path, learner: Callable[..., Learner]) -> None:
    learn = learner(source, size=32, ignore="disc")
    looked = SegmentationInterpretation.from_learner(learn, learn.data.train)
    targets = torch.cat([batch.y for batch in learn.data.train.in_order()])
    assert looked.confusion_matrix().sum() == int((targets >= 0).sum())
    figures = looked.classes()
    assert set(figures) == {"background", "square"}
    assert sum(f.share for f in figures.values()) == pytest.approx(1)
    losses = learn.get_preds(learn.data.train.in_order()).losses
    assert losses is not None
    (item, worst), *_ = looked.top_losses(3)
    assert worst == pytest.approx(float(losses.max()))
    assert str(item).endswith(".png")
    assert len(looked.plot_top_losses(2).axes) == 6
    assert looked.plot_classes().axes
    assert looked.plot_confusion_matrix().axes
    # A target and a prediction beside it, for each picture.
    assert len(learn.show_results(max_n=2).axes) == 4


def test_no_prediction_outlives_its_batch(source: Path, learner: Callable[..., Learner]) -> None:
    learn = learner(source, size=32)
    alive: list[weakref.ref[Any]] = []
    for said in learn.iter_preds(learn.data.train):
        alive.append(weakref.ref(said.activated))
        gc.collect()
        assert sum(ref() is not None for ref in alive) <= 1
    assert len(alive) == 3
    whole = learn.get_preds(learn.data.train.in_order())
    parts = list(learn.iter_preds(learn.data.train.in_order()))
    assert torch.equal(torch.cat([part.activated for part in parts]), whole.activated)


def test_baselines_see_position_and_colour_and_nothing_of_validation(tmp_path: Path) -> None:
    data = SegmentationDataLoaders.from_folder(write_squares(tmp_path / "s", count=20), size=32, workers=0)
    position = MostFrequent().fit(data)
    targets = torch.cat([batch.y for batch in data.train.in_order()])
    counts = torch.stack([(targets == code).sum(0) for code in range(3)])
    predicted = position.predict(data.valid)
    assert predicted.shape == (4, 3, 32, 32)
    assert torch.allclose(predicted.sum(1), torch.ones(4, 32, 32))
    sure = counts.max(0).values > counts.sum(0) / 2 + 1
    assert predicted[0].argmax(0)[sure].equal(counts.argmax(0)[sure])
    colour = ColourLogistic(position=True).fit(data)
    right = [colour.chances(batch.x).argmax(1) == batch.y for batch in data.valid.in_order()]
    assert torch.cat(right).float().mean() > 0.95
    with pytest.raises(OptionError, match="not been fitted"):
        ColourLogistic().predict(data.valid)
    with pytest.raises(OptionError, match="not been fitted"):
        MostFrequent().predict(data.valid)


def test_batches_of_empty_masks_do_not_break_training(source: Path, learner: Callable[..., Learner]) -> None:
    for file in sorted((source / "labels").iterdir())[:9]:
        Image.fromarray(np.full((32, 32), 0, dtype=np.uint8)).save(file)
    learn = learner(source, size=32, ignore="background").fit(1, 1e-3)
    assert np.isfinite(learn.history[-1]["train_loss"])


def test_a_mask_never_replaces_a_file(tmp_path):
    task, mask = SemanticSegmentation(SemanticSegmentationOptions()), np.ones((2, 3), np.uint8)
    path = Path(task.printed("a/street.jpg", mask, tmp_path))
    assert np.array_equal(np.asarray(Image.open(path)), mask)
    with pytest.raises(OptionError, match=r"street\.png is there already"):
        task.printed("b/street.jpg", 0 * mask, tmp_path)
    assert np.array_equal(np.asarray(Image.open(path)), mask)
