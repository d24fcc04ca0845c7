"""Effects and policies on batches: what each does to pixels, beside Pillow's and torchvision's own."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from graftwork.api import OptionError, Plan, Transform, UnknownName
from graftwork_vision import (
    Blur,
    Hue,
    ImageTensorBlock,
    JpegArtifacts,
    Noise,
    PictureEffect,
    RandAugment,
    RandomErasing,
    Saturation,
    TrivialAugment,
    aug_transforms,
)
from graftwork_vision.policies import OPERATIONS, AugmentPolicy, recoloured

UNIT = ImageTensorBlock(3, None, "unit")
EFFECTS: list[PictureEffect] = [Saturation(), Hue(), Blur(), Noise(), JpegArtifacts(), RandomErasing()]
POLICIES: list[AugmentPolicy] = [RandAugment(), TrivialAugment()]


def generator(seed: int = 0) -> torch.Generator:
    """Return a generator."""
    return torch.Generator().manual_seed(seed)


def noise(batch: int, height: int, width: int) -> Tensor:
    """Return noisy bytes (B, 3, H, W)."""
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator(3))


def smooth(batch: int, height: int, width: int) -> Tensor:
    """Return bytes (B, 3, H, W) of waves, each picture and channel its own."""
    y, x = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 3, width), indexing="ij")
    waves = [torch.sin(x + b) * torch.cos(y * (1 + c / 2)) for b in range(batch) for c in range(3)]
    return (torch.stack(waves).view(batch, 3, height, width) * 100 + 128).to(torch.uint8)


def plan(tfms: Sequence[Transform], block: ImageTensorBlock) -> Plan:
    """Compile a plan of pictures."""
    return Plan.compile({"x": block}, inputs=("x",), targets=(), batch_tfms=tfms, train=lambda name: iter(()))


def names(value: object) -> str:
    """Name a parameter by its type."""
    return type(value).__name__


def unit(batch: int = 8) -> Tensor:
    """Return smooth pictures from 0 to 1."""
    return smooth(batch, 24, 32).float() / 255


def changed(tfm: Any, pixels: Tensor, seed: int = 0) -> Tensor:
    """Return pictures as training changes them."""
    found: Tensor = tfm.bind(UNIT).encode(pixels, tfm.draw(generator(seed), {"x": pixels}))
    return found


@pytest.mark.parametrize("tfm", [*EFFECTS, *POLICIES], ids=names)
class TestEvery:
    """What holds of all of them."""

    def test_stays_a_picture_in_any_precision(self, tfm: Any) -> None:
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            pixels = unit().to(dtype)
            found = changed(tfm, pixels)
            assert found.dtype == dtype
            assert found.shape == pixels.shape
            assert float(found.min()) >= 0
            assert float(found.max()) <= 1.001
            assert not torch.equal(found, pixels)

    def test_nothing_happens_outside_training(self, tfm: Any) -> None:
        pixels = unit()
        assert tfm.bind(UNIT).encode(pixels, None) is pixels
        assert plan([tfm], UNIT).encode_batch({"x": pixels})["x"] is pixels

    def test_each_picture_has_its_own(self, tfm: Any) -> None:
        sure = type(tfm)(p=1.0) if isinstance(tfm, PictureEffect) else tfm
        found = changed(sure, unit(1).expand(12, 3, 24, 32).contiguous())
        different = {tuple(one.flatten()[::7].tolist()) for one in found}
        assert len(different) >= 4

    def test_does_not_depend_on_the_rest_of_the_batch(self, tfm: Any) -> None:
        pixels = unit()
        other = pixels.clone()
        other[1:] = other[1:].flip(0)
        assert torch.allclose(changed(tfm, pixels)[0], changed(tfm, other)[0], atol=1e-5)

    def test_json(self, tfm: Any) -> None:
        assert type(tfm).from_config(tfm.to_config()) == tfm


@pytest.mark.parametrize("tfm", EFFECTS, ids=names)
def test_the_share_is_p(tfm: PictureEffect) -> None:
    pixels = unit(1).expand(200, 3, 24, 32).contiguous()
    found = changed(type(tfm)(p=0.3), pixels)
    share = float((found != pixels).flatten(1).any(1).float().mean())
    assert share == pytest.approx(0.3, abs=0.12)
    assert torch.equal(changed(type(tfm)(p=0.0), pixels), pixels)


class TestColours:
    """Colours keep what they should."""

    def test_grey_has_no_colour_to_change(self) -> None:
        grey = torch.linspace(0.05, 0.95, 64).view(1, 1, 8, 8).expand(6, 3, 8, 8).contiguous()
        for tfm in (Saturation(0.5, p=1.0), Hue(0.4, p=1.0)):
            assert torch.allclose(changed(tfm, grey), grey, atol=1e-4)

    def test_hue_turns_around_the_circle(self) -> None:
        from torchvision.transforms.v2.functional import adjust_hue

        pixels = unit(3)
        numbers = torch.tensor([[0.0] * 3, [0.5, 1.0, 0.0]])[..., None, None, None]
        found = Hue(0.25, p=1.0).bind(UNIT).encode(pixels, (numbers, {}))
        for k, turn in enumerate((0.0, 0.25, -0.25)):
            assert torch.allclose(found[k], adjust_hue(pixels[k], turn), atol=1e-3)

    def test_grey_pictures_cannot_have_other_colours(self) -> None:
        assert not Hue().accepts(ImageTensorBlock(1, None, "unit"))
        assert not Saturation().accepts(ImageTensorBlock(4, None, "unit"))
        assert Blur().accepts(ImageTensorBlock(4, None, "unit"))
        assert not Blur().accepts(ImageTensorBlock())


class TestDegrading:
    """Blur, noise, compression, erasing."""

    def test_blur_equals_torchvisions(self) -> None:
        from torchvision.transforms.v2.functional import gaussian_blur

        pixels = noise(2, 30, 30).float() / 255
        numbers = torch.tensor([[0.0, 0.0], [0.5, 1.0]])[..., None, None, None]
        found = Blur(2.0, p=1.0).bind(UNIT).encode(pixels, (numbers, {}))
        for k, sigma in enumerate((1.0, 2.0)):
            wanted = gaussian_blur(pixels[k], [13, 13], [sigma, sigma])
            assert torch.allclose(found[k, :, 8:-8, 8:-8], wanted[:, 8:-8, 8:-8], atol=1e-3)

    def test_noise_has_its_deviation(self) -> None:
        grey = torch.full((400, 3, 8, 8), 0.5)
        found = changed(Noise(0.1, p=1.0), grey)
        deviations = found.flatten(1).std(1)
        assert float(deviations.max()) < 0.14
        assert float(deviations.mean()) == pytest.approx(0.05, abs=0.005)

    @pytest.mark.parametrize("quality", [10, 40, 85])
    def test_compression_loses_what_pillows_does(self, quality: int) -> None:
        pixels = noise(1, 24, 40)[0]
        pixels = torch.nn.functional.avg_pool2d(pixels.float(), 3, 1, 1).to(torch.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality, subsampling=0)
        wanted = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float()
        found = changed(JpegArtifacts(quality, quality, p=1.0), pixels[None].float() / 255)[0] * 255
        lost = float((wanted - pixels).abs().mean())
        # Pillow rounds on the way as well, so that some coefficients fall the other way.
        assert (found - wanted).abs().mean() < 0.3 * lost
        assert (found - pixels).abs().mean() == pytest.approx(lost, rel=0.03)

    @pytest.mark.parametrize("count", [1, 3])
    def test_erasing_leaves_the_rest_alone(self, count: int) -> None:
        pixels = torch.ones(64, 3, 40, 50)
        found = changed(RandomErasing(p=1.0, sl=0.1, sh=0.3, max_count=count), pixels)
        erased = (found != 1).any(1)
        shares = erased.float().mean((1, 2))
        assert 0.08 / count < float(shares.min())
        assert float(shares.max()) <= 0.32
        if count == 1:
            for one in erased:
                rows, columns = one.any(1).sum(), one.any(0).sum()
                assert float(one.sum() / (rows * columns)) > 0.95


class TestPolicies:
    """Every operation is what torchvision's is."""

    @pytest.mark.parametrize("name", OPERATIONS[6:])
    def test_colours_equal_torchvisions(self, name: str) -> None:
        from torchvision.transforms.v2 import functional

        pixels = smooth(2, 24, 32)
        strength, factor = torch.tensor([0.3, 0.7]), torch.tensor([0.6, 1.7])
        chosen = torch.full((2,), OPERATIONS.index(name))
        found = recoloured(pixels.float() / 255, chosen, strength, factor, 4) * 255
        wanted: Callable[[Tensor, int], Tensor] = {
            "brightness": lambda x, k: functional.adjust_brightness(x, float(factor[k])),
            "color": lambda x, k: functional.adjust_saturation(x, float(factor[k])),
            "contrast": lambda x, k: functional.adjust_contrast(x, float(factor[k])),
            "sharpness": lambda x, k: functional.adjust_sharpness(x, float(factor[k])),
            "posterize": lambda x, k: functional.posterize(x, 8 - round(4 * float(strength[k]))),
            "solarize": lambda x, k: functional.solarize(x, 255 * (1 - float(strength[k]))),
            "autocontrast": lambda x, k: functional.autocontrast(x),
            "equalize": lambda x, k: functional.equalize(x),
        }[name]
        for k in range(2):
            assert (found[k] - wanted(pixels[k], k).float()).abs().mean() < 1.0

    def test_all_operations_occur(self) -> None:
        drawn = RandAugment().draw(generator(), {"x": torch.empty(200, 3, 4, 4)})
        assert drawn is not None
        assert drawn.numbers is not None
        assert set((drawn.numbers[:, 0] * len(OPERATIONS)).long().flatten().tolist()) == set(range(14))

    def test_strength_is_the_magnitude(self) -> None:
        still = RandAugment(3, 0)
        pixels = unit()
        untouched = [k for k in range(8) if torch.allclose(changed(still, pixels)[k], pixels[k], atol=0.01)]
        assert len(untouched) >= 3  # all but those that stretch or equalize


def test_extras_come_last_and_mix_with_the_rest() -> None:
    tfms = aug_transforms(xtra_tfms=[Saturation(), RandomErasing()])
    assert [type(t).__name__ for t in tfms[-2:]] == ["Saturation", "RandomErasing"]
    found = plan(tfms, ImageTensorBlock()).encode_batch({"x": noise(4, 16, 16)}, generator())["x"]
    assert found.shape == (4, 3, 16, 16)
    assert bool(found.isfinite().all())


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Saturation(1.0), r"max_lighting=1\.0"),
        (lambda: Hue(0.7), r"max_hue=0\.7"),
        (lambda: Blur(0), "max_sigma=0"),
        (lambda: Noise(-1), "max_sigma=-1"),
        (lambda: JpegArtifacts(90, 30), "min_quality=90"),
        (lambda: RandomErasing(sl=0.5, sh=0.2), r"sl=0\.5"),
        (lambda: RandomErasing(min_aspect=0), "min_aspect=0"),
        (lambda: RandomErasing(max_count=0), "max_count=0"),
        (lambda: Blur(p=2), "p=2"),
        (lambda: RandAugment(0), "num_ops=0"),
        (lambda: RandAugment(2, 31), "magnitude=31"),
    ],
)
def test_impossible_parameters(make: Callable[[], object], named: str) -> None:
    with pytest.raises(OptionError, match=named):
        make()


def test_unknown_pad_mode() -> None:
    with pytest.raises(UnknownName, match="border"):
        TrivialAugment(pad_mode="edge")  # type: ignore[arg-type]
