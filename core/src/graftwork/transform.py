"""Transforms lead from block to block.

A transform is a frozen dataclass. `out_block` says statically what comes out of what goes in, `bind` gives the two
functions, and `fit` returns a fitted copy: what it learned is part of its fields, so of its JSON.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np

from graftwork.block import (
    Block,
    CategoryBlock,
    ClassIndexBlock,
    Configurable,
    MultiCategoryBlock,
    MultiHotBlock,
)
from graftwork.errors import BlockError, DataError
from graftwork.labels import Label, NamedThresholds, placed_thresholds, plain

__all__ = ["Bound", "Categorize", "Fused", "MultiCategorize", "On", "Stage", "Transform", "brief"]

Stage = Literal["item", "batch"]


@dataclass(frozen=True, slots=True)
class Bound:
    """Hold a transform's functions for one block.

    `encode(value, params)`: params is what `draw` gave, or None outside training. `decode(value)`: the exact inverse,
    or None where there is none.
    """

    encode: Callable[[Any, Any], Any]
    decode: Callable[[Any], Any] | None = None


@dataclass(frozen=True, slots=True)
class Fused:
    """Do the work of `count` consecutive steps of one field at once.

    `encode(value, params)`: for each of the steps what its `draw` gave, or None outside training. Of items it may
    return NotImplemented for a value that it cannot do; the steps then take it one by one.
    """

    count: int
    encode: Callable[[Any, Sequence[Any]], Any]


class Transform(Configurable, ABC):
    """Map one block to another.

    `stage` "item" works on single plain values in the loader; "batch" on collated tensors on the device. A random
    transform draws its parameters once per sample (or batch), and every field it is bound to gets the same ones.
    """

    stage: ClassVar[Stage] = "item"
    random: ClassVar[bool] = False
    # True if what it does depends on the sample's other fields: `draw` is then called outside training too, rng being
    # None.
    reads_sample: ClassVar[bool] = False
    # True if a value unlike those it was fitted on is refused: validation targets are then tried before training.
    refuses_unseen: ClassVar[bool] = False

    @abstractmethod
    def accepts(self, block: Block) -> bool:
        """Say whether this transform works on `block`."""

    @abstractmethod
    def out_block(self, block: Block) -> Block:
        """Return the block that comes out. Called after `fit`."""

    @abstractmethod
    def bind(self, block: Block) -> Bound:
        """Return the functions for `block`. Called after `fit`."""

    def fused(self, block: Block, following: Sequence[Transform]) -> Fused | None:
        """Return one function for this step and the first of those that follow it on its field, or None.

        It must give what the steps give one by one. All of them have drawn before it runs, so what they draw may depend
        on a batch's size, and not on values.
        """
        return None

    @property
    def needs_fit(self) -> bool:
        """Say whether `fit` must see the training split first."""
        return False

    def fit(self, values: Iterable[Any], block: Block) -> Self:
        """Return a copy that has learned from `values` (batch stage: collated tensors of up to 64 items)."""
        return self

    def draw(self, rng: Any, sample: Mapping[str, Any]) -> Any:
        """Draw parameters from `rng`: a numpy Generator (item stage), a torch one on the device (batch stage).

        `sample` holds the fields as they are before this step, some of which may be missing. See `reads_sample`.
        """
        return None


@dataclass(frozen=True, slots=True)
class On:
    """Restrict a transform to one field, or to several: `On("left", Resize(64))`."""

    fields: str | tuple[str, ...]
    transform: Transform

    @property
    def names(self) -> tuple[str, ...]:
        """The fields, also if there is only one."""
        return (self.fields,) if isinstance(self.fields, str) else tuple(self.fields)


def brief(part: object, limit: int = 100) -> str:
    """Return a repr of at most `limit` characters."""
    text = repr(part)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _unseen(label: Any, vocab: Sequence[Label]) -> BlockError:
    classes = f"{len(vocab)} classes are {brief(tuple(vocab))}"
    return BlockError(f"label {plain(label)!r} does not occur in the training split, whose {classes}")


def _fit_vocab(labels: Iterable[Any], block: Block) -> tuple[Label, ...]:
    """Return the sorted distinct labels; raise DataError if a model could learn nothing from them."""
    counts = Counter(plain(label) for label in labels)
    single = CategoryBlock()
    for label in counts:
        reason = single.check(label)
        if reason:
            raise DataError(f"{block.id}: {reason} in the training split; drop those rows or give them a label")
    if not counts:
        raise DataError(f"{block.id}: the training split has no labels")
    kinds = {isinstance(label, str) for label in counts}
    return tuple(sorted(counts) if len(kinds) == 1 else sorted(counts, key=lambda c: (str(type(c)), str(c))))


@dataclass(frozen=True)
class Categorize(Transform):
    """Encode a label by its value through a vocabulary, fitted on the training split if not given."""

    id: ClassVar[str] = "core/categorize"
    refuses_unseen: ClassVar[bool] = True
    vocab: tuple[Label, ...] | None = None

    def accepts(self, block: Block) -> bool:
        """Work on labels."""
        return isinstance(block, CategoryBlock)

    @property
    def needs_fit(self) -> bool:
        """Fit where no vocabulary was given."""
        return self.vocab is None

    def fit(self, values: Iterable[Any], block: Block) -> Self:
        """Take the sorted distinct labels; raise DataError if there are fewer than two."""
        vocab = _fit_vocab(values, block)
        if len(vocab) < 2:
            raise DataError(
                f"only one class, {vocab[0]!r}, occurs in the training split; a classifier needs at least two"
            )
        return replace(self, vocab=vocab)

    def out_block(self, block: Block) -> Block:
        """Give class indices."""
        return ClassIndexBlock(self.vocab or ())

    def bind(self, block: Block) -> Bound:
        """Look labels up by value."""
        vocab = self.vocab or ()
        codes = {label: i for i, label in enumerate(vocab)}

        def encode(label: Any, _: Any) -> int:
            code = codes.get(label)
            if code is None:
                raise _unseen(label, vocab)
            return code

        return Bound(encode, lambda code: vocab[code])


@dataclass(frozen=True)
class MultiCategorize(Transform):
    """Encode several labels as a multi-hot vector through a vocabulary, fitted on the training split if not given."""

    id: ClassVar[str] = "core/multi-categorize"
    refuses_unseen: ClassVar[bool] = True
    vocab: tuple[Label, ...] | None = None
    threshold: float | tuple[float, ...] | NamedThresholds = 0.5

    def accepts(self, block: Block) -> bool:
        """Work on sequences of labels."""
        return isinstance(block, MultiCategoryBlock)

    @property
    def needs_fit(self) -> bool:
        """Fit where no vocabulary was given."""
        return self.vocab is None

    def fit(self, values: Iterable[Any], block: Block) -> Self:
        """Take the sorted distinct labels, and place thresholds by name.

        Raises:
            DataError: there are no labels.
            OptionError: a threshold is of a label that does not occur.
        """
        vocab = _fit_vocab((label for several in values for label in several), block)
        return replace(self, vocab=vocab, threshold=placed_thresholds(self.threshold, vocab, block.id))

    def out_block(self, block: Block) -> Block:
        """Give multi-hot vectors."""
        if self.vocab is None:
            # Of thresholds too, places are known when it is fitted.
            return MultiHotBlock((), 0.5 if isinstance(self.threshold, tuple) else self.threshold)
        return MultiHotBlock(self.vocab, placed_thresholds(self.threshold, self.vocab, block.id))

    def bind(self, block: Block) -> Bound:
        """Look labels up by value; decoding gives them in the vocabulary's order."""
        vocab = self.vocab or ()
        codes = {label: i for i, label in enumerate(vocab)}

        def encode(labels: Any, _: Any) -> np.ndarray[Any, Any]:
            hot = np.zeros(len(vocab), dtype=np.float32)
            for label in labels:
                if label not in codes:
                    raise _unseen(label, vocab)
                hot[codes[label]] = 1
            return hot

        return Bound(encode, lambda hot: [label for label, is_on in zip(vocab, hot, strict=True) if is_on])
