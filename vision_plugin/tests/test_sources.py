"""Sources: what is found at a path, which labels it has, and how it is split."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from graftwork.api import DataError, ItemError, OptionError, UnknownName
from graftwork_vision import get_image_files
from graftwork_vision.sources import (
    NameLabeller,
    Sample,
    csv_source,
    idx_source,
    read_source,
    resolve_source,
)

# A name has no separator, and a dot in a pattern passes over the ends of lines.
NAME_CHARACTERS = st.characters(codec="utf-8", exclude_characters="/\0\n")


def labels(samples):
    return [samples.get_y(item) for item in samples.items]


def write_idx(path: Path, array: np.ndarray) -> None:
    head = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(head + array.tobytes()))


def idx_folder(folder: Path, *, train: int = 6, valid: int = 3) -> Path:
    folder.mkdir(exist_ok=True)
    for part, count in (("train", train), ("t10k", valid)):
        if count:
            pictures = np.arange(count * 16, dtype=np.uint8).reshape(count, 4, 4)
            write_idx(folder / f"{part}-images-idx3-ubyte.gz", pictures)
            write_idx(folder / f"{part}-labels-idx1-ubyte.gz", np.arange(count, dtype=np.uint8) % 3)
    return folder


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)
    return path


class TestFiles:
    """Pictures are told by their endings, from a fixed list."""

    def test_only_pictures_sorted(self, tmp_path):
        for name in ("b.JPG", "a.png", "sub/c.webp", ".hidden.png", ".cache/d.png"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            picture(tmp_path / name) if not name.endswith("JPG") else (tmp_path / name).touch()
        (tmp_path / "notes.txt").touch()
        assert [str(p.relative_to(tmp_path)) for p in get_image_files(tmp_path)] == ["a.png", "b.JPG", "sub/c.webp"]
        assert [p.name for p in get_image_files(tmp_path, recurse=False)] == ["a.png", "b.JPG"]
        assert [p.name for p in get_image_files(tmp_path, folders="sub")] == ["c.webp"]

    def test_no_such_path(self, tmp_path):
        with pytest.raises(DataError, match="no such path"):
            get_image_files(tmp_path / "nowhere")

    def test_nothing_there(self, tmp_path):
        (tmp_path / "a.txt").touch()
        with pytest.raises(DataError, match=r"no files ending in .*\.png.*it holds \.txt"):
            get_image_files(tmp_path)


class TestFolder:
    """A folder per class."""

    def test_is_recognised_and_labelled(self, two_classes):
        assert resolve_source(two_classes) == "vision/folder"
        samples = read_source(two_classes)
        assert len(samples.items) == 20
        assert sorted(set(labels(samples))) == ["dark", "light"]
        assert samples.splitter is None
        assert samples.notes == ()

    def test_pictures_beside_the_class_folders_are_left_out_and_counted(self, two_classes):
        picture(two_classes / "cover.png")
        samples = read_source(two_classes)
        assert len(samples.items) == 20
        assert "1 pictures lie directly in" in samples.notes[0]

    def test_pictures_in_no_folder_ask_for_another_label(self, tmp_path):
        picture(tmp_path / "cat_1.png")
        with pytest.raises(DataError, match=r"not in a folder per class; .*name:REGEX"):
            read_source(tmp_path)
        assert labels(read_source(tmp_path, label_from=r"name:^(.+)_\d+")) == ["cat"]

    def test_unicode_and_spaces(self, tmp_path):
        picture(tmp_path / "Größe XL" / "ein Bild (1) \N{SNOWMAN}.png")
        assert labels(read_source(tmp_path)) == ["Größe XL"]

    def test_an_empty_folder(self, tmp_path):
        assert resolve_source(tmp_path) is None
        with pytest.raises(DataError, match="no files ending in"):
            read_source(tmp_path)

    def test_no_such_path(self, tmp_path):
        with pytest.raises(DataError, match="no such path"):
            read_source(tmp_path / "nowhere")

    def test_a_file_that_is_no_table(self, tmp_path):
        (tmp_path / "a.txt").touch()
        with pytest.raises(DataError, match="neither a folder of pictures nor a table"):
            read_source(tmp_path / "a.txt")


class TestName:
    """Labels from the names of files."""

    def test_only_the_name_is_looked_at(self, tmp_path):
        assert NameLabeller(r"^([a-z]+)_")(tmp_path / "x_y" / "cat_1.png") == "cat"

    def test_a_pattern_that_matches_nothing_names_the_file(self, two_classes):
        samples = read_source(two_classes, label_from=r"name:^(\d+)")
        with pytest.raises(ItemError, match=r"matches nothing in 'dark_0\.png' .*pictures/dark/dark_0\.png"):
            labels(samples)

    @pytest.mark.parametrize("pattern", ["(", "no group"])
    def test_faulty_patterns(self, pattern):
        with pytest.raises(OptionError, match="label pattern"):
            NameLabeller(pattern)

    @given(
        st.text(
            st.characters(codec="utf-8", exclude_characters="/\0\n_\r\x85\u2028\u2029\x0b\x0c\x1c\x1d\x1e"), min_size=1
        )
    )
    def test_any_label_is_found_again(self, label):
        if label not in (".", ".."):
            assert NameLabeller(r"^(.+)_\d+\.jpg$")(f"folder/{label}_12.jpg") == label


class TestTrainValid:
    """Folders for training and validation."""

    @pytest.fixture
    def root(self, tmp_path) -> Path:
        class_folders_(tmp_path / "train", 4)
        class_folders_(tmp_path / "valid", 2)
        return tmp_path

    def test_the_folders_are_the_split(self, root):
        assert resolve_source(root) == "vision/train-valid"
        samples = read_source(root)
        split = samples.splitter(samples.items)
        assert (len(split.train), len(split.valid)) == (8, 4)
        assert all("valid" in samples.items[i].parts for i in split.valid)
        assert samples.notes == ()

    @pytest.mark.parametrize("name", ["val", "validation", "test"])
    def test_other_names_are_said(self, root, name):
        (root / "valid").rename(root / name)
        samples = read_source(root)
        assert len(samples.splitter(samples.items).valid) == 4
        assert samples.notes == (f"the validation split is the folder {name!r}",)

    def test_a_test_folder_is_left_out_and_said(self, root):
        class_folders_(root / "test", 3)
        samples = read_source(root)
        assert len(samples.items) == 12
        assert samples.notes == ("the folder(s) test are left out of training",)

    def test_labels_from_names(self, root):
        samples = read_source(root, label_from=r"name:^([a-z]+)_")
        assert set(labels(samples)) == {"cat", "dog"}
        assert len(samples.splitter(samples.items).valid) == 4


def class_folders_(root: Path, count: int) -> None:
    for name in ("cat", "dog"):
        for i in range(count):
            picture(root / name / f"{name}_{i}.png")


class TestTable:
    """A table of paths and labels."""

    @pytest.fixture
    def root(self, tmp_path) -> Path:
        for i in range(4):
            picture(tmp_path / "img" / f"{i}.png")
        return tmp_path

    def write(self, root: Path, text: str, name: str = "labels.csv") -> Path:
        (root / name).write_text(text, encoding="utf-8")
        return root / name

    def test_the_column_of_paths_is_the_one_whose_files_exist(self, root):
        path = self.write(root, "what,where\ncat,img/0.png\ndog,img/1.png\n")
        assert resolve_source(path) == "vision/csv"
        samples = read_source(path)
        assert labels(samples) == ["cat", "dog"]
        assert samples.get_x(samples.items[1]) == root / "img" / "1.png"
        assert str(samples.items[1]) == str(root / "img" / "1.png")
        assert samples.notes == ("labels.csv: paths are in column 'where', labels in column 'what'",)

    def test_is_valid_is_used_and_said(self, root):
        path = self.write(root, "f,label,is_valid\nimg/0.png,a,False\nimg/1.png,b,True\nimg/2.png,b,False\n")
        samples = read_source(path)
        split = samples.splitter(samples.items)
        assert (split.train.tolist(), split.valid.tolist()) == ([0, 2], [1])
        assert "the split is that of column 'is_valid'" in samples.notes[1]

    def test_which_column_holds_labels_is_asked(self, root):
        path = self.write(root, "f,breed,colour\nimg/0.png,a,x\nimg/1.png,b,y\n")
        with pytest.raises(OptionError, match=r"csv:COLUMN; there are breed, colour"):
            read_source(path)
        assert labels(read_source(path, label_from="csv:colour")) == ["x", "y"]
        with pytest.raises(UnknownName, match="'colour'"):
            read_source(path, label_from="csv:color")

    def test_a_column_named_label_is_taken(self, root):
        path = self.write(root, "f,colour,Label\nimg/0.png,x,1\nimg/1.png,y,2\n")
        assert labels(read_source(path)) == [1, 2]

    def test_tabs_and_a_class_called_na(self, root):
        path = self.write(root, "f\ty\nimg/0.png\tNA\nimg/1.png\tNone\n", "t.tsv")
        assert labels(read_source(path)) == ["NA", "None"]

    def test_a_folder_with_one_table(self, root):
        self.write(root, "f,label\nimg/0.png,a\nimg/1.png,b\n")
        assert labels(read_source(root, label_from="csv:label")) == ["a", "b"]
        self.write(root, "f,label\n", "other.csv")
        with pytest.raises(OptionError, match=r"labels\.csv, other\.csv; name the file"):
            read_source(root, label_from="csv:label")

    def test_paths_that_are_nowhere(self, root):
        path = self.write(root, "f,label\nnowhere/0.png,a\n")
        assert resolve_source(path) is None
        with pytest.raises(DataError, match=r"no column of .*labels\.csv' \(f, label\) holds paths of files"):
            read_source(path)

    @pytest.mark.parametrize("text", ["", "f,label\n", 'f,label\n"img/0.png,a\n'])
    def test_no_table(self, root, text):
        with pytest.raises(DataError, match=r"labels\.csv"):
            csv_source(self.write(root, text))

    def test_a_table_of_something_else_is_not_claimed(self, root):
        assert resolve_source(self.write(root, "age,salary\n3,4\n")) is None
        assert resolve_source(self.write(root, "doc,y\nlabels.csv,4\n")) is None

    def test_odd_is_valid(self, root):
        path = self.write(root, "f,label,is_valid\nimg/0.png,a,yes\nimg/1.png,b,no\n")
        with pytest.raises(DataError, match="must say true or false"):
            read_source(path)


class TestIdx:
    """A folder of IDX files."""

    def test_pictures_labels_and_split(self, tmp_path):
        folder = idx_folder(tmp_path / "mnist")
        assert resolve_source(folder) == "vision/idx"
        samples = read_source(folder)
        assert labels(samples) == [0, 1, 2, 0, 1, 2, 0, 1, 2]
        split = samples.splitter(samples.items)
        assert (split.train.tolist(), split.valid.tolist()) == ([0, 1, 2, 3, 4, 5], [6, 7, 8])
        assert samples.get_x(samples.items[7]).tolist() == np.arange(16, 32).reshape(4, 4).tolist()
        assert str(samples.items[7]).endswith("t10k-images-idx3-ubyte.gz[1]")

    def test_items_are_a_sequence(self, tmp_path):
        items = idx_source(idx_folder(tmp_path / "mnist")).items
        assert len(items) == 9
        assert items[-1].y == 2
        assert [s.y for s in items[4:7]] == [1, 2, 0]
        with pytest.raises(IndexError):
            items[9]

    def test_one_part_has_no_split(self, tmp_path):
        assert read_source(idx_folder(tmp_path / "a", valid=0)).splitter is None
        assert len(read_source(idx_folder(tmp_path / "b", train=0)).items) == 3

    def test_labels_are_not_asked_for(self, tmp_path):
        with pytest.raises(OptionError, match="has its own"):
            read_source(idx_folder(tmp_path / "a"), label_from="parent")

    def test_counts_that_differ(self, tmp_path):
        folder = idx_folder(tmp_path / "a")
        write_idx(folder / "train-labels-idx1-ubyte.gz", np.zeros(5, np.uint8))
        with pytest.raises(DataError, match=r"holds 6 pictures, train-labels-idx1-ubyte\.gz 5 labels"):
            read_source(folder)

    def test_shapes_that_are_no_pictures(self, tmp_path):
        folder = idx_folder(tmp_path / "a")
        write_idx(folder / "train-images-idx3-ubyte.gz", np.zeros(6, np.uint8))
        with pytest.raises(DataError, match="no grey pictures"):
            read_source(folder)


@pytest.mark.parametrize("given_", ["folder", "name:", "csv:", "parent:x", "", "Name:x"])
def test_faulty_label_from(two_classes, given_):
    with pytest.raises(OptionError, match="none of parent, name:REGEX or csv:COLUMN"):
        read_source(two_classes, label_from=given_)


def test_a_named_source(two_classes):
    assert len(read_source(two_classes, source="vision/folder").items) == 20
    with pytest.raises(UnknownName, match="'vision/folder'"):
        read_source(two_classes, source="vision/foldr")


def test_a_sample_is_printed_by_its_name():
    assert str(Sample(np.zeros(3), 1, "file[0]")) == "file[0]"
