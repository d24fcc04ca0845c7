"""Side features: what is known of users and items beside their ratings, encoded once and looked up by code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graftwork.api import Block, BlockError, Bound, DataError, OptionError, Plan, Transform, get_host, unknown

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.axes import Axes

__all__ = ["EncodeFeatures", "Features", "FeaturesBlock", "PackedFeaturesBlock", "fit_features", "id_column_of"]

ROW = "row"
SHOWN = 8


@final
@dataclass(frozen=True)
class FeaturesBlock(Block):
    """Hold what is known of somebody new: a mapping from column to value, or None where only the id is given.

    The features of everybody in the tables a model was trained with are in the model, and need not be given again.
    """

    id: ClassVar[str] = "collab/features"
    optional: ClassVar[bool] = True
    columns: tuple[str, ...] = ()

    def check(self, value: Any) -> str | None:
        """Return why `value` is no mapping with these columns, or None."""
        if value is None:
            return None
        if not isinstance(value, Mapping):
            return f"features are a mapping from column to value, not {type(value).__name__}"
        missing = [name for name in self.columns if name not in value]
        return f"the column {missing[0]!r} is missing" if missing else None

    def mock(self, rng: np.random.Generator) -> Any:
        """Invent nothing: the id is enough."""
        return None

    def collate(self, values: Sequence[Any]) -> Tensor:
        """Refuse: features are encoded before they are batched."""
        raise BlockError(f"{self.id} has no tensor form; encode it first (EncodeFeatures)")

    def uncollate(self, column: Tensor) -> list[Any]:
        """Refuse: features are encoded before they are batched."""
        raise BlockError(f"{self.id} has no tensor form")

    def show(self, value: Any, ax: Axes) -> None:
        """Write the features as lines of text."""
        lines = [f"{name}: {cell}" for name, cell in list((value or {}).items())[:SHOWN]]
        ax.text(0.0, 1.0, "\n".join(lines), va="top", fontsize=7, transform=ax.transAxes)


@final
@dataclass(frozen=True)
class PackedFeaturesBlock(Block):
    """Hold encoded features, float32 (columns,), or an empty array where they are those of the id.

    In a batch (B, columns), nan where they are the id's, or (B, 0) if that is so for all. `sizes` says how many codes
    each of the leading columns has; `num_numbers` columns of numbers follow.
    """

    id: ClassVar[str] = "collab/packed-features"
    sizes: tuple[int, ...] = ()
    num_numbers: int = 0

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.sizes) + self.num_numbers

    def check(self, value: Any) -> str | None:
        """Return why `value` is not such a row, or None."""
        if not isinstance(value, np.ndarray) or value.shape not in ((0,), (self.width,)):
            return f"features are an array of shape ({self.width},), or an empty one"
        outside = [i for i, size in enumerate(self.sizes) if value.size and not 0 <= value[i] < size]
        return f"code {value[outside[0]]} is not in 0 … {self.sizes[outside[0]] - 1}" if outside else None

    def mock(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """Invent a row."""
        codes = [rng.integers(size) for size in self.sizes]
        return np.concatenate([np.asarray(codes, np.float32), rng.normal(size=self.num_numbers).astype(np.float32)])

    def collate(self, values: Sequence[Any]) -> Tensor:
        """Stack to float32 (B, columns), or (B, 0) if no row is given."""
        if not any(len(value) for value in values):
            return torch.empty(len(values), 0)
        nothing = np.full(self.width, np.nan, dtype=np.float32)
        return torch.from_numpy(np.stack([value if len(value) else nothing for value in values]))

    def uncollate(self, column: Tensor) -> list[Any]:
        """Return one array per row, empty where the features are the id's."""
        rows = column.cpu().numpy()
        return [row if row.size and not np.isnan(row).all() else row[:0] for row in rows]

    def show(self, value: Any, ax: Axes) -> None:
        """Draw nothing: codes tell nobody anything."""


@final
@dataclass(frozen=True)
class EncodeFeatures(Transform):
    """Encode a row of features by the fitted procs of graftwork-tabular; nothing given stays nothing.

    `recipe` is the JSON of the plan from a row to a packed row.
    """

    id: ClassVar[str] = "collab/encode-features"
    recipe: Mapping[str, Any]
    sizes: tuple[int, ...] = ()
    num_numbers: int = 0

    def accepts(self, block: Block) -> bool:
        """Work on features."""
        return isinstance(block, FeaturesBlock)

    def out_block(self, block: Block) -> Block:
        """Give packed features."""
        return PackedFeaturesBlock(self.sizes, self.num_numbers)

    def bind(self, block: Block) -> Bound:
        """Run the procs on a row."""
        host = get_host()
        plan = Plan.from_config(self.recipe, block=host.blocks.get, transform=host.transforms.get)
        nothing = np.empty(0, dtype=np.float32)

        def encode(value: Any, _: Any) -> NDArray[np.float32]:
            if value is None:
                return nothing
            packed: NDArray[np.float32] = plan.encode({ROW: value})[ROW]
            return packed

        return Bound(encode)


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Features:
    """Hold the encoded features of all users, or of all items: `rows` (codes, columns), the first for the unknown."""

    rows: Tensor
    block: FeaturesBlock
    transform: EncodeFeatures
    notes: tuple[str, ...] = ()


def id_column_of(table: pa.Table, wanted: str, what: str) -> str:
    """Return the column of ids: the one called as in the ratings, else the first; raise UnknownName for one named."""
    if wanted in table.column_names:
        return wanted
    first: str = table.column_names[0]
    if len(table.column_names) < 2:
        raise DataError(f"the features of {what}s need a column of ids and one of features; found {table.column_names}")
    return first


def fit_features(
    table: pa.Table, *, id_column: str, codes: NDArray[np.int64], seen: NDArray[np.bool_], what: str
) -> Features:
    """Encode a table whose rows have these codes into rows by code; statistics are of those `seen` in training.

    Of several rows of one id the last one counts, which is said; an id without a row has missing values.

    Raises:
        DataError: no row is of anybody that training sees.
    """
    from graftwork_tabular import PackedRowBlock, fit_procs, infer_schema

    place = np.full(len(seen), -1, dtype=np.int64)
    place[codes] = np.arange(len(codes))
    known = np.flatnonzero((place >= 0) & seen)
    if len(known) == 0:
        raise DataError(f"the features of {what}s are of nobody in the ratings; is {id_column!r} the column of ids?")
    by_code = _take_or_null(table.drop_columns([id_column]), place)
    flags = _flags(by_code, known)
    schema = infer_schema(by_code.take(known), cont_names=flags)
    fitted, rows, said = fit_procs(by_code, schema.block, _procs(schema), known)
    steps = Plan.compile({ROW: schema.block}, inputs=(ROW,), targets=(), item_tfms=fitted, train=lambda _: ())
    packed = steps.fields[ROW].final
    assert isinstance(packed, PackedRowBlock)
    names = tuple(name for name, *_ in schema.block.columns)
    made = EncodeFeatures(steps.to_config(), packed.sizes, packed.n_cont)
    return Features(
        rows=rows, block=FeaturesBlock(names), transform=made, notes=(*said, *_said(table, codes, place, seen, what))
    )


def _take_or_null(table: pa.Table, place: NDArray[np.int64]) -> pa.Table:
    """Return the rows at some places, rows of nulls where the place is -1."""
    import pyarrow as pa

    return table.take(pa.array(np.where(place < 0, 0, place), mask=place < 0))


def _flags(table: pa.Table, rows: NDArray[np.int64]) -> list[str]:
    """Name the columns of 0 and 1: as numbers they take one column, as categories an embedding each."""
    import pyarrow as pa
    import pyarrow.compute as pc

    whole = [name for name in table.column_names if pa.types.is_integer(table.schema.field(name).type)]
    return [name for name in whole if set(pc.unique(table.column(name).take(rows)).to_pylist()) == {0, 1}]


def _procs(schema: Any) -> list[Any]:
    from graftwork_tabular import AddDateparts, Categorify, FillMissing, Normalize

    dates = [AddDateparts()] if schema.names("date") else []
    return [*dates, FillMissing(), Categorify(), Normalize()]


def _said(
    table: pa.Table, codes: NDArray[np.int64], place: NDArray[np.int64], seen: NDArray[np.bool_], what: str
) -> list[str]:
    twice, without = len(codes) - int((place >= 0).sum()), int((seen & (place < 0)).sum())
    notes = [f"{twice} rows of features repeat one {what}; the last one of each counts"] if twice else []
    if without:
        notes.append(f"{without} of {int(seen.sum())} {what}s in training have no features; theirs count as missing")
    return notes


def checked_given(given: Mapping[str, Any], names: Sequence[str]) -> None:
    """Raise UnknownName for features of a side there is none of."""
    for name in given:
        if name not in names:
            raise unknown("side", name, names)


def same_kind(ids: pa.ChunkedArray, like: pa.ChunkedArray, what: str) -> pa.ChunkedArray:
    """Return ids as the ratings have them, numbers or text; raise OptionError if they cannot be."""
    import pyarrow as pa

    try:
        return ids.cast(like.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise OptionError(
            f"the features' {what} ids are {ids.type}, those of the ratings {like.type}: {error}"
        ) from error
