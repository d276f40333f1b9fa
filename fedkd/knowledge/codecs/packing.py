"""Bit packing: whole numbers of b bits each, without the gaps."""

from __future__ import annotations

import torch
from torch import Tensor


def packed_bytes(count: int, bits: int) -> int:
    """How many bytes ``count`` numbers of ``bits`` bits take.

    >>> packed_bytes(100, 4), packed_bytes(3, 3)
    (50, 2)
    """
    return -(-count * bits // 8)


def pack(levels: Tensor, bits: int) -> Tensor:
    """Pack whole numbers, most significant bit first; the last byte is filled with zeros.

    Args:
        levels: any shape, integers from 0 to 2^bits - 1; read row by row.
        bits: 0 to 16 each. With none, all numbers are 0 and take no bytes.

    Returns:
        (ceil(numbers * bits / 8),) uint8.

    Raises:
        ValueError: a number does not fit.

    >>> pack(torch.tensor([1, 2, 3]), 4).tolist()  # 0001 0010, 0011 and padding
    [18, 48]
    """
    flat = levels.reshape(-1).int()
    if flat.numel() and not (flat.min() >= 0 and flat.max() < 2**bits):
        raise ValueError(f"pack: numbers must be 0 to {2**bits - 1} to fit {bits} bits")
    stream = torch.zeros(packed_bytes(flat.numel(), bits) * 8, dtype=torch.uint8, device=flat.device)
    rows = stream[: flat.numel() * bits].view(flat.numel(), bits)
    for bit in range(bits):
        rows[:, bit] = (flat >> (bits - 1 - bit)) & 1
    return (stream.view(-1, 8) << torch.arange(7, -1, -1, device=flat.device)).sum(-1).to(torch.uint8)


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """Undo ``pack``.

    Args:
        packed: (ceil(count * bits / 8),) uint8.
        bits: 0 to 16.
        count: how many numbers there are.

    Returns:
        (count,) int32.

    Raises:
        ValueError: these are not the bytes of so many numbers.
    """
    if packed.dtype != torch.uint8 or tuple(packed.shape) != (packed_bytes(count, bits),):
        raise ValueError(f"unpack: {count} numbers of {bits} bits are {packed_bytes(count, bits)} bytes, not these")
    stream = torch.empty(packed.numel(), 8, dtype=torch.uint8, device=packed.device)
    for bit in range(8):
        stream[:, bit] = (packed >> (7 - bit)) & 1
    rows = stream.view(-1)[: count * bits].view(count, bits)
    levels = torch.zeros(count, dtype=torch.int32, device=packed.device)
    for bit in range(bits):
        levels = levels * 2 + rows[:, bit]
    return levels
