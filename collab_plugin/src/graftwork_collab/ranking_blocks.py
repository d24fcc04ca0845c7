"""Blocks of a ranking: items to choose from, a user's history, and the ranked catalogue as a target.

Item codes are those of `blocks`: 0 is an item training did not see. Rows of different lengths are padded with -1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graftwork.api import Block, BlockError, BlockSteps, Bound, OptionError, TargetBlock, Transform
from graftwork_collab.blocks import UNKNOWN, IdBlock, Identify, Label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "NOBODY",
    "IdentifyItems",
    "ItemCodesBlock",
    "ItemsBlock",
    "RankedItemsBlock",
    "RankingBlock",
    "SampleNegatives",
]

Codes: TypeAlias = NDArray[np.int64]

NOBODY = -1
"""The code that fills up rows."""
LEAST_DEPTH = 10
SHOWN = 5


def _padded(values: Sequence[Any]) -> Tensor:
    """Stack codes of different lengths, (B, longest), filled up with -1."""
    longest = max((len(value) for value in values), default=0)
    column = torch.full((len(values), longest), NOBODY, dtype=torch.int64)
    for row, value in enumerate(values):
        column[row, : len(value)] = torch.as_tensor(np.asarray(value, dtype=np.int64))
    return column


def _check_codes(value: Any, num_items: int) -> str | None:
    codes = np.asarray(value)
    if codes.ndim != 1 or (codes.size and codes.dtype.kind not in "iu"):
        return f"item codes are a row of integers, not {type(value).__name__}"
    if codes.size and not (codes.min() >= NOBODY and codes.max() <= num_items):
        return f"item codes lie between 0 and {num_items}, and {NOBODY} fills up"
    return None


def _check_ids(value: Any) -> str | None:
    if isinstance(value, str) or not isinstance(value, Sequence | np.ndarray):
        return f"several items come as a list of their ids, not as {type(value).__name__}"
    single = IdBlock()
    return next((reason for reason in map(single.check, value) if reason), None)


def _add_title(ax: Axes, names: Sequence[Any], total: int) -> None:
    more = ", …" if total > len(names) else ""
    old, text = ax.get_title(), ", ".join(map(str, names)) + more or "(none)"
    ax.set_title(f"{old}\n{text}" if old else text, fontsize=9)


class _IdsBlock(Block):
    """Hold ids of items, in their order; the parts ItemsBlock and RankingBlock have in common."""

    def check(self, value: Any) -> str | None:
        """Return why `value` is no list of ids, or None; ids that training did not see are ids."""
        return None if value is None and self.optional else _check_ids(value)

    def mock(self, rng: np.random.Generator) -> list[Label]:
        """Invent a few ids."""
        single = IdBlock()
        return [single.mock(rng) for _ in range(int(rng.integers(1, 4)))]

    def collate(self, values: Sequence[Any]) -> Tensor:
        """Refuse: ids are encoded before they are batched."""
        raise BlockError(f"{self.id} holds ids, which have no tensor form; encode them first (IdentifyItems)")

    def uncollate(self, column: Tensor) -> list[Any]:
        """Refuse: ids are encoded before they are batched."""
        raise BlockError(f"{self.id} holds ids, which have no tensor form")

    def show(self, value: Any, ax: Axes) -> None:
        """Add the first ids to the title."""
        ids = [] if value is None else list(value)
        _add_title(ax, ids[:SHOWN], len(ids))

    def steps(self) -> BlockSteps:
        """Encode by value; the vocabulary must be given as a transform, as RankingDataLoaders does."""
        return BlockSteps(closing=(IdentifyItems(),))


@final
@dataclass(frozen=True)
class ItemsBlock(_IdsBlock):
    """Name some items: those to choose from, or with `length` a user's history, the oldest first.

    It may be left out: then all items are there to choose from, and the history is the one seen in training.
    """

    id: ClassVar[str] = "collab/items"
    optional: ClassVar[bool] = True
    length: int | None = None


@final
@dataclass(frozen=True)
class RankingBlock(_IdsBlock):
    """Name the items that belong to the front of a ranking; `k` of them are given in a prediction."""

    id: ClassVar[str] = "collab/ranking"
    k: int = 10


@final
@dataclass(frozen=True)
class ItemCodesBlock(Block):
    """Hold codes of items to choose from, int64 (B, n), (B, 0) for all of them; or with `length` a history (B, length).

    In training it is the item chosen (B, 1), or each of a sequence (B, n), to which `negatives` others are added, the
    same ones for the whole batch: a share `in_batch` of them other rows' items, the rest drawn evenly from the
    catalogue. A history is padded with 0 in front; -1 throughout stands for the one seen in training.
    """

    id: ClassVar[str] = "collab/item-codes"
    num_items: int = 0
    length: int | None = None
    negatives: int = 0
    in_batch: float = 0.0

    @property
    def num_codes(self) -> int:
        """Number of codes, the unknown one among them."""
        return self.num_items + 1

    def check(self, value: Any) -> str | None:
        """Return why `value` is no row of item codes, or None."""
        return _check_codes(value, self.num_items)

    def mock(self, rng: np.random.Generator) -> Codes:
        """Invent a row of codes."""
        return rng.integers(1, self.num_items + 1, self.length or 1 + self.negatives)

    def collate(self, values: Sequence[Any]) -> Tensor:
        """Stack to int64 (B, n), filled up with -1."""
        return _padded(values)

    def uncollate(self, column: Tensor) -> list[Any]:
        """Return one array a row, without what fills up."""
        return [row[row != NOBODY] for row in column.cpu().numpy()]

    def show(self, value: Any, ax: Axes) -> None:
        """Add the first codes to the title."""
        _add_title(ax, list(value[:SHOWN]), len(value))


@final
@dataclass(frozen=True)
class RankedItemsBlock(TargetBlock):
    """Hold the items held out for a user, int64 (B, n); models give one score for each item code, (B, items + 1).

    Activation picks the `depth` best codes, which all metrics look at; a prediction is the first `k` of them. In a
    training batch the target is the place of the chosen item among the candidates: 0, or -1 where there is none.
    """

    id: ClassVar[str] = "collab/ranked-items"
    num_items: int = 0
    k: int = 10

    def __post_init__(self) -> None:
        """Refuse a k that is no number of items."""
        from graftwork_collab.topk import check_k

        if self.num_items:
            check_k(self.k, self.num_items)

    @property
    def depth(self) -> int:
        """Number of places that are ranked: k, and at least 10, at which most metrics look."""
        return max(self.k, LEAST_DEPTH)

    @property
    def num_outputs(self) -> int:
        """One score for each code."""
        return self.num_items + 1

    @property
    def loss_id(self) -> str:
        """Softmax among the candidates."""
        return "collab/sampled_softmax"

    @property
    def metric_ids(self) -> tuple[str, ...]:
        """All that need to know nothing but the ranking."""
        return tuple(f"collab/{name}" for name in ("ndcg", "recall", "precision", "mrr", "map", "hit_rate"))

    @property
    def baseline_ids(self) -> tuple[str, ...]:
        """The most popular items."""
        return ("collab/most-popular",)

    def check(self, value: Any) -> str | None:
        """Return why `value` is no row of item codes, or None."""
        return _check_codes(value, self.num_items)

    def mock(self, rng: np.random.Generator) -> Codes:
        """Invent one or two items."""
        return rng.permutation(self.num_items)[:2].astype(np.int64) + 1

    def collate(self, values: Sequence[Any]) -> Tensor:
        """Stack to int64 (B, n), filled up with -1."""
        return _padded(values)

    def uncollate(self, column: Tensor) -> list[Any]:
        """Return one array a row, without what fills up."""
        return [row[row != NOBODY] for row in column.cpu().numpy()]

    def show(self, value: Any, ax: Axes) -> None:
        """Add the first codes to the title."""
        _add_title(ax, list(value[:SHOWN]), len(value))

    def activate(self, raw: Tensor) -> Tensor:
        """Return the codes of the best items, best first, int64 (B, depth); -1 where there are no more."""
        from graftwork_collab.topk import top_k

        return top_k(raw, self.depth).codes

    def predict(self, activated: Tensor) -> Tensor:
        """Take the first k."""
        return activated[:, : self.k]


@final
@dataclass(frozen=True, repr=False)
class IdentifyItems(Transform):
    """Encode several items' ids through a vocabulary, as `Identify` does one; names, too, are understood.

    Of what one chooses from and of a history, unknown items are left out; among items held out they have code 0.
    """

    id: ClassVar[str] = "collab/identify-items"
    vocab: tuple[Label, ...] | None = None
    names: tuple[str, ...] | None = None

    def __repr__(self) -> str:
        """Show the first ids: there may be millions."""
        shown = ", ".join(map(repr, (self.vocab or ())[:3]))
        return f"IdentifyItems({shown}, … {len(self.vocab or ())} ids)"

    def accepts(self, block: Block) -> bool:
        """Work on lists of ids."""
        return isinstance(block, ItemsBlock | RankingBlock)

    def out_block(self, block: Block) -> Block:
        """Give codes."""
        num_items = len(self._vocab())
        if isinstance(block, RankingBlock):
            return RankedItemsBlock(num_items=num_items, k=block.k)
        assert isinstance(block, ItemsBlock)
        return ItemCodesBlock(num_items=num_items, length=block.length)

    def _vocab(self) -> tuple[Label, ...]:
        if self.vocab is None:
            raise OptionError(
                "items of a ranking need a vocabulary, On('item', IdentifyItems(vocab=…)), or RankingDataLoaders"
            )
        return self.vocab

    def bind(self, block: Block) -> Bound:
        """Look ids up by value; an unknown one decodes to None."""
        vocab, find = self._vocab(), Identify(vocab=self._vocab(), names=self.names).finder()

        def decode(codes: Any) -> list[Any]:
            return [None if code == UNKNOWN else vocab[code - 1] for code in codes if code != NOBODY]

        def held_out(ids: Any, _: Any) -> Codes:
            return np.array([find(label) for label in ids], dtype=np.int64)

        def candidates(ids: Any, _: Any) -> Codes:
            return _known(find, ids, "to choose from") if ids is not None else np.zeros(0, dtype=np.int64)

        def history(ids: Any, _: Any) -> Codes:
            if ids is None:
                return np.full(length, NOBODY, dtype=np.int64)
            recent = _known(find, ids, "in the history")[-length:]
            return np.concatenate([np.zeros(length - len(recent), dtype=np.int64), recent])

        if isinstance(block, RankingBlock):
            return Bound(held_out, decode)
        length = block.length if isinstance(block, ItemsBlock) and block.length is not None else 0
        return Bound(history if length else candidates, decode)


def _known(find: Any, ids: Any, what: str) -> Codes:
    """Return the codes of known items; raise BlockError if there is none."""
    reason = _check_ids(ids)
    if reason:
        raise BlockError(f"{ItemsBlock.id}: {reason}")
    codes = np.array([find(label) for label in ids], dtype=np.int64)
    known: Codes = codes[codes != UNKNOWN]
    if len(known) == 0:
        raise BlockError(f"none of the {len(codes)} items {what} occurs in training: {list(ids)[:SHOWN]}")
    return known


@final
@dataclass(frozen=True)
class SampleNegatives(Transform):
    """Draw items nobody chose to compare the chosen ones with, on the device, anew for each batch.

    All rows of a batch share `num` of them, so that one matrix product scores them all. A share `in_batch` are items
    of other rows, so popular ones come as often as they are popular; the rest are drawn evenly from the catalogue
    (Yang et al., "Mixed negative sampling for learning two-tower neural networks in recommendations", 2020).
    """

    id: ClassVar[str] = "collab/sample-negatives"
    stage: ClassVar[Any] = "batch"
    random: ClassVar[bool] = True
    num: int = 256
    in_batch: float = 0.5
    num_items: int = 0

    def __post_init__(self) -> None:
        """Refuse a number below 1 and a share that is none."""
        if self.num < 1:
            raise OptionError(f"{self.id}: num={self.num}: draw at least one item")
        if not 0 <= self.in_batch <= 1:
            raise OptionError(f"{self.id}: in_batch={self.in_batch} is no share between 0 and 1")

    def accepts(self, block: Block) -> bool:
        """Work on the codes of chosen items."""
        return isinstance(block, ItemCodesBlock)

    def out_block(self, block: Block) -> Block:
        """Say how many there are."""
        assert isinstance(block, ItemCodesBlock)
        return replace(block, negatives=self.num, in_batch=self.in_batch)

    def draw(self, rng: Any, sample: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Draw item codes from the catalogue, and places in the batch."""
        from_batch = round(self.num * self.in_batch)
        even = torch.randint(1, self.num_items + 1, (self.num - from_batch,), generator=rng, device=rng.device)
        return even, torch.rand(from_batch, generator=rng, device=rng.device)

    def bind(self, block: Block) -> Bound:
        """Add the drawn items behind the chosen one: (B, 1) to (B, 1 + num), a sequence (B, n) to (B, n, 1 + num)."""

        def encode(chosen: Tensor, params: Any) -> Tensor:
            if params is None:
                return chosen
            even, places = params
            flat = chosen.reshape(-1)
            others = torch.cat([even, flat[(places * len(flat)).long()]])
            first = chosen.unsqueeze(-1) if chosen.shape[1] > 1 else chosen
            return torch.cat([first, others.expand(*first.shape[:-1], len(others))], -1)

        return Bound(encode)
