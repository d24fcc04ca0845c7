"""Comparing values of any kind: tensors, arrays, pictures, nested plain values."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["is_finite", "same"]


def same(a: Any, b: Any, *, tolerance: float = 0.0) -> bool:
    """Say whether two values are equal, numbers within a tolerance relative to their size; NaN equals NaN."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key], tolerance=tolerance) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and not _are_numbers([*a, *b]):
        return len(a) == len(b) and all(same(x, y, tolerance=tolerance) for x, y in zip(a, b, strict=True))
    if a is None or b is None or isinstance(a, str | bytes) or isinstance(b, str | bytes):
        return type(a) is type(b) and bool(a == b)
    left, right = _array(a), _array(b)
    if left.dtype == object or right.dtype == object:
        return bool(a == b)
    if left.shape != right.shape:
        return False
    if left.dtype.kind not in "fiub" or right.dtype.kind not in "fiub":
        return bool((left == right).all())
    # The size that counts is the largest of the array: noise in a difference near 0 is no difference.
    size = max(1.0, float(np.abs(right[np.isfinite(right)]).max(initial=0)))
    return bool(np.allclose(left, right, rtol=tolerance, atol=tolerance * size, equal_nan=True))


def _are_numbers(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(value, Real) for value in values)


def _array(value: Any) -> np.ndarray[Any, Any]:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)


def is_finite(value: Any) -> bool:
    """Say whether a tensor, or every one of several, holds finite numbers."""
    parts = value if isinstance(value, list | tuple) else [value]
    return all(bool(torch.isfinite(part).all()) for part in parts)
