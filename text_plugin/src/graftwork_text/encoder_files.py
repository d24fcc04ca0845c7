"""Encoder files: what a language model has learned of words and their order, for another model of other words."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

import torch
from torch import Tensor, nn

from graftwork.api import ArtifactError, OptionError
from graftwork_text.awd_lstm import AWDLSTMModel
from graftwork_text.heads import ChunkedClassifier
from graftwork_text.language import Encoder, LanguageModel
from graftwork_text.transforms import text_steps

if TYPE_CHECKING:
    from graftwork.api import Learner

__all__ = ["Loaded", "load_encoder", "match_words", "save_encoder"]

LOG: Final = logging.getLogger("graftwork")
FORMAT: Final = "graftwork-text-encoder"
VERSION: Final = 1
WORDS: Final = "encoder.embedding.weight"
OF_WORDS: Final = (WORDS, "decoder.bias", "decoder.weight")
"""Tensors with a row a word."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Say what an encoder file gave: words found in it, and words that got the mean of all its vectors."""

    found: int
    missing: int
    tensors: int

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.tensors} tensors; {self.found} of {self.found + self.missing} words were known"


def _encoder(module: nn.Module) -> Encoder:
    if isinstance(module, LanguageModel | ChunkedClassifier):
        return module.encoder
    raise OptionError(
        f"{type(module).__name__} has no encoder to save or load; language models have one, and classifiers on top of "
        "one: text/awd-lstm-classifier, text/transformer-classifier"
    )


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return an encoder's tensors, and what tells words where there is something, by name; none of them copied."""
    state = {f"encoder.{name}": value for name, value in _encoder(module).state_dict().items()}
    if isinstance(module, AWDLSTMModel):
        state |= {f"decoder.{name}": value for name, value in module.decoder.state_dict().items()}
    return state


def save_encoder(learn: Learner, path: str | Path) -> Path:
    """Write a learner's encoder with its words and its tokenizer, as safetensors; return the file's path."""
    from safetensors.torch import save

    tokenize, numericalize = text_steps(learn.data.plan)
    # In one piece: the format's own table of remarks comes in any order.
    about = {
        "version": VERSION,
        "kind": type(_encoder(learn.module)).__name__,
        "tokenizer": tokenize.tokenizer,
        "vocab": numericalize.vocab,
    }
    tensors = {name: value.detach().cpu().contiguous() for name, value in _tensors(learn.module).items()}
    path = Path(path)
    path = path if path.suffix else path.with_suffix(".safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    beside.write_bytes(save(tensors, metadata={FORMAT: json.dumps(about, ensure_ascii=False)}))
    beside.replace(path)
    return path


def load_encoder(learn: Learner, path: str | Path) -> Loaded:
    """Copy an encoder file's weights into a learner's model, words by their names; what it found is also logged.

    A word that the file does not have gets the mean of its vectors (as fastai's match_embeds); so does a language
    model's own bias of a word.

    Raises:
        ArtifactError: no such file, a damaged one, or the encoder of another architecture, with what differs.
    """
    path = Path(path)
    about, found = _read(path)
    tokenize, numericalize = text_steps(learn.data.plan)
    own = _tensors(learn.module)
    _check_fits(path, about, found, own, type(_encoder(learn.module)).__name__)
    if about.get("tokenizer") != tokenize.tokenizer:
        LOG.warning("%s was made with another tokenizer; only tokens that are spelled the same are found", path)
    rows = match_words(about["vocab"], numericalize.vocab or ())
    with torch.no_grad():
        for name, value in own.items():
            if name in found:
                value.copy_(_by_word(found[name], rows) if name in OF_WORDS else found[name])
    known = sum(row >= 0 for row in rows)
    loaded = Loaded(found=known, missing=len(rows) - known, tensors=sum(name in found for name in own))
    LOG.info("%s: %s", path, loaded)
    if known * 2 < len(rows):
        LOG.warning("%s knows only %d of %d words; is it of another language or tokenizer?", path, known, len(rows))
    return loaded


def match_words(old: Sequence[str], new: Sequence[str]) -> list[int]:
    """Return the old place of each new word, or -1."""
    places = {word: place for place, word in enumerate(old)}
    return [places.get(word, -1) for word in new]


def _by_word(values: Tensor, rows: Sequence[int]) -> Tensor:
    at = torch.tensor(rows)
    mean = values.float().mean(0).to(values.dtype)
    known = (at >= 0).view(-1, *[1] * (values.ndim - 1))
    return torch.where(known, values[at.clamp(min=0)], mean)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what a file says of itself, and its tensors."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get(FORMAT, "{}"))
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except FileNotFoundError:
        raise ArtifactError(f"there is no encoder file {path}; save_encoder(learn, path) writes one") from None
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path} is no encoder file, or a damaged one: {error}") from error
    if not about:
        raise ArtifactError(f"{path} holds tensors, but no encoder that save_encoder has written")
    if about["version"] > VERSION:
        raise ArtifactError(f"{path} is of version {about['version']}, and this graftwork-text reads up to {VERSION}")
    return about, tensors


def _check_fits(
    path: Path, about: Mapping[str, Any], found: Mapping[str, Tensor], own: Mapping[str, Tensor], kind: str
) -> None:
    wrong = [f"it is of {about['kind']}, and the model's is {kind}"] * (about["kind"] != kind)
    if not wrong:
        words = len(about["vocab"])
        for name in sorted({*found, *own}):
            if not name.startswith("encoder."):
                continue
            theirs, mine = found.get(name), own.get(name)
            if theirs is None or mine is None:
                wrong.append(f"{'the file' if theirs is None else 'the model'} has no {name!r}")
            elif theirs.shape[name in OF_WORDS :] != mine.shape[name in OF_WORDS :]:
                wrong.append(f"{name!r} is {tuple(theirs.shape)} in the file and {tuple(mine.shape)} in the model")
        if found[WORDS].size(0) != words:
            wrong.append(f"it has {found[WORDS].size(0)} vectors for {words} words")
    if wrong:
        raise ArtifactError(
            f"{path} does not fit: {'; '.join(wrong[:5])}; build the model with the options the encoder was built with"
        )
