"""Supervised contrastive learning: Khosla et al. 2020, arXiv 2004.11362, equation 2 (L_out)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.losses.off_diagonal import off_diagonal
from fedkd.losses.precision import at_least_float32
from fedkd.losses.rows import unit_rows
from fedkd.losses.shapes import require_shape


def supcon_loss(embeddings: Tensor, labels: Tensor, *, temperature: float = 0.07) -> Tensor:
    """Each sample is drawn to all others of its class, and away from the rest of the batch.

    With u the rows of length 1, s_ij = u_i . u_j / temperature, and P(i) the other rows with i's label::

        loss = mean_{i: P(i) not empty}  mean_{p in P(i)}  -log( exp s_ip / sum_{j != i} exp s_ij )

    As in the authors' code with its base temperature equal to the temperature, so without a factor. Where that code gave NaN at
    first and counts 0 later, an anchor without a positive is left out of the mean here. It still is a negative of the others.
    Several views of a batch are stacked rows with repeated labels. The gradient reaches the embeddings as anchors and as
    candidates.

    Args:
        embeddings: (B, D), any float type and length; computed in float32 or better, outside autocast.
        labels: (B,) class ids; also ids of images, which makes it the self-supervised loss.
        temperature: > 0, divides cosine similarities.

    Returns:
        () float32 or better, at least 0; 0 with a gradient of 0 where no two labels agree.

    Raises:
        ValueError: embeddings are not (B, D), or there is not one label for each.

    >>> rows = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])  # the third has no positive
    >>> round(supcon_loss(rows, torch.tensor([0, 0, 1]), temperature=1.0).item(), 4)  # log(e + 1) - 1
    0.3133
    """
    require_shape("supcon_loss: embeddings", embeddings, "B", "D")
    require_shape("supcon_loss: labels", labels, len(embeddings))
    with torch.autocast(embeddings.device.type, enabled=False):
        rows = unit_rows(at_least_float32(embeddings))  # (B, D)
        return contrast_by_label(rows @ rows.T / temperature, labels)


def contrast_by_label(similarity: Tensor, labels: Tensor) -> Tensor:
    """The loss above from a similarity matrix (B, B), rows anchors, columns candidates; the diagonal is not looked at.

    >>> contrast_by_label(torch.zeros(3, 3), torch.tensor([5, 5, 5])).item() == torch.tensor(2.0).log().item()
    True
    """
    log_probability = F.log_softmax(off_diagonal(similarity), dim=1)  # (B, B - 1)
    positive = off_diagonal(labels[:, None] == labels)  # (B, B - 1)
    count = positive.sum(1)  # (B,)
    by_anchor = (log_probability * positive).sum(1) / count.clamp(min=1)  # (B,), 0 without a positive
    return -by_anchor.sum() / count.count_nonzero().clamp(min=1)
