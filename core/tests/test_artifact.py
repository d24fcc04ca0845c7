"""Export, load, predict: a file that needs neither the data nor the program, and that nothing can run code from."""

from __future__ import annotations

import json
import pickle
import random
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import graftwork
from graftwork.artifact import load_learner, read_manifest, save_artifact
from graftwork.block import CategoryBlock, RegressionBlock
from graftwork.container import read_container, write_container
from graftwork.datablock import DataBlock, DataLoaders
from graftwork.errors import ArtifactError, ItemError, OptionError, UnknownName
from graftwork.learner import Learner
from graftwork.loss import LabelSmoothing
from graftwork.predictor import BadItem, Predictor
from graftwork.split import RandomSplitter
from graftwork.testing.toy import mlp, recipe
from graftwork.testing.toy_plugin import Scale
from graftwork.weights import pack


def learner(data: DataLoaders, **options: Any) -> Learner:
    return Learner(data, options.pop("model", "toy/mlp"), progress=False, **options)


@pytest.fixture
def trained(toy, data) -> Learner:
    return learner(data, model_config={"hidden": 8}, lr=0.02, metrics=["accuracy"]).fit(2)


@pytest.fixture
def file(trained, tmp_path) -> Path:
    return trained.export(tmp_path / "model.graft")


def changed(file: Path, change, *, weights: bytes | None = None) -> Path:
    """Forge a sealed file: its hashes are right, its manifest is what `change` made of it."""
    found = read_container(file)
    manifest = json.loads(json.dumps(found.manifest))
    change(manifest)
    del manifest["members"]
    members = {name: bytes(view) for name, view in found.members.items()}
    if weights is not None:
        members["weights.safetensors"] = weights
    return write_container(file.with_name("forged.graft"), manifest=manifest, members=members)


def refusal(path: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        load_learner(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


# --- what comes back ----------------------------------------------------------------------------------


def test_what_is_loaded_predicts_what_was_trained(trained, file, items):
    predictor = load_learner(file)
    for numbers, _ in items[:20]:
        here, there = trained.predict(numbers), predictor.predict(numbers)
        assert torch.equal(here.raw, there.raw)
        assert here.value == there.value
        assert here.probabilities == there.probabilities


def test_a_prediction_is_in_the_targets_own_terms(file):
    prediction = load_learner(file).predict([5.0, -5.0, -5.0, 0.0])
    assert prediction.value == "ant"
    assert set(prediction.probabilities) == {"ant", "bee", "cow"}
    assert sum(prediction.probabilities.values()) == pytest.approx(1)
    assert max(prediction.probabilities, key=prediction.probabilities.get) == "ant"
    assert prediction.raw.shape == (3,)
    assert prediction.raw.softmax(0).tolist() == pytest.approx(list(prediction.probabilities.values()))


def test_the_manifest_says_what_the_file_is(trained, file):
    manifest = read_manifest(file)
    assert manifest == load_learner(file).manifest
    assert manifest["kind"] == "learner"
    assert manifest["graftwork"] == graftwork.__version__
    assert manifest["model"] == {"id": "toy/mlp", "config": {"hidden": 8}}
    assert manifest["plan"]["fields"]["y"]["id"] == "core/category"
    assert manifest["losses"] == {"y": {"id": "core/cross_entropy", "config": {"ignore_index": -100, "weight": None}}}
    assert manifest["rows"] == {"train": 150, "valid": 50}
    assert manifest["seed"] == 42
    assert manifest["extra"] == {"epochs": 2}
    assert manifest["metrics"]["accuracy"] == pytest.approx(trained.validate()["accuracy"])
    assert set(manifest["metrics"]) == {"train_loss", "valid_loss", "accuracy"}
    assert manifest["plugins"]["core"] == {"distribution": "graftwork", "version": graftwork.__version__, "api": [1, 0]}
    assert manifest["plugins"]["toy"]["api"] == [1, 0]
    assert "import" not in json.dumps(manifest)
    assert "toy_plugin" not in json.dumps(manifest)


def test_the_same_training_gives_the_same_bytes(toy, items, tmp_path):
    for name in ("a", "b"):
        data = recipe().dataloaders(items, bs=16, workers=0)
        learner(data, lr=0.02).fit(1).export(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_validating_gives_what_training_gave(trained, file, data):
    assert load_learner(file).validate(data.valid, metrics=["accuracy"]) == trained.validate()
    there, here = load_learner(file).get_preds(data.valid), trained.get_preds()
    assert torch.equal(there.activated, here.activated)
    assert torch.equal(there.losses, here.losses)


def test_a_losss_options_come_back(toy, data, tmp_path):
    trained = learner(data, loss=LabelSmoothing(0.3)).fit(1)
    predictor = load_learner(trained.export(tmp_path / "m.graft"))
    assert predictor.manifest["losses"]["y"] == {
        "id": "core/label_smoothing",
        "config": {"eps": 0.3, "ignore_index": -100},
    }
    assert predictor.validate(data.valid)["valid_loss"] == trained.validate()["valid_loss"]


def test_it_loads_in_another_process_that_has_only_the_plugin(toy, file):
    code = """
        import sys
        from graftwork.testing import toy_plugin
        from graftwork.plugins import get_host
        get_host().register(toy_plugin)
        from graftwork import load_learner
        print(load_learner(sys.argv[1]).predict([5.0, -5.0, -5.0, 0.0]).value)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(file)], capture_output=True, text=True)
    assert done.stdout.strip() == "ant", done.stderr


def test_what_is_loaded_can_be_trained_on_and_the_file_stays(toy, file, data):
    before = file.read_bytes()
    predictor = load_learner(file)
    old = predictor.predict([1.0, 0.0, 0.0, 0.0]).raw
    learner(data, model=predictor.module, lr=0.1).fit(1)
    assert not torch.equal(predictor.predict([1.0, 0.0, 0.0, 0.0]).raw, old)
    assert file.read_bytes() == before


def test_a_copy_is_independent_of_the_file(file):
    predictor = load_learner(file, copy=True)
    expected = predictor.predict([1.0, 2.0, 3.0, 4.0]).raw
    file.write_bytes(bytes(file.stat().st_size))
    assert torch.equal(predictor.predict([1.0, 2.0, 3.0, 4.0]).raw, expected)


def test_a_channels_last_model_is_saved_in_the_common_layout(toy, data, tmp_path):
    trained = learner(data, model_config={"conv": True, "hidden": 4}).fit(1)
    a = trained.export(tmp_path / "a").read_bytes()
    trained.module.to(memory_format=torch.channels_last)
    assert trained.export(tmp_path / "b").read_bytes() == a
    assert load_learner(tmp_path / "b").predict([1.0, 2.0, 3.0, 4.0]).raw.shape == (3,)


def test_weights_are_mapped_from_a_border_of_cache_lines(file):
    tensors = list(load_learner(file).module.state_dict(keep_vars=True).values())
    assert min(tensor.data_ptr() for tensor in tensors) % 64 == 0
    assert tensors[0].is_leaf
    assert tensors[0].requires_grad


def test_metrics_that_are_no_number_become_null(toy, data, tmp_path):
    plan, module = data.plan, mlp(8)
    parts = {"module": module, "plan": plan, "model_id": "toy/mlp", "model_config": {"hidden": 8}}
    with pytest.raises(ArtifactError, match=r"tensor '0\.0\.bias' of the model is not in the file"):
        save_artifact(tmp_path / "m.graft", **parts)
    parts["module"] = learner(data, model_config={"hidden": 8}).module
    path = save_artifact(tmp_path / "m.graft", **parts, metrics={"auc": float("nan"), "f1": 0.5}, extra={"note": "ü"})
    assert read_manifest(path)["metrics"] == {"auc": None, "f1": 0.5}
    assert read_manifest(path)["extra"] == {"note": "ü"}


# --- predicting ----------------------------------------------------------------------------------


def test_a_batch_gives_what_single_predictions_give(file, items):
    predictor, numbers = load_learner(file), [n for n, _ in items[:23]]
    many = predictor.predict_batch(numbers, bs=5, workers=2)
    single = [predictor.predict(n) for n in numbers]
    assert [m.value for m in many] == [s.value for s in single]
    assert torch.allclose(torch.stack([m.raw for m in many]), torch.stack([s.raw for s in single]), atol=1e-6)
    assert predictor.predict_batch([]) == []


@pytest.fixture
def scaled(toy, items, tmp_path) -> Predictor:
    data = recipe(item_tfms=Scale(0.5)).dataloaders(items, bs=16, workers=0)
    return load_learner(learner(data, lr=0.02).fit(1).export(tmp_path / "scaled.graft"))


def test_transforms_come_back_with_their_options(scaled):
    assert scaled.plan.encode({"x": [2.0, 4.0, 6.0, 8.0]})["x"] == [1, 2, 3, 4]
    assert scaled.predict([9.0, 0.0, 0.0, 0.0]).value == "ant"


@pytest.mark.parametrize("workers", [0, 2])
def test_items_that_cannot_be_read_are_listed_in_their_place(scaled, workers):
    found = scaled.predict_batch([[1.0] * 4, [1.0] * 3, [2.0] * 4, "no numbers"], bs=2, workers=workers)
    assert [isinstance(f, BadItem) for f in found] == [False, True, False, True]
    assert found[1].item == [1.0] * 3
    assert "step Scale(factor=0.5)" in found[1].reason
    assert "4 number(s) expected, not 3" in found[1].reason
    with pytest.raises(ItemError, match="expected, not 3"):
        scaled.predict_batch([[1.0] * 4, [1.0] * 3], workers=workers, on_bad_item="error")
    with pytest.raises(ItemError, match=r"field 'x'.*expected, not 3"):
        scaled.predict([1.0] * 3)


def test_predicting_leaves_every_part_in_its_mode(trained):
    trained.module.train()
    trained.module[0][1].eval()
    modes = [part.training for part in trained.module.modules()]
    statistics = trained.module[0][1].running_mean.clone()
    trained.predict([1.0, 2.0, 3.0, 4.0])
    assert [part.training for part in trained.module.modules()] == modes
    assert torch.equal(trained.module[0][1].running_mean, statistics)


def test_predicting_draws_nothing_and_tracks_no_gradient(file):
    predictor, before = load_learner(file), torch.get_rng_state()
    raw = predictor.predict([1.0, 2.0, 3.0, 4.0]).raw
    assert torch.equal(before, torch.get_rng_state())
    assert not raw.requires_grad
    (raw.requires_grad_() * 2).sum().backward()  # a plain tensor: a caller may compute with it


def two_of_each(items: list[dict[str, Any]]) -> DataLoaders:
    blocks = {"left": RegressionBlock(2), "right": RegressionBlock(), "kind": CategoryBlock, "size": RegressionBlock()}
    getters = {name: (lambda item, name=name: item[name]) for name in blocks}
    block = DataBlock(blocks=blocks, n_inp=2, getters=getters, splitter=RandomSplitter(seed=0))
    return block.dataloaders(items, bs=8, workers=0)


@pytest.fixture
def several(toy, tmp_path) -> Predictor:
    rng = np.random.default_rng(0)
    items = [
        {"left": rng.normal(size=2).tolist(), "right": float(i), "kind": "ab"[i % 2], "size": float(i)}
        for i in range(40)
    ]
    return load_learner(learner(two_of_each(items), model="toy/two").fit(1).export(tmp_path / "two.graft"))


def test_several_inputs_and_targets_go_by_name(several):
    assert several.plan.inputs == ("left", "right")
    found = several.predict({"left": [1.0, 2.0], "right": 3.0})
    assert set(found.value) == set(found.probabilities) == set(found.raw) == {"kind", "size"}
    assert found.value["kind"] in ("a", "b")
    assert isinstance(found.value["size"], float)
    assert found.probabilities["size"] is None
    assert set(found.probabilities["kind"]) == {"a", "b"}
    assert found.raw["kind"].shape == (2,)
    assert several.predict_batch([{"left": [1.0, 2.0], "right": 3.0}] * 3)[2].value["kind"] == found.value["kind"]


def test_inputs_that_are_not_the_models_are_refused(several, file):
    with pytest.raises(OptionError, match=r"the inputs \('left', 'right'\).*pass a mapping: \{'left': …, 'right': …\}"):
        several.predict([1.0, 2.0])
    with pytest.raises(OptionError, match="the input 'right' is missing"):
        several.predict({"left": [1.0, 2.0]})
    with pytest.raises(UnknownName, match=r"unknown input 'lefft'; did you mean 'left'\?"):
        several.predict({"lefft": [1.0, 2.0], "right": 1.0})
    predictor = load_learner(file)
    assert predictor.predict({"x": [1.0] * 4}).value == predictor.predict([1.0] * 4).value


def test_a_predictor_moves(file):
    predictor = load_learner(file)
    fp32 = predictor.predict([1.0, 2.0, 3.0, 4.0]).raw
    assert predictor.to("cpu", precision="bf16") is predictor
    bf16 = predictor.predict([1.0, 2.0, 3.0, 4.0]).raw
    assert bf16.dtype == torch.float32
    assert torch.allclose(bf16, fp32, atol=0.1)
    assert not torch.equal(bf16, fp32)
    assert repr(predictor) == "Predictor(toy/mlp: x → y; cpu, bf16)"
    with pytest.raises(OptionError, match="no device torch knows"):
        predictor.to("abacus")


# --- what is not saved ----------------------------------------------------------------------------------


def test_a_model_without_a_name_cannot_be_exported(data, tmp_path):
    with pytest.raises(OptionError, match="only a model given by its name can be exported"):
        learner(data, model=mlp()).export(tmp_path / "m.graft")
    assert list(tmp_path.iterdir()) == []


def test_a_transform_that_is_not_registered_is_refused_at_once(toy, items, tmp_path):
    class Own(Scale):
        id = "own/scale"

    data = recipe(item_tfms=Own()).dataloaders(items, bs=16, workers=0)
    with pytest.raises(ArtifactError, match=r"cannot be written: it needs own/scale, of plugins that are not"):
        learner(data).export(tmp_path / "m.graft")

    class Impostor(Scale):
        pass

    data = recipe(item_tfms=Impostor()).dataloaders(items, bs=16, workers=0)
    with pytest.raises(ArtifactError, match=r"Impostor.* is not what is registered as 'toy/scale'"):
        learner(data).export(tmp_path / "m.graft")
    assert list(tmp_path.iterdir()) == []


def test_code_in_an_option_is_refused_naming_it(toy, data, tmp_path):
    model = learner(data, model_config={"hidden": 8})
    parts = {"module": model.module, "plan": data.plan, "model_id": "toy/mlp"}
    with pytest.raises(ArtifactError, match=r"manifest\.model\.config\.act is a function .*Register it in a plugin"):
        save_artifact(tmp_path / "m.graft", **parts, model_config={"hidden": 8, "act": lambda x: x})
    task = {"id": "toy/task", "config": {"fn": print}}
    with pytest.raises(ArtifactError, match=r"manifest\.task\.config\.fn is a builtin_function_or_method"):
        save_artifact(tmp_path / "m.graft", **parts, model_config={"hidden": 8}, task=task)
    with pytest.raises(ArtifactError, match="unexpected keyword argument 'hiden'"):
        save_artifact(tmp_path / "m.graft", **parts, model_config={"hiden": 8})
    with pytest.raises(ArtifactError, match=r"tensor '0\.0\.weight' is \(8, 4\) float32 in the file, and \(9, 4\)"):
        save_artifact(tmp_path / "m.graft", **parts, model_config={"hidden": 9})
    assert list(tmp_path.iterdir()) == []


# --- what is not read ----------------------------------------------------------------------------------


def set_at(*path: Any, value: Any):
    def change(manifest: dict[str, Any]) -> None:
        for key in path[:-1]:
            manifest = manifest[key]
        manifest[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            set_at("model", "id", value="acme/net"),
            "acme/net, of plugins that are not installed: pip install graftwork-acme",
        ),
        (set_at("plan", "fields", "x", "id", value="depth/block"), "pip install graftwork-depth"),
        (set_at("plan", "item", 0, "y", "id", value="acme/x"), "pip install graftwork-acme"),
        (set_at("losses", "y", "id", value="acme/loss"), "pip install graftwork-acme"),
        (set_at("task", value={"id": "acme/task", "config": {}}), "pip install graftwork-acme"),
        (set_at("model", "id", value="toy/nlp"), "unknown model 'toy/nlp'; did you mean 'toy/mlp'"),
        (set_at("model", "id", value="torch.nn:Linear"), "names 'torch.nn:Linear', which is no id"),
        (set_at("model", "id", value="os:system"), "which is no id"),
        (set_at("model", "id", value="../x/y"), "which is no id"),
        (set_at("model", "id", value=3), "which is no id"),
        (set_at("model", "id", value="mlp"), "which is no id"),
        (set_at("model", "config", value={"width": 3}), "unexpected keyword argument 'width'"),
        (set_at("model", "config", value={"hidden": "eight"}), "cannot be loaded: TypeError"),
        (set_at("model", "config", value={"hidden": 1 << 40}), "cannot be loaded: RuntimeError"),
        (
            set_at("model", "config", value={"hidden": 9}),
            "'0.0.weight' is (8, 4) float32 in the file, and (9, 4)",
        ),
        (set_at("model", value=None), "cannot be loaded: TypeError"),
        (set_at("plan", value={}), "cannot be loaded: KeyError: 'fields'"),
        (set_at("plan", value=[]), "cannot be loaded: TypeError"),
        (set_at("plan", "targets", value=["z"]), "cannot be loaded: KeyError: 'z'"),
        (set_at("plan", "fields", "x", "config", value={"n": 1}), "unknown field of core/regression 'n'"),
        (set_at("plan", "fields", "x", "config", value={"n_out": -1}), "n_out=-1 must be at least 1"),
        (set_at("aliases", value={"a": "b"}), "names of tied tensors"),
        (set_at("losses", "y", "config", value={"weights": 1}), "unexpected keyword argument 'weights'"),
        (set_at("kind", value="checkpoint"), "holds a 'checkpoint', not an exported model"),
    ],
)
def test_a_forged_manifest_is_refused(file, change, reason):
    assert reason in refusal(changed(file, change))


@pytest.mark.parametrize(
    ("said", "named"),
    [("Acme", "Acme"), ("graftwork_acme", "graftwork_acme"), ("evil", "graftwork-acme"), (7, "graftwork-acme")],
)
def test_a_missing_plugin_is_asked_for_by_the_name_of_its_distribution(file, said, named):
    def change(manifest: dict[str, Any]) -> None:
        manifest["model"]["id"] = "acme/net"
        manifest["plugins"]["acme"] = {"distribution": said, "version": "1.0", "api": [1, 0]}

    assert refusal(changed(file, change)).endswith(f"of plugins that are not installed: pip install {named}")


def test_a_pickle_as_weights_is_refused_and_not_run(file, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    for protocol in (0, 2, 5):
        text = refusal(changed(file, lambda manifest: None, weights=pickle.dumps(Bomb(), protocol)))
        assert "is not safetensors" in text
    assert not (tmp_path / "exploded").exists()


def test_weights_of_another_model_are_refused_by_name(file):
    text = refusal(changed(file, lambda manifest: None, weights=pack({"other": torch.ones(2)})))
    assert "tensor '0.0.bias' of the model is not in the file" in text


def test_an_unknown_id_is_never_imported(file, tmp_path, monkeypatch):
    (tmp_path / "acme.py").write_text("raise SystemExit('imported')")
    (tmp_path / "graftwork_acme.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert "pip install graftwork-acme" in refusal(changed(file, set_at("model", "id", value="acme/net")))
    assert not {"acme", "graftwork_acme"} & set(sys.modules)


def test_the_advice_names_no_package_that_the_file_chooses(file):
    def change(manifest: dict[str, Any]) -> None:
        manifest["model"]["id"] = "acme/net"
        manifest["plugins"]["acme"] = {"distribution": "evil-package", "version": "1", "api": [1, 0]}

    assert "evil-package" not in refusal(changed(file, change))


def test_a_hundred_flips_are_refused(file):
    data, rng = file.read_bytes(), random.Random(0)
    for _ in range(100):
        flipped = bytearray(data)
        flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        file.write_bytes(flipped)
        assert "is refused" in refusal(file)


def scrambled(value: Any, rng: random.Random) -> Any:
    """Change one thing somewhere in a JSON value."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        return {**value, key: scrambled(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        i = rng.randrange(len(value))
        return [*value[:i], scrambled(value[i], rng), *value[i + 1 :]]
    return rng.choice([None, True, -1, 0, 3, 1 << 70, 1.5, "", "x", "core/category", [], ["a"], {}, {"id": "core/bce"}])


def test_a_thousand_forged_manifests_never_do_more_than_refuse(file):
    found = read_container(file)
    original = {key: value for key, value in found.manifest.items() if key != "members"}
    weights, rng, loaded = bytes(found.members["weights.safetensors"]), random.Random(0), 0
    for _ in range(1000):
        manifest = scrambled(original, rng)
        if not isinstance(manifest, dict):
            continue
        path = write_container(
            file.with_name("forged.graft"), manifest=manifest, members={"weights.safetensors": weights}
        )
        try:
            load_learner(path)
            loaded += 1
        except ArtifactError:
            continue
    assert loaded > 0  # what changes only what the file says about itself is read


def test_nothing_here_can_read_a_pickle():
    folder = Path(graftwork.__file__).parent
    for name in ("artifact", "container", "resume", "run", "predictor", "weights"):
        text = (folder / f"{name}.py").read_text()
        for forbidden in ("import pickle", "torch.load", "torch.save", "eval(", "exec(", "import_module", "__import__"):
            assert forbidden not in text.replace(".eval()", ""), f"{name}: {forbidden}"
