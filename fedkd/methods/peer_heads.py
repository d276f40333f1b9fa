"""What peers put on their nets to be compared by: an embedding head, and classifiers on feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from fedkd.base.errors import InputError, under
from fedkd.experiment.algorithm.client import Client
from fedkd.experiment.experiment import Experiment
from fedkd.losses import cross_entropy_loss, kd_loss
from fedkd.losses.rows import unit_rows
from fedkd.methods.branches import example_image
from fedkd.nets import ZOO, Net, Outputs
from fedkd.nets.encoder import Encoder
from fedkd.nets.options import net_options

#: So many maps that classifiers stand on.
MAPS = 2


def feature_width(net: Net) -> int:
    """D, the width of a net's features. Raises InputError for a user's module that gives logits only."""
    if not isinstance(net.encoder, Encoder):
        raise InputError(f"net {net.architecture!r} gives logits only: subclass fedkd.nets.Encoder for features")
    return net.encoder.out_features


@final
class EmbeddingHead(nn.Module):
    """A point on the unit sphere for features: two linear layers with a ReLU between, then rows of length 1.

    Yang et al. 2022, arXiv 2104.12565, and their code.

    Args:
        features: D.
        width: of the embedding and of the hidden layer.

    >>> rows = EmbeddingHead(64, 128)(torch.ones(5, 64))
    >>> rows.shape, round(rows[0].norm().item(), 4)
    (torch.Size([5, 128]), 1.0)
    """

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) -> (B, width), rows of length 1."""
        return unit_rows(self.layers(features))


@final
class AuxiliaryClassifiers(nn.Module):
    """A small classifier on each of two feature maps: ReLU, 3x3 convolution, ReLU, global average pooling, linear layer.

    Args:
        channels: c of each map; the convolutions have twice as many.
        classes: C.

    >>> AuxiliaryClassifiers((8, 16), 10)((torch.zeros(5, 8, 4, 4), torch.zeros(5, 16, 2, 2))).shape
    torch.Size([5, 2, 10])
    """

    def __init__(self, channels: Sequence[int], classes: int) -> None:
        super().__init__()
        self.classifiers = nn.ModuleList(
            nn.Sequential(
                *(nn.ReLU(), nn.Conv2d(c, 2 * c, 3, padding=1), nn.ReLU()),
                *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * c, classes)),
            )
            for c in channels
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits (B, 2, C) of maps (B, c, h, w) as they are before their ReLU."""
        return torch.stack([classify(held) for classify, held in zip(self.classifiers, maps, strict=True)], 1)


def intermediate(maps: Sequence[Tensor]) -> Sequence[Tensor]:
    """The two maps that classifiers stand on: those before the last, or the last two where there are no more.

    >>> [held.item() for held in intermediate(torch.arange(5.0).unbind())]
    [2.0, 3.0]
    """
    return maps[-MAPS - 1 : -1] if len(maps) > MAPS else maps[-MAPS:]


def all_logits(net: Net, auxiliary: AuxiliaryClassifiers, images: Tensor) -> Tensor:
    """Logits of the two classifiers on maps, then the net's own, in one pass: (B, C, H, W) -> (B, 3, classes)."""
    outputs: Outputs = net.outputs(images)
    return torch.cat([auxiliary(intermediate(outputs.maps)), outputs.logits[:, None]], 1)


def summed_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The sum over heads of their mean cross-entropies with labels (B,): logits (B, heads, C) -> ().

    >>> round(summed_cross_entropy(torch.zeros(2, 3, 10), torch.tensor([3, 7])).item(), 4)  # 3 log 10
    6.9078
    """
    heads = logits.shape[1]
    return heads * cross_entropy_loss(logits.flatten(0, 1), labels.repeat_interleave(heads))


def crossed_distillation(mine: Tensor, others: Tensor, *, temperature: float) -> Tensor:
    """What each of my heads learns from each head of another net, summed over pairs of heads, the mean over the other nets::

        1/(K - 1) sum_j sum_ab T^2 mean_n KL(softmax(z_jb / T) || softmax(z_a / T))

    Args:
        mine: (B, heads, C), z.
        others: (K - 1, B, heads, C), z_j; constants.
        temperature: T > 0.

    Returns:
        () float32 or better, at least 0; 0 where there is no other.

    >>> mine, other = torch.zeros(1, 3, 2), torch.tensor([0.0, 3.0]).log1p().expand(1, 1, 3, 2)  # (1/2, 1/2), (1/5, 4/5)
    >>> round(crossed_distillation(mine, other, temperature=1.0).item(), 4)  # 9 (1/5 log(2/5) + 4/5 log(8/5))
    1.7347
    """
    if not len(others):
        return mine.sum() * 0
    B, heads, C = mine.shape
    pairs = (len(others), B, heads, heads, C)
    students = mine[None, :, :, None].expand(pairs)
    teachers = others[:, :, None].expand(pairs)
    return heads**2 * kd_loss(students.reshape(-1, C), teachers.reshape(-1, C), temperature=temperature)


def auxiliary_classifiers(client: Client, net: Net) -> AuxiliaryClassifiers:
    """A client's own, with fresh weights or as kept in its memory. Raises InputError for a net with fewer than two maps."""

    def build() -> AuxiliaryClassifiers:
        net.eval()  # one image has no batch statistics, and none are to be kept
        with torch.no_grad():
            maps = net.outputs(example_image(client)).maps
        _check(net.architecture, maps)
        return AuxiliaryClassifiers([held.shape[1] for held in intermediate(maps)], client.classes)

    return client.module("auxiliary", build, init="own", keep=True)


def check_maps(experiment: Experiment, *, shape: tuple[int, int, int] = (1, 512, 512)) -> None:
    """InputError where a net of the zoo has fewer than two feature maps; of a user's net that is found out when it is built."""
    for name in set(experiment.architectures) & ZOO.keys():
        with under("nets"), torch.device("meta"):
            encoder = ZOO[name](shape, **net_options(name, ZOO[name], experiment.net_options.get(name, {}), given=1))
            _check(name, encoder.stages(torch.zeros(1, *shape))[0])


def _check(name: str, maps: Sequence[Tensor]) -> None:
    if len(maps) < MAPS:
        raise InputError(f"net {name!r} has {len(maps)} feature maps for {MAPS} classifiers: take a cnn of two or a resnet18")
