"""Tensors replaced by their parts: a codec that treats each tensor for itself says only how to split and how to join one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from fedkd.knowledge.codecs.notes import Form, read_note, with_note
from fedkd.knowledge.knowledge import Knowledge

#: What is added to a tensor's name -> one part of it. "" is the part that takes the tensor's own name.
Parts = Mapping[str, Tensor]


def split(
    knowledge: Knowledge, key: str, suffixes: tuple[str, ...], parts_of: Callable[[Tensor, str], Parts | None]
) -> Knowledge:
    """The knowledge with tensors replaced by their parts, in space "coded", and a note under ``key``.

    Args:
        knowledge: any.
        key: the codec's own key in the header.
        suffixes: all that a part's name may end in.
        parts_of: tensor and space -> its parts; None for a tensor that is to stay whole. So does one whose parts' names are
            taken.
    """
    tensors: dict[str, Tensor] = {}
    spaces: dict[str, str] = {}
    coded = []
    for name, tensor in knowledge.tensors.items():
        taken = any(suffix and name + suffix in knowledge.tensors for suffix in suffixes)
        parts = None if taken else parts_of(tensor, knowledge.spaces[name])
        if parts is None:
            tensors[name], spaces[name] = tensor, knowledge.spaces[name]
            continue
        coded.append(name)
        for suffix, part in parts.items():
            tensors[name + suffix], spaces[name + suffix] = part, "coded"
    return replace(knowledge, tensors=tensors, spaces=spaces, header=with_note(knowledge, key, coded))


def join(
    message: Knowledge, key: str, suffixes: tuple[str, ...], whole_of: Callable[[Parts, Form], Tensor], max_bytes: int
) -> Knowledge:
    """Undo ``split``: names, order, shapes, dtypes and spaces are those of before.

    Args:
        message: any, from anybody.
        key: as in ``split``.
        suffixes: as in ``split``.
        whole_of: parts, and what the tensor was -> the tensor. Raises ValueError for parts that it cannot read.
        max_bytes: how large the joined tensors may be in sum.

    Raises:
        ValueError: the note and the tensors do not fit.
    """
    forms, header = read_note(message, key, max_bytes)
    owner = {name + suffix: name for name in forms for suffix in suffixes}
    if any(name in message.tensors and name not in owner for name in forms):
        raise ValueError(f"{key}: the message has a tensor both whole and in parts")
    tensors: dict[str, Tensor] = {}
    spaces: dict[str, str] = {}
    for name, tensor in message.tensors.items():
        whole = owner.get(name)
        if whole is None:
            tensors[name], spaces[name] = tensor, message.spaces[name]
        elif whole not in tensors:
            parts = {suffix: message.tensors[whole + suffix] for suffix in suffixes if whole + suffix in message.tensors}
            tensors[whole], spaces[whole] = whole_of(parts, forms[whole]), forms[whole].space
    if not forms.keys() <= tensors.keys():
        raise ValueError(f"{key}: the header names a tensor that the message does not have")
    return replace(message, tensors=tensors, spaces=spaces, header=header)


def part(parts: Parts, suffix: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """One part, once it is what it must be. Raises ValueError where it is missing, or of another dtype or shape."""
    part = parts.get(suffix)
    if part is None or part.dtype != dtype or tuple(part.shape) != shape:
        what = "missing" if part is None else f"{part.dtype} of shape {tuple(part.shape)}"
        raise ValueError(f"part {suffix!r} of a coded tensor is {what}, expected {dtype} of shape {shape}")
    return part
