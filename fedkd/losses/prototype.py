"""The prototype term of FedProto: Tan et al. 2022, arXiv 2105.00243, with the distance of the authors' code."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.losses.precision import at_least_float32


def prototype_loss(features: Tensor, prototypes: Tensor, labels: Tensor, known: Tensor) -> Tensor:
    """Mean squared difference between features and the prototype of their class, over elements and over samples.

    Samples whose class has no prototype are left out of sum and count; the authors' code counts them, as 0. The paper writes a
    distance; that code takes the element mean, which is D times smaller than the squared distance. The gradient reaches the
    features only.

    Args:
        features: (B, D), any float type; computed in float32 or better.
        prototypes: (C, D), one row a class; rows of unknown classes may hold anything. A constant here.
        labels: (B,) int64 class ids in 0 .. C - 1.
        known: (C,) bool, whether the class has a prototype.

    Returns:
        () float32 or better, at least 0; exactly 0, with a gradient of 0, where no sample's class has a prototype.

    Raises:
        ValueError: features and prototypes differ in width.
        IndexError: a label is not a class id.

    >>> features, prototypes = torch.tensor([[1.0, 2.0], [5.0, 5.0]]), torch.zeros(2, 2)
    >>> prototype_loss(features, prototypes, torch.tensor([0, 1]), torch.tensor([True, False])).item()  # (1 + 4) / 2
    2.5
    """
    if features.shape[1] != prototypes.shape[1]:
        raise ValueError(f"prototype_loss: features have {features.shape[1]} columns, prototypes {prototypes.shape[1]}")
    features = at_least_float32(features)
    targets = F.embedding(labels, at_least_float32(prototypes.detach()))  # (B, D)
    taught = known[labels][:, None]  # (B, 1)
    targets = torch.where(taught, targets, features.detach())  # a sample without a prototype differs by 0
    elements = taught.sum() * features.shape[1]
    return (features - targets).square().sum() / elements.clamp(min=1)
