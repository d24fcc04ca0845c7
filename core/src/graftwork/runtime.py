"""Runtime: on which device, in which precision and memory format, in how many processes a model runs."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from graftwork.batch import Batch
from graftwork.errors import OptionError, unknown
from graftwork.processes import ALONE, Processes, join
from graftwork.sharding import recompute_blocks, shard

__all__ = ["Precision", "Runtime", "Session", "Strategy", "repeatable", "seeded"]

Precision = Literal["auto", "fp32", "bf16", "fp16"]
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
Strategy = Literal["auto", "ddp", "fsdp", "alone"]
STRATEGIES = ("auto", "ddp", "fsdp", "alone")
CONV_PARAMETERS_WORTH_BF16 = 100_000
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """Say where and how to run.

    `device` is "auto" (the first accelerator, else the CPU) or a torch device. `precision` "auto" takes bf16 where the
    device computes in it natively and the model has convolutions enough to gain from it, or says that its time goes to
    products (ModelParts). `channels_last` None means models with 2-d convolutions. `compile` runs the model through
    torch.compile, when it is first called: freeze before. `recompute` keeps no activations within the model's larger
    blocks and computes them again in the backward pass (T. Chen et al., arXiv 1604.06174): about a third slower, and
    much less memory. `deterministic` has fits use only operations whose results do not vary from run to run on one
    machine; torch refuses those that have no such form.

    `strategy` is about processes that `torchrun` or `launch` has started: "ddp" gives each the whole model and a part
    of every batch, "fsdp" (torch >= 2.6) a part of the weights too; "auto" is ddp where there are several, "alone"
    ignores the others. `sync_norm` lets batch norm see the whole batch instead of a process's part.
    """

    device: str = "auto"
    precision: Precision = "fp32"
    channels_last: bool | None = None
    compile: bool = False
    recompute: bool = False
    deterministic: bool = False
    strategy: Strategy = "auto"
    sync_norm: bool = False

    def __post_init__(self) -> None:
        """Refuse unknown names."""
        if self.precision not in PRECISIONS:
            raise unknown("precision", self.precision, PRECISIONS)
        if self.strategy not in STRATEGIES:
            raise unknown("strategy", self.strategy, STRATEGIES)
        _device(self.device)

    def join(self) -> Processes:
        """Meet the other processes, if there are any."""
        return ALONE if self.strategy == "alone" else join(_device(self.device))

    def start(self, module: nn.Module, *, products: bool = False) -> Session:
        """Move a model to the device, in place, and return how to run it; `products` as in ModelParts."""
        device = _device(self.device)
        processes = self.join()
        if processes.world > 1 and device.type == "cuda" and device.index is None:
            device = torch.device("cuda", processes.local_rank)
        precision = self._precision(module, device, products=products)
        pictures = any(isinstance(m, nn.Conv2d) for m in module.modules())
        channels_last = pictures if self.channels_last is None else self.channels_last
        if self.sync_norm and device.type == "cpu":
            raise OptionError("sync_norm needs accelerators: torch has no synchronised batch norm for the CPU")
        if self.sync_norm and processes.world > 1:
            _see_whole_batches(module)
        if channels_last:
            module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        elif any(t.device != device for t in (*module.parameters(), *module.buffers())):
            module.to(device)
        if self.recompute:
            recompute_blocks(module)
        sharded = self.strategy == "fsdp" and processes.world > 1
        if sharded:
            shard(module, device)
        return Session(
            module=module,
            device=device,
            precision=precision,
            channels_last=channels_last,
            shapes=pictures or channels_last,
            compiled=self.compile,
            processes=processes,
            sharded=sharded,
            deterministic=self.deterministic,
        )

    def _precision(self, module: nn.Module, device: torch.device, *, products: bool) -> str:
        if self.precision != "auto":
            return self.precision
        enough = products or _conv_parameters(module) >= CONV_PARAMETERS_WORTH_BF16 or device.type == "cuda"
        return "bf16" if enough and native_bf16(device) else "fp32"


@dataclass(slots=True, kw_only=True)
class Session:
    """Run a model as a Runtime decided."""

    module: nn.Module
    device: torch.device
    precision: str
    channels_last: bool
    shapes: bool
    """Whether `shape` has anything to do."""
    compiled: bool = False
    deterministic: bool = False
    processes: Processes = ALONE
    sharded: bool = False
    """Whether each process holds a part of the weights only."""
    forward: Any = field(init=False)
    scaler: torch.amp.GradScaler | None = field(init=False)
    _averaging: Any = field(init=False, default=None)
    _learns: tuple[bool, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        """Scale losses where gradients would underflow."""
        self.scaler = torch.amp.GradScaler(self.device.type) if self.precision == "fp16" else None
        self.forward = torch.compile(self.module) if self.compiled else self.module
        if self.sharded:
            self.forward = _without_remarks(self.forward)

    def enter_training(self) -> None:
        """Get ready to average gradients over the processes: of what learns now, which may have changed."""
        if self.processes.world == 1 or self.sharded:
            return
        learns = tuple(p.requires_grad for p in self.module.parameters())
        if self._averaging is None or learns != self._learns:
            averaging = DistributedDataParallel(
                self.module, device_ids=[self.device.index] if self.device.type == "cuda" else None
            )
            self._averaging, self._learns = torch.compile(averaging) if self.compiled else averaging, learns
        self.forward = self._averaging

    def leave_training(self) -> None:
        """Run the model by itself again, and let all processes have the same statistics of batch norm."""
        if self.processes.world == 1 or self.sharded:
            return
        self.forward = torch.compile(self.module) if self.compiled else self.module
        for buffer in self.module.buffers():
            dist.broadcast(buffer, 0)

    def describe(self) -> str:
        """Say in one line what was chosen."""
        parts = [str(self.device), self.precision]
        parts += ["channels-last"] * self.channels_last + ["compiled"] * self.compiled
        parts += ["deterministic"] * self.deterministic
        if self.processes.world > 1:
            parts.append(f"{self.processes.world} processes, {'sharded' if self.sharded else 'data-parallel'}")
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


def _without_remarks(forward: Any) -> Any:
    """Keep FSDP from warning of outputs that are views: nobody changes an output in place here."""

    def run(*inputs: Tensor) -> Any:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
            return forward(*inputs)

    return run


def _see_whole_batches(module: nn.Module) -> None:
    """Replace the batch norms inside a model by ones that compute their statistics over all processes."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001 - the only common base
            setattr(module, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
        else:
            _see_whole_batches(child)


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


@contextmanager
def repeatable(on: bool = True, *, threads: int | None = None) -> Iterator[None]:
    """Have torch compute the same bits again for a while, with so many threads; afterwards its flags are as they were.

    Sums on the CPU are divided among threads, so their number is part of what decides the bits.
    """
    if not on:
        yield
        return
    flags, cudnn = torch.get_deterministic_debug_mode(), torch.backends.cudnn
    before, count = (cudnn.deterministic, cudnn.benchmark), torch.get_num_threads()
    workspace = os.environ.get(WORKSPACE)
    try:
        torch.use_deterministic_algorithms(True)
        cudnn.deterministic, cudnn.benchmark = True, False
        os.environ.setdefault(WORKSPACE, ":4096:8")  # without it cuBLAS may choose anew from call to call
        if threads is not None:
            torch.set_num_threads(threads)
        yield
    finally:
        torch.set_deterministic_debug_mode(flags)
        cudnn.deterministic, cudnn.benchmark = before
        torch.set_num_threads(count)
        if workspace is None:
            os.environ.pop(WORKSPACE, None)
