"""Token ids on disk, mapped into memory: keyed by the texts and the tokenizer, written beside and renamed.

A cache is a folder: ids.npy (int32), ends.npy (int64) and tokens.json, which holds tokenizer and vocabulary.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import io
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from graftwork.api import DataError, OptionError
from graftwork_text.bulk import Packed
from graftwork_text.tokenizers import WordTokenizer
from graftwork_text.vocab import SPECIALS, filled
from graftwork_text.words import Ids, WordCounts, WordEncoder

__all__ = ["TokenCache", "lines_of", "text_key", "tokenize_stream"]

VERSION: Final = 1
BATCH_CHARACTERS: Final = 16_000_000


@final
class TokenCache:
    """Read a cache. `texts` maps the ids; nothing is read before it is used."""

    def __init__(self, folder: str | Path) -> None:
        """Raise DataError for a folder that is none, or is damaged."""
        self.folder = Path(folder)
        try:
            told = json.loads((self.folder / "tokens.json").read_text(encoding="utf-8"))
            self.vocab: tuple[str, ...] = tuple(told["vocab"])
            self.tokenizer: str = told["tokenizer"]
            ids = np.load(self.folder / "ids.npy", mmap_mode="r", allow_pickle=False)
            ends = np.load(self.folder / "ends.npy", mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{self.folder} is no token cache, or it is damaged: {error}") from error
        if len(ends) and int(ends[-1]) != len(ids):
            raise DataError(f"{self.folder} is damaged: {len(ids)} ids, and {int(ends[-1])} were written")
        self.texts = Packed(ids=ids, ends=ends)


def text_key(texts: Iterable[str], tokenizer: str) -> str:
    """Return what a cache of these texts by this tokenizer is called."""
    digest = hashlib.sha256(f"{VERSION}\0{tokenizer}\0".encode())
    for text in texts:
        raw = text.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.hexdigest()[:32]


def lines_of(path: str | Path, *, encoding: str = "utf-8", errors: str = "strict") -> Iterator[str]:
    """Iterate the lines of a file that need not fit into memory, each a text; empty ones are left out.

    Raises:
        DataError: no such file, a damaged one, or bytes that are no text, with the place of the first.
        OptionError: no such encoding.
    """
    path = Path(path)
    try:
        with _opened(path) as raw, io.TextIOWrapper(raw, encoding=encoding, errors=errors) as file:
            lines = itertools.chain([file.readline().removeprefix("\ufeff")], file)
            yield from (line for line in lines if line.strip())
    except LookupError as error:
        raise OptionError(f"encoding={encoding!r} or errors={errors!r}: {error}") from error
    except (OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    except UnicodeDecodeError as error:
        place, byte = _wrong_byte(path, encoding)
        raise DataError(
            f"{path} is not {encoding}: byte {place} is 0x{byte:02x}; name its encoding, as in --encoding latin-1, or "
            "let wrong bytes be replaced: --errors replace"
        ) from error


def _opened(path: Path) -> io.BufferedReader | gzip.GzipFile:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _wrong_byte(path: Path, encoding: str) -> tuple[int, int]:
    """Return where the first byte is that is no text, and what it is; a line alone would not know its place."""
    decoder, done = codecs.getincrementaldecoder(encoding)(), 0
    with _opened(path) as file:
        while True:
            block = file.read(1 << 20)
            begun = decoder.getstate()[0]
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                return done - len(begun) + error.start, (begun + block)[error.start]
            done += len(block)


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch, size = list[str](), 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def tokenize_stream(
    texts: Iterable[str], folder: str | Path, *, min_freq: int = 3, max_vocab: int = 60_000
) -> TokenCache:
    """Cut texts into words in one pass, a batch at a time, and write a cache; the vocabulary is that of all texts.

    Raises:
        DataError: there is no text.
    """
    target = Path(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        vocab = _write(texts, beside, min_freq=min_freq, max_vocab=max_vocab)
        told = {"version": VERSION, "tokenizer": WordTokenizer().to_json(), "vocab": vocab}
        (beside / "tokens.json").write_text(json.dumps(told, ensure_ascii=False), encoding="utf-8")
        if target.exists():
            shutil.rmtree(target)
        os.replace(beside, target)  # noqa: PTH105 - a folder, renamed at once
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return TokenCache(target)


def _write(texts: Iterable[str], folder: Path, *, min_freq: int, max_vocab: int) -> tuple[str, ...]:
    """Write the ids as they come, then give them their places in the vocabulary."""
    encoder, counts, ends, offset = WordEncoder(), WordCounts(), list[NDArray[np.int64]](), 0
    raw = folder / "raw"
    with raw.open("wb") as file:
        for batch in _batches(texts):
            ids, batch_ends = encoder.encode(batch)
            counts.add(ids, len(encoder))
            file.write(ids.tobytes())
            ends.append(batch_ends + offset)
            offset += len(ids)
    if not offset:
        raise DataError("there is no text to cut into tokens")
    kept = counts.frequent(min_freq, max_vocab)
    code: Ids = np.zeros(len(encoder), np.int32)
    code[: len(SPECIALS)] = np.arange(len(SPECIALS))
    code[kept] = np.arange(len(kept)) + len(SPECIALS)
    header = {"descr": "<i4", "fortran_order": False, "shape": (offset,)}
    with raw.open("rb") as file, (folder / "ids.npy").open("wb") as out:
        # Written, not mapped: pages of a map count as memory until somebody else needs it.
        np.lib.format.write_array_header_1_0(out, header)
        while block := file.read(32_000_000):
            out.write(code[np.frombuffer(block, np.int32)].astype("<i4", copy=False).tobytes())
    np.save(folder / "ends.npy", np.concatenate(ends), allow_pickle=False)
    raw.unlink()
    return filled([*SPECIALS, *map(encoder.word, kept.tolist())])
