"""The first right singular vectors of a matrix, with a gradient that stays finite where singular values are equal."""

from __future__ import annotations

import torch
from torch import Tensor


def right_singular_vectors(matrices: Tensor, count: int) -> Tensor:
    """The ``count`` first right singular vectors, their signs as LAPACK has them; first derivatives only.

    The gradient of ``torch.linalg.svd`` is infinite, or not a number, as soon as *any* two singular values are equal, for
    instance where two channels are dead. By perturbation theory a vector v_i = v moves with its matrix A as::

        dv_i = sum over j != i of v_j v_j^T d(A^T A) v_i / (sigma_i^2 - sigma_j^2)

    where the directions outside the row space have sigma = 0. Here a term whose denominator is 0 to rounding is left out: in
    the plane of two equal singular values v_i has no direction of its own. All other terms are exact.

    Args:
        matrices: (B, m, n), float32 or float64.
        count: how many; fewer are returned where min(m, n) is less.

    Returns:
        (B, n, min(count, m, n)), columns of length 1, by falling singular value.

    >>> vectors = right_singular_vectors(torch.tensor([[[0.0, 0.0], [3.0, 4.0]]]), 1)
    >>> [round(component, 4) for component in vectors.abs().flatten().tolist()]
    [0.6, 0.8]
    """
    with torch.no_grad():
        _, values, transposed = torch.linalg.svd(matrices, full_matrices=False)
        basis = transposed.mT  # (B, n, r)
        vectors: Tensor = basis[:, :, :count]  # (B, n, k)
        largest = values[:, :1].clamp(
            min=torch.finfo(values.dtype).tiny
        )  # (B, 1); vectors have no scale, squares would overflow
        squares = (values / largest).square()  # (B, r)
        own = squares[:, None, :count]  # (B, 1, k)
        gap = _reciprocal(own - squares[:, :, None])  # (B, r, k)
        gap_outside = _reciprocal(own)  # (B, 1, k), to the directions of sigma = 0
    matrices = matrices / largest[:, :, None]
    product = matrices.mT @ (matrices @ vectors)  # (B, n, k): A^T A v, the only place where A has a gradient
    inside = basis.mT @ product  # (B, r, k)
    turned: Tensor = basis @ (gap * inside) + (product - basis @ inside) * gap_outside  # (B, n, k)
    moved: Tensor = turned - turned.detach()  # 0, with the gradient of v
    return vectors + moved


def _reciprocal(gaps: Tensor) -> Tensor:
    """1 / gap between squares of at most 1, and 0 where the gap is 0 to rounding."""
    return torch.where(gaps.abs() > torch.finfo(gaps.dtype).eps, 1 / gaps, 0.0)
