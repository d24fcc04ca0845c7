"""Pictures of many bands and of 16 bits, and pictures that are too large to be opened."""

from __future__ import annotations

import io
import struct
import zlib
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image

from graftwork import CategoryBlock, DataBlock, ItemError, Learner, OptionError, RandomSplitter, Runtime, load_learner
from graftwork.api import Plan
from graftwork_vision import ImageBlock, Normalize, Resize
from graftwork_vision.bands import BandsBlock, read_bands
from graftwork_vision.pictures import open_picture
from graftwork_vision.png import sixteen_bit_png


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of(
    width: int, height: int, *, bits: int = 8, colour: int = 2, rows: bytes = b"", interlaced: bool = False
) -> bytes:
    """Write a PNG by hand: Pillow writes no 16-bit RGB, and none without its pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_sixteen_bit_grey_keeps_its_bits(tmp_path):
    values = (np.arange(48, dtype=np.uint16) * 1365).reshape(6, 8)
    Image.fromarray(values).save(tmp_path / "a.png")
    Image.fromarray(values).save(tmp_path / "a.tif")
    for name in ("a.png", "a.tif"):
        bands = read_bands(tmp_path / name, channels=1, white=65535)
        assert np.allclose(bands[:, :, 0], values / 65535, atol=1e-7)
    assert np.asarray(open_picture(tmp_path / "a.png", channels=1)).max() == round(values.max() / 257)


ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def paeth(left: int, above: int, corner: int) -> int:
    """Guess as the standard says: what is nearest to left + above - corner, the first of them if several are."""
    aim = left + above - corner
    return min((left, above, corner), key=lambda value: abs(aim - value))


def filtered(values: np.ndarray, kinds: tuple[int, ...]) -> bytes:
    """Return the bytes of uint16 values (H, W, C), their rows filtered by one kind after the other."""
    lines = [list(row.astype(">u2").tobytes()) for row in values]
    step, rows, before = 2 * values.shape[2], [], [0] * len(lines[0]) if lines else []
    for number, line in enumerate(lines):
        kind = kinds[number % len(kinds)]
        left, corner = [0] * step + line, [0] * step + before
        guesses = {
            0: lambda j: 0,
            1: lambda j, left=left: left[j],
            2: lambda j, before=before: before[j],
            3: lambda j, left=left, before=before: (left[j] + before[j]) // 2,
            4: lambda j, left=left, before=before, corner=corner: paeth(left[j], before[j], corner[j]),
        }
        rows.append(bytes([kind, *((byte - guesses[kind](j)) % 256 for j, byte in enumerate(line))]))
        before = line
    return b"".join(rows)


def sixteen_bits(values: np.ndarray, *, kinds: tuple[int, ...] = (0,), interlaced: bool = False) -> bytes:
    """Write a PNG of uint16 values (H, W, 2|3|4)."""
    height, width, channels = values.shape
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    parts = [values[y::down, x::across] for x, y, across, down in passes]
    rows = b"".join(filtered(part, kinds) for part in parts if part.size)
    colour = {2: 4, 3: 2, 4: 6}[channels]
    return png_of(width, height, bits=16, colour=colour, rows=rows, interlaced=interlaced)


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_a_png_of_several_bands_keeps_its_sixteen_bits(tmp_path, channels):
    """Pillow alone would cut them to eight."""
    values = np.random.default_rng(0).integers(0, 65536, (5, 7, channels), dtype=np.uint16)
    (tmp_path / "a.png").write_bytes(sixteen_bits(values))
    for value in (tmp_path / "a.png", (tmp_path / "a.png").read_bytes()):
        bands = read_bands(value, channels=channels)
        assert np.array_equal(bands, values.astype(np.float32) / np.float32(65535))
    with pytest.raises(ItemError, match=r"a\.png: 9 bands expected"):
        read_bands(tmp_path / "a.png", channels=9)
    with pytest.raises(ItemError, match="more than the limit of 34"):
        read_bands(tmp_path / "a.png", channels=channels, max_pixels=34)
    plan = Plan.compile(
        {"x": ImageBlock(channels=channels, white=10000)}, inputs=["x"], targets=[], item_tfms=[], train=lambda _: ()
    )
    pixels = plan.collate([plan.encode({"x": tmp_path / "a.png"})])["x"]
    expected = torch.from_numpy(values.astype(np.float32)).permute(2, 0, 1)[None] / 10000
    assert torch.allclose(pixels, expected.clamp(max=1))


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (12, 9)])
def test_all_filters_of_rows_are_undone(size, interlaced):
    rng = np.random.default_rng(0)
    for kinds in ((0,), (1,), (2,), (3,), (4,), (4, 3, 2, 1, 0)):
        values = rng.integers(0, 65536, (*size, 3), dtype=np.uint16)
        data = sixteen_bits(values, kinds=kinds, interlaced=interlaced)
        assert np.array_equal(sixteen_bit_png(data, "a"), values), kinds
        # Pillow keeps the upper bytes, so the file is one that others can read.
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), values >> 8)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data[: len(data) // 2], "checksum|unpack"),
        (lambda data: data[:100] + bytes([data[100] ^ 255]) + data[101:], "a checksum does not fit"),
        (lambda data: data[:33] + chunk(b"IDAT", zlib.compress(b"short")), "buffer"),
        (lambda data: data[:33] + chunk(b"IDAT", b"no pixels"), "header"),
        (lambda data: data[:33] + chunk(b"IDAT", zlib.compress(b"\7" * 10000)), "the filter 7"),
    ],
)
def test_broken_ones_of_sixteen_bits_are_named(tmp_path, change, reason):
    data = sixteen_bits(np.random.default_rng(0).integers(0, 65536, (12, 12, 3), dtype=np.uint16))
    (tmp_path / "bad.png").write_bytes(change(data))
    with pytest.raises(ItemError, match=rf"bad\.png: truncated or broken picture \(.*({reason})"):
        read_bands(tmp_path / "bad.png", channels=3, white=65535)


def test_npy_bands_first_or_last_and_white(tmp_path):
    values = np.random.default_rng(0).integers(0, 10000, (6, 7, 5), dtype=np.uint16)
    np.save(tmp_path / "last.npy", values)
    np.save(tmp_path / "first.npy", values.transpose(2, 0, 1))
    for name in ("last.npy", "first.npy"):
        bands = read_bands(tmp_path / name, channels=5, white=10000)
        assert np.allclose(bands, values / 10000, atol=1e-6)
    assert read_bands(values, channels=5, white=5000).max() == 1.0


def test_pages_of_a_tiff_are_bands(tmp_path):
    pages = [Image.fromarray(np.full((4, 6), 1000 * (i + 1), np.uint16)) for i in range(4)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    bands = read_bands(tmp_path / "a.tif", channels=4)
    assert np.allclose(bands[0, 0] * 65535, [1000, 2000, 3000, 4000])


def tiff_of(values: np.ndarray) -> bytes:
    """Write a TIFF of interleaved bands by hand: Pillow writes none of more than four."""
    height, width, bands = values.shape
    pixels = values.astype("<u2").tobytes()
    entries = [
        *((256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 16), (259, 3, 1, 1), (262, 3, 1, 1)),
        *((273, 4, 1, 8), (277, 3, 1, bands), (278, 4, 1, height), (279, 4, 1, len(pixels)), (284, 3, 1, 1)),
    ]
    table = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return struct.pack("<2sHI", b"II", 42, 8 + len(pixels)) + pixels + table + struct.pack("<I", 0)


def test_a_tiff_of_five_bands_needs_the_extra(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (6, 8, 5), dtype=np.uint16)
    (tmp_path / "a.tif").write_bytes(tiff_of(values))
    if find_spec("tifffile") is None:
        with pytest.raises(ItemError, match=r"graftwork-vision\[tiff\]"):
            read_bands(tmp_path / "a.tif", channels=5)
    else:
        assert np.allclose(read_bands(tmp_path / "a.tif", channels=5), values / 65535, atol=1e-6)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.zeros((4, 4, 3), np.int64), "uint8, uint16 or floats, not int64"),
        (np.zeros((4, 6, 3), np.uint8), r"5 bands expected, and the shape is \(4, 6, 3\)"),
        (np.full((4, 4, 5), np.nan, np.float32), "80 values are NaN"),
        (np.zeros((1, 2, 3, 4), np.uint8), "has the shape"),
    ],
)
def test_what_has_other_bands_is_refused(value, reason):
    with pytest.raises(ItemError, match=reason):
        read_bands(value, channels=5)


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"no numpy")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    for name in ("a.npy", "objects.npy", "gone.tif", "gone.png"):
        with pytest.raises(ItemError, match=name.replace(".", r"\.")):
            read_bands(tmp_path / name, channels=4)
    assert "no such file" in ImageBlock(4).check(tmp_path / "gone.npy")
    assert ImageBlock(4).check(tmp_path / "a.npy") is None
    assert "does not end like a picture" in ImageBlock(3).check(tmp_path / "a.npy")


def test_all_sizes_are_given_to_every_band_alike():
    grey = np.random.default_rng(0).random((20, 30)).astype(np.float32)
    for tfm in (Resize((8, 12)), Resize(16, method="pad"), Resize((10, 10), method="squish")):
        bound = tfm.bind(BandsBlock(4))
        changed = bound.encode(np.stack([grey] * 4, 2), None)
        assert changed.shape == (*tfm.out_block(BandsBlock(4)).size, 4)
        assert np.array_equal(changed[:, :, 0], changed[:, :, 3])


def test_five_bands_train_and_come_back(tmp_path):
    rng, items = np.random.default_rng(0), []
    for number in range(60):
        values = rng.integers(0, 3000, (20, 24, 5), dtype=np.uint16)
        values[..., 4] += np.uint16(6000 * (number % 2))
        np.save(tmp_path / f"{number}.npy", values)
        items.append((tmp_path / f"{number}.npy", "wet" if number % 2 else "dry"))
    block = DataBlock(
        blocks=(ImageBlock(5, white=10000), CategoryBlock),
        splitter=RandomSplitter(0.2, seed=0),
        item_tfms=Resize(16),
        batch_tfms=Normalize(),
    )
    data = block.dataloaders(items, bs=16, workers=0)
    runtime = Runtime(device="cpu", precision="fp32")
    learn = Learner(data, "vision/small-cnn", runtime=runtime, progress=False).fit_one_cycle(4, 1e-2)
    assert learn.history[-1]["accuracy"] == 1.0
    artifact = load_learner(learn.export(tmp_path / "m.graft"), device="cpu")
    assert artifact.predict(items[1][0]).value == "wet"
    data.show_batch()


def test_three_channel_weights_fit_more_bands(tmp_path):
    """fastai's rule: further channels start at zero, so that the first three do what they did."""
    from graftwork_vision.backbones import build_body

    torch.manual_seed(0)
    state = build_body("resnet18").module.state_dict()
    wide = build_body("resnet18", channels=5, state=state).module
    weight, given = wide[0].weight, state["conv1.weight"]
    assert torch.equal(weight[:, :3], given)
    assert not weight[:, 3:].any()
    assert torch.equal(build_body("resnet18", channels=1, state=state).module[0].weight, given.sum(1, keepdim=True))
    two = build_body("resnet18", channels=2, state=state).module[0].weight
    assert torch.allclose(two, given[:, :2] * 1.5)


class TestTooLarge:
    """A picture of 30,000 x 20,000 pixels, and a bomb: small files that would fill the memory."""

    def test_it_is_refused_unread_with_the_limit(self, tmp_path):
        (tmp_path / "big.png").write_bytes(png_of(30_000, 20_000))
        for value in (tmp_path / "big.png", (tmp_path / "big.png").read_bytes()):
            with pytest.raises(ItemError, match="30000 x 20000 pixels are more than the limit of 178,956,970"):
                open_picture(value)
        with pytest.raises(ItemError, match="30000 x 20000 pixels are more than the limit"):
            read_bands(tmp_path / "big.png", channels=4)

    def test_the_limit_can_be_lowered_and_raised(self, tmp_path):
        Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
        plan = Plan.compile({"x": ImageBlock(max_pixels=1000)}, inputs=["x"], targets=[], train=lambda _: iter(()))
        with pytest.raises(ItemError, match="40 x 30 pixels are more than the limit of 1,000; if the file"):
            plan.encode({"x": tmp_path / "a.png"})
        # Beyond Pillow's own limit: header only, so that the test needs no 0.6 GB; what fails is the missing pixels.
        with pytest.raises(ItemError, match="truncated or broken picture"):
            open_picture(png_of(200_000, 1_000), channels=1, max_pixels=300_000_000)
        with pytest.raises(OptionError, match="max_pixels=0"):
            ImageBlock(max_pixels=0)

    def test_a_job_leaves_it_out_and_says_so(self, tmp_path, capsys):
        import json

        from graftwork.cli.main import main

        rng = np.random.default_rng(0)
        for label in ("a", "b"):
            (tmp_path / "s" / label).mkdir(parents=True)
            for i in range(6):
                pixels = rng.integers(0, 100 + 100 * (label == "b"), (24, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "s" / label / f"{i}.png")
        (tmp_path / "s" / "a" / "bomb.png").write_bytes(png_of(30_000, 20_000))
        options = ["--size", "24", "--epochs", "1", "--workers", "0", "--bs", "4", "--device", "cpu", "--json"]
        main(["train", "vision/classification", str(tmp_path / "s"), *options, "--out", str(tmp_path / "r")])
        report = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert any("bomb.png" in line and "more than the limit" in line for line in report["warnings"])


def test_a_broken_picture_with_bands_is_named(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGBA", (20, 20)).save(buffer, "PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue()[:45])
    with pytest.raises(ItemError, match=r"a\.png"):
        read_bands(tmp_path / "a.png", channels=4)
