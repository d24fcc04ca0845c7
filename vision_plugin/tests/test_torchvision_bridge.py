"""torchvision's transforms among ours, and a user's own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from graftwork import CutMix, MixUp
from graftwork.api import Block, Bound, OptionError, PlanError, Transform, UnknownName
from graftwork_vision import ImageDataLoaders, ImageTensorBlock, TorchvisionTransform, aug_transforms, vision_learner

UNIT = ImageTensorBlock(3, None, "unit")
JITTER = TorchvisionTransform("ColorJitter", {"brightness": 0.5, "hue": 0.1})


def changed(tfm: Transform, pixels: Tensor, seed: int = 0) -> Tensor:
    """Return pictures as training changes them."""
    drawn = tfm.draw(torch.Generator().manual_seed(seed), {"x": pixels})
    found: Tensor = tfm.bind(UNIT).encode(pixels, drawn)
    return found


def test_pictures_draw_for_themselves_or_all_alike() -> None:
    pixels = torch.rand(1, 3, 8, 8).expand(6, 3, 8, 8)
    each, alike = (
        changed(JITTER, pixels),
        changed(TorchvisionTransform("ColorJitter", {"brightness": 0.5}, each=False), pixels),
    )
    assert len({tuple(one.flatten().tolist()) for one in each}) == 6
    assert len({tuple(one.flatten().tolist()) for one in alike}) == 1
    assert torch.equal(changed(JITTER, pixels), each)
    assert not torch.equal(changed(JITTER, pixels, 1), each)


def test_the_global_generator_is_put_back() -> None:
    state = torch.get_rng_state()
    changed(JITTER, torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), state)


def test_nothing_happens_outside_training() -> None:
    pixels = torch.rand(2, 3, 4, 4)
    assert JITTER.bind(UNIT).encode(pixels, None) is pixels


def test_json_is_all_there_is() -> None:
    again = TorchvisionTransform.from_config(json.loads(json.dumps(JITTER.to_config())))
    assert torch.equal(changed(again, torch.full((2, 3, 4, 4), 0.3)), changed(JITTER, torch.full((2, 3, 4, 4), 0.3)))


def test_what_cannot_be_wrapped() -> None:
    with pytest.raises(UnknownName, match="ColorJitter"):
        TorchvisionTransform("ColourJitter")
    with pytest.raises(OptionError, match="no_such"):
        TorchvisionTransform("ColorJitter", {"no_such": 1})
    with pytest.raises(OptionError, match="has no JSON form"):
        TorchvisionTransform("Lambda", {"lambd": abs}).to_config()
    with pytest.raises(PlanError, match="sizes: Resize"):
        changed(TorchvisionTransform("RandomCrop", {"size": 4}), torch.rand(2, 3, 8, 8))


@dataclass(frozen=True)
class Darken(Transform):
    """Be a user's own transform of batches."""

    id: ClassVar[str] = "test/darken"
    stage = "batch"
    by: float = 0.5

    def accepts(self, block: Block) -> bool:
        return block == UNIT or (isinstance(block, ImageTensorBlock) and block.scale == "unit")

    def out_block(self, block: Block) -> Block:
        return block

    def bind(self, block: Block) -> Bound:
        return Bound(lambda pixels, _: pixels * self.by)


@pytest.mark.parametrize("mixing", [MixUp(), CutMix()], ids=["mixup", "cutmix"])
def test_training_with_all_kinds_together(two_classes: Path, mixing: Any) -> None:
    tfms = aug_transforms(xtra_tfms=[JITTER, Darken(0.9)])
    data = ImageDataLoaders.from_folder(two_classes, size=32, bs=8, workers=0, batch_tfms=tfms)
    learn = vision_learner(data, "vision/small-cnn", weights=None)
    learn.fit(1, 1e-3, callbacks=[mixing])
    assert learn.history[-1]["train_loss"] > 0
