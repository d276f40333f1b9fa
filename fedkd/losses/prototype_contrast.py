"""Prototypical contrast, of Prototypical Contrastive Learning: Li et al. 2021, arXiv 2005.04966, equations 11 and 12."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.losses.precision import at_least_float32
from fedkd.losses.rows import unit_rows
from fedkd.losses.shapes import require_shape

#: A mean distance of unit rows below this is the rounding of equal rows.
ROUNDING = 1e-6


def proto_nce_loss(embeddings: Tensor, prototypes: Tensor, labels: Tensor, concentrations: Tensor) -> Tensor:
    """Cross-entropy of telling each sample's prototype from the others: the term that ProtoNCE (equation 11) adds to InfoNCE.

    With rows of length 1, embeddings v, prototypes c and concentrations phi::

        loss = mean_b -log( exp(v_b . c_{y_b} / phi_{y_b}) / sum_j exp(v_b . c_j / phi_j) )

    Args:
        embeddings: (B, D), any float type and length; computed in float32 or better, outside autocast.
        prototypes: (C, D), one row a cluster, of any length; a constant here.
        labels: (B,) int64, the cluster of each sample, in 0 .. C - 1.
        concentrations: (C,) > 0, each prototype's own temperature; a constant here.

    Returns:
        () float32 or better, at least 0.

    Raises:
        ValueError: the embeddings and prototypes are not of one width, or another shape does not fit.

    >>> two = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> loss = proto_nce_loss(two[:1], 3 * two, torch.tensor([0]), torch.tensor([0.5, 1.0]))
    >>> round(loss.item(), 4)  # log(1 + exp(-2))
    0.1269
    """
    require_shape("proto_nce_loss: embeddings", embeddings, "B", "D")
    require_shape("proto_nce_loss: prototypes", prototypes, "C", embeddings.shape[1])
    require_shape("proto_nce_loss: labels", labels, len(embeddings))
    require_shape("proto_nce_loss: concentrations", concentrations, len(prototypes))
    with torch.autocast(embeddings.device.type, enabled=False):
        rows = unit_rows(at_least_float32(embeddings))  # (B, D)
        columns = unit_rows(at_least_float32(prototypes.detach())).to(rows.dtype)  # (C, D)
        return F.cross_entropy(rows @ columns.T / at_least_float32(concentrations.detach()), labels)


def prototype_concentrations(
    embeddings: Tensor, centroids: Tensor, labels: Tensor, *, temperature: float, alpha: float = 10.0
) -> Tensor:
    """How widely each cluster is spread, as the temperature of its prototype: equation 12, treated as in the authors' code.

    With Z samples in a cluster phi = sum ||v - c|| / (Z log(Z + alpha)). A cluster of one sample or none has no spread to
    measure: it gets the largest phi. What lies beyond the 10th and 90th percentile of all phi is moved there; then they are
    scaled to a mean of ``temperature``. Deviation: so is a cluster of samples that are all equal, whose phi of 0 would be
    divided by; where all clusters are such, every phi is the temperature.

    Args:
        embeddings: (N, D) unit rows.
        centroids: (C, D) means of the clusters, not of length 1.
        labels: (N,) int64, the cluster of each row, in 0 .. C - 1.
        temperature: > 0, the mean of what is returned.
        alpha: >= 0, keeps phi of small clusters small enough.

    Returns:
        (C,) > 0, float32 or better.

    >>> rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    >>> prototype_concentrations(rows, torch.tensor([[0.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0, 1]), temperature=0.1)
    tensor([0.1000, 0.1000])
    """
    require_shape("prototype_concentrations: embeddings", embeddings, "N", "D")
    require_shape("prototype_concentrations: centroids", centroids, "C", embeddings.shape[1])
    require_shape("prototype_concentrations: labels", labels, len(embeddings))
    embeddings, centroids = at_least_float32(embeddings.detach()), at_least_float32(centroids.detach())
    sizes = torch.bincount(labels, minlength=len(centroids))  # (C,)
    distances = torch.linalg.vector_norm(embeddings - centroids[labels], dim=1)  # (N,)
    means = distances.new_zeros(len(centroids)).index_add(0, labels, distances) / sizes.clamp(min=1)  # (C,)
    measured = (sizes > 1) & (means > ROUNDING)
    spread = torch.where(measured, means / torch.log(sizes.clamp(min=2) + alpha), 0.0)  # (C,)
    spread = torch.where(measured, spread, spread.max())
    low, high = torch.quantile(spread, spread.new_tensor([0.1, 0.9]))
    spread = spread.clamp(low, high)
    mean = spread.mean()
    return torch.where(mean > ROUNDING, temperature * spread / mean, temperature)
