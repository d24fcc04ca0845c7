"""AWD-LSTM and the classifier's head, apart from any data."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from graftwork.api import ClassIndexBlock, ModelContext, OptionError, PlanError
from graftwork_text.awd_lstm import AWD_LSTM, AWDLSTMModel, awd_lstm_classifier, awd_lstm_lm, same_for_all_tokens
from graftwork_text.blocks import NextTokenBlock, TokensBlock
from graftwork_text.heads import ChunkedClassifier, Scored, text_lengths, with_penalty
from graftwork_text.metrics import NextTokenLoss
from graftwork_text.regularize import ActivationPenalty, Trained

PAD = 1
SMALL = {"emb_sz": 12, "n_hid": 20, "n_layers": 3}


def language(vocab_size: int = 30) -> ModelContext:
    return ModelContext(inputs={"x": TokensBlock(vocab_size)}, targets={"y": NextTokenBlock(vocab_size)})


def classes(vocab_size: int = 30, count: int = 3) -> ModelContext:
    return ModelContext(
        inputs={"x": TokensBlock(vocab_size)}, targets={"y": ClassIndexBlock(tuple(map(str, range(count))))}
    )


def tokens(*shape: int, vocab_size: int = 30) -> Tensor:
    return torch.randint(2, vocab_size, shape, generator=torch.Generator().manual_seed(0))


def test_it_has_as_many_parameters_as_fastais() -> None:
    with torch.device("meta"):
        parts = awd_lstm_lm(language(60_008))
    assert sum(p.numel() for p in parts.module.parameters()) == 44_336_488
    assert list(parts.parameter_groups()) == ["rnn1", "rnn2", "rnn3", "words"]


def plain_stack(model: AWDLSTMModel) -> nn.ModuleList:
    """Return torch's own LSTMs with the same weights."""
    stack = nn.ModuleList()
    for layer in model.encoder.layers:
        own = nn.LSTM(layer.weight_ih.size(1), layer.width, batch_first=True)
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        own.load_state_dict({f"{name}_l0": getattr(layer, name).detach() for name in names})
        stack.append(own)
    return stack


@pytest.mark.parametrize("tied", [True, False])
def test_without_dropout_it_is_a_stack_of_torchs_lstms(tied: bool) -> None:
    torch.manual_seed(0)
    model = awd_lstm_lm(language(), tied=tied, drop_mult=0.0, **SMALL).module
    assert isinstance(model, AWDLSTMModel)
    x = tokens(4, 9)
    out = model.encoder.embedding(x)
    for own in plain_stack(model):
        out, _ = own(out)
    words = model.encoder.embedding.weight if tied else model.decoder.weight
    expected = out @ words.T + model.decoder.bias
    for mode in (True, False):
        raw = model.train(mode)(x)
        logits = raw.logits if isinstance(raw, Trained) else raw
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    assert isinstance(model.train()(x), Trained)


def test_every_parameter_gets_a_gradient() -> None:
    torch.manual_seed(0)
    for tied in (True, False):
        parts = awd_lstm_lm(language(), tied=tied, **SMALL)
        assert parts.train_loss is not None
        x = tokens(4, 9)
        parts.train_loss(NextTokenLoss(), parts.module.train()(x), x.roll(-1, 1)).backward()
        assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in parts.module.parameters())


def test_a_state_goes_on_where_it_was_left() -> None:
    model = awd_lstm_lm(language(), **SMALL).module.eval()
    x = tokens(2, 10)
    first = model(x[:, :4])
    model.hand_over(model.hand_back())
    second = model(x[:, 4:])
    torch.testing.assert_close(torch.cat([first, second], 1), model(x))
    torch.testing.assert_close(model(x), model(x), rtol=0, atol=0)


def test_a_state_of_other_rows_is_not_taken() -> None:
    model = awd_lstm_lm(language(), **SMALL).module.eval()
    model(tokens(3, 4))
    model.hand_over(model.hand_back())
    torch.testing.assert_close(model(tokens(2, 5)), model(tokens(2, 5)), rtol=0, atol=0)


def test_dropout_is_the_same_at_all_tokens_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    dropped = same_for_all_tokens(torch.ones(400, 5, 50), 0.4, True)
    assert bool((dropped == dropped[:, :1]).all())
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.6])
    assert float(dropped.mean()) == pytest.approx(1, abs=0.03)


def test_a_dropped_word_is_dropped_at_all_its_places() -> None:
    torch.manual_seed(0)
    encoder = AWD_LSTM(30, PAD, **SMALL, hidden_p=0, input_p=0, embed_p=0.5, weight_p=0)
    seen: list[Tensor] = []
    read = encoder.from_vectors
    encoder.from_vectors = lambda vectors, state=(): (seen.append(vectors), read(vectors, state))[1]  # type: ignore[method-assign]
    x = torch.tensor([[5, 6, 5, 7, 6, 5], [7, 5, 6, 6, 8, 9]])
    encoder.train()(x)
    gone = {(int(t), bool((v == 0).all())) for t, v in zip(x.flatten(), seen[0].flatten(0, 1), strict=True)}
    assert len(gone) == len({word for word, _ in gone}) == 5
    assert {dropped for _, dropped in gone} == {True, False}


def test_penalties_are_what_the_papers_say() -> None:
    features, dropped = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    cost = ActivationPenalty(alpha=2.0, beta=3.0).of(features, dropped)
    change = features[:, 1:] - features[:, :-1]
    torch.testing.assert_close(cost, 2 * (dropped**2).mean() + 3 * (change**2).mean())
    plain = ActivationPenalty(alpha=0, beta=0)
    assert not plain
    logits = torch.randn(2, 3, 9)
    target = torch.randint(0, 9, (2, 3))
    bare = NextTokenLoss()(logits, target)
    assert plain(NextTokenLoss(), Trained(logits, features, dropped), target) == bare
    assert ActivationPenalty()(NextTokenLoss(), logits, target) == bare
    torch.testing.assert_close(ActivationPenalty(alpha=1, beta=0).of(features[:, :1], dropped), (dropped**2).mean())


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(1, 23), min_size=1, max_size=5), st.integers(1, 8))
def test_chunks_and_padding_change_nothing(lengths: list[int], seq_len: int) -> None:
    torch.manual_seed(0)
    model = awd_lstm_classifier(classes(), **SMALL, seq_len=seq_len, max_len=40).module.eval()
    whole = awd_lstm_classifier(classes(), **SMALL, seq_len=40, max_len=40).module.eval()
    whole.load_state_dict(model.state_dict())
    x = tokens(len(lengths), max(lengths))
    for row, length in zip(x, lengths, strict=True):
        row[length:] = PAD
    assert text_lengths(x, PAD).tolist() == lengths
    together = model(x)
    alone = torch.cat([whole(row[None, :length]) for row, length in zip(x, lengths, strict=True)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_pooling_is_last_largest_and_mean() -> None:
    model = awd_lstm_classifier(classes(), **SMALL, seq_len=4, max_len=8).module.eval()
    assert isinstance(model, ChunkedClassifier)
    x = tokens(1, 7)
    features, _ = model.encoder(x)
    pooled = torch.cat([features[:, -1], features.amax(1), features.mean(1)], 1)
    torch.testing.assert_close(model(x), model.head(pooled), rtol=1e-4, atol=1e-5)


def test_gradients_reach_the_last_chunks_only() -> None:
    model = awd_lstm_classifier(classes(), **SMALL, drop_mult=0, seq_len=5, max_len=10).module.eval()
    assert isinstance(model, ChunkedClassifier)
    x = torch.arange(5, 25).repeat(2, 1)
    model(x).sum().backward()
    words = model.encoder.embedding.weight
    assert words.grad is not None
    assert (words.grad[5:25].abs().sum(1) > 0).tolist() == [False] * 10 + [True] * 10
    vectors = model.encoder.embedding(x).detach().requires_grad_()
    model.from_vectors(vectors, torch.tensor([20, 20])).sum().backward()
    assert vectors.grad is not None
    assert bool((vectors.grad.abs().sum((0, 2)) > 0).all())


def test_a_text_of_padding_is_one_token() -> None:
    model = awd_lstm_classifier(classes(), **SMALL).module.eval()
    assert bool(model(torch.full((2, 6), PAD)).isfinite().all())


def test_a_classifier_learns_with_its_penalty() -> None:
    torch.manual_seed(0)
    parts = awd_lstm_classifier(classes(), **SMALL)
    raw = parts.module.train()(tokens(4, 9))
    assert isinstance(raw, Scored)
    assert parts.train_loss is with_penalty
    loss = with_penalty(nn.CrossEntropyLoss(), raw, torch.tensor([0, 1, 2, 0]))
    assert bool(loss > nn.CrossEntropyLoss()(raw.logits, torch.tensor([0, 1, 2, 0])))
    loss.backward()
    assert all(p.grad is not None for p in parts.module.parameters())
    assert list(parts.parameter_groups()) == ["words", "rnn1", "rnn2", "rnn3", "head"]
    assert isinstance(awd_lstm_classifier(classes(), **SMALL, alpha=0, beta=0).module.train()(tokens(4, 9)), Tensor)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n_layers": 0}, "n_layers=0"),
        ({"hidden_p": 1.0}, "hidden_p=1"),
        ({"output_p": 0.5, "drop_mult": 3.0}, "is no share"),
        ({"alpha": -1.0}, "alpha=-1"),
    ],
)
def test_impossible_options_are_said(options: dict[str, float], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        awd_lstm_lm(language(), **options)  # type: ignore[arg-type]


def test_other_data_is_refused() -> None:
    with pytest.raises(PlanError, match="next token"):
        awd_lstm_lm(classes())
    with pytest.raises(PlanError, match="token ids"):
        awd_lstm_classifier(ModelContext(inputs={}, targets=classes().targets))
    other = ModelContext(inputs={"x": TokensBlock(30)}, targets={"y": NextTokenBlock(31)})
    with pytest.raises(PlanError, match="must be the same"):
        awd_lstm_lm(other)
    with pytest.raises(OptionError, match="seq_len=9"):
        awd_lstm_classifier(classes(), seq_len=9, max_len=5)
