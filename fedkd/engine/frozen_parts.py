"""Before round 1: what is frozen in a net does not travel, so it must be equal wherever the rest of its weights is averaged."""

from __future__ import annotations

import hashlib

import torch

from fedkd.base.randomness import seeded
from fedkd.experiment.algorithm.algorithm import Algorithm
from fedkd.experiment.algorithm.node import Node

#: What a node calls the hash when it joins.
FROZEN = "hash_of_frozen_weights"


def frozen_fact(strategy: Algorithm, node: Node) -> dict[str, str]:
    """The hash of what is frozen in the users' net that all nodes have; nothing of a net of the zoo, or without such a part."""
    name = node.experiment.architectures[0]
    if not strategy.needs.equal_nets or name not in node.user_nets:
        return {}
    with seeded(0):
        net = node.fresh_net(architecture=name)
    if not net.left_out:
        return {}
    whole, digest = net.whole_state(), hashlib.blake2b(digest_size=16)
    for key in sorted(net.left_out):
        values = whole[key].detach().cpu().contiguous()
        digest.update(repr((key, str(values.dtype), tuple(values.shape))).encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return {FROZEN: digest.hexdigest()}
