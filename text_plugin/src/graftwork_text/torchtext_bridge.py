"""torchtext's tokenizers and vocabularies in a TextBlock, and ours as theirs. It needs graftwork-text[torchtext]."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final, final

from graftwork.api import DataError, OptionError, Plan
from graftwork_text.blocks import TextBlock
from graftwork_text.tokenizers import Span, Tokenizer, as_tokenizer
from graftwork_text.transforms import text_steps

if TYPE_CHECKING:
    from torchtext.vocab import Vocab

__all__ = ["TorchtextTokenizer", "text_block", "to_torchtext_tokenizer", "to_torchtext_vocab", "vocab_words"]

TOKENIZERS: Final = ("basic_english", "toktok", "revtok", "subword", "spacy", "moses")


def _import() -> None:
    """Import torchtext without its farewell; raise ImportError, in one line, where it cannot work."""
    try:
        found, torch = version("torchtext"), version("torch")
    except PackageNotFoundError:
        found, torch = "", version("torch")
    if not found or not torch.startswith("2.3."):
        raise ImportError(
            f"torchtext {found or 'is not installed; its last release'} {'' if found else '0.18 '}works with torch 2.3 "
            f"only, and this is torch {torch}; make an environment with: pip install 'graftwork-text[torchtext]'"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torchtext.data.utils
        import torchtext.vocab  # noqa: F401


_import()


@final
class TorchtextTokenizer(Tokenizer):
    """Cut as `torchtext.data.utils.get_tokenizer(name)` does; `TextBlock(tokenizer=TorchtextTokenizer())`."""

    kind = "torchtext"

    def __init__(self, name: str = "basic_english", *, language: str = "en") -> None:
        """Raise OptionError for a tokenizer torchtext does not have, or whose own package is missing."""
        from torchtext.data.utils import get_tokenizer

        self.name, self.language = name, language
        try:
            self._cut: Callable[[str], Sequence[str]] = get_tokenizer(name, language)
        except (ImportError, LookupError, OSError, ValueError) as error:
            raise OptionError(f"torchtext's tokenizer {name!r} is one of {TOKENIZERS}: {error}") from error

    def tokens(self, text: str) -> tuple[str, ...]:
        """Return torchtext's tokens."""
        return tuple(self._cut(text))

    def spans(self, text: str) -> list[Span]:
        """Return where each token stands; empty for one that is spelled otherwise in the text."""
        lowered, at, found = text.lower(), 0, []
        if len(lowered) != len(text):
            lowered = text
        for token in self.tokens(text):
            start = lowered.find(token.lower(), at)
            found.append((at, at) if start < 0 else (start, start + len(token)))
            at = found[-1][1]
        return found

    def text(self, tokens: Sequence[str]) -> str:
        """Put spaces in between; torchtext keeps none."""
        return " ".join(tokens)

    def config(self) -> dict[str, Any]:
        """Return the options."""
        return {"name": self.name, "language": self.language}


def vocab_words(vocab: Vocab, *, unk: str = "<unk>", pad: str = "<pad>") -> tuple[str, ...]:
    """Return a Vocab's words by their ids; `unk` and `pad` come behind where it has none."""
    words = vocab.get_itos()
    default = vocab.get_default_index()
    if unk in words and default is not None and words[default] != unk:
        raise DataError(
            f"the Vocab takes unknown words for {words[default]!r} and has {unk!r} too; pass unk={words[default]!r}"
        )
    return (*words, *(word for word in (unk, pad) if word not in words))


def text_block(
    vocab: Vocab,
    *,
    tokenizer: str | Tokenizer = "basic_english",
    unk: str | None = None,
    pad: str = "<pad>",
    max_length: int | None = None,
) -> TextBlock:
    """Return a TextBlock whose ids are a Vocab's; `tokenizer` is torchtext's name of one, or one of ours.

    Unknown words are the Vocab's default index, or `unk` if it has none.
    """
    default = vocab.get_default_index()
    unk = unk or ("<unk>" if default is None else vocab.lookup_token(default))
    made = TorchtextTokenizer(tokenizer) if isinstance(tokenizer, str) else tokenizer
    words = vocab_words(vocab, unk=unk, pad=pad)
    return TextBlock(tokenizer=made.to_json(), vocab=words, unk=unk, pad=pad, max_length=max_length)


def to_torchtext_vocab(source: Plan | Sequence[str], *, unk: str | None = None) -> Vocab:
    """Return the vocabulary of a plan's text, or a list of words, as a Vocab of the same ids."""
    from torchtext.vocab import vocab

    if isinstance(source, Plan):
        _, lookup = text_steps(source)
        words, unk = lookup.vocab or (), unk or lookup.unk
    else:
        words = tuple(source)
    if len(set(words)) != len(words):
        raise DataError("the vocabulary lists a word twice")
    made: Vocab = vocab(OrderedDict.fromkeys(words, 1))
    if unk is not None:
        made.set_default_index(words.index(unk))
    return made


def to_torchtext_tokenizer(source: Plan | Tokenizer | str) -> Callable[[str], list[str]]:
    """Return a tokenizer as torchtext wants one: a function from a text to a list of tokens."""
    made = text_steps(source)[0].made if isinstance(source, Plan) else as_tokenizer(source)

    def cut(text: str) -> list[str]:
        return list(made.tokens(text))

    return cut
