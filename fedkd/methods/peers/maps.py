"""Feature maps that peers tell each other: their shapes, which all must share, and one's place among those of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fedkd.base.errors import InputError, under
from fedkd.base.inputs import zeros
from fedkd.experiment.algorithm.node import Node
from fedkd.experiment.algorithm.settings import Settings
from fedkd.knowledge.knowledge import Knowledge
from fedkd.methods.branches import example_input
from fedkd.methods.peers.lockstep import BESIDE
from fedkd.nets import ZOO
from fedkd.nets.zoo import zoo_encoder

#: (c, h, w)
Shape = tuple[int, int, int]


def map_shapes(node: Node, architecture: str = "") -> list[Shape]:
    """(c, h, w) of every feature map of a net, first to last; InputError where it has none.

    Args:
        node: where it is asked.
        architecture: its name; default, that of the net that all clients have.
    """
    name = architecture or node.experiment.architectures[0]
    return node.live(f"shapes of maps of {name}", lambda: _map_shapes(node, name))


def _map_shapes(node: Node, name: str) -> list[Shape]:
    with torch.no_grad():
        maps = node.net(f"shapes of maps of {name}", architecture=name).eval().outputs(example_input(node)).maps
    check_number(name, maps)
    return [(held.shape[1], held.shape[2], held.shape[3]) for held in maps]


def common_shapes(node: Node) -> list[Shape]:
    """For each map, counted from the last, the fewest channels, the smallest height and width of all clients' nets."""
    shapes_of_all = [map_shapes(node, name) for name in node.experiment.architectures]
    maps = min(map(len, shapes_of_all))
    common = []
    for shapes in zip(*(own[-maps:] for own in shapes_of_all), strict=True):
        channels, height, width = (min(sides) for sides in zip(*shapes, strict=True))
        common.append((channels, height, width))
    return common


def check_maps(experiment: Settings, least: int = 1) -> None:
    """InputError where a net of the zoo has fewer feature maps; of a user's it shows when that is built."""
    for name in set(experiment.architectures) & ZOO.keys():
        with under("nets"), torch.device("meta"):
            encoder = zoo_encoder(name, experiment.net_options.get(name, {}))
            example = zeros(encoder.example_shape, 1, tokens=encoder.example_vocabulary > 0)
            check_number(name, encoder.stages(example)[0], least)


def check_number(name: str, maps: Sequence[Tensor], least: int = 1) -> None:
    """InputError where a net gives fewer feature maps."""
    if len(maps) < least:
        raise InputError(f"net {name!r} has {len(maps)} feature maps, not {least} or more: take a cnn, cnn1d or resnet18")


def check_batches(name: str, experiment: Settings) -> None:
    """InputError where batches of one sample would have to be normalised."""
    if experiment.train.batch_size < 2:
        raise InputError(f"train.batch_size: {name} needs statistics of a batch: set it to 2 or more")


def with_one_map(told: Knowledge, whose: int | None) -> Knowledge:
    """What a peer hears that is to know one map only: all logits, and that map beside them, as "map", if it is there.

    Args:
        told: what ``gather`` made of all peers' "logits" and "map".
        whose: the peer whose map it is; None: nobody's.
    """
    if "map" not in told.tensors:
        return told
    logits = replace(told, tensors={"logits": told.tensors["logits"]}, spaces={"logits": told.spaces["logits"]})
    ids = [int(peer) for peer in str(told.header["peers"]).split(",")]
    if whose not in ids:
        return logits
    return logits.with_tensors("embedding", {BESIDE + "map": told.tensors["map"][ids.index(whose)]})


def in_places(ids: Sequence[int], maps: Tensor, peers: int) -> Tensor:
    """The maps of so many peers side by side, each in its peer's place; zeros for who is missing.

    Args:
        ids: the peers whose maps these are, from 0.
        maps: (n, B, ...), of these peers, in this order.
        peers: K.

    Returns:
        (B, K, ...); gradient through the maps.

    >>> in_places([2, 0], torch.tensor([[[5.0]], [[7.0]]]), 3).tolist()
    [[[7.0], [0.0], [5.0]]]
    """
    held = dict(zip(ids, maps.unbind(), strict=True))
    missing = torch.zeros_like(maps[0])
    return torch.stack([held.get(peer, missing) for peer in range(peers)], 1)
