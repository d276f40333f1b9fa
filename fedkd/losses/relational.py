"""Relational distillation of FedX: two views relate alike to a set of anchors. Han et al. 2022, arXiv 2207.09158."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.base.errors import InputError
from fedkd.losses.precision import at_least_float32
from fedkd.losses.rows import unit_rows


def relational_loss(
    a: Tensor,
    b: Tensor,
    anchors: Tensor,
    *,
    temperature: float,
    target_temperature: float,
    divergence: str = "reverse_kl",
    detach_target: bool = False,
) -> Tensor:
    """Divergence between how the views a and b relate to the anchors and their common relation.

    With r_t(x) = softmax_j(cos(x, anchor_j) / t), s = ``temperature``, t = ``target_temperature``::

        m = (r_t(a) + r_t(b)) / 2
        reverse_kl: loss = (KL(m || r_s(a)) + KL(m || r_s(b))) / 2      the official code
        jsd:        loss = (KL(r_s(a) || m) + KL(r_s(b) || m)) / 2      Jensen-Shannon where s = t; the paper's figure

    KL is summed over the anchors and averaged over the batch. Symmetric in a and b. The gradient reaches a, b and the
    anchors, through the relations and (as in the official code) through the target m, unless ``detach_target``.

    Args:
        a: (B, D) one view, any float type; computed in float32 or better, outside autocast, in log space.
        b: (B, D) the other view of the same samples, in the same order.
        anchors: (A, D).
        temperature: > 0, divides the cosines of the predicted relations.
        target_temperature: > 0, divides the cosines of the target.
        divergence: "reverse_kl" or "jsd".
        detach_target: whether m is a constant.

    Returns:
        () float32 or better, at least 0; where both temperatures are equal, 0 for a = b, and jsd at most log 2.

    Raises:
        ValueError: the views differ in shape.
        InputError: an unknown divergence.

    >>> a, b, anchors = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.eye(2)
    >>> t = 1 / math.log(3)  # relations (3/4, 1/4) and (1/4, 3/4), target (1/2, 1/2)
    >>> round(relational_loss(a, b, anchors, temperature=t, target_temperature=t).item(), 4)  # log(4/3) / 2
    0.1438
    >>> loss = relational_loss(a, b, anchors, temperature=t, target_temperature=t, divergence="jsd")
    >>> round(loss.item(), 4)  # 3/4 log(3/2) - 1/4 log 2
    0.1308
    """
    if a.shape != b.shape:
        raise ValueError(f"relational_loss: the views' shapes differ, {tuple(a.shape)} and {tuple(b.shape)}")
    if divergence not in DIVERGENCES:
        raise InputError(f"divergence {divergence!r} is unknown: write {' or '.join(map(repr, DIVERGENCES))}")
    with torch.autocast(a.device.type, enabled=False):
        views = unit_rows(torch.cat([at_least_float32(a), at_least_float32(b)]))  # (2B, D)
        cosines = views @ unit_rows(at_least_float32(anchors)).T  # (2B, A)
        log_r = F.log_softmax(cosines / temperature, dim=1)  # (2B, A)
        same = temperature == target_temperature
        log_views = log_r if same else F.log_softmax(cosines / target_temperature, dim=1)  # (2B, A)
        log_m = torch.logaddexp(*log_views.chunk(2)) - math.log(2)  # (B, A)
        if detach_target:
            log_m = log_m.detach()
        return DIVERGENCES[divergence](log_m, log_r.view(2, *log_m.shape))


def _reverse_kl(log_m: Tensor, log_r: Tensor) -> Tensor:
    """Mean over views and batch of KL(m || r): log_m (B, A), log_r (2, B, A) -> ()."""
    return (log_m.exp() * (log_m - log_r)).sum(-1).mean()


def _jsd(log_m: Tensor, log_r: Tensor) -> Tensor:
    """Mean over views and batch of KL(r || m): log_m (B, A), log_r (2, B, A) -> ()."""
    return (log_r.exp() * (log_r - log_m)).sum(-1).mean()


DIVERGENCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"reverse_kl": _reverse_kl, "jsd": _jsd}
