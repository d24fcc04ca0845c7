"""Transforms of albumentations for single pictures, by name, so that they have a JSON form."""

from __future__ import annotations

import inspect
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

import numpy as np
from PIL import Image

from graftwork.api import Block, Bound, OptionError, PlanError, Transform, unknown
from graftwork_vision.blocks import PictureBlock
from graftwork_vision.pictures import to_array

__all__ = ["AlbumentationsTransform"]


@final
@dataclass(frozen=True)
class AlbumentationsTransform(Transform):
    """Do to every picture what a class of albumentations does, in training only; an item transform.

    `AlbumentationsTransform("CLAHE", {"p": 0.5})`: the name and the arguments are all there is of it, and what an
    exported model holds. It may not change the size, and targets do not follow it. It needs the extra
    `graftwork-vision[albumentations]`.
    """

    id: ClassVar[str] = "vision/albumentations"
    random = True
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make the transform once, so that what is wrong with it is known at once."""
        self._made()

    def __hash__(self) -> int:
        """Hash what can be hashed of it."""
        return hash((self.name, repr(self.arguments)))

    def _made(self) -> Any:
        """Make it, in a composition of its own, which can be given a seed."""
        try:
            import albumentations
        except ModuleNotFoundError as error:
            raise OptionError(
                f"{self.id} needs albumentations: pip install 'graftwork-vision[albumentations]'"
            ) from error
        basic = albumentations.BasicTransform
        known = {n: k for n, k in vars(albumentations).items() if inspect.isclass(k) and issubclass(k, basic)}
        if self.name not in known:
            raise unknown("transform of albumentations", self.name, sorted(known))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)  # it only warns of arguments that it does not know
                return albumentations.Compose([known[self.name](**self.arguments)], seed=0)
        except (TypeError, ValueError, UserWarning) as error:
            raise OptionError(f"{self.id}: {self.name} refuses {dict(self.arguments)}: {error}") from error

    def accepts(self, block: Block) -> bool:
        """Work on opened pictures."""
        return isinstance(block, PictureBlock)

    def out_block(self, block: Block) -> Block:
        """Change nothing about the block."""
        return block

    def draw(self, rng: np.random.Generator, sample: Mapping[str, Any]) -> int:
        """Draw a seed for what albumentations draws."""
        return int(rng.integers(2**31))

    def bind(self, block: Block) -> Bound:
        """Make one for each thread, since it holds its random state."""
        mine = _Mine(self._made)

        def encode(picture: Image.Image, seed: int | None) -> Image.Image:
            return picture if seed is None else self._changed(picture, mine.transform, seed)

        return Bound(encode)

    def _changed(self, picture: Image.Image, transform: Any, seed: int) -> Image.Image:
        before = to_array(picture)
        transform.set_random_seed(seed)
        after = np.asarray(transform(image=before)["image"])
        if after.shape != before.shape or after.dtype != before.dtype:
            raise PlanError(
                f"{self.id}: {self.name} makes {after.dtype} of shape {after.shape} of {before.dtype} of shape "
                f"{before.shape}; only what leaves both as they are can be wrapped (sizes: Resize)"
            )
        return Image.fromarray(after[:, :, 0] if after.shape[2] == 1 else after)


class _Mine(threading.local):
    """Hold a thread's own transform, made when it first asks."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.transform = make()
