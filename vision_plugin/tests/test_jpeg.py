"""JPEGs read by libjpeg-turbo directly: the same pixels as Pillow's, and Pillow for whatever is not plain."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from graftwork.api import ItemError
from graftwork_vision import pictures
from graftwork_vision.pictures import MAX_PIXELS, open_picture


def jpeg(picture: Image.Image, **options: object) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def by_pillow(data: bytes, mode: str = "RGB", shrink_to: int | None = None) -> np.ndarray:
    return np.asarray(pictures._by_pillow(BytesIO(data), "<test>", mode, shrink_to, MAX_PIXELS))


@given(
    st.integers(7, 70), st.integers(7, 70), st.sampled_from([None, 1, 5, 16]), st.sampled_from([1, 3]), st.booleans()
)
def test_pixels_and_size_are_pillows(height, width, shrink_to, channels, grey):
    noise = np.random.default_rng(height * 71 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    data = jpeg(Image.fromarray(noise).convert("L" if grey else "RGB"), quality=80)
    # Below seven pixels two scales give one size, and the decoder may take the other one.
    quick = pictures._plain_jpeg(BytesIO(data), "L" if channels == 1 else "RGB", shrink_to, MAX_PIXELS)
    assert quick is not None
    expected = by_pillow(data, "L" if channels == 1 else "RGB", shrink_to)
    assert np.asarray(quick).shape == expected.shape
    # Two builds of one library may round apart by one.
    assert int(np.abs(np.asarray(quick).astype(int) - expected).max()) <= 1


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("subsampling", [0, 2])
def test_exif_turns_it_as_pillow_does(photo, turn, subsampling):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    data = jpeg(photo(), exif=exif.tobytes(), subsampling=subsampling)
    quick = pictures._plain_jpeg(BytesIO(data), "RGB", None, MAX_PIXELS)
    assert quick is not None
    assert np.array_equal(np.asarray(quick), by_pillow(data))


def test_progressive_is_read_too(photo):
    data = jpeg(photo(), progressive=True)
    assert np.array_equal(np.asarray(pictures._plain_jpeg(BytesIO(data), "RGB", None, MAX_PIXELS)), by_pillow(data))


@pytest.mark.parametrize("mode", ["CMYK"])
def test_other_colours_are_left_to_pillow(photo, mode):
    data = jpeg(photo().convert(mode))
    assert pictures._plain_jpeg(BytesIO(data), "RGB", None, MAX_PIXELS) is None
    assert open_picture(data).mode == "RGB"


def test_other_formats_are_not_even_read(tmp_path, photo, monkeypatch):
    path = tmp_path / "photo.jpg"  # the name says nothing
    photo().save(path, "PNG")
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("the whole file was read"))
    assert pictures._jpeg_bytes(path) is None
    assert np.array_equal(np.asarray(open_picture(path)), np.asarray(photo()))


def test_a_truncated_one_is_refused_with_pillows_words(tmp_path, photo):
    path = tmp_path / "half.jpg"
    data = jpeg(photo(200, 200))
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ItemError, match=r"half\.jpg.*truncated or broken"):
        open_picture(path)


def test_bytes_behind_the_picture_do_no_harm(photo):
    data = jpeg(photo())
    assert np.array_equal(np.asarray(open_picture(data + b"\0" * 100)), by_pillow(data))


def test_the_limit_on_pixels_holds(photo):
    with pytest.raises(ItemError, match="more than the limit of 100"):
        open_picture(jpeg(photo()), max_pixels=100)
