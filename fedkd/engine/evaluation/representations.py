"""How representations lie on the sphere, and how alike those of several encoders are: pure functions of features.

All are computed in float64 outside autocast: features that nearly agree differ by less than float32 tells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def alignment(a: Tensor, b: Tensor) -> float:
    """How far apart two views of a sample are: the mean squared distance of their unit features, at best 0.

    Wang and Isola 2020, arXiv 2005.10242, with alpha = 2::

        mean_i |a_i / |a_i| - b_i / |b_i||^2

    Args:
        a: (N, D) features of one view of each sample, any float type.
        b: (N, D) of another view of the same samples.

    Returns:
        0 to 4.

    Raises:
        ValueError: there are no samples, or the features are not of the same ones.

    >>> alignment(torch.tensor([[2.0, 0.0], [1.0, 0.0]]), torch.tensor([[5.0, 0.0], [0.0, 3.0]]))  # 0 and 2
    1.0
    """
    if a.dim() != 2 or a.shape != b.shape or not len(a):
        raise ValueError(f"alignment: two views must be of shape (N, D), N >= 1, not {tuple(a.shape)} and {tuple(b.shape)}")
    return float((F.normalize(a.double(), dim=1) - F.normalize(b.double(), dim=1)).square().sum(1).mean())


@torch.no_grad()
def uniformity(features: Tensor) -> float:
    """How evenly features cover the sphere, the lower the better: 0 where all are one point.

    Wang and Isola 2020, arXiv 2005.10242, with t = 2, over pairs of distinct samples, unit rows u::

        log mean_{i < j} exp(-2 |u_i - u_j|^2)

    Args:
        features: (N, D), N >= 2, any float type. N (N - 1) / 2 distances are held at a time.

    Returns:
        -8 to 0.

    Raises:
        ValueError: there are fewer than two samples.

    >>> round(uniformity(torch.tensor([[3.0, 0.0], [0.0, 1.0]])), 6)  # one pair, at a squared distance of 2
    -4.0
    """
    if features.dim() != 2 or len(features) < 2:
        raise ValueError(f"uniformity: features must be of shape (N, D), N >= 2, not {tuple(features.shape)}")
    exponents = -2 * F.pdist(F.normalize(features.double(), dim=1)).square()  # (N (N - 1) / 2,)
    return float(exponents.logsumexp(0)) - math.log(len(exponents))


def linear_cka(x: Tensor, y: Tensor) -> float:
    """How alike two encoders represent the same samples: linear centred kernel alignment, the biased estimator.

    Kornblith et al. 2019, arXiv 1905.00414. With X and Y centred over the samples, and K = X X', L = Y Y'::

        <K, L> / (|K| |L|) = |Y' X|^2 / (|X' X| |Y' Y|)

    in Frobenius norms. It is biased upwards where samples are few and features wide: compare only over the same.

    Args:
        x: (N, D1) features of one encoder, any float type.
        y: (N, D2) of another, of the same samples in the same order.

    Returns:
        0 to 1, 1 for features that are equal up to rotation, shift and scale; NaN where an encoder sees no difference.

    Raises:
        ValueError: the features are not of the same samples.

    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    >>> round(linear_cka(x, 5 * x.flip(1) + 1), 6)
    1.0
    """
    return mean_similarity([x, y])


@torch.no_grad()
def mean_similarity(features: Sequence[Tensor]) -> float:
    """The mean linear CKA over all pairs of encoders, for samples all of them saw. See ``linear_cka``.

    With each encoder's features scaled so that |K_i| = 1, side by side as one matrix Z, there is no loop over pairs::

        sum_ij <K_i, K_j> = |sum_i K_i|^2 = |Z Z'|^2 = |Z' Z|^2

    of which the smaller is computed.

    Args:
        features: of K >= 2 encoders, each (N, D) with a width D of its own, any float type, on one device.

    Returns:
        0 to 1; NaN where an encoder sees no difference between the samples.

    Raises:
        ValueError: there are fewer than two encoders, or their features are not of the same samples.
    """
    shapes = [tuple(each.shape) for each in features]
    if len(features) < 2 or len({shape[0] for shape in shapes}) != 1 or any(len(shape) != 2 for shape in shapes):
        raise ValueError(f"linear CKA: two or more encoders' features must be of shape (N, D) with one N, not {shapes}")
    joined = torch.cat([_unit_kernel(each) for each in features], dim=1)  # (N, sum of D)
    count = len(features)
    return (_kernel_norm(joined) ** 2 - count) / (count * (count - 1))


def _unit_kernel(features: Tensor) -> Tensor:
    """Centred features (N, D) in float64 whose kernel has norm 1; NaN where they differ by no more than rounding."""
    with torch.autocast(features.device.type, enabled=False):
        exact = features.double()
        centred = exact - exact.mean(0)
        rounding = torch.finfo(features.dtype).eps * exact.abs().max()
        return centred / math.sqrt(_kernel_norm(centred)) if bool(centred.abs().max() > rounding) else centred * math.nan


def _kernel_norm(features: Tensor) -> float:
    """The Frobenius norm of the kernel (N, N) of features (N, D), by the smaller of its two sides."""
    samples, width = features.shape
    with torch.autocast(features.device.type, enabled=False):
        return float((features @ features.T if samples < width else features.T @ features).norm())
