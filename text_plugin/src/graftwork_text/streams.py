"""The loader of language models: all texts as one row of tokens, read by several streams side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graftwork.api import Batch, DataError, Loader, OptionError, Part, Plan
from graftwork_text.bulk import Packed
from graftwork_text.loaders import drawn_seed

__all__ = ["StreamLoader"]

WHOLE: Final = Part()


@final
class StreamLoader(Loader):
    """Give `bs` streams side by side, `seq_len` tokens of each at a time: x (B, L), and y, one token on.

    A batch goes on where the one before ended, so that a model may carry its state over. In training the texts come in
    another order every epoch; they are then copied, 4 bytes a token. Where there are too few tokens for `bs` streams of
    `seq_len`, there are fewer streams. `num_bytes` is the size of the texts in UTF-8, for bits per byte.
    """

    def __init__(
        self,
        texts: Packed,
        plan: Plan,
        *,
        bs: int = 64,
        seq_len: int = 72,
        shuffle: bool = False,
        seed: int = 42,
        training: bool = False,
        num_bytes: int = 0,
        item: Callable[[int], Any] | None = None,
    ) -> None:
        """Raise DataError for fewer than two tokens."""
        super().__init__(len(texts), bs=bs, shuffle=shuffle, seed=seed, training=training, drop_last=False)
        if seq_len < 1:
            raise OptionError(f"seq_len={seq_len} must be at least 1")
        total = int(texts.ends[-1])
        if total < 2:
            raise DataError(f"a language model needs two tokens at least, and the texts have {total}")
        self.texts, self._plan, self.seq_len, self.num_bytes, self._item = texts, plan, seq_len, num_bytes, item
        self.streams = max(1, min(bs, (total - 1) // seq_len))
        self.length = (total - 1) // self.streams
        """Tokens of each stream."""

    @property
    def plan(self) -> Plan:
        """The plan whose item steps the texts have been through."""
        return self._plan

    @property
    def num_tokens(self) -> int:
        """Number of tokens to be told in an epoch."""
        return self.length * self.streams

    @property
    def bytes_per_token(self) -> float:
        """How many bytes of text a token stands for; 1 where nobody said."""
        return self.num_bytes / int(self.texts.ends[-1]) or 1.0

    def item(self, position: int) -> Any:
        """Return the number of the batch and of the stream that an index names."""
        return f"batch {position // self.streams}, stream {position % self.streams}"

    def in_order(self) -> StreamLoader:
        """Return a loader of the texts in their own order."""
        return StreamLoader(
            self.texts, self._plan, bs=self.bs, seq_len=self.seq_len, seed=self.seed, num_bytes=self.num_bytes
        )

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return -(-self.length // self.seq_len)

    def _row(self, epoch: int) -> NDArray[np.int32]:
        """Return all tokens in the order of an epoch."""
        if not self.shuffle or len(self.texts) == 1:
            return self.texts.ids
        generator = torch.Generator().manual_seed(drawn_seed(self.seed, epoch))
        return self.texts.take(torch.randperm(len(self.texts), generator=generator).numpy()).ids

    def at(self, epoch: int, batch: int = 0, part: Part = WHOLE) -> Iterator[Batch]:
        """Iterate the batches of an epoch, from number `batch` on."""
        row = self._row(epoch)
        mine = part.of(torch.arange(self.streams))
        streams = mine if len(mine) else torch.zeros(1, dtype=torch.int64)
        share = part.share(len(mine), self.streams) if part.world > 1 else 1.0
        x, y = self._plan.inputs[0], self._plan.targets[0]
        for number in range(batch, len(self)):
            width = min(self.seq_len, self.length - number * self.seq_len)
            both = self._read(row, streams, number * self.seq_len, width)
            yield Batch(
                {x: both[:, :-1], y: both[:, 1:]},
                self._plan.inputs,
                self._plan.targets,
                number * self.streams + streams,
                number=number,
                follows=number > 0,
                share=share,
                units=float(width * len(streams)),
            )

    def _read(self, row: NDArray[np.int32], streams: Tensor, first: int, width: int) -> Tensor:
        """Return the tokens of streams from `first` on, and the one after them, int64 (B, width + 1)."""
        starts = streams.numpy() * self.length + first
        return torch.from_numpy(row[starts[:, None] + np.arange(width + 1)].astype(np.int64))
