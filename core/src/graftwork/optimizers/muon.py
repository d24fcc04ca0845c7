"""Muon: the step of a weight matrix is made orthogonal (K. Jordan et al., 2024; J. Liu et al., arXiv 2502.16982)."""

# ruff: noqa: SLF001 - torch's operations on lists begin with an underscore

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from math import sqrt
from typing import Any, Final, final

import torch
from torch import Tensor

from graftwork.errors import OptionError
from graftwork.optimizers.base import Bucket, Params, Stepper, check_shares
from graftwork.optimizers.joined import Joined

__all__ = ["MatrixMuon", "Muon"]

# The odd polynomial of fifth degree whose repetition brings singular values between 0 and 1 near to 1 fastest.
_COEFFICIENTS: Final = (3.4445, -4.775, 2.0315)


@final
class Muon(Joined):
    """Step two-dimensional weights by Muon and all others by AdamW, with one learning rate for both.

    Steps of matrices are scaled to the size AdamW's have, so a rate found for AdamW fits. The matrices are stepped by
    `torch.optim.Muon` where there is one (torch 2.9), else by MatrixMuon. `elementwise` are matrices that AdamW is to
    step, such as embeddings; convolutions, which have four dimensions, are AdamW's too.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 1e-3,
        *,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-5,
        weight_decay: float = 0.0,
        elementwise: Collection[Tensor] = (),
    ) -> None:
        """Part the parameters."""
        check_shares(momentum=momentum, betas=betas)
        spared = {id(p) for p in elementwise}
        matrices, others = _parted(params, weight_decay, spared)
        by_muon = {"momentum": momentum, "nesterov": nesterov, "ns_steps": ns_steps}
        kind: Any = vars(torch.optim).get("Muon", MatrixMuon)
        parts = [kind(matrices, lr=lr, adjust_lr_fn="match_rms_adamw", **by_muon)] if matrices else []
        parts += [torch.optim.AdamW(others, lr=lr, betas=betas, eps=eps)] if others else []
        super().__init__(parts, {})


def _parted(
    groups: Iterable[dict[str, Any]], weight_decay: float, spared: Collection[int]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    matrices, others = [], []
    for group in groups:
        group = {"weight_decay": weight_decay, **group}
        chosen = [p for p in group["params"] if p.ndim == 2 and p.is_floating_point() and id(p) not in spared]
        kept = {id(p) for p in chosen}
        rest = [p for p in group["params"] if id(p) not in kept]
        matrices += [{**group, "params": chosen}] if chosen else []
        others += [{**group, "params": rest}] if rest else []
    return matrices, others


@final
class MatrixMuon(Stepper):
    """Do what torch.optim.Muon does, for torch before 2.9."""

    zeros = ("momentum_buffer",)

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        *,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        adjust_lr_fn: str = "match_rms_adamw",
        weight_decay: float = 0.0,
    ) -> None:
        """Check that there are matrices only."""
        if adjust_lr_fn != "match_rms_adamw":
            raise OptionError(f"adjust_lr_fn={adjust_lr_fn!r}: only 'match_rms_adamw' is known before torch 2.9")
        super().__init__(params, lr, weight_decay, momentum=momentum, nesterov=nesterov, ns_steps=ns_steps)
        shapes = [tuple(p.shape) for group in self.param_groups for p in group["params"] if p.ndim != 2]
        if shapes:
            raise OptionError(f"Muon steps matrices; found a parameter of shape {shapes[0]}")

    def update(self, group: Mapping[str, Any], bucket: Bucket) -> None:
        """Step one list."""
        self.decay(group, bucket)
        momentum, mean = group["momentum"], bucket.each("momentum_buffer")
        torch._foreach_lerp_(mean, bucket.grads, 1 - momentum)
        steps = torch._foreach_lerp(bucket.grads, mean, momentum) if group["nesterov"] else mean
        for parameter, step in zip(bucket.params, steps, strict=True):
            scale = 0.2 * sqrt(max(parameter.shape))
            parameter.add_(orthogonalized(step, group["ns_steps"]), alpha=-group["lr"] * scale)


def orthogonalized(matrix: Tensor, num_steps: int) -> Tensor:
    """Bring all singular values near to 1 (0.7 to 1.2), in bfloat16 and without an SVD."""
    a, b, c = _COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.to(torch.bfloat16)
    x = x.T if tall else x
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(num_steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x
