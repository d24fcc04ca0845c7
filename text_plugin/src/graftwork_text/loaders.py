"""Loaders of token ids that lie in memory, or in a file that is mapped into it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, final

import numpy as np
import torch
from torch import Tensor

from graftwork.api import Batch, DataError, Loader, Part, Plan
from graftwork_text.bulk import Packed

__all__ = ["BucketLoader", "drawn_seed", "padded"]

POOL: Final = 50
"""Batches whose texts are sorted by length together, as in fastai."""
WHOLE: Final = Part()


def padded(texts: Packed, rows: np.ndarray[Any, Any], pad_id: int) -> Tensor:
    """Return some texts as int64 (B, L), filled on the right."""
    taken = texts.take(rows)
    lengths = taken.lengths
    out = np.full((len(rows), max(1, int(lengths.max()))), pad_id, np.int64)
    out[np.arange(out.shape[1]) < lengths[:, None]] = taken.ids
    return torch.from_numpy(out)


def drawn_seed(*parts: int) -> int:
    """Return a seed that depends on all parts."""
    return int(np.random.SeedSequence([part % 2**63 for part in parts]).generate_state(1, np.uint64)[0]) >> 1


@final
class BucketLoader(Loader):
    """Give batches of texts of similar length, each filled up to its own longest.

    Lengths are known beforehand, so nothing is read to sort. In training, texts are shuffled, each 50 batches of them
    sorted by length, and these batches shuffled; the longest comes first, so that memory runs out at once or never.
    Otherwise texts come sorted by length, unless `in_order` asks for their own order.
    """

    def __init__(
        self,
        texts: Packed,
        plan: Plan,
        *,
        pad_id: int,
        field: str = "x",
        columns: Mapping[str, Tensor] | None = None,
        bs: int = 64,
        shuffle: bool = False,
        seed: int = 42,
        training: bool = False,
        drop_last: bool = False,
        positions: Tensor | None = None,
        item: Callable[[int], Any] | None = None,
        by_length: bool = True,
    ) -> None:
        """Take texts and, by name, the columns of other fields; `positions` name the items in the data set."""
        super().__init__(len(texts), bs=bs, shuffle=shuffle, seed=seed, training=training, drop_last=drop_last)
        self.texts, self._plan, self.pad_id, self.field = texts, plan, pad_id, field
        self.columns = dict(columns or {})
        for name, column in self.columns.items():
            if len(column) != len(texts):
                raise DataError(f"field {name!r} has {len(column)} values for {len(texts)} texts")
        self.positions = torch.arange(len(texts)) if positions is None else positions
        self._item, self.by_length = item, by_length
        self.lengths = torch.from_numpy(texts.lengths.copy())

    @property
    def plan(self) -> Plan:
        """The plan whose item steps the texts have been through."""
        return self._plan

    def item(self, position: int) -> Any:
        """Return the source's item, or its position if the source has none."""
        return position if self._item is None else self._item(position)

    def in_order(self) -> BucketLoader:
        """Return a loader of the same texts in their own order."""
        loader = BucketLoader(
            self.texts,
            self._plan,
            pad_id=self.pad_id,
            field=self.field,
            columns=self.columns,
            bs=self.bs,
            seed=self.seed,
            positions=self.positions,
            item=self._item,
            by_length=False,
        )
        loader.bad_items = self.bad_items
        return loader

    def _used(self) -> int:
        """Count the texts of an epoch; `num_items` counts those too that had to be left out."""
        return super()._used() if self.num_items == len(self.texts) else len(self.texts)

    def order(self, epoch: int) -> Tensor:
        """Return the positions of an epoch, int64: a pure function of (seed, epoch)."""
        drawn = super().order(epoch)
        if not self.by_length:
            return drawn
        if not self.shuffle:
            return drawn[self.lengths[drawn].argsort(descending=True, stable=True)]
        pools = [pool[self.lengths[pool].argsort(descending=True, stable=True)] for pool in drawn.split(POOL * self.bs)]
        batches = [batch for pool in pools for batch in pool.split(self.bs)]
        generator = torch.Generator().manual_seed(drawn_seed(self.seed, epoch))
        last = batches.pop() if len(batches[-1]) < self.bs and len(batches) > 1 else None
        longest = max(range(len(batches)), key=lambda i: int(self.lengths[batches[i][0]]))
        first = batches.pop(longest)
        mixed = [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
        return torch.cat([first, *mixed, *([] if last is None else [last])])

    def at(self, epoch: int, batch: int = 0, part: Part = WHOLE) -> Iterator[Batch]:
        """Iterate the batches of an epoch, from number `batch` on."""
        for number, group in enumerate(self.order(epoch).split(self.bs)[batch:], batch):
            mine = part.of(group)
            rows = mine if len(mine) else group[:1]
            fields = {self.field: padded(self.texts, rows.numpy(), self.pad_id)}
            fields |= {name: column[rows] for name, column in self.columns.items()}
            share = part.share(len(mine), len(group)) if part.world > 1 else 1.0
            yield Batch(fields, self._plan.inputs, self._plan.targets, self.positions[rows], number=number, share=share)
