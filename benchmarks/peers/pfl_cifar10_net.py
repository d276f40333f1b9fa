"""The net of pfl's CIFAR-10 benchmark, its "simple_cnn". It needs torch, and nothing of fedkd."""

from __future__ import annotations

from torch import nn


def make_net(shape: tuple[int, ...] = (3, 32, 32), classes: int = 10) -> nn.Sequential:
    """Two convolutions without padding, pooling and a hidden layer, with dropout, and Glorot's weights."""
    side = (shape[1] - 4) // 2
    net = nn.Sequential(
        *(nn.Conv2d(shape[0], 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25)),
        *(nn.Flatten(), nn.Linear(side * side * 64, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, classes)),
    )
    for layer in net:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
    return net
