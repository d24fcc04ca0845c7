"""Continue texts token by token: drawn with a temperature, top-k and top-p, or searched for with beams."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

import numpy as np
import torch
from torch import Tensor

from graftwork.api import OptionError, unknown
from graftwork_text.language import LanguageModel, State, join, select
from graftwork_text.transforms import Numericalize, text_steps
from graftwork_text.vocab import BOS, EOS, FAKE

if TYPE_CHECKING:
    from graftwork import Predictor
    from graftwork.api import Learner

__all__ = ["Sampling", "beam_search", "choose", "continue_tokens", "generate"]

LOG: Final = logging.getLogger("graftwork")


def generate(
    source: Learner | Predictor,
    prompt: str | Sequence[str] = "",
    *,
    max_new_tokens: int = 50,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    beam: int = 1,
    seed: int = 42,
    stop: Sequence[str] = (BOS, EOS),
    no_unk: bool = True,
    only_new: bool = False,
) -> str | list[str]:
    """Return a text that goes on where a prompt ends, or for several prompts a list of them.

    More than one `beam` searches for the likeliest text, without chance; otherwise tokens are drawn, as `seed` decides.
    The text ends at one of the tokens in `stop`. With `no_unk` no unknown word is written. `only_new` leaves out the
    prompt.

    Raises:
        OptionError: the model is no language model, or an option that does not go with the others.
        UnknownName: a token of `stop` is not in the vocabulary.
    """
    from graftwork.api import Learner

    plan = source.data.plan if isinstance(source, Learner) else source.plan
    model = source.module
    if not isinstance(model, LanguageModel):
        raise OptionError(f"{type(model).__name__} is no language model; language_model_learner makes one")
    tokenize, lookup = text_steps(plan)
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    given = [list(tokenize.made.tokens(text)) or [BOS] for text in prompts]
    ids = _looked_up(given, lookup)
    ends, banned = _codes(stop, lookup), _never(lookup, no_unk=no_unk)
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    if beam == 1:
        found = continue_tokens(
            model, ids, max_new_tokens=max_new_tokens, sampling=sampling, seed=seed, stop=ends, forbidden=banned
        )
    elif sampling != Sampling():
        raise OptionError(f"beam={beam} searches without chance; leave out temperature, top_k and top_p, or use beam=1")
    else:
        found = [
            beam_search(model, row, max_new_tokens=max_new_tokens, beam=beam, stop=ends, forbidden=banned)
            for row in ids
        ]
    vocab, write = lookup.vocab or (), tokenize.made.text
    texts = []
    for text, words, new in zip(prompts, given, found, strict=True):
        before, whole = write(words), write([*words, *(vocab[i] for i in new)])
        added = whole.removeprefix(before)
        texts.append(added.strip() if only_new else text + added if whole.startswith(before) else whole)
    return texts[0] if isinstance(prompt, str) else texts


def _looked_up(given: Sequence[Sequence[str]], lookup: Numericalize) -> list[list[int]]:
    """Look prompts up; say how much of them is unknown."""
    codes = {word: i for i, word in enumerate(lookup.vocab or ())}
    ids = [[codes.get(word, lookup.unk_id) for word in words] for words in given]
    strange = sorted({word for words in given for word in words if word not in codes})
    if strange:
        LOG.warning(
            "%d tokens of the prompts are not in the vocabulary, so the model cannot tell them apart: %s",
            len(strange), ", ".join(map(repr, strange[:8])) + ", …" * (len(strange) > 8),
        )  # fmt: skip
    return ids


def _codes(words: Sequence[str], lookup: Numericalize) -> list[int]:
    codes = {word: i for i, word in enumerate(lookup.vocab or ())}
    for word in words:
        if word not in codes and word not in (BOS, EOS):
            raise unknown("token to stop at", word, codes)
    return [codes[word] for word in words if word in codes]


def _never(lookup: Numericalize, *, no_unk: bool) -> list[int]:
    """Return the tokens that stand for nothing a person writes."""
    fakes = [i for i, word in enumerate(lookup.vocab or ()) if word.startswith(FAKE)]
    return [lookup.pad_id, *fakes, *[lookup.unk_id] * no_unk]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Say how a next token is chosen.

    Logits are divided by `temperature` (0 takes the likeliest); then the `top_k` likeliest stay, and of those the
    fewest whose probabilities add up to `top_p`.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        """Refuse impossible numbers."""
        if not 0 <= self.temperature < float("inf"):
            raise OptionError(f"temperature={self.temperature} must be at least 0; 0 takes the likeliest token")
        if self.top_k is not None and self.top_k < 1:
            raise OptionError(f"top_k={self.top_k} must be at least 1, or None for all tokens")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise OptionError(f"top_p={self.top_p} must be above 0 and at most 1, or None for all tokens")


def choose(logits_BV: Tensor, numbers_B: Tensor, sampling: Sampling) -> Tensor:
    """Return one token a row; `numbers_B`, float64 from 0 up to 1, decide which, each for its row."""
    if sampling.temperature == 0:
        return logits_BV.argmax(1)
    scaled, ids = logits_BV.float() / sampling.temperature, None
    if sampling.top_k is not None and sampling.top_k < scaled.size(1):
        scaled, ids = scaled.topk(sampling.top_k)
    elif sampling.top_p is not None:
        scaled, ids = scaled.sort(descending=True)
    shares = scaled.softmax(1)
    if sampling.top_p is not None:
        if ids is None:
            shares, ids = shares.sort(descending=True)
        before = shares.cumsum(1) - shares
        shares = shares.masked_fill(before >= sampling.top_p, 0.0)
    ends = shares.double().cumsum(1)
    at = torch.searchsorted(ends, (numbers_B * ends[:, -1]).unsqueeze(1), right=True).clamp(max=ends.size(1) - 1)
    return (at if ids is None else ids.gather(1, at)).squeeze(1)


@torch.inference_mode()
def continue_tokens(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    seed: int = 42,
    stop: Sequence[int] = (),
    forbidden: Sequence[int] = (),
) -> list[list[int]]:
    """Return what follows each prompt, without it and without the token in `stop` that ended it.

    The i-th prompt's continuation is decided by `seed` and i; what other prompts there are does not matter.
    """
    sampling = sampling or Sampling()
    numbers = _numbers(seed, len(prompts), _checked(max_new_tokens))
    found: list[list[int]] = [[] for _ in prompts]
    with _ready(model):
        logits, state = _begin(model, prompts)
        rows, ends, banned = torch.arange(len(prompts)), set(stop), _banned(model, forbidden)
        for place in range(max_new_tokens):
            u = numbers[rows, place].to(logits.device)
            tokens = choose(logits if banned is None else logits.masked_fill(banned, float("-inf")), u, sampling)
            said = tokens.tolist()
            going = [i for i, token in enumerate(said) if token not in ends]
            for i in going:
                found[int(rows[i])].append(said[i])
            if not going or place == max_new_tokens - 1:
                break
            if len(going) < len(said):
                kept = torch.tensor(going)
                rows, tokens, state = rows[kept], tokens[kept.to(tokens.device)], select(state, kept)
            logits, state = model.step(tokens, state)
    return found


@torch.inference_mode()
def beam_search(
    model: LanguageModel,
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    beam: int,
    stop: Sequence[int] = (),
    forbidden: Sequence[int] = (),
    length_penalty: float = 1.0,
) -> list[int]:
    """Return the likeliest continuation that `beam` beams find; no chance is involved.

    A continuation's score is its log-probability divided by its length to the power of `length_penalty`; a token of
    `stop` ends it and counts.
    """
    if beam < 1:
        raise OptionError(f"beam={beam} must be at least 1")
    ended: list[tuple[float, list[int]]] = []
    with _ready(model):
        logits, state = _begin(model, [prompt])
        ends, banned = set(stop), _banned(model, forbidden)
        scores = torch.zeros(1, dtype=torch.float64, device=logits.device)
        said: list[list[int]] = [[]]
        for length in range(1, _checked(max_new_tokens) + 1):
            shares = logits.float().log_softmax(1).double()
            shares = shares if banned is None else shares.masked_fill(banned, float("-inf"))
            totals = (scores[:, None] + shares).flatten()
            best = totals.topk(min((len(ends) + 1) * beam, totals.numel()))
            found = [divmod(at, shares.size(1)) for at in best.indices.tolist()]
            going: list[tuple[int, int, float]] = []
            for (row, token), total in zip(found, best.values.tolist(), strict=True):
                if token in ends:
                    ended.append((total / length**length_penalty, said[row]))
                elif len(going) < beam and total > float("-inf"):
                    going.append((row, token, total))
            ended = sorted(ended, key=lambda one: -one[0])[:beam]
            said = [[*said[row], token] for row, token, _ in going]
            if (
                not going
                or length == max_new_tokens
                or _settled(ended, going[0][2], beam, max_new_tokens, length_penalty)
            ):
                break
            rows = torch.tensor([row for row, _, _ in going])
            scores = scores.new_tensor([total for _, _, total in going])
            tokens = torch.tensor([token for _, token, _ in going], device=logits.device)
            logits, state = model.step(tokens, select(state, rows))
    ended += [(total / length**length_penalty, words) for (_, _, total), words in zip(going, said, strict=True)]
    return max(ended, key=lambda one: one[0])[1]


def _settled(ended: list[tuple[float, list[int]]], best: float, beam: int, longest: int, penalty: float) -> bool:
    """Say whether no beam can still overtake what has ended: probabilities only fall, lengths go on to the longest."""
    return len(ended) == beam and best / longest**penalty <= ended[-1][0]


def _checked(max_new_tokens: int) -> int:
    if max_new_tokens < 1:
        raise OptionError(f"max_new_tokens={max_new_tokens} must be at least 1")
    return max_new_tokens


def _numbers(seed: int, rows: int, count: int) -> Tensor:
    if seed < 0:
        raise OptionError(f"seed={seed} must not be negative")
    drawn = [np.random.default_rng([seed, row]).random(count) for row in range(rows)]
    return torch.from_numpy(np.stack(drawn)) if drawn else torch.zeros(0, count, dtype=torch.float64)


def _banned(model: LanguageModel, forbidden: Sequence[int]) -> Tensor | None:
    if not forbidden:
        return None
    device = model.encoder.embedding.weight.device
    banned = torch.zeros(model.vocab_size, dtype=torch.bool, device=device)
    banned[list(forbidden)] = True
    if bool(banned.all()):
        raise OptionError("every token is forbidden, so there is nothing to continue with")
    return banned


@contextmanager
def _ready(model: LanguageModel) -> Iterator[None]:
    """Put a model into evaluation mode for a while; afterwards each part is in the mode it was."""
    training = [part for part in model.modules() if part.training]
    model.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _begin(model: LanguageModel, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, State]:
    """Read prompts, those of one length together."""
    if not prompts or not all(prompts):
        raise OptionError("a prompt needs at least one token; begin with xxbos to have nothing given")
    device, context = model.encoder.embedding.weight.device, model.context
    cut = sum(context is not None and len(prompt) > context for prompt in prompts)
    if cut:
        LOG.warning("%d of %d prompts are longer than the %s tokens the model sees; only their ends are read",
                    cut, len(prompts), context)  # fmt: skip
    by_length: dict[int, list[int]] = {}
    for i, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(i)
    read = [model.begin(torch.tensor([list(prompts[i]) for i in rows], device=device)) for rows in by_length.values()]
    order = torch.tensor([i for rows in by_length.values() for i in rows]).argsort()
    logits = torch.cat([logits for logits, _ in read])[order.to(device)]
    return logits, select(join([state for _, state in read]), order)
