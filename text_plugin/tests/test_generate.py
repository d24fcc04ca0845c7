"""Generation: how tokens are chosen, and that neither cache nor company changes a text."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.api import ModelContext, OptionError
from graftwork_text.awd_lstm import awd_lstm_lm
from graftwork_text.blocks import NextTokenBlock, TokensBlock
from graftwork_text.generation import Sampling, beam_search, choose, continue_tokens
from graftwork_text.language import LanguageModel
from graftwork_text.transformer import transformer_lm


def make(kind: str, vocab_size: int = 12) -> LanguageModel:
    torch.manual_seed(1)
    ctx = ModelContext(inputs={"x": TokensBlock(vocab_size)}, targets={"y": NextTokenBlock(vocab_size)})
    if kind == "lstm":
        module = awd_lstm_lm(ctx, emb_sz=8, n_hid=16, n_layers=2).module
    else:
        module = transformer_lm(ctx, width=16, n_layers=2, n_heads=2, max_length=24).module
    assert isinstance(module, LanguageModel)
    for parameter in module.parameters():
        parameter.data.mul_(6 if parameter.ndim > 1 else 1)
    return module


KINDS = pytest.mark.parametrize("kind", ["lstm", "transformer"])
PROMPTS = [[3], [4, 5, 6], [7, 8], [2, 2, 2]]


@torch.no_grad()
def slowly(model: LanguageModel, prompt: list[int], count: int) -> list[int]:
    """Take the likeliest token, reading everything again each time."""
    said = list(prompt)
    for _ in range(count):
        said.append(int(model.eval()(torch.tensor([said]))[0, -1].argmax()))
    return said[len(prompt) :]


@KINDS
def test_the_likeliest_tokens_are_those_of_reading_all_again(kind: str) -> None:
    model = make(kind)
    found = continue_tokens(model, PROMPTS, max_new_tokens=15, sampling=Sampling(temperature=0))
    assert found == [slowly(model, prompt, 15) for prompt in PROMPTS]


@KINDS
def test_a_text_depends_on_its_prompt_its_place_and_the_seed(kind: str) -> None:
    model = make(kind)
    sampling = Sampling(temperature=1.5, top_p=0.9)
    together = continue_tokens(model, PROMPTS, max_new_tokens=20, sampling=sampling, seed=3)
    assert together == continue_tokens(model, PROMPTS, max_new_tokens=20, sampling=sampling, seed=3)
    assert together[:2] == continue_tokens(model, PROMPTS[:2], max_new_tokens=20, sampling=sampling, seed=3)
    assert together != continue_tokens(model, PROMPTS, max_new_tokens=20, sampling=sampling, seed=4)
    before = torch.get_rng_state()
    continue_tokens(model.train(), PROMPTS, max_new_tokens=3)
    assert torch.equal(before, torch.get_rng_state())
    assert all(part.training for part in model.modules())


@KINDS
def test_a_stop_token_ends_its_own_text_only(kind: str) -> None:
    model = make(kind)
    free = continue_tokens(model, PROMPTS, max_new_tokens=20, seed=5)
    stop = free[1][4]
    found = continue_tokens(model, PROMPTS, max_new_tokens=20, seed=5, stop=[stop])
    assert found == [text[: text.index(stop)] if stop in text else text for text in free]


@KINDS
def test_forbidden_tokens_never_come(kind: str) -> None:
    model = make(kind)
    found = continue_tokens(model, PROMPTS, max_new_tokens=20, forbidden=range(6))
    assert {token for text in found for token in text} <= set(range(6, 12))
    with pytest.raises(OptionError, match="every token"):
        continue_tokens(model, PROMPTS, max_new_tokens=2, forbidden=range(12))


LOGITS = st.lists(st.floats(-6, 6), min_size=2, max_size=9)


@settings(deadline=None, max_examples=60)
@given(LOGITS, st.integers(1, 9), st.floats(0.05, 1.0), st.sampled_from([0.3, 1.0, 2.0]))
def test_only_what_top_k_and_top_p_leave_is_drawn(
    logits: list[float], top_k: int, top_p: float, temperature: float
) -> None:
    row = torch.tensor([logits])
    numbers = torch.linspace(0, 1 - 1e-9, 200, dtype=torch.float64)
    drawn = choose(row.expand(200, -1), numbers, Sampling(temperature=temperature, top_k=top_k, top_p=top_p))
    shares = (row[0].double() / temperature).softmax(0)
    kept = sorted(range(len(logits)), key=lambda i: -float(shares[i]))[:top_k]
    total, allowed = sum(float(shares[i]) for i in kept), set()
    gathered = 0.0
    for i in kept:
        if gathered / total >= top_p + 1e-5:
            break
        allowed.add(round(float(shares[i]), 5))
        gathered += float(shares[i])
    assert {round(float(shares[int(i)]), 5) for i in drawn} <= allowed


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    row = torch.tensor([[0.0, 1.0, 2.0, -1.0]])
    numbers = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    for sampling in (
        Sampling(temperature=0.7),
        Sampling(temperature=0.7, top_k=3),
        Sampling(temperature=0.7, top_p=0.95),
    ):
        drawn = torch.bincount(choose(row.expand(10_000, -1), numbers, sampling), minlength=4) / 10_000
        shares = (row[0] / 0.7).softmax(0)
        if sampling != Sampling(temperature=0.7):
            shares[3] = 0
            shares[0] = shares[0] if sampling.top_k else (0 if float(shares[1:].sum()) >= 0.95 else shares[0])
            shares /= shares.sum()
        torch.testing.assert_close(drawn, shares, atol=2e-3, rtol=0)


@torch.no_grad()
def total(model: LanguageModel, prompt: list[int], text: tuple[int, ...], end: int) -> float:
    said = [*prompt, *text]
    shares = model.eval()(torch.tensor([said]))[0].log_softmax(-1)
    return sum(float(shares[len(prompt) - 1 + i, token]) for i, token in enumerate(text)) + 0 * end


@KINDS
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_enough_beams_find_the_likeliest_text_of_all(kind: str, penalty: float) -> None:
    model, end, longest = make(kind, 6), 5, 4
    texts = [
        text
        for length in range(1, longest + 1)
        for text in itertools.product(range(6), repeat=length)
        if end not in text[:-1] and (text[-1] == end or length == longest)
    ]
    scored = {text: total(model, [3, 4], text, end) / len(text) ** penalty for text in texts}
    best = max(scored, key=lambda text: scored[text])
    found = beam_search(model, [3, 4], max_new_tokens=longest, beam=6**4, stop=[end], length_penalty=penalty)
    assert found == [token for token in best if token != end]


@KINDS
def test_one_beam_takes_the_likeliest_token(kind: str) -> None:
    model = make(kind)
    assert beam_search(model, [4, 5], max_new_tokens=10, beam=1) == slowly(model, [4, 5], 10)
    greedy, wide = (
        total(model, [4, 5], tuple(beam_search(model, [4, 5], max_new_tokens=8, beam=beam)), 0) for beam in (1, 8)
    )
    assert wide >= greedy - 1e-5


def test_prompts_longer_than_the_model_sees_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    model = make("transformer")
    long = [2 + i % 9 for i in range(40)]
    with caplog.at_level(logging.WARNING, logger="graftwork"):
        found = continue_tokens(model, [long, [3]], max_new_tokens=4)
    assert "1 of 2 prompts are longer than the 24 tokens" in caplog.text
    assert found[0] == continue_tokens(model, [long[-24:]], max_new_tokens=4)[0]


@pytest.mark.parametrize(
    "options", [{"temperature": -1.0}, {"temperature": float("inf")}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}]
)
def test_impossible_numbers_are_said(options: dict[str, float]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        Sampling(**options)  # type: ignore[arg-type]


def test_impossible_calls_are_said() -> None:
    model = make("lstm")
    for options, said in (({"max_new_tokens": 0}, "max_new_tokens=0"), ({"max_new_tokens": 2, "seed": -1}, "seed=-1")):
        with pytest.raises(OptionError, match=said):
            continue_tokens(model, [[3]], **options)
    with pytest.raises(OptionError, match="at least one token"):
        continue_tokens(model, [[]], max_new_tokens=2)
    with pytest.raises(OptionError, match="beam=0"):
        beam_search(model, [3], max_new_tokens=2, beam=0)


def test_no_public_name_is_that_of_a_module() -> None:
    """`from graftwork_text import NAME` would give the module, once somebody has imported it."""
    import graftwork_text

    assert not {path.stem for path in Path(graftwork_text.__file__).parent.glob("*.py")} & set(graftwork_text.__all__)
