"""What a stale upload counts for, and what it says of a broadcast that its client has not seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from fedkd.knowledge.knowledge import Knowledge, TensorSpec


def weighed(upload: Knowledge, rounds: int, power: float) -> Knowledge:
    """The upload with its weight times (1 + rounds)^-power, the rule of FedBuff with power 0.5.

    >>> weighed(Knowledge(weight=10.0), rounds=3, power=0.5).weight
    5.0
    """
    return replace(upload, weight=upload.weight * (1 + rounds) ** -power) if rounds else upload


def rebased(upload: Knowledge, sent: Knowledge, newest: Knowledge, schema: Mapping[str, TensorSpec]) -> Knowledge:
    """The upload as if its client had begun from the newest broadcast: what it changed is added to that.

    Only floating weights that are broadcast too; those that may not be negative, as variances, stay as they are.
    """
    moved = {
        name: newest.tensors[name] + (tensor - sent.tensors[name]).to(newest.tensors[name].dtype)
        for name, tensor in upload.tensors.items()
        if upload.spaces[name] == "weights" and tensor.is_floating_point() and schema[name].low is None
        if all(each.spaces.get(name) == "weights" and each.tensors[name].shape == tensor.shape for each in (sent, newest))
    }
    return replace(upload, tensors={**upload.tensors, **moved})
