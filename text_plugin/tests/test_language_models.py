"""Language models and classifiers as learners: encoder files, ULMFiT, texts that go on, and what words contributed."""

from __future__ import annotations

import logging
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from graftwork import DataBlock, DataLoaders, Learner, RandomSplitter, Runtime, load_learner
from graftwork.api import ArtifactError, CategoryBlock, OptionError, UnknownName
from graftwork_text.attribution import attribute
from graftwork_text.blocks import NextTextBlock, TextBlock
from graftwork_text.encoder_files import load_encoder, match_words, save_encoder
from graftwork_text.generation import generate
from graftwork_text.learner import fit_ulmfit, language_model_learner, text_classifier_learner
from graftwork_text.transforms import text_steps

SIZES = {"emb_sz": 32, "n_layers": 1, "alpha": 0.0, "beta": 0.0}
PLAIN = Runtime(device="cpu")
NAMES = ("cat", "dog", "cow", "hen")


def stories(count: int = 240, seed: int = 0) -> list[tuple[str, str]]:
    """Return texts that follow rules, each with a class that one word decides."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        name, good = NAMES[int(rng.integers(4))], bool(rng.integers(2))
        words = [f"the {name} is {'lovely indeed' if good else 'awful today'}"]
        words += ["we went home"] * int(rng.integers(0, 3))
        found.append((" . ".join(words), "good" if good else "bad"))
    return found


def language_data(texts: list[tuple[str, str]] | None = None, bs: int = 16) -> DataLoaders:
    block = DataBlock(
        blocks=(TextBlock(min_freq=1), NextTextBlock(min_freq=1)),
        getters={"x": itemgetter(0), "y": itemgetter(0)},
        splitter=RandomSplitter(0.25, seed=1),
    )
    return block.dataloaders(texts or stories(), bs=bs, workers=0)


def class_data(texts: list[tuple[str, str]] | None = None, **options: Any) -> DataLoaders:
    block = DataBlock(blocks=(TextBlock(min_freq=1, **options), CategoryBlock), splitter=RandomSplitter(0.25, seed=1))
    return block.dataloaders(texts or stories(), bs=16, workers=0)


def language_learner(data: DataLoaders | None = None, **options: Any) -> Learner:
    options = {"model_config": SIZES, "drop_mult": 0.1, **options}
    return language_model_learner(data or language_data(), runtime=PLAIN, progress=False, **options)


@pytest.fixture(scope="module")
def trained() -> Learner:
    return language_learner().fit_one_cycle(30, 2e-2)


def test_a_language_model_learns_the_rules(trained: Learner) -> None:
    assert trained.history[-1]["perplexity"] < 2.2
    assert trained.history[0]["perplexity"] > 3 * trained.history[-1]["perplexity"]


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"beam": 4}, {"top_k": 1}])
def test_it_writes_by_the_rules(trained: Learner, options: dict[str, Any]) -> None:
    assert generate(trained, "the cow is lovely", max_new_tokens=1, **options) == "the cow is lovely indeed"
    assert generate(trained, "the hen is awful", max_new_tokens=1, only_new=True, **options) == "today"


def test_prompts_are_kept_as_they_are_and_unknown_words_are_said(
    trained: Learner, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="graftwork"):
        texts = generate(trained, ["The zebra  is", "we went"], max_new_tokens=6, seed=1)
    assert isinstance(texts, list)
    assert texts[0].lower().startswith("the zebra")
    assert texts[1].startswith("we went")
    assert "'zebra'" in caplog.text
    assert "xx" not in "".join(texts)
    assert generate(trained, ["The zebra  is", "we went"], max_new_tokens=6, seed=1) == texts


def test_an_empty_prompt_begins_a_text(trained: Learner) -> None:
    assert str(generate(trained, temperature=0, max_new_tokens=4)).lower().startswith("the ")


def test_an_exported_model_writes_the_same(trained: Learner, tmp_path: Path) -> None:
    predictor = load_learner(trained.export(tmp_path / "lm.graft"))
    for options in ({"seed": 7}, {"beam": 3}):
        assert generate(predictor, "we", max_new_tokens=9, **options) == generate(
            trained, "we", max_new_tokens=9, **options
        )


def test_what_cannot_be_written_is_said(trained: Learner) -> None:
    with pytest.raises(UnknownName, match="token to stop at"):
        generate(trained, "we", stop=["nowhere"])
    with pytest.raises(OptionError, match="without chance"):
        generate(trained, "we", beam=2, top_k=3)
    with pytest.raises(OptionError, match="no language model"):
        generate(classifier(), "we")


# -- encoder files ---------------------------------------------------------------------------------------------------


def classifier(data: DataLoaders | None = None, **options: Any) -> Learner:
    options = {"model_config": SIZES, **options}
    return text_classifier_learner(data or class_data(), runtime=PLAIN, progress=False, **options)


def vectors(learn: Learner) -> dict[str, Tensor]:
    vocab = text_steps(learn.data.plan)[1].vocab or ()
    return dict(zip(vocab, learn.module.encoder.embedding.weight.detach(), strict=True))


def test_words_are_found_by_name_and_others_get_the_mean(trained: Learner, tmp_path: Path) -> None:
    path = save_encoder(trained, tmp_path / "deep" / "encoder")
    assert path.suffix == ".safetensors"
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    texts = [(f"a new horse . {text}", label) for text, label in stories(seed=5)]
    learn = classifier(class_data(texts))
    loaded = load_encoder(learn, path)
    theirs, own = vectors(trained), vectors(learn)
    assert loaded.found == len(set(theirs) & set(own))
    assert loaded.missing == len(set(own) - set(theirs)) > 0
    mean = torch.stack(list(theirs.values())).mean(0)
    for word, vector in own.items():
        torch.testing.assert_close(vector, theirs.get(word, mean))
    for name, value in trained.module.encoder.layers.state_dict().items():
        assert torch.equal(value, learn.module.encoder.layers.state_dict()[name])


def test_a_language_model_takes_over_the_biases_of_words_too(trained: Learner, tmp_path: Path) -> None:
    path = save_encoder(trained, tmp_path / "encoder.safetensors")
    learn = language_learner(pretrained=path)
    for name, value in trained.module.state_dict().items():
        torch.testing.assert_close(value, learn.module.state_dict()[name])
    frozen = {name for name, p in learn.module.named_parameters() if not p.requires_grad}
    assert frozen == {name for name, _ in learn.module.named_parameters() if ".layers." in name}


def test_the_same_encoder_gives_the_same_file(trained: Learner, tmp_path: Path) -> None:
    one, other = (save_encoder(trained, tmp_path / name).read_bytes() for name in ("one", "other"))
    assert one == other


def test_other_files_are_refused_with_what_differs(trained: Learner, tmp_path: Path) -> None:
    path = save_encoder(trained, tmp_path / "encoder")
    with pytest.raises(ArtifactError, match=r", 32\) in the file and \(\d+, 24\) in the model"):
        load_encoder(classifier(model_config={**SIZES, "emb_sz": 24}), path)
    with pytest.raises(ArtifactError, match="the file has no"):
        load_encoder(classifier(model_config={**SIZES, "n_layers": 2}), path)
    small = {"width": 16, "n_layers": 1, "n_heads": 2, "max_length": 32}
    with pytest.raises(ArtifactError, match="it is of AWD_LSTM, and the model's is Transformer"):
        load_encoder(classifier(model="text/transformer-classifier", model_config=small), path)
    with pytest.raises(ArtifactError, match="there is no encoder file"):
        load_encoder(trained, tmp_path / "nowhere")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ArtifactError, match="damaged"):
        load_encoder(trained, damaged)
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(2)}, damaged)
    with pytest.raises(ArtifactError, match="no encoder that"):
        load_encoder(trained, damaged)
    with pytest.raises(OptionError, match="has no encoder"):
        save_encoder(Learner(class_data(), Bag(40), progress=False), tmp_path / "bag")


def test_an_encoder_of_another_language_is_said(
    trained: Learner, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = save_encoder(trained, tmp_path / "encoder")
    other = [(" ".join(f"w{(i * 7 + j) % 60}" for j in range(12)), "ab"[i % 2]) for i in range(60)]
    with caplog.at_level(logging.WARNING, logger="graftwork"):
        load_encoder(classifier(class_data(other)), path)
    assert "of another language" in caplog.text


def test_match_words_names_places() -> None:
    assert match_words(["a", "b", "c"], ["c", "x", "a"]) == [2, -1, 0]


# -- ULMFiT ----------------------------------------------------------------------------------------------------------


def test_ulmfit_goes_from_a_language_model_to_a_classifier(trained: Learner, tmp_path: Path) -> None:
    path = save_encoder(trained, tmp_path / "encoder")
    learn = classifier(pretrained=path, drop_mult=0.1)
    assert [name for name, group in learn.groups.items() if all(p.requires_grad for p in group)] == ["head"]
    before = {name: value.clone() for name, value in learn.module.encoder.state_dict().items()}
    fit_ulmfit(learn, 15, 1e-1)
    assert learn.epochs_done == 17
    assert learn.history[-1]["accuracy"] > 0.9
    assert all(p.requires_grad for p in learn.module.parameters())
    assert any(not torch.equal(value, before[name]) for name, value in learn.module.encoder.state_dict().items())
    with pytest.raises(OptionError, match="epochs=0"):
        fit_ulmfit(learn, 0)


@pytest.mark.parametrize("kind", ["awd-lstm", "transformer"])
def test_classifiers_are_exported_and_predict(kind: str, tmp_path: Path) -> None:
    config = SIZES if kind == "awd-lstm" else {"width": 32, "n_layers": 2, "n_heads": 2, "max_length": 16}
    learn = classifier(model=f"text/{kind}-classifier", model_config=config, lr=5e-3).fit_one_cycle(15)
    assert learn.history[-1]["accuracy"] > 0.9
    predictor = load_learner(learn.export(tmp_path / "c.graft"))
    text = "the hen is awful today . we went home"
    assert predictor.predict(text).value == learn.predict(text).value == "bad"
    torch.testing.assert_close(predictor.predict(text).raw, learn.predict(text).raw)


def test_options_of_the_learners_reach_the_model() -> None:
    learn = classifier(seq_len=7, max_len=21, drop_mult=0.0)
    assert (learn.module.seq_len, learn.module.max_len) == (7, 21)
    assert learn.module.encoder.input_p == 0
    with pytest.raises(OptionError, match="drop_mult"):
        language_learner(model="text/transformer-lm", model_config={"width": 32}, drop_mult=0.5)


# -- attribution -----------------------------------------------------------------------------------------------------


class Bag(nn.Module):
    """A classifier that can be given no vectors."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.words, self.head = nn.EmbeddingBag(size, 8, padding_idx=1), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.words(x))
        return out


@pytest.fixture(scope="module")
def judge() -> Learner:
    return classifier(drop_mult=0.1).fit_one_cycle(15, 1e-2)


TEXT = "the hen is awful and we went home"


@pytest.mark.parametrize("method", ["auto", "integrated-gradients", "occlusion"])
def test_the_word_that_decides_is_found(judge: Learner, method: Any) -> None:
    flags = [p.requires_grad for p in judge.module.parameters()]
    found = attribute(judge, TEXT, method=method, steps=64)
    assert found.label == "bad"
    assert found.top(1)[0].token == "awful"
    assert found.top(1)[0].score > 0
    assert attribute(judge, TEXT, label="good", method=method).top(1)[0].score < 0
    for piece in found.pieces:
        if piece.end > piece.start:
            assert TEXT[piece.start : piece.end].lower() == piece.token
    assert [p.requires_grad for p in judge.module.parameters()] == flags
    assert all(p.grad is None for p in judge.module.parameters())


def test_integrated_gradients_add_up(judge: Learner) -> None:
    rough, fine = (attribute(judge, TEXT, steps=steps) for steps in (4, 200))
    assert fine.gap is not None
    assert rough.gap is not None
    assert abs(fine.gap) < 0.02
    assert abs(fine.gap) <= abs(rough.gap) + 1e-3


def test_colours_leave_the_text_as_it_is(judge: Learner, tmp_path: Path) -> None:
    text = "The HEN <b>is</b> awful & we  weep"
    found = attribute(load_learner(judge.export(tmp_path / "c.graft")), text)
    from html.parser import HTMLParser

    seen: list[str] = []
    parser = HTMLParser()
    parser.handle_data = seen.append  # type: ignore[method-assign]
    parser.feed(found.to_html())
    assert "".join(seen).endswith(text)
    import re

    assert re.sub(r"\x1b\[[0-9;]*m", "", str(found)).split("\n", 1)[1] == text
    assert "\x1b[" in found.to_terminal()
    assert found._repr_html_() == found.to_html()


def test_any_classifier_can_be_explained_by_occlusion() -> None:
    data = class_data(max_length=6)
    size = len(text_steps(data.plan)[1].vocab or ())
    learn = Learner(data, Bag(size), progress=False, lr=5e-2).fit(10)
    found = attribute(learn, TEXT)
    assert found.method == "occlusion"
    assert found.top(1)[0].token == "awful"
    assert found.left_out == 3
    assert "3 tokens were not read" in str(found)
    with pytest.raises(OptionError, match="use occlusion"):
        attribute(learn, TEXT, method="integrated-gradients")


def test_what_cannot_be_explained_is_said(judge: Learner, trained: Learner) -> None:
    with pytest.raises(UnknownName, match="class"):
        attribute(judge, TEXT, label="godo")
    with pytest.raises(UnknownName, match="method"):
        attribute(judge, TEXT, method="magic")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="one class from one text"):
        attribute(trained, TEXT)
