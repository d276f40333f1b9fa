"""How good are features? A linear classifier on frozen ones, and weighted nearest neighbours."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SIMILARITIES = 1 << 24
"""How many similarities weighted_knn holds at a time: 64 MiB of float32."""


@dataclass(frozen=True, eq=False)
class Probe:
    """A trained linear classifier of features."""

    weight: Tensor  # (C, D)
    bias: Tensor  # (C,)

    def logits(self, features: Tensor) -> Tensor:
        """Logits (N, C) of features (N, D) of any float type."""
        with torch.autocast(features.device.type, enabled=False):
            return F.linear(features.to(self.weight.dtype), self.weight, self.bias)


@torch.no_grad()
def linear_probe(
    features: Tensor,
    labels: Tensor,
    *,
    classes: int,
    generator: torch.Generator,
    epochs: int = 100,
    batch_size: int = 64,
    lr: float = 1e-3,
    weight_decay: float = 1e-6,
) -> Probe:
    """Train a fresh ``Linear(D, classes)`` with Adam on cross-entropy: linear evaluation as the FedX code does it.

    Every epoch is a new shuffle, its short last batch included. The gradient of softmax regression is written out:
    it is ``(softmax(logits) - one_hot).T @ features / B``, and the bias is the weight of a feature that is 1. So is Adam:
    a step of torch's optimiser costs as much as all else that is done to a batch.

    Args:
        features: (N, D) of samples, by a frozen net, any float type, on any device; computed in float32.
        labels: (N,) int64 in 0 .. classes - 1.
        classes: C.
        generator: on the CPU; draws the initial weights and the shuffles.
        epochs, batch_size, lr, weight_decay: of Adam; the defaults are the FedX code's.

    Raises:
        ValueError: there are no features.

    >>> features = 9 * torch.eye(2).repeat(20, 1)  # two points, one per class
    >>> probe = linear_probe(features, torch.tensor([0, 1] * 20), classes=2, generator=torch.Generator())
    >>> probe.logits(torch.eye(2)).argmax(1)
    tensor([0, 1])
    """
    if not len(features):
        raise ValueError("linear_probe: there are no features to train on")
    inputs = F.pad(features.float(), (0, 1), value=1.0)  # (N, D + 1)
    bound = 1 / math.sqrt(features.shape[1])  # of nn.Linear's initial weights and biases
    weight = torch.empty(classes, inputs.shape[1]).uniform_(-bound, bound, generator=generator).to(inputs.device)
    targets = F.one_hot(labels, classes).float()  # (N, C)
    adam, gradient = _Adam(weight, lr), torch.empty_like(weight)
    with torch.autocast(inputs.device.type, enabled=False):
        for _ in range(epochs):
            order = torch.randperm(len(inputs), generator=generator).to(inputs.device)
            for batch, y in zip(order.split(batch_size), targets[order].split(batch_size), strict=True):  # (B,), (B, C)
                x = inputs.index_select(0, batch)  # (B, D + 1)
                error = F.softmax(weight @ x.T, dim=0).sub_(y.T)  # (C, B): faster than (B, C)
                torch.addmm(weight, error, x, beta=weight_decay, alpha=1 / len(x), out=gradient)
                adam.step(gradient)
    return Probe(weight[:, :-1].contiguous(), weight[:, -1].contiguous())


class _Adam:
    """Adam of one tensor, torch's to rounding. Kingma and Ba 2014, arXiv 1412.6980."""

    def __init__(self, weight: Tensor, lr: float, *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> None:
        self._weight, self._lr, self._betas, self._eps, self._steps = weight, lr, betas, eps, 0
        self._mean, self._square, self._scale = torch.zeros_like(weight), torch.zeros_like(weight), torch.empty_like(weight)

    def step(self, gradient: Tensor) -> None:
        """Move the weight; the means of gradients and of their squares start at 0, which is corrected for."""
        first, second = self._betas
        self._steps += 1
        self._mean.lerp_(gradient, 1 - first)
        self._square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        root = math.sqrt(1 - second**self._steps)
        torch.sqrt(self._square, out=self._scale).add_(self._eps * root)
        self._weight.addcdiv_(self._mean, self._scale, value=-self._lr * root / (1 - first**self._steps))


@torch.no_grad()
def weighted_knn(
    train_features: Tensor,
    train_labels: Tensor,
    features: Tensor,
    *,
    classes: int,
    neighbours: int = 200,
    temperature: float = 0.1,
) -> Tensor:
    """Labels predicted by the nearest training samples, each voting exp(cosine / temperature) for its class.

    The monitor of Wu et al. 2018, arXiv 1805.01978. Votes are scaled to sum to 1, which changes no prediction and
    stays finite at any temperature.

    Args:
        train_features: (N, D), any float type; computed in float32.
        train_labels: (N,) int64 in 0 .. classes - 1.
        features: (M, D), to be predicted.
        classes: C.
        neighbours: how many vote; all N where there are fewer.
        temperature: > 0.

    Returns:
        (M,) int64.

    Raises:
        ValueError: there are no training features.

    >>> train = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    >>> weighted_knn(train, torch.tensor([4, 4, 7]), torch.tensor([[9.0, 1.0], [0.0, 3.0]]), classes=10)
    tensor([4, 7])
    """
    if not len(train_features):
        raise ValueError("weighted_knn: there are no training features")
    keys = F.normalize(train_features.float(), dim=1).T  # (D, N)
    queries = F.normalize(features.float(), dim=1)  # (M, D)
    predictions = []
    for chunk in torch.split(queries, max(1, SIMILARITIES // len(train_features))):
        cosines, nearest = (chunk @ keys).topk(min(neighbours, len(train_features)), dim=1)  # (m, k)
        weights = F.softmax(cosines / temperature, dim=1)
        votes = weights.new_zeros(len(chunk), classes).scatter_add_(1, train_labels[nearest], weights)
        predictions.append(votes.argmax(1))
    return torch.cat(predictions)
