"""Losses are computed in float32 or better: bfloat16 has 8 bits of mantissa, too few for a difference of logits."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """bfloat16 and float16 become float32; float32 and float64 are returned as they are.

    >>> at_least_float32(torch.zeros(2, dtype=torch.bfloat16)).dtype, at_least_float32(torch.zeros(2).double()).dtype
    (torch.float32, torch.float64)
    """
    dtype = tensor.dtype
    return tensor if dtype in _WIDE else tensor.to(torch.promote_types(dtype, torch.float32))


_WIDE = (torch.float32, torch.float64)
