"""Getting items from folders and values from items."""

from __future__ import annotations

import os
import pickle
from collections import namedtuple
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork.errors import DataError, ItemError, OptionError, UnknownName
from graftwork.items import ColReader, ItemGetter, RegexLabeller, as_rows, get_files, parent_label, paths_of, values_of

Row = namedtuple("Row", ["name", "label"])


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in [
        "b/2.JPG",
        "b/1.jpg",
        "a/deep/3.jpeg",
        "a/x.txt",
        "top.jpg",
        ".hidden/4.jpg",
        "a/.5.jpg",
        "naïve dir/6.jpg",
    ]:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return tmp_path


def names(files: list[Path], root: Path) -> list[str]:
    return [file.relative_to(root).as_posix() for file in files]


def test_files_are_found_sorted_without_hidden_ones(tree: Path):
    found = get_files(tree)
    assert names(found, tree) == ["a/deep/3.jpeg", "a/x.txt", "b/1.jpg", "b/2.JPG", "naïve dir/6.jpg", "top.jpg"]


@pytest.mark.parametrize("extensions", [".jpg", "jpg", [".JPG"], ("jpg",)])
def test_extensions_are_read_with_or_without_dot_and_case(tree: Path, extensions):
    found = get_files(tree, extensions=extensions)
    assert names(found, tree) == ["b/1.jpg", "b/2.JPG", "naïve dir/6.jpg", "top.jpg"]


def test_an_extension_of_two_parts_is_compared_whole(tmp_path: Path):
    for name in ("a.tar.gz", "b.gz"):
        (tmp_path / name).touch()
    assert names(get_files(tmp_path, extensions="tar.gz"), tmp_path) == ["a.tar.gz"]


def test_without_recursion_only_the_folder_itself_is_listed(tree: Path):
    assert names(get_files(str(tree), recurse=False), tree) == ["top.jpg"]


@pytest.mark.parametrize("folders", ["a", ["a"]])
def test_folders_name_the_sub_folders_looked_into(tree: Path, folders):
    assert names(get_files(tree, folders=folders), tree) == ["a/deep/3.jpeg", "a/x.txt"]


def test_an_unknown_sub_folder_is_refused_with_the_nearest(tree: Path):
    with pytest.raises(DataError, match=r"naive dir.*naïve dir"):
        get_files(tree, folders=["naive dir"])


def test_a_link_that_leads_back_up_is_followed_once_and_then_left(tree: Path):
    (tree / "b" / "loop").symlink_to(tree, target_is_directory=True)
    (tree / "c").symlink_to(tree / "a", target_is_directory=True)
    found = names(get_files(tree, extensions="jpeg"), tree)
    assert found == ["a/deep/3.jpeg", "c/deep/3.jpeg"]


def test_a_missing_path_is_refused_by_name_with_the_nearest(tree: Path):
    with pytest.raises(DataError, match=r"no such path: .*naive dir.*did you mean 'naïve dir'"):
        get_files(tree / "naive dir")


def test_a_path_with_no_folder_above_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"no such path: .*holds no folder"):
        get_files(tmp_path / "x" / "y")


def test_a_file_is_refused_with_its_folder(tree: Path):
    with pytest.raises(DataError, match=r"is a file, not a folder; give the folder it lies in: '.*b'"):
        get_files(tree / "b" / "1.jpg")


def test_an_empty_result_says_what_was_looked_for_and_what_is_there(tree: Path):
    with pytest.raises(DataError, match=r"no files ending in \.png in .*holds \.JPG, \.jpeg, \.jpg, \.txt"):
        get_files(tree, extensions=".png")


def test_an_empty_folder_says_so(tmp_path: Path):
    with pytest.raises(DataError, match=r"no files in .*its sub-folders not: recurse=True"):
        get_files(tmp_path, recurse=False)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_an_unreadable_folder_is_named(tree: Path):
    (tree / "a").chmod(0)
    try:
        with pytest.raises(DataError, match=r"/a' cannot be read"):
            get_files(tree)
    finally:
        (tree / "a").chmod(0o755)


@pytest.mark.parametrize("item", ["x/cat/1.jpg", Path("x/cat/1.jpg"), PurePosixPath("cat/1.jpg")])
def test_parent_label_is_the_folder(item):
    assert parent_label(item) == "cat"


def test_parent_label_refuses_a_bare_name():
    with pytest.raises(ItemError, match=r"'1\.jpg' names no parent folder"):
        parent_label("1.jpg")


def test_regex_labeller_takes_the_first_group():
    label = RegexLabeller(r"/([^/]+)_\d+\.jpg$")
    assert label(Path("pets/great_dane_12.jpg")) == "great_dane"
    assert pickle.loads(pickle.dumps(label)) == label


def test_regex_labeller_matches_from_the_beginning_on_demand():
    assert RegexLabeller(r"(\w+)/", match=True)("cat/dog/1.jpg") == "cat"
    with pytest.raises(ItemError):
        RegexLabeller(r"(dog)/", match=True)("cat/dog/1.jpg")


def test_regex_labeller_names_the_file_and_the_pattern_that_do_not_fit():
    with pytest.raises(ItemError, match=r"'\(\\\\d\+\)\$' matches nothing in 'a/b\.jpg'"):
        RegexLabeller(r"(\d+)$")("a/b.jpg")
    with pytest.raises(ItemError, match="matches nothing"):
        RegexLabeller(r"x|(y)")("x")


@pytest.mark.parametrize(("pattern", "reason"), [("(", "not a regular expression"), ("abc", "has no group")])
def test_an_impossible_pattern_is_refused_at_once(pattern, reason):
    with pytest.raises(OptionError, match=reason):
        RegexLabeller(pattern)


ROWS = [
    {"name": "n1", "label": "x y"},
    Row("n1", "x y"),
    pd.Series({"name": "n1", "label": "x y"}),
]


@pytest.mark.parametrize("row", ROWS, ids=["mapping", "namedtuple", "series"])
def test_col_reader_reads_every_kind_of_row_by_name_and_position(row):
    assert ColReader("label")(row) == "x y"
    assert ColReader(1)(row) == "x y"
    assert ColReader(-2)(row) == "n1"
    assert ColReader(["label", "name"])(row) == ["x y", "n1"]
    assert ColReader("label", label_delim=" ")(row) == ["x", "y"]
    assert ColReader("name", prefix="<", suffix=">")(row) == "<n1>"
    assert ColReader("name", prefix=Path("/data"), suffix=".jpg")(row) == "/data/n1.jpg"


@pytest.mark.parametrize("row", ROWS, ids=["mapping", "namedtuple", "series"])
def test_col_reader_names_the_nearest_column(row):
    with pytest.raises(ItemError, match="unknown column 'lable'; did you mean 'label'"):
        ColReader("lable")(row)
    with pytest.raises(ItemError, match="unknown column '7'"):
        ColReader(7)(row)


def test_col_reader_reads_plain_sequences_by_position_only():
    assert ColReader(1)(("a", "b")) == "b"
    assert ColReader(0)(np.array([3.5, 4.5])) == 3.5
    with pytest.raises(ItemError, match="a row of 2 values has no column 'label'"):
        ColReader("label")(["a", "b"])
    with pytest.raises(ItemError, match="reads a row of a table, not a str"):
        ColReader("label")("abc")


@pytest.mark.parametrize("empty", ["", None, float("nan")])
def test_an_empty_cell_holds_no_label(empty):
    assert ColReader("tags", label_delim=",")({"tags": empty}) == []


@given(st.lists(st.text(st.characters(exclude_characters=","), min_size=1), min_size=1))
def test_label_delim_undoes_a_join(labels):
    assert ColReader("tags", label_delim=",")({"tags": ",".join(labels)}) == labels


@pytest.mark.parametrize("options", [{"label_delim": ""}, {"label_delim": ",", "prefix": "x"}])
def test_col_reader_refuses_options_that_would_be_ignored(options):
    with pytest.raises(OptionError):
        ColReader("x", **options)


def test_col_reader_refuses_no_column():
    with pytest.raises(OptionError, match="no column"):
        ColReader([])


def test_getters_travel_to_another_process():
    for getter in (ColReader("a", prefix=Path("x")), ItemGetter(0), parent_label):
        assert pickle.loads(pickle.dumps(getter)) == getter


def test_item_getter_takes_a_position_or_a_key():
    assert ItemGetter(1)((1, 2)) == 2
    assert ItemGetter("k")({"k": 3}) == 3
    with pytest.raises(ItemError, match="has no 5"):
        ItemGetter(5)((1, 2))


def test_rows_of_a_frame_become_mappings_with_plain_values():
    frame = pd.DataFrame({"a": [1, 2], "b": [0.5, 1.5]}, index=[7, 7])
    rows = as_rows(frame)
    assert rows[1] == {"a": 2, "b": 1.5}
    assert type(rows[1]["a"]) is int
    items = ["x"]
    assert as_rows(items) is items
    with pytest.raises(DataError, match="not as dict_keys"):
        as_rows({}.keys())


@pytest.mark.parametrize("key", ["a", ColReader("a"), lambda row: row["a"]], ids=["name", "reader", "function"])
def test_values_of_reads_a_column_of_rows_or_of_a_frame(key):
    rows = [{"a": 1, "b": 2}, {"a": 3, "b": 4}]
    assert values_of(rows, key) == [1, 3]
    assert values_of(pd.DataFrame(rows), key) == [1, 3]


def test_values_of_names_the_nearest_column():
    with pytest.raises(UnknownName, match="did you mean 'label'"):
        values_of(pd.DataFrame({"label": [1]}), "lable")


def test_paths_of_refuses_what_is_no_path():
    assert paths_of(["a/b", Path("c")]) == [PurePosixPath("a/b"), PurePosixPath("c")]
    with pytest.raises(DataError, match="items must be paths"):
        paths_of([{"a": 1}])
