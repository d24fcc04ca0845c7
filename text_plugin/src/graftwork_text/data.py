"""From texts to DataLoaders: everything is cut and looked up once, in threads; a batch is then a copy of ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, final

import numpy as np
import torch
from torch import Tensor

from graftwork.api import (
    Block,
    CategoryBlock,
    DataError,
    DataLoaders,
    ItemError,
    On,
    Plan,
    PlanError,
    RandomSplitter,
    Split,
    Splitter,
    StratifiedSplitter,
)
from graftwork_text.blocks import NextTextBlock, TextBlock
from graftwork_text.bulk import Packed, encode_texts, fit_words
from graftwork_text.loaders import BucketLoader
from graftwork_text.reading import Texts, read_texts
from graftwork_text.streams import StreamLoader
from graftwork_text.tokenizers import Tokenizer, WordTokenizer, as_tokenizer
from graftwork_text.transforms import NextToken, Numericalize, Tokenize, text_steps
from graftwork_text.vocab import check_vocab

__all__ = ["TEXT", "TextDataLoaders", "TextOptions", "classes_loader", "language_loader"]

TEXT, TARGET = "text", "label"
NEXT = "next"
LONGEST = 20_000


class TextOptions(TypedDict, total=False):
    """Name what every recipe takes.

    `tokenizer` is a name, a Tokenizer or its JSON; `vocab` a vocabulary not to be fitted. Words rarer than `min_freq`
    in training are unknown. Texts of more than `max_length` tokens are cut off; "auto" is 20,000 for classes, so that a
    single text cannot fill the memory a batch has, and no limit for language models. With `is_lm` each next token is
    learned, from `bs` streams of `seq_len` tokens. What is held out is what the source says, or `splitter`, or a share
    `valid_pct` drawn with `seed`.
    """

    text_col: str | Sequence[str] | None
    target: str | None
    is_lm: bool
    tokenizer: str | Tokenizer
    vocab: Sequence[str] | None
    min_freq: int
    max_vocab: int
    max_length: int | Literal["auto"] | None
    seq_len: int
    splitter: Splitter | None
    valid_pct: float
    split_col: str | None
    seed: int
    bs: int
    valid_bs: int | None
    encoding: str
    errors: str
    workers: int | None


@final
class TextDataLoaders:
    """Make DataLoaders of texts. Every recipe takes the options of `TextOptions`."""

    @classmethod
    def from_df(cls, df: Any, **options: Unpack[TextOptions]) -> DataLoaders:
        """Take a pandas frame, an Arrow table, or a sequence of mappings."""
        return _read(df, **options)

    @classmethod
    def from_csv(cls, path: str | Path, **options: Unpack[TextOptions]) -> DataLoaders:
        """Read a CSV or a Parquet file."""
        return _read(path, **options)

    @classmethod
    def from_folder(cls, path: str | Path, **options: Unpack[TextOptions]) -> DataLoaders:
        """Read a folder of text files: a folder a label, perhaps below train and valid; or one file, a text a line."""
        return _read(path, **options)

    @classmethod
    def from_texts(
        cls, texts: Sequence[str], labels: Sequence[Any] | None = None, **options: Unpack[TextOptions]
    ) -> DataLoaders:
        """Take texts, with their labels unless it is for a language model."""
        given: dict[str, Any] = {"is_lm": labels is None, **options}
        return from_texts(Texts(texts=texts, labels=labels), **given)


def _read(
    source: Any,
    *,
    text_col: str | Sequence[str] | None = None,
    target: str | None = None,
    split_col: str | None = None,
    encoding: str = "utf-8",
    errors: str = "strict",
    **options: Any,
) -> DataLoaders:
    found = read_texts(
        source,
        text_col=text_col,
        target=target,
        labelled=not options.get("is_lm", False),
        split_col=split_col,
        encoding=encoding,
        errors=errors,
    )
    return from_texts(found, **options)


def from_texts(
    found: Texts,
    *,
    is_lm: bool = False,
    tokenizer: str | Tokenizer = "words",
    vocab: Sequence[str] | None = None,
    min_freq: int = 3,
    max_vocab: int = 60_000,
    max_length: int | Literal["auto"] | None = "auto",
    seq_len: int = 72,
    splitter: Splitter | None = None,
    valid_pct: float = 0.2,
    seed: int = 42,
    bs: int = 64,
    valid_bs: int | None = None,
    workers: int | None = None,
) -> DataLoaders:
    """Return the loaders of texts that have been read."""
    _check(found, is_lm=is_lm)
    split = _split(found, splitter, valid_pct, seed)
    if max_length == "auto":
        max_length = None if is_lm else LONGEST
    block = TextBlock(tokenizer=tokenizer, min_freq=min_freq, max_vocab=max_vocab, max_length=max_length)
    steps, texts = _fitted(block, found.texts, split, vocab, workers)
    texts, longer = texts.cut(max_length)
    notes = [*found.warnings, *split.notes]
    if longer:
        notes.append(f"cut {longer} text(s) off after {max_length} tokens")
    if is_lm:
        plan = _plan(
            {TEXT: block, NEXT: NextTextBlock(tokenizer=block.tokenizer)}, {TEXT: steps, NEXT: (*steps, NextToken())}
        )
        return _language(plan, texts, found, split, seq_len=seq_len, bs=bs, valid_bs=valid_bs, seed=seed, notes=notes)
    category, codes = _labels(found.labels or (), split)
    plan = _plan({TEXT: block, TARGET: category}, {TEXT: steps})
    return _classes(plan, texts, codes, found, split, bs=bs, valid_bs=valid_bs, seed=seed, notes=notes)


def _check(found: Texts, *, is_lm: bool) -> None:
    if not is_lm and found.labels is None:
        raise DataError("a classifier needs labels; pass labels, or is_lm=True for a language model")
    if found.labels is not None and len(found.labels) != len(found.texts):
        raise DataError(f"{len(found.texts)} texts have {len(found.labels)} labels")
    for position, text in enumerate(found.texts):
        if not isinstance(text, str):
            raise DataError(f"{found.names(position)} is no text but a {type(text).__name__}; leave it out")


def _split(found: Texts, splitter: Splitter | None, valid_pct: float, seed: int) -> Split:
    if splitter is None and found.valid is not None:
        return Split(train=np.flatnonzero(~found.valid), valid=np.flatnonzero(found.valid))
    if splitter is None and valid_pct == 0:
        return Split(train=np.arange(len(found)), valid=np.empty(0, np.int64))
    labels = found.labels
    if splitter is None:
        splitter = RandomSplitter(valid_pct, seed=seed) if labels is None else StratifiedSplitter(valid_pct, seed=seed)
    split = splitter(range(len(found)), label=None if labels is None else labels.__getitem__)
    if not len(split.train):
        raise DataError("the training split is empty")
    return split


def _fitted(
    block: TextBlock, texts: Sequence[str], split: Split, vocab: Sequence[str] | None, workers: int | None
) -> tuple[tuple[Tokenize, Numericalize], Packed]:
    """Fit tokenizer and vocabulary on the training texts, and encode all texts."""
    made = as_tokenizer(block.tokenizer)
    if vocab is not None:
        check_vocab(vocab, "vocab", made.unk, made.pad)
    order = np.concatenate([split.train, split.valid])
    if made.needs_fit:
        made = made.fit((texts[i] for i in split.train.tolist()), max_vocab=block.max_vocab)
    kept = tuple(vocab) if vocab is not None else made.vocab
    if kept is None and isinstance(made, WordTokenizer):
        ordered = [texts[i] for i in order.tolist()]
        kept, encoded = fit_words(
            ordered, min_freq=block.min_freq, max_vocab=block.max_vocab, train=len(split.train), workers=workers
        )
        back = np.zeros(len(texts), np.int64)
        back[order] = np.arange(len(order))
        used = np.zeros(len(texts), np.bool_)
        used[order] = True
        encoded = encoded.take(back) if used.all() else _placed(encoded, order, len(texts))
    else:
        if kept is None:
            fitted = Numericalize(min_freq=block.min_freq, max_vocab=block.max_vocab)
            words = (made.tokens(texts[i]) for i in split.train.tolist())
            kept = fitted.fit(words, block).vocab or ()
        encoded = encode_texts(made, kept, texts, unk_id=kept.index(made.unk), workers=workers)
    words_step = Tokenize(
        tokenizer=made.to_json() if block.tokenizer != "words" else "words", max_vocab=block.max_vocab
    )
    ids_step = Numericalize(
        vocab=tuple(kept),
        min_freq=block.min_freq,
        max_vocab=block.max_vocab,
        max_length=block.max_length,
        unk=made.unk,
        pad=made.pad,
    )
    return (words_step, ids_step), encoded


def _placed(encoded: Packed, order: np.ndarray[Any, Any], count: int) -> Packed:
    """Put texts at their places; those that no split uses are empty."""
    lengths = np.zeros(count, np.int64)
    lengths[order] = encoded.lengths
    at = np.argsort(order, kind="stable")
    return Packed(ids=encoded.take(at).ids, ends=np.cumsum(lengths))


def _plan(blocks: dict[str, Block], steps: dict[str, Sequence[Any]]) -> Plan:
    """Bind steps that are fitted already; a block without any has its own."""

    def nothing(name: str) -> Iterable[Any]:
        raise PlanError(f"something of {name!r} has not been fitted")

    given = [On(name, step) for name, some in steps.items() for step in some]
    targets = tuple(name for name in blocks if name != TEXT)
    return Plan.compile(blocks, inputs=(TEXT,), targets=targets, item_tfms=given, train=nothing)


def _labels(labels: Sequence[Any], split: Split) -> tuple[CategoryBlock, Tensor]:
    """Fit the classes on the training split; raise DataError for one class only, or one that training lacks."""
    known = {labels[i] for i in split.train.tolist()}
    if len(known) < 2:
        raise DataError(f"only one class, {next(iter(known))!r}, occurs in the training split; a classifier needs two")
    mixed = len({isinstance(label, str) for label in known}) > 1
    vocab = tuple(sorted(known, key=(lambda label: (str(type(label)), str(label))) if mixed else None))
    codes = {label: code for code, label in enumerate(vocab)}
    unseen = [i for i in split.valid.tolist() if labels[i] not in codes]
    if unseen:
        raise DataError(
            f"{len(unseen)} held-out text(s) have a label that does not occur in the training split, the first "
            f"{labels[unseen[0]]!r}; leave them out, or split with StratifiedSplitter"
        )
    return CategoryBlock(vocab), torch.tensor([codes.get(label, 0) for label in labels], dtype=torch.int64)


def _classes(
    plan: Plan,
    texts: Packed,
    codes: Tensor,
    found: Texts,
    split: Split,
    *,
    bs: int,
    valid_bs: int | None,
    seed: int,
    notes: Sequence[str],
) -> DataLoaders:
    pad_id = text_steps(plan)[1].pad_id

    def part(positions: np.ndarray[Any, Any], size: int, *, training: bool) -> BucketLoader:
        at = torch.from_numpy(positions)
        return BucketLoader(
            texts.take(positions),
            plan,
            pad_id=pad_id,
            field=TEXT,
            columns={TARGET: codes[at]},
            bs=size,
            shuffle=training,
            training=training,
            seed=seed,
            positions=at,
            item=lambda position: _shown(found, position),
        )

    def test(items: Sequence[Any], with_labels: bool) -> BucketLoader:
        pairs = [item if with_labels else (item, None) for item in items]
        new = Texts(texts=[text for text, _ in pairs], labels=[label for _, label in pairs] if with_labels else None)
        return classes_loader(plan, new, bs=valid_bs or bs)

    valid = part(split.valid, valid_bs or bs, training=False) if len(split.valid) else None
    return DataLoaders(train=part(split.train, bs, training=True), valid=valid, test=test, notes=notes)


def _shown(found: Texts, position: int) -> str:
    return f"{found.names(position)}: {found.texts[position]}"


def classes_loader(plan: Plan, found: Texts, *, bs: int = 64, notes: list[str] | None = None) -> BucketLoader:
    """Return a loader of new texts, encoded by a trained plan; with targets where they have labels.

    A label that training did not see is left out, and listed among the loader's bad items.
    """
    words, ids = text_steps(plan)
    texts = encode_texts(words.made, ids.vocab or (), found.texts, unk_id=ids.unk_id)
    texts, longer = texts.cut(ids.max_length)
    if longer and notes is not None:
        notes.append(f"cut {longer} text(s) off after {ids.max_length} tokens")
    field, kept, columns, bad = plan.inputs[0], list(range(len(found))), dict[str, Tensor](), dict[int, str]()
    if found.labels is not None:
        target, codes = plan.targets[0], list[int]()
        kept = []
        for position, label in enumerate(found.labels):
            try:
                codes.append(plan.encode({target: label})[target])
                kept.append(position)
            except ItemError as error:
                bad[position] = str(error)
        if not kept:
            raise DataError(f"not one text has a label that the model knows; the first: {next(iter(bad.values()))}")
        columns = {target: torch.tensor(codes, dtype=torch.int64)}
    loader = BucketLoader(
        texts.take(np.array(kept, np.int64)),
        plan,
        pad_id=ids.pad_id,
        field=field,
        columns=columns,
        bs=bs,
        positions=torch.tensor(kept, dtype=torch.int64),
        item=lambda position: _shown(found, position),
    )
    loader.num_items += len(bad)
    loader.bad_items = bad
    return loader


# -- language models -------------------------------------------------------------------------------------------------


def _language(
    plan: Plan,
    texts: Packed,
    found: Texts,
    split: Split,
    *,
    seq_len: int,
    bs: int,
    valid_bs: int | None,
    seed: int,
    notes: Sequence[str],
) -> DataLoaders:
    def part(positions: np.ndarray[Any, Any], size: int, *, training: bool) -> StreamLoader:
        return StreamLoader(
            texts.take(positions),
            plan,
            bs=size,
            seq_len=seq_len,
            shuffle=training,
            training=training,
            seed=seed,
            num_bytes=sum(len(found.texts[i].encode("utf-8", "replace")) for i in positions.tolist()),
        )

    def test(items: Sequence[Any], with_labels: bool) -> StreamLoader:
        return language_loader(plan, Texts(texts=list(items)), bs=valid_bs or bs, seq_len=seq_len)

    valid = part(split.valid, valid_bs or bs, training=False) if len(split.valid) else None
    return DataLoaders(train=part(split.train, bs, training=True), valid=valid, test=test, notes=notes)


def language_loader(plan: Plan, found: Texts, *, bs: int = 64, seq_len: int = 72) -> StreamLoader:
    """Return a loader of new texts for a language model, encoded by a trained plan."""
    words, ids = text_steps(plan)
    texts = encode_texts(words.made, ids.vocab or (), found.texts, unk_id=ids.unk_id)
    num_bytes = sum(len(text.encode("utf-8", "replace")) for text in found.texts)
    return StreamLoader(texts, plan, bs=bs, seq_len=seq_len, num_bytes=num_bytes)
