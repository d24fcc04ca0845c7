from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from graftwork.api import ColumnLoader, DataError, IndexSplitter, OptionError
from graftwork_tabular import TabularDataLoaders, encode_dataset, load_encoded


def table(rows: int = 3000) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "job": rng.choice(["baker", "clerk", "driver", "Köln", None], rows),
            "zip": rng.integers(0, 400, rows),
            "age": np.where(rng.random(rows) < 0.1, np.nan, rng.normal(40, 1e3, rows)),
            "when": pd.date_range("2001-01-01", periods=rows, freq="7h"),
            "paid": rng.choice(["no", "yes"], rows),
            "price": rng.normal(1e6, 1e3, rows),
        }
    )
    frame.loc[::97, "paid"] = None
    return frame


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    frame, cuts = table(), [0, 1, 700, 1900, 3000]
    for i, (low, high) in enumerate(pairwise(cuts)):
        frame.iloc[low:high].to_parquet(folder / f"part-{i}.parquet")
    return folder


def columns(loader: Any) -> dict[str, torch.Tensor]:
    assert isinstance(loader, ColumnLoader)
    return loader.columns


@pytest.mark.parametrize("target", ["paid", "price"])
def test_parts_give_what_the_whole_gives(parts: Path, tmp_path: Path, target: str) -> None:
    other = {"paid": "price", "price": "paid"}[target]
    data = load_encoded(encode_dataset(parts, tmp_path / "e", y_names=target, drop=[other]))
    assert data.valid is not None
    frame = table().dropna(subset=target).reset_index(drop=True)
    numbers = table()[target].notna().to_numpy().nonzero()[0]
    held = _held_out(numbers)
    whole = TabularDataLoaders.from_df(frame, y_names=target, drop=[other], splitter=IndexSplitter(held.nonzero()[0]))
    assert data.plan.to_config() == whole.plan.to_config()
    assert data.train.num_items == whole.train.num_items
    theirs = whole.train
    assert isinstance(theirs, ColumnLoader)
    order = theirs.positions.argsort()
    for name, column in columns(data.train).items():
        assert torch.equal(column, theirs.columns[name][order]), name
    assert 0.15 < data.valid.num_items / len(frame) < 0.25
    assert data.test_dl(table().head(3)).num_items == 3


def _held_out(numbers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    from graftwork_tabular.chunked import _is_valid

    return _is_valid(0, int(numbers.max()) + 1, 42, 0.2)[numbers]


def test_how_the_table_is_cut_changes_nothing(parts: Path, tmp_path: Path) -> None:
    first = load_encoded(encode_dataset(parts, tmp_path / "a", y_names="paid"))
    one = load_encoded(encode_dataset([table()], tmp_path / "b", y_names="paid"))
    assert first.plan.to_config() == one.plan.to_config()
    for name in ("row", "y"):
        assert (tmp_path / "a" / f"train-{name}.npy").read_bytes() == (
            tmp_path / "b" / f"train-{name}.npy"
        ).read_bytes()
    assert first.notes == one.notes == ("left out 31 row(s) without a target (paid)",)


def test_batches_of_a_mapped_table(parts: Path, tmp_path: Path) -> None:
    folder = encode_dataset(parts, tmp_path, y_names="paid", valid_pct=0.0)
    data = load_encoded(folder, bs=100)
    assert data.valid is None
    before = (folder / "train-row.npy").read_bytes()
    seen = torch.cat([batch.index for batch in data.train.at(0)])
    assert sorted(seen.tolist()) == list(range(2969))
    columns(data.train)["row"].zero_()
    assert (folder / "train-row.npy").read_bytes() == before


def test_what_is_not_finished_is_not_read(parts: Path, tmp_path: Path) -> None:
    folder = encode_dataset(parts, tmp_path, y_names="paid")
    (folder / "encoded.json").unlink()
    with pytest.raises(DataError, match="did not finish"):
        load_encoded(folder)


def test_bad_calls(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no parts"):
        encode_dataset(tmp_path, tmp_path / "e", y_names="paid")
    with pytest.raises(OptionError, match="valid_pct=1"):
        encode_dataset([table()], tmp_path / "e", y_names="paid", valid_pct=1.0)
    with pytest.raises(DataError, match="only one class"):
        encode_dataset([table().assign(paid="no")], tmp_path / "e", y_names="paid")
    with pytest.raises(DataError, match="no training row has a target"):
        encode_dataset([table().assign(paid=None)], tmp_path / "e", y_names="paid", y_block="category")
    with pytest.raises(DataError, match="do not fit each other"):
        encode_dataset([table(), table().assign(zip="x")], tmp_path / "e", y_names="paid")


# -- Dask -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
        ) as cluster,
        distributed.Client(cluster) as made,
    ):
        yield made


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_two_worker_processes_give_what_one_gives(parts: Path, tmp_path: Path, client: Any) -> None:
    one = encode_dataset(parts, tmp_path / "one", y_names="paid")
    two = encode_dataset(parts, tmp_path / "two", y_names="paid", client=client)
    assert (one / "encoded.json").read_text() == (two / "encoded.json").read_text()
    for split in ("train", "valid"):
        for name in ("row", "y"):
            assert (one / f"{split}-{name}.npy").read_bytes() == (two / f"{split}-{name}.npy").read_bytes()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_worker_killed_half_way_changes_nothing(parts: Path, tmp_path: Path, client: Any) -> None:
    one = encode_dataset(parts, tmp_path / "one", y_names="paid")
    marker = tmp_path / "killed"
    slow = [client.submit(_read_and_die_once, str(path), str(marker), pure=False) for path in sorted(parts.glob("*"))]
    two = encode_dataset(slow, tmp_path / "two", y_names="paid", client=client)
    assert marker.exists()
    assert (one / "encoded.json").read_text() == (two / "encoded.json").read_text()
    assert (one / "train-row.npy").read_bytes() == (two / "train-row.npy").read_bytes()


def _read_and_die_once(path: str, marker: str) -> pd.DataFrame:
    """Read a part; the first worker to read the third one dies of it."""
    if "part-2" in path and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return pd.read_parquet(path)
