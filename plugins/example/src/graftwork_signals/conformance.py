"""What graftwork's conformance kit cannot guess: a small source for the task, and options that make models small."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from graftwork.testing import Examples, TaskExample
from graftwork_signals.blocks import SeriesBlock
from graftwork_signals.transforms import Crop

__all__ = ["EXAMPLES"]


def write_waves(folder: Path) -> Path:
    """Write 96 noisy waves of two channels and two classes, which differ in their frequency."""
    rng = np.random.default_rng(0)
    fast = np.arange(96) % 2 == 1
    angle = np.linspace(0, 2 * np.pi, 40) * np.where(fast, 5, 2)[:, None, None]
    waves = np.sin(angle + rng.uniform(0, 2 * np.pi, (96, 2, 1))) + rng.normal(0, 0.3, (96, 2, 40))
    np.savez(folder / "waves.npz", x=waves.astype(np.float32), y=np.where(fast, "fast", "slow"))
    return folder / "waves.npz"


EXAMPLES: Final = Examples(
    tasks=(
        TaskExample(
            task="signals/classification",
            write=write_waves,
            inputs=lambda source: [str(source)],
        ),
    ),
    transforms={"signals/crop": ((Crop(16), SeriesBlock(2, 40)),)},
    models={
        "signals/resnet": {"width": 8},
        "signals/inception": {"width": 4, "depth": 1},  # more than the smallest plugin
    },
)
