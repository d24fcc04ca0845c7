"""Runtime: on which device, in which precision and memory format a model runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from graftwork.dataloader import Batch
from graftwork.errors import OptionError, unknown

__all__ = ["Precision", "Runtime", "Session", "seeded"]

Precision = Literal["auto", "fp32", "bf16", "fp16"]
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
CONV_PARAMETERS_WORTH_BF16 = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """Say where and how to run.

    `device` is "auto" (the first accelerator, else the CPU) or a torch device. `precision` "auto" takes bf16 where the
    device computes in it natively and the model has convolutions enough to gain from it. `channels_last` None means
    models with 2-d convolutions. `compile` runs the model through torch.compile.
    """

    device: str = "auto"
    precision: Precision = "fp32"
    channels_last: bool | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        """Refuse unknown names."""
        if self.precision not in PRECISIONS:
            raise unknown("precision", self.precision, PRECISIONS)
        _device(self.device)

    def start(self, module: nn.Module) -> Session:
        """Move a model to the device, in place, and return how to run it."""
        device = _device(self.device)
        precision = self._precision(module, device)
        pictures = any(isinstance(m, nn.Conv2d) for m in module.modules())
        channels_last = pictures if self.channels_last is None else self.channels_last
        if channels_last:
            module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        elif any(t.device != device for t in (*module.parameters(), *module.buffers())):
            module.to(device)
        forward: Any = torch.compile(module) if self.compile else module
        return Session(
            device=device,
            precision=precision,
            channels_last=channels_last,
            shapes=pictures or channels_last,
            forward=forward,
            compiled=self.compile,
        )

    def _precision(self, module: nn.Module, device: torch.device) -> str:
        if self.precision != "auto":
            return self.precision
        enough = _conv_parameters(module) >= CONV_PARAMETERS_WORTH_BF16 or device.type == "cuda"
        return "bf16" if enough and native_bf16(device) else "fp32"


@dataclass(slots=True, kw_only=True)
class Session:
    """Run a model as a Runtime decided."""

    device: torch.device
    precision: str
    channels_last: bool
    shapes: bool
    """Whether `shape` has anything to do."""
    forward: Any
    compiled: bool = False
    scaler: torch.amp.GradScaler | None = field(init=False)

    def __post_init__(self) -> None:
        """Scale losses where gradients would underflow."""
        self.scaler = torch.amp.GradScaler(self.device.type) if self.precision == "fp16" else None

    def describe(self) -> str:
        """Say in one line what was chosen."""
        parts = [str(self.device), self.precision]
        parts += ["channels-last"] * self.channels_last + ["compiled"] * self.compiled
        return ", ".join(parts)

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context a forward pass runs in."""
        if self.precision == "fp32":
            return nullcontext()
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float16
        return torch.autocast(self.device.type, dtype)

    def place(self, batch: Batch) -> Batch:
        """Move a batch to the device."""
        return batch if self.device.type == "cpu" else batch.to(self.device, non_blocking=True)

    def shape(self, inputs: Iterable[Tensor]) -> Iterable[Tensor]:
        """Give pictures the memory format of the model: a mixture costs a conversion in every layer."""
        if not self.shapes:
            return inputs
        kind = torch.channels_last if self.channels_last else torch.contiguous_format
        return [x.contiguous(memory_format=kind) if x.ndim == 4 else x for x in inputs]


def _device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps") if torch.backends.mps.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise OptionError(f"device={name!r} is no device torch knows; use auto, cpu, cuda, cuda:0, mps, …") from error
    absent = (device.type == "cuda" and not torch.cuda.is_available()) or (
        device.type == "mps" and not torch.backends.mps.is_available()
    )
    if absent:
        raise OptionError(f"device={name!r} is not available on this machine; use device='auto' or 'cpu'")
    return device


def native_bf16(device: torch.device) -> bool:
    """Say whether a device computes in bfloat16 without emulating it."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and not _cpu_flags().isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})


def _cpu_flags() -> frozenset[str]:
    """Read the processor's features; empty where Linux does not tell them. torch has no stable name for this."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return frozenset()
    lines = (line.partition(":") for line in info.read_text(encoding="utf-8").splitlines())
    return frozenset(word for key, _, value in lines if key.strip() in ("flags", "Features") for word in value.split())


def _conv_parameters(module: nn.Module) -> int:
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return sum(p.numel() for m in module.modules() if isinstance(m, kinds) for p in m.parameters())


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed torch's global generators for a while; afterwards they are as they were."""
    devices = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
