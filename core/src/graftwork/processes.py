"""Several processes that train one model together: which one this is, and what they tell each other.

They are started by `torchrun`, whose environment says how many there are, or by `launch`. What is exchanged is JSON
and tensors as safetensors, never pickles.
"""

from __future__ import annotations

import atexit
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from graftwork.batch import Part
from graftwork.container import canonical_json
from graftwork.errors import OptionError, TrainingError
from graftwork.weights import pack, unpack

__all__ = ["ALONE", "Processes", "join", "started_here"]

STATE_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """Say which of `world` processes this is; every method is to be called by all of them at the same place."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and prints."""
        return self.rank == 0

    @property
    def part(self) -> Part:
        """Which part of every batch is for this process."""
        return Part(rank=self.rank, world=self.world)

    def check_batch(self, bs: int) -> None:
        """Raise OptionError unless a training batch can be divided equally."""
        below = bs - bs % self.world
        if bs % self.world:
            near = " or ".join(str(size) for size in (below, below + self.world) if size)
            raise OptionError(
                f"bs={bs} cannot be divided among {self.world} processes; bs is the size of the whole batch, of which "
                f"each process takes a part: use {near}"
            )

    def total(self, values: Tensor) -> Tensor:
        """Return the sum over processes, on the CPU."""
        if self.world == 1:
            return values
        summed = values.detach().cpu().clone()
        dist.all_reduce(summed)
        return summed

    def largest(self, number: int) -> int:
        """Return the largest number that a process gave."""
        if self.world == 1:
            return number
        found = torch.tensor([number])
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def exchange(self, said: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return what every process said, by rank: mappings of JSON values and, at their top, tensors."""
        if self.world == 1:
            return [dict(said)]
        # torch 2.3 gathers in a thread outside of inference mode, which may not write to that mode's tensors.
        with torch.inference_mode(False):
            return self._gathered(_framed(said))

    def _gathered(self, mine: bytearray) -> list[dict[str, Any]]:
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world)]
        dist.all_gather(sizes, torch.tensor([len(mine)]))
        longest = int(torch.stack(sizes).max())
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(mine)] = torch.frombuffer(mine, dtype=torch.uint8)
        everyone = [torch.empty(longest, dtype=torch.uint8) for _ in range(self.world)]
        dist.all_gather(everyone, padded)
        return [_unframed(data[: int(size)]) for data, size in zip(everyone, sizes, strict=True)]

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.world > 1:
            dist.barrier()

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Say of a broken connection that another process has ended, whose own message is the one to read."""
        try:
            yield
        except RuntimeError as error:
            if self.world > 1 and any(sign in str(error) for sign in ("gloo", "NCCL", "onnection")):
                raise TrainingError(
                    f"process {self.rank} of {self.world} ended because another one did; its message says why"
                ) from error
            raise


def _framed(said: Mapping[str, Any]) -> bytearray:
    tensors = {name: value for name, value in said.items() if isinstance(value, Tensor)}
    words = canonical_json({name: value for name, value in said.items() if name not in tensors})
    return bytearray(len(words).to_bytes(STATE_BYTES, "little") + words + pack(tensors))


def _unframed(data: Tensor) -> dict[str, Any]:
    view = memoryview(bytearray(data.numpy().tobytes()))
    size = int.from_bytes(view[:STATE_BYTES], "little")
    words = json.loads(bytes(view[STATE_BYTES : STATE_BYTES + size]))
    # The tensors begin where the words happen to end; a copy puts them on a border that every type can lie on.
    tensors = unpack(memoryview(bytearray(view[STATE_BYTES + size :])), what="a message of another process")
    return {**words, **tensors}


ALONE = Processes()


def started_here() -> Processes:
    """Return which process of how many the environment says this is, without joining the others."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return ALONE
    rank = int(os.environ.get("RANK", "0"))
    return Processes(rank=rank, world=world, local_rank=int(os.environ.get("LOCAL_RANK", rank)))


def join(device: torch.device) -> Processes:
    """Join the processes that the environment tells of, once; alone if it tells of none.

    Raises:
        OptionError: there are more processes than accelerators, or they cannot be reached.
    """
    here = started_here()
    if here.world == 1 or dist.is_initialized():
        return here
    if device.type == "cuda" and here.local_rank >= torch.cuda.device_count():
        raise OptionError(
            f"process {here.local_rank} of this machine has no GPU of its own: there are {torch.cuda.device_count()}; "
            "start as many processes as GPUs (--nproc-per-node), or use --device cpu"
        )
    if device.type == "cuda":
        torch.cuda.set_device(here.local_rank)
    address = f"{os.environ.get('MASTER_ADDR', '?')}:{os.environ.get('MASTER_PORT', '?')}"
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    except (dist.DistError, ValueError) as error:
        raise OptionError(
            f"process {here.rank} of {here.world} cannot meet the others at {address}: {error}; "
            "if the port is in use, give torchrun another --master-port, or --standalone"
        ) from error
    atexit.register(_leave)
    return here


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
