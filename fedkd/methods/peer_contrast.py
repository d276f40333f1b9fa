"""What peers learn from each other's embeddings. Yang et al. 2022, arXiv 2104.12565, MCL."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from fedkd.losses import icl_loss, soft_icl_loss, soft_similarity_loss


def pair_losses(mine: Tensor, others: Tensor, labels: Tensor, temperature: float, soft_temperature: float) -> dict[str, Tensor]:
    """The sums over the other peers j of what depends on my embeddings v: ICL(v, v_j), SoftVCL(v, v_j), SoftICL(v, v_j).

    Each is the partial derivative's worth of MCL's sum over all pairs: with others as constants, its gradient in v is that of
    the sum with all embeddings live. SoftVCL(v_j, v), where v teaches, has none.

    Args:
        mine: (B, E), v.
        others: (K - 1, B, E), v_j of the same samples.
        labels: (B,) class ids.
        temperature: tau > 0, divides cosines.
        soft_temperature: T > 0, divides similarities that imitate each other.

    Returns:
        "icl", "soft_vcl" and "soft_icl", () each, at least 0; 0 where there is no other.

    >>> import torch
    >>> same = torch.eye(2)[[0, 0, 1]]  # nothing left to imitate
    >>> losses = pair_losses(same, same[None], torch.tensor([0, 0, 1]), temperature=1.0, soft_temperature=1.0)
    >>> {name: round(loss.item(), 4) for name, loss in losses.items()}  # 2 (log(e + 1) - 1)
    {'icl': 0.6265, 'soft_vcl': 0.0, 'soft_icl': 0.0}
    """
    none = mine.sum() * 0
    soft_vcl = partial(soft_similarity_loss, mine, temperature=soft_temperature, similarity_temperature=temperature)
    soft_icl = partial(soft_icl_loss, mine, temperature=soft_temperature, similarity_temperature=temperature)
    return {
        "icl": sum((icl_loss(mine, other, labels, temperature=temperature) for other in others), none),
        "soft_vcl": sum(map(soft_vcl, others), none),
        "soft_icl": sum(map(soft_icl, others), none),
    }
