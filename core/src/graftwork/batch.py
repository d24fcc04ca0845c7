"""What a loader gives: batches, and which part of each is for this process."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from graftwork.errors import PlanError
from graftwork.markup import table

__all__ = ["WHOLE", "Batch", "Part"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Say which part of every batch is for this process: the `rank`-th of `world`, as equal as can be."""

    rank: int = 0
    world: int = 1

    def of(self, positions: Tensor) -> Tensor:
        """Return the part of a batch's positions; it may be empty."""
        return positions if self.world == 1 else positions.tensor_split(self.world)[self.rank]

    def share(self, mine: float, all_of_it: float) -> float:
        """Return what this part counts for beside an equal one, so that the mean over processes is that over items."""
        return mine * self.world / all_of_it if all_of_it else 0.0


WHOLE = Part()


@dataclass(slots=True)
class Batch:
    """Hold collated fields by name; `index` (B,) says which positions of the data set they came from."""

    fields: dict[str, Tensor]
    inputs: tuple[str, ...]
    targets: tuple[str, ...]
    index: Tensor
    weight: Tensor | None = None
    """Weights of the items in the loss, (B,), in training."""
    number: int = 0
    """Place among the epoch's batches."""
    share: float = 1.0
    """Where several processes share each batch: what this part counts for in the loss, 0 for a stand-in."""
    certain: bool = True
    """Whether `share` is known; where items may have been left out, the processes have to compare."""
    units: float | None = None
    """What the losses are a mean over, where that is not the items: the tokens of texts."""
    follows: bool = False
    """Whether each row goes on where the same row of the batch before it ended, as streams of text do."""

    @property
    def x(self) -> Tensor:
        """The only input."""
        return self.fields[_only(self.inputs, "input")]

    @property
    def y(self) -> Tensor:
        """The only target."""
        return self.fields[_only(self.targets, "target")]

    @property
    def size(self) -> int:
        """Number of items."""
        return self.index.size(0)

    @property
    def counts(self) -> float:
        """What this batch counts for in a mean over batches: its items, or its units."""
        return self.size if self.units is None else self.units

    def to(self, device: torch.device, *, non_blocking: bool = False) -> Batch:
        """Return the batch with its fields on `device`; the index stays on the CPU."""
        moved = {name: column.to(device, non_blocking=non_blocking) for name, column in self.fields.items()}
        weight = None if self.weight is None else self.weight.to(device, non_blocking=non_blocking)
        return replace(self, fields=moved, weight=weight)

    def of(self, part: Part) -> Batch:
        """Return one process's part of a batch that all of them have; a stand-in where there is nothing for it."""
        if part.world == 1:
            return self
        mine = part.of(torch.arange(self.size))
        rows = mine if len(mine) else torch.arange(1)
        weight = None if self.weight is None else self.weight[rows.to(self.weight.device)]
        fields = {name: column[rows.to(column.device)] for name, column in self.fields.items()}
        share = part.share(len(mine), self.size)
        units = None if self.units is None else self.units * len(rows) / self.size
        return replace(self, fields=fields, index=self.index[rows], weight=weight, share=share, units=units)

    def _repr_html_(self) -> str:
        """Show in a notebook what the fields hold; their range is read from the device."""
        rows = [(name, self._role(name), *_described(column)) for name, column in self.fields.items()]
        head = ("field", "role", "shape", "type", "from", "to", "device")
        return table(rows, title=f"Batch of {self.size}", head=head)

    def _role(self, name: str) -> str:
        return "input" if name in self.inputs else "target" if name in self.targets else ""

    def pin(self) -> Batch:
        """Return the batch in page-locked memory, so that copies to the device overlap with work."""
        weight = None if self.weight is None else self.weight.pin_memory()
        return replace(self, fields={name: column.pin_memory() for name, column in self.fields.items()}, weight=weight)


def _described(column: Tensor) -> tuple[str, ...]:
    shape = "×".join(map(str, column.shape))
    low, high = (f"{float(column.min()):.4g}", f"{float(column.max()):.4g}") if column.numel() else ("", "")
    return shape, str(column.dtype).removeprefix("torch."), low, high, str(column.device)


def _only(names: tuple[str, ...], kind: str) -> str:
    if len(names) != 1:
        raise PlanError(f"this batch has {len(names)} {kind}s {names}; take one by name: batch.fields[name]")
    return names[0]
