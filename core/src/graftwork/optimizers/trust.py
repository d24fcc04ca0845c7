"""Lamb and Larc: each tensor's step is measured by the length of its weights, for large batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch

from graftwork.errors import OptionError
from graftwork.optimizers.base import Bucket, Params, Stepper, check_shares, moments, norms, scale_each

__all__ = ["Lamb", "Larc"]


@final
class Lamb(Stepper):
    """Make Adam's step as long as the weights it changes, up to `max_ratio` times its own length.

    Y. You et al., arXiv 1904.00962, in fastai's form: weight decay is decoupled, and no part of the length.
    """

    zeros = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-5,
        weight_decay: float = 0.0,
        max_ratio: float = 10.0,
    ) -> None:
        """Check the options."""
        check_shares(betas=betas)
        if not max_ratio > 0:
            raise OptionError(f"max_ratio={max_ratio} must be above 0")
        super().__init__(params, lr, weight_decay, betas=betas, eps=eps, max_ratio=max_ratio)

    def update(self, group: Mapping[str, Any], bucket: Bucket) -> None:
        """Step one list."""
        self.decay(group, bucket)
        step, square = moments(group, bucket)
        torch._foreach_sqrt_(square)
        torch._foreach_add_(square, group["eps"])
        torch._foreach_div_(step, square)
        weights, steps = norms(bucket.params), norms(step)
        ratio = (weights / steps).clamp_(max=group["max_ratio"])
        ratio = torch.where((weights > 0) & (steps > 0), ratio, torch.ones_like(ratio))
        torch._foreach_add_(bucket.params, scale_each(step, ratio), alpha=-group["lr"])


@final
class Larc(Stepper):
    """Give each tensor the rate `lr * trust * |weights| / |gradient|`, which `clip` keeps from going above lr.

    Y. You, I. Gitman and B. Ginsburg, arXiv 1708.03888, whose LARS is `clip=False`. Weights that are all zero, as
    biases are at first, have no length to measure by and take the rate lr.
    """

    zeros = ("momentum_buffer",)

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        *,
        momentum: float = 0.9,
        trust: float = 0.02,
        clip: bool = True,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        """Check the options."""
        check_shares(momentum=momentum)
        if not trust > 0:
            raise OptionError(f"trust={trust} must be above 0")
        super().__init__(params, lr, weight_decay, momentum=momentum, trust=trust, clip=clip, eps=eps)

    def update(self, group: Mapping[str, Any], bucket: Bucket) -> None:
        """Step one list."""
        self.decay(group, bucket)
        velocity = bucket.each("momentum_buffer")
        torch._foreach_mul_(velocity, group["momentum"])
        torch._foreach_add_(velocity, bucket.grads)
        weights, grads = norms(bucket.params), norms(bucket.grads)
        share = group["trust"] * weights / (grads + group["weight_decay"] * weights + group["eps"])
        share = torch.where(weights > 0, share, torch.ones_like(share))
        if group["clip"]:
            share = share.clamp(max=1)
        torch._foreach_add_(bucket.params, scale_each(velocity, share), alpha=-group["lr"])
