"""Text for graftwork. Every name is imported on first use."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

__all__ = [
    "AWD_LSTM",
    "Attribution",
    "Bag",
    "BucketLoader",
    "NGram",
    "NextTextBlock",
    "NextToken",
    "NextTokenBlock",
    "NextTokenLoss",
    "Numericalize",
    "Packed",
    "PatternTokenizer",
    "StreamLoader",
    "SubwordTokenizer",
    "TextBlock",
    "TextClassification",
    "TextDataLoaders",
    "TfIdf",
    "TokenCache",
    "Tokenize",
    "Tokenizer",
    "TokensBlock",
    "WordTokenizer",
    "WordsBlock",
    "as_tokenizer",
    "attribute",
    "bits_per_byte",
    "fit_ulmfit",
    "from_file",
    "generate",
    "language_model_learner",
    "load_encoder",
    "make_vocab",
    "perplexity",
    "read_texts",
    "read_torchtext",
    "save_encoder",
    "text_classifier_learner",
    "text_steps",
    "token_accuracy",
    "tokenize_stream",
    "top_losses",
]

if TYPE_CHECKING:
    from graftwork_text.attribution import Attribution, attribute
    from graftwork_text.awd_lstm import AWD_LSTM
    from graftwork_text.bag import Bag
    from graftwork_text.baselines import NGram, TfIdf
    from graftwork_text.blocks import NextTextBlock, NextTokenBlock, TextBlock, TokensBlock, WordsBlock
    from graftwork_text.bulk import Packed
    from graftwork_text.cache import TokenCache, tokenize_stream
    from graftwork_text.data import TextDataLoaders
    from graftwork_text.encoder_files import load_encoder, save_encoder
    from graftwork_text.generation import generate
    from graftwork_text.learner import fit_ulmfit, language_model_learner, text_classifier_learner
    from graftwork_text.loaders import BucketLoader
    from graftwork_text.metrics import NextTokenLoss, bits_per_byte, perplexity, token_accuracy
    from graftwork_text.pictures import top_losses
    from graftwork_text.reading import read_texts
    from graftwork_text.streams import StreamLoader
    from graftwork_text.subwords import PatternTokenizer, SubwordTokenizer, from_file
    from graftwork_text.tasks import TextClassification
    from graftwork_text.tokenizers import Tokenizer, WordTokenizer, as_tokenizer
    from graftwork_text.torchtext_files import read_torchtext
    from graftwork_text.transforms import NextToken, Numericalize, Tokenize, text_steps
    from graftwork_text.vocab import make_vocab

_HOMES: Final = {
    # Data, the default classifier, what it must beat.
    "bag": "Bag",
    "baselines": "NGram TfIdf",
    "bulk": "Packed",
    "cache": "TokenCache tokenize_stream",
    "data": "TextDataLoaders",
    "loaders": "BucketLoader",
    "pictures": "top_losses",
    "reading": "read_texts",
    "streams": "StreamLoader",
    "subwords": "PatternTokenizer SubwordTokenizer from_file",
    "tasks": "TextClassification",
    # From text to tokens.
    "blocks": "NextTextBlock NextTokenBlock TextBlock TokensBlock WordsBlock",
    "metrics": "NextTokenLoss bits_per_byte perplexity token_accuracy",
    "tokenizers": "Tokenizer WordTokenizer as_tokenizer",
    "transforms": "NextToken Numericalize Tokenize text_steps",
    "vocab": "make_vocab",
    # Language models.
    "attribution": "Attribution attribute",
    "awd_lstm": "AWD_LSTM",
    "encoder_files": "load_encoder save_encoder",
    "generation": "generate",
    "learner": "fit_ulmfit language_model_learner text_classifier_learner",
    "torchtext_files": "read_torchtext",
}


def __getattr__(name: str) -> object:
    """Import a public name on first use."""
    from importlib import import_module

    for module, names in _HOMES.items():
        if name in names.split():
            value: object = getattr(import_module(f"{__name__}.{module}"), name)
            vars(sys.modules[__name__])[name] = value
            return value
    from difflib import get_close_matches

    near = get_close_matches(name, __all__, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}", name=name, obj=sys.modules[__name__])


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
