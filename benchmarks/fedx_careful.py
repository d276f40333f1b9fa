"""The yardstick of FedX's step: its local training with SimCLR as a careful person writes it without any framework.

Channels last, fused SGD, one forward for both views and the anchors, each vector scaled to length 1 once, nothing needless. The
nets and the views are fedkd's own: they are what is trained, and no part of what is compared.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TEMPERATURE = 0.1
HEADS = ("projection", "prediction")
Moments = tuple[Tensor, Tensor]
View = Callable[[Tensor, int], Tensor]


def contrast(a: Tensor, b: Tensor) -> Tensor:
    """NT-Xent of unit vectors (B, D)."""
    rows = torch.cat([a, b])
    similarity = (rows @ rows.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    return F.cross_entropy(similarity, torch.arange(len(rows)).roll(len(a)))


def relate(a: Tensor, b: Tensor, anchors: Tensor) -> Tensor:
    """FedX's relational loss of unit vectors (B, D), (B, D) and (A, D), as the official code computes it."""
    log_r = F.log_softmax(torch.cat([a, b]) @ anchors.T / TEMPERATURE, dim=1).view(2, len(a), len(anchors))
    log_m = torch.logaddexp(log_r[0], log_r[1]) - math.log(2)
    return (log_m.exp() * (log_m - log_r)).sum(-1).mean()


def batches(images: Tensor, moments: Moments, size: int, view: View) -> Iterator[Tensor]:
    """Three views (3 * B, C, H, W) a step: two of each image, and one of as many others; the last batch may be smaller."""
    mean, std = moments
    for rows, anchors in zip(torch.randperm(len(images)).split(size), torch.randperm(len(images)).split(size), strict=True):
        chosen = torch.cat([images[rows], images[rows], images[anchors]])
        views = (view(chosen, int(torch.randint(2**31, ()))) - mean) / std
        yield views.contiguous(memory_format=torch.channels_last)


def train_epochs(net: nn.Module, teacher: nn.Module, steps: Iterable[Tensor], lr: float) -> None:
    """One client's turn: FedX with SimCLR on these views, with an optimiser of its own."""
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, weight_decay=1e-5, fused=True)
    for views in steps:
        size = len(views) // 3
        projected = net.heads["projection"](net.encoder(views))
        predicted = net.heads["prediction"](projected[: 2 * size])
        with torch.no_grad():  # the teacher's first view is in no term
            g2, anchors = F.normalize(teacher.heads["projection"](teacher.encoder(views[size:]))).split(size)
        z1, z2, own_anchors = F.normalize(projected).split(size)
        p1, p2 = F.normalize(predicted).split(size)
        loss = contrast(z1, z2) + contrast(p1, g2) + relate(z1, z2, own_anchors) + relate(p1, p2, anchors)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def train(images: Tensor, moments: Moments, size: int, rounds: int, width: int) -> list[tuple[float, float]]:
    """Seconds by the clock, and of processor time, of each round: load the weights, train one epoch, take the weights.

    Args:
        images: (N, C, H, W), bytes.
        moments: mean and standard deviation (1, C, 1, 1).
        size: of a batch.
        rounds: how many.
        width: of the ResNet-18.
    """
    from fedkd.data.views import crop_and_flip
    from fedkd.nets import build_net

    nets = [
        build_net("resnet18", shape=tuple(images.shape[1:]), classes=10, heads=HEADS, options={"width": width}) for _ in "12"
    ]
    (net, teacher), seconds = (nets[0].train(), nets[1].eval().requires_grad_(False)), []
    weights = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    for _ in range(rounds):
        began = time.perf_counter(), time.process_time()
        net.load_state_dict(weights)
        teacher.load_state_dict(weights)
        train_epochs(net, teacher, batches(images, moments, size, crop_and_flip), lr=0.01)
        weights = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        seconds.append((time.perf_counter() - began[0], time.process_time() - began[1]))
    return seconds
