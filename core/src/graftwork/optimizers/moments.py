"""Lion and QHAdam: other uses of the running means Adam has."""

# ruff: noqa: SLF001 - torch's operations on lists begin with an underscore

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch

from graftwork.errors import OptionError
from graftwork.optimizers.base import Bucket, Params, Stepper, check_shares, moments

__all__ = ["Lion", "QHAdam"]


@final
class Lion(Stepper):
    """Step by the sign alone of a mean of gradients; take a tenth to a third of AdamW's rate, and more decay.

    X. Chen et al., arXiv 2302.06675.
    """

    zeros = ("exp_avg",)

    def __init__(
        self,
        params: Params,
        lr: float = 1e-4,
        *,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        """Check the options."""
        check_shares(betas=betas)
        super().__init__(params, lr, weight_decay, betas=betas)

    def update(self, group: Mapping[str, Any], bucket: Bucket) -> None:
        """Step one list."""
        self.decay(group, bucket)
        beta1, beta2 = group["betas"]
        mean = bucket.each("exp_avg")
        step = torch._foreach_lerp(mean, bucket.grads, 1 - beta1)
        torch._foreach_sign_(step)
        torch._foreach_add_(bucket.params, step, alpha=-group["lr"])
        torch._foreach_lerp_(mean, bucket.grads, 1 - beta2)


@final
class QHAdam(Stepper):
    """Mix the gradient itself into Adam's means: `nus` are the shares of the means.

    J. Ma and D. Yarats, arXiv 1810.06801.
    """

    zeros = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.999, 0.999),
        nus: tuple[float, float] = (0.7, 1.0),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        """Check the options."""
        check_shares(betas=betas)
        if not all(0 <= nu <= 1 for nu in nus):
            raise OptionError(f"nus={nus} must lie between 0 and 1")
        super().__init__(params, lr, weight_decay, betas=betas, nus=nus, eps=eps)

    def update(self, group: Mapping[str, Any], bucket: Bucket) -> None:
        """Step one list."""
        self.decay(group, bucket)
        nu1, nu2 = group["nus"]
        step, square = moments(group, bucket)
        torch._foreach_lerp_(step, bucket.grads, 1 - nu1)
        torch._foreach_mul_(square, nu2)
        torch._foreach_addcmul_(square, bucket.grads, bucket.grads, 1 - nu2)
        torch._foreach_sqrt_(square)
        torch._foreach_add_(square, group["eps"])
        torch._foreach_addcdiv_(bucket.params, step, square, -group["lr"])
