"""Convex minimisation over shares, numbers between 0 and a cap that sum to one, by a primal-dual interior-point method."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fedkd.targets.line_search import shortened

_STEPS = 500  # about 15 are needed, more where the objective is nearly a maximum of planes
_APART = 100.0  # how many times a multiplier may differ from what the central path has


class Objective(NamedTuple):
    """N convex functions of K shares, in float64, scaled so that the gradients' entries are near 1."""

    value: Callable[[Tensor], Tensor]  # points (N, K) -> (N, 1)
    derivatives: Callable[[Tensor], tuple[Tensor, Tensor]]  # -> gradient (N, K), Hessian (N, K, K)


def minimise(objective: Objective, start: Tensor, cap: float = 1.0, *, tolerance: float = 1e-10) -> Tensor:
    """For every problem the x that minimises f(x) subject to 0 <= x_k <= cap and sum_k x_k = 1.

    Newton's method on the conditions of optimality, with multipliers z and w of the bounds: the products z x and w (cap - x)
    are all driven to one number mu, and mu to 0, until ``optimality_gap`` is within the tolerance. Steps never leave the
    inside. Where the minimum is not one point, this ends in the middle of them all, so equal teachers share equally.

    Args:
        objective: of N problems.
        start: (N, K) float64, a point inside: 1 / K each will do.
        cap: > 1 / K.
        tolerance: of the gap; the shares' own errors are about its root where the minimum is flat, else about its size.

    Returns:
        (N, K) float64, inside; what should be on a bound misses it by little.

    >>> towards = torch.tensor([[0.5, 0.4, -0.6]]).double()
    >>> nearest = Objective(
    ...     value=lambda x: ((x - towards) ** 2).sum(-1, keepdim=True) / 2,
    ...     derivatives=lambda x: (x - towards, torch.eye(3)[None]),
    ... )
    >>> start = torch.full((1, 3), 1 / 3).double()
    >>> minimise(nearest, start).round(decimals=6).abs(), minimise(nearest, start, cap=0.5).round(decimals=6).abs()
    (tensor([[0.5500, 0.4500, 0.0000]], dtype=torch.float64), tensor([[0.5000, 0.5000, 0.0000]], dtype=torch.float64))
    """
    x = start
    mu = torch.full_like(x[:, :1], torch.inf)  # (N, 1)
    lower, upper = torch.zeros_like(x), torch.zeros_like(x)  # (N, K), the multipliers z of x >= 0 and w of x <= cap
    for _ in range(_STEPS):
        gradient, hessian = objective.derivatives(x)
        gap = optimality_gap(x, gradient, cap)  # (N, 1)
        going = gap > tolerance
        if not bool(going.any()):
            break
        # The point of the central path that belongs to mu has a gap below 2 K mu: this aims at a tenth of today's.
        mu = torch.minimum(mu, 0.1 * gap.clamp_min(tolerance) / (2 * x.shape[1]))
        lower, upper = _near(lower, mu / x), _near(upper, mu / (cap - x))
        downhill = mu / x - mu / (cap - x) - gradient  # of the barrier function f(x) - mu sum_k log x_k (cap - x_k)
        step = _newton_step(hessian + torch.diag_embed(lower / x + upper / (cap - x)), downhill, 1 - x.sum(-1, keepdim=True))
        lower_step = mu / x - lower - lower / x * step
        upper_step = mu / (cap - x) - upper + upper / (cap - x) * step
        longest = going * torch.minimum(_until_boundary(x, step), _until_boundary(cap - x, -step))
        barrier = _barrier(objective, mu, cap)
        x = x + shortened(barrier, x, step, -(downhill * step).sum(-1, keepdim=True), longest) * step
        lower = lower + _until_boundary(lower, lower_step) * lower_step
        upper = upper + _until_boundary(upper, upper_step) * upper_step
    return x


def optimality_gap(x: Tensor, gradient: Tensor, cap: float = 1.0) -> Tensor:
    """How far f(x) is above the minimum, at most: x . gradient less the least that shares can make of it (N, 1).

    It is 0 where x (N, K) is optimal, and only there. The least fills the entries of smallest gradient up to the cap, in turn.

    >>> optimality_gap(torch.tensor([[0.5, 0.5]]), torch.tensor([[3.0, 1.0]]), cap=0.75)  # 2 - (3/4 + 3/4)
    tensor([[0.5000]])
    """
    ranks = torch.arange(x.shape[1], dtype=x.dtype, device=x.device)
    fills = (1 - cap * ranks).clamp(0, cap)  # (K,)
    return (x * gradient - fills * gradient.sort(-1).values).sum(-1, keepdim=True)


def _newton_step(matrix: Tensor, downhill: Tensor, missing: Tensor) -> Tensor:
    """The minimum of the quadratic model whose entries sum to what x is missing: (N, K, K), (N, K), (N, 1) -> (N, K)."""
    right = torch.stack([downhill, torch.ones_like(downhill)], -1)  # (N, K, 2)
    # Steps along which the sum changes are of no interest: adding 1 makes them stiff, where the matrix is nearly singular.
    free, level = torch.linalg.solve(matrix + 1, right).unbind(-1)  # (N, K) each
    step: Tensor = free + level * (missing - free.sum(-1, keepdim=True)) / level.sum(-1, keepdim=True)
    return step


def _barrier(objective: Objective, mu: Tensor, cap: float) -> Callable[[Tensor], Tensor]:
    return lambda x: objective.value(x) - mu * (x.log() + (cap - x).log()).sum(-1, keepdim=True)


def _near(multiplier: Tensor, central: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(multiplier, central / _APART), central * _APART)


def _until_boundary(slack: Tensor, step: Tensor) -> Tensor:
    """The length, at most 1, at which the step leaves a half percent of every slack > 0: (N, K) each -> (N, 1)."""
    return torch.where(step < 0, -0.995 * slack / step, 1.0).amin(-1, keepdim=True).clamp_max(1)
