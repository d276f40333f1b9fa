"""A wrong shape is an error that says whose it is: torch would broadcast it, or fail far inside a layer."""

from __future__ import annotations

from torch import Tensor


def require_shape(what: str, tensor: Tensor, *expected: int | str) -> None:
    """Refuse a tensor of another shape; a letter stands for any size.

    Raises:
        ValueError: the shape differs.

    >>> import torch
    >>> require_shape("f: student", torch.zeros(2, 3), "B", 3)
    >>> require_shape("f: student", torch.zeros(2, 4), "B", 3)
    Traceback (most recent call last):
    ValueError: f: student is (2, 4); expected (B, 3)
    """
    shape = tuple(tensor.shape)
    fits = len(shape) == len(expected) and all(
        isinstance(want, str) or want == size for want, size in zip(expected, shape, strict=True)
    )
    if not fits:
        raise ValueError(f"{what} is {shape}; expected ({', '.join(map(str, expected))})")
