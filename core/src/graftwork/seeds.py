"""One seed for a run, one derived seed per component: nothing global is ever seeded."""

from __future__ import annotations

from hashlib import blake2b

__all__ = ["derive_seed"]


def derive_seed(seed: int, *path: str | int) -> int:
    """Return a 63-bit seed that depends on `seed` and on every part of `path`, the same on every machine."""
    digest = blake2b(repr((seed, *path)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
