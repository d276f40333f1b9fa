"""What a stale upload counts for: an upload whose client has not seen the newest broadcast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from fedkd.knowledge.knowledge import Knowledge, TensorSpec


def discount(rounds: int, power: float) -> float:
    """(1 + rounds)^-power: what is left of an upload that is so many rounds old. FedBuff's rule is the power 0.5.

    >>> discount(0, 0.5), discount(3, 0.5)
    (1.0, 0.5)
    """
    return float((1 + rounds) ** -power)


def weighed(upload: Knowledge, share: float) -> Knowledge:
    """The upload with this share of its weight.

    >>> weighed(Knowledge(weight=10.0), 0.5).weight
    5.0
    """
    return replace(upload, weight=upload.weight * share)


def rebased(
    upload: Knowledge, sent: Knowledge, newest: Knowledge, schema: Mapping[str, TensorSpec], share: float
) -> Knowledge | None:
    """The upload as a step from the newest broadcast: this share of what its client changed is added to that, as in FedBuff.

    Only floating weights that are broadcast too are steps; those that may not be negative, as variances, stay as they are.
    None for an upload that has no such weights.
    """
    moved: dict[str, Tensor] = {}
    for name, tensor in upload.tensors.items():
        steps = upload.spaces[name] == "weights" and tensor.is_floating_point() and schema[name].low is None
        known = all(each.spaces.get(name) == "weights" and each.tensors[name].shape == tensor.shape for each in (sent, newest))
        if steps and known:
            moved[name] = newest.tensors[name] + share * (tensor - sent.tensors[name]).to(newest.tensors[name].dtype)
    return replace(upload, tensors={**upload.tensors, **moved}) if moved else None
