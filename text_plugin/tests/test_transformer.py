"""The Transformer: its parts, and that its cache changes nothing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from graftwork.api import ClassIndexBlock, DataError, ModelContext, OptionError
from graftwork_text.blocks import NextTokenBlock, TokensBlock
from graftwork_text.metrics import NextTokenLoss
from graftwork_text.transformer import RMSNorm, TransformerModel, angles, transformer_classifier, transformer_lm, turn

SMALL = {"width": 32, "n_layers": 2, "n_heads": 4, "max_length": 16}


def language(vocab_size: int = 30) -> ModelContext:
    return ModelContext(inputs={"x": TokensBlock(vocab_size)}, targets={"y": NextTokenBlock(vocab_size)})


def model(**options: int) -> TransformerModel:
    torch.manual_seed(0)
    made = transformer_lm(language(), **{**SMALL, **options}).module  # type: ignore[arg-type]
    assert isinstance(made, TransformerModel)
    for parameter in made.parameters():
        parameter.data.mul_(4 if parameter.ndim > 1 else 1)
    return made.eval()


def tokens(*shape: int) -> Tensor:
    return torch.randint(2, 30, shape, generator=torch.Generator().manual_seed(0))


def test_the_norm_is_the_papers() -> None:
    x = torch.randn(3, 8) * 5
    norm = RMSNorm(8)
    norm.weight.data.uniform_(0.5, 2)
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight
    torch.testing.assert_close(norm(x), expected)


def test_turned_products_depend_on_the_distance_alone() -> None:
    q, k = torch.randn(16), torch.randn(16)

    def product(at: int, other: int) -> float:
        return float(turn(q, *angles(torch.tensor(at), 16)) @ turn(k, *angles(torch.tensor(other), 16)))

    assert product(3, 1) == pytest.approx(product(103, 101), rel=1e-4)
    assert product(3, 1) != pytest.approx(product(3, 2), rel=1e-2)
    assert float(turn(q, *angles(torch.tensor(77), 16)).norm()) == pytest.approx(float(q.norm()), rel=1e-5)


def test_attention_is_the_textbooks() -> None:
    """One layer, written out: a softmax over what came before."""
    made = model(n_layers=1)
    x = tokens(2, 6)
    layer = made.encoder.layers[0]
    vectors = made.encoder.embedding(x)
    cos, sin = angles(torch.arange(6), 8)
    q, k, v = layer.heads(vectors, cos, sin)
    scores = (q @ k.transpose(-1, -2) / math.sqrt(8)).masked_fill(torch.ones(6, 6).triu(1).bool(), float("-inf"))
    expected = made.encoder.norm(layer.finish(vectors, scores.softmax(-1) @ v)) @ made.encoder.embedding.weight.T
    torch.testing.assert_close(made(x), expected, rtol=1e-4, atol=1e-5)


def test_the_future_is_not_seen() -> None:
    made, x = model(), tokens(2, 9)
    other = x.clone()
    other[:, 5:] = 3
    torch.testing.assert_close(made(x)[:, :5], made(other)[:, :5])
    assert not torch.allclose(made(x)[:, 6], made(other)[:, 6])


@torch.no_grad()
def test_token_by_token_it_says_the_same() -> None:
    made, x = model(), tokens(3, 16)
    whole = made(x)
    logits, state = made.begin(x[:, :5])
    torch.testing.assert_close(logits, whole[:, 4], rtol=1e-4, atol=1e-5)
    for place in range(5, 16):
        logits, state = made.step(x[:, place], state)
        torch.testing.assert_close(logits, whole[:, place], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_beyond_its_length_it_sees_the_last_tokens() -> None:
    """With one layer a key depends on its token alone, so a ring holds exactly what a fresh window would."""
    made, x = model(n_layers=1), tokens(2, 40)
    _, state = made.begin(x[:, :10])
    for place in range(10, 40):
        logits, state = made.step(x[:, place], state)
        torch.testing.assert_close(logits, made(x[:, max(0, place - 15) : place + 1])[:, -1], rtol=1e-3, atol=1e-4)


def test_texts_that_are_too_long_are_said() -> None:
    with pytest.raises(DataError, match="17 tokens"):
        model()(tokens(1, 17))
    with pytest.raises(OptionError, match="even multiple"):
        transformer_lm(language(), width=30, n_heads=4)


def test_it_learns_and_every_parameter_takes_part() -> None:
    torch.manual_seed(0)
    parts = transformer_lm(language(), **SMALL)  # type: ignore[arg-type]
    assert list(parts.parameter_groups()) == ["layer1", "layer2", "words"]
    x = torch.arange(2, 18).repeat(8, 1)
    optimizer = torch.optim.AdamW(parts.module.parameters(), lr=1e-2)
    first = last = 0.0
    for number in range(30):
        loss = NextTokenLoss()(parts.module.train()(x[:, :-1]), x[:, 1:])
        loss.backward()
        assert all(p.grad is not None for p in parts.module.parameters())
        optimizer.step()
        optimizer.zero_grad()
        last = loss.item()
        first = first if number else last
    assert last < first / 4


def test_a_classifier_reads_long_texts_in_windows() -> None:
    ctx = ModelContext(inputs={"x": TokensBlock(30)}, targets={"y": ClassIndexBlock(("a", "b"))})
    parts = transformer_classifier(ctx, **SMALL)  # type: ignore[arg-type]
    assert list(parts.parameter_groups()) == ["words", "layer1", "layer2", "head"]
    made = parts.module.eval()
    x = tokens(2, 40)
    x[1, 20:] = 1
    torch.testing.assert_close(made(x)[1:], made(x[1:, :20]), rtol=1e-4, atol=1e-5)
