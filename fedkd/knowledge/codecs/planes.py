"""Byte planes: all first bytes of a tensor's elements, then all second ones. Equal bytes come to lie side by side."""

from __future__ import annotations

import torch
from torch import Tensor

from fedkd.knowledge.codecs.notes import Form


def to_planes(tensor: Tensor) -> Tensor:
    """The bytes of a tensor of any shape and dtype: (bytes of an element, elements) uint8, on the CPU."""
    flat = tensor.reshape(-1).cpu().contiguous()
    return flat.view(torch.uint8).view(flat.numel(), flat.element_size()).t().contiguous()


def from_planes(planes: Tensor, form: Form) -> Tensor:
    """Undo ``to_planes`` for a tensor of this shape and dtype.

    Raises:
        ValueError: the planes are not those of such a tensor.
    """
    size = (form.dtype.itemsize, form.elements)
    if planes.dtype != torch.uint8 or tuple(planes.shape) != size:
        raise ValueError(f"byte planes are {planes.dtype} of shape {tuple(planes.shape)}, expected torch.uint8 of shape {size}")
    if form.dtype == torch.bool and (planes > 1).any():
        raise ValueError("byte planes of a bool tensor hold another byte than 0 and 1")
    elements = planes.t().clone(memory_format=torch.contiguous_format)  # (elements, bytes of an element)
    return elements.view(form.dtype).view(form.shape)
