"""The categorify case: every side does the same work, and what it compares is what it says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # `bench` is no installed package

from bench import tables
from bench.cases import categorify

ROOT = Path(__file__).parents[1]
HERE = ("pyarrow, index_in", "pyarrow, dictionary", "pandas", "scikit-learn")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    path = tmp_path_factory.mktemp("tables") / "large.arrow"
    tables.large_table(path, 3000)
    return tables.read(str(path))


def test_the_large_table_has_texts_and_numbers_near_and_far(table: pa.Table) -> None:
    assert [str(form) for form in table.schema.types] == ["large_string"] * 5 + ["int64"] * 5
    assert len(table) == 3000
    assert len(table["month"].unique()) == 12
    assert len(table["account"].unique()) > 2900


@pytest.mark.parametrize("name", HERE)
def test_every_side_gives_our_codes(table: pa.Table, name: str) -> None:
    assert tables.checksums(tables.PEERS[name](table)) == tables.checksums(categorify.graftwork(table))


def test_a_checksum_tells_order_and_codes() -> None:
    def of(*codes: int) -> Any:
        return tables.checksums({"c": (3, np.array(codes, np.int32))})

    assert of(1, 2, 0) == of(1, 2, 0)
    assert len({str(of(*codes)) for codes in ((1, 2, 0), (2, 1, 0), (0, 2, 1), (1, 3, 0))}) == 4


def test_memory_that_was_held_shows_in_the_peak() -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("only Linux tells")
    held = tables.reset_peak()
    assert np.ones(10_000_000).sum() == 1e7
    assert 75 < tables.peak_megabytes() - held < 160
    assert tables.peak_megabytes() - tables.reset_peak() > 70


def test_without_data_the_small_table_is_invented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRAFTWORK_DATA", raising=False)
    path, what = tables.small_table(tmp_path)
    assert what.startswith("an invented table")
    assert path.read_text(encoding="utf-8").count("\n") == 32_562


@pytest.mark.slow
def test_the_case_runs() -> None:
    command = [sys.executable, "-m", "bench", "categorify", "--smoke"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = {figure["what"]: figure for figure in json.loads(done.stdout.splitlines()[-1])["figures"]}
    assert {f"columns coded as by {name}": 10 for name in HERE} == {
        what: figure["value"] for what, figure in figures.items() if what.startswith("columns coded")
    }
    assert figures["scikit-learn / graftwork"]["target"] == 50
    assert sum(figure["target"] == 2.2 for figure in figures.values()) == 1
