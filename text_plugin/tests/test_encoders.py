"""Encoders of transformers, with invented weights."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from graftwork.api import ClassIndexBlock, ModelContext, OptionError
from graftwork_text import TextDataLoaders, text_classifier_learner
from graftwork_text.blocks import TokensBlock
from graftwork_text.encoders import hugging_face

CTX = ModelContext(inputs={"x": TokensBlock(30)}, targets={"y": ClassIndexBlock(("a", "b", "c"))})
SMALL = {
    "model_type": "bert", "vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 20, "pad_token_id": 1,
}  # fmt: skip


def test_without_transformers_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(OptionError, match=r"graftwork-text\[transformers\]"):
        hugging_face(CTX)


@pytest.fixture
def transformers() -> object:
    return pytest.importorskip("transformers", reason="needs graftwork-text[transformers]")


@pytest.mark.usefixtures("transformers")
@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta"])
def test_groups_go_from_embeddings_to_head_and_all_learn(kind: str) -> None:
    torch.manual_seed(0)
    config = {**SMALL, "model_type": kind}
    if kind == "distilbert":
        config = {**config, "dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 32}
    parts = hugging_face(CTX, trunk=config)
    assert list(parts.parameter_groups()) == ["embeddings", "layer1", "layer2", "layer3", "head"]
    x = torch.randint(2, 30, (4, 9))
    parts.module.train()(x).logsumexp(1).sum().backward()
    silent = [name for name, p in parts.module.named_parameters() if p.grad is None]
    assert not silent


@pytest.mark.usefixtures("transformers")
def test_padding_changes_nothing_and_the_config_builds_it_again() -> None:
    torch.manual_seed(0)
    parts = hugging_face(CTX, trunk=SMALL)
    module = parts.module.eval()
    x = torch.randint(2, 30, (2, 9))
    padded = torch.cat([x, torch.ones(2, 5, dtype=torch.int64)], 1)
    torch.testing.assert_close(module(padded), module(x), rtol=1e-4, atol=1e-5)
    assert parts.config is not None
    again = hugging_face(CTX, **parts.config).module.eval()
    again.load_state_dict(module.state_dict())
    torch.testing.assert_close(again(x), module(x))


@pytest.mark.usefixtures("transformers")
def test_a_folder_gives_its_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    saved = hugging_face(CTX, trunk=SMALL).module.trunk
    saved.save_pretrained(tmp_path)
    loaded = hugging_face(CTX, path=str(tmp_path)).module.trunk
    for name, value in saved.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value)


@pytest.mark.usefixtures("transformers")
def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(OptionError, match="knows 30 tokens and the data has 40"):
        hugging_face(ModelContext(inputs={"x": TokensBlock(40)}, targets=CTX.targets), trunk=SMALL)
    with pytest.raises(OptionError, match="model_type"):
        hugging_face(CTX, trunk={"hidden_size": 3})


@pytest.mark.usefixtures("transformers")
def test_a_text_longer_than_it_reads_is_cut_off_counted_and_said(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    module = hugging_face(CTX, trunk=SMALL).module.eval()
    tokens = torch.randint(2, 30, (1, 25))
    assert torch.equal(module(tokens), module(tokens[:, :20]))
    data = TextDataLoaders.from_texts(["a b " * 20, "b"] * 5, [0, 1] * 5, min_freq=1)
    text_classifier_learner(data, "text/hugging-face", model_config={"trunk": SMALL})
    assert "5 text(s) are longer than the 20 tokens the encoder reads" in caplog.text
