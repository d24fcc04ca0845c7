"""The entry module: what this plugin offers, as records that name their components without importing them."""

from __future__ import annotations

from collections.abc import Iterator

from graftwork.api import (
    BaselineSpec,
    BlockSpec,
    CommandSpec,
    LossSpec,
    MetricSpec,
    ModelSpec,
    Plugin,
    SourceSpec,
    TaskSpec,
    TransformSpec,
    hookimpl,
)

PLUGIN = Plugin(
    namespace="text",
    summary="Text: tokenizers, language models, ULMFiT, classification",
    extras={
        "tiktoken": "byte-level BPE at twice to three times the speed, with the same pieces",
        "torchtext": "torchtext's vocabularies and tokenizers, with torch 2.3: graftwork_text.torchtext_bridge",
        "transformers": "encoders of Hugging Face as classifiers: text/hugging-face",
    },
)

TEXT, NEXT_TEXT, WORDS = "text/text", "text/next-text", "text/words"
TOKENS, NEXT, CLASS_INDEX = "text/tokens", "text/next-token", "core/class-index"

_BLOCKS = (
    (TEXT, "blocks:TextBlock", "A text, and how it becomes tokens"),
    (NEXT_TEXT, "blocks:NextTextBlock", "A text whose every next token is to be told"),
    (WORDS, "blocks:WordsBlock", "A text as its tokens"),
    (TOKENS, "blocks:TokensBlock", "Token ids, filled up to the longest text of a batch"),
    (NEXT, "blocks:NextTokenBlock", "The token that follows each token"),
)

_TRANSFORMS = (
    ("tokenize", "transforms:Tokenize", "Cut a text into tokens", (TEXT, NEXT_TEXT), WORDS, False),
    ("numericalize", "transforms:Numericalize", "Look tokens up in a fitted vocabulary", (WORDS,), TOKENS, True),
    ("next-token", "transforms:NextToken", "Move one token on", (TOKENS,), NEXT, False),
)

_MODELS: tuple[tuple[str, str, str, str], ...] = (
    ("bag", "bag:bag", "A mean of the embeddings of words and word pairs: seconds on a CPU", CLASS_INDEX),
    ("awd-lstm-lm", "awd_lstm:awd_lstm_lm", "An LSTM with dropout everywhere that tells the next token", NEXT),
    ("awd-lstm-classifier", "awd_lstm:awd_lstm_classifier", "ULMFiT's classifier on AWD-LSTM", CLASS_INDEX),
    ("transformer-lm", "transformer:transformer_lm", "A decoder-only Transformer that tells the next token", NEXT),
    ("transformer-classifier", "transformer:transformer_classifier", "A classifier on such a Transformer", CLASS_INDEX),
)


@hookimpl
def graftwork_register_blocks() -> Iterator[BlockSpec]:
    """Return the forms of a text."""
    for name, target, summary in _BLOCKS:
        yield BlockSpec(id=name, target=f"graftwork_text.{target}", summary=summary)


@hookimpl
def graftwork_register_transforms() -> Iterator[TransformSpec]:
    """Return the steps from a text to token ids."""
    for name, target, summary, accepts, gives, invertible in _TRANSFORMS:
        yield TransformSpec(
            id=f"text/{name}",
            target=f"graftwork_text.{target}",
            summary=summary,
            accepts=accepts,
            gives=gives,
            invertible=invertible,
        )


@hookimpl
def graftwork_register_models() -> Iterator[ModelSpec]:
    """Return classifiers and language models."""
    yield ModelSpec(
        id="text/hugging-face",
        target="graftwork_text.encoders:hugging_face",
        summary="A classifier on an encoder of Hugging Face's transformers",
        inputs=(TOKENS,),
        output=CLASS_INDEX,
        requires=("transformers",),
    )
    for name, target, summary, output in _MODELS:
        yield ModelSpec(
            id=f"text/{name}", target=f"graftwork_text.{target}", summary=summary, inputs=(TOKENS,), output=output
        )


@hookimpl
def graftwork_register_losses() -> Iterator[LossSpec]:
    """Return what language models are trained with."""
    yield LossSpec(
        id=NEXT,
        target="graftwork_text.metrics:NextTokenLoss",
        summary="Cross-entropy of the next token, a mean over tokens",
        blocks=(NEXT,),
        default=True,
    )


_METRICS = (
    ("perplexity", "perplexity", "The exponential of the mean loss of a token", False),
    ("token-accuracy", "token_accuracy", "The share of next tokens that were the likeliest", True),
    ("bits-per-byte", "bits_per_byte", "What the model needs to write down a byte of text", False),
)


@hookimpl
def graftwork_register_metrics() -> Iterator[MetricSpec]:
    """Return the metrics of language models."""
    for name, attribute, summary, higher in _METRICS:
        yield MetricSpec(
            id=f"text/{name}",
            target=f"graftwork_text.metrics:{attribute}",
            summary=summary,
            blocks=(NEXT,),
            higher_is_better=higher,
            default=name != "bits-per-byte",
        )


@hookimpl
def graftwork_register_baselines() -> Iterator[BaselineSpec]:
    """Return what networks for text must beat."""
    yield BaselineSpec(
        id="text/tf-idf",
        target="graftwork_text.baselines:TfIdf",
        summary="Logistic regression on the weights of words and word pairs",
        blocks=(CLASS_INDEX,),
        inputs=(TOKENS,),
    )
    yield BaselineSpec(
        id="text/n-gram",
        target="graftwork_text.baselines:NGram",
        summary="An interpolated model of three words in a row",
        blocks=(NEXT,),
        inputs=(TOKENS,),
    )


@hookimpl
def graftwork_register_sources() -> Iterator[SourceSpec]:
    """Return the forms in which texts lie on a disk."""
    yield SourceSpec(
        id="text/texts",
        target="graftwork_text.reading:read_texts",
        summary="CSV, Parquet, text files, or folders of them",
        patterns=("*.csv", "*.tsv", "*.csv.gz", "*.parquet", "*.txt", "*.txt.gz"),
        gives=(TEXT,),
    )


@hookimpl
def graftwork_register_tasks() -> Iterator[TaskSpec]:
    """Return the one-command jobs."""
    yield TaskSpec(
        id="text/classification",
        target="graftwork_text.tasks:TextClassification",
        summary="Tell the class of a text",
        inputs=(TEXT,),
        targets=("core/category",),
        defaults={
            "model": ("text/bag",),
            "loss": "core/cross_entropy",
            "metrics": ("core/accuracy",),
            "baselines": ("core/majority", "text/tf-idf"),
        },
    )
    yield TaskSpec(
        id="text/language-model",
        target="graftwork_text.language_task:LanguageModel",
        summary="Tell the next token of a text",
        inputs=(TEXT,),
        targets=(NEXT_TEXT,),
        defaults={
            "model": ("text/awd-lstm-lm",),
            "loss": NEXT,
            "metrics": ("text/perplexity", "text/token-accuracy"),
            "baselines": ("text/n-gram",),
        },
    )


@hookimpl
def graftwork_register_commands() -> Iterator[CommandSpec]:
    """Return `graft tokenize` and `graft generate`."""
    yield CommandSpec(
        id="text/tokenize",
        target="graftwork_text.command:tokenize",
        summary="Write a token cache of texts",
        name="tokenize",
    )
    yield CommandSpec(
        id="text/generate",
        target="graftwork_text.command:generate",
        summary="Go on where a text ends, by an exported language model",
        name="generate",
    )
