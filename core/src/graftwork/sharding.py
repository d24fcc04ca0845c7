"""Less memory for a model: activations computed twice, and weights of which each process holds a part (FSDP2).

The parts are saved by all processes at once, each its own, with torch.distributed.checkpoint in safetensors files, and
may be loaded by another number of processes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from graftwork.errors import ArtifactError, OptionError
from graftwork.processes import Processes

__all__ = [
    "can_save_parts",
    "check_parts",
    "large_blocks",
    "load_parts",
    "recompute_blocks",
    "save_parts",
    "shard",
]

BLOCK_PARAMETERS = 10_000
FSDP_SINCE = (2, 6)


def large_blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the blocks a model repeats: what its Sequentials and ModuleLists hold, where there is enough in it."""
    for child in module.children():
        if isinstance(module, nn.Sequential | nn.ModuleList) and not isinstance(child, nn.Sequential | nn.ModuleList):
            if sum(p.numel() for p in child.parameters()) >= BLOCK_PARAMETERS:
                yield child
        else:
            yield from large_blocks(child)


def recompute_blocks(module: nn.Module) -> None:
    """Let a model's large blocks keep no activations; raise OptionError if it has no such blocks."""
    blocks = list(large_blocks(module))
    if not blocks:
        raise OptionError(
            f"recompute: {type(module).__name__} holds no block of {BLOCK_PARAMETERS:,} parameters in an nn.Sequential "
            "or nn.ModuleList, so there is nothing to compute twice; leave it out"
        )
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def shard(module: nn.Module, device: torch.device) -> None:
    """Spread a model's weights over all processes, in place (torch's fully_shard)."""
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < FSDP_SINCE:
        raise OptionError(f"strategy 'fsdp' needs torch >= 2.6, and this is {torch.__version__}; use 'ddp'")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for block in large_blocks(module):
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)


def can_save_parts() -> bool:
    """Say whether this torch writes parts without pickles; where it does not, the whole is written by one process."""
    import torch.distributed.checkpoint

    return hasattr(torch.distributed.checkpoint, "HuggingFaceStorageWriter")


def save_parts(folder: Path, parts: Mapping[str, Tensor], processes: Processes) -> dict[str, str]:
    """Write every process's parts into a folder and return the files' hashes; the folder is whole or not there."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    beside = folder.with_name(f".{folder.name}.part")
    if processes.first:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
        beside.mkdir(parents=True)
    processes.wait()
    writer = HuggingFaceStorageWriter(path=str(beside), save_distributed=True)
    save(dict(parts), storage_writer=writer)
    processes.wait()
    if not processes.first:
        return {}
    for file in beside.iterdir():
        with file.open("rb+") as written:
            os.fsync(written.fileno())
    hashes = {file.name: _hash(file) for file in sorted(beside.iterdir())}
    beside.rename(folder)
    return hashes


def check_parts(folder: Path, hashes: Mapping[str, str]) -> None:
    """Raise ArtifactError unless a folder's files are those that were written."""
    for name, known in hashes.items():
        file = folder / name
        if not file.is_file() or _hash(file) != known:
            raise ArtifactError(f"{file} is {'damaged' if file.is_file() else 'not there'}")


def load_parts(folder: Path, into: dict[str, Tensor], processes: Processes) -> None:
    """Fill tensors, whole or parts, from a folder that any number of processes has written."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = HuggingFaceStorageReader(str(folder))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        load(into, storage_reader=reader, no_dist=processes.world == 1)


def _hash(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()
