"""JPEGs made tensors at once: what the steps give one by one, and the steps themselves for whatever is no JPEG."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from graftwork.api import Block, Bound, ItemError, Plan, Transform
from graftwork_vision import loading
from graftwork_vision.blocks import ImageBlock, PictureBlock
from graftwork_vision.loading import resized
from graftwork_vision.transforms import RandomResizedCrop, Resize

# Compiled on first use, and draws may be of large pictures: how long one takes says nothing.
free = settings(deadline=None, max_examples=60)


def jpeg(picture: Image.Image, **options: Any) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(height * 97 + width).integers(0, 256, (height, width, channels), dtype=np.uint8)


def plan(*tfms: Transform, block: ImageBlock | None = None) -> Plan:
    return Plan.compile(
        {"x": block or ImageBlock()}, inputs=["x"], targets=[], item_tfms=tfms, train=lambda _: iter(())
    )


def one_by_one(made: Plan, value: Any, seed: int | None = None) -> torch.Tensor:
    """Run the steps as they are bound, each with what it draws."""
    rng = None if seed is None else np.random.default_rng(seed)
    for step in made.item_steps:
        params = None if rng is None or step.draw is None else step.draw(rng, {})
        value = step.targets[0][1].bound.encode(value, params)
    found: torch.Tensor = value
    return found


def at_once(made: Plan, value: Any, seed: int | None = None) -> torch.Tensor:
    found: torch.Tensor = made.encode({"x": value}, None if seed is None else np.random.default_rng(seed))["x"]
    return found


def apart(first: Any, second: Any) -> int:
    assert first.shape == second.shape
    return int(np.abs(np.asarray(first).astype(int) - np.asarray(second).astype(int)).max())


side = st.integers(1, 70)
share = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted).filter(lambda pair: pair[1] - pair[0] > 0.01)


@free
@given(side, side, side, side, share, share, st.sampled_from([1, 3]), st.booleans())
def test_a_part_is_resized_as_pillow_does(height, width, tall, wide, down, right, channels, whole):
    pixels = noise(height, width, channels)
    box = (right[0] * width, down[0] * height, right[1] * width, down[1] * height)
    if whole:
        box = (0.0, 0.0, float(width), float(height))
    # Where it is cut out at whole pixels instead, the steps do so too: see below.
    if abs(box[2] - box[0] - wide) + abs(box[3] - box[1] - tall) < 1e-6:
        return
    picture = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    wanted = np.asarray(picture.resize((wide, tall), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0))
    assert apart(resized(pixels, (tall, wide), box), wanted.reshape(tall, wide, channels)) <= 1


@free
@given(side, side, st.integers(1, 50), st.integers(1, 50), st.sampled_from([1, 3]), st.sampled_from(range(6)))
def test_a_plan_gives_what_its_steps_give(height, width, tall, wide, channels, seed):
    data = jpeg(Image.fromarray(noise(height, width)), quality=90)
    size, block = (tall, wide), ImageBlock(channels, shrink_to=min(tall, wide))
    square = (min(height, width),) * 2  # which is cut out
    for tfm in (Resize(size), Resize(size, method="squish"), RandomResizedCrop(size), Resize(square)):
        made = plan(tfm, block=block)
        for drawn in (None, seed):
            found = at_once(made, data, drawn)
            assert found.dtype == torch.uint8
            assert apart(found, one_by_one(made, data, drawn)) <= 1


@pytest.mark.parametrize("tfm", [Resize(32), Resize(32, method="squish"), RandomResizedCrop(32)])
def test_steps_are_left_out_where_they_are_done_at_once(tfm, photo, monkeypatch):
    data, made = jpeg(photo(60, 80)), plan(tfm)
    wanted = at_once(made, data, 0)
    monkeypatch.setattr("graftwork_vision.transforms.open_picture", lambda *a, **k: pytest.fail("opened as a picture"))
    for travelled in (plan(tfm), pickle.loads(pickle.dumps(made))):
        assert torch.equal(at_once(travelled, data, 0), wanted)
        assert wanted.permute(1, 2, 0).is_contiguous()


def test_a_path_and_text_are_read_as_bytes_are(photo, tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(photo(60, 80)))
    made = plan(Resize(32))
    assert torch.equal(at_once(made, path), at_once(made, path.read_bytes()))
    assert torch.equal(at_once(made, str(path)), at_once(made, path.read_bytes()))


@pytest.mark.parametrize("turn", range(1, 9))
def test_turned_pictures_are_upright(photo, turn):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    data, made = jpeg(photo(60, 90), exif=exif.tobytes()), plan(Resize((20, 30)))
    assert apart(at_once(made, data, 3), one_by_one(made, data, 3)) <= 1


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_whatever_it_is_the_tensor_is_that_of_the_steps(photo, mode, channels, kind):
    buffer = BytesIO()
    photo(60, 80).convert(mode).save(buffer, kind)
    made = plan(Resize(32), block=ImageBlock(channels))
    assert apart(at_once(made, buffer.getvalue(), 1), one_by_one(made, buffer.getvalue(), 1)) <= 1
    assert torch.equal(at_once(made, photo(60, 80)), one_by_one(made, photo(60, 80)))


def test_a_picture_without_a_size_to_have_is_done_at_once_too(photo, monkeypatch):
    data = jpeg(photo(20, 30))
    wanted = one_by_one(plan(), data)
    monkeypatch.setattr("graftwork_vision.transforms.open_picture", lambda *a, **k: pytest.fail("opened as a picture"))
    assert torch.equal(at_once(plan(), data), wanted)


def test_a_stated_size_is_still_checked(photo):
    with pytest.raises(ItemError, match=r"field 'x', step DecodeImage.*8x8 .* expected, not 20x30"):
        at_once(plan(block=ImageBlock(size=(8, 8))), jpeg(photo(20, 30)))


@pytest.mark.parametrize("name", ["half.jpg", "none.jpg", "notes.jpg"])
def test_errors_name_the_step_that_failed(photo, tmp_path, name):
    (tmp_path / "half.jpg").write_bytes(jpeg(photo(200, 200))[:2000])
    (tmp_path / "notes.jpg").write_text("dear diary")
    made = plan(Resize(32))
    with pytest.raises(ItemError) as alone:
        one_by_one(made, tmp_path / name)
    with pytest.raises(ItemError) as found:
        at_once(made, tmp_path / name, 0)
    assert str(found.value) == f"field 'x', step DecodeImage(), value {tmp_path / name!r}: {alone.value}"


def test_what_is_wrong_within_names_the_steps(photo, monkeypatch):
    def broken(*_: Any) -> Any:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(loading, "resized", broken)
    with pytest.raises(ItemError, match=r"field 'x', step DecodeImage\(\) to ToTensor\(\), value .*no kernel"):
        at_once(plan(Resize(32)), jpeg(photo(60, 80)))


@dataclass(frozen=True)
class Inverted(Transform):
    """Show the negative; a user's own transform of opened pictures."""

    id: ClassVar[str] = "test/inverted"

    def accepts(self, block: Block) -> bool:
        return isinstance(block, PictureBlock)

    def out_block(self, block: Block) -> Block:
        return block

    def bind(self, block: Block) -> Bound:
        return Bound(lambda picture, _: picture.point(lambda level: 255 - level))


@dataclass(frozen=True)
class TopLeft(Resize):
    """Resize in a way of its own."""

    id: ClassVar[str] = "test/top-left"

    def bind(self, block: Block) -> Bound:
        return Bound(lambda picture, _: picture.crop((0, 0, 8, 8)))


@pytest.mark.parametrize(
    "tfms", [[Inverted(), Resize(32)], [Resize(32), Inverted()], [TopLeft(8)], [Resize(32, method="pad")]]
)
def test_steps_of_other_kinds_see_pictures(photo, tfms: Sequence[Transform]):
    data, made = jpeg(photo(60, 80)), plan(*tfms)
    assert torch.equal(at_once(made, data, 0), one_by_one(made, data, 0))


def test_pages_and_traces_show_every_step(photo):
    made = plan(Resize(32))
    steps = ["DecodeImage", "Resize", "ToTensor"]
    traced = list(made.trace({"x": jpeg(photo(60, 80))}))
    assert [type(part.transform).__name__ for _, part, _ in traced] == steps
    assert isinstance(traced[0][2], Image.Image)
    assert all(name in str(made.explain()) for name in steps)
