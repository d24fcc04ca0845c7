"""albumentations' transforms among ours."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from graftwork.api import OptionError, PlanError, UnknownName
from graftwork_vision import AlbumentationsTransform, ImageDataLoaders, PictureBlock

pytest.importorskip("albumentations")

LIGHT = AlbumentationsTransform("RandomBrightnessContrast", {"p": 1.0})
GREY = np.full((8, 10, 3), 100, np.uint8)


def changed(tfm: AlbumentationsTransform, pixels: np.ndarray, seed: int) -> np.ndarray:
    block = PictureBlock(1 if pixels.ndim == 2 else 3)
    return np.asarray(tfm.bind(block).encode(Image.fromarray(pixels), seed))


def test_what_it_does_follows_from_the_seed_alone():
    first, again, other = (changed(LIGHT, GREY, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, GREY)


def test_threads_do_not_disturb_one_another():
    encode = LIGHT.bind(PictureBlock(3)).encode
    picture, seeds = Image.fromarray(GREY), list(range(24)) * 2
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda seed: np.asarray(encode(picture, seed)), seeds))
    assert all(np.array_equal(one, changed(LIGHT, GREY, seed)) for one, seed in zip(found, seeds, strict=True))


def test_grey_pictures_stay_grey_and_validation_stays_as_it_is():
    assert changed(LIGHT, GREY[..., 0], 1).shape == (8, 10)
    picture = Image.fromarray(GREY)
    assert LIGHT.bind(PictureBlock(3)).encode(picture, None) is picture


def test_json_is_all_there_is():
    again = AlbumentationsTransform.from_config(json.loads(json.dumps(LIGHT.to_config())))
    assert np.array_equal(changed(again, GREY, 3), changed(LIGHT, GREY, 3))


def test_it_stands_among_item_transforms(tmp_path):
    for name in ("dark", "light"):
        (tmp_path / name).mkdir()
        for i in range(4):
            Image.fromarray(GREY).save(tmp_path / name / f"{i}.png")
    data = ImageDataLoaders.from_folder(tmp_path, size=8, bs=4, item_tfms=[], batch_tfms=[], normalize="none")
    plain = data.one_batch().x
    data = ImageDataLoaders.from_folder(tmp_path, item_tfms=[LIGHT], bs=4, normalize="none")
    assert len(data.one_batch().x.unique()) > len(plain.unique())


def test_what_cannot_be_wrapped():
    with pytest.raises(UnknownName, match="CLAHE"):
        AlbumentationsTransform("CLAH")
    with pytest.raises(OptionError, match="no_such"):
        AlbumentationsTransform("CLAHE", {"no_such": 1})
    with pytest.raises(PlanError, match="sizes: Resize"):
        changed(AlbumentationsTransform("RandomCrop", {"height": 4, "width": 4}), GREY, 1)
