"""The head that is grafted on a body: concat pooling and two linear layers, as fastai builds it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from graftwork.api import OptionError

__all__ = ["AdaptiveConcatPool2d", "create_head"]


class AdaptiveConcatPool2d(nn.Module):
    """Pool a feature map (B, C, H, W) to (B, 2C, size, size): the maxima first, then the means."""

    def __init__(self, size: int = 1) -> None:
        """Set the side of the pooled map."""
        super().__init__()
        self.max = nn.AdaptiveMaxPool2d(size)
        self.mean = nn.AdaptiveAvgPool2d(size)

    def forward(self, x: Tensor) -> Tensor:
        """Pool."""
        return torch.cat([self.max(x), self.mean(x)], 1)


def create_head(
    num_features: int,
    n_out: int,
    *,
    ps: float = 0.5,
    lin_ftrs: Sequence[int] | None = None,
    concat_pool: bool = True,
    pool: bool = True,
    first_bn: bool = True,
    bn_final: bool = False,
) -> nn.Sequential:
    """Build pool, then batch norm, dropout and a linear layer for each of `lin_ftrs` (default 512) and for the output.

    `ps` is the last dropout; the others drop half as much. Without `pool` the input is (B, num_features) already.
    Linear layers have no bias behind a batch norm, and Kaiming's initial values (He et al., 2015).
    """
    if not 0 <= ps < 1:
        raise OptionError(f"ps={ps}: a share of activations to drop is at least 0 and below 1")
    layers: list[nn.Module] = []
    if pool:
        layers = [AdaptiveConcatPool2d() if concat_pool else nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        num_features *= 2 if concat_pool else 1
    sizes = [num_features, *((512,) if lin_ftrs is None else lin_ftrs), n_out]
    last = len(sizes) - 2
    for i, (n_in, width) in enumerate(pairwise(sizes)):
        layers += _stage(n_in, width, norm=i > 0 or first_bn, p=ps if i == last else ps / 2)
        if i < last:
            layers.append(nn.ReLU(inplace=True))
    if bn_final:
        layers.append(nn.BatchNorm1d(n_out, momentum=0.01))
    head = nn.Sequential(*layers)
    head.apply(_init)
    return head


def _stage(n_in: int, n_out: int, *, norm: bool, p: float) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.BatchNorm1d(n_in)] if norm else []
    if p:
        layers.append(nn.Dropout(p))
    return [*layers, nn.Linear(n_in, n_out, bias=not norm)]


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.kaiming_normal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm1d):
        # Slightly off zero, so that no unit starts dead.
        nn.init.constant_(module.bias, 1e-3)
