"""IDX files, plain and gzipped, whole and broken."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from graftwork.api import DataError
from graftwork_vision import read_idx
from graftwork_vision.idx import find_idx

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx_bytes(array: np.ndarray) -> bytes:
    """Write an array as the format's inventor describes it: big-endian."""
    code = CODES[array.dtype.str[1:]]
    head = bytes((0, 0, code, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


ARRAYS = st.sampled_from(sorted(CODES)).flatmap(
    lambda kind: hnp.arrays(np.dtype(kind), hnp.array_shapes(max_dims=4, max_side=5))
)


@given(ARRAYS, st.booleans())
def test_what_is_written_is_read(tmp_path_factory, array, packed):
    path = tmp_path_factory.mktemp("idx") / "any"
    data = idx_bytes(array)
    path.write_bytes(gzip.compress(data, mtime=0) if packed else data)
    read = read_idx(path)
    assert read.dtype == array.dtype
    assert read.tobytes() == array.tobytes()
    assert read.shape == array.shape


WHOLE = idx_bytes(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not an IDX file"),
        (b"\x89PNG....", "not an IDX file"),
        (b"\0\0\x07\x01\0\0\0\0", "not an IDX file"),
        (b"\0\0\x08\0", "not an IDX file"),
        (WHOLE[:7], "ends within its header, after 7 bytes"),
        (WHOLE[:-1], r"header \(2, 3, 4\) asks for 40 bytes; the file holds 39"),
        (WHOLE + b"x", "the file holds 41"),
        (gzip.compress(WHOLE, mtime=0)[:-9], "the gzip file is broken"),
        (gzip.compress(WHOLE, mtime=0)[:20] + b"\xff" * 20, "the gzip file is broken"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "asks for"),
    ],
)
def test_broken_files_say_what_is_wrong(tmp_path, data, reason):
    path = tmp_path / "images"
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"images: .*{reason}"):
        read_idx(path)


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match="nothing-idx3-ubyte: cannot be read: No such file"):
        read_idx(tmp_path / "nothing-idx3-ubyte")


@pytest.mark.parametrize("stem", ["train-images-idx3-ubyte", "train-images.idx3-ubyte"])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_pairs_are_found_under_their_usual_names(tmp_path: Path, stem, ending):
    labels = stem.replace("images", "labels").replace("idx3", "idx1")
    (tmp_path / f"{stem}{ending}").touch()
    assert find_idx(tmp_path) == {}
    (tmp_path / f"{labels}{ending}").touch()
    assert find_idx(tmp_path) == {"train": (tmp_path / f"{stem}{ending}", tmp_path / f"{labels}{ending}")}


def test_mnist_has_the_counts_its_authors_state(real_data):
    images = read_idx(real_data / "mnist" / "t10k-images-idx3-ubyte.gz")
    labels = read_idx(real_data / "mnist" / "t10k-labels-idx1-ubyte.gz")
    assert images.shape == (10_000, 28, 28)
    assert np.bincount(labels)[[3, 7]].tolist() == [1010, 1028]
