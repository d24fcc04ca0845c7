from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.api import DataError, OptionError, UnknownName
from graftwork_tabular.reading import read_table, sniff

PLAIN = "name,age,city\nann,30,Rome\nbob,41,Köln\ncid,25,Oslo\n"


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def test_a_plain_csv_says_nothing(tmp_path: Path) -> None:
    read = read_table(write(tmp_path / "a.csv", PLAIN))
    assert read.table.to_pylist()[1] == {"name": "bob", "age": 41, "city": "Köln"}
    assert read.notes == ()


@pytest.mark.parametrize(("sep", "name"), [(";", "semicolon"), ("\t", "tab"), ("|", "bar")])
def test_other_separators_are_found_and_said(tmp_path: Path, sep: str, name: str) -> None:
    read = read_table(write(tmp_path / f"{name}.csv", PLAIN.replace(",", sep)))
    assert read.table.column_names == ["name", "age", "city"]
    assert any(repr(sep) in note for note in read.notes)


def test_movielens_separator(tmp_path: Path) -> None:
    read = read_table(write(tmp_path / "ratings.dat", "1::1193::5::978300760\n1::661::3::978302109\n2::1::4::9\n"))
    assert read.table.column_names == ["column1", "column2", "column3", "column4"]
    assert read.table.column("column2").to_pylist() == [1193, 661, 1]
    assert any("first line holds data" in note for note in read.notes)


def test_a_decimal_comma(tmp_path: Path) -> None:
    read = read_table(write(tmp_path / "eu.csv", "name;height\nann;1,72\nbob;1,85\n"))
    assert read.table.column("height").to_pylist() == [1.72, 1.85]
    assert "numbers are written with a decimal comma" in read.notes


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-8-sig"])
def test_other_encodings(tmp_path: Path, encoding: str) -> None:
    read = read_table(write(tmp_path / "e.csv", PLAIN, encoding))
    assert read.table.column("city").to_pylist() == ["Rome", "Köln", "Oslo"]
    assert read.table.column_names[0] == "name"


def test_a_late_byte_that_is_no_utf8(tmp_path: Path) -> None:
    rows = b"".join(b"%d,x\n" % i for i in range(60_000))
    (tmp_path / "late.csv").write_bytes(b"a,b\n" + rows + b"60000,K\xf6ln\n")
    read = read_table(tmp_path / "late.csv")
    assert read.table.column("b")[-1].as_py() == "Köln"
    assert any("cp1252" in note for note in read.notes)
    with pytest.raises(DataError, match="not written in utf-8"):
        read_table(tmp_path / "late.csv", encoding="utf-8")


def test_missing_values(tmp_path: Path) -> None:
    path = write(tmp_path / "m.csv", "a,b,c\n1,?,x\nNA,y,-9\n3,,z\n")
    assert read_table(path).table.to_pydict() == {"a": [1, None, 3], "b": [None, "y", None], "c": ["x", "-9", "z"]}
    assert read_table(path, na_values=["-9"]).table.column("c").to_pylist() == ["x", None, "z"]


def test_lines_of_another_width_are_counted(tmp_path: Path) -> None:
    rows = "".join(f"{i},{i}\n" for i in range(50))
    read = read_table(write(tmp_path / "bad.csv", "a,b\n" + rows + "1,2,3\n9\n"))
    assert read.table.num_rows == 50
    assert any("left out 2 line(s)" in note and "1,2,3" in note for note in read.notes)


def test_too_many_lines_of_another_width_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="number of cells"):
        read_table(write(tmp_path / "worse.csv", "a,b\n1,2\n1\n2\n3\n4\n5,6\n"), sep=",")


@pytest.mark.parametrize("text", ["", "   \n\n"], ids=["nothing", "blank"])
def test_an_empty_file(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match="empty"):
        read_table(write(tmp_path / "empty.csv", text))


def test_only_a_header(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="empty: 2 columns, 0 rows"):
        read_table(write(tmp_path / "h.csv", "a,b\n"))


def test_no_text(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_bytes(b"\x89PNG\0\0\0\1binary")
    with pytest.raises(DataError, match="no text"):
        read_table(tmp_path / "p.csv")


def test_a_wrong_path_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path / "people.csv", PLAIN)
    with pytest.raises(UnknownName, match=r"people\.csv"):
        read_table(tmp_path / "poeple.csv")


def test_columns_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="several columns named 'a'"):
        read_table(write(tmp_path / "d.csv", "a,b,a\n1,2,3\n"))
    frame = pd.DataFrame([[1, 2]], columns=["a", "a"])
    with pytest.raises(DataError, match="several columns named 'a'"):
        read_table(frame)


def test_parquet_files_and_folders(tmp_path: Path) -> None:
    table = pa.table({"a": [1, 2], "b": ["x", "y"]})
    pq.write_table(table, tmp_path / "one.parquet")
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(3):
        pq.write_table(table, folder / f"part-{i}.parquet")
    assert read_table(tmp_path / "one.parquet").table.to_pylist() == table.to_pylist()
    assert read_table(folder).table.num_rows == 6
    (tmp_path / "broken.parquet").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_table(tmp_path / "broken.parquet")
    (tmp_path / "void").mkdir()
    with pytest.raises(DataError, match="without Parquet files"):
        read_table(tmp_path / "void")


def test_gzip(tmp_path: Path) -> None:
    import gzip

    (tmp_path / "z.csv.gz").write_bytes(gzip.compress(PLAIN.encode(), mtime=0))
    assert read_table(tmp_path / "z.csv.gz").table.num_rows == 3


def test_frames_of_every_kind() -> None:
    frame = pd.DataFrame(
        {
            "text": ["a", None],
            "category": pd.Categorical(["u", "v"], categories=["v", "u"]),
            "number": [1.5, np.nan],
            "when": pd.to_datetime(["2020-01-01", None]),
            "mixed": [1, "one"],
            7: [True, False],
        }
    )
    read = read_table(frame)
    rows = read.table.to_pylist()
    assert rows[0]["category"] == "u"
    assert rows[1]["text"] is None
    assert rows[1]["number"] is None
    assert rows[1]["mixed"] == "one"
    assert rows[0]["mixed"] == "1"
    assert "7" in read.table.column_names
    assert any("'mixed' holds values of several types" in note for note in read.notes)


def test_rows_as_mappings() -> None:
    read = read_table([{"a": 1, "b": "x"}, {"a": 2.5}])
    assert read.table.to_pylist() == [{"a": 1.0, "b": "x"}, {"a": 2.5, "b": None}]
    with pytest.raises(DataError, match="a table is"):
        read_table([1, 2])
    with pytest.raises(DataError, match="dict is no table"):
        read_table({"a": [1]})


cells = st.text(st.characters(codec="utf-8", exclude_characters='\r\n",;\t|:\0 ?'), min_size=1, max_size=8).filter(
    lambda s: s.strip() == s and s not in ("NA", "null", "nan", "None", "NaN", "n/a", "NULL", "N/A")
)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(cells, st.integers(-999, 999), cells), min_size=3, max_size=8),
    st.sampled_from([",", ";", "\t", "|"]),
)
def test_the_separator_is_found(rows: list[tuple[str, int, str]], sep: str) -> None:
    lines = [sep.join(("first", "second", "third")), *(sep.join(map(str, row)) for row in rows)]
    found = sniff("\n".join(lines).encode())
    assert found.separator == sep
    assert found.header


def test_what_is_given_is_taken(tmp_path: Path) -> None:
    path = write(tmp_path / "g.csv", "1,2\n3,4\n")
    assert read_table(path).table.column_names == ["column1", "column2"]
    given_header = read_table(path, header=True)
    assert given_header.table.column_names == ["1", "2"]
    assert given_header.notes == ()
    with pytest.raises(OptionError, match="'utf-99' is none Python knows"):
        read_table(path, encoding="utf-99")
