"""Checkpoints: a module's weights at the end of an epoch, in the same sealed file as an artifact."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch import Tensor, nn

import graftwork
from graftwork.container import read_container, write_container
from graftwork.errors import ArtifactError, OptionError
from graftwork.weights import matching, pack_module, unpack

__all__ = ["Checkpoint", "checkpoints", "load_checkpoint", "save_checkpoint"]

KIND: Final = "checkpoint"
WEIGHTS: Final = "weights.safetensors"

_NAME: Final = re.compile(r"epoch-(\d+)\.graft")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Hold the weights after `epoch` epochs, and the line of history that epoch gave."""

    path: Path
    epoch: int
    record: Mapping[str, float | None]
    weights: Mapping[str, Tensor]
    aliases: Mapping[str, str]

    def load_into(self, module: nn.Module) -> None:
        """Copy the weights into a module on whatever device; raise ArtifactError naming the first that does not fit."""
        state = module.state_dict()
        given = matching(state, self.weights, self.aliases)
        for name, value in state.items():
            value.copy_(given[name])


def save_checkpoint(
    folder: str | Path, module: nn.Module, *, epoch: int, record: Mapping[str, float] | None = None, keep: int = 1
) -> Path:
    """Write a checkpoint, then remove all but the last `keep`; at every moment one whole checkpoint is there."""
    if keep < 1:
        raise OptionError(f"keep={keep}: keep at least one checkpoint")
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(f"cannot make the folder {folder}: {error.strerror or error}") from error
    weights, aliases = pack_module(module)
    manifest = {
        "kind": KIND,
        "graftwork": graftwork.__version__,
        "epoch": epoch,
        "record": {name: float(v) if math.isfinite(v) else None for name, v in (record or {}).items()},
        "aliases": aliases,
    }
    path = write_container(folder / f"epoch-{epoch:04d}.graft", manifest=manifest, members={WEIGHTS: weights})
    older = [old for old in checkpoints(folder) if old != path]
    for old in older[: len(older) - keep + 1]:
        old.unlink(missing_ok=True)
    return path


def checkpoints(folder: str | Path) -> list[Path]:
    """List a folder's checkpoints, the last one last."""
    numbered = [(int(m[1]), p) for p in Path(folder).glob("epoch-*.graft") if (m := _NAME.fullmatch(p.name))]
    return [path for _, path in sorted(numbered)]


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint, or the last one of a folder; raise ArtifactError for a file that is none, or is damaged."""
    path = Path(path)
    if path.is_dir():
        found = checkpoints(path)
        if not found:
            raise ArtifactError(f"{path} holds no checkpoint (epoch-0001.graft, …)")
        path = found[-1]
    container = read_container(path)
    manifest: dict[str, Any] = container.manifest
    if manifest.get("kind") != KIND or WEIGHTS not in container.members:
        raise ArtifactError(f"{path} holds a {manifest.get('kind')!r}, not a checkpoint")
    return Checkpoint(
        path=path,
        epoch=int(manifest["epoch"]),
        record=manifest["record"],
        weights=unpack(container.members[WEIGHTS], what=f"{path}: {WEIGHTS}"),
        aliases=manifest["aliases"],
    )
