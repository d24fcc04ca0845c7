"""Byte-level BPE by tiktoken, where it is installed: the same ids as `tokenizers`, in a quarter of the time."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from graftwork_text.vocab import BOS, SPECIALS

__all__ = ["BytePairs", "byte_pairs"]

PATTERN: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""How GPT-2, and `tokenizers`' ByteLevel, cut before bytes are joined."""
SHOWN: Final = (*range(33, 127), *range(161, 173), *range(174, 256))
MARK: Final = "xx"
JOINED: Final = 64
"""Texts that are encoded by one call."""


def _bytes_of_letters() -> dict[str, int]:
    """Return which byte each letter of a byte-level piece stands for: bytes that cannot be seen are 256 and on."""
    hidden = sorted(set(range(256)) - set(SHOWN))
    return {chr(byte): byte for byte in SHOWN} | {chr(256 + at): byte for at, byte in enumerate(hidden)}


def byte_pairs(codes: Mapping[str, int], bos: int) -> BytePairs | None:
    """Return an encoder of a vocabulary of byte-level pieces, with the id of xxbos; None without tiktoken."""
    return BytePairs(codes, bos) if find_spec("tiktoken") is not None else None


@final
class BytePairs:
    """Encode texts that hold none of the special tokens' names; those need the tokenizer itself.

    Texts are joined by xxbos, across which nothing is merged or looked ahead, and cut apart at its id.
    """

    def __init__(self, codes: Mapping[str, int], bos: int) -> None:
        """Take pieces with their ids, which are also the order in which bytes are joined."""
        import tiktoken

        of = _bytes_of_letters()
        pieces = {bytes(of[letter] for letter in piece): code for piece, code in codes.items() if piece not in SPECIALS}
        self._inner: Any = tiktoken.Encoding(
            "pieces", pat_str=PATTERN, mergeable_ranks=pieces, special_tokens={BOS: bos}
        )
        self._bos = bos

    @staticmethod
    def plain(text: str) -> bool:
        """Say whether a text holds no special token's name."""
        return MARK not in text or not any(name in text for name in SPECIALS)

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Return the ids of plain texts, each after that of xxbos, in threads."""
        parts = [texts[start : start + JOINED] for start in range(0, len(texts), JOINED)]
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            return [row for part in pool.map(self._part, parts) for row in part]

    def _part(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        ids = self._inner.encode_to_numpy(BOS.join(["", *texts]), allowed_special={BOS}, disallowed_special=())
        return np.split(ids.astype(np.int32), np.flatnonzero(ids == self._bos))[1:]
