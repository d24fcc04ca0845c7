"""Blocks of users and items: ids as a source gives them, and their codes in a fitted vocabulary.

Code 0 is the declared slot of everybody training did not see; the sorted vocabulary has the codes from 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graftwork.api import Block, BlockError, BlockSteps, Bound, DataError, OptionError, Transform

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.axes import Axes

__all__ = ["UNKNOWN", "IdBlock", "IdCodeBlock", "Identify", "Label", "encode_ids", "fit_encode_ids", "fit_ids"]

Label: TypeAlias = str | int
Codes: TypeAlias = NDArray[np.int64]
UNKNOWN = 0
_MOCKED: tuple[Label, ...] = ("ann", "bob", "eve")
_PLAIN = frozenset({str, int})


def _check_vocab(vocab: tuple[Label, ...] | None, names: tuple[str, ...] | None, owner: str) -> None:
    """Refuse a vocabulary that is not one, and names that are not those of its ids; raise OptionError."""
    if vocab is not None and len(set(vocab)) != len(vocab):
        raise OptionError(f"{owner}: the vocabulary lists an id twice")
    if names is not None and len(names) != len(vocab or ()):
        raise OptionError(f"{owner}: {len(names)} names for {len(vocab or ())} ids; give one name for each")


def _reason(value: Any) -> str | None:
    if value is None or (isinstance(value, float) and value != value):
        return "the id is missing"
    if isinstance(value, bool | np.bool_) or not isinstance(value, str | int | np.integer):
        return f"an id is a string or a whole number, not {type(value).__name__} {value!r}"
    return None


def _brief(part: IdBlock | IdCodeBlock | Identify) -> str:
    """Show the first ids of a vocabulary and their number: there may be millions."""
    name = type(part).__name__
    if part.vocab is None:
        return f"{name}()"
    shown = ", ".join(repr(label) for label in part.vocab[:3])
    return f"{name}({shown}, … {len(part.vocab)} ids)" if len(part.vocab) > 3 else f"{name}({shown})"


@final
@dataclass(frozen=True, repr=False)
class IdBlock(Block):
    """Name a user or an item by a string or a whole number. A vocabulary not given is fitted on the training split."""

    id: ClassVar[str] = "collab/id"
    vocab: tuple[Label, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse a vocabulary that lists an id twice."""
        _check_vocab(self.vocab, None, self.id)

    def __repr__(self) -> str:
        """Show the first ids."""
        return _brief(self)

    def check(self, value: Any) -> str | None:
        """Return why `value` is no id, or None; ids that training did not see are ids."""
        return _reason(value)

    def mock(self, rng: np.random.Generator) -> Label:
        """Invent an id."""
        vocab = self.vocab or _MOCKED
        return vocab[int(rng.integers(len(vocab)))]

    def collate(self, values: Sequence[Any]) -> Tensor:
        """Refuse: ids are encoded before they are batched."""
        raise BlockError(f"{self.id} holds ids, which have no tensor form; encode them first (Identify)")

    def uncollate(self, column: Tensor) -> list[Any]:
        """Refuse: ids are encoded before they are batched."""
        raise BlockError(f"{self.id} holds ids, which have no tensor form")

    def show(self, value: Any, ax: Axes) -> None:
        """Add the id to the title."""
        _titled(ax, str(value))

    def steps(self) -> BlockSteps:
        """Encode by value through the vocabulary."""
        return BlockSteps(closing=(Identify(vocab=self.vocab),))


@final
@dataclass(frozen=True, repr=False)
class IdCodeBlock(Block):
    """Hold the code of an id in a vocabulary, 0 for an unknown one; int64 (B,) in a batch.

    `names`, one for each id, are what people call them (a film's title).
    """

    id: ClassVar[str] = "collab/id-code"
    vocab: tuple[Label, ...] = ()
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse a vocabulary that lists an id twice, and another number of names."""
        _check_vocab(self.vocab, self.names, self.id)

    def __repr__(self) -> str:
        """Show the first ids."""
        return _brief(self)

    @property
    def num_codes(self) -> int:
        """Number of codes, the unknown one among them."""
        return len(self.vocab) + 1

    def label(self, code: int) -> str:
        """Return what people call the id of a code."""
        if code == UNKNOWN:
            return "(unknown)"
        return str(self.vocab[code - 1]) if self.names is None else self.names[code - 1]

    def check(self, value: Any) -> str | None:
        """Return why `value` is no code, or None."""
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            return f"a code is an integer, not {type(value).__name__}"
        return None if 0 <= value < self.num_codes else f"{value} is not in 0 … {self.num_codes - 1}"

    def mock(self, rng: np.random.Generator) -> int:
        """Invent a code."""
        return int(rng.integers(self.num_codes))

    def collate(self, values: Sequence[Any]) -> Tensor:
        """Stack to int64 (B,)."""
        return torch.tensor(values, dtype=torch.int64)

    def uncollate(self, column: Tensor) -> list[Any]:
        """Return Python integers."""
        return [int(code) for code in column.tolist()]

    def show(self, value: Any, ax: Axes) -> None:
        """Add the id's name to the title."""
        _titled(ax, self.label(int(value)))


def _titled(ax: Axes, text: str) -> None:
    old = ax.get_title()
    ax.set_title(f"{old}\n{text}" if old else text, fontsize=9)


@final
@dataclass(frozen=True, repr=False)
class Identify(Transform):
    """Encode an id by its value through a vocabulary, fitted on the training split if not given.

    An id is found by its value; a whole number also by its decimal digits and the other way round, since a text file
    does not tell them apart; and by its name, if it has one that is nobody else's. What is not found has code 0.
    """

    id: ClassVar[str] = "collab/identify"
    vocab: tuple[Label, ...] | None = None
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse a vocabulary that lists an id twice, and another number of names."""
        _check_vocab(self.vocab, self.names, self.id)

    def __repr__(self) -> str:
        """Show the first ids."""
        return _brief(self)

    def accepts(self, block: Block) -> bool:
        """Work on ids."""
        return isinstance(block, IdBlock)

    @property
    def needs_fit(self) -> bool:
        """Fit where no vocabulary was given."""
        return self.vocab is None

    def fit(self, values: Iterable[Any], block: Block) -> Self:
        """Take the sorted distinct ids."""
        return replace(self, vocab=_sorted(set(values)))

    def out_block(self, block: Block) -> Block:
        """Give codes."""
        return IdCodeBlock(self.vocab or (), self.names)

    def bind(self, block: Block) -> Bound:
        """Look ids up by value; an unknown one decodes to None."""
        vocab, find = self.vocab or (), self.finder()
        return Bound(lambda value, _: find(value), lambda code: None if code == UNKNOWN else vocab[code - 1])

    def finder(self) -> Callable[[Any], int]:
        """Return the function from an id to its code.

        It raises BlockError for a missing value, for what is no id, and for a name that several ids share.
        """
        vocab = self.vocab or ()
        codes = {label: code for code, label in enumerate(vocab, 1)}
        named = _by_name(vocab, self.names)

        def find(value: Any) -> int:
            code = codes.get(value) if type(value) in _PLAIN else None
            return code if code is not None else _search(value, codes, named, vocab)

        return find


def _by_name(vocab: tuple[Label, ...], names: tuple[str, ...] | None) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for code, name in enumerate(names or (), 1):
        found.setdefault(name, []).append(code)
    return found


def _search(value: Any, codes: Mapping[Label, int], named: Mapping[str, list[int]], vocab: tuple[Label, ...]) -> int:
    """Find what is no key as it stands: digits for a number, a number for digits, a name."""
    value = int(value) if isinstance(value, float) and value.is_integer() else value
    reason = _reason(value)
    if reason:
        raise BlockError(f"{IdBlock.id}: {reason}")
    code = codes.get(value, codes.get(_other_form(value)))
    if code is not None:
        return code
    several = named.get(value, [])
    if len(several) > 1:
        ids = ", ".join(repr(vocab[code - 1]) for code in several)
        raise BlockError(f"{value!r} is the name of {len(several)} ids ({ids}); give the id you mean")
    return several[0] if several else UNKNOWN


def _other_form(value: Label) -> Label:
    """Return the number that digits write, or the digits of a number."""
    if not isinstance(value, str):
        return str(int(value))
    return int(value) if value.isascii() and value.isdigit() and str(int(value)) == value else value


def _sorted(labels: Iterable[Any]) -> tuple[Label, ...]:
    """Sort ids; raise DataError for what is no id and for a mixture of strings and numbers."""
    plain = [label.item() if isinstance(label, np.generic) else label for label in labels]
    for label in plain:
        reason = _reason(label)
        if reason:
            raise DataError(f"{IdBlock.id}: {reason} in the training split; leave those rows out")
    if len({isinstance(label, str) for label in plain}) > 1:
        raise DataError("the ids are strings and numbers mixed; make them strings: df[column].astype(str)")
    return tuple(sorted(plain))


# -- whole columns -----------------------------------------------------------------------------------------------------


def fit_encode_ids(
    columns: Mapping[str, pa.ChunkedArray], *, train: Codes | None = None
) -> tuple[dict[str, tuple[Label, ...]], dict[str, Codes]]:
    """Fit a sorted vocabulary per column on the rows `train` (positions; None for all) and encode all rows, int64.

    Columns hold strings or whole numbers, and none is missing (`sources` sees to both).
    """
    from graftwork_tabular import fit_encode

    vocabs, codes = fit_encode(columns, train=train)
    labels = {name: tuple(vocab.values.to_pylist()) for name, vocab in vocabs.items()}
    return labels, {name: column.astype(np.int64) for name, column in codes.items()}


def fit_ids(column: pa.ChunkedArray) -> tuple[Label, ...]:
    """Return the sorted distinct ids of a column."""
    return fit_encode_ids({"ids": column})[0]["ids"]


def encode_ids(column: pa.ChunkedArray, transform: Identify) -> Codes:
    """Encode a column as `transform` encodes each of its values; each distinct value is looked up once."""
    distinct, places = _distinct(column)
    find = transform.finder()
    table = np.fromiter((find(label) for label in distinct.to_pylist()), dtype=np.int64, count=len(distinct))
    return table[places] if len(table) else np.zeros(0, dtype=np.int64)


def _distinct(column: pa.ChunkedArray) -> tuple[pa.Array, Codes]:
    """Return the distinct values and, for each row, which of them it has."""
    import pyarrow as pa

    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    coded = whole.dictionary_encode()
    return coded.dictionary, coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
