"""Get pretrained weights: by torchvision's names, or from a local file that can hold nothing but tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from graftwork.api import OptionError, UserError, load_learner, unknown

__all__ = ["fit_channels", "load_body", "pretrained_state", "read_weights"]

_SUFFIXES: Final = (".graft", ".safetensors", ".pth", ".pt", ".bin")
_NESTED: Final = ("state_dict", "model", "model_state_dict")


def pretrained_state(arch: str, weights: str) -> dict[str, Tensor]:
    """Return the parameters of `arch` by name: from a file if `weights` is a path, else as torchvision publishes them.

    Raises:
        OptionError: the file is no file of weights.
        UnknownName: torchvision has no such weights.
        UserError: they cannot be downloaded.
    """
    if is_path(weights):
        return read_weights(weights)
    return _published(arch, weights)


def is_path(weights: str) -> bool:
    """Say whether `weights` is meant as a file and not as a name."""
    return Path(weights).suffix.lower() in _SUFFIXES or "/" in weights or "\\" in weights


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a .safetensors file, an exported model (.graft), or a PyTorch file that holds only tensors (`weights_only`).

    Raises OptionError for any other file.
    """
    path = Path(path)
    if not path.is_file():
        raise OptionError(f"weights={str(path)!r}: no such file; use weights=None to train from scratch")
    if path.suffix.lower() == ".graft":
        return dict(load_learner(path).module.state_dict())
    content = _safetensors(path) if path.suffix.lower() == ".safetensors" else _torch_file(path)
    for key in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not any(isinstance(v, Tensor) for v in content.values()):
        raise OptionError(f"weights={str(path)!r} holds no parameters by name (a state dict)")
    return {str(name).removeprefix("module."): v for name, v in content.items() if isinstance(v, Tensor)}


def _safetensors(path: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise OptionError(f"weights={str(path)!r} is no safetensors file ({error})") from error


def _torch_file(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a reader raises on foreign bytes
        raise OptionError(
            f"weights={str(path)!r} was not loaded: it holds more than tensors, or is broken. "
            "Save model.state_dict(), best with safetensors.torch.save_file"
        ) from error


def _published(arch: str, weights: str) -> dict[str, Tensor]:
    from torchvision.models import get_model_weights

    known = get_model_weights(arch).__members__
    if weights not in known:
        raise unknown(f"weights of {arch}", weights, known, hint="or give the path of a file")
    try:
        state: dict[str, Tensor] = known[weights].get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"the weights {weights!r} of {arch} could not be downloaded ({error}); pass weights=None to train from "
            f"scratch, or weights='path/to/{arch}.safetensors' (or .pth) with a file fetched elsewhere"
        ) from error
    return state


def load_body(body: nn.Module, state: Mapping[str, Tensor], *, name: str) -> None:
    """Copy into `body` what it has in common with a whole network's parameters; raise OptionError if one is missing.

    Parameters of the classifier that was cut off are not used. Weights of a graftwork model ("body.…") fit as well.
    """
    prefix = "body." if any(key.startswith("body.") for key in state) else ""
    wanted = body.state_dict()
    # A counter that older files do not have, and that only matters for cumulative averages.
    missing = [k for k in wanted if prefix + k not in state and not k.endswith("num_batches_tracked")]
    if missing:
        raise OptionError(
            f"these weights are not of {name}: {len(missing)} of its {len(wanted)} parameters are missing, "
            f"the first is {missing[0]!r}; the file has {', '.join(list(state)[:3])}, …"
        )
    found = {key: state[prefix + key] for key in wanted if prefix + key in state}
    for key, value in found.items():
        if value.shape != wanted[key].shape:
            raise OptionError(
                f"these weights are not of {name}: {key!r} has the shape {tuple(value.shape)}, "
                f"not {tuple(wanted[key].shape)}"
            )
    body.load_state_dict(found, strict=False)


def fit_channels(weight: Tensor, channels: int) -> Tensor:
    """Fit the weights (O, 3, k, k) of a first convolution to pictures of other channels, as fastai does.

    One channel gets the sum over colours, two get the first two times 1.5, further ones start at zero.
    """
    n_in = weight.shape[1]
    if channels == n_in:
        return weight
    if channels == 1:
        return weight.sum(1, keepdim=True)
    if channels < n_in:
        return weight[:, :channels] * (n_in / channels)
    extra = weight.new_zeros(weight.shape[0], channels - n_in, *weight.shape[2:])
    return torch.cat([weight, extra], 1)
