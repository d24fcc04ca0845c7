"""Reviews for the text case, and the peers' ways from texts to ids and batches. At its top is the standard library."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, Final

__all__ = ["ELSEWHERE", "GPT2", "byte_pieces", "digest", "reviews", "tokenizers_batch", "write_file"]

# The peers are installed elsewhere, if at all.
# mypy: disable-error-code="import-not-found,import-untyped"

Settings = dict[str, Any]
SYLLABLES: Final = ("ba", "do", "ki", "lu", "me", "no", "pa", "ri", "so", "tu", "va", "ze")
GPT2: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""How byte-level pieces cut before they join bytes."""


def reviews(count: int) -> list[tuple[str, str]]:
    """Return texts with labels: IMDb's where GRAFTWORK_DATA is set, invented ones otherwise."""
    path = Path(os.environ.get("GRAFTWORK_DATA", "nowhere")) / "imdb" / "reviews.csv.gz"
    if path.is_file():
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            return [(row["text"], row["label"]) for _, row in zip(range(count), csv.DictReader(file), strict=False)]
    drawn = random.Random(0)
    words = ["".join(drawn.choices(SYLLABLES, k=drawn.randint(1, 3))) for _ in range(2000)]
    return [(" ".join(drawn.choices(words, k=drawn.randint(20, 200))) + ".", "neg" if i % 2 else "pos")
            for i in range(count)]  # fmt: skip


def write_file(path: Path, megabytes: int) -> None:
    """Write the reviews again and again, one a line, until the file is as large as wanted, or a little larger."""
    block = "".join(text.replace("\n", " ") + "\n" for text, _ in reviews(10_000)).encode()
    with path.open("wb") as file:
        while file.tell() < megabytes * 1_000_000:
            file.write(block)


def digest(vocab: Iterable[str], ids: Iterable[Iterable[int]]) -> str:
    """Return a hash of a vocabulary and of ids, so that sides can be compared.

    What fills a vocabulary up to a multiple of eight is left out: here each such word has a number, in fastai none.
    """
    made = hashlib.sha256("\0".join(word for word in vocab if not word.startswith("xxfake")).encode())
    for row in ids:
        made.update(",".join(map(str, row)).encode() + b"\n")
    return made.hexdigest()[:16]


def byte_pieces(model: str) -> dict[bytes, int]:
    """Return the pieces of a byte-level BPE model as bytes, with their ids."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in set(shown)]
    of = {chr(byte): byte for byte in shown} | {chr(256 + at): byte for at, byte in enumerate(hidden)}
    vocab: dict[str, int] = json.loads(model)["model"]["vocab"]
    return {bytes(of[letter] for letter in piece): code for piece, code in vocab.items() if not piece.startswith("xx")}


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that work took, and its result."""
    begin = perf_counter()
    found = work()
    return perf_counter() - begin, found


def fastai_words(settings: Settings) -> dict[str, Any]:
    """Cut into words by fastai's rules in two processes, fit a vocabulary, look words up."""
    from fastai.text.core import tokenize_texts
    from fastai.text.data import Numericalize

    texts = [text for text, _ in reviews(settings["reviews"])]

    def work() -> tuple[Sequence[str], list[Any]]:
        words = tokenize_texts(texts, n_workers=2)
        lookup = Numericalize()
        lookup.setup(words)
        return lookup.vocab, [lookup(row) for row in words]

    seconds, (vocab, ids) = timed(work)
    return {"value": seconds, "digest": digest(vocab, (row.tolist() for row in ids))}


def fastai_batches(settings: Settings) -> dict[str, Any]:
    """Go from a frame to padded batches, as fastai's tutorial does, and read all of them once."""
    import pandas as pd
    from fastai.text.all import TextDataLoaders

    frame = pd.DataFrame(reviews(settings["batched"]), columns=["text", "label"])

    def work() -> int:
        data = TextDataLoaders.from_df(frame, text_col="text", label_col="label", valid_pct=0.2, seed=0, bs=64)
        return sum(len(batch[0]) for loader in data for batch in loader)

    seconds, rows = timed(work)
    return {"value": seconds, "rows": rows}


def tokenizers_batch(settings: Settings) -> dict[str, Any]:
    """Cut into pieces by Hugging Face's library, all texts at once."""
    import tokenizers

    texts = [text for text, _ in reviews(settings["reviews"])]
    inner = tokenizers.Tokenizer.from_str(Path(settings["model"]).read_text(encoding="utf-8"))
    inner.encode_batch_fast(texts[:100])
    seconds, found = timed(lambda: [row.ids for row in inner.encode_batch_fast(texts)])
    return {"value": seconds, "digest": digest((), found)}


def tiktoken_batch(settings: Settings) -> dict[str, Any]:
    """Cut into the same pieces by tiktoken, in two threads."""
    import tiktoken

    texts = [text for text, _ in reviews(settings["reviews"])]
    pieces = byte_pieces(Path(settings["model"]).read_text(encoding="utf-8"))
    inner = tiktoken.Encoding("bench", pat_str=GPT2, mergeable_ranks=pieces, special_tokens={})
    inner.encode_ordinary_batch(texts[:100], num_threads=2)
    seconds, found = timed(lambda: inner.encode_ordinary_batch(texts, num_threads=2))
    return {"value": seconds, "digest": digest((), found)}


def rows_of(ids: Any, ends: Any) -> Iterator[list[int]]:
    """Iterate the rows of packed ids."""
    start = 0
    for end in ends.tolist():
        yield ids[start:end].tolist()
        start = end


ELSEWHERE: Final = {"words": fastai_words, "batches": fastai_batches, "pieces": tiktoken_batch}
