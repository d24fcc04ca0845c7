"""Tables for the categorify case, and the peers' ways to fit vocabularies on a part of the rows and encode all of them.

The large table has five text and five whole-number columns of 12 to a million distinct values, drawn evenly. The small
one is `adult` where GRAFTWORK_DATA is set; else it is invented: 32,561 rows, eight columns of text, six of numbers.
Peers' interpreters import this module, so at its top are numpy and pyarrow alone.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather as feather

__all__ = [
    "CATEGORIES",
    "NUMBERS",
    "PEERS",
    "SMALL_PEERS",
    "Encoded",
    "checksums",
    "columns_of",
    "large_table",
    "peak_megabytes",
    "read",
    "reset_peak",
    "small_table",
    "train_rows",
]

# The peers are installed elsewhere, if at all.
# mypy: disable-error-code="import-not-found,import-untyped"

TRAIN: Final = 0.8
TEXTS: Final[dict[str, tuple[int, Callable[[int], str]]]] = {
    "kind": (20, lambda n: f"cat_{n:02d}"),
    "article": (1000, lambda n: f"SKU-{n * 7919:07d}-eu"),
    "mail": (50_000, lambda n: f"user{n}@mail.example"),
    "customer": (300_000, lambda n: f"customer_{n:09d}"),
    "session": (1_000_000, lambda n: f"{n * 0x9E3779B97F4A7C15 % 2**64:016x}"),
}
CLOSE: Final = {"month": 12, "shop": 1000, "town": 100_000}
FAR: Final = {"device": 300_000, "account": 1_000_000}
CATEGORIES: Final = (
    "workclass", "education", "marital-status", "occupation", "relationship", "race", "sex", "native-country",
)  # fmt: skip
NUMBERS: Final = ("age", "fnlwgt", "education-num", "capital-gain", "capital-loss", "hours-per-week")
Encoded = dict[str, tuple[int, Any]]
"""By column: the size of the vocabulary, and codes of all rows; 0 for what the training rows have not."""


# -- tables ----------------------------------------------------------------------------------------------------------


def large_table(path: Path, num_rows: int) -> None:
    """Write the large table to an Arrow file."""
    rng = np.random.default_rng(7)
    columns = {name: drawn(pa.array(map(text, rng.permutation(many).tolist()), pa.large_string()), num_rows, rng)
               for name, (many, text) in TEXTS.items()}  # fmt: skip
    columns |= {name: pa.array(rng.integers(0, many, num_rows)) for name, many in CLOSE.items()}
    columns |= {name: drawn(pa.array(rng.integers(-(2**62), 2**62, n)), num_rows, rng) for name, n in FAR.items()}
    feather.write_feather(pa.table(columns), str(path), compression="uncompressed")


def drawn(values: pa.Array, num_rows: int, rng: np.random.Generator) -> pa.Array:
    """Draw rows evenly."""
    return values.take(pa.array(rng.integers(0, len(values), num_rows)))


def read(path: str) -> pa.Table:
    """Read an Arrow file into memory."""
    return feather.read_table(path, memory_map=False)


def small_table(folder: Path) -> tuple[Path, str]:
    """Write the small table as CSV, or find it; say which it is."""
    data = os.environ.get("GRAFTWORK_DATA")
    known = Path(data) / "adult" / "adult.csv" if data else None
    if known is not None and known.is_file():
        return known, "adult"
    import pandas as pd

    rng, num_rows = np.random.default_rng(1), 32_561
    words = np.array([f"word number {n}" for n in range(40)])
    columns = {name: words[rng.integers(0, 2 + 5 * n, num_rows)] for n, name in enumerate(CATEGORIES)}
    numbers = {name: rng.integers(0, 10 ** (n + 1), num_rows) for n, name in enumerate(NUMBERS)}
    pd.DataFrame({**columns, **numbers}).to_csv(folder / "small.csv", index=False)
    return folder / "small.csv", "an invented table of adult's shape"


# -- memory ----------------------------------------------------------------------------------------------------------


def reset_peak() -> float:
    """Hand back free memory and forget the peak, where Linux allows it; return what the process holds now, in MB."""
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5", encoding="utf-8")
    return _status("VmRSS")


def peak_megabytes() -> float:
    """Return the peak since then."""
    return _status("VmHWM")


def _status(name: str) -> float:
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1.024e-3 for line in lines if line.startswith(f"{name}:")), 0.0)


# -- peers -----------------------------------------------------------------------------------------------------------


def in_two_threads(job: Callable[[Any], tuple[int, Any]], table: pa.Table) -> Encoded:
    """Do a job for every column, the largest first."""
    from concurrent.futures import ThreadPoolExecutor

    names = sorted(table.column_names, key=lambda name: table[name].nbytes, reverse=True)
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(names, pool.map(lambda name: job(table[name]), names), strict=True))


def train_rows(rows: int) -> int:
    """Return how many of the rows are for training: the first ones."""
    return int(rows * TRAIN)


def pyarrow_index_in(table: pa.Table) -> Encoded:
    """Take the training rows' distinct values, sort them, and look all rows up."""

    def job(column: Any) -> tuple[int, Any]:
        found = column.slice(0, train_rows(len(column))).unique().drop_null()
        values = found.take(pc.sort_indices(found))
        codes = pc.fill_null(pc.index_in(column, value_set=values), -1)
        return len(values), pc.add(codes, pa.scalar(1, pa.int32())).to_numpy()

    return in_two_threads(job, table)


def pyarrow_dictionary(table: pa.Table) -> Encoded:
    """Encode all rows, then sort the dictionary and leave out what the training rows have not."""

    def job(column: Any) -> tuple[int, Any]:
        encoded = column.combine_chunks().dictionary_encode()
        encoded = encoded.chunk(0) if isinstance(encoded, pa.ChunkedArray) else encoded
        index = pc.fill_null(encoded.indices, len(encoded.dictionary)).to_numpy()
        seen = np.bincount(index[: train_rows(len(index))], minlength=len(encoded.dictionary) + 1) > 0
        order = pc.sort_indices(encoded.dictionary).to_numpy()
        order = order[seen[order]]
        ranks = np.zeros(len(seen), np.int32)
        ranks[order] = np.arange(1, len(order) + 1)
        return len(order), ranks[index]

    return in_two_threads(job, table)


def pandas_factorize(table: pa.Table) -> Encoded:
    """Factorize all rows with pandas, then leave out what the training rows have not."""
    import pandas as pd

    def job(column: Any) -> tuple[int, Any]:
        codes, values = pd.factorize(column, sort=True)
        seen = np.bincount(codes[: train_rows(len(codes))] + 1, minlength=len(values) + 1) > 0
        seen[0] = False
        return int(seen.sum()), (np.cumsum(seen) * seen).astype(np.int32)[codes + 1]

    frame = table.to_pandas()
    return {name: job(frame[name]) for name in frame}


def polars_replace(table: pa.Table) -> Encoded:
    """Take the training rows' distinct values with polars, sort them, and replace."""
    import polars as pl

    def job(column: Any) -> tuple[int, Any]:
        values = column.head(train_rows(len(column))).drop_nulls().unique().sort()
        codes = pl.Series(range(1, len(values) + 1), dtype=pl.Int32)
        return len(values), column.replace_strict(values, codes, default=0, return_dtype=pl.Int32).to_numpy()

    frame: Any = pl.from_arrow(table)
    return {column.name: job(column) for column in frame}


def fastai_categorify(table: pa.Table) -> Encoded:
    """Encode as fastai does. Its frame's categories are those of all rows: what training has not gets codes, too."""
    from fastai.tabular.core import Categorify, TabularPandas

    rows = train_rows(len(table))
    splits = (list(range(rows)), list(range(rows, len(table))))
    frame = table.to_pandas()
    found = TabularPandas(frame, procs=[Categorify], cat_names=list(frame.columns), cont_names=[], splits=splits)
    return {name: (len(found.classes[name]) - 1, found.items[name].to_numpy()) for name in frame}


def scikit_learn(table: pa.Table) -> Encoded:
    """Encode with an OrdinalEncoder."""
    from sklearn.preprocessing import OrdinalEncoder

    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-1)
    frame = table.to_pandas()
    encoder.fit(frame.iloc[: train_rows(len(frame))])
    codes = (encoder.transform(frame) + 1).astype(np.int32)
    return {name: (len(encoder.categories_[n]), codes[:, n]) for n, name in enumerate(frame)}


PEERS: Final[dict[str, Callable[[pa.Table], Encoded]]] = {
    "pyarrow, index_in": pyarrow_index_in,
    "pyarrow, dictionary": pyarrow_dictionary,
    "pandas": pandas_factorize,
    "polars": polars_replace,
    "fastai": fastai_categorify,
    "scikit-learn": scikit_learn,
}


# -- the small table -------------------------------------------------------------------------------------------------


def small_pyarrow(frame: Any) -> object:
    """Encode text, and scale numbers to mean 0 and deviation 1, with Arrow's functions in two threads."""
    from concurrent.futures import ThreadPoolExecutor

    table = pa.Table.from_pandas(frame, preserve_index=False)
    rows = train_rows(len(table))

    def scaled(name: str) -> Any:
        values = table[name].cast(pa.float64())
        train = values.slice(0, rows)
        return pc.divide(pc.subtract(values, pc.mean(train)), pc.stddev(train)).cast(pa.float32()).to_numpy()

    with ThreadPoolExecutor(2) as pool:
        numbers = pool.map(scaled, NUMBERS)
        return [pyarrow_index_in(table.select(list(CATEGORIES))), list(numbers)]


def small_pandas(frame: Any) -> object:
    """Encode and scale with pandas and numpy."""
    rows = train_rows(len(frame))
    numbers = frame[list(NUMBERS)].to_numpy(np.float64)
    train = numbers[:rows]
    texts = pa.Table.from_pandas(frame[list(CATEGORIES)], preserve_index=False)
    return [pandas_factorize(texts), ((numbers - train.mean(0)) / train.std(0)).astype(np.float32)]


def small_fastai(frame: Any) -> object:
    """Encode and scale with fastai's usual procs."""
    from fastai.tabular.core import Categorify, FillMissing, Normalize, TabularPandas

    rows = train_rows(len(frame))
    splits = (list(range(rows)), list(range(rows, len(frame))))
    procs = [Categorify, FillMissing, Normalize]
    return TabularPandas(frame, procs=procs, cat_names=list(CATEGORIES), cont_names=list(NUMBERS), splits=splits)


def small_scikit_learn(frame: Any) -> object:
    """Encode and scale with scikit-learn."""
    from sklearn.preprocessing import OrdinalEncoder, StandardScaler

    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-1)
    scaler, rows = StandardScaler(), train_rows(len(frame))
    texts, numbers = frame[list(CATEGORIES)], frame[list(NUMBERS)]
    encoder.fit(texts.iloc[:rows])
    scaler.fit(numbers.iloc[:rows])
    return [encoder.transform(texts), scaler.transform(numbers)]


SMALL_PEERS: Final[dict[str, Callable[[Any], object]]] = {
    "pyarrow": small_pyarrow,
    "pandas": small_pandas,
    "fastai": small_fastai,
    "scikit-learn": small_scikit_learn,
}


def checksums(encoded: Encoded) -> dict[str, list[int]]:
    """Return by column the size of the vocabulary and a sum that depends on every code and its row."""
    return {name: [size, _checksum(codes)] for name, (size, codes) in sorted(encoded.items())}


def _checksum(codes: Any) -> int:
    wide = np.asarray(codes, np.uint64)
    return int((wide * np.arange(1, 2 * len(wide), 2, dtype=np.uint64)).sum(dtype=np.uint64))


def columns_of(table: pa.Table, names: Iterable[str] | None = None) -> dict[str, Any]:
    """Return columns by name."""
    return {name: table[name] for name in (names or table.column_names)}
