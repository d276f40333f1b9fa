"""NT-Xent, the contrastive loss of SimCLR: Chen et al. 2020, arXiv 2002.05709, equation 1."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.losses.precision import at_least_float32
from fedkd.losses.rows import unit_rows


def nt_xent_loss(a: Tensor, b: Tensor, *, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross-entropy between two views of one batch.

    With u the 2B rows of a and b, each of length 1, s_ij = u_i . u_j / temperature, and i+ the other view of row i::

        loss = mean_i -log( exp s_{i,i+} / sum_{j != i} exp s_ij )

    The mean is over all 2B rows. Symmetric in its arguments. Nothing is detached: a view without a graph (a frozen
    teacher's) still counts as anchor and in the denominators, as in FedX.

    Args:
        a: (B, D) one view, any float type; computed in float32 or better, outside autocast.
        b: (B, D) the other view of the same samples, in the same order.
        temperature: > 0, divides cosine similarities.

    Returns:
        () float32 or better, between 0 and log(2B - 1) + 2 / temperature.

    Raises:
        ValueError: the views differ in shape.

    >>> rows = torch.ones(8, 4)
    >>> loss = nt_xent_loss(rows, rows, temperature=0.1)  # no row can be told from another: log(2B - 1)
    >>> bool(torch.isclose(loss, torch.tensor(15.0).log()))
    True
    """
    if a.shape != b.shape:
        raise ValueError(f"nt_xent_loss: the views' shapes differ, {tuple(a.shape)} and {tuple(b.shape)}")
    with torch.autocast(a.device.type, enabled=False):
        rows = unit_rows(torch.cat([at_least_float32(a), at_least_float32(b)]))  # (2B, D)
        similarity = (rows @ rows.T) / temperature  # (2B, 2B)
        similarity.fill_diagonal_(-torch.inf)  # a row is not its own candidate
        partner = torch.arange(len(rows), device=a.device).roll(len(a))  # (2B,)
        return F.cross_entropy(similarity, partner)
