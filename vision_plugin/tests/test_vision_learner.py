"""vision_learner: from an architecture's name to a trained, saved and used model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from graftwork import load_learner
from graftwork.api import ArtifactError, Learner, OptionError, Runtime, UnknownName
from graftwork_vision import Flip, ImageDataLoaders, vision_learner

FP32 = Runtime(device="cpu")


@pytest.fixture
def data(two_classes):
    return ImageDataLoaders.from_folder(two_classes, size=16, bs=8, workers=0, batch_tfms=Flip())


def learner(data, arch: str = "small-cnn", **options) -> Learner:
    return vision_learner(data, arch, **{"weights": None, "runtime": FP32, "progress": False, **options})


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory) -> Path:
    """Weights of a ResNet-18 as torchvision names them."""
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        save_file(torchvision.models.resnet18(weights=None).state_dict(), path)
    return path


class TestMaking:
    """What is built for a name."""

    def test_a_torchvision_name(self, data):
        made = learner(data, "resnet18")
        assert made.model_id == "vision/resnet18"
        assert list(made.groups) == ["lower", "upper", "head"]
        assert made.module.head[-1].out_features == 2

    @pytest.mark.parametrize("name", ["small-cnn", "vision/small-cnn"])
    def test_a_registered_name(self, data, name):
        assert learner(data, name).model_id == "vision/small-cnn"

    def test_an_unknown_name(self, data):
        with pytest.raises(UnknownName, match="'vision/resnet18'"):
            learner(data, "resnet-18")

    def test_the_head_can_be_shaped(self, data):
        head = learner(data, "resnet18", lin_ftrs=(16,), ps=0.2, concat_pool=False, n_out=5).module.head
        assert [m.out_features for m in head if isinstance(m, torch.nn.Linear)] == [16, 5]

    def test_a_model_without_a_grafted_head_says_so(self, data):
        with pytest.raises(OptionError, match="no grafted head, so lin_ftrs cannot be set"):
            learner(data, "small-cnn", lin_ftrs=(3,))
        with pytest.raises(OptionError, match="no weights 'IMAGENET1K_V1' of small-cnn"):
            learner(data, "small-cnn", weights="IMAGENET1K_V1")

    def test_the_default_weights_mean_none_for_small_models(self, data):
        assert learner(data, "small-cnn", weights="DEFAULT").model_config == {}

    def test_the_same_seed_gives_the_same_weights(self, data):
        first, same, other = (learner(data, "resnet18", seed=s).module.state_dict() for s in (1, 1, 2))
        assert all(torch.equal(first[k], same[k]) for k in first)
        assert not torch.equal(first["body.conv1.weight"], other["body.conv1.weight"])

    def test_the_default_runtime_is_channels_last(self, data):
        made = vision_learner(data, "resnet18", weights=None, progress=False)
        assert made.session.channels_last
        assert made.runtime.precision == "auto"


class TestWeights:
    """A body with weights starts frozen, and sees normalised pictures."""

    def test_the_body_is_frozen_but_its_norms(self, data, weights_file):
        made = learner(data, "resnet18", weights=str(weights_file))
        body = made.module.body
        assert not body.conv1.weight.requires_grad
        assert body.bn1.weight.requires_grad
        assert all(p.requires_grad for p in made.module.head.parameters())

    def test_fine_tuning_trains_the_head_and_then_everything(self, data, weights_file):
        made = learner(data, "resnet18", weights=str(weights_file))
        before = made.module.body.conv1.weight.detach().clone()
        made.fine_tune(1, freeze_epochs=1)
        assert len(made.history) == 2
        assert not torch.equal(made.module.body.conv1.weight, before)

    def test_data_that_does_not_normalise_is_normalised_in_the_model(self, two_classes, weights_file):
        raw = ImageDataLoaders.from_folder(two_classes, bs=8, workers=0, normalize="none")
        normal = ImageDataLoaders.from_folder(two_classes, bs=8, workers=0)
        first, second = (learner(d, "resnet18", weights=str(weights_file)) for d in (raw, normal))
        assert first.model_config["normalize"]
        assert not second.model_config["normalize"]
        assert torch.allclose(first.get_preds().activated, second.get_preds().activated, atol=1e-5)
        assert not learner(raw, "resnet18", weights=str(weights_file), normalize=False).model_config["normalize"]

    def test_what_is_saved_does_not_need_the_file(self, data, weights_file, tmp_path):
        made = learner(data, "resnet18", weights=str(weights_file))
        path = made.export(tmp_path / "m.graft")
        manifest = json.loads(_member(path, "manifest.json"))
        assert str(weights_file) not in json.dumps(manifest)
        weights_file_moved = weights_file.rename(weights_file.with_name("elsewhere"))
        try:
            predictor = load_learner(path)
            picture = data.valid.item(0)
            ours, theirs = made.predict(picture), predictor.predict(picture)
            assert theirs.value == ours.value
            assert theirs.probabilities == pytest.approx(ours.probabilities, abs=1e-6)
        finally:
            weights_file_moved.rename(weights_file)


def _member(path: Path, name: str) -> bytes:
    import zipfile

    with zipfile.ZipFile(path) as file:
        return file.read(name)


class TestTraining:
    """A model learns, is saved, and says the same afterwards."""

    def test_it_learns(self, data):
        made = learner(data).fit_one_cycle(6, 1e-2)
        assert made.history[-1]["accuracy"] == 1.0
        assert made.history[-1]["train_loss"] < made.history[0]["train_loss"]

    @pytest.mark.parametrize("arch", ["small-cnn", "lenet5", "resnet18", "mobilenet_v3_small"])
    def test_it_is_saved_and_used(self, data, arch, tmp_path):
        made = learner(data, arch).fit_one_cycle(1, 1e-3)
        predictor = load_learner(made.export(tmp_path / "m.graft"))
        for position in range(2):
            picture = data.valid.item(position)
            ours, theirs = made.predict(picture), predictor.predict(picture)
            assert theirs.value == ours.value
            assert theirs.probabilities == pytest.approx(ours.probabilities, abs=1e-5)

    def test_every_form_of_a_picture_is_predicted_alike(self, data):
        import numpy as np
        from PIL import Image

        made = learner(data).fit_one_cycle(1)
        path = data.valid.item(0)
        with Image.open(path) as opened:
            forms = [path, str(path), path.read_bytes(), opened.copy(), np.asarray(opened)]
        assert len({str(made.predict(form).probabilities) for form in forms}) == 1

    def test_two_runs_are_the_same_to_the_bit(self, data):
        first, second = (learner(data).fit_one_cycle(2, 1e-2).module.state_dict() for _ in range(2))
        assert all(torch.equal(first[k], second[k]) for k in first)

    def test_grey_pictures_train_as_well(self, two_classes):
        data = ImageDataLoaders.from_folder(two_classes, size=16, bs=8, workers=0, channels=1)
        assert data.one_batch().x.shape[1] == 1
        for arch in ("resnet18", "lenet5"):
            trained, before = learner(data, arch), learner(data, arch).module.state_dict()
            after = trained.fit_one_cycle(1).module.state_dict()
            assert any(not torch.equal(after[name], before[name]) for name in before)

    def test_another_models_weights_are_refused(self, data, tmp_path):
        path = learner(data).export(tmp_path / "m.graft")
        content = path.read_bytes()
        path.write_bytes(content.replace(b"small-cnn", b"small-cnm"))
        with pytest.raises(ArtifactError):
            load_learner(path)
