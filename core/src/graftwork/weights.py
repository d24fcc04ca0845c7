"""Module weights to and from bytes, in the safetensors format, without copies.

Both ways are done here because the library copies what it is given; files are the same to the last byte.
"""

from __future__ import annotations

import json
import math
import struct
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from graftwork.errors import ArtifactError

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

__all__ = [
    "DTYPES",
    "blank_build",
    "described",
    "fill",
    "is_part",
    "laid_out",
    "matching",
    "module_tensors",
    "pack",
    "pack_module",
    "pack_parts",
    "unpack",
    "whole",
]

DTYPES: Final = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}
ORDER: Final = ("I64", "F64", "F32", "I32", "BF16", "F16", "I16", "I8", "U8", "BOOL")
MAX_DIMENSIONS: Final = 64
CACHE_LINE: Final = 64


def pack(tensors: Mapping[str, Tensor]) -> bytes:
    """Return tensors of any layout and device as safetensors; same tensors give the same bytes."""
    return b"".join(pack_parts(tensors))


def pack_parts(tensors: Mapping[str, Tensor], *, copy: bool = False) -> list[bytes | memoryview]:
    """Return what `pack` does in parts, which are views of tensors on the CPU, or with `copy` of copies."""
    strange = next((n for n, t in tensors.items() if t.dtype not in NAMES), None)
    if strange is not None:
        raise ArtifactError(f"tensor {strange!r} is {tensors[strange].dtype}, which a file cannot hold")
    # As the library orders them: wide types first, so that each tensor lies where its type may.
    order = sorted(tensors, key=lambda name: (ORDER.index(NAMES[tensors[name].dtype]), name))
    header, end, parts = {}, 0, list[bytes | memoryview]()
    for name in order:
        data = _bytes(tensors[name], copy=copy)
        begin, end = end, end + len(data)
        kind, shape = NAMES[tensors[name].dtype], list(tensors[name].shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
        parts.append(data)
    head = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    head += b" " * (-(8 + len(head)) % CACHE_LINE)  # the tensors begin on a border of cache lines
    return [struct.pack("<Q", len(head)) + head, *parts]


def _bytes(tensor: Tensor, *, copy: bool) -> memoryview:
    given = tensor.detach()
    there = given.to("cpu", copy=True, memory_format=torch.contiguous_format) if copy else given.cpu().contiguous()
    flat = there.reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def pack_module(module: nn.Module) -> tuple[bytes, dict[str, str]]:
    """Return a module's parameters and saved buffers as safetensors, and the names that repeat another one's tensor.

    Raises ArtifactError for state that is no tensor, and for parameters that have no shape yet.
    """
    tensors, aliases = module_tensors(module)
    return pack(tensors), aliases


def module_tensors(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return what `pack_module` packs: every tensor once, and the names that repeat one."""
    state = {name: whole(value) for name, value in module.state_dict(keep_vars=True).items()}
    first: dict[Any, str] = {}
    aliases: dict[str, str] = {}
    for name, value in state.items():
        _check_saved(name, value)
        owner = first.setdefault(_memory(value), name)
        if owner != name:
            aliases[name] = owner
    return {name: value for name, value in state.items() if name not in aliases}, aliases


def _check_saved(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise ArtifactError(f"the model's state {name!r} is a {type(value).__name__}; a file holds tensors only")
    if isinstance(value, nn.UninitializedParameter | nn.UninitializedBuffer):
        raise ArtifactError(f"the model's parameter {name!r} has no shape yet; run a batch through it first")


def _memory(value: Tensor) -> Any:
    """Identify what two names of one tensor have in common."""
    if value.numel() == 0 or value.is_meta:
        return id(value)
    return value.device, value.data_ptr(), value.shape, value.stride(), value.dtype


def described(tensors: Mapping[str, Tensor]) -> dict[str, tuple[str, list[int]]]:
    """Return type and shape of tensors, as a safetensors header says them."""
    return {name: (NAMES[value.dtype], list(value.shape)) for name, value in tensors.items()}


def is_part(tensor: Tensor) -> bool:
    """Say whether a process holds a part of this tensor only."""
    # Without the import, which a run in one process does without, there are none.
    loaded = sys.modules.get("torch.distributed.tensor")
    # torch 2.3 has the module, and nothing in it.
    kind = None if loaded is None else vars(loaded).get("DTensor")
    return kind is not None and isinstance(tensor, kind)


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor with the parts of all processes, all of which are to ask."""
    if not isinstance(tensor, Tensor) or not is_part(tensor):
        return tensor
    part: Any = tensor
    full: Tensor = part.full_tensor()
    return full


def laid_out(full: Tensor, like: Tensor) -> Tensor:
    """Return a process's part of a whole tensor, if `like` is such a part."""
    if not is_part(like):
        return full
    from torch.distributed.tensor import distribute_tensor

    part: DTensor = like  # type: ignore[assignment]
    return distribute_tensor(full.to(part.device), part.device_mesh, part.placements)


# --- reading ---------------------------------------------------------------------------------------------------------


def unpack(data: memoryview, *, what: str) -> dict[str, Tensor]:
    """Return the tensors that lie in safetensors bytes, as views of them.

    Raises ArtifactError, beginning with `what`, unless the header describes every byte exactly once.
    """
    header, start = _header(data, what)
    tensors, position = {}, 0
    for name, (dtype, shape, begin, end) in sorted(header.items(), key=lambda entry: entry[1][2:]):
        size = math.prod(shape) * dtype.itemsize
        if begin != position or end - begin != size or start + end > len(data) or begin % dtype.itemsize:
            raise _unfit(what, f"its tensor {name!r} does not lie where its shape {shape} says")
        tensors[name] = _view(data, dtype, shape, start + begin)
        position = end
    if start + position != len(data):
        raise _unfit(what, f"{len(data) - start - position} bytes at its end belong to no tensor")
    return tensors


def _view(data: memoryview, dtype: torch.dtype, shape: list[int], offset: int) -> Tensor:
    count = math.prod(shape)
    if count == 0:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(data, dtype=dtype, count=count, offset=offset).view(shape)


def _header(data: memoryview, what: str) -> tuple[dict[str, tuple[torch.dtype, list[int], int, int]], int]:
    size = struct.unpack_from("<Q", data)[0] if len(data) >= 8 else len(data)
    if size > len(data) - 8 or size % 8:
        raise _unfit(what, "it is a pickle" if bytes(data[:1]) == b"\x80" else "it has no header")
    try:
        header = json.loads(bytes(data[8 : 8 + size]))
    except (ValueError, RecursionError) as error:
        raise _unfit(what, f"its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise _unfit(what, "its header is not a JSON object")
    header.pop("__metadata__", None)
    return {name: _described(name, entry, what) for name, entry in header.items()}, 8 + size


def _described(name: str, entry: object, what: str) -> tuple[torch.dtype, list[int], int, int]:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(begin), int(end)]} if dtype in DTYPES:
            if len(shape) <= MAX_DIMENSIONS and all(type(n) is int and 0 <= n < 1 << 40 for n in shape):
                return DTYPES[dtype], shape, begin, end
    raise _unfit(what, f"its tensor {name!r} is described wrongly")


def _unfit(what: str, why: str) -> ArtifactError:
    return ArtifactError(f"{what} is refused: {why}; it is not safetensors, and nothing in it was run")


# --- building without weights, and filling ---------------------------------------------------------------------------

_FILLERS: Final = frozenset(
    {
        Tensor.bernoulli_,
        Tensor.cauchy_,
        Tensor.exponential_,
        Tensor.fill_,
        Tensor.geometric_,
        Tensor.log_normal_,
        Tensor.normal_,
        Tensor.random_,
        Tensor.uniform_,
        Tensor.zero_,
        *(filler for name, filler in vars(nn.init).items() if name.endswith("_") and not name.startswith("_")),
    }
)


class _Blank(TorchFunctionMode):
    """Give `torch.empty` no memory, and skip filling it.

    Only `torch.empty`, from which layers make their parameters: buffers that are computed are computed.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _FILLERS:
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        if func is torch.empty:
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)


def blank_build(build: Callable[[], nn.Module], tensors: Mapping[str, Tensor], aliases: Mapping[str, str]) -> nn.Module:
    """Build a module and give it `tensors`, without initialising weights first where its code allows that.

    torch's random state is left as it was. Raises ArtifactError naming the first tensor that does not fit.
    """
    with torch.random.fork_rng(devices=[]):
        module = _built_blank(build)
        if module is not None:
            fill(module, tensors, aliases)
            if not _leftovers(module):
                return module
        module = build()
    fill(module, tensors, aliases)
    return module


def _built_blank(build: Callable[[], nn.Module]) -> nn.Module | None:
    try:
        with _Blank():
            return build()
    except Exception:
        return None  # its code looks at the weights it makes; the ordinary build gives it some, or fails for good


def fill(module: nn.Module, tensors: Mapping[str, Tensor], aliases: Mapping[str, str]) -> None:
    """Put tensors in place of a module's parameters and saved buffers, without copying; ties stay ties.

    Raises ArtifactError naming the first tensor that is missing, left over, or of another shape or type.
    """
    state = module.state_dict(keep_vars=True)
    given = matching(state, tensors, aliases)
    owners = dict(module.named_modules(remove_duplicate=False))
    made: dict[int, tuple[Tensor, Tensor]] = {}
    for name, old in state.items():
        source, new = made.setdefault(id(old), (given[name], _like(old, given[name])))
        if source is not given[name]:
            raise ArtifactError(f"tensor {name!r} is tied to another one in the model, and one of its own in the file")
        prefix, _, leaf = name.rpartition(".")
        slots = vars(owners[prefix])
        slots["_parameters" if leaf in slots["_parameters"] else "_buffers"][leaf] = new


def matching(
    state: Mapping[str, Tensor], tensors: Mapping[str, Tensor], aliases: Mapping[str, str]
) -> dict[str, Tensor]:
    """Return the tensor for every name in `state`; raise ArtifactError unless names, shapes and types are the same."""
    try:
        given = {**tensors, **{alias: tensors[name] for alias, name in aliases.items()}}
    except (AttributeError, KeyError, TypeError) as error:
        raise ArtifactError(f"the names of tied tensors fit no tensor: {error}") from error
    missing, extra = sorted(set(state) - set(given)), sorted(set(given) - set(state))
    if missing:
        raise ArtifactError(f"tensor {missing[0]!r} of the model is not in the file ({len(missing)} missing)")
    if extra:
        raise ArtifactError(f"tensor {extra[0]!r} in the file belongs to nothing in the model ({len(extra)} too many)")
    for name, old in state.items():
        if old.shape != given[name].shape or old.dtype != given[name].dtype:
            found, wanted = _brief(given[name]), _brief(old)
            raise ArtifactError(f"tensor {name!r} is {found} in the file, and {wanted} in the model it belongs to")
    return given


def _like(old: Tensor, tensor: Tensor) -> Tensor:
    return nn.Parameter(tensor, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else tensor


def _brief(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _leftovers(module: nn.Module) -> bool:
    """Say whether anything is still without memory: a buffer that is not saved, or a tensor kept as an attribute."""
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, dict | list | tuple):
                values = value.values() if isinstance(value, dict) else value
                if any(isinstance(inner, Tensor) and inner.is_meta for inner in values):
                    return True
            elif isinstance(value, Tensor) and value.is_meta:
                return True
    return False
