"""One seed for a run, one derived seed per component: nothing global is ever seeded."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence

__all__ = ["derive_rng", "derive_seed"]


def derive_seed(seed: int, *path: str | int) -> int:
    """Return a 63-bit seed that depends on `seed` and on every part of `path`, the same on every machine."""
    return int.from_bytes(_hashed((seed, *path), 8), "little") >> 1


def derive_rng(seed: int, *path: str | int) -> np.random.Generator:
    """Return a generator of random numbers for a place, as `derive_seed` does a seed.

    Its state is made of the hash as it stands: numpy's own spreading of seeds takes longer than an item's other Python.
    """
    state = _State(np.frombuffer(_hashed((seed, *path), 32), np.uint64))
    return np.random.Generator(np.random.PCG64(state))  # type: ignore[arg-type]  # numpy's types know its own alone


def _hashed(place: tuple[str | int, ...], size: int) -> bytes:
    return blake2b(repr(place).encode(), digest_size=size).digest()


class _State(ISeedSequence):
    """Hand a generator the four numbers of 64 bits that are its state."""

    __slots__ = ("words",)

    def __init__(self, words: np.ndarray[Any, np.dtype[np.uint64]]) -> None:
        self.words = words

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray[Any, np.dtype[Any]]:
        """Return them."""
        return self.words
