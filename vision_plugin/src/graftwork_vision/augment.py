"""aug_transforms: the usual augmentation of photos, as transforms of batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from graftwork.api import OptionError, Transform
from graftwork_vision.geometry import PadMode, SampleMode, Size, check_mode
from graftwork_vision.lighting import Brightness, Contrast
from graftwork_vision.spatial import (
    MOST_WARP,
    Dihedral,
    Flip,
    Perspective,
    RandomResizedCropGPU,
    Rotate,
    Zoom,
    check_share,
)

__all__ = ["Augmentation", "aug_transforms", "augmentation"]

Augmentation = Literal["auto", "none", "flip", "full"]

OWNER = "aug_transforms"


def aug_transforms(
    mult: float = 1.0,
    do_flip: bool = True,
    flip_vert: bool = False,
    max_rotate: float = 10.0,
    min_zoom: float = 1.0,
    max_zoom: float = 1.1,
    max_lighting: float = 0.2,
    max_warp: float = 0.2,
    p_affine: float = 0.75,
    p_lighting: float = 0.75,
    xtra_tfms: Sequence[Transform] | Transform = (),
    *,
    size: int | Size | None = None,
    mode: SampleMode = "bilinear",
    pad_mode: PadMode = "reflection",
    batch: bool = False,
    min_scale: float = 1.0,
) -> list[Transform]:
    """Return batch transforms that flip, look from aside, turn, zoom and light pictures, each by numbers of its own.

    `mult` multiplies max_rotate, max_lighting and max_warp. `flip_vert` flips and turns by quarters in all eight ways.
    Geometry happens with probability `p_affine` each (flips: 0.5), brightness and contrast with `p_lighting` each. With
    `size` pictures get it, and with `min_scale` below 1 as a random crop of at least that share, which needs it;
    outside training nothing happens but that, with the centre for the crop. `mode` is how
    pixels are sampled: "bilinear", or "nearest" for pictures whose values must not be mixed (masks and other labels
    never are). `batch` draws the same numbers for all pictures of a batch. `xtra_tfms` come last.

    All geometry samples the pixels once, all lighting is one pass, and on the CPU both are one with normalising.

    Raises:
        OptionError: a value is impossible; the message names it.
    """
    _check(mult=mult, max_rotate=max_rotate, max_lighting=max_lighting, max_warp=max_warp)
    check_share(OWNER, p_affine=p_affine, p_lighting=p_lighting)
    rotate, lighting, warp = (value * mult for value in (max_rotate, max_lighting, max_warp))
    _check_limits(mult, max_rotate=(max_rotate, 180), max_lighting=(max_lighting, 0.99), max_warp=(max_warp, MOST_WARP))
    if not 0 < min_zoom <= max_zoom:
        raise OptionError(f"{OWNER}: min_zoom={min_zoom} and max_zoom={max_zoom} must satisfy 0 < min_zoom <= max_zoom")
    if not 0 < min_scale <= 1:
        raise OptionError(f"{OWNER}: min_scale={min_scale} must be above 0 and at most 1")
    if min_scale < 1 and size is None:
        raise OptionError(f"{OWNER}: min_scale={min_scale} crops, which needs the size that crops get: size=224")
    check_mode(OWNER, mode)
    ways: dict[str, Any] = {"pad_mode": pad_mode, "batch": batch, "mode": mode}
    found: list[Transform] = []
    if min_scale < 1:
        found.append(RandomResizedCropGPU(size, min_scale=min_scale, ratio=(1.0, 1.0), **ways))
        size = None
    if do_flip:
        flip = Dihedral if flip_vert else Flip
        found.append(flip(0.5, size=size, **ways))
    if warp:
        found.append(Perspective(warp, p=p_affine, size=size, **ways))
    if rotate:
        found.append(Rotate(rotate, p=p_affine, size=size, **ways))
    if min_zoom < 1 or max_zoom > 1 or (size is not None and not found):
        found.append(Zoom(min_zoom, max_zoom, p=p_affine, size=size, **ways))
    if lighting:
        found.append(Brightness(lighting, p=p_lighting, batch=batch))
        found.append(Contrast(lighting, p=p_lighting, batch=batch))
    return [*found, *([xtra_tfms] if isinstance(xtra_tfms, Transform) else xtra_tfms)]


def augmentation(choice: Augmentation, *, small: bool) -> list[Transform]:
    """Return the batch transforms of a task's choice; auto is "none" for small pictures, which may be digits."""
    if choice == "auto":
        choice = "none" if small else "full"
    if choice == "full":
        return aug_transforms()
    return [Flip()] if choice == "flip" else []


def _check(**given: float) -> None:
    for name, value in given.items():
        if not value >= 0:
            raise OptionError(f"{OWNER}: {name}={value} must be at least 0")


def _check_limits(mult: float, **given: tuple[float, float]) -> None:
    for name, (value, most) in given.items():
        if value * mult > most:
            times = "" if mult == 1 else f" times mult={mult}"
            raise OptionError(f"{OWNER}: {name}={value}{times} is more than {most}")
