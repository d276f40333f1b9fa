"""The proximal term of FedProx: Li et al. 2018, arXiv 1812.06127, equation 2."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.losses.precision import at_least_float32


def proximal_term(net: nn.Module, reference: Mapping[str, Tensor]) -> Tensor:
    """Half the squared distance of a net from reference weights; the caller multiplies it by mu::

        1/2 * sum over trainable parameters p of || p - reference[name of p] ||^2

    Frozen parameters and buffers are left out. The gradient reaches the net only; the reference is a constant.

    Args:
        net: any module.
        reference: by parameter name, of the parameters' shapes, for instance a state_dict; further names do no harm.

    Returns:
        () float32 or better; 0.0 for a net with nothing to train.

    Raises:
        ValueError: the reference lacks a parameter or has it in another shape.

    >>> net = nn.Linear(2, 1)
    >>> moved = {name: (parameter - 2.0).detach() for name, parameter in net.named_parameters()}
    >>> round(proximal_term(net, moved).item(), 4)  # three parameters, each 2 away: 3 * 4 / 2
    6.0
    """
    squares = []
    for name, parameter in net.named_parameters():
        if not parameter.requires_grad:
            continue
        if name not in reference or reference[name].shape != parameter.shape:
            found = tuple(reference[name].shape) if name in reference else "nothing"
            raise ValueError(f"proximal_term: {name!r} is {tuple(parameter.shape)}; the reference has {found}")
        target = at_least_float32(reference[name].detach())
        squares.append(F.mse_loss(at_least_float32(parameter), target, reduction="sum"))
    return 0.5 * torch.stack(squares).sum() if squares else torch.zeros(())
