"""Tables larger than memory: fitted and encoded part by part, on one machine or on the workers of a Dask cluster.

Each proc takes one pass over the parts, which gives partial fits; merged, they are what one fit over all rows is. The
last pass encodes every part into its place in memory-mapped files, which a ColumnLoader then reads as it reads tensors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch

from graftwork.api import (
    Block,
    CategoryBlock,
    ColumnLoader,
    DataError,
    DataLoaders,
    OptionError,
    Plan,
    RegressionBlock,
    get_host,
)
from graftwork_tabular.blocks import RowBlock
from graftwork_tabular.columns import Columns, to_numbers, to_values
from graftwork_tabular.dates import AddDateparts
from graftwork_tabular.encode import ROW, TARGET, encode_rows, encode_targets, make_plan, target_block
from graftwork_tabular.procs import Fitting, ReadRow, TableTransform, take
from graftwork_tabular.reading import read_table
from graftwork_tabular.schema import Schema, infer_schema
from graftwork_tabular.statistics import Moments
from graftwork_tabular.targets import ScaleTarget
from graftwork_tabular.vocab import VocabCounts

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["encode_dataset", "load_encoded"]

META = "encoded.json"
SAMPLED, SAMPLED_LEAST = 50_000, 100
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Runner(Protocol):
    """Apply a function to every part, in order; one machine does it here, a Dask client on its workers."""

    def __call__(self, function: Callable[..., Any], *columns: Iterable[Any]) -> list[Any]:
        """Return the results in the order of the parts."""
        ...


def _here(function: Callable[..., Any], *columns: Iterable[Any]) -> list[Any]:
    return [function(*arguments) for arguments in zip(*columns, strict=True)]


def _on(client: Any) -> Runner:
    """Run on a Dask client's workers; a part whose worker dies is done again by another one."""

    def run(function: Callable[..., Any], *columns: Iterable[Any]) -> list[Any]:
        futures = client.map(function, *[list(column) for column in columns], pure=False)
        return list(client.gather(futures))

    return run


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recipe:
    """Say what every worker needs to know."""

    block: RowBlock
    target: Block
    names: tuple[str, ...]
    seed: int
    valid_pct: float
    done: tuple[TableTransform, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Say where a part begins: in the whole table, and in the files of both splits."""

    row: int
    train: int
    valid: int


@dataclass(slots=True, kw_only=True)
class _Survey:
    """Count a part's rows, and learn of its targets."""

    rows: int
    train: int
    valid: int
    target: Any


def encode_dataset(
    parts: Sequence[Any] | str | Path,
    folder: str | Path,
    *,
    y_names: str | Sequence[str],
    y_block: Literal["category", "number", "labels"] | None = None,
    cat_names: Sequence[str] | None = None,
    cont_names: Sequence[str] | None = None,
    date_names: Sequence[str] = (),
    drop: Sequence[str] = (),
    procs: Sequence[TableTransform] | None = None,
    valid_pct: float = 0.2,
    seed: int = 42,
    client: Any = None,
) -> Path:
    """Fit procs on the training rows of a table in parts, and encode all of it into files under `folder`.

    `parts` are paths (a folder means its Parquet files), frames, or Dask futures of frames; no two are in memory at
    once, or as many as `client`, a `distributed.Client`, has workers. `folder` must be one that all of them reach. A
    row belongs to the validation split by its number and the seed. Columns are looked at in some rows of every part.

    Raises:
        DataError: as TabularDataLoaders does.
    """
    from graftwork_tabular.data import default_procs

    run, listed = _here if client is None else _on(client), _listed(parts)
    if not 0 <= valid_pct < 1:
        raise OptionError(f"valid_pct={valid_pct} must be at least 0 and below 1")
    samples = run(_sample, listed, [max(SAMPLED_LEAST, SAMPLED // len(listed))] * len(listed))
    first = _joined([sample for _, sample in samples])
    names = (y_names,) if isinstance(y_names, str) else tuple(y_names)
    target, _ = target_block(first, names, y_block)
    named = bool(cat_names or cont_names or date_names)
    schema = infer_schema(
        first,
        target=names,
        cat_names=cat_names,
        cont_names=cont_names,
        date_names=date_names,
        drop=drop,
        only_given=named,
    )
    recipe = _Recipe(block=schema.block, target=target, names=names, seed=seed, valid_pct=valid_pct)
    starts = np.cumsum([0, *(rows for rows, _ in samples)])[:-1].tolist()
    surveys = run(_survey, listed, starts, [recipe] * len(listed))
    recipe, scale = _with_target(recipe, surveys)
    places = list(_places(surveys))
    given = list(default_procs(schema) if procs is None else procs)
    recipe = _fitted(run, listed, places, recipe, _with_dates(given, schema))
    plan = make_plan(recipe.block, recipe.target, recipe.done, scale)
    return _written(run, listed, places, recipe, plan, surveys, Path(folder))


def _listed(parts: Sequence[Any] | str | Path) -> list[Any]:
    if isinstance(parts, str | Path):
        path = Path(parts)
        parts = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    listed = [str(part) if isinstance(part, Path) else part for part in parts]
    if not listed:
        raise DataError("there are no parts: give paths of tables, or a folder of Parquet files")
    return listed


def _with_dates(procs: list[TableTransform], schema: Schema) -> list[TableTransform]:
    if schema.names("date") and not any(isinstance(proc, AddDateparts) for proc in procs):
        return [AddDateparts(), *procs]
    return procs


def _table_of(part: Any) -> pa.Table:
    return read_table(part).table


def _is_valid(first: int, count: int, seed: int, share: float) -> np.ndarray[Any, Any]:
    """Say of `count` rows, the first of which is number `first`, which are validated: by their number and the seed.

    The mixing is splitmix64's (Steele, Lea and Flood, 2014).
    """
    with np.errstate(over="ignore"):
        z = (np.arange(first, first + count, dtype=np.uint64) + np.uint64(seed) * np.uint64(0x10001)) * GOLDEN
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return np.asarray(z < np.uint64(share * 2**64 * (1 - 2**-53)))


def _usable(table: pa.Table, recipe: _Recipe) -> np.ndarray[Any, Any]:
    import pyarrow.compute as pc

    good = np.ones(table.num_rows, bool)
    for name in recipe.names:
        if isinstance(recipe.target, RegressionBlock):
            good &= ~np.isnan(to_numbers(table.column(name), name, []))
        else:
            good &= ~np.asarray(pc.is_null(table.column(name), nan_is_null=True))
    return good


def _sample(part: Any, count: int) -> tuple[int, pa.Table]:
    """Return how many rows a part has, and at most `count` of them, spread over it."""
    table = _table_of(part)
    rows = table.num_rows
    return rows, table.take(np.unique(np.linspace(0, rows - 1, min(rows, count)).astype(np.int64)))


def _joined(samples: Sequence[pa.Table]) -> pa.Table:
    import pyarrow as pa

    try:
        return pa.concat_tables(samples, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(
            f"the parts do not fit each other: {error}; give every column one type in all of them"
        ) from error


def _survey(part: Any, start: int, recipe: _Recipe) -> _Survey:
    table = _table_of(part)
    good = _usable(table, recipe)
    valid = _is_valid(start, len(good), recipe.seed, recipe.valid_pct)
    train = np.flatnonzero(good & ~valid)
    state: Any = None
    if isinstance(recipe.target, CategoryBlock):
        state = VocabCounts()
        state.update(to_values(table.column(recipe.names[0]).take(train)))
    elif isinstance(recipe.target, RegressionBlock):
        state = [Moments() for _ in recipe.names]
        for moments, name in zip(state, recipe.names, strict=True):
            moments.update(np.ascontiguousarray(to_numbers(table.column(name), name, [])[train]))
    return _Survey(rows=len(good), train=len(train), valid=int((good & valid).sum()), target=state)


def _with_target(recipe: _Recipe, surveys: Sequence[_Survey]) -> tuple[_Recipe, ScaleTarget | None]:
    if sum(survey.train for survey in surveys) == 0:
        raise DataError(f"no training row has a target ({', '.join(recipe.names)})")
    if isinstance(recipe.target, CategoryBlock):
        counts = reduce(_merged, (survey.target for survey in surveys))
        labels = tuple(counts.finish().values.to_pylist())
        if len(labels) < 2:
            raise DataError(f"only one class, {labels[0]!r}, occurs in the training split")
        return replace(recipe, target=CategoryBlock(labels)), None
    if not isinstance(recipe.target, RegressionBlock):
        return recipe, None
    moments = [reduce(_merged, states) for states in zip(*(survey.target for survey in surveys), strict=True)]
    mean, std = tuple(float(m.mean) for m in moments), tuple(float(m.std) or 1.0 for m in moments)
    return recipe, ScaleTarget(mean=mean, std=std)


def _merged(left: Any, right: Any) -> Any:
    left.merge(right)
    return left


def _places(surveys: Sequence[_Survey]) -> Iterator[_Place]:
    row = train = valid = 0
    for survey in surveys:
        yield _Place(row=row, train=train, valid=valid)
        row, train, valid = row + survey.rows, train + survey.train, valid + survey.valid


def _fitted(
    run: Runner, parts: Sequence[Any], places: Sequence[_Place], recipe: _Recipe, procs: Sequence[TableTransform]
) -> _Recipe:
    """Fit procs one after another: each is learned from what the ones before it give."""
    for proc in procs:
        fitted = proc
        if proc.needs_fit:
            states = run(_learn, parts, places, [recipe] * len(parts), [proc] * len(parts))
            fitted = reduce(_merged, states).finish()
        recipe = replace(recipe, done=(*recipe.done, fitted))
    return recipe


def _columns(table: pa.Table, recipe: _Recipe) -> tuple[Columns, RowBlock]:
    """Return a part's columns, and their block, after the procs done so far."""
    columns: Columns = {name: table.column(name) for name in table.column_names}
    block: Block = recipe.block
    columns = ReadRow().encode_columns(columns, recipe.block, [])
    for proc in recipe.done:
        assert isinstance(block, RowBlock)
        columns = proc.encode_columns(columns, block, [])
        block = proc.out_block(block)
    assert isinstance(block, RowBlock)
    return columns, block


def _learn(part: Any, place: _Place, recipe: _Recipe, proc: TableTransform) -> Fitting:
    table = _table_of(part)
    train = _usable(table, recipe) & ~_is_valid(place.row, table.num_rows, recipe.seed, recipe.valid_pct)
    columns, block = _columns(table, recipe)
    fitting = proc.fitting(block)
    rows = np.flatnonzero(train)
    if len(rows):
        fitting.update(take(columns, proc.learns_from(block), rows))
    return fitting


def _written(
    run: Runner,
    parts: Sequence[Any],
    places: Sequence[_Place],
    recipe: _Recipe,
    plan: Plan,
    surveys: Sequence[_Survey],
    folder: Path,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / META).unlink(missing_ok=True)
    sizes = {"train": sum(s.train for s in surveys), "valid": sum(s.valid for s in surveys)}
    row, y = (plan.fields[name].final.collate([_mock(plan, name)]) for name in (ROW, TARGET))
    for split, count in sizes.items():
        for name, like in ((ROW, row), (TARGET, y)):
            np.lib.format.open_memmap(
                folder / f"{split}-{name}.npy", "w+", like.numpy().dtype, (count, *like.shape[1:])
            ).flush()
    notes = run(_encode, parts, places, [recipe] * len(parts), [plan] * len(parts), [str(folder)] * len(parts))
    left = sum(s.rows - s.train - s.valid for s in surveys)
    said = list(dict.fromkeys(note for several in notes for note in several))
    said += [f"left out {left} row(s) without a target ({', '.join(recipe.names)})"] if left else []
    meta = {"plan": plan.to_config(), "rows": sizes, "seed": recipe.seed, "y_names": recipe.names, "notes": said}
    beside = folder / (META + ".part")
    beside.write_text(json.dumps(meta), encoding="utf-8")
    beside.replace(folder / META)
    return folder


def _mock(plan: Plan, name: str) -> Any:
    return plan.fields[name].final.mock(np.random.default_rng(0))


def _encode(part: Any, place: _Place, recipe: _Recipe, plan: Plan, folder: str) -> list[str]:
    table, notes = _table_of(part), list[str]()
    valid = _is_valid(place.row, table.num_rows, recipe.seed, recipe.valid_pct)
    rows = encode_rows(plan, table, notes)
    encoded = encode_targets(plan, table, recipe.names)
    for split, start in (("train", place.train), ("valid", place.valid)):
        mine = valid[encoded.rows] if split == "valid" else ~valid[encoded.rows]
        at = torch.from_numpy(np.flatnonzero(mine))
        if not len(at):
            continue
        kept = torch.from_numpy(encoded.rows)[at]
        for name, values in ((ROW, rows[kept]), (TARGET, encoded.values[at])):
            file = np.load(Path(folder) / f"{split}-{name}.npy", mmap_mode="r+")
            file[start : start + len(at)] = values.numpy()
            file.flush()
    return notes


def load_encoded(folder: str | Path, *, bs: int = 1024, valid_bs: int | None = None, seed: int = 42) -> DataLoaders:
    """Return loaders of what `encode_dataset` wrote; the files are mapped, not read.

    Raises:
        DataError: there is none, or its writing was not finished.
    """
    folder = Path(folder)
    if not (folder / META).exists():
        raise DataError(f"{folder} holds no {META}: encode_dataset did not finish there; run it again")
    meta = json.loads((folder / META).read_text(encoding="utf-8"))
    host = get_host()
    plan = Plan.from_config(meta["plan"], block=host.blocks.get, transform=host.transforms.get)

    def loader(split: str, size: int, *, training: bool) -> ColumnLoader:
        # Mapped copy-on-write: torch wants memory it may write to, and nothing reaches the file.
        columns = {
            name: torch.from_numpy(np.load(folder / f"{split}-{name}.npy", mmap_mode="c")) for name in (ROW, TARGET)
        }
        return ColumnLoader(columns, plan, bs=size, shuffle=training, seed=seed, training=training)

    def test(items: Any, with_labels: bool) -> ColumnLoader:
        from graftwork_tabular.data import table_loader

        return table_loader(plan, items, y_names=meta["y_names"] if with_labels else None, bs=valid_bs or bs)

    valid = loader("valid", valid_bs or bs, training=False) if meta["rows"]["valid"] else None
    return DataLoaders(train=loader("train", bs, training=True), valid=valid, test=test, notes=meta["notes"])
