"""XResNets and the models of timm: what they are made of, their groups, and what an artifact of one needs."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from graftwork import load_learner
from graftwork.api import ClassIndexBlock, ModelContext, OptionError, PluginError, UnknownName, UserError, get_host
from graftwork.plugins.registry import _check_requirements
from graftwork_vision import ImageDataLoaders, ImageTensorBlock, timm_models, vision_learner
from graftwork_vision.timm_models import timm_model
from graftwork_vision.xresnets import xresnet, xresnet_body

with_timm = pytest.mark.skipif(find_spec("timm") is None, reason="timm, an extra, is not installed")


def context(size: tuple[int, int] | None = (32, 32), channels: int = 3) -> ModelContext:
    return ModelContext(
        inputs={"x": ImageTensorBlock(channels, size, "standard")}, targets={"y": ClassIndexBlock(tuple(range(10)))}
    )


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


class TestXResNet:
    @pytest.mark.parametrize(
        ("name", "parameters"), [("xresnet18", 11_200_874), ("xresnet34", 21_309_034), ("xresnet50", 23_547_754)]
    )
    def test_ten_classes_take_fastais_number_of_parameters(self, name, parameters):
        with torch.device("meta"):
            assert count(xresnet(name, n_out=10)) == parameters

    @pytest.mark.parametrize("name", ["xresnet18", "xresnet50"])
    def test_every_one_gives_a_map_of_a_thirtysecond(self, name):
        with torch.device("meta"):
            out = xresnet_body(name, channels=2)(torch.empty(1, 2, 96, 64))
        assert out.shape == (1, 512 if name in ("xresnet18", "xresnet34") else 2048, 3, 2)

    def test_blocks_begin_as_their_shortcut(self):
        torch.manual_seed(0)
        block = xresnet_body("xresnet18").layer2[1]
        x = torch.rand(2, 128, 4, 4)
        assert torch.allclose(block(x), x, atol=2e-3)  # batch norm's bias is a thousandth

    def test_an_odd_map_is_averaged_at_its_edge_too(self):
        assert xresnet_body("xresnet18")(torch.rand(2, 3, 37, 41)).shape == (2, 512, 2, 2)

    def test_a_learner_has_the_stem_below_and_no_weights(self, two_classes):
        data = ImageDataLoaders.from_folder(two_classes, size=32, bs=4, workers=0)
        learn = vision_learner(data, "xresnet18", progress=False)
        assert {name: sum(p.numel() for p in group) for name, group in learn.groups.items()}["lower"] == 28_768
        assert all(p.requires_grad for p in learn.module.parameters())

    def test_a_wrong_name_gets_the_nearest(self):
        with pytest.raises(UnknownName, match="xresnet50"):
            xresnet("xresnet51")


@with_timm
class TestTimm:
    def test_a_feature_map_gets_the_head_of_any_other_body(self):
        parts = timm_model(context(), arch="convnext_atto")
        assert list(parts.groups) == ["lower", "upper", "head"]
        assert sum(p.numel() for group in parts.parameter_groups().values() for p in group) == count(parts.module)
        assert parts.module.body(torch.rand(2, 3, 32, 32)).shape == (2, 320, 1, 1)
        assert parts.config is not None
        assert (parts.config["arch"], parts.config["weights"]) == ("convnext_atto", None)

    @pytest.mark.parametrize("arch", ["mobilenetv3_small_050", "efficientnet_b0", "test_vit"])
    @pytest.mark.parametrize("channels", [1, 5])
    def test_every_parameter_learns(self, arch, channels):
        size = (160, 160) if arch == "test_vit" else (32, 32)
        parts = timm_model(context(size, channels), arch=arch)
        parts.module(torch.rand(2, channels, *size)).sum().backward()
        assert [name for name, p in parts.module.named_parameters() if p.grad is None] == []

    def test_one_without_a_map_keeps_its_own_pooling_and_takes_the_pictures_size(self):
        parts = timm_model(context((96, 96)), arch="test_vit")
        assert list(parts.groups) == ["body", "head"]
        assert parts.module(torch.rand(2, 3, 96, 96)).shape == (2, 10)

    def test_channels_may_come_last(self):
        parts = timm_model(context((64, 64)), arch="mambaout_femto", lin_ftrs=[])
        assert parts.module.body.channels_last
        assert parts.module.body(torch.rand(1, 3, 64, 64)).shape == (1, 288, 2, 2)

    def test_weights_are_read_from_a_file(self, tmp_path):
        import timm

        torch.manual_seed(1)
        whole = timm.create_model("mobilenetv3_small_050", num_classes=7)
        save_file(whole.state_dict(), tmp_path / "w.safetensors")
        parts = timm_model(context(channels=1), arch="mobilenetv3_small_050", weights=str(tmp_path / "w.safetensors"))
        body = parts.module.body.model
        assert torch.equal(body.conv_stem.weight, whole.conv_stem.weight.sum(1, keepdim=True))
        assert torch.equal(body.blocks[1][0].conv_dw.weight, whole.blocks[1][0].conv_dw.weight)
        with pytest.raises(OptionError, match=r"these weights are not of convnext_atto"):
            timm_model(context(), arch="convnext_atto", weights=str(tmp_path / "w.safetensors"))

    def test_normalisation_is_what_the_weights_expect(self):
        parts = timm_model(context((160, 160)), arch="test_vit", normalize=True)
        assert parts.module.normalize.mean.flatten().tolist() == [0.5, 0.5, 0.5]

    def test_wrong_names(self):
        with pytest.raises(UnknownName, match="convnext_atto"):
            timm_model(context(), arch="convnext_ato")
        with pytest.raises(UnknownName, match="weights of timm's"):
            timm_model(context(), arch="convnext_atto", weights="IMAGENET1K_V1")

    def test_a_failed_download_says_what_else_there_is(self, monkeypatch):
        import timm

        def fail(*args, **options):
            raise OSError("no network")

        monkeypatch.setattr(timm, "create_model", fail)
        with pytest.raises(UserError, match=r"no network.*weights=None"):
            timm_models._whole("convnext_atto", 3, "DEFAULT", {})

    def test_learner_and_artifact(self, two_classes, tmp_path):
        data = ImageDataLoaders.from_folder(two_classes, size=32, bs=8, workers=0)
        learn = vision_learner(data, "timm/mobilenetv3_small_050", weights=None, progress=False).fit(1)
        assert learn.model_id == "vision/timm"
        found = load_learner(learn.export(tmp_path / "m.graft"))
        assert found.manifest["model"]["id"] == "vision/timm"
        assert found.manifest["model"]["config"]["arch"] == "mobilenetv3_small_050"
        photo = str(next(two_classes.rglob("*.png")))
        expected = learn.predict(photo)
        assert found.predict(photo).value == expected.value
        assert torch.allclose(torch.as_tensor(found.predict(photo).raw), torch.as_tensor(expected.raw), atol=0.02)


def test_without_timm_the_extra_is_named(monkeypatch):
    host = get_host()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    with pytest.raises(
        PluginError, match=r"needs 'timm', which is not installed.*pip install graftwork-vision\[timm\]"
    ):
        _check_requirements(host.models.spec("vision/timm"), host)
