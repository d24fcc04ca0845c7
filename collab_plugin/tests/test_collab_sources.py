"""Reading ratings: dialects, folders, columns, and what is wrong with some of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.api import DataError, UnknownName, UserError
from graftwork_collab import read_events
from graftwork_collab.events import find_columns
from graftwork_collab.sources import RawTable, movielens_source, read_raw, resolve_source

ROWS = [(1, 10, 4.0, 100), (1, 20, 3.5, 101), (2, 10, 0.5, 102), (3, 30, 5.0, 103)]


def frame(rows=ROWS, columns=("userId", "movieId", "rating", "timestamp")) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(columns))


def write(path: Path, separator: str = ",", header: bool = True, encoding: str = "utf-8", rows=ROWS) -> Path:
    lines = [separator.join(map(str, row)) for row in rows]
    if header:
        lines.insert(0, separator.join(("userId", "movieId", "rating", "timestamp")))
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return path


def triples(events) -> list[tuple]:
    return list(zip(events.user.to_pylist(), events.item.to_pylist(), events.rating.tolist(), strict=True))


class TestForms:
    """Where ratings may lie."""

    @pytest.mark.parametrize("separator", [",", ";", "\t", "|", "::"])
    @pytest.mark.parametrize("header", [True, False])
    def test_a_text_file_in_any_dialect(self, tmp_path, separator, header):
        events = read_events(write(tmp_path / "r.csv", separator, header))
        assert triples(events) == [row[:3] for row in ROWS]
        assert events.time.tolist() == [100, 101, 102, 103]
        said = " ".join(events.how)
        assert ("no header" in said) is not header
        assert (repr(separator) in said) is (separator != ",")

    def test_a_compressed_file(self, tmp_path):
        frame().to_csv(tmp_path / "r.csv.gz", index=False)
        assert triples(read_events(tmp_path / "r.csv.gz")) == [row[:3] for row in ROWS]

    def test_a_decimal_comma(self, tmp_path):
        rows = [(u, i, str(r).replace(".", ","), t) for u, i, r, t in ROWS]
        assert triples(read_events(write(tmp_path / "r.csv", ";", rows=rows))) == [row[:3] for row in ROWS]

    def test_other_encodings(self, tmp_path):
        rows = [("José", "Amélie", 4.0, 1), ("Zoë", "Ran", 3.0, 2)]
        events = read_events(write(tmp_path / "r.csv", encoding="latin-1", rows=rows))
        assert events.user.to_pylist() == ["José", "Zoë"]
        assert "cp1252" in " ".join(events.how)

    def test_parquet_a_file_or_a_folder(self, tmp_path):
        frame().to_parquet(tmp_path / "a.parquet")
        frame().assign(userId=lambda f: f.userId + 10).to_parquet(tmp_path / "b.parquet")
        assert len(read_events(tmp_path / "a.parquet")) == 4
        assert len(read_events(tmp_path)) == 8

    @pytest.mark.parametrize("make", [frame, lambda: pa.Table.from_pandas(frame()), lambda: frame().to_dict("records")])
    def test_what_lies_in_memory(self, make):
        assert triples(read_events(make())) == [row[:3] for row in ROWS]

    def test_categories_of_a_frame_go_by_their_value(self):
        made = frame().assign(movieId=pd.Categorical(["b", "c", "b", "a"], categories=["c", "b", "a"]))
        assert read_events(made).item.to_pylist() == ["b", "c", "b", "a"]

    def test_whole_floats_are_numbers(self):
        made = frame().assign(userId=[1.0, np.nan, 2.0, 3.0])
        events = read_events(made)
        assert events.user.to_pylist() == [1, 2, 3]
        assert any("left out 1 of 4 rows with no 'userId', the first: row 2" in note for note in events.warnings)


class TestMovieLens:
    """The folders of MovieLens, from 100K to latest."""

    def test_titles_come_along(self, movielens):
        events = read_events(movielens)
        assert events.titles[25] == "Film, The 25 (1925)"
        assert any("1 titles name several ids" in note for note in events.notes)

    def test_the_real_one(self, real_movielens):
        events = read_events(real_movielens)
        assert len(events) == 100_836
        assert events.titles[6] == "Heat (1995)"
        assert events.warnings == ()

    def test_the_format_of_1m(self, tmp_path):
        write(tmp_path / "ratings.dat", "::", header=False)
        (tmp_path / "movies.dat").write_text("10::Amélie (2001)::Comedy\n20::Ran (1985)::Drama\n", encoding="latin-1")
        events = read_events(tmp_path)
        assert triples(events) == [row[:3] for row in ROWS]
        assert events.titles == {10: "Amélie (2001)", 20: "Ran (1985)"}

    def test_the_format_of_100k(self, tmp_path):
        write(tmp_path / "u.data", "\t", header=False)
        (tmp_path / "u.item").write_text("10|Heat (1995)|x||u|0\n20|Ran (1985)|y||v|1\n")
        events = read_events(tmp_path)
        assert events.columns == {"user": "user", "item": "item", "rating": "rating", "timestamp": "timestamp"}
        assert events.titles == {10: "Heat (1995)", 20: "Ran (1985)"}

    def test_ratings_without_titles(self, tmp_path):
        write(tmp_path / "ratings.csv")
        assert read_events(tmp_path).titles == {}

    def test_a_folder_without_ratings(self, tmp_path):
        (tmp_path / "notes.txt").touch()
        with pytest.raises(DataError, match=r"holds none of ratings\.csv.*found notes\.txt"):
            movielens_source(tmp_path)
        with pytest.raises(UserError):
            read_events(tmp_path)

    def test_it_is_claimed(self, movielens, tmp_path):
        assert resolve_source(str(movielens)) == "collab/movielens"
        assert resolve_source(str(tmp_path)) is None
        assert resolve_source(str(movielens / "ratings.csv")) is None


class TestColumns:
    """Which column is what."""

    @pytest.mark.parametrize(
        ("names", "found"),
        [
            (["a", "b", "c"], ["a", "b", "c", None]),
            (["userId", "movieId", "rating", "timestamp"], ["userId", "movieId", "rating", "timestamp"]),
            (["Rating", "Movie ID", "User"], ["User", "Movie ID", "Rating", None]),
            (["date", "stars", "customer_id", "asin"], ["customer_id", "asin", "stars", "date"]),
            (["who", "what", "how much", "when"], ["who", "what", "how much", None]),
            (["user", "title", "rating", "movie"], ["user", "movie", "rating", None]),
            (["x", "user", "y", "z"], ["user", "x", "y", None]),
        ],
        ids=str,
    )
    def test_they_are_found_by_name_else_by_place(self, names, found):
        raw = RawTable(table=pa.table({name: [1] for name in names}), where="t")
        columns = find_columns(raw, dict.fromkeys(("user", "item", "rating", "timestamp")), with_rating=True)
        assert [columns.get(role) for role in ("user", "item", "rating", "timestamp")] == found

    def test_what_was_taken_is_said_unless_it_was_asked_for(self):
        assert any("user 'userId', item 'movieId'" in note for note in read_events(frame()).how)
        asked = read_events(frame(), user="userId", item="movieId", rating="rating", timestamp="timestamp")
        assert asked.notes == ()

    def test_a_column_asked_for_that_is_not_there(self):
        with pytest.raises(UnknownName, match=r"'movie_id'.*did you mean 'movieId'.*as the item"):
            read_events(frame(), item="movie_id")

    def test_one_column_for_two_roles(self):
        with pytest.raises(DataError, match="'movieId' is asked for as user and item"):
            read_events(frame(), user="movieId", item="movieId")

    def test_too_few(self):
        with pytest.raises(DataError, match="3 are needed: user, item, rating"):
            read_events(frame()[["userId", "movieId"]])
        assert len(read_events(frame()[["userId", "movieId"]], with_rating=False)) == 4

    def test_without_a_rating_none_is_read(self):
        events = read_events(frame(), with_rating=False)
        assert events.rating is None
        assert "rating" not in events.columns
        assert read_events(frame(), with_rating=False, rating="rating").rating.tolist() == [4.0, 3.5, 0.5, 5.0]

    def test_a_name_twice(self):
        made = frame()
        made.columns = ["userId", "movieId", "rating", "rating"]
        with pytest.raises(DataError, match="several columns named 'rating'"):
            read_events(made)

    @given(st.permutations(["userId", "movieId", "rating", "timestamp"]))
    @settings(deadline=None, max_examples=24)
    def test_their_order_does_not_matter(self, names):
        assert triples(read_events(frame()[names])) == [row[:3] for row in ROWS]


class TestBadRatings:
    """What is no rating."""

    def test_a_few_that_are_no_numbers_are_left_out_and_said(self):
        made = frame([(i, i, r, i) for i, r in enumerate(["4", "good", " 3.5 ", "1e0", "5,5", "?!", "2", "3"])])
        events = read_events(made)
        assert events.rating.tolist() == [4.0, 3.5, 1.0, 5.5, 2.0, 3.0]
        assert events.rows.tolist() == [0, 2, 3, 4, 6, 7]
        (said,) = events.warnings
        assert "left out 2 of 8 rows with a 'rating' that is no number (row 2 'good', row 6 '?!')" in said

    def test_the_first_one_is_an_error_if_asked_so(self):
        made = frame([(i, i, r, i) for i, r in enumerate(["4", "good", "3", "2"])])
        with pytest.raises(DataError, match=r"1 of 4 rows with a 'rating' that is no number \(row 2 'good'\).*skip"):
            read_events(made, on_bad_item="error")

    def test_a_column_of_words_is_the_wrong_column(self):
        made = frame([(1, 1, "good", 1), (1, 2, "bad", 2), (2, 1, "3", 3)])
        with pytest.raises(DataError, match=r"'rating' of the table.*2 of 3 values are no numbers.*row 1, 'good'"):
            read_events(made)

    def test_missing_and_infinite_ones(self):
        made = frame([(1, 1, 4.0, 1), (1, 2, None, 2), (2, 1, np.inf, 3), (2, 2, 3.0, 4)])
        events = read_events(made)
        assert events.rating.tolist() == [4.0, 3.0]
        assert [note.split(" rows with ")[1] for note in events.warnings] == [
            "no 'rating', the first: row 2",
            "an infinite 'rating', the first: row 3",
        ]

    def test_none_at_all(self):
        with pytest.raises(DataError, match="'rating' of the table is missing in all 2 rows"):
            read_events(frame([(1, 1, None, 1), (1, 2, None, 2)]))

    def test_no_row_that_can_be_used(self):
        with pytest.raises(DataError, match="no row can be used"):
            read_events(frame([(1, None, 3.0, 1), (None, 2, 3.0, 2)]))


class TestBadIds:
    """What is no id."""

    def test_missing_ones_are_left_out_and_said(self):
        made = frame(
            [("a", "x", 1.0, 1), (None, "x", 2.0, 2), ("b", None, 3.0, 3), ("", "y", 4.0, 4), ("b", "y", 5.0, 5)]
        )
        events = read_events(made)
        assert triples(events) == [("a", "x", 1.0), ("b", "y", 5.0)]
        assert [note.split("left out ")[1] for note in events.warnings] == [
            "2 of 5 rows with no 'userId', the first: row 2",
            "1 of 5 rows with no 'movieId', the first: row 3",
        ]

    @pytest.mark.parametrize(
        ("values", "words"),
        [([1.5, 2.5], "holds double values such as 1.5"), ([True, False], "bool"), ([None, None], "missing in all 2")],
        ids=str,
    )
    def test_what_is_none(self, values, words):
        with pytest.raises(DataError, match=words):
            read_events(frame([(u, i, 3.0, 1) for i, u in enumerate(values)]))

    def test_times_are_none(self):
        made = frame([(pd.Timestamp("2020-01-01"), 1, 3.0, 1)])
        with pytest.raises(DataError, match="an id is a string or a whole number"):
            read_events(made)

    def test_mixed_types_are_compared_as_text_which_is_said(self):
        made = pd.DataFrame({"user": [1, "1", "b"], "item": [1, 2, 3], "rating": [1.0, 2.0, 3.0]})
        events = read_events(made)
        assert events.user.to_pylist() == ["1", "1", "b"]
        assert any("several types" in note for note in events.notes)


class TestTimes:
    """Times in every form."""

    @pytest.mark.parametrize(
        "values",
        [
            [3, 1, 2],
            [3.0, 1.5, 2.0],
            ["2020-01-03", "2020-01-01T12:00:00", "2020-01-02"],
            pd.to_datetime(["2020-01-03", "2020-01-01", "2020-01-02"]),
            pd.to_datetime(["2020-01-03", "2020-01-01", "2020-01-02"]).date,
        ],
        ids=["int", "float", "text", "timestamp", "date"],
    )
    def test_they_are_ordered(self, values):
        made = pd.DataFrame({"user": [1, 2, 3], "item": [1, 2, 3], "rating": [1.0, 2.0, 3.0], "time": values})
        assert np.argsort(read_events(made).time).tolist() == [1, 2, 0]

    def test_what_holds_none_is_not_used_and_said_unless_it_was_asked_for(self):
        made = frame([(1, 1, 3.0, "yesterday"), (1, 2, 4.0, "today")])
        events = read_events(made)
        assert events.time is None
        assert any("holds no times" in note and "not used" in note for note in events.warnings)
        with pytest.raises(DataError, match="'timestamp' holds no times"):
            read_events(made, timestamp="timestamp")

    def test_missing_ones_are_the_earliest(self):
        events = read_events(frame([(1, 1, 3.0, 5), (1, 2, 4.0, None)]))
        assert events.time.tolist() == [5.0, -np.inf]
        assert any("1 rows have no 'timestamp'" in note for note in events.warnings)


class TestDuplicates:
    """Pairs rated twice."""

    ROWS = ((1, 1, 2.0, 20), (1, 1, 3.0, 10), (1, 2, 4.0, 5), (1, 1, 1.0, 15))

    def test_the_latest_one_counts_and_they_are_counted(self):
        events = read_events(frame(self.ROWS))
        assert triples(events) == [(1, 1, 2.0), (1, 2, 4.0)]
        assert events.warnings == ("2 rows repeat a pair of user and item; of each pair the latest one is kept",)

    def test_without_times_the_last_one_counts(self):
        events = read_events(frame(self.ROWS)[["userId", "movieId", "rating"]])
        assert triples(events) == [(1, 2, 4.0), (1, 1, 1.0)]
        assert "the one that stands last" in events.warnings[0]

    def test_all_of_them_if_asked_so(self):
        assert len(read_events(frame(self.ROWS), duplicates="all")) == 4

    @given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 9), st.integers(0, 5)), min_size=1))
    @settings(deadline=None, max_examples=60)
    def test_as_a_dictionary_would_have_it(self, rows):
        wanted = {}
        for user, item, rating, _ in sorted(rows, key=lambda row: row[3]):
            wanted[user, item] = float(rating)
        events = read_events(frame(rows))
        assert {(user, item): rating for user, item, rating in triples(events)} == wanted
        assert (np.diff(events.rows) > 0).all()


class TestNothing:
    """Sources with nothing in them."""

    def test_an_empty_file(self, tmp_path):
        (tmp_path / "r.csv").touch()
        with pytest.raises(DataError, match=r"r\.csv is empty"):
            read_events(tmp_path / "r.csv")

    def test_only_a_header(self, tmp_path):
        (tmp_path / "r.csv").write_text("user,item,rating\n")
        with pytest.raises(DataError, match="0 rows"):
            read_events(tmp_path / "r.csv")

    def test_an_empty_frame(self):
        with pytest.raises(DataError, match="0 rows"):
            read_events(frame([]))

    def test_no_such_file(self, tmp_path):
        (tmp_path / "ratings.csv").touch()
        with pytest.raises(UserError, match=r"did you mean .*ratings\.csv"):
            read_events(tmp_path / "rating.csv")

    def test_what_is_no_source(self):
        with pytest.raises(UserError, match="int"):
            read_raw(7)
