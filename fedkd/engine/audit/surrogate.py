"""A surrogate of a client's net, made of nothing but what it said of public samples: kernel ridge regression.

All clients answer the same public samples, so the one matrix that is to be inverted serves all of them: a surrogate of every
shadow costs a product of matrices. Distillation of a net from each table, as attackers in the literature do, costs a training.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: The ridge, of a kernel whose diagonal is 1. The kernel's width is the median distance between two public samples.
RIDGE = 1e-3


def smoother(public: Tensor, candidates: Tensor) -> Tensor:
    """The matrix (N, P) that takes what is said of public samples (P, F) to what a surrogate says of candidates (N, F).

    >>> public = torch.tensor([[0.0], [1.0], [2.0]])
    >>> (smoother(public, public) @ torch.tensor([5.0, 1.0, 5.0], dtype=torch.float64)).round(decimals=1).tolist()
    [5.0, 1.0, 5.0]
    """
    public, candidates = public.double(), candidates.double()
    among = torch.cdist(public, public)  # (P, P)
    apart = among[torch.triu_indices(len(public), len(public), 1).unbind()]
    width = apart.median().clamp(min=1e-12) if len(apart) else torch.ones(())
    kernel = torch.exp(-((among / width) ** 2) / 2)
    towards = torch.exp(-((torch.cdist(candidates, public) / width) ** 2) / 2)  # (N, P)
    ridge = RIDGE * torch.eye(len(public), dtype=torch.float64)
    weights: Tensor = torch.linalg.solve(kernel + ridge, towards.T)  # (P, N)
    return weights.T
