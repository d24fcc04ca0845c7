"""Parts that networks for tables share: embeddings of all category columns at once, ranges and targets of outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, Final, final

import torch
from torch import Tensor, nn

from graftwork.api import ModelContext, OptionError, unknown
from graftwork_tabular.bins import NumberBins, read_bins
from graftwork_tabular.blocks import PackedRowBlock

__all__ = [
    "Embeddings",
    "Outputs",
    "RowEncoder",
    "SigmoidRange",
    "TableNet",
    "TokenEmbeddings",
    "check_share",
    "embedding_width",
    "embedding_widths",
    "output_sizes",
    "row_block",
    "value_range",
]

INT32_MAX: Final = 2**31 - 1


def row_block(ctx: ModelContext, model: str) -> PackedRowBlock:
    """Return the only input's block; raise OptionError if it is no packed row, or one without columns."""
    blocks = list(ctx.inputs.values())
    if len(blocks) != 1 or not isinstance(blocks[0], PackedRowBlock):
        raise OptionError(f"{model} takes one row of a table, and the data's inputs are {dict(ctx.inputs)}")
    if not blocks[0].names:
        raise OptionError(f"{model} has nothing to learn from: the rows have neither category nor number columns")
    return blocks[0]


def embedding_width(n: int) -> int:
    """Return fastai's width of an embedding of `n` values, 1.6 n^0.56 and at most 600."""
    width: float = 1.6 * n**0.56
    return min(600, round(width))


def embedding_widths(block: PackedRowBlock, given: Mapping[str, int] | None = None) -> tuple[int, ...]:
    """Return the width of each category column's embedding: the one `given` for its name, else fastai's.

    A column of n values, a code for unseen ones and one for missing ones counts as n + 1, as in fastai.

    Raises:
        UnknownName: a width for a column that is no category.
    """
    given = {} if given is None else given
    for name, width in given.items():
        if name not in block.cat:
            raise unknown("category column", name, block.cat)
        if width < 1:
            raise OptionError(f"emb_szs gives column {name!r} the width {width}; it needs at least 1")
    return tuple(given.get(name, embedding_width(size - 1)) for name, size in zip(block.cat, block.sizes, strict=True))


class TableNet(nn.Module, ABC):
    """Be a network of packed rows."""

    @abstractmethod
    def embedding(self, column: str) -> Tensor | None:
        """Return what it learned of a category column, (codes, width); None where it has no embedding of it."""


@final
class Embeddings(nn.Module):
    """Embed all category columns, each in its own width, with one look-up in one flat table.

    `sizes` are the columns' numbers of codes. Column j is a matrix (size, width) within the table; `matrix` gives it.
    Initial weights are a normal distribution with deviation `std`, truncated at twice that.
    """

    column: Tensor
    stride: Tensor
    start: Tensor

    def __init__(self, sizes: Sequence[int], widths: Sequence[int], *, std: float = 0.01) -> None:
        """Lay the columns' matrices one behind the other."""
        super().__init__()
        self.sizes, self.widths = tuple(sizes), tuple(widths)
        self.starts = tuple(accumulate((n * w for n, w in zip(sizes, widths, strict=True)), initial=0))
        # Of two dimensions, as weights are that decay; a look-up of one number each needs one.
        self.table = nn.Parameter(torch.empty(self.starts[-1], 1))
        nn.init.trunc_normal_(self.table, std=std, a=-2 * std, b=2 * std)
        integer = torch.int32 if self.starts[-1] <= INT32_MAX else torch.int64
        spread = [
            (j, w, s + i) for j, (w, s) in enumerate(zip(self.widths, self.starts, strict=False)) for i in range(w)
        ]
        places = torch.tensor(spread, dtype=integer).reshape(-1, 3)
        for name, row in zip(("column", "stride", "start"), places.T.contiguous(), strict=True):
            self.register_buffer(name, row.clone(), persistent=False)

    @property
    def width(self) -> int:
        """Number of all columns' dimensions together."""
        return sum(self.widths)

    def matrix(self, column: int) -> Tensor:
        """Return a column's embeddings, (codes, width), a view of the table."""
        first, last = self.starts[column], self.starts[column + 1]
        return self.table[first:last].view(self.sizes[column], self.widths[column])

    def forward(self, codes_BC: Tensor) -> Tensor:
        """Return all columns' embeddings side by side, (B, width)."""
        codes = codes_BC.to(self.start.dtype).index_select(1, self.column)
        index_BW = torch.addcmul(self.start, codes, self.stride)
        return self.table.view(-1).index_select(0, index_BW.view(-1)).view(index_BW.shape)


@final
class TokenEmbeddings(nn.Module):
    """Embed all category columns in one width, with one look-up: (B, columns) codes become (B, columns, width)."""

    start: Tensor

    def __init__(self, sizes: Sequence[int], width: int, *, bound: float) -> None:
        """Lay the columns' rows one behind the other; initial weights are uniform within `bound`."""
        super().__init__()
        self.sizes = tuple(sizes)
        self.starts = tuple(accumulate(sizes, initial=0))
        self.table = nn.Parameter(torch.empty(self.starts[-1], width).uniform_(-bound, bound))
        self.register_buffer("start", torch.tensor(self.starts[:-1], dtype=torch.int64), persistent=False)

    def matrix(self, column: int) -> Tensor:
        """Return a column's embeddings, (codes, width), a view of the table."""
        return self.table[self.starts[column] : self.starts[column + 1]]

    def forward(self, codes_BC: Tensor) -> Tensor:
        """Look all columns up."""
        return nn.functional.embedding(codes_BC + self.start, self.table)


@final
class RowEncoder(nn.Module):
    """Turn packed rows into (B, width) inputs of a linear layer.

    Categories of at most `max_one_hot` codes become one column of 0 and 1 per code, others an embedding; unseen values
    are zeros in both, and say nothing. Numbers are encoded in `bins` (see NumberBins).
    """

    column: Tensor
    code: Tensor

    def __init__(self, block: PackedRowBlock, *, bins: Mapping[str, Any] | None, max_one_hot: int = 64) -> None:
        """Divide the categories by their number of codes."""
        super().__init__()
        self.block = block
        few = [j for j, size in enumerate(block.sizes) if size <= max_one_hot]
        many = [j for j, size in enumerate(block.sizes) if size > max_one_hot]
        codes = torch.tensor([(j, c) for j in few for c in range(1, block.sizes[j])], dtype=torch.int64).reshape(-1, 2)
        self.register_buffer("column", codes[:, 0].clone(), persistent=False)
        self.register_buffer("code", codes[:, 1].float(), persistent=False)
        self.embeddings = _embeddings([block.sizes[j] for j in many]) if many else None
        self.many = many
        self.numbers = NumberBins(read_bins(block.cont, bins))

    @property
    def width(self) -> int:
        """Number of columns that come out."""
        return len(self.code) + self.numbers.width + (0 if self.embeddings is None else self.embeddings.width)

    def forward(self, x: Tensor) -> Tensor:
        """Encode packed rows (B, n_cat + n_cont)."""
        n_cat = self.block.n_cat
        parts = [(x.index_select(1, self.column) == self.code).float()] if len(self.code) else []
        if self.embeddings is not None:
            parts.append(self.embeddings(x[:, self.many].int()))
        if self.block.cont:
            parts.append(self.numbers(x[:, n_cat:]))
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _embeddings(sizes: Sequence[int]) -> Embeddings:
    made = Embeddings(sizes, [embedding_width(size - 1) for size in sizes], std=0.3)
    with torch.no_grad():
        for j in range(len(sizes)):
            made.matrix(j)[[0, -1]] = 0.0
    return made


@final
class SigmoidRange(nn.Module):
    """Squeeze outputs between `low` and `high`, one bound for all outputs or one for each."""

    low: Tensor
    span: Tensor

    def __init__(self, low: float | Sequence[float], high: float | Sequence[float]) -> None:
        """Keep the bounds as buffers that are not saved: they are options of the model."""
        super().__init__()
        self.register_buffer("low", torch.tensor(low, dtype=torch.float32), persistent=False)
        self.register_buffer("span", torch.tensor(high, dtype=torch.float32) - self.low, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply a scaled sigmoid."""
        return x.sigmoid() * self.span + self.low


def value_range(y_range: Sequence[Any] | None, n_out: int) -> SigmoidRange | None:
    """Return the layer for a range (low, high), of numbers or of one number per output; None where there is none."""
    if y_range is None:
        return None
    if len(y_range) != 2:
        raise OptionError(f"y_range={y_range!r} is no pair (low, high)")
    bounds = [list(b) if isinstance(b, Sequence) else [b] * n_out for b in y_range]
    if not all(len(b) == n_out for b in bounds) or not all(a < b for a, b in zip(*bounds, strict=True)):
        raise OptionError(
            f"y_range={y_range!r} needs low below high, as two numbers or two lists of {n_out}, one for each output"
        )
    return SigmoidRange(bounds[0], bounds[1])


def output_sizes(ctx: ModelContext) -> tuple[int, ...]:
    """Return how many outputs each target needs; raise OptionError for a target of which nothing can be learned."""
    for name, block in ctx.targets.items():
        if block.num_outputs < 1:
            raise OptionError(f"target {name!r} needs no output: {block!r}")
    return tuple(block.num_outputs for block in ctx.targets.values())


@final
class Outputs(nn.Module):
    """Give each target its part of the last dimension; a single target gets all of it, as it is."""

    def __init__(self, sizes: Sequence[int]) -> None:
        """Hold the targets' numbers of outputs."""
        super().__init__()
        self.sizes = list(sizes)

    def forward(self, raw: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Split."""
        return raw if len(self.sizes) == 1 else raw.split(self.sizes, -1)


def check_share(name: str, value: float) -> float:
    """Return a share of activations to drop; raise OptionError unless it is at least 0 and below 1."""
    if not 0 <= value < 1:
        raise OptionError(f"{name}={value}: a share of activations to drop is at least 0 and below 1")
    return value
