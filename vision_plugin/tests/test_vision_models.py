"""Bodies, heads and small models: shapes, names, groups, weights."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from graftwork.api import CategoryBlock, ClassIndexBlock, ModelContext, OptionError, UnknownName, UserError, get_host
from graftwork_vision import AdaptiveConcatPool2d, ImageTensorBlock, create_head
from graftwork_vision.archs import ARCHS, BACKBONES, MIN_SIDES
from graftwork_vision.backbones import build_body
from graftwork_vision.models import BUILDERS, Standardize, classifier, lenet5, small_cnn
from graftwork_vision.resnet import RESNETS, resnet_body
from graftwork_vision.weights import fit_channels, read_weights

# One of each family, the smallest, and the side of the picture it is tried with.
FAMILIES = {
    "alexnet": 64,
    "convnext_tiny": 32,
    "densenet121": 32,
    "efficientnet_b0": 32,
    "efficientnet_v2_s": 32,
    "googlenet": 32,
    "inception_v3": 75,
    "mnasnet0_5": 32,
    "mobilenet_v2": 32,
    "mobilenet_v3_small": 32,
    "regnet_y_400mf": 32,
    "resnet18": 32,
    "resnet50": 32,
    "shufflenet_v2_x0_5": 32,
    "squeezenet1_1": 32,
    "swin_t": 32,
    "vgg11_bn": 32,
    "vit_b_32": 32,
}


def context(size: tuple[int, int] | None = (32, 32), channels: int = 3, classes: int = 10) -> ModelContext:
    return ModelContext(
        inputs={"x": ImageTensorBlock(channels, size, "standard")},
        targets={"y": ClassIndexBlock(tuple(range(classes)))},
    )


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def seeded(build, seed: int = 0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


class TestNames:
    """Every classifier of torchvision can be asked for."""

    def test_all_are_in_the_installed_torchvision(self):
        assert set(ARCHS) <= set(torchvision.models.list_models(module=torchvision.models))

    def test_none_of_the_oldest_supported_torchvision_is_missing(self):
        assert len(ARCHS) == 80

    def test_parameters_are_stated_rightly(self):
        for name, (params_m, _) in ARCHS.items():
            stated = torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"] / 1e6
            assert params_m == pytest.approx(stated, abs=0.06), name

    def test_every_record_leads_to_a_builder(self):
        models = get_host().models
        ours = [i for i in models.ids() if i.startswith("vision/")]
        assert len(ours) >= len(BACKBONES) + 3
        assert all(callable(models.get(i)) for i in ours)

    def test_a_misspelt_name(self):
        with pytest.raises(UnknownName, match="'vision/resnet18'"):
            get_host().models.get("vision/resnet81")


class TestBodies:
    """What is cut off a classifier, and what stays."""

    @pytest.mark.parametrize("name", FAMILIES)
    def test_a_real_picture_passes(self, name):
        side = FAMILIES[name]
        body = build_body(name, size=(side, side))
        out = body.module.eval()(torch.rand(2, 3, side, side))
        assert out.shape[:2] == (2, ARCHS[name][1])
        assert out.ndim == (2 if body.pooled else 4)

    @pytest.mark.parametrize("name", ARCHS)
    def test_stages_hold_every_parameter_once(self, name):
        with torch.device("meta"):
            body = build_body(name, size=(224, 224))
        staged = [p for stage in body.stages for p in stage.parameters()]
        assert len(staged) == len({id(p) for p in staged}) == len(list(body.module.parameters()))
        if len(body.stages) > 1:
            assert all(any(True for s in part for _ in s.parameters()) for part in body.groups.values())

    @pytest.mark.parametrize("name", FAMILIES)
    def test_parameters_have_the_names_torchvision_gives_them(self, name):
        with torch.device("meta"):
            body = build_body(name, size=(224, 224))
        with torch.device("cpu" if name.startswith("regnet") else "meta"):
            whole = torchvision.models.get_model(name, weights=None, **_options(name))
        theirs = {k: v.shape for k, v in whole.state_dict().items()}
        ours = {k: v.shape for k, v in body.module.state_dict().items()}
        assert ours.items() <= theirs.items()
        rest = theirs.keys() - ours.keys()
        assert all(k.split(".")[0] in ("fc", "classifier", "head", "heads") for k in rest)

    @pytest.mark.parametrize("name", RESNETS)
    def test_our_residual_networks_have_exactly_torchvisions_parameters(self, name):
        with torch.device("meta"):
            ours, theirs = resnet_body(name), torchvision.models.get_model(name, weights=None)
        shapes = {k: v.shape for k, v in theirs.state_dict().items() if not k.startswith("fc.")}
        assert {k: v.shape for k, v in ours.state_dict().items()} == shapes

    @pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d"])
    def test_our_residual_networks_compute_what_torchvisions_do(self, name):
        theirs = torchvision.models.get_model(name, weights=None).eval()
        body = build_body(name, state=theirs.state_dict()).module.eval()
        x = torch.rand(2, 3, 40, 40)
        with torch.no_grad():
            features = body(x).mean((2, 3))
            assert torch.allclose(theirs.fc(features), theirs(x), atol=1e-5)

    def test_resnets_are_divided_where_fastai_divides_them(self):
        body = build_body("resnet18")
        lower, upper = body.groups["lower"], body.groups["upper"]
        assert [type(m).__name__ for m in lower[:2]] == ["Conv2d", "BatchNorm2d"]
        assert lower[-1] is body.module.layer2
        assert upper == (body.module.layer3, body.module.layer4)

    @pytest.mark.parametrize(("family", "least"), MIN_SIDES.items())
    def test_pictures_below_the_smallest_side_are_refused_at_once(self, family, least):
        name = next(n for n in ARCHS if n.startswith(family))
        with pytest.raises(OptionError, match=rf"{name} needs pictures of at least {least}x{least} pixels"):
            build_body(name, size=(least - 1, 300))

    def test_transformers_take_the_size_of_the_data(self):
        with torch.device("meta"):
            assert build_body("vit_b_16", size=(64, 64)).module.seq_length == 17
            with pytest.raises(OptionError, match="vit_b_16 cannot be built for pictures of size"):
                build_body("vit_b_16", size=(65, 65))
            with pytest.raises(OptionError, match="takes square pictures, not 64x96; use size=64"):
                build_body("vit_b_16", size=(64, 96))

    def test_weights_of_a_transformer_fix_its_size(self):
        with pytest.raises(OptionError, match="for pictures of 224x224, not 64x64; use size=224"):
            build_body("vit_b_16", size=(64, 64), state={})

    def test_the_biggest_is_made_on_meta_in_no_time(self):
        build_body("resnet18")
        start = time.perf_counter()
        with torch.device("meta"):
            classifier(context(), arch="resnet152", weights="DEFAULT")
        assert time.perf_counter() - start < 3


def _options(name: str) -> dict[str, object]:
    return {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}


class TestChannels:
    """A first convolution for other than three channels."""

    @pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "vit_b_32", "densenet121"])
    @pytest.mark.parametrize("channels", [1, 2, 5])
    def test_any_number_of_channels(self, name, channels):
        body = build_body(name, channels=channels, size=(32, 32))
        assert body.module.eval()(torch.rand(1, channels, 32, 32)).shape[1] == ARCHS[name][1]

    def test_a_grey_picture_is_seen_as_its_grey_rgb(self):
        """Summing the weights over colours gives what the three equal channels would have given."""
        state = resnet_body("resnet18").state_dict()
        x = torch.rand(1, 1, 32, 32)
        grey = build_body("resnet18", channels=1, state=state).module.eval()
        rgb = build_body("resnet18", state=state).module.eval()
        assert torch.allclose(grey(x), rgb(x.expand(-1, 3, -1, -1)), atol=1e-5)

    def test_fastais_rules(self):
        weight = torch.rand(4, 3, 7, 7)
        assert torch.equal(fit_channels(weight, 3), weight)
        assert torch.allclose(fit_channels(weight, 1), weight.sum(1, keepdim=True))
        assert torch.allclose(fit_channels(weight, 2), weight[:, :2] * 1.5)
        five = fit_channels(weight, 5)
        assert torch.equal(five[:, :3], weight)
        assert not five[:, 3:].any()


class TestHead:
    """Pooling and two linear layers, as fastai builds them."""

    def test_parameters_of_resnet18_with_ten_classes(self):
        assert count(create_head(512, 10)) == 532_480

    def test_layers_in_order(self):
        names = [type(m).__name__ for m in create_head(512, 10)]
        stage = ["BatchNorm1d", "Dropout", "Linear"]
        assert names == ["AdaptiveConcatPool2d", "Flatten", *stage, "ReLU", *stage]

    def test_dropouts(self):
        assert [m.p for m in create_head(8, 2, ps=0.6) if isinstance(m, nn.Dropout)] == [0.3, 0.6]
        assert not [m for m in create_head(8, 2, ps=0.0) if isinstance(m, nn.Dropout)]

    def test_maxima_come_first(self):
        x = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])
        assert AdaptiveConcatPool2d()(x).flatten().tolist() == [6.0, 3.0]
        assert AdaptiveConcatPool2d(2)(x).shape == (1, 2, 2, 2)

    def test_initial_values(self):
        head = seeded(lambda: create_head(512, 10))
        first = next(m for m in head if isinstance(m, nn.Linear))
        assert float(first.weight.detach().std()) == pytest.approx((2 / 1024) ** 0.5, rel=0.01)
        assert all((m.bias == 1e-3).all() for m in head if isinstance(m, nn.BatchNorm1d))

    @pytest.mark.parametrize(
        ("options", "width"),
        [({"lin_ftrs": (7, 5)}, [16, 7, 5, 2]), ({"lin_ftrs": ()}, [16, 2]), ({"concat_pool": False}, [8, 512, 2])],
    )
    def test_shapes(self, options, width):
        linears = [m for m in create_head(8, 2, **options) if isinstance(m, nn.Linear)]
        assert [linears[0].in_features, *(m.out_features for m in linears)] == width
        assert create_head(8, 2, **options)(torch.rand(3, 8, 4, 4)).shape == (3, 2)

    def test_bias_where_no_norm_is(self):
        head = create_head(8, 2, first_bn=False, pool=False, bn_final=True)
        assert [m.bias is not None for m in head if isinstance(m, nn.Linear)] == [True, False]
        assert isinstance(head[-1], nn.BatchNorm1d)
        assert head(torch.rand(3, 8)).shape == (3, 2)

    def test_impossible_dropout(self):
        with pytest.raises(OptionError, match="ps=1"):
            create_head(8, 2, ps=1.0)


class TestSmall:
    """LeNet-5 and five convolutions."""

    def test_lenet_has_the_papers_parameters(self):
        assert count(lenet5(context((28, 28), 1)).module) == 61_706
        assert count(lenet5(context((32, 32), 1)).module) == 61_706

    @pytest.mark.parametrize("size", [(12, 12), (28, 28), (31, 40), (32, 32), (64, 48)])
    def test_lenet_takes_any_size_from_twelve(self, size):
        module = lenet5(context(size, 3)).module
        assert module(torch.rand(2, 3, *size)).shape == (2, 10)

    def test_lenet_says_what_it_needs(self):
        with pytest.raises(OptionError, match="at least 12x12 pixels, not 8x8; use small-cnn"):
            lenet5(context((8, 8)))
        with pytest.raises(OptionError, match=r"one known size; .*Resize\(28\)"):
            lenet5(context(None))

    @pytest.mark.parametrize("side", [1, 2, 7, 8, 28, 64, 130])
    def test_small_cnn_takes_any_size(self, side):
        module = small_cnn(context((side, side), 1)).module.eval()
        assert module(torch.rand(2, 1, side, side)).shape == (2, 10)
        final = module.body(torch.rand(1, 1, side, side)).shape[2:]
        assert min(final) >= min(4, side)

    def test_small_cnn_widths(self):
        module = small_cnn(context(), widths=(4, 8)).module
        assert [m.out_channels for m in module.modules() if isinstance(m, nn.Conv2d)] == [4, 8]
        with pytest.raises(OptionError, match="widths"):
            small_cnn(context(), widths=())


class TestBuilders:
    """What a registered model gives for a context."""

    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "vgg11", "vit_b_32", "swin_t"])
    def test_groups_hold_every_parameter(self, name, channels):
        with torch.device("meta"):
            parts = BUILDERS[name](context(channels=channels))
        groups = parts.parameter_groups()
        assert list(groups)[-1] == "head"
        assert sum(p.numel() for g in groups.values() for p in g) == count(parts.module)

    @pytest.mark.parametrize("build", [lenet5, small_cnn, BUILDERS["resnet18"]])
    def test_rows_do_not_depend_on_each_other(self, build):
        module = seeded(lambda: build(context()).module.eval())
        x = torch.rand(4, 3, 32, 32)
        with torch.no_grad():
            assert torch.allclose(module(x)[1], module(x[1:2])[0], atol=1e-4)

    @pytest.mark.parametrize("build", [lenet5, small_cnn, BUILDERS["resnet18"]])
    def test_every_parameter_gets_a_gradient(self, build):
        module = seeded(lambda: build(context()).module)
        module(torch.rand(4, 3, 32, 32)).logsumexp(1).sum().backward()
        assert all(p.grad is not None for p in module.parameters())

    def test_initial_weights_come_from_torchs_seed(self):
        first, second = (seeded(lambda: BUILDERS["resnet18"](context()).module.state_dict()) for _ in range(2))
        assert all(torch.equal(first[k], second[k]) for k in first)

    def test_config_rebuilds_the_architecture(self):
        parts = BUILDERS["resnet18"](context(), lin_ftrs=(64,), ps=0.1, normalize=True, concat_pool=False)
        again = BUILDERS["resnet18"](context(), **json.loads(json.dumps(dict(parts.config or {}))))
        assert [(k, v.shape) for k, v in parts.module.state_dict().items()] == [
            (k, v.shape) for k, v in again.module.state_dict().items()
        ]
        assert str(parts.module) == str(again.module)

    def test_normalising_within_the_model(self):
        module = Standardize(3)
        x = torch.rand(2, 3, 4, 4)
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        assert torch.allclose(module(x), (x - mean[:, None, None]) / std[:, None, None])
        assert float(Standardize(1).mean) == pytest.approx(0.449)
        assert not module.state_dict()

    def test_other_inputs_are_refused(self):
        ctx = ModelContext(inputs={"x": CategoryBlock()}, targets={"y": ClassIndexBlock((0, 1))})
        for build in (lenet5, small_cnn, BUILDERS["resnet18"]):
            with pytest.raises(OptionError, match="takes one picture"):
                build(ctx)


@pytest.fixture(scope="module")
def state():
    """Parameters as torchvision would publish them."""
    return seeded(lambda: torchvision.models.resnet18(weights=None), 3).state_dict()


class TestWeights:
    """Weights from files, by name, and everything that is none."""

    def same_body(self, weights, state) -> bool:
        parts = classifier(context(), arch="resnet18", weights=str(weights))
        assert (parts.config or {})["weights"] is None
        ours = parts.module.get_submodule("body").state_dict()
        return all(torch.equal(v, state[k]) for k, v in ours.items())

    def test_safetensors(self, tmp_path, state):
        save_file(state, tmp_path / "w.safetensors")
        assert self.same_body(tmp_path / "w.safetensors", state)

    @pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
    def test_a_pytorch_file_of_tensors(self, tmp_path, state, wrap):
        torch.save(state if wrap is None else {wrap: state, "epoch": 3}, tmp_path / "w.pth")
        assert self.same_body(tmp_path / "w.pth", state)

    def test_names_with_a_wrappers_prefix(self, tmp_path, state):
        torch.save({f"module.{k}": v for k, v in state.items()}, tmp_path / "w.pth")
        assert self.same_body(tmp_path / "w.pth", state)

    def test_weights_of_one_of_our_own_models(self, tmp_path):
        module = BUILDERS["resnet18"](context(classes=7)).module
        save_file(module.state_dict(), tmp_path / "w.safetensors")
        parts = classifier(context(), arch="resnet18", weights=str(tmp_path / "w.safetensors"))
        assert torch.equal(parts.module.state_dict()["body.conv1.weight"], module.state_dict()["body.conv1.weight"])

    def test_a_classifier_of_another_size_does_not_matter(self, tmp_path, state):
        other = {**state, "fc.weight": torch.zeros(3, 512), "fc.bias": torch.zeros(3)}
        save_file(other, tmp_path / "w.safetensors")
        assert self.same_body(tmp_path / "w.safetensors", state)

    def test_another_network(self, tmp_path, state):
        save_file(state, tmp_path / "w.safetensors")
        with pytest.raises(OptionError, match=r"not of resnet34: \d+ of its \d+ parameters are missing, the first"):
            classifier(context(), arch="resnet34", weights=str(tmp_path / "w.safetensors"))

    def test_another_shape(self, tmp_path, state):
        save_file({**state, "conv1.weight": torch.zeros(64, 1, 7, 7)}, tmp_path / "w.safetensors")
        with pytest.raises(OptionError, match=r"'conv1.weight' has the shape \(64, 1, 7, 7\), not \(64, 3, 7, 7\)"):
            classifier(context(), arch="resnet18", weights=str(tmp_path / "w.safetensors"))

    def test_a_pickle_of_code_is_refused_and_not_run(self, tmp_path):
        torch.save(Bomb(tmp_path / "ran"), tmp_path / "w.pth")
        with pytest.raises(OptionError, match="holds more than tensors"):
            read_weights(tmp_path / "w.pth")
        assert not (tmp_path / "ran").exists()

    @pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
    @pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
    @pytest.mark.parametrize("content", [b"", b"nonsense", b"\x80\x04N."])
    def test_files_that_hold_no_weights(self, tmp_path, name, content):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(OptionError, match="weights="):
            read_weights(tmp_path / name)

    def test_a_file_without_parameters(self, tmp_path):
        torch.save({"epoch": 3}, tmp_path / "w.pth")
        with pytest.raises(OptionError, match="no parameters by name"):
            read_weights(tmp_path / "w.pth")

    def test_no_such_file(self):
        with pytest.raises(OptionError, match=r"no such file; use weights=None"):
            classifier(context(), arch="resnet18", weights="nowhere/w.pth")

    def test_no_such_name(self):
        with pytest.raises(UnknownName, match=r"unknown weights of resnet50 'IMAGENET1K_V3'.*'IMAGENET1K_V2'"):
            classifier(context(), arch="resnet50", weights="IMAGENET1K_V3")

    @pytest.mark.filterwarnings("ignore::ResourceWarning")
    def test_a_download_that_fails_says_what_to_do(self, tmp_path, monkeypatch):
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        for name in ("https_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(UserError, match=r"could not be downloaded .*weights=None .*resnet18\.safetensors"):
            classifier(context(), arch="resnet18", weights="DEFAULT")

    def test_published_weights_are_found_where_torch_keeps_them(self, tmp_path, monkeypatch, state):
        """A file in torch's own cache is used without a network."""
        published = torchvision.models.ResNet18_Weights.DEFAULT
        folder = tmp_path / "hub" / "checkpoints"
        folder.mkdir(parents=True)
        torch.save(state, folder / published.url.rsplit("/", 1)[-1])
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        assert self.same_body("DEFAULT", state)


class Bomb:
    """Leave a trace when unpickled."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return (type(self.path).touch, (self.path,))


def test_import_needs_no_torchvision():
    """Its import takes longer than torch's own."""
    import subprocess
    import sys

    code = (
        "import sys; from graftwork_vision import *; from graftwork_vision.models import BUILDERS;"
        "from graftwork_vision.resnet import resnet_body; resnet_body('resnet18');"
        "print([m for m in ('torchvision', 'sklearn', 'pandas', 'matplotlib') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]", found.stdout


def test_numpy_is_not_needed_to_read_the_table():
    assert ARCHS["resnet18"] == (11.7, 512)
    assert np.isclose(ARCHS["vgg16"][0], 138.4)
