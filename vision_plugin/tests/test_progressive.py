"""One learner over pictures of growing size, predictions over augmented passes, and trunks from exported models."""

from __future__ import annotations

import pytest
import torch

from graftwork import load_learner
from graftwork.api import ArtifactError, OptionError, Runtime
from graftwork_vision import Flip, ImageDataLoaders, RandomResizedCrop, vision_learner

FP32 = Runtime(device="cpu")


def sized(folder, size: int, **options):
    return ImageDataLoaders.from_folder(folder, size=size, bs=8, workers=0, **options)


def learner(data, arch: str = "small-cnn", **options):
    return vision_learner(data, arch, **{"weights": None, "runtime": FP32, "progress": False, **options})


class TestGrowingPictures:
    def test_weights_frozen_groups_and_history_go_on(self, two_classes):
        learn = learner(sized(two_classes, 16), "resnet18").fit(1)
        learn.freeze()
        before = {name: value.clone() for name, value in learn.module.state_dict().items()}
        frozen = [p.requires_grad for p in learn.module.parameters()]
        learn.set_data(sized(two_classes, 32))
        assert all(torch.equal(v, before[name]) for name, v in learn.module.state_dict().items())
        assert [p.requires_grad for p in learn.module.parameters()] == frozen
        learn.fit(1)
        assert [line["epoch"] for line in learn.history] == [1, 2]
        assert not torch.equal(learn.module.state_dict()["head.8.weight"], before["head.8.weight"])

    def test_what_is_trained_is_what_is_exported(self, two_classes, tmp_path):
        # small-cnn halves small pictures less often: for larger ones it is another network with the same weights.
        learn = learner(sized(two_classes, 8)).fit(1).set_data(sized(two_classes, 32)).fit(1)
        found = load_learner(learn.export(tmp_path / "m.graft"))
        photo = next(two_classes.rglob("*.png"))
        assert torch.allclose(torch.as_tensor(found.predict(photo).raw), torch.as_tensor(learn.predict(photo).raw))
        assert learn.data.plan.fields["x"].final.size == (32, 32)

    def test_a_network_of_one_size_is_refused_and_stays_as_it_is(self, two_classes):
        learn = learner(sized(two_classes, 16), "lenet5")
        with pytest.raises(OptionError, match=r"for this data vision/lenet5 is another network.*make a new learner"):
            learn.set_data(sized(two_classes, 32))
        assert learn.fit(1).data.plan.fields["x"].final.size == (16, 16)

    def test_other_channels_are_refused(self, two_classes):
        with pytest.raises(OptionError, match="another network"):
            learner(sized(two_classes, 16)).set_data(sized(two_classes, 16, channels=1))

    def test_a_checkpoint_belongs_to_the_data_it_was_taken_on(self, two_classes, tmp_path):
        from graftwork import Checkpointer

        learn = learner(sized(two_classes, 16)).fit(1).set_data(sized(two_classes, 32))
        learn.fit(2, callbacks=[Checkpointer(tmp_path)])
        again = learner(sized(two_classes, 32))
        assert again.replay(tmp_path) is again
        with pytest.raises(ArtifactError, match="data"):
            learner(sized(two_classes, 16)).replay(tmp_path)


class TestAveraging:
    @pytest.mark.parametrize("tfms", [{"batch_tfms": Flip()}, {"item_tfms": RandomResizedCrop(16)}])
    def test_pictures_are_predicted_as_training_sees_them(self, two_classes, tfms):
        size = {} if "item_tfms" in tfms else {"size": 16}
        data = ImageDataLoaders.from_folder(two_classes, bs=3, workers=0, **size, **tfms)
        learn = learner(data).fit(1)
        before = {name: value.clone() for name, value in learn.module.state_dict().items()}
        said, plain = learn.tta(), learn.get_preds()
        assert torch.equal(said.activated, learn.tta().activated)
        assert not torch.allclose(said.activated, plain.activated, atol=1e-6)
        assert torch.equal(said.index, plain.index)
        assert all(torch.equal(value, before[name]) for name, value in learn.module.state_dict().items())


class TestTrunks:
    def test_an_exported_model_gives_its_body(self, two_classes, tmp_path):
        first = learner(sized(two_classes, 32, channels=1), "resnet18").fit(1)
        path = first.export(tmp_path / "trunk.graft")
        second = learner(sized(two_classes, 32, channels=1), "resnet18", weights=str(path))
        body = {name: value for name, value in first.module.state_dict().items() if name.startswith("body.")}
        state = second.module.state_dict()
        assert len(body) > 100
        assert all(torch.equal(state[name], value) for name, value in body.items())
        assert not torch.equal(state["head.8.weight"], first.module.state_dict()["head.8.weight"])
        assert second.model_config["weights"] is None
        assert not second.groups["lower"][0].requires_grad

    def test_one_for_grey_pictures_does_not_fit_other_channels(self, two_classes, tmp_path):
        path = learner(sized(two_classes, 32, channels=1), "resnet18").export(tmp_path / "trunk.graft")
        with pytest.raises(OptionError, match=r"conv1\.weight"):
            learner(sized(two_classes, 32), "resnet18", weights=str(path))
