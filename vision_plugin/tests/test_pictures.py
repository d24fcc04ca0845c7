"""Opening pictures: every form they come in, and every way in which they are broken."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import ExifTags, Image

from graftwork.api import ItemError
from graftwork_vision.pictures import IMAGE_SUFFIXES, array_reason, open_picture, orientation, to_array


def pixel(picture: Image.Image, down: int = 0, right: int = 0) -> tuple[int, ...]:
    value = picture.getpixel((right, down))
    return value if isinstance(value, tuple) else (value,)


def test_rgb_png_is_opened_exactly(tmp_path, photo):
    path = tmp_path / "a.png"
    photo().save(path)
    opened = open_picture(path)
    assert opened.mode == "RGB"
    assert np.array_equal(np.asarray(opened), np.asarray(photo()))


def test_a_path_may_be_text_with_spaces_and_any_letters(tmp_path, photo):
    path = tmp_path / "kätzchen \N{CAT FACE} 1 (2).png"
    photo().save(path)
    assert open_picture(str(path)).size == photo().size


def test_bytes_pictures_and_arrays_are_opened_alike(photo):
    buffer = BytesIO()
    photo().save(buffer, "PNG")
    for value in (buffer.getvalue(), photo(), np.asarray(photo())):
        assert np.array_equal(np.asarray(open_picture(value)), np.asarray(photo()))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3), (4, 5, 4)])
def test_arrays_of_all_shapes_become_the_channels_asked_for(shape, channels):
    opened = open_picture(np.full(shape, 200, np.uint8), channels=channels)
    assert to_array(opened).shape == (4, 5, channels)
    expected = 200 if shape[-1] != 4 else round(200 * 200 / 255 + 55)
    assert abs(int(to_array(opened)[0, 0, 0]) - expected) <= 1


def test_grey_is_spread_over_three_channels_and_back(tmp_path):
    path = tmp_path / "grey.png"
    Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4)).save(path)
    assert pixel(open_picture(path), 0, 3) == (3, 3, 3)
    assert pixel(open_picture(path, channels=1), 0, 3) == (3,)


def test_one_bit_pictures_are_black_and_white(tmp_path):
    path = tmp_path / "fax.png"
    Image.fromarray(np.array([[True, False]])).save(path)
    assert [pixel(open_picture(path), 0, i) for i in (0, 1)] == [(255,) * 3, (0,) * 3]


def test_transparency_is_laid_on_white(tmp_path):
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 3] = (255, 0, 51)  # opaque, invisible, one fifth of black
    path = tmp_path / "glass.png"
    Image.fromarray(pixels).save(path)
    assert [pixel(open_picture(path), 0, i)[0] for i in range(3)] == [0, 255, 204]


def test_grey_with_transparency_is_laid_on_white(tmp_path):
    path = tmp_path / "la.png"
    la = Image.new("LA", (2, 1))
    la.putdata([(10, 255), (10, 0)])
    la.save(path)
    assert [pixel(open_picture(path, channels=1), 0, i) for i in (0, 1)] == [(10,), (255,)]


def test_palette_gives_its_colours(tmp_path, photo):
    path = tmp_path / "palette.png"
    paletted = photo().quantize(16)
    paletted.save(path)
    with Image.open(path) as stored:
        assert stored.mode == "P"
    assert np.array_equal(np.asarray(open_picture(path)), np.asarray(paletted.convert("RGB")))


def test_transparent_palette_entry_is_white(tmp_path):
    path = tmp_path / "logo.gif"
    picture = Image.new("P", (2, 1))
    picture.putpalette([0, 0, 255, 255, 0, 0])
    picture.putdata([0, 1])
    picture.save(path, transparency=0)
    assert [pixel(open_picture(path), 0, i) for i in (0, 1)] == [(255, 255, 255), (255, 0, 0)]


def test_transparent_colour_of_rgb_is_white(tmp_path):
    path = tmp_path / "key.png"
    picture = Image.new("RGB", (2, 1), (0, 255, 0))
    picture.putpixel((1, 0), (9, 9, 9))
    picture.save(path, transparency=(0, 255, 0))
    assert [pixel(open_picture(path), 0, i) for i in (0, 1)] == [(255, 255, 255), (9, 9, 9)]


def test_cmyk_jpeg_has_the_colours_a_viewer_shows(tmp_path):
    path = tmp_path / "print.jpg"
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(path, quality=95)  # no cyan: red
    red, green, blue = pixel(open_picture(path), 8, 8)
    assert red > 240
    assert green < 15
    assert blue < 15


@given(hnp.arrays(np.uint16, (3, 4)))
def test_sixteen_bits_are_scaled_to_eight_to_the_nearest(values):
    buffer = BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    opened = np.asarray(open_picture(buffer.getvalue(), channels=1))
    assert np.array_equal(opened, np.floor(values / 257 + 0.5).astype(np.uint8))


def test_big_endian_sixteen_bit_tiff_is_scaled(tmp_path):
    path = tmp_path / "scan.tif"
    Image.fromarray(np.array([[0, 65535, 32896]], ">u2")).save(path)
    assert np.asarray(open_picture(path, channels=1)).tolist() == [[0, 255, 128]]


def test_integers_beyond_sixteen_bits_are_refused(tmp_path):
    path = tmp_path / "depth.tif"
    Image.fromarray(np.array([[0, 70000]], np.int32)).save(path)
    with pytest.raises(ItemError, match=r"depth\.tif.*0 to 70000 do not fit 16 bits"):
        open_picture(path)


def test_floats_are_refused(tmp_path):
    path = tmp_path / "heat.tif"
    Image.fromarray(np.ones((2, 2), np.float32)).save(path)
    with pytest.raises(ItemError, match=r"heat\.tif: floating-point pixels have no known range"):
        open_picture(path)


def test_a_mode_that_has_no_way_to_rgb_is_refused():
    with pytest.raises(ItemError, match="a picture of mode 'La' cannot be converted to RGB"):
        open_picture(Image.new("La", (2, 2)))


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_exif_rotation_is_applied(tmp_path, photo, turn, suffix):
    """The corner that is red and not green must end at the top right, however the file says it is turned."""
    inverse = {2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}
    methods = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    upright = photo(16, 24)
    stored = upright if turn == 1 else upright.transpose(methods[inverse[turn]])
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    path = tmp_path / f"turned.{suffix}"
    stored.save(path, exif=exif, **({"quality": 95} if suffix == "jpg" else {}))
    opened = open_picture(path)
    assert opened.size == upright.size
    assert np.abs(np.asarray(opened).astype(int) - np.asarray(upright)).max() < 25


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
def test_a_broken_exif_block_does_not_cost_the_picture(tmp_path, photo):
    path = tmp_path / "odd.jpg"
    photo().save(path, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    assert open_picture(path).size == photo().size


def test_orientation_of_a_picture_without_exif_is_upright(photo):
    assert orientation(photo()) == 1


def test_first_frame_of_an_animation_is_taken(tmp_path):
    path = tmp_path / "move.gif"
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert pixel(open_picture(path)) == (255, 0, 0)


class TestBroken:
    """Whatever is wrong, the error is an ItemError that names the file and the reason."""

    def test_missing(self, tmp_path):
        with pytest.raises(ItemError, match=r"nowhere\.jpg: no such file"):
            open_picture(tmp_path / "nowhere.jpg")

    def test_folder(self, tmp_path):
        with pytest.raises(ItemError, match="is a folder, not a picture"):
            open_picture(tmp_path)

    def test_empty_file(self, tmp_path):
        (tmp_path / "zero.jpg").touch()
        with pytest.raises(ItemError, match=r"zero\.jpg: the file is empty \(0 bytes\)"):
            open_picture(tmp_path / "zero.jpg")

    def test_empty_bytes(self):
        with pytest.raises(ItemError, match="there is nothing in it"):
            open_picture(b"")

    def test_not_a_picture(self, tmp_path):
        (tmp_path / "notes.jpg").write_text("dear diary")
        with pytest.raises(ItemError, match=r"notes\.jpg: not a picture .*starts with b'dear dia'\)"):
            open_picture(tmp_path / "notes.jpg")

    @pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "tif", "bmp"])
    @pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
    def test_truncated(self, tmp_path, suffix, share):
        path = tmp_path / f"half.{suffix}"
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ItemError, match=rf"half\.{suffix}: (truncated or broken|not a picture)"):
            open_picture(path)

    @settings(deadline=None)
    @given(st.binary(min_size=1, max_size=300), st.sampled_from(["png", "jpeg", "gif", "bmp", "none"]))
    def test_any_bytes_give_a_picture_or_an_item_error(self, noise, kind):
        buffer = BytesIO()
        if kind != "none":
            Image.new("RGB", (8, 8)).save(buffer, kind)
        data = buffer.getvalue()
        half = len(data) // 2
        try:
            opened = open_picture(data[:half] + noise + data[half + len(noise) :])
        except ItemError:
            return
        assert opened.mode == "RGB"

    def test_too_many_pixels(self, tmp_path, monkeypatch):
        path = tmp_path / "bomb.png"
        Image.new("1", (20_000, 20_000)).save(path)
        with pytest.raises(ItemError, match=r"bomb\.png: 20000 x 20000 pixels are more than the limit of 178,956,970"):
            open_picture(path)

    def test_wrong_kind_of_value(self):
        with pytest.raises(ItemError, match="not int"):
            open_picture(7)

    @pytest.mark.parametrize(
        ("array", "reason"),
        [
            (np.zeros((2, 2)), "uint8 .* not float64"),
            (np.zeros((2, 2, 2), np.uint8), r"shape .* not \(2, 2, 2\)"),
            (np.zeros(4, np.uint8), r"shape .* not \(4,\)"),
            (np.zeros((0, 4), np.uint8), "is empty"),
        ],
    )
    def test_arrays_that_are_no_pictures(self, array, reason):
        assert array_reason(array) is not None
        with pytest.raises(ItemError, match=reason):
            open_picture(array)


class TestShrinking:
    """JPEGs are decoded smaller only as far as asked for."""

    def test_keeps_both_sides_above_the_limit(self, tmp_path, photo):
        path = tmp_path / "large.jpg"
        photo(600, 900).save(path)
        for limit in (30, 75, 100, 150, 200, 300, 301, 599, 2000):
            opened = open_picture(path, shrink_to=limit)
            factor = round(900 / opened.width)
            assert factor in (1, 2, 4, 8)
            assert min(opened.size) >= min(limit, 600)
            assert min(opened.size) < 2 * limit or factor == 8

    def test_looks_the_same(self, tmp_path, photo):
        path = tmp_path / "large.jpg"
        photo(600, 900).save(path, quality=95)
        small, whole = (open_picture(path, shrink_to=s).resize((90, 60), Image.Resampling.BOX) for s in (60, None))
        assert np.abs(np.asarray(small).astype(int) - np.asarray(whole)).max() <= 4

    def test_leaves_other_formats_alone(self, tmp_path, photo):
        path = tmp_path / "large.png"
        photo(600, 900).save(path)
        assert open_picture(path, shrink_to=10).size == (900, 600)

    def test_grey_from_a_colour_jpeg_is_its_brightness(self, tmp_path, photo):
        path = tmp_path / "colour.jpg"
        photo().save(path, quality=95)
        grey, expected = open_picture(path, channels=1), open_picture(path).convert("L")
        assert grey.mode == "L"
        assert np.abs(np.asarray(grey).astype(int) - np.asarray(expected)).max() <= 4


def test_suffixes_are_sorted_and_lower_case():
    assert list(IMAGE_SUFFIXES) == sorted(set(IMAGE_SUFFIXES))
    assert all(s == s.lower() and s.startswith(".") for s in IMAGE_SUFFIXES)


def test_opening_leaves_the_given_array_alone(photo):
    pixels = np.asarray(photo()).copy()
    before = pixels.copy()
    opened = to_array(open_picture(pixels))
    opened[:] = 0
    assert np.array_equal(pixels, before)


def test_relative_and_home_less_paths_work(tmp_path, photo, monkeypatch):
    photo().save(tmp_path / "b.png")
    monkeypatch.chdir(tmp_path)
    assert open_picture(Path("b.png")).size == photo().size
