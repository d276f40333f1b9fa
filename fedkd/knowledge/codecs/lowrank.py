"""Low-rank factors of tensors, as FedKD sends them: Wu et al., Nature Communications 13 (2022), arXiv 2108.13323."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

#: What is added to a tensor's name for U, the singular values, and V.
FACTORS = ("/u", "/s", "/v")


def truncate(matrix: Tensor, energy: float) -> tuple[Tensor, Tensor, Tensor]:
    """The first r singular vectors and values, with the smallest r of at least 1 for which::

        sum of s_i^2 over i <= r   >   energy * sum of all s_i^2

    and where no r gives more, as for energy 1 or a matrix of zeros, the smallest that gives all.

    Args:
        matrix: (m, n) floating, not empty. Computed in float32 or better.
        energy: over 0, at most 1.

    Returns:
        U (m, r), s (r,), V (r, n), of the matrix's dtype; the matrix is about U @ diag(s) @ V.

    Raises:
        ValueError: the energy is out of range, or this is no floating matrix with elements.
        torch.linalg.LinAlgError: the decomposition does not converge, for instance of a matrix that is not finite.

    >>> [tuple(factor.shape) for factor in truncate(torch.diag(torch.tensor([3.0, 2.0, 1.0])), 0.9)]  # 13 / 14 > 0.9
    [(3, 2), (2,), (2, 3)]
    """
    if not 0 < energy <= 1:
        raise ValueError(f"truncate: energy must be over 0 and at most 1, got {energy}")
    if matrix.ndim != 2 or not matrix.numel() or not matrix.is_floating_point():
        raise ValueError(f"truncate: expected a floating matrix with elements, got {matrix.dtype} of {tuple(matrix.shape)}")
    u, s, v = torch.linalg.svd(matrix.to(_wide(matrix)), full_matrices=False)
    held = s.double().square().cumsum(0)  # (min(m, n),)
    rank = int(((held <= energy * held[-1]) & (held < held[-1])).sum()) + 1
    return u[:, :rank].to(matrix.dtype), s[:rank].to(matrix.dtype), v[:rank].to(matrix.dtype)


def expand(u: Tensor, s: Tensor, v: Tensor) -> Tensor:
    """U @ diag(s) @ V, in float32 or better, given back in the factors' dtype.

    Args:
        u: (m, r) floating.
        s: (r,) of the same dtype.
        v: (r, n) of the same dtype.

    Returns:
        (m, n).

    Raises:
        ValueError: the factors do not fit each other, or the rank is 0.
    """
    fits = (u.ndim, s.ndim, v.ndim) == (2, 1, 2) and u.shape[1] == s.shape[0] == v.shape[0] > 0
    if not fits or not u.is_floating_point() or not u.dtype == s.dtype == v.dtype:
        shapes = ", ".join(f"{factor.dtype} of {tuple(factor.shape)}" for factor in (u, s, v))
        raise ValueError(f"expand: U, s and V do not fit each other: {shapes}")
    wide = _wide(u)
    return (u.to(wide) * s.to(wide) @ v.to(wide)).to(u.dtype)


def factorise(tensor: Tensor, energy: float) -> tuple[Tensor, Tensor, Tensor] | None:
    """The truncated factors of a tensor flattened to (first axis, rest), or None where it should travel whole.

    So does what is not floating, has fewer than two axes, would not become smaller (r (m + n + 1) >= m n), or is not finite or
    otherwise has no decomposition.
    """
    if not tensor.is_floating_point() or tensor.ndim < 2 or not tensor.numel():
        return None
    matrix = tensor.reshape(tensor.shape[0], -1)  # (m, n): a convolution's (out, in * height * width)
    try:
        factors = truncate(matrix, energy)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        return None
    smaller = sum(factor.numel() for factor in factors) < matrix.numel()
    return factors if smaller and all(bool(factor.isfinite().all()) for factor in factors) else None


def compress(tensors: Mapping[str, Tensor], energy: float) -> dict[str, Tensor]:
    """Each tensor as its factors under "name/u", "name/s" and "name/v", or whole under its name where ``factorise`` says so.

    A tensor one of whose factors' names is taken travels whole too.
    """
    parts: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        taken = any(name + suffix in tensors for suffix in FACTORS)
        factors = None if taken else factorise(tensor, energy)
        parts |= {name: tensor} if factors is None else dict(zip((name + suffix for suffix in FACTORS), factors, strict=True))
    return parts


def decompress(parts: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Undo ``compress`` for tensors of these shapes.

    Raises:
        ValueError: a tensor is missing, is there whole and in factors, or does not have its shape; a part belongs to none.
    """
    tensors: dict[str, Tensor] = {}
    used: set[str] = set()
    for name, shape in shapes.items():
        names = [name] if name in parts else [name + suffix for suffix in FACTORS]
        if not parts.keys() >= set(names):
            raise ValueError(f"decompress: {name!r} is there neither whole nor as its three factors")
        tensors[name] = parts[name] if name in parts else from_factors(*(parts[part] for part in names), shape=shape)
        if tuple(tensors[name].shape) != tuple(shape):
            raise ValueError(f"decompress: {name!r} has shape {tuple(tensors[name].shape)}, expected {tuple(shape)}")
        used |= set(names)
    if odd := sorted(parts.keys() - used)[:3]:
        raise ValueError(f"decompress: {odd} belong to none of the tensors")
    return tensors


def from_factors(u: Tensor, s: Tensor, v: Tensor, *, shape: tuple[int, ...]) -> Tensor:
    """The tensor of this shape. Raises ValueError where the factors are not its own."""
    if len(shape) < 2 or (tuple(u.shape[:1]), tuple(v.shape[1:])) != ((shape[0],), (math.prod(shape[1:]),)):
        raise ValueError(f"factors of {tuple(u.shape)} and {tuple(v.shape)} are not those of a tensor of shape {tuple(shape)}")
    return expand(u, s, v).reshape(shape)


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
