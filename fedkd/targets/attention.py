"""Attention over peers: each has a target of its own. Chen et al. 2020, arXiv 1912.00350, OKDDip."""

from __future__ import annotations

import torch
from torch import Tensor

from fedkd.targets.target import Target
from fedkd.targets.teachers import teacher_logits


def attention(logits: Tensor, queries: Tensor, keys: Tensor) -> Target:
    """For every peer and sample the peers' logits, weighted by how its query meets their keys::

        A_ab = exp(q_a . k_b) / sum_c exp(q_a . k_c)
        t_a  = sum_b A_ab z_b

    A peer attends to itself too, and products are not scaled by the root of D. The gradient reaches queries and keys, whose
    maps learn by nothing else; the logits are constants. In the official code nothing is: there a peer's loss pulls the other
    peers' logits too. Products grow with D: large features make A one-hot, and its gradient vanish. Uses no labels.

    Args:
        logits: (K, B, C) of K >= 1 peers, any float type; constants.
        queries: (K, B, D), peer a's projected features, row by row; computed in float32 or better, outside autocast.
        keys: (K, B, D), with another projection.

    Returns:
        logits (K, B, C), one target a peer, float32 or better.

    Raises:
        ValueError: logits of another number of dimensions, or of no peer; queries or keys of other peers or samples.

    >>> logits = torch.tensor([[[0.0, 0.0]], [[5.0, 10.0]]])
    >>> queries = torch.tensor([[[0.0]], [[1.0]]])
    >>> keys = torch.tensor([[[0.0]], [[4.0]]]).log1p()  # products 0, 0 and 0, log 5: shares 1/2, 1/2 and 1/6, 5/6
    >>> attention(logits, queries, keys).logits().squeeze(1)
    tensor([[2.5000, 5.0000],
            [4.1667, 8.3333]])
    """
    constants = teacher_logits("attention", logits)
    if queries.shape != keys.shape or queries.dim() != 3 or queries.shape[:2] != logits.shape[:2]:
        shapes = f"{tuple(queries.shape)} and {tuple(keys.shape)}"
        raise ValueError(f"attention: queries and keys are ({', '.join(map(str, logits.shape[:2]))}, D), not {shapes}")
    with torch.autocast(logits.device.type, enabled=False):
        own, others = (tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in (queries, keys))
        shares = torch.einsum("and,bnd->nab", own, others).softmax(-1)  # (B, K, K)
        return Target(torch.einsum("nab,bnc->anc", shares, constants.to(shares.dtype)), "logits")
