"""InfoNCE against a queue, the contrastive loss of MoCo: He et al. 2020, arXiv 1911.05722, equation 1."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.losses.precision import at_least_float32
from fedkd.losses.rows import unit_rows
from fedkd.losses.shapes import require_shape


def info_nce_loss(embeddings: Tensor, positive: Tensor, queue: Tensor, *, temperature: float) -> Tensor:
    """Cross-entropy of telling each query's own key from the keys of a queue.

    With rows of length 1, queries q and keys k::

        s(q, k) = exp(q . k / temperature)
        loss = mean_b -log( s(q_b, k_b) / (s(q_b, k_b) + sum_j s(q_b, queue_j)) )

    Args:
        embeddings: (B, D) queries, any float type and length; computed in float32 or better, outside autocast.
        positive: (B, D) each query's own key; a constant here.
        queue: (Q, D) keys of other samples, Q >= 0; a constant here.
        temperature: > 0, divides cosine similarities.

    Returns:
        () float32 or better, between 0 and log(1 + Q) + 2 / temperature.

    Raises:
        ValueError: the embeddings are not of one width, or queries and keys of another batch.

    >>> query, key, queue = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, -1.0]])
    >>> round(info_nce_loss(query, key, queue, temperature=1.0).item(), 4)  # log(1 + 2 / e)
    0.5514
    """
    require_shape("info_nce_loss: embeddings", embeddings, "B", "D")
    require_shape("info_nce_loss: positive", positive, *embeddings.shape)
    require_shape("info_nce_loss: queue", queue, "Q", embeddings.shape[1])
    with torch.autocast(embeddings.device.type, enabled=False):
        queries = unit_rows(at_least_float32(embeddings))  # (B, D)
        own = unit_rows(at_least_float32(positive.detach()))  # (B, D)
        others = unit_rows(at_least_float32(queue.detach()))  # (Q, D)
        cosines = torch.cat([(queries * own).sum(1, keepdim=True), queries @ others.T], dim=1)  # (B, 1 + Q)
        return F.cross_entropy(cosines / temperature, cosines.new_zeros(len(cosines), dtype=torch.long))
